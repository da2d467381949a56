"""The training of one trial, built from what its actor was given; knows no Ray."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesearch.experiment import Experiment
from tunesearch.ledger.folders import SPLIT, read_experiment
from tunesearch.segmentation.config import ClassSpec, TrainConfig
from tunesearch.segmentation.data.cache import DecodedPart, OriginalMasks, decoded, original_masks
from tunesearch.segmentation.data.layouts import resolve_classes
from tunesearch.segmentation.data.overlay import PanelRow, panel
from tunesearch.segmentation.data.palette import palette
from tunesearch.segmentation.data.splits import POOL, Split, folds
from tunesearch.segmentation.files import write_atomic, write_text
from tunesearch.segmentation.folds import FoldedTrainer
from tunesearch.segmentation.trainer import Trainer

WATCHED = 4
"""How many validation images are drawn with their prediction."""

Folds = list[tuple[list[int], list[int]]]
"""Rows of training and of validation, for each fold."""
Guard = Callable[[], contextlib.AbstractContextManager[None]]


@dataclass
class Training:
    """What trains a trial, and what its pictures are drawn of.

    Attributes:
        folder: of the trial.
        trainer: of the one network, or of one a fold.
        val: the validation images; of the first fold where there are folds.
        classes: of the data set.
    """

    folder: Path
    trainer: Trainer | FoldedTrainer
    val: DecodedPart
    classes: tuple[ClassSpec, ...]

    def draw(self) -> None:
        """Image, truth, prediction and overlay of the watched images, as they are at the best epoch so far."""
        predictions = self.trainer.best_predictions
        if predictions is None:
            return
        rows = [
            PanelRow(self.val.ids[index], self.val.images[index], self.val.masks[index], prediction)
            for index, prediction in zip(_watched(self.val), predictions, strict=True)
        ]
        picture = panel(rows, palette(self.classes))
        write_atomic(self.folder / "predictions.png", lambda path: picture.save(path, format="PNG"))


def build_training(assignment: dict[str, Any], *, heartbeat: Callable[[], None], reading: Guard) -> Training:
    """Build a trial's trainer, which goes on from its checkpoint where there is one.

    Args:
        assignment: see :mod:`tunesearch.engine.assignment`.
        heartbeat: called at every batch.
        reading: the context in which the data set is read and decoded.
    """
    folder, search = Path(assignment["folder"]), Path(assignment["search"])
    folder.mkdir(parents=True, exist_ok=True)
    experiment, split = read_experiment(search), Split.load(search / SPLIT)
    config = TrainConfig.model_validate(assignment["config"])
    builder = _Builder(assignment, experiment, config, resolve_classes(experiment.data), heartbeat)
    original = experiment.objective.resolution == "original"
    trainer: Trainer | FoldedTrainer
    if experiment.data.folds is None:
        with reading():
            train, val = (decoded(experiment.data, split, part, config.size) for part in ("train", "val"))
        masks = original_masks(experiment.data, split, "val") if original else None
        trainer = builder.one(train, val, masks, folder)
    else:
        with reading():
            pool = decoded(experiment.data, split, POOL, config.size)
        masks = original_masks(experiment.data, split, POOL) if original else None
        rows = folds(experiment.data, split)
        val = pool.subset(rows[0][1])
        trainer = builder.of_folds(pool, masks, rows, folder)
    write_text(folder / "effective.json", json.dumps(trainer.effective(), indent=1))
    return Training(folder, trainer, val, builder.classes)


@dataclass
class _Builder:
    assignment: dict[str, Any]
    experiment: Experiment
    config: TrainConfig
    classes: tuple[ClassSpec, ...]
    heartbeat: Callable[[], None]

    def one(self, train: DecodedPart, val: DecodedPart, masks: OriginalMasks | None, folder: Path) -> Trainer:
        """The trainer of one network."""
        weights = self.assignment["encoder_weights"]
        return Trainer(
            self.config,
            train=train,
            val=val,
            classes=len(self.classes),
            background=self.experiment.data.background,
            encoder_weights=Path(weights) if weights else None,
            folder=folder,
            workers=self.assignment["workers"],
            watch=_watched(val),
            monitor=self.experiment.objective.metric,
            originals=masks,
            heartbeat=self.heartbeat,
        )

    def of_folds(self, pool: DecodedPart, masks: OriginalMasks | None, rows: Folds, folder: Path) -> FoldedTrainer:
        """One trainer a fold, in step; where a kill left their checkpoints at different epochs they begin anew."""
        trainer = self._folded(pool, masks, rows, folder)
        if trainer.inconsistent:
            trainer.close()
            for lost in (*folder.glob("fold-*/last.pt"), folder / "folds.json"):
                lost.unlink(missing_ok=True)
            trainer = self._folded(pool, masks, rows, folder)
        return trainer

    def _folded(self, pool: DecodedPart, masks: OriginalMasks | None, rows: Folds, folder: Path) -> FoldedTrainer:
        trainers = []
        for fold, (train_rows, val_rows) in enumerate(rows):
            own = folder / f"fold-{fold}"
            own.mkdir(exist_ok=True)
            truth = masks.subset(val_rows) if masks is not None else None
            trainers.append(self.one(pool.subset(train_rows), pool.subset(val_rows), truth, own))
        return FoldedTrainer(trainers, folder=folder)


def _watched(val: DecodedPart) -> tuple[int, ...]:
    """Fixed validation images, spread over the set: the same in every trial of a search."""
    count = min(WATCHED, len(val.ids))
    return tuple(round((index + 0.5) * len(val.ids) / count - 0.5) for index in range(count))
