"""Encoder-decoder networks of segmentation-models-pytorch, with any of its encoders."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, cast

import segmentation_models_pytorch as smp
import timm
from segmentation_models_pytorch.encoders import encoders as smp_encoders
from torch import nn

from tunesearch.errors import Infeasible, Problem, nearest

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_TIMM_NAMES = {"xception": "legacy_xception", "inceptionv4": "inception_v4", "inceptionresnetv2": "inception_resnet_v2"}
"""Encoders whose normalisation timm knows under another name."""


def _unet(encoder: str, classes: int, dropout: float, **more: Any) -> nn.Module:
    model = smp.Unet(encoder, encoder_weights=None, classes=classes, **more)
    model.segmentation_head = nn.Sequential(nn.Dropout2d(dropout), model.segmentation_head)
    return cast(nn.Module, model)


def _fpn(encoder: str, classes: int, dropout: float, **more: Any) -> nn.Module:
    return cast(nn.Module, smp.FPN(encoder, encoder_weights=None, classes=classes, decoder_dropout=dropout, **more))


def _pspnet(encoder: str, classes: int, dropout: float, **more: Any) -> nn.Module:
    return cast(nn.Module, smp.PSPNet(encoder, encoder_weights=None, classes=classes, psp_dropout=dropout, **more))


def _deeplabv3plus(encoder: str, classes: int, dropout: float, **more: Any) -> nn.Module:
    return cast(
        nn.Module,
        smp.DeepLabV3Plus(encoder, encoder_weights=None, classes=classes, decoder_aspp_dropout=dropout, **more),
    )


LIBRARY: dict[str, Callable[..., nn.Module]] = {
    "encoder_unet": _unet,
    "fpn": _fpn,
    "pspnet": _pspnet,
    "deeplabv3plus": _deeplabv3plus,
}


def build_library(architecture: str, *, encoder: str, classes: int, dropout: float, **more: Any) -> nn.Module:
    """The network with random weights; ``multiple`` tells what height and width must be divisible by.

    Args:
        more: passed on to the encoder (timm's ``pretrained_cfg_overlay``).

    Raises:
        Infeasible: the encoder cannot be used in this network (VGG has no dilated form for DeepLabV3+).
    """
    with warnings.catch_warnings():
        # smp calls "timm-" names deprecated; its table still has encoders under no other name.
        warnings.filterwarnings("ignore", message=".*timm-.*", category=DeprecationWarning)
        try:
            model = LIBRARY[architecture](encoder, classes, dropout, **more)
        except (ValueError, KeyError, NotImplementedError) as error:
            raise Infeasible(f"{architecture} cannot be built on encoder {encoder}: {error}") from error
    cast(Any, model).multiple = 32
    return model


def is_timm(encoder: str) -> bool:
    """Whether timm builds and loads this encoder itself (``tu-`` names)."""
    return encoder.startswith("tu-")


def encoder_problem(encoder: str, where: str) -> Problem | None:
    """A problem if segmentation-models-pytorch has no such encoder."""
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
    name = encoder.removeprefix("tu-").removeprefix("timm-")
    config = timm.get_pretrained_cfg(_TIMM_NAMES.get(name, name), allow_unregistered=True)
    if config is None:
        return IMAGENET_MEAN, IMAGENET_STD
    return tuple(config.mean), tuple(config.std)
