"""What is known of one trial: its configuration, its committed epochs and how it ended. Plain data, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tunesearch.ledger.outcomes import Outcome
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.epoch import EpochMetrics


@dataclass
class EpochRecord:
    """One committed epoch: its metrics, the running best of the objective, and whether the trial was stopped there."""

    metrics: EpochMetrics
    best: float
    stopped: bool


@dataclass
class TrialRecord:
    """One trial as the ledger knows it.

    Attributes:
        number: from 0, without gaps in the study.
        parameters: what was sampled; inactive parameters are absent.
        config: the complete TrainConfig.
        epochs: committed epochs by number, from 1.
        outcome: None while the trial is live.
        message: why it ended, for outcomes that need a reason.
        attempts: how often in a row, with no further epoch in between, its process or node was lost.
        best: best value of the objective so far; None before the first epoch.
        closed: whether its state in the study is final.
        retry_of: the trial that this one trains again; None: it is no retry.
        confirms: the trial whose configuration this one repeats with another seed; None: it is a trial of the search.
        asked_at: Unix time at which it was drawn.
        ended_at: Unix time at which it was closed; None while it is live, and for duplicates.
        place: it was the ``place``-th to end, from 1, whatever the clocks say; None as ``ended_at``.
    """

    number: int
    parameters: dict[str, Any]
    config: TrainConfig
    epochs: dict[int, EpochRecord] = field(default_factory=dict)
    outcome: Outcome | None = None
    message: str = ""
    attempts: int = 0
    best: float | None = None
    closed: bool = False
    retry_of: int | None = None
    confirms: int | None = None
    asked_at: float = 0.0
    ended_at: float | None = None
    place: int | None = None
    _lost_at: int = -1
    _id: int = -1

    @property
    def best_val_miou(self) -> float | None:
        """Best mean IoU on the validation set over the committed epochs."""
        return max((record.metrics.val_miou for record in self.epochs.values()), default=None)

    def best_epoch(self, metric: str) -> EpochRecord:
        """The first epoch that has the best value; there must be an epoch."""
        records = [record for _, record in sorted(self.epochs.items())]
        return next((record for record in records if getattr(record.metrics, metric) == self.best), records[-1])

    def as_dict(self) -> dict[str, Any]:
        """The row of ``--json``."""
        return {
            "number": self.number,
            "parameters": self.parameters,
            "outcome": self.outcome or "running",
            "epochs": max(self.epochs, default=0),
            "best_val_miou": self.best_val_miou,
            "best_value": self.best,
            "seed": self.config.seed,
            "message": self.message,
            **({} if self.retry_of is None else {"retry_of": self.retry_of}),
            **({} if self.confirms is None else {"confirms": self.confirms}),
        }
