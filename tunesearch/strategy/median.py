"""The median rule: a trial goes on while it is no worse than the median of the others at its epoch."""

from __future__ import annotations

import numpy as np


class MedianRule:
    """Median stopping (Golovin et al. 2017): end a trial whose best is below the median of what others had by then.

    Args:
        grace_epochs: no trial stops before this epoch's end.
        min_trials: how many other trials must have reached the epoch.
    """

    def __init__(self, *, grace_epochs: int, min_trials: int) -> None:
        self.grace_epochs = grace_epochs
        self.min_trials = min_trials
        self.curves: dict[int, dict[int, float]] = {}

    def record(self, number: int, epoch: int, value: float) -> None:
        self.curves.setdefault(epoch, {})[number] = value

    def stops(self, number: int, epoch: int, value: float) -> bool:
        others = [other for trial, other in self.curves.get(epoch, {}).items() if trial != number]
        self.record(number, epoch, value)
        if epoch < self.grace_epochs or len(others) < self.min_trials:
            return False
        return bool(value < np.median(others))
