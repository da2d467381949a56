"""Augmentation: one pipeline whose only setting is its strength."""

from __future__ import annotations

import os

os.environ.setdefault(
    "NO_ALBUMENTATIONS_UPDATE", "1"
)  # else the import looks for updates over the network, for seconds

import albumentations
import cv2


def augmentation(strength: float) -> albumentations.Compose | None:
    """The pipeline for images uint8 (H, W, 3) with masks uint8 (H, W); None at strength 0.

    Half of the images are mirrored, whatever the strength. At strength s, half of them are scaled by up to 1 ± 0.4 s,
    shifted by up to 0.2 s of the side and turned by up to 30 s degrees; what comes in from outside is the picture
    mirrored at its border, labels too, so that no void is made up. Brightness and contrast of four in five change by up
    to 0.4 s; hue and saturation of three in ten by up to 20 s and 60 s of 255. Resampling is most of the cost: it is
    one single warp, and only every other image pays for it.

    Args:
        strength: 0 to 1.
    """
    if strength == 0:
        return None
    scale, shift, angle, light = 0.4 * strength, 0.2 * strength, 30 * strength, 0.4 * strength
    return albumentations.Compose(
        [
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
    )
