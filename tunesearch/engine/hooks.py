"""Ray Tune's hooks into the conductor: its searcher hands out trials, its scheduler takes reports and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.exceptions import RayActorError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from tunesearch.engine.assignment import Assigner
from tunesearch.engine.conductor import Conductor
from tunesearch.engine.nodes import unfit_by
from tunesearch.errors import UnfitNode


class LedgerSearcher(Searcher):  # type: ignore[misc]  # Ray's classes are untyped
    """Hands out the ledger's live trials first, then new ones.

    Args:
        conductor: decides.
        assigner: turns a record into the configuration of Ray's trainable.
    """

    def __init__(self, conductor: Conductor, assigner: Assigner) -> None:
        super().__init__(metric="report", mode="max")
        self.conductor = conductor
        self.assigner = assigner

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """A configuration, None while there is nothing to do but wait, or FINISHED, which is final."""
        record = self.conductor.next(trial_id)
        if record is None:
            return None if self.conductor.running else Searcher.FINISHED
        return self.assigner.assign(record, self.conductor.unfit)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.conductor.release(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Ray's snapshot is never read: the ledger is the truth."""
        Path(checkpoint_path).write_text("see the ledger")

    def restore(self, checkpoint_path: str) -> None:
        """Never called: every attempt is a fresh Tuner."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class LedgerScheduler(FIFOScheduler):  # type: ignore[misc]  # Ray's classes are untyped
    """Has every report committed before it answers, and classifies every error."""

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
