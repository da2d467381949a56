"""A part of a split in memory: its images and masks as arrays, and the masks at the sizes of their files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesearch.segmentation.data.cache.entry import read_meta


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

    def subset(self, rows: Sequence[int]) -> DecodedPart:
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
            return _open_subset, (self.folder, self.images.rows.tolist())
        return open_part, (self.folder,)


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

    def subset(self, rows: Sequence[int]) -> OriginalMasks:
        """The masks of these rows of a whole part; both share the array."""
        return OriginalMasks(self.labels, self.sizes, rows)


def open_part(entry: Path) -> DecodedPart:
    """The part in an entry of the cache, memory-mapped."""
    meta = read_meta(entry)
    # Seen as plain arrays: indexing a memmap costs several times as much.
    images, masks = (np.asarray(np.load(entry / name, mmap_mode="r")) for name in ("images.npy", "masks.npy"))
    return DecodedPart(images, masks, tuple(meta["ids"]), entry)


def _open_subset(entry: Path, rows: list[int]) -> DecodedPart:
    return open_part(entry).subset(rows)


def open_original_masks(entry: Path) -> OriginalMasks:
    """The masks in an entry of the cache, memory-mapped."""
    sizes = np.array(read_meta(entry)["sizes"], np.int64).reshape(-1, 2)
    return OriginalMasks(np.asarray(np.memmap(entry / "labels", np.uint8, "r")), sizes)
