"""Training in several processes through real Ray Train. Oracle: the same training in one process."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML

import tunesearch
from tunesearch.production.bundle import read_bundle
from tunesearch.production.training.setup import TrainingSetup
from tunesearch.production.training.train import train as train_production
from tunesearch.segmentation.epoch import EpochMetrics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("own_ray"),
    pytest.mark.timeout(1500),
]

OWN = {
    "architecture": "conv_stack", "depth": 2, "width": 4, "size": "32x32", "epochs": 3, "batch_size": 10,
    "loss": "focal", "class_weights": "inverse_frequency", "precision": "float32", "ema_decay": 0.8, "lr": 0.01,
}  # fmt: skip
"""No batch norm; 48 scenes: the last batch has 8."""


@pytest.fixture
def train(tmp_path: Path, mlflow_database: Callable[[Path], str]) -> Callable[..., dict[str, Any]]:
    uri = mlflow_database(tmp_path)

    def call(path: Path, output: str, **given: Any) -> dict[str, Any]:
        callbacks = {name: given.pop(name) for name in ("on_message", "on_epoch") if name in given}
        setup = TrainingSetup(output=tmp_path / output, tracking_uri=uri, storage=tmp_path, formats=(), **given)
        return train_production(path, setup, **callbacks)

    return call


def configuration(path: Path, **changes: Any) -> Path:
    YAML().dump({"config": {**OWN, **changes}, "data": {"layout": "sample"}}, path)
    return path


def curve(output: Path) -> list[dict[str, Any]]:
    return list(json.loads((output / "metrics.json").read_text())["epochs"])


def test_two_processes_are_one(tmp_path: Path, train: Callable[..., dict[str, Any]]) -> None:
    """Tolerance: 1e-4 relative, float32's rounding in another order over three epochs. Killed in the second epoch, one
    of them and then all of them, they go on from the last one."""
    best = configuration(tmp_path / "best.yaml")
    train(best, "one")
    killed: list[int] = []

    def kill(metrics: EpochMetrics) -> None:
        """SIGKILL for a member, once; Ray names its processes after what they run."""
        if metrics.epoch == 1 and not killed:
            below = psutil.Process().children(recursive=True)
            members = [process for process in below if "RayTrainWorker" in " ".join(process.cmdline())]
            killed.append(members[0].pid)
            os.kill(members[0].pid, signal.SIGKILL)

    said: list[str] = []
    result = train(best, "two", workers=2, on_epoch=kill, on_message=said.append)
    assert killed
    assert any("a process died" in text for text in said), said
    assert result["outcome"] == "completed"
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert [epoch["epoch"] for epoch in two] == [1, 2, 3]
    for a, b in zip(one, two, strict=True):
        for name in ("train_loss", "val_loss", "val_miou", "val_pixel_accuracy"):
            assert b[name] == pytest.approx(a[name], rel=1e-4), (a["epoch"], name)
    assert json.loads((tmp_path / "two" / "effective.json").read_text())["processes"] == 2
    assert read_bundle(tmp_path / "two").content["score"]["value"] == max(epoch["val_miou"] for epoch in two)
    assert not (tmp_path / "two.training").exists()


def test_what_a_process_raises_is_told(tiny_space: Path, tmp_path: Path, train: Callable[..., dict[str, Any]]) -> None:
    """One message, as without Ray, and at once; out of memory at the smallest micro-batch is an outcome."""
    broken = configuration(tiny_space.parent / "broken.yaml", architecture="tiny_model:broken")
    with pytest.raises(RuntimeError, match="this network cannot be built: on purpose"):
        train(broken, "broken", workers=2)
    said: list[str] = []
    full = configuration(tiny_space.parent / "full.yaml", architecture="tiny_model:never_fits", batch_size=4)
    result = train(full, "full", workers=2, on_message=said.append)
    assert result["outcome"] == "out_of_memory"
    assert [text for text in said if "out of memory" in text] == [
        "note: out of memory; going on with micro-batches of 1"
    ]
    with pytest.raises(tunesearch.InputError, match=r"--workers: must be at most the number of CPUs there are, 2"):
        train(configuration(tmp_path / "many.yaml"), "many", workers=64)
