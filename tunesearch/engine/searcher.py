"""Ray Tune's two hooks into the ledger: the searcher hands out trials, the scheduler commits and decides."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.exceptions import RayActorError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from tunesearch.engine.heartbeat import Beat, forget, read_beat
from tunesearch.engine.nodes import unfit_by
from tunesearch.errors import DiskFull, Halted, UnfitNode
from tunesearch.ledger.database import TROUBLE
from tunesearch.ledger.outcomes import Outcome
from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.store import Ledger
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.files import write_text
from tunesearch.strategy.asha import build_stopper

MAX_ATTEMPTS = 3
"""How often a trial is started again after its process or node died."""
ALIKE = 4
"""How many of a session's first trials must fail alike for the search to stop."""
_LOOK = 2.0
"""Seconds between two looks at requests and signs of life."""
_NUMBERS = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+")
_UNFIT = 5
"""Nodes that may be unfit before the search stops: something is wrong with how they are made."""


class Conductor:
    """The one state that both hooks share, in the driver's process.

    Args:
        ledger: open for driving.
        assign: turns a record into the configuration of Ray's trainable.
        changed: told the number of every trial that began, went on or ended; must return at once.
        deadline: ``time.monotonic()`` at which the search ends; None: never.
        keep_checkpoints: how many completed trials keep their weights; None: all.
        stall_timeout: seconds without a sign of life after which a trial's process is ended.
        end_process: ends a process on a node, given both and when it began; must return at once.
        said: told what is worth knowing; must return at once.
        looked: called every few seconds; must return at once.
        nodes: gives Ray's ids of the living nodes that a trial fits on; empty: they are not known.
        confirming: hand out only trials that confirm others; those of the search wait for a resume.

    Attributes:
        interrupted: set by a signal or a request; the search stops at once, its live trials stay live for a resume.
        halted: why the surroundings made the search stop, as far as they did; its live trials stay live, too.
        alike: the error that all of the first trials failed with, as far as they did.
        exhausted: the sampler had nothing new to suggest.
        unfit: Ray's ids of nodes that joined later and cannot run trials; they are given no more.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        assign: Callable[[TrialRecord], dict[str, Any]],
        changed: Callable[[int], None],
        deadline: float | None,
        keep_checkpoints: int | None = None,
        stall_timeout: float = float("inf"),
        end_process: Callable[[str, int, float], None] = lambda node, pid, created: None,
        said: Callable[[str], None] = lambda text: None,
        looked: Callable[[], None] = lambda: None,
        nodes: Callable[[], set[str]] = set,
        confirming: bool = False,
    ) -> None:
        self.ledger = ledger
        self.assign = assign
        self.changed = changed
        self.deadline = deadline
        self.keep_checkpoints = keep_checkpoints
        self.stall_timeout = stall_timeout
        self.end_process = end_process
        self.said = said
        self.looked = looked
        self.nodes = nodes
        self.confirming = confirming
        self.interrupted = False
        self.halted = ""
        self.alike = ""
        self.exhausted = False
        self.unfit: list[str] = []
        self.waiting: deque[int] = deque(
            record.number for record in ledger.recover() if record.confirms is not None or not confirming
        )
        self.running: dict[str, int] = {}
        self.stopper = build_stopper(ledger.experiment)
        self._begun: list[int] = []
        self._trained = False
        self._next_look = 0.0
        self._looked_at = time.monotonic()
        self._beats: dict[int, tuple[Beat | None, float]] = {}
        for record in ledger.trained():
            if record.outcome is not None:
                self._tidy(record.number)
            else:
                self._sweep(record.number)
            for epoch, saved in sorted(record.epochs.items()) if record.confirms is None else ():
                self.stopper.record(record.number, epoch, ledger.larger_is_better(saved.best))
        for number in self._beyond_kept():
            self._drop(number, "best.safetensors")

    @property
    def ending(self) -> bool:
        """Whether everything is to stop now."""
        return self.interrupted or bool(self.halted or self.alike) or self.out_of_time

    @property
    def out_of_time(self) -> bool:
        """Whether the time budget is spent."""
        return self.deadline is not None and time.monotonic() >= self.deadline

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
        pause = now - self._looked_at - _LOOK  # ours, in which no trial got an answer: it is not their silence
        if pause > _LOOK:
            self._beats = {number: (beat, since + pause) for number, (beat, since) in self._beats.items()}
        self._look()
        self._looked_at = time.monotonic()
        # However long the record, looking takes at most a twentieth of the loop's time.
        self._next_look = self._looked_at + max(_LOOK, 20 * (self._looked_at - now))

    def _look(self) -> None:
        self.looked()
        try:
            self.ledger.poll()
            if not self.ledger.still_mine():
                self.halted = "another process has taken over the search"
        except TROUBLE:  # a database that is away; the next write waits for it or says so
            return
        self.interrupted = self.interrupted or self.ledger.is_to_end
        for number in self.running.values():
            self._feel_pulse(number)

    def _feel_pulse(self, number: int) -> None:
        """End the process of a trial whose sign of life has not changed for too long; by our clock, not the node's."""
        beat = read_beat(self.ledger.trial_folder(number))
        known, since = self._beats.get(number, (None, 0.0))
        if beat is None:  # it waits for its node, or is just writing
            return
        if beat != known:
            self._beats[number] = (beat, time.monotonic())
        elif time.monotonic() - since > self.stall_timeout:
            self._beats[number] = (beat, time.monotonic())
            self.said(f"trial {number} shows no sign of life for {self.stall_timeout:.0f} s; its process is ended")
            self.end_process(beat.node, beat.pid, beat.created)

    # ------------------------------------------------------------------------------------------------------- giving out

    def next(self, trial_id: str) -> dict[str, Any] | str | None:
        """A configuration, None while there is nothing to do but wait, or FINISHED, which is final."""
        record = None
        try:
            record = None if self.ending else self._next()
            if record is None and not self.ending and not self.running:  # FINISHED is final: was there a late request?
                with contextlib.suppress(*TROUBLE):
                    self.ledger.poll()
                record = self._next()
        except (DiskFull, Halted) as error:
            self.halted = str(error)
        if record is None:
            return None if self.running else Searcher.FINISHED
        folder = self.ledger.trial_folder(record.number)
        with contextlib.suppress(OSError):  # the trial says so, if it matters
            folder.mkdir(parents=True, exist_ok=True)
        forget(folder)
        self._beats.pop(record.number, None)
        self.running[trial_id] = record.number
        if record.number not in self._begun:
            self._begun.append(record.number)
        self.changed(record.number)
        return self.assign(record)

    def _next(self) -> TrialRecord | None:
        """First what was begun, then repeats, then what people wish for, then what the sampler proposes."""
        while self.waiting:
            record = self.ledger.trials[self.waiting.popleft()]
            if not self.ledger.is_to_stop(record.number):
                return record
            self._end(record.number, "cancelled", _STOPPED)
            self.changed(record.number)
        repeat = self.ledger.repeat()
        if repeat is not None or self.confirming:
            return repeat
        wanted = len(self.ledger.counted()) < self.ledger.target
        if not wanted or (self.exhausted and not self.ledger.wishes()):
            return None
        asked = self.ledger.ask()
        self.exhausted = asked is None and len(self.ledger.counted()) < self.ledger.target
        return asked

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
        record = self.ledger.trials[number]
        if report["metrics"] is not None:
            self._trained = True
            metrics = EpochMetrics.from_dict(report["metrics"])
            if metrics.epoch in record.epochs:
                stopped = record.epochs[metrics.epoch].stopped
            else:
                value = self.ledger.running_best(metrics, number=number)
                # A trial that reached its last epoch is complete, whatever a rung would say.
                searched = record.confirms is None
                stopped = searched and self.stopper.stops(number, metrics.epoch, value) and outcome is None
                self.ledger.commit_epoch(metrics, number=number, stopped=stopped)
            if stopped and outcome is None:
                outcome = "stopped"
        if outcome is None and self.ledger.is_to_stop(number):
            outcome, message = "cancelled", _STOPPED
        if outcome is not None:
            self._end(number, outcome, message)
        self.changed(number)
        return outcome is not None

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
                self.unfit.append(unfit)
                self.waiting.append(number)
                self.said(f"a node is given no trials: {text}")
                if len(self.unfit) >= _UNFIT or ((living := self.nodes()) and living <= set(self.unfit)):
                    self.halted = f"no node is fit for trials; the last one: {text}"
            elif lost and self.ledger.add_attempt(number) <= MAX_ATTEMPTS:
                self.waiting.append(number)
                self.said(f"trial {number} lost its process and is started again")
            else:
                lines = [line.strip() for line in text.splitlines() if line.strip()]
                folder = self.ledger.trial_folder(number)
                write_text(folder / "error.txt", text)
                self._end(number, "lost" if lost else "failed", lines[-1][:2000] if lines else "")
                self._compare_first()
        except (DiskFull, Halted) as error:
            self.halted = str(error)
        self.changed(number)

    def _compare_first(self) -> None:
        """Stop where the first trials of this session all failed alike: what is broken is not in their parameters."""
        first = [self.ledger.trials[number] for number in self._begun[:ALIKE]]
        if self._trained or len(first) < ALIKE or any(record.outcome not in ("failed", "lost") for record in first):
            return
        if len({_NUMBERS.sub("#", record.message) for record in first}) == 1:
            self.alike = first[0].message or "no message"

    def cancel_live(self, reason: str) -> None:
        """Close what is still running: the time is up."""
        for record in self.ledger.live():
            self._end(record.number, "cancelled", reason)
            self.changed(record.number)

    def _end(self, number: int, outcome: Outcome, message: str) -> None:
        self.ledger.end(number, outcome, message)
        self._tidy(number)
        if outcome == "completed" and self.keep_checkpoints is not None:
            fallen = self._beyond_kept()
            for number_ in {number, *fallen[:1]} & set(fallen):  # the new one, or the one that it pushed out
                self._drop(number_, "best.safetensors")

    def _beyond_kept(self) -> list[int]:
        """The completed trials that keep no weights, the best of them first."""
        if self.keep_checkpoints is None:
            return []
        completed = [record for record in self.ledger.counted() if record.outcome == "completed"]
        completed.sort(key=lambda record: (-self.ledger.larger_is_better(record.best or 0.0), record.number))
        return [record.number for record in completed[self.keep_checkpoints :]]

    def _tidy(self, number: int) -> None:
        """A trial that ended needs no checkpoint to resume from; one that was stopped needs no weights either."""
        forget(self.ledger.trial_folder(number))
        self._sweep(number)
        self._drop(number, "last.pt")
        if self.ledger.trials[number].outcome != "completed":
            self._drop(number, "best.safetensors")

    def _sweep(self, number: int) -> None:
        """Remove what a kill left half written."""
        for torn in self.ledger.trial_folder(number).rglob(".*"):
            with contextlib.suppress(OSError):  # a folder of somebody's, a file that another process holds
                torn.unlink(missing_ok=True)

    def _drop(self, number: int, file: str) -> None:
        folder = self.ledger.trial_folder(number)
        for part in (folder, *folder.glob("fold-*")):
            with contextlib.suppress(OSError):
                (part / file).unlink(missing_ok=True)


