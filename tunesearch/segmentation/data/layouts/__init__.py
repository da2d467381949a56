"""Layouts of a data set on disk: which image goes with which mask, in which part, and what the classes are called.

    voc       JPEGImages/*, SegmentationClass/*.png, ImageSets/Segmentation/*.txt
    folders   images and masks paired by the stem of their names, with wildcards in the folders
    sample    the built-in generated scenes, in VOC layout
    module:function   the user's own, called as ``function(data) -> dict[str, list[Pair]]``

Who lands in which part:

- A list (a name in ImageSets/Segmentation, or a text file relative to ``root`` with one id per line) is taken as it is.
- A share is drawn from a pool. voc: the validation list, or the training list where ``val`` is a share too. folders:
  everything that no list names; where nothing is left, the validation list. ``val`` and ``test`` shares are both of the
  whole pool, so ``val: 0.2, test: 0.2`` leaves 60 % for training in folders.
- folders: ``train: null`` is everything that is left. Where ``train`` is a list, ``val`` must be given.

The draw orders the pool by a hash of (split_seed, id): it does not depend on the machine, on the order of files or on
any library's random numbers, and images added later hardly disturb it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tunesearch.errors import DataError, Problem
from tunesearch.segmentation.config import DataConfig
from tunesearch.segmentation.data.layouts.classes import VOC_CLASSES, resolve_classes
from tunesearch.segmentation.data.layouts.custom import find_custom
from tunesearch.segmentation.data.layouts.files import HINTS, IMAGE_SUFFIXES, partner_problems
from tunesearch.segmentation.data.layouts.folders import find_folders, match_folders
from tunesearch.segmentation.data.layouts.lists import VOC_LISTS
from tunesearch.segmentation.data.layouts.pair import PARTS, Found, Pair
from tunesearch.segmentation.data.layouts.root import existing_root, root_name
from tunesearch.segmentation.data.layouts.sample import find_sample
from tunesearch.segmentation.data.layouts.voc import find_voc

__all__ = [
    "IMAGE_SUFFIXES",
    "LAYOUTS",
    "PARTS",
    "VOC_CLASSES",
    "VOC_LISTS",
    "Pair",
    "every_pair",
    "find_pairs",
    "resolve_classes",
    "scan",
]

LAYOUTS: dict[str, Callable[[DataConfig], Found]] = {
    "voc": find_voc,
    "folders": find_folders,
    "sample": find_sample,
}
"""Every layout that has a name; ``module:function`` is :func:`find_custom`."""


def find_pairs(data: DataConfig) -> dict[str, list[Pair]]:
    """The pairs of ``train``, ``val`` and ``test`` (which may be empty), with absolute paths. No image is opened.

    Raises:
        DataError: missing folders, lists or partners, names in two parts, an empty part: all of them at once.
    """
    pairs, problems = scan(data)
    if problems:
        raise DataError(problems)
    return pairs


def scan(data: DataConfig) -> Found:
    """As ``find_pairs``, but gives what was found together with what is wrong instead of raising."""
    find = find_custom if ":" in data.layout else LAYOUTS[data.layout]
    found, problems = find(data)
    pairs = {part: found.get(part, []) for part in PARTS}
    problems += _named_twice(pairs)
    if not problems:
        problems += [
            Problem(root_name(data), f"the {part} part must have at least one image", path=part)
            for part in ("train", "val")
            if not pairs[part]
        ]
    return pairs, problems


def every_pair(data: DataConfig) -> list[Pair]:
    """All pairs of ``data``, in whatever part they are: in folders every image with its mask, whatever the lists say.

    Raises:
        DataError: missing folders, lists or partners.
    """
    if data.layout != "folders":
        return [pair for pairs in find_pairs(data).values() for pair in pairs]
    everything, problems = match_folders(existing_root(data), data)
    for image, mask in everything.values():
        problems += partner_problems("it is an image of this data set", image, mask, hints=len(problems) < HINTS)
    if problems:
        raise DataError(problems)
    return [Pair(name, image[1][0], mask[1][0]) for name, (image, mask) in everything.items()]


def _named_twice(pairs: Mapping[str, list[Pair]]) -> list[Problem]:
    seen: dict[str, str] = {}
    problems = []
    for part, items in pairs.items():
        for pair in items:
            if pair.id in seen:
                rule = f"{pair.id!r} must be in one part, once"
                problems.append(Problem(str(pair.image), rule, value=f"{seen[pair.id]} and {part}"))
            seen.setdefault(pair.id, part)
    return problems
