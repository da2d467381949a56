"""Class weights from pixel counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tunesearch.errors import DataError


def class_pixels(masks: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Number of pixels of each class, int64 (classes,), in masks uint8 (N, H, W); void is left out."""
    pixels = np.zeros(256, np.int64)
    for mask in masks:  # one at a time: bincount makes an int64 copy, and all masks may be gigabytes
        pixels += np.bincount(mask.ravel(), minlength=256)
    return pixels[:classes]


def inverse_frequency(pixels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Weights inversely proportional to frequency, float32 (C,): w_c = N / (K * n_c).

    n_c are the pixels of class c, N their sum, K the number of classes that occur. The mean of the weight over the
    pixels is then exactly 1, so a weighted loss keeps the scale of the unweighted one and a learning rate its meaning.
    A class that does not occur gets 0: no training pixel ever uses its weight. This is "balanced" of scikit-learn's
    class_weight, after King and Zeng, Logistic Regression in Rare Events Data (2001).

    Raises:
        DataError: no pixel of any class.
    """
    total = int(pixels.sum())
    if total == 0:
        raise DataError("class weights cannot be measured: the training masks have no pixel of any class")
    present = pixels > 0
    weights = np.zeros(len(pixels), np.float64)
    weights[present] = total / (int(present.sum()) * pixels[present].astype(np.float64))
    return weights.astype(np.float32)
