"""Networks. Oracles: published parameter counts, sums worked out by hand, torchvision's normalize, NumPy's padding."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from tunesearch.errors import Infeasible, InputError
from tunesearch.segmentation import config as names
from tunesearch.segmentation.architectures import DESCRIPTIONS
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.models import NETWORKS, SegmentationModel, build_model
from tunesearch.segmentation.models.library import LIBRARY, encoder_problem


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make tiny networks slow wherever the machine does other work too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


SMALL = {"encoder_decoder": {"depth": 3, "width": 4, "batch_norm": True}, "conv_stack": {"depth": 3, "width": 4}}
"""Where the size is ours to choose."""


def config(architecture: str, **fields: object) -> TrainConfig:
    encoder = {} if architecture not in names.ENCODER_ARCHITECTURES else {"encoder": "mobilenet_v2"}
    return TrainConfig.model_validate(
        {"architecture": architecture, **encoder, **SMALL.get(architecture, {}), **fields}
    )


def trainable(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def pictures(height: int, width: int, count: int = 2) -> Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, 3, height, width), np.uint8))


def run(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.eval()(images)


def by_hand(widths: tuple[int, ...], classes: int) -> int:
    """Parameters of report E's U-Net, summed from its description."""

    def conv(inputs: int, outputs: int) -> int:
        return 3 * 3 * inputs * outputs + outputs

    encoder = sum(
        conv(i, o) + 2 * o + conv(o, o) + 2 * o  # a batch norm has a weight and a bias per channel
        for i, o in zip((3, *widths[:-1]), widths, strict=True)
    )
    decoder = sum(
        (2 * 2 * deep * shallow + shallow) + conv(2 * shallow, shallow) + conv(shallow, shallow)
        for shallow, deep in itertools.pairwise(widths)
    )
    return encoder + decoder + widths[0] * classes + classes


@pytest.mark.parametrize(
    ("name", "widths", "published"),
    [
        ("unet", (64, 128, 256, 512, 1024), 31_040_981),  # the summary that report E prints
        ("unet_medium", (64, 128, 256, 512), 7_702_485),
        ("unet_small", (64, 128, 512), 4_062_933),  # by_hand alone
    ],
)
def test_parameter_counts(name: str, widths: tuple[int, ...], published: int) -> None:
    """Oracles: the counts printed in report E, and the sum over its layers."""
    assert by_hand(widths, 21) == published
    assert trainable(build_model(config(name), 21)) == published


def test_the_names_of_the_configuration_are_those_of_the_tables() -> None:
    assert names.ARCHITECTURES == tuple(NETWORKS) == tuple(DESCRIPTIONS)
    assert tuple(LIBRARY) == names.ENCODER_ARCHITECTURES
    fields = {option for description in DESCRIPTIONS.values() for option in description.options}
    assert fields <= set(TrainConfig.model_fields)


NEEDS = {  # what height and width must be multiples of: two to the number of halvings above
    **dict.fromkeys(names.ENCODER_ARCHITECTURES, 32),
    **{"unet": 16, "unet_medium": 8, "unet_small": 4, "unet_bn": 16, "unet_deep": 64, "resunet": 8, "fcn": 16},
    **{"conv_stack": 1, "encoder_decoder": 8, "conv_deconv": 32, "max_unpooling": 2},
    **{"pspnet": 8, "deeplabv3": 8, "deeplabv3plus": 16, "pan": 16},  # dilated, or cut off after three halvings
}
SMALLEST = {"max_unpooling": 46, "pan": 128}  # 46: worked out in the table's reverse; 8 pixels at 1/16


