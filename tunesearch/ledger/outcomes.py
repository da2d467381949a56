"""How a trial can end, and what Optuna is told of it."""

from __future__ import annotations

from typing import Literal

from optuna.trial import TrialState

Outcome = Literal[
    "completed", "stopped", "diverged", "out_of_memory", "infeasible", "failed", "lost", "cancelled", "duplicate"
]
"""How a trial ended. ``duplicate``: its configuration equals an earlier one in effect; it was not trained and does not
count. ``lost``: its node or process died more often than it is retried."""

STATE: dict[Outcome, TrialState] = {
    "completed": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "diverged": TrialState.PRUNED,
    "out_of_memory": TrialState.PRUNED,
    "infeasible": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "lost": TrialState.FAIL,
    "cancelled": TrialState.FAIL,
    "duplicate": TrialState.FAIL,
}
"""What Optuna is told of each: COMPLETE with a value, PRUNED with its curve, FAIL with nothing to learn from."""

_VIOLATED = ("out_of_memory", "infeasible")


def optuna_state(outcome: Outcome, *, repeat: bool) -> TrialState:
    """The state that a trial ends with; a ``repeat`` of another one's configuration says nothing to the sampler.

    It would take repeats of what is good already for a reason to look nowhere else.
    """
    return TrialState.FAIL if repeat else STATE[outcome]


def constraints(outcome: Outcome) -> dict[str, float]:
    """The system attribute by which Optuna knows that a configuration is not feasible; empty where it is.

    It is the one that ``Trial.set_constraint`` writes. A ``Trial`` cannot be had for a trial that was drawn elsewhere.
    """
    return {f"constraints:{outcome}": 1.0} if outcome in _VIOLATED else {}
