"""The augmentation of reports C and D."""

from __future__ import annotations

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # as in tunesearch.segmentation.data.augmentation

from collections.abc import Callable
from typing import Any

import albumentations
import cv2

from tunesearch.segmentation.config import Size


def report_c_early(strength: float, size: Size) -> list[Any]:
    """Report C's first augmentation: sharpness at random, and mirroring.

    The report gives no figures. Here half of the images are sharpened by a factor between 1 and 3, where a factor f
    means what it means to Pillow's ``ImageEnhance.Sharpness``: x + (f - 1) (x - smooth(x)). Its smooth(x) is
    (5 x + the sum of the 8 neighbours) / 13, so the weight of albumentations' kernel is (f - 1) / 13.
    """
    return [
        albumentations.Sharpen(alpha=(0.0, 2 / 13), lightness=(1.0, 1.0), method="kernel", p=0.5),
        albumentations.HorizontalFlip(p=0.5),
    ]


def report_c(strength: float, size: Size) -> list[Any]:
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


def report_d(strength: float, size: Size) -> list[Any]:
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


PIPELINES: dict[str, Callable[[float, Size], list[Any]]] = {
    "report_c_early": report_c_early,
    "report_c": report_c,
    "report_d": report_d,
}
"""By name: functions of (augmentation_strength, which has no effect, size of what is augmented)."""
