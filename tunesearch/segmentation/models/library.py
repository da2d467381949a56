"""Networks on encoders of segmentation-models-pytorch: that library's own, and two decoders of the reports."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, cast

from torch import Tensor, nn

from tunesearch.errors import Infeasible, Problem, nearest
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.reports.networks import DECODERS

Builder = Callable[[TrainConfig, int], Any]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_TIMM_NAMES = {"xception": "legacy_xception", "inceptionv4": "inception_v4", "inceptionresnetv2": "inception_resnet_v2"}
"""Encoders whose normalisation timm knows under another name."""

MISFITS = (ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, RuntimeError)
"""What the libraries raise for an encoder that a network cannot be built on."""


def _smp() -> Any:
    """segmentation-models-pytorch. Not imported before it is needed: it takes a second, in every trial's process."""
    import segmentation_models_pytorch

    return segmentation_models_pytorch


class _FromFullResolution(nn.Module):
    """The library's U-Net decoder, with a skip connection at full resolution too.

    The library takes an encoder's first features for the image itself and drops them. Those of a VGG are the output of
    its first block, before the first pooling, which belongs into a U-Net (report A's has it).
    """

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, features: list[Tensor]) -> Tensor:
        y: Tensor = self.decoder([features[0], *features])
        return y


def _widths(config: TrainConfig) -> list[int]:
    """Channels of the decoder's blocks: ``decoder_width``, halved from block to block, at least 1."""
    return [max(config.decoder_width // 2**block, 1) for block in range(config.encoder_depth)]


def _interpolation(config: TrainConfig) -> str:
    if config.upsampling == "transposed":
        raise Infeasible(
            f"{config.architecture} has no transposed convolutions: upsampling must be default, nearest or bilinear"
        )
    return "nearest" if config.upsampling == "default" else config.upsampling


def _with_dropout(model: Any, dropout: float) -> Any:
    """Whole feature maps are zeroed before the head, where the library has no place of its own for that."""
    model.segmentation_head = nn.Sequential(nn.Dropout2d(dropout), model.segmentation_head)
    return model


def _unet(config: TrainConfig, classes: int) -> Any:
    widths, interpolation = _widths(config), _interpolation(config)
    model = _smp().Unet(
        config.encoder,
        encoder_depth=config.encoder_depth,
        encoder_weights=None,
        decoder_channels=widths,
        decoder_interpolation=interpolation,
        classes=classes,
    )
    if model.encoder.out_channels[0] != 3:
        decoder = type(model.decoder)(
            (0, *model.encoder.out_channels),  # 0: stands for what is dropped
            widths,
            n_blocks=config.encoder_depth,
            add_center_block=not isinstance(model.decoder.center, nn.Identity),
            interpolation_mode=interpolation,
        )
        model.decoder = _FromFullResolution(decoder)
        model.initialize()
    return _with_dropout(model, config.dropout)


def _unetplusplus(config: TrainConfig, classes: int) -> Any:
    model = _smp().UnetPlusPlus(
        config.encoder,
        encoder_depth=config.encoder_depth,
        encoder_weights=None,
        decoder_channels=_widths(config),
        decoder_interpolation=_interpolation(config),
        classes=classes,
    )
    return _with_dropout(model, config.dropout)


def _pan(config: TrainConfig, classes: int) -> Any:
    model = _smp().PAN(config.encoder, encoder_weights=None, classes=classes)
    model.smallest = 8 * model.encoder.output_stride  # its decoder pools the last features three times by 2
    return _with_dropout(model, config.dropout)


def _fpn(config: TrainConfig, classes: int) -> Any:
    return _smp().FPN(config.encoder, encoder_weights=None, classes=classes, decoder_dropout=config.dropout)


def _pspnet(config: TrainConfig, classes: int) -> Any:
    return _smp().PSPNet(config.encoder, encoder_weights=None, classes=classes, psp_dropout=config.dropout)


def _deeplabv3(config: TrainConfig, classes: int) -> Any:
    return _smp().DeepLabV3(config.encoder, encoder_weights=None, classes=classes, decoder_aspp_dropout=config.dropout)


def _deeplabv3plus(config: TrainConfig, classes: int) -> Any:
    return _smp().DeepLabV3Plus(
        config.encoder, encoder_weights=None, classes=classes, decoder_aspp_dropout=config.dropout
    )


def _plain(network: str) -> Builder:
    """A network of the library, by name, with its defaults, and dropout before the head."""

    def build(config: TrainConfig, classes: int) -> Any:
        model = getattr(_smp(), network)(config.encoder, encoder_weights=None, classes=classes)
        return _with_dropout(model, config.dropout)

    return build


def _on_bare_encoder(network: str) -> Builder:
    """One of the reports' networks on an encoder, by name."""

    def build(config: TrainConfig, classes: int) -> Any:
        return DECODERS[network](config, classes, bare_encoder(str(config.encoder)))

    return build


LIBRARY: dict[str, Builder] = {
    "encoder_unet": _unet,
    "unetplusplus": _unetplusplus,
    "linknet": _plain("Linknet"),
    "manet": _plain("MAnet"),
    "fpn": _fpn,
    "pspnet": _pspnet,
    "deeplabv3": _deeplabv3,
    "deeplabv3plus": _deeplabv3plus,
    "pan": _pan,
    "upernet": _plain("UPerNet"),
    "segformer": _plain("Segformer"),
    **{name: _on_bare_encoder(name) for name in DECODERS},
}
"""What is built on an encoder: (configuration, number of classes) -> network, with random weights."""


def build_library(config: TrainConfig, classes: int) -> nn.Module:
    """The network of a configuration with an encoder, with random weights.

    ``multiple`` tells what height and width must be divisible by, ``smallest`` (if there) how large they must be.

    Raises:
        Infeasible: the encoder cannot be used in this network (VGG has no dilated form for DeepLabV3+).
    """
    try:
        with _quiet():
            model = LIBRARY[config.architecture](config, classes)
    except MISFITS as error:
        raise misfit(config, error) from error
    # A network of timm may go deeper than what is used of it (HRNet always has its branch at 1/32).
    model.multiple = 32 if is_timm(str(config.encoder)) else int(model.encoder.output_stride)
    return cast(nn.Module, model)


def misfit(config: TrainConfig, error: BaseException) -> Infeasible:
    """What the libraries say about an encoder that does not go with the network, as one error."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return Infeasible(f"{config.architecture} cannot be built on encoder {config.encoder}: {reason}")


def bare_encoder(encoder: str) -> nn.Module:
    """The encoder alone with random weights."""
    with _quiet():
        return cast(nn.Module, _smp().encoders.get_encoder(encoder, weights=None))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # smp calls "timm-" names deprecated; its table still has encoders under no other name.
        warnings.filterwarnings("ignore", message=".*timm-.*", category=DeprecationWarning)
        yield


def is_timm(encoder: str) -> bool:
    """Whether timm builds and loads this encoder itself (``tu-`` names)."""
    return encoder.startswith("tu-")


def encoder_problem(encoder: str, where: str) -> Problem | None:
    """A problem if segmentation-models-pytorch has no such encoder."""
    import timm

    smp_encoders = _smp().encoders.encoders
    if encoder in smp_encoders or (is_timm(encoder) and timm.is_model(encoder[3:].split(".")[0])):
        return None
    names = [*smp_encoders, *("tu-" + name for name in timm.list_models())] if is_timm(encoder) else list(smp_encoders)
    return Problem(
        where=where,
        rule="encoder must be one of segmentation-models-pytorch's, or tu-NAME for one of timm's",
        value=repr(encoder),
        hint=nearest(encoder, names),
    )


def normalisation(encoder: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of images in 0..1, that the ImageNet weights were trained with.

    Known offline: timm's own configurations where timm has the model, ImageNet's mean and deviation elsewhere.
    """
    import timm

    name = encoder.removeprefix("tu-").removeprefix("timm-")
    config = timm.get_pretrained_cfg(_TIMM_NAMES.get(name, name), allow_unregistered=True)
    if config is None:
        return IMAGENET_MEAN, IMAGENET_STD
    return tuple(config.mean), tuple(config.std)
