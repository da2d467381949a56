"""Models without a training: networks whose answers are known, and the sample's split."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tunesearch.engine.asking import Asker
from tunesearch.experiment import load_experiment
from tunesearch.ledger.store import Ledger
from tunesearch.production.model import Model
from tunesearch.segmentation.config import ClassSpec, DataConfig, TrainConfig
from tunesearch.segmentation.data.splits import Split, freeze_split
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.models import build_model

EFFECTIVE = {
    "network": "Sequential", "encoder": None, "parameters": 285, "trained_parameters": 285, "threads": 1,
    "precision": "float32", "device": "cpu",
}  # fmt: skip


class Bright(nn.Module):
    """Class 1 where a pixel is brighter than the middle; the logits are ``sharpness`` apart per grey level."""

    def __init__(self, sharpness: float = 1.0, classes: int = 2) -> None:
        super().__init__()
        self.sharpness, self.classes = sharpness, classes

    def forward(self, images: Tensor) -> Tensor:
        grey = self.sharpness * (images.float().mean(dim=1, keepdim=True) - 127.5)
        rest = torch.full_like(grey, -1e4).expand(-1, self.classes - 2, -1, -1)
        return torch.cat([-grey, grey, rest], dim=1)


@pytest.fixture
def bright(tmp_path: Path) -> Callable[..., Model]:
    """Makes a model that tells bright from dark, at 48x32 unless told otherwise."""

    def make(
        name: str = "bright", *, network: nn.Module | None = None, classes: tuple[str, ...] = ("dark", "bright"),
        data: dict[str, Any] | None = None, split: Split | None = None, **config: Any,
    ) -> Model:  # fmt: skip
        specs = tuple(ClassSpec(name=one) for one in classes)
        return Model(
            name=name,
            network=network or Bright(classes=len(classes)),
            config=TrainConfig.model_validate({"size": "48x32", "precision": "float32", "batch_size": 4, **config}),
            data=DataConfig.model_validate({"layout": "folders", "mask_format": "index", **(data or {})}),
            classes=specs,
            split=split or Split(root=Path(), train=(), val=()),
            folder=tmp_path / name,
            fingerprint=name,
        )

    return make


@pytest.fixture
def searched(
    tiny_space: Path, tmp_path: Path, epoch_metrics: Callable[..., EpochMetrics], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The storage of a search ``a``: trial 0 completed with its weights, trial 1 failed; a quarter is set aside.

    Its network is the user's own, in a module beside the search-space file. It is not trained.
    """
    text = tiny_space.read_text().replace("{layout: sample}", "{layout: sample, test: 0.25}")
    tiny_space.write_text(text)
    experiment = load_experiment(tiny_space)
    settings = {"code": str(tiny_space.parent)}
    ledger = Ledger.create(tmp_path / "runs", "a", experiment, freeze_split(experiment.data), settings)
    for number, outcome in enumerate(("completed", "failed")):
        record = Asker(ledger).ask()
        assert record is not None
        ledger.commit_epoch(epoch_metrics(1, 0.5, val_iou=(0.5,) * 5), number=number, stopped=False)
        ledger.end(number, outcome)  # type: ignore[arg-type]
        if outcome == "completed":
            folder = ledger.trial_folder(number)
            folder.mkdir(parents=True)
            with pytest.MonkeyPatch.context() as patch:
                patch.syspath_prepend(tiny_space.parent)
                torch.manual_seed(7)
                save_file(build_model(record.config, 5).state_dict(), folder / "best.safetensors")
            (folder / "effective.json").write_text(json.dumps(EFFECTIVE))
    ledger.close()
    return tmp_path / "runs"
