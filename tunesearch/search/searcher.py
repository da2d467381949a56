"""Ray Tune's two hooks into the ledger: the searcher hands out trials, the scheduler commits and decides."""

from __future__ import annotations

import json
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

from tunesearch.search.asha import build_stopper
from tunesearch.search.ledger import Ledger, TrialRecord
from tunesearch.segmentation.trainer import EpochMetrics

MAX_ATTEMPTS = 3
"""How often a trial is started again after its process or node died."""


class Conductor:
    """The one state that both hooks share, in the driver's process.

    Args:
        ledger: open for driving.
        assign: turns a record into the configuration of Ray's trainable.
        changed: told the number of every trial that began, went on or ended; must return at once.
        deadline: ``time.monotonic()`` at which the search ends; None: never.

    Attributes:
        interrupted: set by a signal; the search stops at once and its live trials stay live for a resume.
        exhausted: the sampler had nothing new to suggest.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        assign: Callable[[TrialRecord], dict[str, Any]],
        changed: Callable[[int], None],
        deadline: float | None,
    ) -> None:
        self.ledger = ledger
        self.assign = assign
        self.changed = changed
        self.deadline = deadline
        self.interrupted = False
        self.exhausted = False
        self.waiting: deque[int] = deque(record.number for record in ledger.recover())
        self.running: dict[str, int] = {}
        self.stopper = build_stopper(ledger.experiment)
        for record in ledger.counted():
            if record.outcome is not None:
                self._tidy(record.number)
            for epoch, saved in sorted(record.epochs.items()):
                self.stopper.record(record.number, epoch, ledger.larger_is_better(saved.best))

    @property
    def ending(self) -> bool:
        """Whether everything is to stop now."""
        return self.interrupted or self.out_of_time

    @property
    def out_of_time(self) -> bool:
        """Whether the time budget is spent."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    # ------------------------------------------------------------------------------------------------------- giving out

    def next(self, trial_id: str) -> dict[str, Any] | str | None:
        """A configuration, None while there is nothing to do but wait, or FINISHED, which is final."""
        if self.ending:
            return None if self.running else Searcher.FINISHED
        if self.waiting:
            record = self.ledger.trials[self.waiting.popleft()]
        elif not self.exhausted and len(self.ledger.counted()) < self.ledger.experiment.search.trials:
            asked = self.ledger.ask()
            if asked is None:
                self.exhausted = True
                return self.next(trial_id)
            record = asked
        else:
            return None if self.running else Searcher.FINISHED
        self.running[trial_id] = record.number
        self.changed(record.number)
        return self.assign(record)

    # ------------------------------------------------------------------------------------------------ commit and decide

    def take(self, report: dict[str, Any]) -> bool:
        """Commit one report; whether its trial ends here."""
        number, outcome = report["number"], report["outcome"]
        record = self.ledger.trials[number]
        if report["metrics"] is not None:
            metrics = EpochMetrics.from_dict(report["metrics"])
            if metrics.epoch in record.epochs:
                stopped = record.epochs[metrics.epoch].stopped
            else:
                value = self.ledger.running_best(metrics, number=number)
                # A trial that reached its last epoch is complete, whatever a rung would say.
                stopped = self.stopper.stops(number, metrics.epoch, value) and outcome is None
                self.ledger.commit_epoch(metrics, number=number, stopped=stopped)
            if stopped and outcome is None:
                outcome = "stopped"
        if outcome is not None:
            self.ledger.end(number, outcome, report["message"])
            self._tidy(number)
        self.changed(number)
        return outcome is not None

    def fault(self, number: int, *, lost: bool, text: str) -> None:
        """A trial's process raised or died: an error of its own ends it, a lost process is started again."""
        if lost and self.ledger.add_attempt(number) <= MAX_ATTEMPTS:
            self.waiting.append(number)
        else:
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            self.ledger.end(number, "lost" if lost else "failed", lines[-1][:2000] if lines else "")
            folder = self.ledger.trial_folder(number)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "error.txt").write_text(text, encoding="utf-8")
            self._tidy(number)
        self.changed(number)

    def cancel_live(self, reason: str) -> None:
        """Close what is still running: the time is up."""
        for record in self.ledger.live():
            self.ledger.end(record.number, "cancelled", reason)
            self._tidy(record.number)
            self.changed(record.number)

    def _tidy(self, number: int) -> None:
        """A trial that ended needs no checkpoint to resume from; one that was stopped needs no weights either."""
        folder = self.ledger.trial_folder(number)
        for part in (folder, *folder.glob("fold-*")):
            (part / "last.pt").unlink(missing_ok=True)
            if self.ledger.trials[number].outcome != "completed":
                (part / "best.safetensors").unlink(missing_ok=True)


def _fault_of(trial: Any) -> tuple[bool, str]:
    """Whether a trial's process was lost, and the text of its error.

    Ray pickles errors of the trainable and deaths of its actor into the driver's own private session folder. What it
    does not pickle (out of host memory, a lost object, a crashed worker) is an error of the surroundings. An error of
    the user's that cannot be unpickled here is known by its text.
    """
    file, text = trial.pickled_error_file, ""
    if trial.error_file and Path(trial.error_file).is_file():
        text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    if not file or not Path(file).is_file():
        return True, text
    try:
        error = cloudpickle.loads(Path(file).read_bytes())
    except Exception:  # whatever a foreign exception's unpickling may raise
        return False, text
    return isinstance(error, RayActorError), str(error)


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
        decision: str = TrialScheduler.STOP if ended else TrialScheduler.CONTINUE
        return decision

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        lost, text = _fault_of(trial)
        self.conductor.fault(trial.config["number"], lost=lost, text=text)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class EndStopper(Stopper):  # type: ignore[misc]  # Ray's classes are untyped
    """Lets Ray's loop end at once when the conductor says so."""

    def __init__(self, conductor: Conductor) -> None:
        self.conductor = conductor

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.conductor.ending

    def __getstate__(self) -> dict[str, Any]:
        return {}
