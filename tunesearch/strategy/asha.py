"""Early stopping: which trials go on after an epoch. Pure numbers, filled from the ledger: a resume decides the same.

Values are the running best of the objective, larger is better (a minimised objective comes negated).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from tunesearch.experiment import Asha as AshaSettings
from tunesearch.experiment import Experiment
from tunesearch.experiment import Median as MedianSettings
from tunesearch.segmentation.config import TrainConfig


class Stopper(Protocol):
    """Decides from (trial number, epoch, value) alone; order of arrival matters only where the algorithm says so."""

    def record(self, number: int, epoch: int, value: float) -> None:
        """Take note of a value that was decided on before."""

    def stops(self, number: int, epoch: int, value: float) -> bool:
        """Take note of a new value and tell whether its trial ends here."""


class Never:
    """Train every trial to the end."""

    def record(self, number: int, epoch: int, value: float) -> None:
        pass

    def stops(self, number: int, epoch: int, value: float) -> bool:
        return False


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


def build_stopper(experiment: Experiment) -> Stopper:
    """The experiment's early stopping, still empty."""
    scheduler = experiment.scheduler
    if isinstance(scheduler, AshaSettings):
        return Asha(
            grace_epochs=scheduler.grace_epochs, reduction=scheduler.reduction, max_epochs=most_epochs(experiment)
        )
    if isinstance(scheduler, MedianSettings):
        return MedianRule(grace_epochs=scheduler.grace_epochs, min_trials=scheduler.min_trials)
    return Never()


def most_epochs(experiment: Experiment) -> int:
    """How many epochs the longest trial of an experiment can have."""
    if "epochs" in experiment.space:
        return max(int(str(value)) for value in experiment.space["epochs"].domain.representatives())
    return int(experiment.train.get("epochs", TrainConfig.model_fields["epochs"].default))
