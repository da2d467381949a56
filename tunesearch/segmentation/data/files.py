"""Where files lie and how they are written and fingerprinted. Standard library only."""

from __future__ import annotations

import hashlib
import os
import tempfile
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


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there completely or not at all, whatever is killed when."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)  # mkstemp makes it private; a split is read by other users of a cluster
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)
