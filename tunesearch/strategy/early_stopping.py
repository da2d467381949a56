"""Early stopping: which trials go on after an epoch. Pure numbers, filled from the records: a resume decides the same.

Values are the running best of the objective, larger is better (a minimised objective comes negated).
"""

from __future__ import annotations

from typing import Protocol

from tunesearch.experiment import Asha as AshaSettings
from tunesearch.experiment import Experiment
from tunesearch.experiment import Median as MedianSettings
from tunesearch.ledger.records import SearchRecord
from tunesearch.segmentation.config import TrainConfig
from tunesearch.strategy.asha import Asha
from tunesearch.strategy.median import MedianRule


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


def stopper_of(record: SearchRecord) -> Stopper:
    """A search's early stopping, filled with what its trials have reached; repeats of the best trials are left out."""
    stopper = build_stopper(record.experiment)
    for trial in record.counted():
        for epoch, saved in sorted(trial.epochs.items()):
            stopper.record(trial.number, epoch, record.larger_is_better(saved.best))
    return stopper


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
