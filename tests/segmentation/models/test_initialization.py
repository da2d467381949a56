"""How weights start. Oracles: the formulas of Glorot and Bengio (2010) and He et al. (2015), the tensors of a file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.models import build_model

KINDS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def deviation(kind: str, weight: torch.Tensor) -> float:
    """torch counts a weight's second dimension as what comes in, and its first as what goes out."""
    field = math.prod(weight.shape[2:])
    fan_in, fan_out = weight.shape[1] * field, weight.shape[0] * field
    return math.sqrt(2 / (fan_in + fan_out)) if kind == "xavier" else math.sqrt(2 / fan_in)


def assert_drawn(kind: str, network: nn.Module) -> int:
    """Every weight has mean 0 and the formula's deviation, within 5 standard errors, and no bias; gives how many."""
    layers = [module for module in network.modules() if isinstance(module, KINDS)]
    for layer in layers:
        weight = layer.weight.detach()
        expected, n = deviation(kind, weight), weight.numel()
        if n > 500:
            assert abs(float(weight.mean())) < 5 * expected / math.sqrt(n)
            assert float(weight.std()) == pytest.approx(expected, rel=5 / math.sqrt(2 * n))
        assert layer.bias is None or not layer.bias.any()
    return len(layers)


@pytest.mark.parametrize("kind", ["xavier", "he"])
@pytest.mark.parametrize("architecture", ["conv_deconv", "unet_small", "encoder_unet", "segformer", "linknet"])
def test_every_convolution_is_drawn(kind: str, architecture: str) -> None:
    """The encoder's too where it has no weights of its own; a batch norm is left as it is."""
    torch.manual_seed(0)
    config = TrainConfig(architecture=architecture, encoder="mobilenet_v2", initialization=kind)
    network = build_model(config, 5).network
    assert assert_drawn(kind, network) > 10
    assert all(bool((module.weight == 1).all()) for module in network.modules() if isinstance(module, nn.BatchNorm2d))


def test_default_leaves_what_was_built() -> None:
    """torch's own: uniform, of deviation sqrt(1 / (3 fan_in)), within the bound sqrt(1 / fan_in)."""
    torch.manual_seed(0)
    network = build_model(TrainConfig(architecture="conv_deconv"), 5).network
    weight = network.down[3].weight.detach()  # 32 -> 64
    assert float(weight.abs().max()) <= math.sqrt(1 / (32 * 9))
    assert float(weight.std()) == pytest.approx(math.sqrt(1 / (3 * 32 * 9)), rel=0.02)


@pytest.mark.data
@pytest.mark.parametrize("kind", ["xavier", "he"])
def test_pretrained_weights_are_left_alone(test_data: Path, kind: str) -> None:
    weights = test_data / "weights"
    config = TrainConfig(
        architecture="upsampling_decoder", encoder="mobilenet_v2", encoder_weights="imagenet", initialization=kind
    )
    network = build_model(config, 5, encoder_weights=weights).network
    state = torch.load(weights / "mobilenet_v2.pth", map_location="cpu", weights_only=True)
    for name, tensor in network.encoder.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert assert_drawn(kind, network.decoder) == 5


def test_one_s_own_network_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold pretrained weights, and can read the field itself."""
    (tmp_path / "own_network_of_test_initialization.py").write_text(
        "from torch import nn\n"
        "def network(config, classes):\n"
        "    layer = nn.Conv2d(3, classes, 1)\n"
        "    nn.init.constant_(layer.weight, 0.5)\n"
        "    return layer\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = TrainConfig(architecture="own_network_of_test_initialization:network", initialization="he")
    assert (build_model(config, 3).network.weight == 0.5).all()
