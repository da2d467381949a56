"""The decoded cache: every image of a part decoded and resized once per node, then memory-mapped by every process.

Decoding a JPEG costs more than training a small network on it, and many trials read the same images at the same size.
An entry is a folder of two NumPy files, named by a hash of everything that its content depends on, so it can never be
stale: only missing or damaged, and then it is made again. Checksums, which a process looks at when it first uses an
entry, tell damage. Several processes share the pages of one mapping.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from tunesearch.errors import DataError, DiskFull, Problem
from tunesearch.segmentation.config import ClassSpec, DataConfig, Size
from tunesearch.segmentation.data.images import Pixels, read_image, read_mask
from tunesearch.segmentation.data.layouts import resolve_classes
from tunesearch.segmentation.data.splits import Split, SplitItem
from tunesearch.segmentation.files import cache_folder, disk_full, is_disk_full, sha256, sync

S = TypeVar("S")
T = TypeVar("T")

FORMAT = 2
"""Raised whenever decoding, resizing or the files change, so that older entries are not used."""
_SPARE_BYTES = 64 * 2**20
"""Disk that must stay free beside an entry."""
_AT_ONCE = 64
"""How many images are decoded before they are written: all of them together may be gigabytes."""
_HINT = "TUNESEARCH_CACHE names another folder"
_verified: set[tuple[str, int, int]] = set()
"""Path, inode and time of change of the files whose checksum this process found right."""


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
        DataError: files that changed, vanished or cannot be decoded; a folder that cannot be written.
        DiskFull: too little disk.
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
        with _Checked(building / "labels") as labels:
            for mask in _ahead(one, items):
                sizes.append(mask.shape)
                labels.write(mask.tobytes())
        _write_meta(building, {"sizes": sizes, "files": {"labels": labels.sums}})

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
        if is_disk_full(error, parent):
            raise disk_full(parent, f"the decoded cache of {what}", hint=_HINT) from error
        rule = f"the cache cannot be written: {error.strerror or error}"
        raise DataError(Problem(str(parent), rule, hint=_HINT)) from error
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
        raise DiskFull(str(Problem(str(parent), rule, value=f"{free / 2**20:.0f} MiB", hint=_HINT)))


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
    with _Checked(building / "images.npy") as images, _Checked(building / "masks.npy") as masks:
        for file, dimensions in ((images, (*shape, 3)), (masks, shape)):
            header = {"descr": "|u1", "fortran_order": False, "shape": dimensions}
            np.lib.format.write_array_header_1_0(file, header)
        for found in _ahead(one, items):
            if isinstance(found, list):
                problems += found
            elif not problems:
                for file, pixels in zip((images, masks), found, strict=True):
                    file.write(pixels.tobytes())
    if problems:
        raise DataError(problems)
    ids = [item.id for item in items]
    _write_meta(building, {"shape": shape, "ids": ids, "files": {"images.npy": images.sums, "masks.npy": masks.sums}})


def _ahead(work: Callable[[S], T], items: Sequence[S]) -> Iterator[T]:
    """What ``work`` makes of the items, in their order, some of them at once in threads."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(items), _AT_ONCE):
            yield from pool.map(work, items[start : start + _AT_ONCE])


class _Checked:
    """A file that is written from front to back; afterwards ``sums`` are its length and its CRC-32."""

    def __init__(self, path: Path) -> None:
        self.sums = (0, 0)
        self._file = path.open("wb")

    def write(self, content: bytes) -> None:
        length, checksum = self.sums
        self._file.write(content)
        self.sums = (length + len(content), zlib.crc32(content, checksum))

    def __enter__(self) -> _Checked:
        return self

    def __exit__(self, *error: object) -> None:
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())


def _write_meta(building: Path, meta: dict[str, Any]) -> None:
    text = json.dumps(meta).encode()
    with _Checked(building / "meta.json") as file:
        file.write(b"%d\n%b\n" % (zlib.crc32(text), text))


def _read_meta(entry: Path) -> dict[str, Any]:
    checksum, text = (entry / "meta.json").read_text(encoding="utf-8").splitlines()
    if zlib.crc32(text.encode()) != int(checksum):
        raise ValueError(f"{entry / 'meta.json'} is damaged")
    meta: dict[str, Any] = json.loads(text)
    return meta


def _verify(entry: Path) -> None:
    """Compare an entry's files with their checksums, once per process, for all of them are read.

    Raises:
        OSError, ValueError: a file is not what was written.
    """
    for name, (length, checksum) in _read_meta(entry)["files"].items():
        path = entry / name
        status = path.stat()
        seen = (str(path), status.st_ino, status.st_mtime_ns)
        if status.st_size != length or (seen not in _verified and _crc32(path) != checksum):
            raise ValueError(f"{path} is damaged")
        _verified.add(seen)


def _crc32(path: Path) -> int:
    """Read, not mapped: a disk that cannot give a part of the file is an error then, not the end of the process."""
    checksum = 0
    with path.open("rb") as file:
        while content := file.read(2**20):
            checksum = zlib.crc32(content, checksum)
    return checksum


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
        _verify(entry)
        return opened(entry)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, torn, or not what we wrote
        return None


def _open(entry: Path) -> DecodedPart:
    meta = _read_meta(entry)
    # Seen as plain arrays: indexing a memmap costs several times as much.
    images, masks = (np.asarray(np.load(entry / name, mmap_mode="r")) for name in ("images.npy", "masks.npy"))
    return DecodedPart(images, masks, tuple(meta["ids"]), entry)


def _open_rows(entry: Path, rows: list[int]) -> DecodedPart:
    return _open(entry).take(rows)


def _open_originals(entry: Path) -> OriginalMasks:
    sizes = np.array(_read_meta(entry)["sizes"], np.int64).reshape(-1, 2)
    return OriginalMasks(np.asarray(np.memmap(entry / "labels", np.uint8, "r")), sizes)
