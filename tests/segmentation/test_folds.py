"""Training on folds. Oracles: each fold trained alone, means worked out from those, an uninterrupted run."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.data.cache import DecodedPart
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.folds import FoldedTrainer
from tunesearch.segmentation.trainer import Trainer

ROWS = [([0, 1, 2, 3], [4, 5]), ([2, 3, 4, 5], [0, 1]), ([0, 1, 4, 5], [2, 3])]
CONFIG: dict[str, Any] = {
    "architecture": "conv_stack",
    "depth": 2,
    "width": 4,
    "dropout": 0.3,  # so that the folds compete for random numbers
    "size": "32x32",
    "batch_size": 2,
    "epochs": 3,
    "precision": "float32",
}


@pytest.fixture(scope="module")
def pool() -> DecodedPart:
    """Six noisy images whose left part is class 1; the share that is left differs from image to image."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 120, (6, 32, 32, 3), np.uint8)
    masks = np.zeros((6, 32, 32), np.uint8)
    for number in range(6):
        images[number, :, : 4 + 4 * number, 0] += 120
        masks[number, :, : 4 + 4 * number] = 1
    return DecodedPart(images, masks, tuple("abcdef"))


def fold(pool: DecodedPart, number: int, folder: Path | None, **fields: Any) -> Trainer:
    train, val = (pool.subset(rows) for rows in ROWS[number])
    if folder is not None:
        folder = folder / f"fold-{number}"
        folder.mkdir(parents=True, exist_ok=True)
    config = TrainConfig.model_validate({**CONFIG, **fields})
    return Trainer(config, train=train, val=val, classes=2, folder=folder, device="cpu")


def folded(pool: DecodedPart, folder: Path | None = None, **fields: Any) -> FoldedTrainer:
    return FoldedTrainer([fold(pool, number, folder, **fields) for number in range(3)], folder=folder)


def timeless(metrics: EpochMetrics) -> dict[str, Any]:
    times = ("train_seconds", "val_seconds", "images_per_second", "finished_at")
    return {name: value for name, value in dataclasses.asdict(metrics).items() if name not in times}


def test_means_are_those_of_the_folds_alone(pool: DecodedPart) -> None:
    """Each fold, trained alone in its own right, gives the same numbers as in step with the others."""
    alone = [list(fold(pool, number, None).epochs()) for number in range(3)]
    trainer = folded(pool)
    means = list(trainer.epochs())
    assert [metrics.epoch for metrics in means] == [1, 2, 3]
    for epoch, metrics in enumerate(means):
        of_folds = [history[epoch] for history in alone]
        for name in ("train_loss", "val_loss", "val_miou", "val_dice", "val_pixel_accuracy", "lr"):
            assert getattr(metrics, name) == pytest.approx(statistics.fmean(getattr(one, name) for one in of_folds))
        assert metrics.folds == tuple(one.val_miou for one in of_folds)
        assert metrics.updates == sum(one.updates for one in of_folds)
        assert metrics.val_iou[1] == pytest.approx(statistics.fmean(one.val_iou[1] or 0.0 for one in of_folds))
    assert trainer.outcome == "completed"
    assert trainer.best == max(means, key=lambda metrics: metrics.val_miou)
    assert EpochMetrics.from_dict(json.loads(json.dumps(dataclasses.asdict(means[0])))) == means[0]


@pytest.mark.parametrize("killed_after", [0, 1, 2])
def test_a_kill_between_folds_changes_nothing(pool: DecodedPart, tmp_path: Path, killed_after: int) -> None:
    """Killed in the second epoch when ``killed_after`` folds have finished it: the rest goes on as uninterrupted."""
    expected = [timeless(metrics) for metrics in folded(pool, tmp_path / "whole").epochs()]
    first = folded(pool, tmp_path / "killed")
    next(first.epochs())
    for trainer in first.trainers[:killed_after]:
        next(trainer.epochs())
    second = folded(pool, tmp_path / "killed")
    assert second.resumed is not None
    assert timeless(second.resumed) == expected[0]
    assert [timeless(metrics) for metrics in second.epochs()] == expected[1:]
    third = folded(pool, tmp_path / "killed")
    assert third.resumed is not None
    assert (timeless(third.resumed), third.outcome, list(third.epochs())) == (expected[-1], "completed", [])
    assert third.best is not None
    assert timeless(third.best) == max(expected, key=lambda metrics: metrics["val_miou"])


