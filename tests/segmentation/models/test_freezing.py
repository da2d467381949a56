"""Fine-tune fraction. Oracles: layer counts worked out by hand from the published networks; bits before and after."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tunesearch.segmentation.config import ENCODER_ARCHITECTURES, TrainConfig
from tunesearch.segmentation.data.cache import DecodedPart
from tunesearch.segmentation.models import build_model
from tunesearch.segmentation.models.freezing import encoder_layers, freeze
from tunesearch.segmentation.models.library import bare_encoder
from tunesearch.segmentation.trainer import Trainer


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make tiny networks slow wherever the machine does other work too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


LAYERS = {
    # Sandler et al. 2018, table 2: the first convolution, a block of two, 16 blocks of three, the last 1x1 to 1280.
    "mobilenet_v2": 1 + 2 + 16 * 3 + 1,
    # He et al. 2016: conv1, 8 blocks of two, and 3 projections in the shortcuts; the linear layer is no encoder.
    "resnet18": 1 + 8 * 2 + 3,
    # EfficientNet-B0's blocks without squeeze-and-excitation: the stem, a block of two, 15 of three. The 1x1 head is
    # no part of the features.
    "timm-tf_efficientnet_lite0": 1 + 2 + 15 * 3,
    # Simonyan and Zisserman 2015, configuration D: 13 convolutions; the three linear layers are no encoder.
    "vgg16": 13,
}


@pytest.mark.parametrize("encoder", LAYERS)
def test_layers_are_the_convolutions_in_forward_order(encoder: str) -> None:
    """Oracle for the order: the convolutions' inputs, seen by hooks of this test's own."""
    module = bare_encoder(encoder).eval()
    layers = encoder_layers(module)
    assert len(layers) == LAYERS[encoder]
    called: list[nn.Module] = []
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_pre_hook(lambda part, _: called.append(part))
    with torch.no_grad():
        module(torch.zeros(1, 3, 32, 32))
    assert [layer[0] for layer in layers] == called


@pytest.mark.parametrize("encoder", ["mobilenet_v2", "resnet18"])
def test_each_norm_goes_with_the_layer_before_it(encoder: str) -> None:
    """In both networks every convolution is followed by a batch norm as wide as its output."""
    for layer in encoder_layers(bare_encoder(encoder)):
        assert [type(module) for module in layer] == [nn.Conv2d, nn.BatchNorm2d]
        assert layer[1].num_features == layer[0].out_channels


def test_what_an_encoder_computes_in_vain_is_no_layer_of_it() -> None:
    """MobileNetV2 cut off at 1/8 gives the features of its first 7 blocks (1 + 2 + 5 * 3 convolutions, Sandler et al.
    2018, table 2) and runs 7 blocks more; those keep their statistics."""
    model = build_model(TrainConfig(architecture="pspnet", encoder="mobilenet_v2"), 3).train()
    assert model.freezing is not None
    assert (model.freezing.layers, model.freezing.trained) == (18, 18)
    vain = model.network.encoder.features[7:]
    assert len(model.freezing.frozen_norms) == sum(isinstance(module, nn.BatchNorm2d) for module in vain.modules())
    assert not any(parameter.requires_grad for parameter in vain.parameters())
    before = {name: tensor.clone() for name, tensor in vain.state_dict().items()}
    model(torch.rand(2, 3, 64, 64))
    assert all(torch.equal(tensor, before[name]) for name, tensor in vain.state_dict().items())


def test_looking_at_the_layers_changes_nothing() -> None:
    encoder = bare_encoder("mobilenet_v2").train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder_layers(encoder)
    assert all(module.training for module in encoder.modules())
    assert all(p.requires_grad and p.grad is None for p in encoder.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert not any(module._forward_hooks for module in encoder.modules())


@pytest.mark.parametrize(("fraction", "trained"), [(0.0, 0), (0.25, 5), (0.5, 10), (0.96, 19), (1.0, 20)])
def test_the_last_layers_are_trained(fraction: float, trained: int) -> None:
    """round(fraction * 20) of ResNet-18's layers: 0, 5, 10, 19.2 -> 19, 20; counted from the output side."""
    encoder = bare_encoder("resnet18")
    layers = encoder_layers(encoder)
    freezing = freeze(encoder, fraction)
    assert (freezing.layers, freezing.trained) == (20, trained)
    found = [all(p.requires_grad for module in layer for p in module.parameters()) for layer in layers]
    assert found == [False] * (20 - trained) + [True] * trained
    assert list(freezing.frozen_norms) == [layer[1] for layer in layers[: 20 - trained]]
    if trained == 0:
        assert not any(p.requires_grad for p in encoder.parameters())


