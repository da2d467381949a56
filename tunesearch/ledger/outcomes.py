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
"""What Optuna is told of each: COMPLETE with a value, PRUNED with its curve, FAIL with nothing to learn from.
out_of_memory and infeasible carry a violated constraint besides."""
