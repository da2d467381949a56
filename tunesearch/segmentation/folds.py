"""FoldedTrainer: one configuration trained on every fold at once, epoch by epoch, as one training with mean metrics.

All folds finish an epoch before any begins the next, so that early stopping of a search sees the mean over the folds at
every epoch. Each fold keeps its own network, optimiser, checkpoint and random numbers.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.files import write_text
from tunesearch.segmentation.state import TrainerOutcome
from tunesearch.segmentation.trainer import Trainer


class FoldedTrainer:
    """Several trainers, one per fold, in step. It is used like a Trainer.

    Args:
        trainers: equal but for their data and folder, which is ``folder / fold-0`` and so on.
        folder: where ``folds.json``, the mean of every epoch, is kept; None: nowhere.

    Attributes:
        outcome: that of the folds: the first that ends otherwise than completed ends all.
        resumed: the newest mean, where there was one; its epoch is not trained again.
        best: the best epoch so far, by the mean of the monitored metric.
        inconsistent: whether the checkpoints do not fit together: some of them, or the means, were lost, and a mean
            over folds of different epochs would be reported as that of one. Then all of them must start anew.
    """

    def __init__(self, trainers: Sequence[Trainer], *, folder: Path | None) -> None:
        self.trainers = list(trainers)
        self.monitor = self.trainers[0].monitor
        self.outcome: TrainerOutcome | None = None
        self.best: EpochMetrics | None = None
        self.resumed: EpochMetrics | None = None
        self._file = None if folder is None else folder / "folds.json"
        self._means: list[EpochMetrics] = []
        # A fold may be one epoch ahead of the mean: the process was killed while another fold trained.
        self._newest = [trainer.resumed for trainer in self.trainers]
        for metrics in self._saved():
            self._add(metrics)
            self.resumed = metrics
        newest = max(trainer.epoch for trainer in self.trainers)
        self.inconsistent = newest > len(self._means) + 1
        if len(self._means) >= max(newest, 1) and all(trainer.outcome == "completed" for trainer in self.trainers):
            self.outcome = "completed"

    @property
    def best_predictions(self) -> npt.NDArray[np.uint8] | None:
        """Those of the first fold, at its own best epoch."""
        return self.trainers[0].best_predictions

    @property
    def epoch(self) -> int:
        """The last epoch that every fold has finished."""
        return len(self._means)

    def epochs(self) -> Iterator[EpochMetrics]:
        """Train all folds to the end, one epoch at a time. A fold that stopped early counts with its last epoch."""
        iterators = [trainer.epochs() for trainer in self.trainers]
        while self.outcome is None:
            for fold, trainer in enumerate(self.trainers):
                if trainer.epoch > len(self._means) or trainer.outcome == "completed":
                    continue
                metrics = next(iterators[fold], None)
                if metrics is None:
                    self.outcome = trainer.outcome
                    return
                self._newest[fold] = metrics
                trainer.stop_workers()  # else every fold would keep its own worker processes
            mean = _mean([metrics for metrics in self._newest if metrics], len(self._means) + 1, self.monitor)
            self._add(mean)
            if self._file is not None:
                write_text(self._file, json.dumps([asdict(metrics) for metrics in self._means]))
            if all(trainer.outcome == "completed" for trainer in self.trainers):
                self.outcome = "completed"
            yield mean

    def effective(self) -> dict[str, Any]:
        """As the first fold's, with the number of images in every fold."""
        return {
            **self.trainers[0].effective(),
            "folds": [
                {"train_images": trainer.train_batches.images, "val_images": trainer.val_images}
                for trainer in self.trainers
            ],
        }

    def close(self) -> None:
        """Let go of worker processes and of the device's memory."""
        for trainer in self.trainers:
            trainer.close()

    def _add(self, metrics: EpochMetrics) -> None:
        self._means.append(metrics)
        sign = -1.0 if self.monitor == "val_loss" else 1.0
        if self.best is None or sign * getattr(metrics, self.monitor) > sign * getattr(self.best, self.monitor):
            self.best = metrics

    def _saved(self) -> list[EpochMetrics]:
        """The means of an earlier process, as far as every fold's checkpoint bears them out."""
        if self._file is None or not self._file.is_file():
            return []
        means = [EpochMetrics.from_dict(values) for values in json.loads(self._file.read_text(encoding="utf-8"))]
        running = [trainer.epoch for trainer in self.trainers if trainer.outcome is None]
        return means[: min(running, default=len(means))]


def _mean(metrics: Sequence[EpochMetrics], epoch: int, monitor: str) -> EpochMetrics:
    """The mean over folds, of each fold's newest epoch.

    Updates are those of all folds so far; times the sums over the folds that trained this epoch; a class's IoU the mean
    over the folds in which it occurs.
    """
    now = [item for item in metrics if item.epoch == epoch]

    def mean(name: str) -> float:
        return statistics.fmean(getattr(item, name) for item in metrics)

    def total(name: str) -> float:
        return float(sum(getattr(item, name) for item in now))

    def iou(values: Sequence[float | None]) -> float | None:
        present = [value for value in values if value is not None]
        return statistics.fmean(present) if present else None

    images = sum(item.images_per_second * item.train_seconds for item in now)
    means = ("train_loss", "val_loss", "val_miou", "val_miou_no_background", "val_dice", "val_pixel_accuracy", "lr")
    return EpochMetrics(
        epoch=epoch,
        **{name: mean(name) for name in means},
        val_iou=tuple(iou(values) for values in zip(*(item.val_iou for item in metrics), strict=True)),
        updates=sum(item.updates for item in metrics),
        train_seconds=total("train_seconds"),
        val_seconds=total("val_seconds"),
        images_per_second=images / total("train_seconds"),
        finished_at=max(item.finished_at for item in metrics),
        folds=tuple(float(getattr(item, monitor)) for item in metrics),
    )
