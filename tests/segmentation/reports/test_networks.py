"""The networks of the reports. Oracles: counts that the reports print, sums worked out by hand, torchvision's VGG16."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18, vgg16

from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.models import SegmentationModel, build_model
from tunesearch.segmentation.reports.deconvolution import EncoderDeconv
from tunesearch.segmentation.reports.upsampling import UpsamplingDecoder


def built(classes: int, **fields: object) -> SegmentationModel:
    """On the meta device: instant, whatever the size."""
    with torch.device("meta"):
        return build_model(TrainConfig.model_validate(fields), classes)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def convs(channels: Sequence[int], kernel: int = 3) -> int:
    """Weights and biases of a chain of convolutions; transposed ones have as many."""
    return sum(kernel * kernel * i * o + o for i, o in itertools.pairwise(channels))


def test_fcn_has_the_weights_that_report_e_prints() -> None:
    model = built(21, architecture="fcn")
    assert count(model) == 34_397_525
    for name, printed in (("hidden.0", 25_691_136), ("hidden.3", 1_049_600), ("classifier", 21_525)):
        assert count(model.network.get_submodule(name)) == printed
    with torch.device("meta"):
        theirs = vgg16().features[:24].state_dict()
    ours = model.network.features.state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in theirs.items()}


def test_unet_bn_is_report_e_s_with_norms_in_the_decoder() -> None:
    """A weight and a bias per channel behind two convolutions of 512, 256, 128 and 64 channels."""
    assert count(built(21, architecture="unet_bn")) == 31_040_981 + 2 * 2 * (512 + 256 + 128 + 64)
    network = built(21, architecture="unet_bn").network
    kinds = [type(module) for module in network.merge[0]]
    assert kinds == [nn.Conv2d, nn.ReLU, nn.BatchNorm2d] * 2
    assert [type(module) for module in network.down[0]] == kinds


def test_unet_deep() -> None:
    """Sum over the layers in the module's docstring."""
    down = (10, 32, 64, 128, 256, 512, 1024)
    norms = 2 * (2 * 10 + 2 * sum(down[1:]) + sum(down[:-1]))
    pairs = list(itertools.pairwise(reversed(down)))
    expected = convs((3, 10, 10)) + sum(convs((i, o, o)) for i, o in itertools.pairwise(down)) + norms
    expected += sum(convs(pair, kernel=2) + convs((2 * pair[1], pair[1])) for pair in pairs) + convs((10, 10), kernel=1)
    assert count(built(10, architecture="unet_deep")) == expected


def test_resunet_has_the_weights_of_the_paper() -> None:
    """Zhang et al. name 7.8 million. Ours has 1x1 convolutions in the shortcuts besides."""
    network = built(1, architecture="resunet").network
    square = [m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(square) == 14  # two in each of seven units
    assert round(sum(square) / 1e6, 1) == 7.8


def test_conv_stack_is_model_0_of_report_c() -> None:
    assert count(built(10, architecture="conv_stack", depth=4, width=30)) == convs((3, 30, 90, 270, 810, 10))
    # At most 81 times the width.
    assert count(built(10, architecture="conv_stack", depth=6, width=4)) == convs((3, 4, 12, 36, 108, 324, 324, 10))


def test_conv_deconv_is_the_baseline_of_report_d() -> None:
    down, up = (3, 32, 64, 128, 256, 512), (512, 512, 256, 128, 64, 32)
    norms = 2 * (sum(down[1:]) + sum(up[1:]))
    assert count(built(21, architecture="conv_deconv")) == convs(down) + convs(up) + norms + convs((32, 21), kernel=1)


def test_max_unpooling_has_the_sizes_of_report_d_s_table() -> None:
    """At 224x224: 108, 54, pool 27, 14, 7, pool 3, 2, 1, and back."""
    model = built(21, architecture="max_unpooling")
    sides: list[int] = []

    def note(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, Tensor]) -> None:
        sides.append((output[0] if isinstance(output, tuple) else output).shape[-1])

    for module in model.network.children():
        module.register_forward_hook(note)
    model.eval()(torch.zeros(1, 3, 224, 224, device="meta"))
    assert sides == [108, 54, 27, 14, 7, 3, 2, 1, 2, 3, 7, 14, 27, 54, 108, 224, 224, 224]
    down, up = (32, 64, 128, 256, 512, 1024), (1024, 512, 256, 128)
    expected = convs((3, 32), kernel=11) + convs(down) + convs(up) + convs((128, 64), kernel=7)
    expected += convs((64, 32)) + convs((32, 32), kernel=12) + convs((32, 21), kernel=1)
    expected += 2 * (sum(down) + sum(up[1:]) + 64 + 32 + 32)
    assert count(model) == expected


