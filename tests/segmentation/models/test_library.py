"""Networks on encoders. Oracles: segmentation-models-pytorch called directly, torchvision's counts."""

from __future__ import annotations

from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from tunesearch.errors import Infeasible
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.models import SegmentationModel, build_model


def built(classes: int = 3, **fields: Any) -> SegmentationModel:
    with torch.device("meta"):
        return build_model(TrainConfig.model_validate({"encoder": "resnet18", **fields}), classes)


def shapes(model: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in model.state_dict().values()]


@pytest.mark.parametrize(
    ("architecture", "theirs"),
    [
        ("encoder_unet", smp.Unet),
        ("unetplusplus", smp.UnetPlusPlus),
        ("linknet", smp.Linknet),
        ("manet", smp.MAnet),
        ("fpn", smp.FPN),
        ("pspnet", smp.PSPNet),
        ("deeplabv3", smp.DeepLabV3),
        ("deeplabv3plus", smp.DeepLabV3Plus),
        ("pan", smp.PAN),
        ("upernet", smp.UPerNet),
        ("segformer", smp.Segformer),
    ],
)
def test_families_are_the_library_s(architecture: str, theirs: Any) -> None:
    """Same weights in the same order, and with the same numbers in them the same logits."""
    torch.manual_seed(0)
    ours = build_model(TrainConfig(architecture=architecture, encoder="mobilenet_v2"), 4).network.eval()
    reference = theirs("mobilenet_v2", encoder_weights=None, classes=4).eval()
    tensors = list(ours.state_dict().values())
    assert shapes(reference) == [tuple(tensor.shape) for tensor in tensors]
    reference.load_state_dict(dict(zip(reference.state_dict(), tensors, strict=True)))
    images = torch.rand(1, 3, 128, 128)
    with torch.inference_mode():
        assert torch.equal(ours(images), reference(images))


@pytest.mark.parametrize(("architecture", "theirs"), [("encoder_unet", smp.Unet), ("unetplusplus", smp.UnetPlusPlus)])
@pytest.mark.parametrize(
    ("depth", "width", "channels"),
    [(5, 256, (256, 128, 64, 32, 16)), (5, 64, (64, 32, 16, 8, 4)), (4, 100, (100, 50, 25, 12)), (3, 8, (8, 4, 2))],
)
def test_depth_and_width(architecture: str, theirs: Any, depth: int, width: int, channels: tuple[int, ...]) -> None:
    ours = built(architecture=architecture, encoder_depth=depth, decoder_width=width)
    with torch.device("meta"):
        reference = theirs("resnet18", encoder_depth=depth, encoder_weights=None, decoder_channels=channels, classes=3)
    assert shapes(ours.network) == shapes(reference)
    assert ours.multiple == 2**depth


def test_the_narrowest_decoder_has_one_channel_at_least() -> None:
    decoder = built(architecture="encoder_unet", decoder_width=8).network.decoder
    assert [block.conv1[0].out_channels for block in decoder.blocks] == [8, 4, 2, 1, 1]


@pytest.mark.parametrize("architecture", ["encoder_unet", "unetplusplus"])
def test_upsampling(architecture: str) -> None:
    for kind, expected in (("default", "nearest"), ("nearest", "nearest"), ("bilinear", "bilinear")):
        modules = built(architecture=architecture, upsampling=kind).network.decoder.modules()
        assert {module.interpolation_mode for module in modules if hasattr(module, "interpolation_mode")} == {expected}
    with pytest.raises(Infeasible, match=f"{architecture} has no transposed convolutions: upsampling must be default"):
        built(architecture=architecture, upsampling="transposed")


def test_what_the_forward_pass_does_not_reach_is_not_trained() -> None:
    """ResNet-18 of depth 4 does without its layer4, which its weight files have all the same."""
    with torch.device("meta"):
        layer4 = sum(parameter.numel() for parameter in resnet18().layer4.parameters())
    model = built(architecture="encoder_unet", encoder_depth=4)
    idle = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert sum(model.get_parameter(name).numel() for name in idle) == layer4
    assert all(name.startswith("network.encoder.layer4.") for name in idle)
    assert model.freezing is not None
    assert model.freezing.layers == model.freezing.trained == 20 - 5


def test_vgg16_of_depth_4_is_report_a_s() -> None:
    """Skip connections before the first four poolings, 1/1 to 1/8, the fifth pooling not used. Each decoder block takes
    the block below, or the bottleneck, and the skip: 512 + 512, 128 + 256, 64 + 128, 32 + 64 channels."""
    model = built(architecture="encoder_unet", encoder="vgg16", encoder_depth=4, decoder_width=256)
    features = model.network.encoder(torch.zeros(1, 3, 64, 64, device="meta"))
    assert [(f.shape[1], f.shape[2]) for f in features] == [(64, 64), (128, 32), (256, 16), (512, 8), (512, 4)]
    blocks = [block.conv1[0] for block in model.network.decoder.decoder.blocks]
    assert [block.in_channels for block in blocks] == [512 + 512, 256 + 256, 128 + 128, 64 + 64]
    assert [block.out_channels for block in blocks] == [256, 128, 64, 32]
    assert model.multiple == 16
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_skip_at_full_resolution_is_the_vgg_s_first_block() -> None:
    torch.manual_seed(0)
    config = TrainConfig(architecture="encoder_unet", encoder="vgg11", encoder_depth=4, decoder_width=8)
    network = build_model(config, 3).network.eval()
    seen: list[Tensor] = []
    network.decoder.decoder.blocks[-1].conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        first = network.encoder(images)[0]
        network(images)
    assert torch.equal(seen[0][:, -64:], first)
    assert first.shape == (1, 64, 32, 32)


@pytest.mark.parametrize("encoder", ["resnet18", "vgg11"])
@pytest.mark.parametrize("depth", [3, 4, 5])
def test_every_depth_trains(encoder: str, depth: int) -> None:
    config = TrainConfig(architecture="encoder_unet", encoder=encoder, encoder_depth=depth, decoder_width=8)
    model = build_model(config, 3).train()
    model(torch.rand(2, 3, 32, 32)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize("depth", [3, 4, 5])
@pytest.mark.parametrize("architecture", ["encoder_unet", "unetplusplus"])
def test_timm_s_networks_fit_at_any_depth(architecture: str, depth: int) -> None:
    """HRNet always goes down to 1/32."""
    model = built(architecture=architecture, encoder="tu-hrnet_w18_small", encoder_depth=depth).eval()
    assert model(torch.zeros(1, 3, 40, 72, device="meta")).shape == (1, 3, 40, 72)


def test_an_encoder_for_one_size_alone_is_infeasible() -> None:
    encoder = "tu-swin_tiny_patch4_window7_224"
    with pytest.raises(Infeasible, match=f"fpn cannot be built on encoder {encoder}: Input height"):
        built(architecture="fpn", encoder=encoder)
