"""Report C's encoder-decoder. Oracles: parameter counts worked out by hand, and what a switched-off part would do."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.models import build_model
from tunesearch.segmentation.reports.encoder_decoder import EncoderDecoder


def network(classes: int = 3, **fields: Any) -> EncoderDecoder:
    config = TrainConfig(architecture="encoder_decoder", **{"depth": 2, "width": 4, **fields})
    built: EncoderDecoder = build_model(config, classes).network
    return built


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# Channels: 3-4-12, then 12-4 and 4-3. A 3x3 convolution from i to o has 9io + o parameters.
PLAIN = (108 + 4) + (432 + 12) + (432 + 4) + (108 + 3)


@pytest.mark.parametrize(
    ("fields", "more"),
    [
        ({}, 0),
        ({"upsampling": "bilinear"}, 0),
        ({"upsampling": "nearest"}, 0),
        ({"upsampling": "transposed"}, (4 * 4 * 4 + 4) + (4 * 3 * 3 + 3)),  # 2x2, channels kept: 4, and the 3 classes
        # 4-4 and 12-12 in the encoder; 4-4 in the first decoder block, and in the last one before its classifier.
        ({"double_conv": True}, (144 + 4) + (1296 + 12) + (144 + 4) + (144 + 4)),
        ({"batch_norm": True}, 2 * (4 + 12 + 4)),  # none on the classifier
        ({"skip_connections": True}, 9 * 4 * 3),  # 4 more channels into the classifier
        ({"residual": True}, (3 * 4 + 4) + (4 * 12 + 12)),  # 1x1
        ({"dropout": 0.5}, 0),
        # 4-4, 12-12, 4-4 and 4-4 as above, each with its norm now; the transposed convolution keeps 4 channels in both.
        (
            {"double_conv": True, "batch_norm": True, "upsampling": "transposed"},
            1752 + 2 * (4 + 4 + 12 + 12 + 4 + 4 + 4) + 2 * (4 * 4 * 4 + 4),
        ),
    ],
)
def test_each_option_adds_its_parameters(fields: dict[str, Any], more: int) -> None:
    assert count(network(**fields)) == PLAIN + more


def test_six_blocks_have_report_c_s_channels() -> None:
    channels = (3, 30, 90, 270, 810, 2430, 2430, 2430, 810, 270, 90, 30, 10)
    with torch.device("meta"):
        model = network(10, depth=6, width=30)
    assert count(model) == sum(9 * i * o + o for i, o in itertools.pairwise(channels))


def test_residual_needs_no_projection_between_equal_widths() -> None:
    """Blocks 5 and 6 both have 81 times the width."""
    with torch.device("meta"):
        shortcuts = [block.shortcut for block in network(depth=6, residual=True).down]
    assert [type(shortcut) for shortcut in shortcuts] == [nn.Conv2d] * 5 + [nn.Identity]


def zero(layers: nn.Module, *, which: Callable[[nn.Module], bool] = lambda _: True) -> None:
    with torch.no_grad():
        for module in layers.modules():
            if isinstance(module, nn.Conv2d) and which(module):
                module.weight.zero_()
                assert module.bias is not None
                module.bias.zero_()


def test_the_residual_path_carries_the_input() -> None:
    """With every 3x3 convolution of the encoder zeroed, only shortcuts are left."""
    images = torch.rand(1, 3, 32, 32)
    for residual in (True, False):
        model = network(residual=residual).eval()
        zero(model.down, which=lambda module: module.kernel_size == (3, 3))
        features = images
        for block in model.down:
            features = block(features)
        assert bool(features.any()) == residual


def test_skip_connections_carry_the_encoder_past_the_bottleneck() -> None:
    """With the first decoder block silent, only skip connections tell one image from another."""
    images = torch.rand(2, 3, 32, 32)
    for skips in (True, False):
        model = network(skip_connections=skips).eval()
        zero(model.up[0])
        one, other = model(images)
        assert torch.equal(one, other) != skips


@pytest.mark.parametrize(
    ("place", "expected"), [("encoder", (True, False)), ("decoder", (False, True)), ("both", (True, True))]
)
def test_dropout_stands_where_it_is_told(place: str, expected: tuple[bool, bool]) -> None:
    """Behind the encoder; and before the classifier, the last of the 3x3 convolutions."""
    for double_conv in (False, True):
        model = network(dropout=0.3, dropout_places=place, double_conv=double_conv)
        classifier = [index for index, module in enumerate(model.up[-1]) if isinstance(module, nn.Conv2d)][-1]
        before = model.up[-1][classifier - 1]
        assert (isinstance(model.dropout, nn.Dropout2d), isinstance(before, nn.Dropout2d)) == expected
        assert {module.p for module in model.modules() if isinstance(module, nn.Dropout2d)} == {0.3}


def test_upsampling_is_of_the_kind_that_is_named() -> None:
    """Oracle: torch.nn.functional.interpolate; corners aligned as in torch's UpsamplingBilinear2d."""
    x = torch.rand(1, 4, 3, 5)
    for kind, more in (("bilinear", {"align_corners": True}), ("nearest", {})):
        (doubling,) = [module for module in network(upsampling=kind).up[0] if isinstance(module, nn.Upsample)]
        expected: Tensor = nn.functional.interpolate(x, scale_factor=2, mode=kind, **more)
        assert torch.equal(doubling(x), expected)
    default, bilinear = (network(upsampling=kind).up[0] for kind in ("default", "bilinear"))
    assert str(default) == str(bilinear)
    assert sum(isinstance(module, nn.ConvTranspose2d) for module in network(upsampling="transposed").modules()) == 2


def test_logits_may_be_negative() -> None:
    torch.manual_seed(0)
    assert (network(batch_norm=True).eval()(torch.rand(4, 3, 32, 32)) < 0).any()
