"""The conductor of a search: from records and events to commands. It knows no Ray; :mod:`tunesearch.engine.hooks` does.

Events are a worker that wants a trial (:meth:`Conductor.next`), a trial's report (:meth:`~Conductor.take`), a trial
whose process raised or died (:meth:`~Conductor.fault`), a signal (:meth:`~Conductor.interrupt`) and the passing of time
(:meth:`~Conductor.look`). Whatever is decided is in the ledger before anybody acts on it.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from tunesearch.engine.asking import Asker
from tunesearch.engine.callback import SearchCallback
from tunesearch.engine.checkpoints import Checkpoints
from tunesearch.engine.clock import SearchClock
from tunesearch.engine.options import SearchOptions
from tunesearch.engine.watchdog import Watchdog
from tunesearch.errors import DiskFull, Halted
from tunesearch.ledger.database import TROUBLE
from tunesearch.ledger.outcomes import Outcome
from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.store import Ledger
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.files import write_text
from tunesearch.strategy.early_stopping import stopper_of

MAX_ATTEMPTS = 3
"""How often a trial is started again after its process or node died."""
ALIKE = 4
"""How many of a session's first trials must fail alike for the search to stop."""
_LOOK = 2.0
"""Seconds between two looks at requests and heartbeats."""
_NUMBERS = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+")
_UNFIT = 5
"""Nodes that may be unfit before the search stops: something is wrong with how they are made."""
_STOPPED = "stopped by hand"


