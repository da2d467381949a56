"""The decoded cache: every image of a part decoded and resized once per node, then memory-mapped by every process.

Decoding a JPEG costs more than training a small network on it, and many trials read the same images at the same size.
An entry is a folder of two NumPy files, named by a hash of everything that its content depends on, so it can never be
stale: only missing, or torn (its files are not as long as they should be), and then it is made again. Several processes
share the pages of one mapping.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from tunesearch.errors import DataError, Problem
from tunesearch.segmentation.config import ClassSpec, DataConfig, Size
from tunesearch.segmentation.data.images import Pixels, read_image, read_mask
from tunesearch.segmentation.data.layouts import resolve_classes
from tunesearch.segmentation.data.splits import Split, SplitItem
from tunesearch.segmentation.files import cache_folder, sha256, sync, write_text

T = TypeVar("T")

FORMAT = 1
"""Raised whenever decoding or resizing changes, so that older entries are not used."""
_SPARE_BYTES = 64 * 2**20
"""Disk that must stay free beside an entry."""


class Rows:
    """Some rows of an array, in an order of their own, without a copy of any: read by index, list of indices or loop.

    Args:
        array: (M, ...).
        rows: N indices into it.
    """

    def __init__(self, array: NDArray[np.uint8], rows: Sequence[int]) -> None:
        self.array = array
        self.rows = np.asarray(rows, np.intp)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...)."""
        return (len(self.rows), *self.array.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | Sequence[int]) -> NDArray[np.uint8]:
        return np.asarray(self.array[self.rows[index]], np.uint8)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class DecodedPart:
    """One part of a split at one size.

    Attributes:
        images: uint8 (N, H, W, 3), RGB; read-only, memory-mapped where it comes from the cache.
        masks: uint8 (N, H, W): class index, 255 where nothing counts.
        ids: the N ids, in the split's order.
        folder: the cache entry; None for arrays that were made in memory.
    """

    images: NDArray[np.uint8] | Rows
    masks: NDArray[np.uint8] | Rows
    ids: tuple[str, ...]
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int]) -> DecodedPart:
        """The part that has these rows of a whole one; both share the arrays."""
        assert isinstance(self.images, np.ndarray)
        assert isinstance(self.masks, np.ndarray)
        ids = tuple(self.ids[row] for row in rows)
        return DecodedPart(Rows(self.images, rows), Rows(self.masks, rows), ids, self.folder)

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled memmap is a full copy; another process opens the entry itself.
        if self.folder is None:
            return DecodedPart, (self.images, self.masks, self.ids)
        if isinstance(self.images, Rows):
            return _open_rows, (self.folder, self.images.rows.tolist())
        return _open, (self.folder,)