def test_a_fold_that_stops_early_counts_with_its_last_epoch(pool: DecodedPart) -> None:
    """At learning rate 1e-12 nothing improves by 0.5, so a fold with patience 1 ends after two of three epochs."""
    trainers = [
        fold(pool, 0, None, early_stop_patience=1, early_stop_delta=0.5, lr=1e-12, dropout=0.0),
        fold(pool, 1, None),
    ]
    trainer = FoldedTrainer(trainers, folder=None)
    means = list(trainer.epochs())
    assert [one.epoch for one in trainers] == [2, 3]
    assert len(means) == 3
    assert means[2].folds[0] == means[1].folds[0]
    assert trainer.outcome == "completed"


def test_a_fold_that_diverges_ends_all(pool: DecodedPart) -> None:
    trainers = [fold(pool, 0, None), fold(pool, 1, None, optimizer="sgd", lr=100.0, momentum=0.99)]
    with torch.no_grad():
        for parameter in trainers[1].model.parameters():
            parameter.fill_(float("nan"))
    trainer = FoldedTrainer(trainers, folder=None)
    assert list(trainer.epochs()) == []
    assert trainer.outcome == "diverged"


def test_what_was_applied(pool: DecodedPart) -> None:
    effective = folded(pool).effective()
    assert effective["folds"] == [{"train_images": 4, "val_images": 2}] * 3
    assert effective["network"] == "ConvStack"


@pytest.mark.parametrize("patience", [None, 1])
def test_a_kill_before_the_mean_was_written(pool: DecodedPart, tmp_path: Path, patience: int | None) -> None:
    """All folds are through with their last epoch, but not the file of means: it is told by the next process."""
    fields = {"early_stop_patience": patience, "early_stop_delta": 0.5}
    expected = [timeless(metrics) for metrics in folded(pool, tmp_path / "whole", **fields).epochs()]
    first = folded(pool, tmp_path / "killed", **fields)
    iterator = first.epochs()
    for _ in expected[:-1]:
        next(iterator)
    for trainer in first.trainers:
        next(trainer.epochs())
    second = folded(pool, tmp_path / "killed", **fields)
    assert second.outcome is None
    assert [timeless(metrics) for metrics in second.epochs()] == expected[-1:]
    assert second.outcome == "completed"


def test_times_are_of_the_folds_that_trained(pool: DecodedPart) -> None:
    """In the third epoch only the second fold trains: the seconds are its own."""
    early = fold(pool, 0, None, early_stop_patience=1, early_stop_delta=0.5, lr=1e-12, dropout=0.0)
    late = fold(pool, 1, None)
    *_, last = FoldedTrainer([early, late], folder=None).epochs()
    assert (early.epoch, late.epoch) == (2, 3)
    assert last.images_per_second * last.train_seconds == pytest.approx(4)
    assert last.numbers()["fold_1"] == last.folds[1]


@pytest.mark.parametrize("lost", ["fold-1/last.pt", "folds.json"])
def test_checkpoints_that_do_not_fit_together_are_told(pool: DecodedPart, tmp_path: Path, lost: str) -> None:
    """After three epochs one fold's checkpoint, or the means, are gone: no mean may be made of different epochs."""
    list(folded(pool, tmp_path).epochs())
    assert not folded(pool, tmp_path).inconsistent
    (tmp_path / lost).unlink()
    assert folded(pool, tmp_path).inconsistent
    assert not folded(pool, tmp_path / "new").inconsistent
