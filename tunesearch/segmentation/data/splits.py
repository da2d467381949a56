"""Split: which file is in which part, fixed with the content of every file, so that it means the same next year."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tunesearch.errors import DataError, Problem
from tunesearch.segmentation.config import DataConfig
from tunesearch.segmentation.data.layouts import PARTS, Pair, find_pairs
from tunesearch.segmentation.files import data_root, sha256, write_text

Part = Literal["train", "val", "test"]
POOL = "train+val"
"""What folds are made of."""


class SplitItem(BaseModel):
    """One pair: paths relative to the split's root (with ``/``), SHA-256 of the bytes of both files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    image: str
    mask: str
    image_sha256: str
    mask_sha256: str


class Split(BaseModel):
    """The three parts, each in a fixed order. Written as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    root: Path
    """Folder that the items' paths are relative to."""
    train: tuple[SplitItem, ...]
    val: tuple[SplitItem, ...]
    test: tuple[SplitItem, ...] = ()

    def items(self, part: str) -> tuple[SplitItem, ...]:
        """The items of ``part``; ``train+val`` are those of both, in this order.

        Raises:
            DataError: no part is called so.
        """
        if part == POOL:
            return self.train + self.val
        if part not in PARTS:
            raise DataError(Problem("split", f"a part is one of {', '.join(PARTS)}", value=repr(part)))
        items: tuple[SplitItem, ...] = getattr(self, part)
        return items

    def pairs(self, part: str) -> list[Pair]:
        """The items of ``part`` as pairs of absolute paths."""
        return [Pair(item.id, self.root / item.image, self.root / item.mask) for item in self.items(part)]

    def moved_to(self, root: Path) -> Split:
        """The same split of the same data in another folder (another machine's)."""
        return self.model_copy(update={"root": root.expanduser().absolute()})

    def part_digest(self, part: str) -> str:
        """Hash (64 hex digits) of the ids and contents of ``part``, in order; not of any path."""
        return _digest(f"{item.id}\0{item.image_sha256}\0{item.mask_sha256}" for item in self.items(part))

    @property
    def digest(self) -> str:
        """Hash (64 hex digits) of who is in which part with what content; not of any path."""
        return _digest(f"{part}\0{self.part_digest(part)}" for part in PARTS)

    def save(self, path: Path) -> None:
        """Write the split as JSON, completely or not at all."""
        write_text(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Split:
        """Read a split that ``save`` wrote.

        Raises:
            DataError: the file is missing or is no split.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise DataError(Problem(str(path), f"the split cannot be read: {error.strerror}")) from error
        except ValidationError as error:
            problems = [
                Problem(str(path), f"is no split of this version: {item['msg']}", ".".join(map(str, item["loc"])))
                for item in error.errors()[:5]
            ]
            raise DataError(problems) from error

    def verify(self) -> None:
        """Read every file and compare it with its hash.

        Raises:
            DataError: every file that changed or is missing.
        """
        expected = {
            self.root / name: digest
            for part in PARTS
            for item in self.items(part)
            for name, digest in ((item.image, item.image_sha256), (item.mask, item.mask_sha256))
        }
        problems = []
        for (path, digest), found in zip(expected.items(), _hash_files(expected), strict=True):
            if isinstance(found, OSError):
                problems.append(Problem(str(path), f"the split names this file: {found.strerror}"))
            elif found != digest:
                problems.append(Problem(str(path), "the file has changed since the split was frozen"))
        if problems:
            raise DataError(problems)


def freeze_split(data: DataConfig) -> Split:
    """Find the pairs of ``data`` and hash every file.

    Raises:
        DataError: whatever ``find_pairs`` raises; files that cannot be read.
    """
    pairs = find_pairs(data)
    files = [path for part in PARTS for pair in pairs[part] for path in (pair.image, pair.mask)]
    hashes = dict(zip(files, _hash_files(files), strict=True))
    unreadable = [
        Problem(str(path), f"the file cannot be read: {found.strerror}")
        for path, found in hashes.items()
        if isinstance(found, OSError)
    ]
    if unreadable:
        raise DataError(unreadable)
    root = data_root(data)
    if root is None or not all(path.is_relative_to(root) for path in files):
        root = Path(os.path.commonpath([path.parent for path in files]))
    parts = {
        part: tuple(
            SplitItem(
                id=pair.id,
                image=pair.image.relative_to(root).as_posix(),
                mask=pair.mask.relative_to(root).as_posix(),
                image_sha256=str(hashes[pair.image]),
                mask_sha256=str(hashes[pair.mask]),
            )
            for pair in pairs[part]
        )
        for part in PARTS
    }
    return Split(root=root, **parts)


def folds(data: DataConfig, split: Split) -> list[tuple[list[int], list[int]]]:
    """The folds of ``data``: for each the rows of training and of validation among the items of ``train+val``.

    Rows are ordered by a hash of (split_seed, repeat, id), so that a fold depends neither on the machine nor on the
    order of the files. k_fold cuts one such order into k parts whose sizes differ by at most one, each of which is the
    validation of one fold; monte_carlo draws its share from the front of another order each time.

    Raises:
        DataError: fewer images than folds, or a share that leaves nothing to train on.
    """
    ids = [item.id for item in split.items(POOL)]
    count = len(ids)

    def order(repeat: int) -> list[int]:
        return sorted(range(count), key=lambda row: sha256(f"{data.split_seed}:{repeat}:{ids[row]}".encode()))

    if data.folds is None:
        return []
    if data.folds.k_fold is not None:
        k, mixed = data.folds.k_fold, order(0)
        parts = [mixed[count * fold // k : count * (fold + 1) // k] for fold in range(k)]
    else:
        share = max(1, round(data.folds.val * count))
        parts = [order(repeat)[:share] for repeat in range(data.folds.monte_carlo or 0)]
    if any(not part or len(part) == count for part in parts):
        rule = f"every fold needs images to train on and to validate on, and train and val have {count} together"
        raise DataError(Problem("data", rule, path="folds", value=str(data.folds.model_dump(exclude_none=True))))
    return [(sorted(set(range(count)) - set(part)), sorted(part)) for part in parts]


def _digest(lines: Iterable[str]) -> str:
    total = hashlib.sha256()
    for line in lines:
        total.update(line.encode() + b"\n")
    return total.hexdigest()


def _hash_files(paths: Iterable[Path]) -> list[str | OSError]:
    def one(path: Path) -> str | OSError:
        try:
            return sha256(path.read_bytes())
        except OSError as error:
            return error

    with ThreadPoolExecutor(max_workers=8) as pool:  # hashing and reading release the interpreter lock
        return list(pool.map(one, paths))
