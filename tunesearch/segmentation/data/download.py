"""A download over HTTP that can be interrupted: it goes on where it stopped, tries again, and is checked in the end.

    FOLDER/NAME.part        what has come so far; the next call goes on behind it
    FOLDER/NAME.part.of     the length and version of the file that it is a part of

A file that lies at FOLDER/NAME is used and left as it is.
"""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tunesearch.errors import DataError, Problem
from tunesearch.segmentation.files import write_text

T = TypeVar("T")
Log = Callable[[str], None]
Progress = Callable[[str, int, int], None]

WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before a broken connection is tried again; after the last without one more byte, it is given up."""
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
_CHUNK = 1 << 20


class ConnectionLost(Exception):
    """A fault of the connection, which another try may cure."""


class Download:
    """One archive on its way.

    Attributes:
        archive: where a whole archive of the user's own would lie; never written.
        part: what has come so far.
    """

    def __init__(self, url: str, md5: str, archive: Path, log: Log, progress: Progress) -> None:
        self.url, self.md5, self.archive = url, md5, archive
        self.part = archive.with_name(f"{archive.name}.part")
        self.origin = archive.with_name(f"{archive.name}.part.of")
        self.log, self.progress = log, progress

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

        return self._with_retries(ask)

    def run(self) -> None:
        """Fetch what is missing and check the sum."""
        if not self.archive.is_file() and self.have != self.known()[0]:
            self._with_retries(self._go_on)
        self.log(f"{self.archive.name}: checking")
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
                    raise ConnectionLost("the file has changed there")
                self.log(f"{self.archive.name}: going on at {size_text(have)} of {size_text(length)}")
            else:
                if have:
                    self.log(f"{self.archive.name}: the server does not go on, starting over")
                have, length = 0, self._length_of(response)
                version = response.headers["ETag"] or response.headers["Last-Modified"] or ""
                self.log(f"{self.archive.name}: fetching {size_text(length)}")
                self.discard()
                write_text(self.origin, f"{length} {version}")
            with self.part.open("ab") as file:
                while chunk := _read(response):
                    file.write(chunk)
                    have += len(chunk)
                    self.progress(self.archive.name, have, length)
        if have < length:
            raise ConnectionLost("the connection was closed")

    def _open(self, headers: dict[str, str], method: str = "GET") -> Any:
        request = urllib.request.Request(self.url, headers={"User-Agent": "tunesearch", **headers}, method=method)
        try:
            return urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                self.discard()
                raise ConnectionLost("the file has changed there") from None
            if error.code >= 500 or error.code == http.client.TOO_MANY_REQUESTS:
                raise ConnectionLost(f"{error.code} {error.reason}") from None
            raise DataError(Problem(self.url, "must be on the server", value=f"{error.code} {error.reason}")) from None
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionLost(_reason(error)) from error

    def _length_of(self, response: Any) -> int:
        length = response.headers["Content-Length"]
        if length is None:
            raise DataError(Problem(self.url, "the server must tell the file's length"))
        return int(length)

    def _with_retries(self, step: Callable[[], T]) -> T:
        """``step()``, again after a pause while the connection breaks; every byte that came renews the patience."""
        furthest, failures = self.have, 0
        while True:
            try:
                return step()
            except ConnectionLost as error:
                reason = str(error)
            if self.have > furthest:
                furthest, failures = self.have, 0
            if failures == len(WAITS):
                break
            self.log(f"{self.archive.name}: {reason}; trying again in {WAITS[failures]:g} s")
            time.sleep(WAITS[failures])
            failures += 1
        length = self.known()[0]
        hint = "nothing has come yet"
        if self.have and length > 0:
            hint = f"{size_text(self.have)} of {size_text(length)} are here; the same command goes on from there"
        raise DataError(Problem(self.url, "must be reachable", value=reason, hint=hint))


def _read(response: Any) -> bytes:
    try:
        chunk: bytes = response.read(_CHUNK)
        return chunk
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionLost(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """In the system's words."""
    cause = getattr(error, "reason", error)  # of a URLError
    return str(getattr(cause, "strerror", None) or cause or type(error).__name__)


def size_text(count: float) -> str:
    """A number of bytes: ``12 bytes``, ``1.9 GB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"
