"""Copy-paste: objects of one training image in another."""

from __future__ import annotations

import cv2
import numpy as np

from tunesearch.segmentation.data.images import VOID, Pixels
from tunesearch.segmentation.data.windows import ImageAndMask, cut, random_place, scaled

SCALES = (0.8, 1.25)
"""How much smaller or larger what is pasted may become: the standard jitter of the paper."""


def copy_paste(
    image: Pixels, mask: Pixels, other: Pixels, labels: Pixels, rng: np.random.Generator, *, background: int | None
) -> ImageAndMask:
    """``image`` with objects of ``other`` laid over it, and ``mask`` with their labels.

    After Ghiasi et al., Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation (2021), made
    simpler for masks that know classes but no single objects: what is pasted is all of a random, non-empty set of the
    classes in the other mask. The other picture is first mirrored (every second time), scaled within ``SCALES``, and
    moved at random so far that it stays inside, or covers everything. Without objects both stay as they are. The
    arrays given are never written to.

    Args:
        image: uint8 (H, W, 3).
        mask: uint8 (H, W), class indices and void.
        other: uint8 (H', W', 3).
        labels: the other's mask, uint8 (H', W').
        rng: all randomness.
        background: the class that is no object, beside void; None: there is none.
    """
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=VOID + 1))
    objects = present[(present != VOID) & (present != (VOID if background is None else background))]
    if objects.size == 0:
        return image, mask
    chosen = np.zeros(VOID + 1, np.bool_)
    chosen[rng.choice(objects, int(rng.integers(1, objects.size + 1)), replace=False)] = True
    if rng.random() < 0.5:
        other, labels = other[:, ::-1], labels[:, ::-1]
    other, labels = scaled(other, labels, float(rng.uniform(*SCALES)))
    other, labels = cut(other, labels, random_place(labels.shape, mask.shape, rng), mask.shape)
    here = chosen[labels].view(np.uint8)
    pasted, relabelled = image.copy(), mask.copy()
    cv2.copyTo(other, here, pasted)  # many times quicker than NumPy's where over three channels
    cv2.copyTo(labels, here, relabelled)
    return pasted, relabelled
