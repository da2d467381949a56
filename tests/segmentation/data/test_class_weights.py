"""Class weights. Oracle: worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tunesearch.errors import DataError
from tunesearch.segmentation.data.class_weights import class_pixels, inverse_frequency


def test_pixels_are_counted_without_void() -> None:
    masks = np.array([[[0, 0], [1, 255]], [[0, 2], [255, 255]]], np.uint8)
    counts = class_pixels(masks, 4)
    assert counts.dtype == np.int64
    assert counts.tolist() == [3, 1, 1, 0]
    assert class_pixels(masks[:0], 4).tolist() == [0, 0, 0, 0]


def test_weights_by_hand() -> None:
    # N = 12, K = 3 present classes: 12 / (3 * 8) = 0.5, 12 / (3 * 1) = 4, 12 / (3 * 3) = 4 / 3.
    weights = inverse_frequency(np.array([8, 1, 0, 3]))
    assert weights.dtype == np.float32
    assert weights.tolist() == pytest.approx([0.5, 4.0, 0.0, 4 / 3])


def test_mean_weight_over_the_pixels_is_one() -> None:
    pixels = np.array([5_000_000_000, 123, 45_678, 0, 9])
    weights = inverse_frequency(pixels).astype(np.float64)
    assert (weights * pixels).sum() / pixels.sum() == pytest.approx(1.0, rel=1e-6)


def test_nothing_labelled() -> None:
    with pytest.raises(DataError, match="no pixel of any class"):
        inverse_frequency(np.zeros(3, np.int64))
