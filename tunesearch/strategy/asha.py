"""Asynchronous successive halving: a trial goes on at a rung if it is among the best that came there."""

from __future__ import annotations

import numpy as np


class Asha:
    """Asynchronous successive halving (Li et al. 2020), one bracket, deciding as Ray's AsyncHyperBandScheduler does.

    At a rung a trial goes on if its value is no worse than the top ``1 / reduction`` of the values that earlier trials
    had there; the first one always goes on.

    Args:
        grace_epochs: the lowest rung; no trial stops before.
        reduction: factor between rungs, and the inverse of the share that goes on.
        max_epochs: where training ends; there is no rung there.
    """

    def __init__(self, *, grace_epochs: int, reduction: int, max_epochs: int) -> None:
        self.reduction = reduction
        self.rungs: dict[int, dict[int, float]] = {}
        level = grace_epochs
        while level < max_epochs:
            self.rungs[level] = {}
            level *= reduction

    def record(self, number: int, epoch: int, value: float) -> None:
        if epoch in self.rungs:
            self.rungs[epoch][number] = value

    def stops(self, number: int, epoch: int, value: float) -> bool:
        if epoch not in self.rungs or number in self.rungs[epoch]:
            return False
        earlier = list(self.rungs[epoch].values())
        self.rungs[epoch][number] = value
        if not earlier:
            return False
        return bool(value < np.percentile(earlier, 100.0 * (1.0 - 1.0 / self.reduction)))
