"""One image and its mask, and what a layout finds of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunesearch.errors import Problem

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Pair:
    """One image and its mask.

    Attributes:
        id: unique in the data set; the file's stem, in folders with what the wildcards stood for before it.
        image: absolute path.
        mask: absolute path.
    """

    id: str
    image: Path
    mask: Path


Found = tuple[dict[str, list[Pair]], list[Problem]]
"""What a layout finds: the pairs of each part, and everything that is wrong."""
