"""Class weights. Oracles: worked out by hand; scikit-learn's and Eigen and Fergus' formulas; the reports' own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tunesearch.errors import DataError, InputError
from tunesearch.segmentation.config import CLASS_WEIGHTS, TrainConfig
from tunesearch.segmentation.data.class_weights import (
    MEASURED,
    area,
    check_class_weights,
    class_pixels,
    class_weights,
    image_mean,
    image_weights,
    inverse_frequency,
    median_frequency,
)
from tunesearch.segmentation.losses import sample_weights

MASKS = np.array([[[0, 0, 0, 0], [1, 1, 2, 255]], [[0, 0, 0, 0], [0, 0, 1, 255]]], np.uint8)
"""Two masks of 2x4 pixels: 4, 2, 1 and 6, 1, 0 pixels of the classes, one void in each."""


def weights(kind: object, masks: NDArray[np.uint8] = MASKS, classes: int = 3) -> NDArray[np.float32] | None:
    return class_weights(TrainConfig.model_validate({"class_weights": kind}), masks, classes)


def test_the_names_of_the_configuration_are_those_of_the_table() -> None:
    assert ("none", *MEASURED, "sample") == CLASS_WEIGHTS


def test_pixels_are_counted_image_by_image_without_void() -> None:
    masks = np.array([[[0, 0], [1, 255]], [[0, 2], [255, 255]]], np.uint8)
    counts = class_pixels(masks, 4)
    assert counts.dtype == np.int64
    assert counts.tolist() == [[2, 1, 0, 0], [1, 0, 1, 0]]
    assert class_pixels(masks[:0], 4).shape == (0, 4)


def test_a_memory_mapped_file_is_counted(tmp_path: Path) -> None:
    np.save(tmp_path / "masks.npy", MASKS)
    assert class_pixels(np.load(tmp_path / "masks.npy", mmap_mode="r"), 3).tolist() == [[4, 2, 1], [6, 1, 0]]


def test_inverse_frequency_by_hand() -> None:
    """10, 3 and 1 of 14 pixels, 3 classes: 14 / (3 * 10), 14 / (3 * 3), 14 / (3 * 1)."""
    assert weights("inverse_frequency") == pytest.approx([14 / 30, 14 / 9, 14 / 3])


def test_inverse_frequency_is_balanced_of_scikit_learn() -> None:
    """n_samples / (n_classes * bincount), over the classes that occur."""
    assert inverse_frequency(np.array([[8, 1, 0, 3]])) == pytest.approx([12 / 24, 12 / 3, 0, 12 / 9])


def test_mean_of_inverse_frequency_over_the_pixels_is_one() -> None:
    pixels = np.array([[5_000_000_000, 100, 45_000, 0, 9], [0, 23, 678, 0, 0]])
    found = inverse_frequency(pixels).astype(np.float64)
    assert (found * pixels.sum(axis=0)).sum() / pixels.sum() == pytest.approx(1.0, rel=1e-6)


def test_median_frequency_by_hand() -> None:
    """Class 0 has 10 of the 14 labelled pixels of the images it is in (both), class 1 has 3 of 14, class 2 has 1 of the
    7 of the first image. The median of 10/14, 3/14, 2/14 is 3/14, so the weights are 3/10, 1 and 3/2."""
    assert weights("median_frequency") == pytest.approx([0.3, 1.0, 1.5])


def test_median_of_an_even_number_of_classes_lies_between_the_two() -> None:
    """Frequencies 3/4 and 1/4, median 1/2. The absent class has no frequency and does not move the median."""
    assert median_frequency(np.array([[3, 1, 0]])) == pytest.approx([2 / 3, 2.0, 0.0])


def test_area_by_hand() -> None:
    """Report C: the area of all classes over that of the class. 14 pixels, of which 10, 3 and 1."""
    assert weights("area") == pytest.approx([1.4, 14 / 3, 14.0])


def test_image_mean_by_hand() -> None:
    """Report B. First image: c = (4, 2, 1), its norm sqrt(21); w = (4 / sqrt(21), 4 / 2, 4 / 1). Second image: class 2
    is absent and counts 1, so c = (6, 1, 1), its norm sqrt(38); w = (6 / sqrt(38), 6, 6). Means: (4 / sqrt(21) +
    6 / sqrt(38)) / 2 = (0.872872 + 0.973329) / 2 = 0.923100, (2 + 6) / 2 = 4, (4 + 6) / 2 = 5."""
    assert weights("image_mean") == pytest.approx([0.923100, 4.0, 5.0], rel=1e-6)


def test_image_weights_are_those_of_the_report_s_recipe() -> None:
    """The recipe as written down: divide the counts by their norm, then c_0 / c_1 and c_0 / c_2, in this order."""
    rng = np.random.default_rng(0)
    for counts in rng.integers(1, 1000, (5, 3)):
        normed = counts / np.linalg.norm(counts)
        expected = [normed[0], normed[0] / normed[1], normed[0] / normed[2]]
        assert image_weights(counts[None])[0] == pytest.approx(expected)


def test_without_background_in_an_image_its_count_is_one() -> None:
    """c = (1, 4, 1): w = (1 / sqrt(18), 1/4, 1)."""
    assert image_weights(np.array([[0, 4, 0]]))[0] == pytest.approx([1 / 18**0.5, 0.25, 1.0])


def test_images_that_are_void_everywhere_have_no_say() -> None:
    void = np.full((1, 2, 4), 255, np.uint8)
    for kind in MEASURED:
        assert np.array_equal(weights(kind, np.concatenate([MASKS, void])), weights(kind))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", MEASURED)
def test_a_class_that_never_occurs_gets_nothing(kind: str) -> None:
    """And it changes nothing for the others, but in image_mean, where it counts a pixel in the norm."""
    found = weights(kind, classes=4)
    assert found is not None
    assert (found.shape, found.dtype, found[3]) == ((4,), np.float32, 0.0)
    assert (found[:3] > 0).all()
    assert found[1:3] == pytest.approx(weights(kind)[1:])  # type: ignore[index]


@pytest.mark.parametrize("measure", [inverse_frequency, median_frequency, area, image_mean])
def test_nothing_labelled(measure: Callable[[NDArray[np.int64]], object]) -> None:
    for pixels in (np.zeros((2, 3), np.int64), np.zeros((0, 3), np.int64)):
        with pytest.raises(DataError, match="no pixel of any class"):
            measure(pixels)


def test_weights_by_hand_are_one_per_class() -> None:
    found = weights("1, 2.5, 0")
    assert found is not None
    assert (found.dtype, found.tolist()) == (np.float32, [1.0, 2.5, 0.0])
    with pytest.raises(InputError) as caught:
        weights([1, 2])
    expected = "class_weights: there must be one weight per class: the data set has 3 classes, but got 2 weights"
    assert str(caught.value) == expected


@pytest.mark.parametrize("kind", ["none", "sample"])
def test_none_and_sample_have_no_fixed_weights(kind: str) -> None:
    assert weights(kind) is None
    check_class_weights(TrainConfig.model_validate({"class_weights": kind}), 3)


def test_the_loss_weighs_a_sample_as_image_weights_does() -> None:
    """Two implementations, one on the device: equal on every pixel, and 0 where void."""
    expected = image_weights(class_pixels(MASKS, 3))
    found = sample_weights(torch.from_numpy(MASKS).long(), 3, 255)
    for image, of_class, mask in zip(found, expected, MASKS, strict=True):
        for label in (0, 1, 2):
            assert image[torch.from_numpy(mask == label)].numpy() == pytest.approx(of_class[label])
        assert (image[torch.from_numpy(mask == 255)] == 0).all()
