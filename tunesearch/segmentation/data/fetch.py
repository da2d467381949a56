"""PASCAL VOC from its publisher: fetched, checked, and put in its place as a whole.

    ROOT/NAME.tar.part        what has come so far; the next call goes on behind it
    ROOT/NAME.tar.part.of     the length and version of the file that it is a part of
    ROOT/VOCdevkit/VOC2012    the result, there whole or not at all

Addresses and MD5 sums are torchvision's. An archive that lies at ROOT/NAME.tar is used and left as it is.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from tunesearch.errors import DataError, InputError, Problem, nearest
from tunesearch.segmentation.data.layouts import VOC_LISTS
from tunesearch.segmentation.files import write_text

T = TypeVar("T")
Said = Callable[[str], None]
Progress = Callable[[str, int, int], None]

WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before a broken connection is tried again; after the last without one more byte, it is given up."""
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
GROWTH = 1.1
"""What a tar takes on the disk when it is extracted, as a multiple of its length: files fill whole blocks there."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class DataSet:
    """What can be fetched.

    Attributes:
        folder: below ``VOCdevkit``.
        archives: keys of torchvision's table.
        lists: of ImageSets/Segmentation, whose images and masks must all be there in the end.
    """

    folder: str
    archives: tuple[str, ...]
    lists: tuple[str, ...]


DATASETS = {
    "voc2007": DataSet("VOC2007", ("2007", "2007-test"), ("train", "val", "test")),
    "voc2012": DataSet("VOC2012", ("2012",), ("train", "val")),
}


class _Broken(Exception):
    """A fault of the connection, which another try may cure."""


def fetch(
    name: str,
    root: str | Path,
    *,
    said: Said = lambda text: None,
    progress: Progress = lambda what, done, total: None,
) -> Path:
    """Download a data set, check it and extract it; where it is already, nothing is done.

    Args:
        name: of DATASETS.
        root: folder that ``VOCdevkit`` comes into.
        said: told what happens, line by line.
        progress: told ``(what, done, total)`` in bytes; ``what`` changes from archive to archive and to extraction.

    Returns:
        The data set's folder, ``root/VOCdevkit/...``, absolute.

    Raises:
        InputError: an unknown name.
        DataError: no connection, a wrong checksum, an archive with members outside its folder, too little space, a
            folder that is there and not whole, another process at work. What has come of a download is kept.
    """
    if name not in DATASETS:
        rule, hint = "must be one of " + ", ".join(DATASETS), nearest(name, DATASETS, listed=False)
        raise InputError(Problem("data set", rule, value=repr(name), hint=hint))
    dataset = DATASETS[name]
    root = Path(root).expanduser().absolute()
    target = root / "VOCdevkit" / dataset.folder
    if target.exists():
        missing = _missing(target, dataset.lists)
        if missing:
            hint = "move it away, or give another --root"
            raise DataError(Problem(str(target), f"is there already, but not whole: it lacks {missing}", hint=hint))
        said(f"{target} is there already")
        return target
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / f".{name}.lock")
        with lock.acquire(timeout=0):
            try:
                _fetch(dataset, root, target, said, progress)
            finally:
                Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout:
        raise DataError(Problem(str(root), f"another process is fetching {name} into it")) from None
    except OSError as error:
        hint = "what has come is kept; the same command goes on"
        problem = Problem(error.filename or str(root), f"must be writable: {error.strerror or error}", hint=hint)
        raise DataError(problem) from error
    return target


def _fetch(dataset: DataSet, root: Path, target: Path, said: Said, progress: Progress) -> None:
    from torchvision.datasets.voc import DATASET_YEAR_DICT  # type: ignore[import-untyped]

    sources: list[dict[str, str]] = [DATASET_YEAR_DICT[key] for key in dataset.archives]
    downloads = [
        _Download(source["url"], source["md5"], root / source["filename"], said, progress) for source in sources
    ]
    _require_space(root, downloads)
    for download in downloads:
        download.run()
    building = root / "VOCdevkit" / f".{dataset.folder}.new"
    shutil.rmtree(building, ignore_errors=True)  # of a process that was killed
    try:
        building.mkdir(parents=True)
        try:
            for download in downloads:
                said(f"{download.archive.name}: extracting")
                _extract(download, building)
            missing = _missing(building / "VOCdevkit" / dataset.folder, dataset.lists)
            if missing:
                raise DataError(Problem(", ".join(d.archive.name for d in downloads), f"lacks {missing}"))
        except DataError:
            for download in downloads:
                download.discard()
            raise
        (building / "VOCdevkit" / dataset.folder).rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        with suppress(OSError):
            building.parent.rmdir()  # where nothing came into it
    for download in downloads:
        download.discard()


class _Download:
    """One archive on its way.

    Attributes:
        archive: where a whole archive of the user's own would lie; never written.
        part: what has come so far.
    """

    def __init__(self, url: str, md5: str, archive: Path, said: Said, progress: Progress) -> None:
        self.url, self.md5, self.archive = url, md5, archive
        self.part = archive.with_name(f"{archive.name}.part")
        self.origin = archive.with_name(f"{archive.name}.part.of")
        self.said, self.progress = said, progress

    @property
    def path(self) -> Path:
        """The file to extract, once :meth:`run` has ended."""
        return self.archive if self.archive.is_file() else self.part

    @property
    def have(self) -> int:
        """Bytes that are here."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def known(self) -> tuple[int, str]:
        """Length and version (ETag or date) of the file that the part is of; (-1, "") where it is not known."""
        try:
            length, _, version = self.origin.read_text("utf-8").partition(" ")
            return int(length), version
        except (OSError, ValueError):
            return -1, ""

    def length(self) -> int:
        """Of the whole archive, in bytes; the server is asked where it is not here."""
        if self.archive.is_file() or self.have == self.known()[0]:
            return self.have

        def ask() -> int:
            with self._open({}, method="HEAD") as response:
                return self._length_of(response)

        return self._patiently(ask)

    def run(self) -> None:
        """Fetch what is missing and check the sum."""
        if not self.archive.is_file() and self.have != self.known()[0]:
            self._patiently(self._go_on)
        self.said(f"{self.archive.name}: checking")
        with self.path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found == self.md5:
            return
        if self.archive.is_file():
            hint = "it was there before: remove it, and it is fetched anew"
        else:
            hint = "the file was removed; the same command fetches it anew"
        self.discard()
        raise DataError(Problem(str(self.path), f"must have the MD5 sum {self.md5}", value=found, hint=hint))

    def discard(self) -> None:
        """Remove what was fetched."""
        self.part.unlink(missing_ok=True)
        self.origin.unlink(missing_ok=True)

    def _go_on(self) -> None:
        """One connection: fetch what is missing, or everything where the server does not know parts of this version."""
        have, (length, version) = self.have, self.known()
        headers = {}
        if 0 < have < length:
            headers["Range"] = f"bytes={have}-"
            if version and not version.startswith("W/"):  # a weak ETag may not stand in If-Range
                headers["If-Range"] = version
        else:
            have = 0
        with self._open(headers) as response:
            if response.status == http.client.PARTIAL_CONTENT:
                if response.headers["Content-Range"] != f"bytes {have}-{length - 1}/{length}":
                    self.discard()
                    raise _Broken("the file has changed there")
                self.said(f"{self.archive.name}: going on at {_size(have)} of {_size(length)}")
            else:
                if have:
                    self.said(f"{self.archive.name}: the server does not go on, starting over")
                have, length = 0, self._length_of(response)
                version = response.headers["ETag"] or response.headers["Last-Modified"] or ""
                self.said(f"{self.archive.name}: fetching {_size(length)}")
                self.discard()
                write_text(self.origin, f"{length} {version}")
            with self.part.open("ab") as file:
                while chunk := _read(response):
                    file.write(chunk)
                    have += len(chunk)
                    self.progress(self.archive.name, have, length)
        if have < length:
            raise _Broken("the connection was closed")

    def _open(self, headers: dict[str, str], method: str = "GET") -> Any:
        request = urllib.request.Request(self.url, headers={"User-Agent": "tunesearch", **headers}, method=method)
        try:
            return urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                self.discard()
                raise _Broken("the file has changed there") from None
            if error.code >= 500 or error.code == http.client.TOO_MANY_REQUESTS:
                raise _Broken(f"{error.code} {error.reason}") from None
            raise DataError(Problem(self.url, "must be on the server", value=f"{error.code} {error.reason}")) from None
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(_reason(error)) from error

    def _length_of(self, response: Any) -> int:
        length = response.headers["Content-Length"]
        if length is None:
            raise DataError(Problem(self.url, "the server must tell the file's length"))
        return int(length)

    def _patiently(self, step: Callable[[], T]) -> T:
        """``step()``, again after a pause while the connection breaks; every byte that came renews the patience."""
        furthest, failures = self.have, 0
        while True:
            try:
                return step()
            except _Broken as error:
                reason = str(error)
            if self.have > furthest:
                furthest, failures = self.have, 0
            if failures == len(WAITS):
                break
            self.said(f"{self.archive.name}: {reason}; trying again in {WAITS[failures]:g} s")
            time.sleep(WAITS[failures])
            failures += 1
        length = self.known()[0]
        hint = "nothing has come yet"
        if self.have and length > 0:
            hint = f"{_size(self.have)} of {_size(length)} are here; the same command goes on from there"
        raise DataError(Problem(self.url, "must be reachable", value=reason, hint=hint))


