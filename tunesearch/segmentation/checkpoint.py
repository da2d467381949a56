"""A trainer's state on disk: whole or absent, tensors and plain values only."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from tunesearch.segmentation.files import write_atomic


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a trainer's state (tensors and plain values only).

    Raises:
        DiskFull: there is no room for it; the old one is whole.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a path, torch does not say why it could not write
            torch.save(state, file)

    write_atomic(path, write)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """A state written by :func:`save_checkpoint`, on the CPU; None where there is none, or none that can be read."""
    # save_checkpoint leaves no torn file, a damaged disk may. Training starts anew rather than not.
    if not _is_whole(path):
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError):
        return None
    return state if isinstance(state, dict) else None


def _is_whole(path: Path) -> bool:
    """Whether every checksum in the file is right; torch.load does not look at them."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # damage can make zipfile raise anything: BadZipFile, zlib.error, NotImplementedError ...
        return False
