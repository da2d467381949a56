"""Mean and deviation. Oracles: NumPy on all pixels at once; numbers by hand; scikit-learn's rule for constants."""

from __future__ import annotations

import numpy as np
import pytest

from tunesearch.errors import DataError
from tunesearch.segmentation.data.cache import DecodedPart
from tunesearch.segmentation.data.statistics import mean_and_std

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 13, 7, 3), np.uint8) // np.array([1, 2, 5], np.uint8)


def test_they_are_numpys_over_all_pixels() -> None:
    mean, std = mean_and_std(IMAGES)
    pixels = IMAGES.reshape(-1, 3) / 255
    assert mean == pytest.approx(pixels.mean(axis=0), rel=1e-13)
    assert std == pytest.approx(pixels.std(axis=0), rel=1e-13)


def test_pictures_of_different_sizes_count_by_their_pixels() -> None:
    one, other = IMAGES[0], IMAGES[1, :5, :3]
    mean, std = mean_and_std([one, other])
    pixels = np.concatenate([one.reshape(-1, 3), other.reshape(-1, 3)]) / 255
    assert mean == pytest.approx(pixels.mean(axis=0), rel=1e-13)
    assert std == pytest.approx(pixels.std(axis=0), rel=1e-13)


def test_by_hand() -> None:
    # Of two pixels of 0 and two of 255 the mean is 1/2 and the population deviation 1/2; of 51 and 3 x 102:
    # mean 0.35, variance (3 * 0.05^2 + 0.15^2) / 4 = 0.0075.
    picture = np.array([[[0, 51, 9], [0, 102, 9]], [[255, 102, 9], [255, 102, 9]]], np.uint8)
    mean, std = mean_and_std(picture[None])
    assert mean == pytest.approx((0.5, 0.35, 9 / 255))
    assert std == pytest.approx((0.5, 0.0075**0.5, 1.0))  # a constant is divided by 1, as in StandardScaler


def test_nearly_constant_pictures_lose_no_digits() -> None:
    picture = np.full((1, 1000, 1000, 3), 254, np.uint8)
    picture[0, 0, 0] = 255
    expected = (1e-6 * (1 - 1e-6)) ** 0.5 / 255  # of a Bernoulli variable
    assert mean_and_std(picture)[1] == pytest.approx((expected,) * 3, rel=1e-12)


def test_rows_of_a_shared_array() -> None:
    whole = DecodedPart(IMAGES, np.zeros(IMAGES.shape[:3], np.uint8), tuple("abcde"))
    assert mean_and_std(whole.subset([3, 1]).images) == mean_and_std(IMAGES[[3, 1]])


def test_no_images() -> None:
    with pytest.raises(DataError, match="no training image"):
        mean_and_std(IMAGES[:0])