_STOPPED = "stopped by hand"


def _fault_of(trial: Any) -> tuple[bool, str, str]:
    """Whether a trial's process was lost, the text of its error, and the node that cannot run trials, if that is it.

    Ray pickles errors of the trainable and deaths of its actor into the driver's own private session folder. What it
    does not pickle (out of host memory, a lost object, a crashed worker) is an error of the surroundings. An error of
    the user's that cannot be unpickled here is known by its text.
    """
    file, text = trial.pickled_error_file, ""
    if trial.error_file and Path(trial.error_file).is_file():
        text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    if not file or not Path(file).is_file():
        return True, text, ""
    try:
        error = cloudpickle.loads(Path(file).read_bytes())
    except Exception:  # whatever a foreign exception's unpickling may raise
        return False, text, ""
    cause = getattr(error, "cause", error)  # of a Ray task's error
    if isinstance(error, RayActorError):
        cause = unfit_by(error) or error
    if isinstance(cause, UnfitNode):
        return True, str(cause), cause.node
    return isinstance(error, RayActorError), str(error), ""


class LedgerSearcher(Searcher):  # type: ignore[misc]  # Ray's classes are untyped
    """Hands out the ledger's live trials first, then new ones."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__(metric="report", mode="max")
        self.conductor = conductor

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        return self.conductor.next(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.conductor.running.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Ray's snapshot is never read: the ledger is the truth."""
        Path(checkpoint_path).write_text("see the ledger")

    def restore(self, checkpoint_path: str) -> None:
        """Never called: every attempt is a fresh Tuner."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class LedgerScheduler(FIFOScheduler):  # type: ignore[misc]  # Ray's classes are untyped
    """Commits every report before it answers, and classifies every error."""

    _supports_buffered_results = False

    def __init__(self, conductor: Conductor) -> None:
        super().__init__()
        self.conductor = conductor

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        ended = self.conductor.take(json.loads(result["report"]))
        if self.conductor.halted:
            # Nothing more is to be trained: a checkpoint that is ahead of the ledger by two would leave a hole there.
            return str(TrialScheduler.NOOP)
        return str(TrialScheduler.STOP if ended else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        lost, text, unfit = _fault_of(trial)
        self.conductor.fault(trial.config["number"], lost=lost, text=text, unfit=unfit)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class EndStopper(Stopper):  # type: ignore[misc]  # Ray's classes are untyped
    """Lets Ray's loop end at once when the conductor says so."""

    def __init__(self, conductor: Conductor) -> None:
        self.conductor = conductor

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        self.conductor.look()  # Ray asks at every turn of its loop
        return self.conductor.ending

    def __getstate__(self) -> dict[str, Any]:
        return {}
