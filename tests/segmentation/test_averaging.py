"""The moving average of the weights. Oracles: its formula in NumPy; the network itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tunesearch.errors import WeightsError
from tunesearch.segmentation.averaging import WeightAverage
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.data.cache import DecodedPart
from tunesearch.segmentation.trainer import Trainer


def test_by_hand() -> None:
    """Update t mixes with min(d, (1 + t) / (10 + t)) of the average, the first takes the weights as they are."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    average = WeightAverage(model, 0.3)
    names = ["0.weight", "1.running_mean"]
    expected: dict[str, np.ndarray] = {}
    for t in range(6):
        with torch.no_grad():
            for tensor in (model[0].weight, model[1].running_mean):
                tensor.normal_()
            model[1].num_batches_tracked.fill_(t)
        average.update(model)
        decay = min(0.3, (1 + t) / (10 + t))
        for name in names:
            value = model.state_dict()[name].numpy().astype(np.float64)
            expected[name] = value.copy() if t == 0 else decay * expected[name] + (1 - decay) * value
    averaged = average.model.state_dict()
    for name in names:
        np.testing.assert_allclose(averaged[name].numpy(), expected[name], rtol=1e-5, atol=1e-6)
    assert averaged["1.num_batches_tracked"] == 5
    # decays: 0 (copied), 2/11, 3/12, then 0.3


def scenes(count: int, seed: int) -> DecodedPart:
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, 32, 32), np.uint8)
    masks[:, 8:24, 4:20] = 1
    images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    images[masks == 1, 0] //= 4
    return DecodedPart(images, masks, tuple(map(str, range(count))))


def trainer(folder: Path | None = None, **fields: object) -> Trainer:
    base = {"architecture": "encoder_decoder", "depth": 2, "width": 4, "batch_norm": True, "size": "32x32"}
    usual = {"batch_size": 4, "epochs": 3, "lr": 0.02, "augmentation": "none", "precision": "float32"}
    config = TrainConfig.model_validate({**base, **usual, **fields})
    return Trainer(config, train=scenes(12, 0), val=scenes(6, 1), classes=2, folder=folder, device="cpu")


def test_it_is_what_is_validated_and_kept(tmp_path: Path) -> None:
    """The training itself is the one without it; the scores and the best weights are those of the average."""
    plain, averaged = trainer(), trainer(tmp_path, ema_decay=0.9)
    one, other = list(plain.epochs()), list(averaged.epochs())
    assert [metrics.train_loss for metrics in one] == [metrics.train_loss for metrics in other]
    assert [metrics.val_loss for metrics in one] != [metrics.val_loss for metrics in other]
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, averaged.model.state_dict()[name])
    # The best weights give the best epoch's scores, without any average.
    best = averaged.best
    assert best is not None
    averaged.load_best()
    averaged.average = None
    loss, _, _ = averaged._validate()
    assert loss == pytest.approx(best.val_loss, rel=1e-6)


def test_a_damaged_file_of_weights_is_told(tmp_path: Path) -> None:
    one = trainer(tmp_path, epochs=1)
    list(one.epochs())
    file = tmp_path / "best.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(WeightsError, match=r"best\.safetensors: must be a readable weight file"):
        one.load_best()
    other = trainer(tmp_path / "other", epochs=1, width=5)
    list(other.epochs())
    file.write_bytes((tmp_path / "other" / "best.safetensors").read_bytes())
    with pytest.raises(WeightsError, match="must hold the weights of this network"):
        one.load_best()
