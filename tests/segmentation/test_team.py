"""Several processes that train one network. Oracle: one process, with the micro-batches that the members have as shares.

Without batch norm a share is a micro-batch, whatever the loss: pixel losses are divided by what counts in the whole
batch, region losses by images. With them the members' own batch norms see the images that a micro-batch sees.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MEMBER = """
import json, sys
from dataclasses import asdict
from pathlib import Path
import numpy as np, torch
import torch.distributed as dist
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.data.cache import DecodedPart
from tunesearch.segmentation.team import Team
from tunesearch.segmentation.trainer import Trainer

def scenes(count, seed):
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, 32, 32), np.uint8)
    for number in range(count):
        top, left = rng.integers(0, 18, 2)
        masks[number, top : top + 14, left : left + 14] = 1 + number % 2
        masks[number, : 1 + 28 * number // count] = 255
    images = rng.integers(60, 256, (count, 32, 32, 3), np.uint8)
    for label in (1, 2):
        images[masks == label, label] //= 4
    return DecodedPart(images, masks, tuple(map(str, range(count))))

torch.set_num_threads(1)
rank, size, folder, store, stop, fields = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:7]
if size > 1:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
trainer = Trainer(TrainConfig.model_validate_json(fields), train=scenes(19, 0), val=scenes(9, 1), classes=3,
                  folder=Path(folder), device="cpu", team=Team(rank, size))
curve = []
for metrics in trainer.epochs():
    curve.append(metrics.as_dict())
    if metrics.epoch == int(stop):
        break
Path(folder, f"curve-{rank}-{trainer.epoch}.json").write_text(json.dumps(curve))
state = {name: tensor.sum().item() for name, tensor in trainer.model.state_dict().items()}
Path(folder, f"state-{rank}.json").write_text(json.dumps(state))
"""

BASE = {
    "architecture": "conv_stack", "depth": 2, "width": 4, "size": "32x32", "batch_size": 8, "epochs": 3, "lr": 0.01,
    "augmentation_strength": 0.7, "precision": "float32", "schedule": "cosine", "grad_clip": 0.5,
}  # fmt: skip
"""19 images: batches of 8, 8 and 3."""


def train(folder: Path, size: int, *, stop: int = 0, **fields: Any) -> list[dict[str, Any]]:
    """The curve as the first member saw it; all members see the same one and end with the same weights."""
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / f"store-{stop}"
    script = [sys.executable, "-W", "ignore", "-c", MEMBER]
    arguments = [str(size), str(folder), str(store), str(stop), json.dumps({**BASE, **fields})]
    members = [subprocess.Popen([*script, str(rank), *arguments]) for rank in range(size)]
    assert [member.wait(timeout=300) for member in members] == [0] * size
    epochs = stop or BASE["epochs"]
    curves = [json.loads((folder / f"curve-{rank}-{epochs}.json").read_text()) for rank in range(size)]
    states = [(folder / f"state-{rank}.json").read_text() for rank in range(size)]
    scores = [[(epoch["train_loss"], epoch["val_loss"], epoch["val_iou"]) for epoch in curve] for curve in curves]
    assert all(other == scores[0] for other in scores[1:])
    assert all(other == states[0] for other in states[1:])
    return list(curves[0])


def assert_same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    assert [epoch["epoch"] for epoch in one] == [epoch["epoch"] for epoch in other]
    for a, b in zip(one, other, strict=True):
        for name in ("train_loss", "val_loss", "val_miou", "val_pixel_accuracy"):
            assert a[name] == pytest.approx(b[name], rel=1e-4), (a["epoch"], name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "alone"),
    [
        ({"loss": "cross_entropy", "class_weights": "inverse_frequency", "ema_decay": 0.7}, {}),
        ({"loss": "focal", "hard_pixels": 0.5, "micro_batch": 3}, {}),
        ({"loss": "0.5*cross_entropy + dice", "optimizer": "sgd"}, {"micro_batch": 4}),
    ],
    ids=["cross_entropy", "hard_pixels", "with_dice"],
)
def test_two_members_are_one_process(tmp_path: Path, fields: dict[str, Any], alone: dict[str, Any]) -> None:
    assert_same(train(tmp_path / "two", 2, **fields), train(tmp_path / "one", 1, **{**fields, **alone}))


@pytest.mark.slow
def test_a_batch_too_small_for_all_is_done_by_all(tmp_path: Path) -> None:
    """Four members and a last batch of three images."""
    assert_same(train(tmp_path / "four", 4), train(tmp_path / "one", 1))


@pytest.mark.slow
def test_own_batch_norms_see_what_a_micro_batch_sees(tmp_path: Path) -> None:
    """The training loss is that of micro-batches; the running statistics, and so the validation, are the first's."""
    fields = {"architecture": "encoder_decoder", "batch_norm": True}
    two, one = train(tmp_path / "two", 2, **fields), train(tmp_path / "one", 1, **fields, micro_batch=4)
    assert [epoch["train_loss"] for epoch in two] == pytest.approx([epoch["train_loss"] for epoch in one], rel=1e-3)
    assert [epoch["val_loss"] for epoch in two] != pytest.approx([epoch["val_loss"] for epoch in one], rel=1e-3)


@pytest.mark.slow
def test_stopped_and_started_again(tmp_path: Path) -> None:
    """Also dropout goes on as it would have: every member's own random numbers are those of its epoch."""
    fields = {"dropout": 0.3, "ema_decay": 0.7}
    whole = train(tmp_path / "whole", 2, **fields)
    first = train(tmp_path / "parts", 2, stop=1, **fields)
    rest = train(tmp_path / "parts", 2, **fields)
    assert [{**epoch, **_NO_TIMES} for epoch in (*first, *rest)] == [{**epoch, **_NO_TIMES} for epoch in whole]


_NO_TIMES = dict.fromkeys(("train_seconds", "val_seconds", "images_per_second", "finished_at"))
