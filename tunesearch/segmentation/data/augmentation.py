"""Augmentation: what a configuration asks for, and the named pipelines."""

from __future__ import annotations

import os

os.environ.setdefault(
    "NO_ALBUMENTATIONS_UPDATE", "1"
)  # else the import looks for updates over the network, for seconds

from collections.abc import Callable
from typing import Any

import albumentations
import cv2

from tunesearch.segmentation.config import Size, TrainConfig
from tunesearch.segmentation.data.transform_list import build_transforms, try_transforms
from tunesearch.segmentation.reports import augmentation as reports


def pipeline(config: TrainConfig) -> albumentations.Compose | None:
    """What is done to every training image uint8 (H, W, 3) and its mask uint8 (H, W); None where nothing is.

    The size is ``config.window``, else ``config.size``.

    Raises:
        InputError: a transform or an argument that does not exist.
    """
    if isinstance(config.augmentation, str):
        transforms = NAMED[config.augmentation](config.augmentation_strength, config.window or config.size)
    else:
        transforms = build_transforms(config.augmentation)
    return albumentations.Compose(transforms) if transforms else None


def check_augmentation(config: TrainConfig) -> None:
    """Try the pipeline of a configuration on a picture of its size.

    Raises:
        InputError: a transform or an argument that does not exist, or that images with masks cannot use.
    """
    if not isinstance(config.augmentation, str):
        try_transforms(build_transforms(config.augmentation), config.window or config.size)


def _none(strength: float, size: Size) -> list[Any]:
    return []


def _flip(strength: float, size: Size) -> list[Any]:
    """Half of the images are mirrored."""
    return [albumentations.HorizontalFlip(p=0.5)]


def _standard(strength: float, size: Size) -> list[Any]:
    """One pipeline whose only setting is its strength, 0 to 1; at 0 nothing.

    Half of the images are mirrored, whatever the strength. At strength s, half of them are scaled by up to 1 ± 0.4 s,
    shifted by up to 0.2 s of the side and turned by up to 30 s degrees; what comes in from outside is the picture
    mirrored at its border, labels too, so that no void is made up. Brightness and contrast of four in five change by up
    to 0.4 s; hue and saturation of three in ten by up to 20 s and 60 s of 255. Resampling is most of the cost: it is
    one single warp, and only every other image pays for it.
    """
    if strength == 0:
        return []
    scale, shift, angle, light = 0.4 * strength, 0.2 * strength, 30 * strength, 0.4 * strength
    return [
        albumentations.HorizontalFlip(p=0.5),
        albumentations.Affine(
            scale=(1 - scale, 1 + scale),
            translate_percent=(-shift, shift),
            rotate=(-angle, angle),
            interpolation=cv2.INTER_LINEAR,
            mask_interpolation=cv2.INTER_NEAREST,
            border_mode=cv2.BORDER_REFLECT_101,
            keep_ratio=True,
            p=0.5,
        ),
        albumentations.RandomBrightnessContrast(
            brightness_limit=(-light, light), contrast_limit=(-light, light), p=0.8
        ),
        albumentations.HueSaturationValue(
            hue_shift_limit=(-20 * strength, 20 * strength),
            sat_shift_limit=(-60 * strength, 60 * strength),
            val_shift_limit=(0, 0),
            p=0.3,
        ),
    ]


NAMED: dict[str, Callable[[float, Size], list[Any]]] = {
    "none": _none,
    "flip": _flip,
    "standard": _standard,
    **reports.PIPELINES,
}
"""The named pipelines: functions of (augmentation_strength, size of what is augmented)."""