class Conductor:
    """The state of a session, in the driver's process.

    Args:
        ledger: open for driving.
        options: how the search is run.
        callback: told what happens.
        clock: says when the time budget is spent.
        end_process: ends a process on a node, given both and when it began; must return at once.
        fit_nodes: gives Ray's ids of the living nodes that a trial fits on; empty: they are not known.
        confirming: hand out only trials that confirm others; those of the search wait for a resume.

    Attributes:
        running: the trial of each of Ray's trials.
        resume_queue: trials that have begun and wait for a worker, those that go on first.
        interrupted: set by a signal or a request; the search stops at once, its live trials stay live for a resume.
        halted: why the surroundings made the search stop, as far as they did; its live trials stay live, too.
        alike: the error that all of the first trials failed with, as far as they did.
        exhausted: the sampler had nothing new to suggest.
        unfit: Ray's ids of nodes that joined later and cannot run trials; they are given no more.
    """

    def __init__(
        self,
        ledger: Ledger,
        options: SearchOptions,
        callback: SearchCallback,
        *,
        clock: SearchClock | None = None,
        end_process: Callable[[str, int, float], None] = lambda node, pid, created: None,
        fit_nodes: Callable[[], set[str]] = set,
        confirming: bool = False,
    ) -> None:
        self.ledger = ledger
        self.callback = callback
        self.clock = clock or SearchClock(ledger, "seconds")
        self.fit_nodes = fit_nodes
        self.confirming = confirming
        self.interrupted = False
        self.halted = ""
        self.alike = ""
        self.exhausted = False
        self.unfit: list[str] = []
        self.resume_queue: deque[int] = deque(
            record.number for record in ledger.recover() if record.confirms is not None or not confirming
        )
        self.running: dict[str, int] = {}
        self.asker = Asker(ledger)
        self.stopper = stopper_of(ledger)
        self.checkpoints = Checkpoints(ledger, options.keep_checkpoints)
        self.watchdog = Watchdog(
            ledger,
            stall_timeout=options.stall_timeout,
            end_process=end_process,
            on_message=callback.on_message,
        )
        self._begun: list[int] = []
        self._trained = False
        self._next_look = 0.0
        self._looked_at = time.monotonic()
        for record in ledger.trained():
            if record.outcome is not None:
                self.watchdog.forget(record.number)
        self.checkpoints.tidy_all()

    @property
    def ending(self) -> bool:
        """Whether everything is to stop now."""
        return self.interrupted or bool(self.halted or self.alike) or self.clock.is_out

    def interrupt(self) -> None:
        """End the search at once; from a signal."""
        self.interrupted = True

    def halt(self, reason: str) -> None:
        """The surroundings do not allow to go on; from any thread."""
        self.halted = self.halted or reason

    # --------------------------------------------------------------------------------------------------- looking around

    def look(self) -> None:
        """See, every few seconds, what other processes want and whether the running trials are alive."""
        now = time.monotonic()
        if now < self._next_look or self.ending:
            return
        pause = now - self._looked_at - _LOOK
        if pause > _LOOK:
            self.watchdog.excuse(pause)
        self._look()
        self._looked_at = time.monotonic()
        # However long the record, looking takes at most a twentieth of the loop's time.
        self._next_look = self._looked_at + max(_LOOK, 20 * (self._looked_at - now))

    def _look(self) -> None:
        self.clock.tick()
        try:
            self.ledger.poll()
            if not self.ledger.still_mine():
                self.halted = "another process has taken over the search"
        except TROUBLE:  # a database that is away; the next write waits for it or says so
            return
        self.interrupted = self.interrupted or self.ledger.is_to_end
        self.watchdog.check(self.running.values())

    # ------------------------------------------------------------------------------------------------------- giving out

    def next(self, trial_id: str) -> TrialRecord | None:
        """What Ray's trial ``trial_id`` is to train; None: nothing now, and nothing ever if nothing is running."""
        record = None
        try:
            record = None if self.ending else self._next()
            if (
                record is None and not self.ending and not self.running
            ):  # that would be final: was there a late request?
                with contextlib.suppress(*TROUBLE):
                    self.ledger.poll()
                record = self._next()
        except (DiskFull, Halted) as error:
            self.halted = str(error)
        if record is None:
            return None
        with contextlib.suppress(OSError):  # the trial says so, if it matters
            self.ledger.trial_folder(record.number).mkdir(parents=True, exist_ok=True)
        self.watchdog.forget(record.number)
        self.running[trial_id] = record.number
        if record.number not in self._begun:
            self._begun.append(record.number)
        self.callback.on_trial_change(record.number)
        return record

    def _next(self) -> TrialRecord | None:
        """First what was begun, then repeats, then what people asked for, then what the sampler proposes."""
        while self.resume_queue:
            record = self.ledger.trials[self.resume_queue.popleft()]
            if not self.ledger.requests.stops(record.number):
                return record
            self._end(record.number, "cancelled", _STOPPED)
            self.callback.on_trial_change(record.number)
        repeat = self.asker.repeat()
        if repeat is not None or self.confirming:
            return repeat
        wanted = len(self.ledger.counted()) < self.ledger.target
        if not wanted or (self.exhausted and not self.ledger.requests.points()):
            return None
        asked = self.asker.ask()
        self.exhausted = asked is None and len(self.ledger.counted()) < self.ledger.target
        return asked

    def release(self, trial_id: str) -> None:
        """Ray's trial has ended, and its worker is free."""
        self.running.pop(trial_id, None)

    # ------------------------------------------------------------------------------------------------ commit and decide

    def take(self, report: dict[str, Any]) -> bool:
        """Commit one report; whether its trial ends here. What cannot be committed is reported again after a resume."""
        if self.halted:
            return False
        if report["halt"]:
            self.halted = report["halt"]
            return False
        try:
            return self._commit(report)
        except (DiskFull, Halted) as error:
            self.halted = str(error)
            return False

    def _commit(self, report: dict[str, Any]) -> bool:
        number, outcome, message = report["number"], report["outcome"], report["message"]
        if report["metrics"] is not None:
            self._trained = True
            metrics = EpochMetrics.from_dict(report["metrics"])
            if self._stops(metrics, number=number, last=outcome is not None) and outcome is None:
                outcome = "stopped"
        if outcome is None and self.ledger.requests.stops(number):
            outcome, message = "cancelled", _STOPPED
        if outcome is not None:
            self._end(number, outcome, message)
        self.callback.on_trial_change(number)
        return outcome is not None

    def _stops(self, metrics: EpochMetrics, *, number: int, last: bool) -> bool:
        """Commit an epoch with the decision of early stopping on it, unless both are known; gives the decision."""
        record = self.ledger.trials[number]
        if metrics.epoch in record.epochs:
            return record.epochs[metrics.epoch].stopped
        value = self.ledger.running_best(metrics, number=number)
        # A trial that reached its last epoch is complete, whatever a rung would say.
        stopped = record.confirms is None and self.stopper.stops(number, metrics.epoch, value) and not last
        self.ledger.commit_epoch(metrics, number=number, stopped=stopped)
        return stopped

    def cancel_live(self, reason: str) -> None:
        """Close what is still running: the time is up."""
        for record in self.ledger.live():
            self._end(record.number, "cancelled", reason)
            self.callback.on_trial_change(record.number)

    def _end(self, number: int, outcome: Outcome, message: str) -> None:
        self.ledger.end(number, outcome, message)
        self.watchdog.forget(number)
        self.checkpoints.trial_ended(number)

    # ----------------------------------------------------------------------------------------------------------- faults

    def fault(self, number: int, *, lost: bool, text: str, unfit: str = "") -> None:
        """A trial's process raised or died: an error of its own ends it, a lost process is started again.

        Args:
            unfit: Ray's id of the node, where that cannot run trials. It would take every trial that waits, one after
                the other, so it is given no more; trials that Ray had meant for it already may still come.
        """
        if self.ending:  # the trial stays live; its process may have died of our own end
            return
        try:
            if unfit and unfit not in self.unfit:
                self._bar(unfit, text)
                self.resume_queue.append(number)
            elif lost and self.ledger.add_attempt(number) <= MAX_ATTEMPTS:
                self.resume_queue.append(number)
                self.callback.on_message(f"trial {number} lost its process and is started again")
            else:
                lines = [line.strip() for line in text.splitlines() if line.strip()]
                write_text(self.ledger.trial_folder(number) / "error.txt", text)
                self._end(number, "lost" if lost else "failed", lines[-1][:2000] if lines else "")
                self._compare_first()
        except (DiskFull, Halted) as error:
            self.halted = str(error)
        self.callback.on_trial_change(number)

    def _bar(self, node: str, text: str) -> None:
        """Give a node no more trials; halt where none is left, or where something is wrong with how nodes are made."""
        self.unfit.append(node)
        self.callback.on_message(f"a node is given no trials: {text}")
        living = self.fit_nodes()
        if len(self.unfit) >= _UNFIT or (living and living <= set(self.unfit)):
            self.halted = f"no node is fit for trials; the last one: {text}"

    def _compare_first(self) -> None:
        """Stop where the first trials of this session all failed alike: what is broken is not in their parameters."""
        first = [self.ledger.trials[number] for number in self._begun[:ALIKE]]
        if self._trained or len(first) < ALIKE or any(record.outcome not in ("failed", "lost") for record in first):
            return
        if len({_NUMBERS.sub("#", record.message) for record in first}) == 1:
            self.alike = first[0].message or "no message"
