"""The pictures to predict masks for: one file, or those of a folder and of the folders in it."""

from __future__ import annotations

import os
from pathlib import Path

from tunesearch.errors import InputError, Problem, nearest
from tunesearch.segmentation.data.layouts import IMAGE_SUFFIXES


def find_pictures(images: Path, output: Path | None = None) -> list[Path]:
    """The picture, or those of the folder and of the folders in it, in the order of their names.

    What begins with a dot, and the folder that is written to, are left out.

    Raises:
        InputError: there is none.
    """
    if images.is_file():
        return [images]
    if not images.is_dir():
        hint = nearest(images.name, [path.name for path in images.parent.iterdir()]) if images.parent.is_dir() else ""
        raise InputError(Problem(str(images), "must be an existing picture or folder of pictures", hint=hint))
    if output is not None and output.resolve() == images.resolve():
        rule = "masks must not be written among the pictures, where they would count as some"
        raise InputError(Problem("-o", rule, value=str(output), hint="give another folder, which may lie in it"))
    own = output.resolve() if output is not None else None
    found = []
    for folder, inner, names in os.walk(images):
        inner[:] = [name for name in inner if not name.startswith(".") and Path(folder, name).resolve() != own]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    found = sorted(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise InputError(Problem(str(images), f"no picture ({', '.join(IMAGE_SUFFIXES)}) in this folder"))
    return found
