"""The metrics of one epoch; without torch, so that who only reads results need not wait for it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class EpochMetrics:
    """The metrics of one epoch. Shares are in 0..1, times in seconds.

    Without a validation set all that is measured on it is NaN (None in :meth:`as_dict`), and ``val_iou`` empty.

    Attributes:
        epoch: 1 for the first.
        train_loss: mean over the epoch's batches, each by its share.
        val_loss: mean over the validation set.
        val_miou: mean IoU over classes.
        val_miou_no_background: the same without the background class.
        val_dice: mean Dice (F1) over classes.
        val_pixel_accuracy: share of right pixels.
        val_iou: IoU per class; None for a class absent from truth and prediction.
        lr: learning rate at the epoch's last update.
        updates: optimiser updates since the start of the training.
        train_seconds: of the training pass.
        val_seconds: of the validation pass.
        images_per_second: in the training pass.
        finished_at: Unix time at the epoch's end.
        folds: with folds, the monitored metric of each (the others are means over them); else empty.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_miou: float
    val_miou_no_background: float
    val_dice: float
    val_pixel_accuracy: float
    val_iou: tuple[float | None, ...]
    lr: float
    updates: int
    train_seconds: float
    val_seconds: float
    images_per_second: float
    finished_at: float
    folds: tuple[float, ...] = ()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EpochMetrics:
        """The inverse of :meth:`as_dict`, also after JSON."""
        lists: dict[str, Any] = {name: tuple(values[name]) for name in ("val_iou", "folds") if name in values}
        return cls(**{**{name: math.nan if value is None else value for name, value in values.items()}, **lists})

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which knows no NaN: what was not measured is None."""
        return {name: None if value != value else value for name, value in asdict(self).items()}

    def numbers(self) -> dict[str, float]:
        """Every scalar that was measured by name, for a tracker; the folds' as ``fold_0`` and so on."""
        scalars = {
            field.name: float(getattr(self, field.name))
            for field in fields(self)
            if field.name not in ("epoch", "val_iou", "finished_at", "folds")
            and not math.isnan(getattr(self, field.name))
        }
        return {**scalars, **{f"fold_{number}": value for number, value in enumerate(self.folds)}}
