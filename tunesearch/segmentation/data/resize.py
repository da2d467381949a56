"""Resizing images and masks with OpenCV."""

from __future__ import annotations

import cv2
import numpy as np

from tunesearch.segmentation.config import Size
from tunesearch.segmentation.data.images import Pixels


def resize_image(image: Pixels, size: Size) -> Pixels:
    """Stretch an image (H, W, 3) to ``size``: by area where it shrinks, else bilinear."""
    shrinks = size.width <= image.shape[1] and size.height <= image.shape[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size.width, size.height), interpolation=how), np.uint8)


def resize_mask(mask: Pixels, size: Size) -> Pixels:
    """Stretch a mask (H, W) to ``size``, each pixel taking the label under its centre.

    INTER_NEAREST takes the label under the pixel's upper left corner instead, which moves masks against images.
    """
    resized = cv2.resize(mask, (size.width, size.height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.uint8)
