"""Class weights, measured on the training masks or given by hand.

Void pixels never count. A class that occurs in no training image gets 0, whatever the kind: no training pixel ever uses
its weight, and the validation loss leaves its pixels out instead of being ruled by what could not be learned (mIoU and
the other metrics do count them). Losses are weighted means, so a factor in all weights changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from tunesearch.errors import DataError, InputError, Problem
from tunesearch.segmentation.config import TrainConfig


def class_weights(config: TrainConfig, masks: Iterable[NDArray[np.uint8]], classes: int) -> NDArray[np.float32] | None:
    """The weights (C,) of a configuration; None where it has none, or each image its own (``sample``).

    Args:
        masks: the training masks, each uint8 (H, W) with 255 for void; they may be memory-mapped and of any sizes.
        classes: number of classes C.

    Raises:
        InputError: another number of weights than of classes was given by hand.
        DataError: they are to be measured, and there is no pixel of any class.
    """
    kind = config.class_weights
    check_class_weights(config, classes)
    if isinstance(kind, tuple):
        return np.array(kind, np.float32)
    if kind not in MEASURED:
        return None
    return MEASURED[kind](class_pixels(masks, classes))


def check_class_weights(config: TrainConfig, classes: int) -> None:
    """Weights that are given by hand must be one per class.

    Raises:
        InputError: they are not.
    """
    weights = config.class_weights
    if isinstance(weights, tuple) and len(weights) != classes:
        rule = f"there must be one weight per class: the data set has {classes} classes"
        raise InputError(Problem("class_weights", rule, value=f"{len(weights)} weights"))


def class_pixels(masks: Iterable[NDArray[np.uint8]], classes: int) -> NDArray[np.int64]:
    """Number of pixels of each class in each mask, int64 (N, C), of N masks uint8 (H, W); void is left out."""
    # One at a time: bincount makes an int64 copy, and all masks may be gigabytes.
    pixels = [np.bincount(mask.ravel(), minlength=256)[:classes] for mask in masks]
    return np.array(pixels, np.int64).reshape(-1, classes)


def inverse_frequency(pixels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Weights inversely proportional to frequency, float32 (C,), from pixels (N, C): w_c = n / (K * n_c).

    n_c are the pixels of class c, n their sum, K the number of classes that occur. The mean of the weight over the
    pixels is then exactly 1. This is "balanced" of scikit-learn's class_weight, after King and Zeng, Logistic
    Regression in Rare Events Data (2001).

    Raises:
        DataError: no pixel of any class.
    """
    weights = area(pixels)
    return weights / np.float32(np.count_nonzero(weights))


def median_frequency(pixels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Median frequency balancing (Eigen and Fergus 2015), float32 (C,), from pixels (N, C).

    f_c is the share of class c in the labelled pixels of those images in which it occurs; w_c = median of f / f_c, the
    median over the classes that occur.

    Raises:
        DataError: no pixel of any class.
    """
    _require_pixels(pixels)
    present = pixels.sum(axis=0) > 0
    room = (pixels.sum(axis=1, keepdims=True) * (pixels > 0)).sum(axis=0)  # (C,): labelled pixels where c occurs
    frequency = pixels.sum(axis=0)[present] / room[present]
    return _spread(np.median(frequency) / frequency, present)


def area(pixels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Total area / area of the class, float32 (C,), from pixels (N, C): w_c = n / n_c.

    Raises:
        DataError: no pixel of any class.
    """
    _require_pixels(pixels)
    of_class = pixels.sum(axis=0)
    present = of_class > 0
    return _spread(of_class.sum() / of_class[present], present)


def image_mean(pixels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mean over the images of each image's own weights, float32 (C,), from pixels (N, C): see ``image_weights``.

    Images that are void everywhere are left out.

    Raises:
        DataError: no pixel of any class.
    """
    _require_pixels(pixels)
    present = pixels.sum(axis=0) > 0
    labelled = pixels.sum(axis=1) > 0
    return _spread(image_weights(pixels[labelled]).mean(axis=0)[present], present)


def image_weights(pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each image's own weights, float64 (N, C), from pixels (N, C).

    With c the counts of an image, an absent class counting 1, divided by their Euclidean norm: w_0 = c_0, and
    w_k = c_0 / c_k for every other class k. Class 0 is what the others are measured by, usually the background.
    """
    counts = np.maximum(pixels, 1).astype(np.float64)
    weights = counts[:, :1] / counts
    weights[:, 0] = counts[:, 0] / np.linalg.norm(counts, axis=1)
    return weights


MEASURED: dict[str, Callable[[NDArray[np.int64]], NDArray[np.float32]]] = {
    "inverse_frequency": inverse_frequency,
    "median_frequency": median_frequency,
    "area": area,
    "image_mean": image_mean,
}
"""The kinds that are measured once on the training split, from its pixels (N, C)."""


def _require_pixels(pixels: NDArray[np.int64]) -> None:
    if not pixels.any():
        raise DataError("class weights cannot be measured: the training masks have no pixel of any class")


def _spread(weights: NDArray[np.float64], present: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Weights of the classes that occur, put at their places (C,); 0 at the others."""
    result = np.zeros(len(present), np.float32)
    result[present] = weights
    return result
