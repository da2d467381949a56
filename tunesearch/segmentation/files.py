"""Where files lie and how they are written and fingerprinted. Standard library only."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from tunesearch.errors import DiskFull, InputError, Problem
from tunesearch.segmentation.config import DataConfig

_FULL = (errno.ENOSPC, errno.EDQUOT)
_PROBE_BYTES = 2**16


def cache_folder() -> Path:
    """Where everything that can be made again is kept: ``$TUNESEARCH_CACHE``, else ``~/.cache/tunesearch``."""
    return Path(os.environ.get("TUNESEARCH_CACHE") or "~/.cache/tunesearch").expanduser().absolute()


def data_root(data: DataConfig) -> Path | None:
    """``data.root``, absolute and with ``~`` replaced; symbolic links stay as the user wrote them."""
    return None if data.root is None else data.root.expanduser().absolute()


def sha256(content: bytes) -> str:
    """Hex digest of ``content``."""
    return hashlib.sha256(content).hexdigest()


def sync(path: Path) -> None:
    """Ask the system to put ``path``, a file or a folder, on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it over ``path``.

    A process killed at any moment leaves the old file or the new one, never a part. Folders are made as needed.

    Raises:
        InputError: ``path`` is a device, a pipe or a folder, which a rename would do away with.
        DiskFull: there is no room for it; whatever ``write`` raised then.
    """
    if path.exists() and not path.is_file():
        raise InputError(Problem(str(path), "must be a file, not a device, a pipe or a folder"))
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        os.close(handle)
        write(temporary)
        sync(temporary)
        temporary.chmod(0o644)  # mkstemp makes it private; other users of a cluster read these files
        temporary.replace(path)
        sync(path.parent)
    except Exception as error:
        if is_disk_full(error, path.parent):  # asked before the temporary file makes room
            raise disk_full(path.parent, path.name) from error
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Whether an error that came up while something was written to ``folder`` comes from a full disk.

    Libraries hide the system's error (NumPy says none, safetensors puts it into words), so that the disk is asked where
    the error does not tell.
    """
    cause: BaseException | None = error
    while cause is not None:
        match = re.search(r"\(os error (\d+)\)", str(cause))  # how Rust says it
        if (cause.errno if isinstance(cause, OSError) else int(match[1]) if match else None) in _FULL:
            return True
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, OSError) and error.errno is not None:
        return False
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe.") as probe:
            probe.write(os.urandom(_PROBE_BYTES))  # zeros might be stored as nothing
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as found:
        return found.errno in _FULL
    return False


def disk_full(folder: Path, what: str, hint: str = "") -> DiskFull:
    """The error to raise when ``what`` did not fit into ``folder``."""
    text = (
        f"{folder}: the disk is full or the quota used up, {what} could not be written; what was there before is whole"
    )
    return DiskFull(f"{text}. Make room there and go on" + (f" ({hint})" if hint else ""))


def write_text(path: Path, text: str) -> None:
    """:func:`write_atomic` of a UTF-8 text."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
