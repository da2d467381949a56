"""Labelled images: reading an image with its mask, and which of them a model was trained on or had set aside."""

from __future__ import annotations

from collections.abc import Sequence

from tunesearch.errors import DataError, Problem
from tunesearch.production.model import Model
from tunesearch.production.prefetch import prefetch
from tunesearch.segmentation.config import ClassSpec, DataConfig
from tunesearch.segmentation.data.images import Pixels, read_image, read_mask
from tunesearch.segmentation.data.layouts import PARTS, Pair
from tunesearch.segmentation.files import sha256


def read_pair(pair: Pair, data: DataConfig, classes: tuple[ClassSpec, ...]) -> tuple[Pixels, Pixels]:
    """Image uint8 (H, W, 3) and mask uint8 (H, W) of class indices.

    Raises:
        DataError: a file cannot be read, or the mask is of another size.
    """
    image, mask = read_image(pair.image), read_mask(pair.mask, data, classes)
    if mask.shape != image.shape[:2]:
        rule = f"the mask must be as large as its image, {image.shape[1]}x{image.shape[0]}"
        raise DataError(Problem(str(pair.mask), rule, value=f"{mask.shape[1]}x{mask.shape[0]}"))
    return image, mask


def holds_test_images(model: Model, pairs: Sequence[Pair]) -> bool:
    """Whether one of the images, by its content, belongs to the test part that the model's search set aside."""
    aside = {item.image_sha256 for item in model.split.test}
    return bool(aside) and any(digest in aside for digest in _digests(pairs))


def holds_own_images(model: Model, pairs: Sequence[Pair]) -> bool:
    """Whether one of the images, by its content, belongs to any part of the model's own split."""
    own = {item.image_sha256 for part in PARTS for item in model.split.items(part)}
    return any(digest in own for digest in _digests(pairs))


def trained_on(models: Sequence[Model], pairs: Sequence[Pair]) -> int:
    """How many of the images, by their content, one of the models was trained on."""
    known = {item.image_sha256 for model in models for item in model.split.train}
    return sum(digest in known for digest in _digests(pairs)) if known else 0


def _digests(pairs: Sequence[Pair]) -> list[str]:
    return [digest for _, digest in prefetch(lambda pair: sha256(pair.image.read_bytes()), pairs)]
