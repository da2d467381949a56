"""The folder of a data set."""

from __future__ import annotations

from pathlib import Path

from tunesearch.errors import DataError, Problem, nearest
from tunesearch.segmentation.config import DataConfig
from tunesearch.segmentation.files import data_root


def root_name(data: DataConfig) -> str:
    """What errors call the data set."""
    return str(data_root(data) or f"data.layout {data.layout}")


def existing_root(data: DataConfig) -> Path:
    """``data.root``, absolute.

    Raises:
        DataError: it is not given, or is no folder.
    """
    root = data_root(data)
    if root is None:
        rule = f"must be given for the {data.layout} layout"
        raise DataError(Problem("data", rule, path="root", hint="root: FOLDER, or --data FOLDER"))
    if not root.is_dir():
        hint = "--data FOLDER gives another"
        if data.layout == "voc":
            hint += "; tunesearch data fetch voc2012 brings PASCAL VOC"
        rule = "the data set's folder must exist" if not root.exists() else "the data set must be a folder"
        raise DataError(Problem(str(root), rule, hint=hint))
    return root


def no_folder(folder: Path, rule: str) -> Problem:
    """The problem of a missing folder, with the nearest name that lies beside it (beside its first missing parent)."""
    present = folder
    while not present.parent.is_dir() and present != present.parent:
        present = present.parent
    try:
        beside = sorted(item.name for item in present.parent.iterdir() if item.is_dir())
    except OSError:
        beside = []
    hint = nearest(present.name, beside)
    return Problem(str(folder), rule, hint=hint)
