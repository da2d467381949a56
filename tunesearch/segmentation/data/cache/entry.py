"""An entry of the cache: a folder that is built under a lock, whole or absent, with a checksum for each file."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from tunesearch.errors import DataError, DiskFull, Problem
from tunesearch.segmentation.files import cache_folder, disk_full, is_disk_full, sync

T = TypeVar("T")

_SPARE_BYTES = 64 * 2**20
"""Disk that must stay free beside an entry."""
_HINT = "TUNESEARCH_CACHE names another folder"
_verified: set[tuple[str, int, int]] = set()
"""Path, inode and time of change of the files whose checksum this process found right."""


def open_or_build(
    key: str,
    build: Callable[[Path], None],
    opened: Callable[[Path], T],
    bytes_needed: int,
    what: str,
    folder: Path | None,
) -> T:
    """A whole entry of the cache, built under a lock if it is not there.

    Args:
        key: the entry's name.
        build: fills the folder that it is given.
        opened: gives what the entry holds.
        bytes_needed: on the disk.
        what: is in it, for errors.
        folder: where the cache lies; None: ``files.cache_folder()``.

    Raises:
        DataError: the folder cannot be written; whatever ``build`` raises.
        DiskFull: too little disk.
    """
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


def _require_disk(parent: Path, bytes_needed: int, what: str) -> None:
    needed = bytes_needed + _SPARE_BYTES
    free = shutil.disk_usage(parent).free
    if free < needed:
        rule = f"the decoded cache of {what} needs {needed / 2**20:.0f} MiB of free disk"
        raise DiskFull(str(Problem(str(parent), rule, value=f"{free / 2**20:.0f} MiB", hint=_HINT)))


class ChecksummedFile:
    """A file that is written from front to back; afterwards ``sums`` are its length and its CRC-32."""

    def __init__(self, path: Path) -> None:
        self.sums = (0, 0)
        self._file = path.open("wb")

    def write(self, content: bytes) -> None:
        """Append ``content``."""
        length, checksum = self.sums
        self._file.write(content)
        self.sums = (length + len(content), zlib.crc32(content, checksum))

    def __enter__(self) -> ChecksummedFile:
        return self

    def __exit__(self, *error: object) -> None:
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())


def write_meta(building: Path, meta: dict[str, Any]) -> None:
    """Write what there is to know about an entry; ``files`` must name each file's length and CRC-32."""
    text = json.dumps(meta).encode()
    with ChecksummedFile(building / "meta.json") as file:
        file.write(b"%d\n%b\n" % (zlib.crc32(text), text))


def read_meta(entry: Path) -> dict[str, Any]:
    """What :func:`write_meta` wrote.

    Raises:
        OSError, ValueError: it is missing or damaged.
    """
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
    for name, (length, checksum) in read_meta(entry)["files"].items():
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


def _valid(entry: Path, opened: Callable[[Path], T]) -> T | None:
    """The entry, if it is there and whole."""
    try:
        _verify(entry)
        return opened(entry)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, torn, or not what we wrote
        return None