@pytest.mark.parametrize("architecture", names.ARCHITECTURES)
def test_any_size_gives_logits_of_that_size(architecture: str) -> None:
    """Oracles: by shape (N, C, H, W); the same network run by hand on what NumPy pads with mode edge; itself again."""
    model = build_model(config(architecture), 5)
    assert model.multiple == NEEDS[architecture]
    assert model.smallest == SMALLEST.get(architecture, 1)
    images = pictures(33, 47, count=1)
    logits = run(model, images)
    assert logits.shape == (1, 5, 33, 47)
    assert logits.dtype == torch.float32
    down, right = (
        max(model.smallest - length, 0) + -max(length, model.smallest) % model.multiple for length in (33, 47)
    )
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (0, down), (0, right)), mode="edge")
    by_hand = run(model, torch.from_numpy(padded))[..., :33, :47]
    torch.testing.assert_close(logits, by_hand, rtol=0, atol=1e-4)
    assert torch.equal(run(model, images), logits)


@pytest.mark.parametrize("architecture", names.ARCHITECTURES)
def test_shapes(architecture: str) -> None:
    """On the meta device, which knows shapes alone."""
    with torch.device("meta"):
        model = build_model(config(architecture), 7).eval()
        for height, width in ((50, 70), (16, 130), (224, 224)):
            assert model(torch.zeros(2, 3, height, width)).shape == (2, 7, height, width)


@pytest.mark.parametrize("architecture", names.ARCHITECTURES)
def test_a_training_step_reaches_every_trained_parameter(architecture: str) -> None:
    """Images are floats in 0..255; the weights and statistics then load into another network, bit by bit."""
    torch.manual_seed(0)
    model = build_model(config(architecture, dropout=0.1), 5).train()
    logits = model(pictures(64, 64).float())
    assert logits.shape == (2, 5, 64, 64)
    nn.functional.cross_entropy(logits, torch.randint(0, 5, (2, 64, 64))).backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    for name, parameter in trained.items():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    other = build_model(config(architecture), 5)
    other.load_state_dict(model.state_dict())
    images = pictures(33, 47, count=1)
    assert torch.equal(run(model, images), run(other, images))


@pytest.mark.parametrize("architecture", names.ARCHITECTURES)
def test_a_single_image_can_be_trained_with_where_the_configuration_allows_it(architecture: str) -> None:
    """Oracle: torch's own refusal to normalise over a single value per channel."""
    small = config(architecture)
    assert small.smallest_batch == (2 if architecture in names.BATCHES_OF_TWO else 1)
    with torch.device("meta"):
        model = build_model(small, 5).train()
        for pixels in (16, 32, 64, 128):
            images = torch.zeros(1, 3, pixels, pixels)
            if config(architecture, size=f"{pixels}x{pixels}").smallest_batch == 1:
                model(images)
            else:
                with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
                    model(images)
                model(torch.zeros(2, 3, pixels, pixels))


@pytest.mark.parametrize(
    "fields",
    [
        {"architecture": "encoder_unet", "encoder": "resnet18", "size": "32x32"},
        {"architecture": "encoder_unet", "encoder": "resnet18", "encoder_depth": 4, "size": "64x64", "crop": "16x16"},
        {"architecture": "encoder_decoder", "batch_norm": True, "depth": 7},
    ],
)
def test_features_of_one_pixel_need_two_images(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"batch norm on features of one pixel at .*x.*: batches of at least 2 images"):
        TrainConfig.model_validate({**fields, "batch_size": 4, "micro_batch": 1})
    TrainConfig.model_validate({**fields, "batch_size": 4, "micro_batch": 2})
    TrainConfig.model_validate({**fields, "batch_size": 1, "size": "256x256", "crop": None})


@pytest.mark.parametrize("architecture", ["unet_small", "encoder_unet", "deeplabv3plus"])
def test_padding_leaves_a_size_that_fits_alone(architecture: str) -> None:
    """Oracle: the bare network on the normalised images, bit by bit."""
    model = build_model(config(architecture), 3)
    images = pictures(64, 96)
    bare = run(model.network, (images.float() - model.mean) / model.std)
    assert torch.equal(run(model, images), bare)


