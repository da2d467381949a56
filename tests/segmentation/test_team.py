"""Several processes that train one network. Oracle: one process, whose micro-batches are the members' shares.

Without batch norm a share is a micro-batch, whatever the loss: pixel losses are divided by what counts in the whole
batch, region losses by images. With them the members' own batch norms see the images that a micro-batch sees.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.models import build_model
from tunesearch.segmentation.team import synchronised

MEMBER = """
import json, sys
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

def train(fields, images, stop=0, folder=None, team=None):
    trainer = Trainer(TrainConfig.model_validate(fields), train=scenes(images, 0), val=scenes(9, 1), classes=3,
                      folder=folder, device="cpu", team=team)
    curve = []
    for metrics in trainer.epochs():
        curve.append(metrics.as_dict())
        if metrics.epoch == stop:
            break
    return curve, {name: tensor.sum().item() for name, tensor in trainer.model.state_dict().items()}

def member(rank, size, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    for name, cases in json.loads(Path(folder, "cases.json").read_text()).items():
        Path(folder, name).mkdir(exist_ok=True)
        results = []
        for case in cases:
            results.append(train(*case, folder=Path(folder, name), team=Team(rank, size)))
            dist.barrier()  # a session begins when the one before has ended: its last checkpoint is written by then
        Path(folder, f"{name}-{rank}.json").write_text(json.dumps(results))

if __name__ == "__main__":
    member(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
"""

BASE = {
    "architecture": "conv_stack", "depth": 2, "width": 4, "size": "32x32", "batch_size": 8, "epochs": 3, "lr": 0.01,
    "augmentation_strength": 0.7, "precision": "float32", "schedule": "cosine", "grad_clip": 0.5,
}  # fmt: skip

DROPOUT = {**BASE, "dropout": 0.3, "ema_decay": 0.7}
NORMS = {**BASE, "architecture": "encoder_decoder", "batch_norm": True}
CASES: dict[str, list[Any]] = {  # trainings in one folder, one after the other: fields, images, last epoch
    "cross_entropy": [({**BASE, "class_weights": "inverse_frequency", "ema_decay": 0.7}, 19, 0)],
    "hard_pixels": [({**BASE, "loss": "focal", "hard_pixels": 0.5, "micro_batch": 3}, 19, 0)],
    "batches_of_one": [({**BASE, "batch_size": 1}, 4, 0)],  # too small for two: both do all of it
    "dice": [({**BASE, "loss": "0.5*cross_entropy + dice", "optimizer": "sgd"}, 16, 0)],
    "norms": [(NORMS, 16, 0)],
    "whole": [(DROPOUT, 16, 0)],
    "parts": [(DROPOUT, 16, 1), (DROPOUT, 16, 0)],
}
"""Of 19 images a batch of three is left over."""

Curve = list[dict[str, Any]]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Curve]]:
    """The curves of all cases by two members, who see the same one and end with the same weights."""
    folder = tmp_path_factory.mktemp("team")
    (folder / "member.py").write_text(MEMBER)
    (folder / "cases.json").write_text(json.dumps(CASES))
    script = [sys.executable, "-W", "ignore", str(folder / "member.py")]
    members = [subprocess.Popen([*script, str(rank), "2", str(folder)]) for rank in range(2)]
    assert [member.wait(timeout=500) for member in members] == [0, 0]
    curves = {}
    for name in CASES:
        first, second = (json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(2))
        for (curve, state), (other, other_state) in zip(first, second, strict=True):
            assert state == other_state
            assert [timeless(epoch) for epoch in curve] == [timeless(epoch) for epoch in other]
        curves[name] = [curve for curve, _ in first]
    return curves


@pytest.fixture(scope="module")
def alone() -> Iterator[Callable[..., Curve]]:
    """The same training in this process, with fields of its own."""
    space: dict[str, Any] = {"__name__": "member"}
    exec(MEMBER, space)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def train(name: str, **fields: Any) -> Curve:
        ((base, images, _),) = CASES[name]
        return list(space["train"]({**base, **fields}, images)[0])

    yield train
    torch.set_num_threads(threads)


def timeless(epoch: dict[str, Any]) -> dict[str, Any]:
    times = ("train_seconds", "val_seconds", "images_per_second", "finished_at")
    return {name: value for name, value in epoch.items() if name not in times}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fields"),
    [("cross_entropy", {}), ("hard_pixels", {}), ("batches_of_one", {}), ("dice", {"micro_batch": 4})],
)
def test_two_members_are_one_process(
    together: dict[str, list[Curve]], alone: Callable[..., Curve], name: str, fields: dict[str, Any]
) -> None:
    """Up to float32's rounding, which adds up in another order."""
    for one, other in zip(together[name][0], alone(name, **fields), strict=True):
        for metric in ("train_loss", "val_loss", "val_miou", "val_pixel_accuracy", "lr", "updates"):
            assert one[metric] == pytest.approx(other[metric], rel=1e-4), (one["epoch"], metric)


@pytest.mark.slow
def test_own_batch_norms_see_what_a_micro_batch_sees(
    together: dict[str, list[Curve]], alone: Callable[..., Curve]
) -> None:
    """The training is that of micro-batches; the running statistics, and so the validation, are the first member's."""
    one, other = together["norms"][0], alone("norms", micro_batch=4)
    assert [e["train_loss"] for e in one] == pytest.approx([e["train_loss"] for e in other], rel=1e-3)
    assert [e["val_loss"] for e in one] != pytest.approx([e["val_loss"] for e in other], rel=1e-3)


@pytest.mark.slow
def test_stopped_and_started_again(together: dict[str, list[Curve]]) -> None:
    """Exactly the same, also dropout: every member's random numbers are those of its epoch."""
    first, rest = together["parts"]
    assert [timeless(epoch) for epoch in first + rest] == [timeless(epoch) for epoch in together["whole"][0]]


@pytest.mark.parametrize("encoder", ["mobilenet_v2", "timm-tf_efficientnet_lite0"])
def test_synchronised_norms_are_the_same_network(encoder: str) -> None:
    """Oracle: the network before, in evaluation (training needs CUDA). Its frozen norms stay frozen."""
    config = TrainConfig(architecture="encoder_unet", encoder=encoder, finetune_fraction=0.5)
    model = build_model(config, 3)
    frozen = [name for name, module in model.named_modules() if module in set(model.freezing.frozen_norms)]
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.eval()(images)
        converted = synchronised(model)
        found = converted.eval()(images)
    norms = [module for module in converted.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms)
    torch.testing.assert_close(found, expected)
    converted.train()
    assert frozen
    assert [converted.get_submodule(name).training for name in frozen] == [False] * len(frozen)
    assert sum(norm.training for norm in norms) == len(norms) - len(frozen)
