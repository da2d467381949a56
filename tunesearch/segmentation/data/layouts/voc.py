"""The voc layout: JPEGImages/*, SegmentationClass/*.png, ImageSets/Segmentation/*.txt."""

from __future__ import annotations

from pathlib import Path

from tunesearch.errors import DataError, Problem
from tunesearch.segmentation.config import DataConfig
from tunesearch.segmentation.data.layouts.files import HINTS, IMAGE_SUFFIXES, MASK_SUFFIXES, by_stem, partner_problems
from tunesearch.segmentation.data.layouts.lists import VOC_LISTS, draw, read_list, shares_of
from tunesearch.segmentation.data.layouts.pair import Found, Pair
from tunesearch.segmentation.data.layouts.root import existing_root, no_folder


def find_voc(data: DataConfig) -> Found:
    """The pairs below ``data.root``."""
    return find_voc_in(existing_root(data), data)


def find_voc_in(root: Path, data: DataConfig) -> Found:
    """The pairs below ``root``.

    Raises:
        DataError: a folder of the layout is missing.
    """
    folders = [root / name for name in ("JPEGImages", "SegmentationClass", VOC_LISTS)]
    missing = [no_folder(folder, "the voc layout needs this folder") for folder in folders if not folder.is_dir()]
    if missing:
        raise DataError(missing)

    problems: list[Problem] = []
    train_source, val_source = data.train or "train", data.val or "val"
    lists: dict[str, list[str]] = {"train": read_list(root, train_source, problems)}
    for part, source in (("val", val_source), ("test", data.test)):
        if isinstance(source, str):
            lists[part] = read_list(root, source, problems)
    pool = "val" if "val" in lists else "train"
    shares = shares_of(data, val_source)
    drawn = draw(lists[pool], shares, data.split_seed)
    taken = {name for names in drawn.values() for name in names}
    lists[pool] = [name for name in lists[pool] if name not in taken]
    lists |= drawn

    images, masks = by_stem(folders[0], IMAGE_SUFFIXES), by_stem(folders[1], MASK_SUFFIXES)
    found: dict[str, list[Pair]] = {}
    for part, names in lists.items():
        found[part] = []
        for name in names:
            image, mask = images.get(name, []), masks.get(name, [])
            why, sides = f"the {part} list names it", ((folders[0] / name, image), (folders[1] / name, mask))
            problems += partner_problems(why, *sides, hints=len(problems) < HINTS)
            if image and mask:
                found[part].append(Pair(name, image[0], mask[0]))
    return found, problems
