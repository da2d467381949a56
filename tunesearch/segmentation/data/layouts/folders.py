"""The folders layout: images and masks paired by the stem of their names, with wildcards in the folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tunesearch.errors import DataError, Problem, nearest
from tunesearch.segmentation.config import DataConfig
from tunesearch.segmentation.data.layouts.files import (
    HINTS,
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    Side,
    by_stem,
    partner_problems,
)
from tunesearch.segmentation.data.layouts.lists import draw, known_ids, read_list, shares_of
from tunesearch.segmentation.data.layouts.pair import Found, Pair
from tunesearch.segmentation.data.layouts.root import existing_root, no_folder


def find_folders(data: DataConfig) -> Found:
    """The pairs below ``data.root``.

    Raises:
        DataError: a folder is missing; no mask has the name of an image; ``train`` is a list without ``val``.
    """
    root = existing_root(data)
    problems: list[Problem] = []
    if data.train is not None and data.val is None:
        hint = "a text file, or a share of what is in no list"
        raise DataError(Problem("data", "must be given where train is a list", path="val", hint=hint))
    everything, orphans = match_folders(root, data)

    lists: dict[str, list[str]] = {}
    val_source = 0.2 if data.val is None else data.val
    for part, source in (("train", data.train), ("val", val_source), ("test", data.test)):
        if isinstance(source, str):
            lists[part] = known_ids(read_list(root, source, problems), everything, root / source, problems)
    listed = {name for names in lists.values() for name in names}
    rest = [name for name in everything if name not in listed]
    shares = shares_of(data, val_source)
    drawn = draw(rest or lists.get("val", []), shares, data.split_seed)
    taken = {name for names in drawn.values() for name in names}
    if "val" in lists:
        lists["val"] = [name for name in lists["val"] if name not in taken]
    lists |= drawn
    if data.train is None:
        lists["train"] = [name for name in rest if name not in taken]
        problems += orphans  # where everything is used, a mask without an image is a mistake too

    found: dict[str, list[Pair]] = {}
    for part, names in lists.items():
        found[part] = []
        for name in names:
            image_side, mask_side = everything[name]
            why = f"it belongs to {part}"
            problems += partner_problems(why, image_side, mask_side, hints=len(problems) < HINTS)
            if image_side[1] and mask_side[1]:
                found[part].append(Pair(name, image_side[1][0], mask_side[1][0]))
    return found, problems


def match_folders(root: Path, data: DataConfig) -> tuple[dict[str, tuple[Side, Side]], list[Problem]]:
    """Everything in the image folders by id, with its masks; and the masks that have no image."""
    wildcards = len(_wildcards(data.images))
    if wildcards != len(_wildcards(data.masks)):
        rule = f"must have as many wildcards as images: {data.images!r} has {wildcards}"
        raise DataError(Problem("data", rule, path="masks", value=repr(data.masks)))
    if "**" in data.images or "**" in data.masks:
        raise DataError(Problem("data", "'**' is not possible", path="images", hint="one '*' per folder level"))
    if wildcards and (Path(data.images).is_absolute() or Path(data.masks).is_absolute()):
        rule = "with wildcards it must be relative to root"
        raise DataError(Problem("data", rule, path="images", value=repr(data.images)))
    matches = root.glob(Path(data.images).as_posix()) if wildcards else [root / data.images]
    image_folders = sorted(path for path in matches if path.is_dir())
    if not image_folders:
        raise DataError(no_folder(root / data.images, "no such image folder"))

    everything: dict[str, tuple[Side, Side]] = {}
    missing, orphans = [], []
    for folder in image_folders:
        parts = _captured(data.images, folder.relative_to(root).as_posix()) if wildcards else ()
        mask_folder = root / _filled(data.masks, parts)
        if not mask_folder.is_dir():
            missing.append(no_folder(mask_folder, f"no such mask folder, for the images in {folder}"))
            continue
        shared = folder == mask_folder
        if shared and not data.mask_suffix:
            rule = "must be given where images and masks share a folder"
            raise DataError(Problem("data", rule, path="mask_suffix", hint="such as _mask"))
        images, masks = by_stem(folder, IMAGE_SUFFIXES), by_stem(mask_folder, (*MASK_SUFFIXES, ".jpg", ".jpeg"))
        if data.mask_suffix:
            if shared:
                images = {stem: files for stem, files in images.items() if not stem.endswith(data.mask_suffix)}
            masks = {
                stem.removesuffix(data.mask_suffix): files
                for stem, files in masks.items()
                if stem.endswith(data.mask_suffix)
            }
        if images and masks and not images.keys() & masks.keys() and not data.mask_suffix:
            raise DataError(_no_matches(sorted(images), sorted(masks), folder, mask_folder))
        for stem, files in images.items():
            mask_side = (mask_folder / f"{stem}{data.mask_suffix}", masks.get(stem, []))
            everything["/".join((*parts, stem))] = ((folder / stem, files), mask_side)
        for stem in masks.keys() - images.keys():
            hint = nearest(stem, images) if len(images) <= 30 else ""
            orphans.append(Problem(str(masks[stem][0]), f"there is no image {stem!r} in {folder}", hint=hint))
    if missing:
        raise DataError(missing)
    if not everything:
        raise DataError(Problem(str(root / data.images), f"no image ({', '.join(IMAGE_SUFFIXES)}) in this folder"))
    return everything, sorted(orphans, key=str)


def _no_matches(images: Sequence[str], masks: Sequence[str], folder: Path, mask_folder: Path) -> Problem:
    """One problem instead of one for every file, with the suffix that would mend it where there is one."""
    rule = f"no mask in it has the name of an image in {folder}"
    suffixes = {mask.removeprefix(image) for mask in masks for image in images[:1] if mask.startswith(image)}
    hint = "partners have the same name"
    if suffixes:  # of 1 and 10_m both _m and 0_m would do: the one that makes most pairs
        matches = {suffix: len({image + suffix for image in images} & set(masks)) for suffix in suffixes}
        hint = f"data.mask_suffix={max(matches, key=lambda suffix: matches[suffix])} may be missing"
    return Problem(str(mask_folder), rule, value=f"{images[0]} there and {masks[0]} here", hint=hint)


_WILDCARD = re.compile(r"\*|\?|\[[^\]]+\]")


def _wildcards(pattern: str) -> list[str]:
    return _WILDCARD.findall(pattern)


def _captured(pattern: str, path: str) -> tuple[str, ...]:
    """What each wildcard of ``pattern`` stands for in ``path``."""
    fixed = _WILDCARD.split(Path(pattern).as_posix())
    kinds = {"*": "([^/]*)", "?": "([^/])"}
    groups = [kinds.get(item) or f"({item.replace('[!', '[^', 1)})" for item in _wildcards(pattern)]
    expression = "".join(re.escape(text) + group for text, group in zip(fixed, [*groups, ""], strict=True))
    match = re.fullmatch(expression, path)
    return match.groups() if match else ()


def _filled(pattern: str, parts: Sequence[str]) -> str:
    values = iter(parts)
    return _WILDCARD.sub(lambda _: next(values), pattern)
