"""The files of an image and of its mask: found by the stem of their names, and checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunesearch.errors import Problem, nearest

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
"""Lossless formats only: JPEG changes labels."""
HINTS = 10
"""Missing files that get the nearest name beside them."""

Side = tuple[Path, list[Path]]
"""Where a file must lie, without its suffix, and the files of that name that are there."""


def partner_problems(why: str, image: Side, mask: Side, *, hints: bool) -> list[Problem]:
    """What is wrong with the files of a pair: one is missing, is there twice, or is a mask in a lossy format.

    Args:
        why: they must be there.
        hints: look for the nearest name beside a missing file.
    """
    problems = []
    for what, (expected, files) in (("image", image), ("mask", mask)):
        if not files:
            # Looking for the nearest of many names takes a while: not for every one of a thousand problems.
            hint = nearest(expected.name, sorted(by_stem(expected.parent, IMAGE_SUFFIXES))) if hints else ""
            problems.append(Problem(str(expected), f"there is no {what} of this name, and {why}", hint=hint))
        elif len(files) > 1:
            both = " and ".join(path.name for path in files)
            problems.append(Problem(str(files[0]), f"there must be one {what} {expected.name!r}", value=both))
        elif what == "mask" and files[0].suffix.lower() in (".jpg", ".jpeg"):
            hint = "export the masks as PNG"
            problems.append(Problem(str(files[0]), "a mask must be lossless: JPEG changes labels", hint=hint))
    return problems


def by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, list[Path]]:
    """Files of ``folder`` with one of ``suffixes``, in either case, by stem and in order of their names."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            files.setdefault(path.stem, []).append(path)
    return files
