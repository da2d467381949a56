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
from tunesearch.segmentation.config import ARCHITECTURES, TrainConfig
from tunesearch.segmentation.models import ARCHITECTURES as BUILT
from tunesearch.segmentation.models import SegmentationModel, build_model
from tunesearch.segmentation.models.library import LIBRARY, encoder_problem
from tunesearch.segmentation.models.unet import WIDTHS


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make tiny networks slow wherever the machine does other work too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def config(architecture: str, **fields: object) -> TrainConfig:
    encoder = {} if architecture not in names.ENCODER_ARCHITECTURES else {"encoder": "mobilenet_v2"}
    return TrainConfig.model_validate({"architecture": architecture, **encoder, **fields})


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


def test_the_names_of_the_configuration_are_those_of_the_table() -> None:
    assert names.ARCHITECTURES == BUILT
    assert tuple(WIDTHS) + tuple(LIBRARY) == BUILT
    assert tuple(LIBRARY) == names.ENCODER_ARCHITECTURES


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_any_size_gives_logits_of_that_size(architecture: str) -> None:
    """Oracle: by shape (N, C, H, W) at 70x50; and the same network run by hand on what NumPy pads with mode edge."""
    model = build_model(config(architecture), 5)
    images = pictures(70, 50)
    logits = run(model, images)
    assert logits.shape == (2, 5, 70, 50)
    assert logits.dtype == torch.float32
    down, right = -70 % model.multiple, -50 % model.multiple
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (0, down), (0, right)), mode="edge")
    by_hand = run(model, torch.from_numpy(padded))[..., :70, :50]
    torch.testing.assert_close(logits, by_hand, rtol=0, atol=1e-4)


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


@pytest.mark.parametrize("architecture", names.ENCODER_ARCHITECTURES)
def test_dropout_reaches_every_decoder(architecture: str) -> None:
    """Oracle: torch's own modules, found in the network; two passes in training mode then differ."""
    model = build_model(config(architecture, dropout=0.35), 3)
    found = {m.p for m in model.modules() if isinstance(m, nn.Dropout | nn.Dropout2d)}
    assert found == {0.35}
    for module in model.modules():  # batch norm would differ too
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    images = pictures(64, 64)
    modules = [m for m in model.modules() if isinstance(m, nn.Dropout | nn.Dropout2d)]
    model.eval()
    for module in modules:
        module.train()
    with torch.no_grad():
        assert not torch.equal(model(images), model(images))


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
