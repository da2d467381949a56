"""Windows: where they lie, and how an image and its mask are scaled and cut. Sizes are (height, width) in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from tunesearch.segmentation.config import Size
from tunesearch.segmentation.data.images import VOID, Pixels
from tunesearch.segmentation.data.resize import resize_image, resize_mask

Place = tuple[int, int]
"""Top and left edge of a window; negative where it begins outside of the image."""
ImageAndMask = tuple[Pixels, Pixels]
"""Image uint8 (H, W, 3) and mask uint8 (H, W)."""


def starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows of ``window`` pixels begin on a side of ``length``, the last one flush with its end.

    Neighbours share at least ``overlap`` of a window, 0 to below 1, but never all of it.
    """
    if not 0 < window <= length:
        raise ValueError(f"a window of {window} pixels must fit on a side of {length}")
    shared = math.ceil(round(overlap * window, 6))  # 0.55 * 20 is a little more than 11
    step = max(window - shared, 1)
    return [*range(0, length - window, step), length - window]


def grid(size: tuple[int, int], crop: tuple[int, int], overlap: float) -> list[Place]:
    """All windows of a grid that covers the image, row by row; see :func:`starts`."""
    lefts = starts(size[1], crop[1], overlap)
    return [(top, left) for top in starts(size[0], crop[0], overlap) for left in lefts]


def five(size: tuple[int, int], crop: tuple[int, int]) -> list[Place]:
    """The four corners (upper left, upper right, lower left, lower right), then the centre."""
    down, right = size[0] - crop[0], size[1] - crop[1]
    return [(0, 0), (0, right), (down, 0), (down, right), (round(down / 2), round(right / 2))]


def random_place(size: tuple[int, int], window: tuple[int, int], rng: np.random.Generator) -> Place:
    """A window anywhere inside the image; on a side where it is the larger of the two, the image anywhere inside it."""
    down, right = size[0] - window[0], size[1] - window[1]
    top, left = (int(rng.integers(min(0, room), max(0, room) + 1)) for room in (down, right))
    return top, left


def moved(place: Place, size: tuple[int, int], to: tuple[int, int], window: tuple[int, int]) -> Place:
    """The window of an image of size ``to`` that lies as ``place`` does in one of ``size``: corners stay corners.

    Where there was room for one place only, it is the middle.
    """
    shares = [start / (old - side) if old > side else 0.5 for start, old, side in zip(place, size, window, strict=True)]
    top, left = (round(share * (new - side)) for share, new, side in zip(shares, to, window, strict=True))
    return top, left


def scaled(image: Pixels, mask: Pixels, factor: float) -> ImageAndMask:
    """Both scaled by ``factor`` as the decoded cache resizes them, at least 1x1."""
    height, width = (max(1, round(side * factor)) for side in mask.shape)
    size = Size.model_construct(width=width, height=height)  # unchecked: scaled pictures may be below 16 pixels
    return resize_image(image, size), resize_mask(mask, size)


def cut(image: Pixels, mask: Pixels, place: Place, window: Sequence[int]) -> ImageAndMask:
    """An image and its mask in a window. What lies outside is the image mirrored at its border, void in the mask."""
    (height, width), (top, left) = mask.shape, place
    above, before = max(0, -top), max(0, -left)
    below, behind = max(0, top + window[0] - height), max(0, left + window[1] - width)
    rows = slice(max(0, top), max(0, top + window[0]))
    columns = slice(max(0, left), max(0, left + window[1]))
    image, mask = image[rows, columns], mask[rows, columns]
    if above or before or below or behind:
        border = (above, below, before, behind)
        image = cv2.copyMakeBorder(image, *border, cv2.BORDER_REFLECT_101)
        mask = cv2.copyMakeBorder(mask, *border, cv2.BORDER_CONSTANT, value=VOID)
    return np.ascontiguousarray(image, np.uint8), np.ascontiguousarray(mask, np.uint8)
