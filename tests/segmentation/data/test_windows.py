"""Windows. Oracles: places worked out by hand; torchvision's five_crop; NumPy's padding."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.functional import five_crop

from tunesearch.segmentation.data.windows import cut, five, grid, moved, random_place, scaled, starts

IMAGE = np.random.default_rng(0).integers(0, 256, (11, 17, 3), np.uint8)
MASK = np.random.default_rng(1).integers(0, 5, (11, 17), np.uint8)


@pytest.mark.parametrize(
    ("length", "window", "overlap", "expected"),
    [
        (10, 4, 0.0, [0, 4, 6]),  # 8 would be the next; the last is flush
        (12, 4, 0.0, [0, 4, 8]),
        (10, 4, 0.25, [0, 3, 6]),
        (10, 4, 0.3, [0, 2, 4, 6]),  # 0.3 of 4 is 1.2: two pixels
        (10, 10, 0.5, [0]),
        (11, 10, 0.0, [0, 1]),
        (256, 128, 0.25, [0, 96, 128]),
        (40, 20, 0.55, [0, 9, 18, 20]),  # 0.55 * 20 is 11.000000000000002 to a computer
        (5, 1, 0.89, [0, 1, 2, 3, 4]),  # a window is never the next one
        (6, 2, 0.89, [0, 1, 2, 3, 4]),
    ],
)
def test_starts_by_hand(length: int, window: int, overlap: float, expected: list[int]) -> None:
    assert starts(length, window, overlap) == expected


@pytest.mark.parametrize("window", [0, 11])
def test_a_window_must_fit(window: int) -> None:
    with pytest.raises(ValueError, match="must fit on a side of 10"):
        starts(10, window, 0.0)


def test_grids_cover_and_overlap() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        length = int(rng.integers(1, 60))
        window, overlap = int(rng.integers(1, length + 1)), float(rng.uniform(0, 0.89))
        places = starts(length, window, overlap)
        assert (places[0], places[-1]) == (0, length - window)
        steps = np.diff(places)
        assert (steps > 0).all()
        assert all(window - step >= overlap * window - 1e-6 or step == 1 for step in steps)


def test_a_grid_goes_row_by_row() -> None:
    assert grid((6, 8), (4, 4), 0.5) == [(0, 0), (0, 2), (0, 4), (2, 0), (2, 2), (2, 4)]


@pytest.mark.parametrize("crop", [(5, 4), (11, 17), (4, 5), (8, 16), (11, 3)])
def test_five_is_torchvisions(crop: tuple[int, int]) -> None:
    expected = five_crop(torch.from_numpy(MASK)[None], list(crop))
    for (top, left), part in zip(five((11, 17), crop), expected, strict=True):
        assert np.array_equal(MASK[top : top + crop[0], left : left + crop[1]], part[0].numpy())


def test_a_random_place_is_any_and_inside() -> None:
    rng = np.random.default_rng(0)
    places = {random_place((6, 8), (4, 5), rng) for _ in range(500)}
    assert places == {(top, left) for top in range(3) for left in range(4)}


def test_a_random_place_round_a_smaller_image_holds_all_of_it() -> None:
    rng = np.random.default_rng(0)
    places = {random_place((2, 8), (4, 5), rng) for _ in range(500)}
    assert places == {(top, left) for top in (-2, -1, 0) for left in range(4)}


def test_windows_move_with_the_scale() -> None:
    # From 12x12 to 24x12, windows of 4: the room of 8 becomes 20 and stays 8.
    assert moved((0, 0), (12, 12), (24, 12), (4, 4)) == (0, 0)
    assert moved((8, 8), (12, 12), (24, 12), (4, 4)) == (20, 8)
    assert moved((4, 2), (12, 12), (24, 12), (4, 4)) == (10, 2)
    assert moved((8, 8), (12, 12), (2, 12), (4, 4)) == (-2, 8)  # padded above
    assert moved((0, 0), (4, 4), (8, 4), (4, 4)) == (2, 0)  # there was but one place: the middle


def test_same_scale_same_place() -> None:
    for place in [*grid((37, 91), (16, 20), 0.3), *five((37, 91), (16, 20))]:
        assert moved(place, (37, 91), (37, 91), (16, 20)) == place


def test_cut_inside_is_a_slice() -> None:
    image, mask = cut(IMAGE, MASK, (3, 5), (4, 6))
    assert np.array_equal(image, IMAGE[3:7, 5:11])
    assert np.array_equal(mask, MASK[3:7, 5:11])
    assert image.flags.c_contiguous


@pytest.mark.parametrize("place", [(-3, -2), (-3, 5), (0, -8), (-1, -1), (4, 9)])
def test_cut_outside_is_mirrored_and_void(place: tuple[int, int]) -> None:
    window = (18, 25)
    top, left = place
    image, mask = cut(IMAGE, MASK, place, window)
    rows = (max(0, -top), max(0, top + 18 - 11))
    columns = (max(0, -left), max(0, left + 25 - 17))
    inner = (slice(max(0, top), None), slice(max(0, left), None))
    assert np.array_equal(image, np.pad(IMAGE[inner], (rows, columns, (0, 0)), mode="reflect"))
    assert np.array_equal(mask, np.pad(MASK[inner], (rows, columns), constant_values=255))


@pytest.mark.parametrize("side", [1, 2, 3])
def test_tiny_pictures_are_mirrored_as_often_as_it_takes(side: int) -> None:
    small = IMAGE[:side, :side]
    image, mask = cut(small, MASK[:side, :side], (-9, 0), (20, 20))
    assert np.array_equal(image, np.pad(small, ((9, 11 - side), (0, 20 - side), (0, 0)), mode="reflect"))
    assert (mask != 255).sum() == side * side


def test_scaling_is_the_caches() -> None:
    image, mask = scaled(IMAGE, MASK, 0.5)  # round(5.5) = 6, round(8.5) = 8
    assert np.array_equal(image, cv2.resize(IMAGE, (8, 6), interpolation=cv2.INTER_AREA))
    assert np.array_equal(mask, cv2.resize(MASK, (8, 6), interpolation=cv2.INTER_NEAREST_EXACT))
    image, mask = scaled(IMAGE, MASK, 2.0)
    assert np.array_equal(image, cv2.resize(IMAGE, (34, 22), interpolation=cv2.INTER_LINEAR))
    assert np.array_equal(mask, MASK.repeat(2, 0).repeat(2, 1))
    assert scaled(IMAGE, MASK, 1e-6)[1].shape == (1, 1)
