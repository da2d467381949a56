"""Decoding a part of a split into the cache."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tunesearch.errors import DataError, Problem
from tunesearch.segmentation.config import ClassSpec, DataConfig, Size
from tunesearch.segmentation.data.cache.entry import ChecksummedFile, open_or_build, write_meta
from tunesearch.segmentation.data.cache.parts import DecodedPart, OriginalMasks, open_original_masks, open_part
from tunesearch.segmentation.data.images import Pixels, read_image, read_mask
from tunesearch.segmentation.data.layouts import resolve_classes
from tunesearch.segmentation.data.resize import resize_image, resize_mask
from tunesearch.segmentation.data.splits import Split, SplitItem
from tunesearch.segmentation.files import sha256

S = TypeVar("S")
T = TypeVar("T")

FORMAT = 2
"""Raised whenever decoding, resizing or the files change, so that older entries are not used."""
_AT_ONCE = 64
"""How many images are decoded before they are written: all of them together may be gigabytes."""


def decoded(data: DataConfig, split: Split, part: str, size: Size, *, folder: Path | None = None) -> DecodedPart:
    """The images and masks of ``part``, stretched to ``size``; built if they are not in the cache yet.

    Any number of processes may ask for the same part at once: one builds, the others wait.

    Args:
        data: how masks are decoded.
        split: the files and their contents.
        part: train, val or test.
        size: width and height in pixels.
        folder: where the cache lies; None: ``files.cache_folder()``.

    Raises:
        DataError: files that changed, vanished or cannot be decoded; a folder that cannot be written.
        DiskFull: too little disk.
    """
    classes = resolve_classes(data)
    items = split.items(part)
    key = _key(data, classes, split.part_digest(part), str(size))
    bytes_needed = len(items) * size.width * size.height * 4

    def build(building: Path) -> None:
        _build(building, data, classes, split.root, items, size)

    return open_or_build(key, build, open_part, bytes_needed, f"{len(items)} images at {size}", folder)


def original_masks(data: DataConfig, split: Split, part: str, *, folder: Path | None = None) -> OriginalMasks:
    """The masks of ``part`` at the sizes of their files, to score predictions at; built as ``decoded`` builds.

    Raises:
        DataError, DiskFull: as ``decoded``.
    """
    classes = resolve_classes(data)
    items = split.items(part)
    key = _key(data, classes, split.part_digest(part), "original masks")

    def build(building: Path) -> None:
        def one(item: SplitItem) -> NDArray[np.uint8]:
            path = split.root / item.mask
            return read_mask(path, data, classes, content=_content(path, item.mask_sha256))

        sizes = []
        with ChecksummedFile(building / "labels") as labels:
            for mask in _in_order(one, items):
                sizes.append(mask.shape)
                labels.write(mask.tobytes())
        write_meta(building, {"sizes": sizes, "files": {"labels": labels.sums}})

    return open_or_build(key, build, open_original_masks, 0, f"{len(items)} masks", folder)


def _key(data: DataConfig, classes: tuple[ClassSpec, ...], digest: str, size: str) -> str:
    parts: dict[str, Any] = {
        "format": FORMAT,
        "content": digest,
        "mask_format": data.mask_format,
        "classes": len(classes),
        "size": size,
    }
    if data.mask_format == "index":
        parts["ignore_index"] = data.ignore_index
    if data.mask_format == "color":
        parts["colors"] = [spec.colors for spec in classes]
        parts["ignore_colors"] = data.ignore_colors
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _build(
    building: Path,
    data: DataConfig,
    classes: tuple[ClassSpec, ...],
    root: Path,
    items: tuple[SplitItem, ...],
    size: Size,
) -> None:
    shape = (len(items), size.height, size.width)

    def one(item: SplitItem) -> tuple[Pixels, Pixels] | list[Problem]:
        try:
            image_path, mask_path = root / item.image, root / item.mask
            image = read_image(image_path, _content(image_path, item.image_sha256))
            mask = read_mask(mask_path, data, classes, content=_content(mask_path, item.mask_sha256))
        except DataError as error:
            return list(error.problems)
        if mask.shape != image.shape[:2]:
            rule = f"the mask must be as large as its image, {image.shape[1]}x{image.shape[0]}"
            return [Problem(str(mask_path), rule, value=f"{mask.shape[1]}x{mask.shape[0]}")]
        return resize_image(image, size), resize_mask(mask, size)

    problems: list[Problem] = []
    # Written, not mapped: a full disk would kill a process that writes to a mapping.
    with ChecksummedFile(building / "images.npy") as images, ChecksummedFile(building / "masks.npy") as masks:
        for file, dimensions in ((images, (*shape, 3)), (masks, shape)):
            header = {"descr": "|u1", "fortran_order": False, "shape": dimensions}
            np.lib.format.write_array_header_1_0(file, header)
        for found in _in_order(one, items):
            if isinstance(found, list):
                problems += found
            elif not problems:
                for file, pixels in zip((images, masks), found, strict=True):
                    file.write(pixels.tobytes())
    if problems:
        raise DataError(problems)
    ids = [item.id for item in items]
    write_meta(building, {"shape": shape, "ids": ids, "files": {"images.npy": images.sums, "masks.npy": masks.sums}})


def _in_order(work: Callable[[S], T], items: Sequence[S]) -> Iterator[T]:
    """What ``work`` makes of the items, in their order, some of them at once in threads."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(items), _AT_ONCE):
            yield from pool.map(work, items[start : start + _AT_ONCE])


def _content(path: Path, digest: str) -> bytes:
    """The file's bytes, which must be those that the entry is named after."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(Problem(str(path), f"the file cannot be read: {error.strerror}")) from error
    if sha256(content) != digest:
        raise DataError(Problem(str(path), "the file has changed since the split was frozen"))
    return content