def _read(response: Any) -> bytes:
    try:
        chunk: bytes = response.read(_CHUNK)
        return chunk
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """In the system's words."""
    cause = getattr(error, "reason", error)  # of a URLError
    return str(getattr(cause, "strerror", None) or cause or type(error).__name__)


def _size(count: float) -> str:
    """``12 bytes``, ``1.9 GB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


def _require_space(root: Path, downloads: list[_Download]) -> None:
    lengths = [download.length() for download in downloads]
    here = sum(download.have for download in downloads)
    needed = max(sum(lengths) - here, 0) + GROWTH * sum(lengths)
    free = shutil.disk_usage(root).free
    if free < needed:
        rule = f"needs {_size(needed)} of free space, for the archives and what is in them"
        raise DataError(Problem(str(root), rule, value=_size(free), hint="--root names another folder"))


def _extract(download: _Download, folder: Path) -> None:
    """Everything of an archive into ``folder``.

    Raises:
        DataError: a member that does not belong there, or no archive.
    """
    name, total = download.archive.name, download.have

    def safe(member: tarfile.TarInfo, destination: str) -> tarfile.TarInfo | None:
        path = PurePosixPath(member.name)
        # The data filter would cut off the slash, and bear a detour that ends inside.
        if path.is_absolute() or ".." in path.parts:
            raise DataError(Problem(name, "its members must stay in their folder", value=repr(member.name)))
        download.progress(f"{name}: extracting", member.offset, total)
        return tarfile.data_filter(member, destination)

    try:
        with tarfile.open(download.path) as tar:
            tar.extractall(folder, filter=safe)
    except tarfile.TarError as error:
        raise DataError(Problem(name, f"must be a tar of files and folders: {error}")) from error
    download.progress(f"{name}: extracting", total, total)


def _missing(folder: Path, lists: tuple[str, ...]) -> str:
    """What a data set's folder lacks of what its lists name; empty where it is whole. No image is opened."""
    names: list[str] = []
    for name in lists:
        file = VOC_LISTS / f"{name}.txt"
        if not (folder / file).is_file():
            return str(file)
        names += (folder / file).read_text("utf-8").split()
    for part, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
        there = {path.name for path in (folder / part).iterdir()} if (folder / part).is_dir() else set()
        gone = [name for name in names if name + suffix not in there]
        if gone:
            more = f" and {len(gone) - 1} more files" if len(gone) > 1 else ""
            return f"{part}/{gone[0]}{suffix}{more}"
    return ""