class OriginalMasks:
    """The masks of a part as their files have them, each of its own size: uint8 (H, W), 255 where nothing counts.

    Args:
        labels: all masks flat, one behind the other.
        sizes: (N, 2), height and width of each.
        rows: which of them, in which order; None: all.
    """

    def __init__(self, labels: NDArray[np.uint8], sizes: NDArray[np.int64], rows: Sequence[int] | None = None) -> None:
        self.labels, self.sizes = labels, sizes
        self.starts = np.concatenate([[0], np.cumsum(sizes.prod(axis=1))])
        self.rows = range(len(sizes)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        row = self.rows[index]
        height, width = self.sizes[row].tolist()
        return self.labels[self.starts[row] : self.starts[row + 1]].reshape(height, width)

    def take(self, rows: Sequence[int]) -> OriginalMasks:
        """The masks of these rows of a whole part; both share the array."""
        return OriginalMasks(self.labels, self.sizes, rows)


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
        DataError: files that changed, vanished or cannot be decoded; too little disk; a folder that cannot be written.
    """
    classes = resolve_classes(data)
    items = split.items(part)
    key = _key(data, classes, split.part_digest(part), str(size))
    bytes_needed = len(items) * size.width * size.height * 4

    def build(building: Path) -> None:
        _build(building, data, classes, split.root, items, size)

    return _entry(key, build, _open, bytes_needed, f"{len(items)} images at {size}", folder)


def original_masks(data: DataConfig, split: Split, part: str, *, folder: Path | None = None) -> OriginalMasks:
    """The masks of ``part`` at the sizes of their files, to score predictions at; built as ``decoded`` builds.

    Raises:
        DataError: as ``decoded``.
    """
    classes = resolve_classes(data)
    items = split.items(part)
    key = _key(data, classes, split.part_digest(part), "original masks")

    def build(building: Path) -> None:
        def one(item: SplitItem) -> NDArray[np.uint8]:
            path = split.root / item.mask
            return read_mask(path, data, classes, content=_content(path, item.mask_sha256))

        sizes = []
        with (
            ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool,
            (building / "labels").open("wb") as file,
        ):
            for start in range(0, len(items), 64):  # not all of them at once: together they may be gigabytes
                for mask in pool.map(one, items[start : start + 64]):
                    sizes.append(mask.shape)
                    file.write(mask.tobytes())
            file.flush()
            os.fsync(file.fileno())
        write_text(building / "meta.json", json.dumps({"format": FORMAT, "sizes": sizes}))

    return _entry(key, build, _open_originals, 0, f"{len(items)} masks", folder)


def _entry(
    key: str,
    build: Callable[[Path], None],
    opened: Callable[[Path], T],
    bytes_needed: int,
    what: str,
    folder: Path | None,
) -> T:
    """A whole entry of the cache, built under a lock if it is not there."""
    parent = (cache_folder() if folder is None else folder) / "decoded"
    entry = parent / key
    if (found := _valid(entry, opened)) is not None:
        return found
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(parent / f"{entry.name}.lock"):
            if (found := _valid(entry, opened)) is not None:  # another process was quicker
                return found
            building = parent / f"{entry.name}.building"
            for leftover in (building, entry):  # of a process that was killed; of a damaged entry
                if leftover.exists():
                    shutil.rmtree(leftover)
            _require_disk(parent, bytes_needed, what)
            building.mkdir()
            try:
                build(building)
                building.replace(entry)
            finally:
                shutil.rmtree(building, ignore_errors=True)
            sync(parent)
    except OSError as error:
        hint = "TUNESEARCH_CACHE names another folder"
        rule = f"the cache cannot be written: {error.strerror or error}"
        raise DataError(Problem(str(parent), rule, hint=hint)) from error
    return opened(entry)


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


def _require_disk(parent: Path, bytes_needed: int, what: str) -> None:
    needed = bytes_needed + _SPARE_BYTES
    free = shutil.disk_usage(parent).free
    if free < needed:
        rule = f"the decoded cache of {what} needs {needed / 2**20:.0f} MiB of free disk"
        hint = "TUNESEARCH_CACHE names another folder"
        raise DataError(Problem(str(parent), rule, value=f"{free / 2**20:.0f} MiB", hint=hint))


def _build(
    building: Path,
    data: DataConfig,
    classes: tuple[ClassSpec, ...],
    root: Path,
    items: tuple[SplitItem, ...],
    size: Size,
) -> None:
    shape = (len(items), size.height, size.width)
    images = np.lib.format.open_memmap(building / "images.npy", "w+", np.uint8, (*shape, 3))
    masks = np.lib.format.open_memmap(building / "masks.npy", "w+", np.uint8, shape)

    def one(index: int) -> list[Problem]:
        item = items[index]
        try:
            image_path, mask_path = root / item.image, root / item.mask
            image = read_image(image_path, _content(image_path, item.image_sha256))
            mask = read_mask(mask_path, data, classes, content=_content(mask_path, item.mask_sha256))
        except DataError as error:
            return list(error.problems)
        if mask.shape != image.shape[:2]:
            rule = f"the mask must be as large as its image, {image.shape[1]}x{image.shape[0]}"
            return [Problem(str(mask_path), rule, value=f"{mask.shape[1]}x{mask.shape[0]}")]
        images[index] = resize_image(image, size)
        masks[index] = resize_mask(mask, size)
        return []

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        problems = [problem for found in pool.map(one, range(len(items))) for problem in found]
    if problems:
        raise DataError(problems)
    for array, name in ((images, "images.npy"), (masks, "masks.npy")):
        array.flush()
        sync(building / name)
    meta = {
        "format": FORMAT,
        "shape": shape,
        "bytes": {name: (building / name).stat().st_size for name in ("images.npy", "masks.npy")},
        "ids": [item.id for item in items],
    }
    write_text(building / "meta.json", json.dumps(meta))


def _content(path: Path, digest: str) -> bytes:
    """The file's bytes, which must be those that the entry is named after."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(Problem(str(path), f"the file cannot be read: {error.strerror}")) from error
    if sha256(content) != digest:
        raise DataError(Problem(str(path), "the file has changed since the split was frozen"))
    return content


def _valid(entry: Path, opened: Callable[[Path], T]) -> T | None:
    """The entry, if it is there and whole."""
    try:
        return opened(entry)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, torn, or not what we wrote
        return None


def _open(entry: Path) -> DecodedPart:
    meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
    for name, size in meta["bytes"].items():
        if (entry / name).stat().st_size != size:
            raise ValueError(f"{entry / name} is damaged")
    shape = tuple(meta["shape"])
    # Seen as plain arrays: indexing a memmap costs several times as much.
    images, masks = (np.asarray(np.load(entry / name, mmap_mode="r")) for name in ("images.npy", "masks.npy"))
    if images.shape != (*shape, 3) or masks.shape != shape or images.dtype != np.uint8 or masks.dtype != np.uint8:
        raise ValueError(f"{entry} is damaged")
    return DecodedPart(images, masks, tuple(meta["ids"]), entry)


def _open_rows(entry: Path, rows: list[int]) -> DecodedPart:
    return _open(entry).take(rows)


def _open_originals(entry: Path) -> OriginalMasks:
    meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
    sizes = np.array(meta["sizes"], np.int64).reshape(-1, 2)
    labels = np.asarray(np.memmap(entry / "labels", np.uint8, "r"))
    if len(labels) != sizes.prod(axis=1).sum():
        raise ValueError(f"{entry} is damaged")
    return OriginalMasks(labels, sizes)
