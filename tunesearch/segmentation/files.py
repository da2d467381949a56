"""Where files lie and how they are written and fingerprinted. Standard library only."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from tunesearch.segmentation.config import DataConfig


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
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        sync(temporary)
        temporary.chmod(0o644)  # mkstemp makes it private; other users of a cluster read these files
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """:func:`write_atomic` of a UTF-8 text."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
