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


def _report_c_early(strength: float, size: Size) -> list[Any]:
    """Report C's first augmentation: sharpness at random, and mirroring.

    The report gives no figures. Here half of the images are sharpened by a factor between 1 and 3, where a factor f
    means what it means to Pillow's ``ImageEnhance.Sharpness``: x + (f - 1) (x - smooth(x)). Its smooth(x) is
    (5 x + the sum of the 8 neighbours) / 13, so the weight of albumentations' kernel is (f - 1) / 13.
    """
    return [
        albumentations.Sharpen(alpha=(0.0, 2 / 13), lightness=(1.0, 1.0), method="kernel", p=0.5),
        albumentations.HorizontalFlip(p=0.5),
    ]


def _report_c(strength: float, size: Size) -> list[Any]:
    """Report C's final augmentation: turned by up to 40 degrees with a mirrored border, mirrored, colours shifted by up
    to 25, then blurred or its colours changed.

    The colour change is by up to 0.2 in each of its four, what the library meant by no arguments when the report was
    written; the blur is over 3x3, the smallest there is today (the report's limit of 2 is refused).
    """
    return [
        albumentations.Rotate(
            limit=(-40, 40),
            interpolation=cv2.INTER_LINEAR,
            mask_interpolation=cv2.INTER_NEAREST,
            border_mode=cv2.BORDER_REFLECT_101,
            p=0.9,
        ),
        albumentations.HorizontalFlip(p=0.5),
        albumentations.RGBShift(r_shift_limit=(-25, 25), g_shift_limit=(-25, 25), b_shift_limit=(-25, 25), p=0.9),
        albumentations.OneOf(
            [
                albumentations.Blur(blur_limit=(3, 3), p=0.5),
                albumentations.ColorJitter(
                    brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-0.2, 0.2), p=0.5
                ),
            ],
            p=1.0,
        ),
    ]


def _report_d(strength: float, size: Size) -> list[Any]:
    """Report D's augmentation: mirror, rotation by an arbitrary angle, crop.

    The report says that some images are turned and others cropped, and that the training set grows to three times its
    size; it gives no figures. Here half are mirrored; a third are turned by any angle, the border mirrored so that
    neither black corners nor void come in; a third show a part of at least half the area, stretched back to the whole;
    a third stay. With ``expansion: 3`` every image is thus on average seen once in each way.
    """
    ratio = size.width / size.height
    return [
        albumentations.HorizontalFlip(p=0.5),
        albumentations.OneOf(
            [
                albumentations.Rotate(
                    limit=(-180, 180),
                    interpolation=cv2.INTER_LINEAR,
                    mask_interpolation=cv2.INTER_NEAREST,
                    border_mode=cv2.BORDER_REFLECT_101,
                    p=0.5,
                ),
                albumentations.RandomResizedCrop(
                    size=(size.height, size.width),
                    scale=(0.5, 1.0),
                    ratio=(ratio, ratio),
                    interpolation=cv2.INTER_LINEAR,
                    mask_interpolation=cv2.INTER_NEAREST_EXACT,
                    p=0.5,
                ),
            ],
            p=2 / 3,
        ),
    ]


NAMED: dict[str, Callable[[float, Size], list[Any]]] = {
    "none": _none,
    "flip": _flip,
    "standard": _standard,
    "report_c_early": _report_c_early,
    "report_c": _report_c,
    "report_d": _report_d,
}
"""The named pipelines: functions of (augmentation_strength, size of what is augmented)."""