@pytest.mark.parametrize(
    ("encoder", "mean", "std"),
    [
        # ImageNet's, as torchvision documents them for its weights.
        ("mobilenet_v2", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        # EfficientNet-Lite: (pixel - 127.5) / 127.5, Google's own preprocessing.
        ("timm-tf_efficientnet_lite0", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_each_encoder_has_its_own_normalisation(encoder: str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Oracle: torchvision's normalize on images in 0..1, with the published mean and deviation."""
    model = build_model(config("encoder_unet", encoder=encoder), 3)
    images = pictures(32, 32)
    expected = run(model.network, normalize(images.float() / 255, list(mean), list(std)))
    torch.testing.assert_close(run(model, images), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(run(model, images), run(model, images.float()))  # uint8 or float in 0..255


def test_dropout_zeroes_whole_feature_maps_only_in_training() -> None:
    """Oracle: at probability 0.999 the classifier sees nothing (but for chance) and answers its bias."""
    torch.manual_seed(0)
    model = build_model(config("unet_small", dropout=0.999), 3)
    images = pictures(16, 16)
    with torch.no_grad():
        dropped = model.train()(images)
    bias = model.network.classifier.bias
    assert (dropped == bias.view(1, 3, 1, 1)).float().mean() > 0.9
    assert not (run(model, images) == bias.view(1, 3, 1, 1)).any()


@pytest.mark.parametrize("architecture", names.ARCHITECTURES)
def test_dropout_reaches_every_decoder(architecture: str) -> None:
    """Oracle: torch's own modules, found in the network; two passes in training mode then differ, and else do not."""
    torch.manual_seed(0)
    images = pictures(64, 64)
    for dropout in (0.35, 0.0):
        model = build_model(config(architecture, dropout=dropout), 3).train()
        assert {m.p for m in model.modules() if isinstance(m, nn.Dropout | nn.Dropout2d)} == {dropout}
        with torch.no_grad():
            assert torch.equal(model(images), model(images)) == (dropout == 0)


def test_an_encoder_that_does_not_fit_is_infeasible() -> None:
    """segmentation-models-pytorch has no dilated VGG."""
    with pytest.raises(Infeasible, match="deeplabv3plus cannot be built on encoder vgg16"):
        build_model(config("deeplabv3plus", encoder="vgg16"), 21)


def test_an_unknown_encoder_is_told_with_its_nearest_name() -> None:
    assert encoder_problem("mobilenet_v2", "encoder") is None
    assert encoder_problem("tu-mobilenetv3_small_050", "encoder") is None
    assert "mobilenet_v2" in str(encoder_problem("mobilenet_v22", "encoder"))
    assert "tu-mobilenetv3_small_050" in str(encoder_problem("tu-mobilenetv3_smal_050", "encoder"))


OWN = """
from torch import nn

def network(config, classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Dropout2d(config.dropout), nn.Conv2d(4, classes, 1))
"""


def test_own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: (3 * 4 * 9 + 4) + (4 * 7 + 7) = 147 parameters; images reach it normalised as for ImageNet."""
    (tmp_path / "own_network_of_test_models.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    model = build_model(config("own_network_of_test_models:network", dropout=0.25), 7)
    assert trainable(model) == 147
    assert model.network[1].p == 0.25
    assert model.freezing is None
    images = pictures(33, 17)
    expected = model.network.eval()(normalize(images.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    torch.testing.assert_close(run(model, images), expected, rtol=1e-4, atol=1e-4)
    assert expected.shape == (2, 7, 33, 17)


@pytest.mark.parametrize("path", ["no_such_module_here:network", "math:no_such_function"])
def test_own_model_that_cannot_be_imported(path: str) -> None:
    with pytest.raises(InputError, match="must be importable as module:attribute") as caught:
        build_model(config(path), 3)
    assert path in str(caught.value)


def test_a_network_that_needs_multiples_is_padded_to_them() -> None:
    """Oracle: a network that refuses other sizes."""

    class Picky(nn.Module):
        multiple = 8

        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[-2] % 8 == 0
            assert x.shape[-1] % 8 == 0
            return x[:, :2]

    model = SegmentationModel(Picky(), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    images = pictures(9, 16)
    torch.testing.assert_close(model(images), images[:, :2] / 255.0)