@pytest.mark.parametrize("side", [46, 48, 50, 62, 64, 100, 226])
def test_max_unpooling_closes_at_any_even_size(side: int) -> None:
    network = built(3, architecture="max_unpooling").network.eval()
    assert network(torch.zeros(1, 3, side, side + 2, device="meta")).shape == (1, 3, side, side + 2)


def test_max_unpooling_puts_features_where_they_were() -> None:
    """Oracle: of every 2x2 field one value at most is not zero, and that one stood at the pooling's maximum."""
    torch.manual_seed(0)
    network = build_model(TrainConfig(architecture="max_unpooling"), 3).network.eval()
    seen: list[tuple[tuple[Tensor, ...], object]] = []
    for module in (network.pool, network.unpool):
        module.register_forward_hook(lambda _, inputs, output: seen.append((inputs, output)))
    with torch.inference_mode():
        network(torch.rand(1, 3, 64, 64))
    (features, _), _, _, (_, unpooled) = ((inputs[0], output) for inputs, output in seen)
    assert isinstance(unpooled, Tensor)
    assert unpooled.shape == features.shape
    even = features[..., : features.shape[-2] // 2 * 2, : features.shape[-1] // 2 * 2]
    fields = even.unfold(2, 2, 2).unfold(3, 2, 2)
    highest = fields.amax(dim=(-2, -1), keepdim=True) == fields
    filled = unpooled[..., : even.shape[-2], : even.shape[-1]].unfold(2, 2, 2).unfold(3, 2, 2) != 0
    assert filled.any()
    assert not (filled & ~highest).any()


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        ("densenet201", 22_908_835),  # report B
        # Report B's 63,298,723 less what Keras' ResNet152V2 has and timm's has not: biases of the first convolution, of
        # the last one of 3, 8, 36 and 3 blocks and of four shortcuts, and a batch norm of 2048 channels at the end.
        (
            "tu-resnetv2_152",
            63_298_723 - 64 - (3 * 256 + 8 * 512 + 36 * 1024 + 3 * 2048) - (256 + 512 + 1024 + 2048) - 2 * 2048,
        ),
        # Simonyan and Zisserman's 13 convolutions are 14,714,688; the decoder starts from 512 channels.
        ("vgg16", 14_714_688 + convs((512, 256, 128, 64, 32, 16)) + convs((16, 3), kernel=1)),
        # Chollet's Xception has 22,855,952, of them 2,049,000 in its classifier.
        ("xception", 22_855_952 - 2_049_000 + convs((2048, 256, 128, 64, 32, 16)) + convs((16, 3), kernel=1)),
    ],
)
def test_upsampling_decoder_is_report_b_s(encoder: str, expected: int) -> None:
    assert count(built(3, architecture="upsampling_decoder", encoder=encoder)) == expected


def test_upsampling_decoder_has_report_b_s_layers() -> None:
    fields = {"architecture": "upsampling_decoder", "encoder": "resnet18", "dropout": 0.2, "decoder_width": 40}
    decoder = built(3, **fields).network.decoder
    assert [type(module) for module in decoder] == [nn.Upsample, nn.Conv2d, nn.LeakyReLU, nn.Dropout] * 5
    assert {module.negative_slope for module in decoder if isinstance(module, nn.LeakyReLU)} == {0.3}  # Keras'
    assert [module.out_channels for module in decoder if isinstance(module, nn.Conv2d)] == [40, 20, 10, 5, 2]


def test_deconv_decoder_is_report_d_s_on_resnet18() -> None:
    """torchvision's ResNet-18 without its classifier; frozen, the decoder alone is trained."""
    with torch.device("meta"):
        encoder = count(resnet18()) - (512 * 1000 + 1000)
    up = (512, 512, 256, 128, 64, 32)
    decoder = convs(up) + 2 * sum(up[1:]) + convs((32, 21), kernel=1)
    fields = {"architecture": "deconv_decoder", "encoder": "resnet18"}
    assert count(built(21, **fields)) == encoder + decoder
    assert count(built(21, **fields, finetune_fraction=0.0)) == decoder


class Strided(nn.Module):
    """An encoder of one convolution."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.out_channels = [3, 8]
        self.conv = nn.Conv2d(3, 8, stride, stride=stride)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, self.conv(x)]


@pytest.mark.parametrize("network", [EncoderDeconv, UpsamplingDecoder])
@pytest.mark.parametrize("stride", [8, 16, 32, 64])
def test_an_encoder_that_ends_elsewhere_gives_logits_at_the_input_s_size(network: type, stride: int) -> None:
    logits = network(Strided(stride), 4).eval()(torch.rand(1, 3, 64, 128))
    assert logits.shape == (1, 4, 64, 128)
