"""A bundle of a small trained network, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def _train(folder: Path, changes: dict[str, Any]) -> Any:
    """A training of one epoch on the built-in sample, as a bundle is made of it."""
    from tunesearch.production.bundle import Training, own_code
    from tunesearch.segmentation.config import DataConfig, TrainConfig
    from tunesearch.segmentation.data.cache import decoded
    from tunesearch.segmentation.data.layouts import resolve_classes
    from tunesearch.segmentation.data.splits import freeze_split
    from tunesearch.segmentation.trainer import Trainer

    usual = {"architecture": "encoder_decoder", "depth": 2, "width": 8, "epochs": 1, "size": "32x32"}
    config = TrainConfig.model_validate(usual | changes)
    data = DataConfig(layout="sample")
    split = freeze_split(data)
    train, val = (decoded(data, split, part, config.size) for part in ("train", "val"))
    trainer = Trainer(config, train=train, val=val, classes=len(resolve_classes(data)), folder=folder, device="cpu")
    curve = tuple(trainer.epochs())
    document = {
        "search": "shapes", "space": "small", "trial": 3, "outcome": "completed",
        "score": {
            "objective": "val_miou", "resolution": "network", "value": curve[-1].val_miou,
            "val_miou": curve[-1].val_miou, "epoch": 1, "epochs": 1,
        },
        "config": config.model_dump(mode="json"),
        "data": {**data.model_dump(mode="json"), "root": str(folder), "digest": split.digest},
        "versions": {"torch": "2"},
    }  # fmt: skip
    return Training(
        name="shapes",
        document=document,
        split=split,
        weights=folder / "best.safetensors",
        effective=trainer.effective(),
        curve=curve,
        code=own_code(config, data),
    )


@pytest.fixture(scope="session")
def train_on_sample() -> Callable[[Path, dict[str, Any]], Any]:
    """Trains one epoch on the built-in sample: (folder, changes of the configuration) -> Training."""
    return _train


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A training of a small network of our own."""
    return _train(tmp_path_factory.mktemp("training"), {})


@pytest.fixture(scope="session")
def shapes_bundle(shapes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle, with both programs. Not to be changed: tests that do take a copy."""
    from tunesearch.production.bundle import write_bundle

    folder = tmp_path_factory.mktemp("bundle") / "model"
    write_bundle(shapes, folder)
    return folder
