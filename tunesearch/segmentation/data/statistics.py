"""Mean and standard deviation of a training split, for ``normalization: measured``."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from tunesearch.errors import DataError
from tunesearch.segmentation.data.images import Pixels

Channels = tuple[float, float, float]


def mean_and_std(images: Iterable[Pixels]) -> tuple[Channels, Channels]:
    """Mean and population standard deviation over all pixels, per channel, of values in 0..1.

    Exact up to the last division and root: sums are integers. A channel that never changes gets a deviation of 1, so
    that dividing by it does no harm.

    Args:
        images: uint8 (N, H, W, 3), or one after the other, each (H, W, 3), of any size.

    Raises:
        DataError: there is no image.
    """
    count, sums, squares = 0, [0, 0, 0], [0, 0, 0]
    for image in images:
        pixels = image.reshape(-1, 3)
        count += len(pixels)
        one = pixels.sum(axis=0, dtype=np.int64).tolist()
        two = np.square(pixels, dtype=np.uint16).sum(axis=0, dtype=np.int64).tolist()  # 255 squared fits 16 bits
        sums = [a + b for a, b in zip(sums, one, strict=True)]
        squares = [a + b for a, b in zip(squares, two, strict=True)]
    if count == 0:
        raise DataError("mean and deviation cannot be measured: there is no training image")
    means = [total / (255 * count) for total in sums]
    # n² var = n Σx² - (Σx)², in Python's integers, which never overflow.
    spreads = [count * two - one * one for one, two in zip(sums, squares, strict=True)]
    stds = [math.sqrt(spread / count**2) / 255 if spread else 1.0 for spread in spreads]
    return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])