def test_the_decoder_is_always_trained() -> None:
    model = build_model(TrainConfig(architecture="fpn", encoder="resnet18", finetune_fraction=0.0), 3)
    assert not any(p.requires_grad for p in model.network.encoder.parameters())
    assert all(p.requires_grad for p in model.network.decoder.parameters())
    assert all(p.requires_grad for p in model.network.segmentation_head.parameters())


@pytest.mark.parametrize("architecture", ENCODER_ARCHITECTURES)
def test_the_encoder_of_every_architecture_is_frozen(architecture: str) -> None:
    """ResNet-18's 20 layers as above; PSPNet does without the last two stages of 5, shortcuts included."""
    layers = 10 if architecture == "pspnet" else 20
    for fraction in (0.0, 0.4, 1.0):
        config = TrainConfig(architecture=architecture, encoder="resnet18", finetune_fraction=fraction)
        with torch.device("meta"):
            model = build_model(config, 3).train()
        assert model.freezing is not None
        assert (model.freezing.layers, model.freezing.trained) == (layers, round(fraction * layers))
        network = model.network
        convolutions = [module for module in network.encoder.modules() if isinstance(module, nn.Conv2d)]
        assert sum(module.weight.requires_grad for module in convolutions) == model.freezing.trained
        norms = [module for module in network.encoder.modules() if isinstance(module, nn.BatchNorm2d)]
        assert sum(module.training for module in norms) == model.freezing.trained
        outside = set(network.parameters()) - set(network.encoder.parameters())
        assert outside
        assert all(parameter.requires_grad for parameter in outside)


def test_frozen_norms_stay_in_evaluation_mode() -> None:
    model = build_model(TrainConfig(architecture="encoder_unet", encoder="resnet18", finetune_fraction=0.5), 3)
    assert model.freezing is not None
    frozen = set(model.freezing.frozen_norms)
    for _ in range(2):
        model.eval()
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.training == (module not in frozen)


def scenes(count: int) -> DecodedPart:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    masks = (images[..., 0] > 128).astype(np.uint8)
    return DecodedPart(images, masks, tuple(map(str, range(count))))


@pytest.mark.parametrize(
    ("fraction", "precision"), [(0.0, "float32"), (0.5, "float32"), (0.5, "bfloat16"), (1.0, "float32")]
)
def test_an_epoch_leaves_what_is_frozen_bit_identical(fraction: float, precision: str) -> None:
    """Weights, running means, running variances and batch counts before and after a real epoch with weight decay,
    validation included; everything else has changed, or there would be nothing to see."""
    config = TrainConfig.model_validate(
        {
            "architecture": "encoder_unet",
            "encoder": "mobilenet_v2",
            "finetune_fraction": fraction,
            "optimizer": "adamw",
            "weight_decay": 0.1,
            "lr": 1e-2,
            "batch_size": 4,
            "size": "32x32",
            "epochs": 1,
            "precision": precision,
        }
    )
    trainer = Trainer(config, train=scenes(8), val=scenes(4), classes=2, device="cpu")
    network = trainer.model.network
    layers = encoder_layers(network.encoder)
    frozen_count = 52 - round(fraction * 52)
    names = {id(module): name for name, module in network.named_modules()}
    frozen = {
        f"{names[id(module)]}.{key}"
        for layer in layers[:frozen_count]
        for module in layer
        for key in module.state_dict()
    }
    assert len(frozen) == frozen_count * 6  # conv weight; norm weight, bias, mean, variance, batches

    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        assert (id(parameter) in held) == (name not in frozen)

    before: dict[str, Tensor] = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert len(list(trainer.epochs())) == 1
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == set(before) - frozen
