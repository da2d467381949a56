"""Palettes: one colour per class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesearch.segmentation.config import ClassSpec
from tunesearch.segmentation.data.images import Pixels


def voc_colors() -> Pixels:
    """The palette of PASCAL VOC, uint8 (256, 3): the bits of the index, dealt to the three channels from the top."""
    index = np.arange(256)
    colors = np.zeros((256, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return colors.astype(np.uint8)


def palette(classes: Sequence[ClassSpec]) -> Pixels:
    """One colour per label, uint8 (256, 3): a class's first own colour, else VOC's; 255 is VOC's cream."""
    colors = voc_colors()
    for index, spec in enumerate(classes):
        if spec.colors:
            colors[index] = spec.colors[0]
    return colors
