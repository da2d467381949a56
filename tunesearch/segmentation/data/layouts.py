"""How a data set lies on disk: which image goes with which mask, in which part, and what the classes are called.

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

import hashlib
import importlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesearch.errors import DataError, Problem, nearest
from tunesearch.segmentation.config import ClassSpec, DataConfig
from tunesearch.segmentation.files import data_root

PARTS = ("train", "val", "test")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
"""Lossless formats only: JPEG changes labels."""
MAX_CLASSES = 255
"""Masks are uint8 and 255 is void."""
_HINTS = 10
"""Missing files that get the nearest name beside them."""
VOC_LISTS = Path("ImageSets") / "Segmentation"
VOC_CLASSES = (
    *(
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
    ),
    *("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
SAMPLE_CLASSES = ("background", "disc", "square", "triangle", "stripes")


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


def find_pairs(data: DataConfig) -> dict[str, list[Pair]]:
    """The pairs of ``train``, ``val`` and ``test`` (which may be empty), with absolute paths. No image is opened.

    Raises:
        DataError: missing folders, lists or partners, names in two parts, an empty part: all of them at once.
    """
    pairs, problems = scan(data)
    if problems:
        raise DataError(problems)
    return pairs


def scan(data: DataConfig) -> tuple[dict[str, list[Pair]], list[Problem]]:
    """As ``find_pairs``, but gives what was found together with what is wrong instead of raising."""
    if ":" in data.layout:
        found, problems = _custom(data)
    elif data.layout == "folders":
        found, problems = _folders(data)
    else:
        found, problems = _voc(data)
    pairs = {part: found.get(part, []) for part in PARTS}
    problems += _named_twice(pairs)
    if not problems:
        problems += [
            Problem(_root_name(data), f"the {part} part must have at least one image", path=part)
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
    everything, problems = _pair_folders(_existing_root(data), data)
    for image, mask in everything.values():
        problems += _partner_problems("it is an image of this data set", image, mask, hints=len(problems) < _HINTS)
    if problems:
        raise DataError(problems)
    return [Pair(name, image[1][0], mask[1][0]) for name, (image, mask) in everything.items()]


def resolve_classes(data: DataConfig) -> tuple[ClassSpec, ...]:
    """The classes in the order of their indices.

    Raises:
        DataError: they are not given and cannot be known; too many; a name or colour twice; colours missing.
    """
    given = data.classes
    if given is None:
        specs = _known_classes(data)
    elif isinstance(given, int):
        # Of far too many, one too many is enough to say so.
        specs = tuple(ClassSpec(name=f"class_{index}") for index in range(min(given, MAX_CLASSES + 1)))
    else:
        specs = tuple(item if isinstance(item, ClassSpec) else ClassSpec(name=item) for item in given)
    problems = list(_class_problems(data, specs))
    if problems:
        raise DataError(problems)
    return specs


# -------------------------------------------------------------------------------------------------------------- classes


def _known_classes(data: DataConfig) -> tuple[ClassSpec, ...]:
    names: tuple[str, ...]
    if data.layout == "sample":
        names = SAMPLE_CLASSES
    elif data.mask_format == "binary":
        names = ("background", "foreground")
    elif data.layout == "voc" and data.mask_format == "index":
        names = VOC_CLASSES
    else:
        hint = "a list of {name, colors}" if data.mask_format == "color" else "their number, or a list of names"
        raise DataError(Problem("data", "must be given for this layout and mask format", path="classes", hint=hint))
    return tuple(ClassSpec(name=name) for name in names)


def _class_problems(data: DataConfig, specs: tuple[ClassSpec, ...]) -> Iterable[Problem]:
    count = len(specs)
    if not 2 <= count <= MAX_CLASSES:
        yield Problem("data", f"2 to {MAX_CLASSES} classes are possible", path="classes", value=str(data.classes)[:80])
    names = [spec.name for spec in specs]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem("data", "each class must have its own name", path="classes", value=f"{name!r} twice")
    if data.mask_format == "binary" and count != 2:
        yield Problem("data", "binary masks have exactly 2 classes", path="classes", value=str(count))
    if data.background is not None and data.background >= max(count, 1):
        rule = f"must be the index of one of the {count} classes, or null"
        yield Problem("data", rule, path="background", value=str(data.background))
    if data.mask_format == "color":
        owner: dict[tuple[int, ...], str] = dict.fromkeys(data.ignore_colors, "void (ignore_colors)")
        for spec in specs:
            if not spec.colors:
                hint = "such as {name: crop, colors: [[255, 255, 255]]}"
                yield Problem("data", f"class {spec.name!r} needs a color in color masks", path="classes", hint=hint)
            for color in spec.colors:
                if owner.setdefault(color, spec.name) != spec.name:
                    rule = f"a color stands for one class, but {list(color)} is {owner[color]!r} and {spec.name!r}"
                    yield Problem("data", rule, path="classes")


# -------------------------------------------------------------------------------------------------------------- layouts


def _voc(data: DataConfig) -> tuple[dict[str, list[Pair]], list[Problem]]:
    root = _sample_root(data) if data.layout == "sample" else _existing_root(data)
    folders = [root / name for name in ("JPEGImages", "SegmentationClass", VOC_LISTS)]
    missing = [_no_folder(folder, "the voc layout needs this folder") for folder in folders if not folder.is_dir()]
    if missing:
        raise DataError(missing)

    problems: list[Problem] = []
    train_source, val_source = data.train or "train", data.val or "val"
    lists: dict[str, list[str]] = {"train": _read_list(root, train_source, problems)}
    for part, source in (("val", val_source), ("test", data.test)):
        if isinstance(source, str):
            lists[part] = _read_list(root, source, problems)
    pool = "val" if "val" in lists else "train"
    shares = _shares(data, val_source)
    drawn = _draw(lists[pool], shares, data.split_seed)
    taken = {name for names in drawn.values() for name in names}
    lists[pool] = [name for name in lists[pool] if name not in taken]
    lists |= drawn

    images, masks = _by_stem(folders[0], IMAGE_SUFFIXES), _by_stem(folders[1], MASK_SUFFIXES)
    found: dict[str, list[Pair]] = {}
    for part, names in lists.items():
        found[part] = []
        for name in names:
            image, mask = images.get(name, []), masks.get(name, [])
            why, sides = f"the {part} list names it", ((folders[0] / name, image), (folders[1] / name, mask))
            problems += _partner_problems(why, *sides, hints=len(problems) < _HINTS)
            if image and mask:
                found[part].append(Pair(name, image[0], mask[0]))
    return found, problems


def _folders(data: DataConfig) -> tuple[dict[str, list[Pair]], list[Problem]]:
    root = _existing_root(data)
    problems: list[Problem] = []
    if data.train is not None and data.val is None:
        hint = "a text file, or a share of what is in no list"
        raise DataError(Problem("data", "must be given where train is a list", path="val", hint=hint))
    everything, orphans = _pair_folders(root, data)

    lists: dict[str, list[str]] = {}
    val_source = 0.2 if data.val is None else data.val
    for part, source in (("train", data.train), ("val", val_source), ("test", data.test)):
        if isinstance(source, str):
            lists[part] = _known_ids(_read_list(root, source, problems), everything, root / source, problems)
    listed = {name for names in lists.values() for name in names}
    rest = [name for name in everything if name not in listed]
    shares = _shares(data, val_source)
    drawn = _draw(rest or lists.get("val", []), shares, data.split_seed)
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
            problems += _partner_problems(why, image_side, mask_side, hints=len(problems) < _HINTS)
            if image_side[1] and mask_side[1]:
                found[part].append(Pair(name, image_side[1][0], mask_side[1][0]))
    return found, problems


def _custom(data: DataConfig) -> tuple[dict[str, list[Pair]], list[Problem]]:
    where = f"data.layout {data.layout}"
    module, _, attribute = data.layout.partition(":")
    try:
        function: Callable[[DataConfig], Any] = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a user's module may fail in any way while it is imported
        hint = "the module must be importable: install it or put its folder on PYTHONPATH"
        rule = f"the layout cannot be imported: {type(error).__name__}: {error}"
        raise DataError(Problem(where, rule, hint=hint)) from error
    try:
        result = function(data)
    except DataError:
        raise
    except Exception as error:
        raise DataError(Problem(where, f"the layout raised {type(error).__name__}: {error}")) from error

    problems: list[Problem] = []
    found: dict[str, list[Pair]] = {}
    if not isinstance(result, Mapping) or not all(
        isinstance(pairs, list | tuple) and all(isinstance(pair, Pair) for pair in pairs) for pairs in result.values()
    ):
        rule = "must return a dict from part to a list of tunesearch.segmentation.data.layouts.Pair"
        raise DataError(Problem(where, rule, value=type(result).__name__))
    for part, pairs in result.items():
        if part not in PARTS:
            problems.append(Problem(where, "unknown part", value=repr(part), hint=nearest(part, PARTS)))
            continue
        found[part] = []
        for pair in pairs:
            pair = Pair(str(pair.id), Path(pair.image).absolute(), Path(pair.mask).absolute())
            absent = [path for path in (pair.image, pair.mask) if not path.is_file()]
            problems += [
                Problem(str(path), f"{where} names this file of {part}, but it is not there") for path in absent
            ]
            if not absent:
                found[part].append(pair)
    return found, problems


# ----------------------------------------------------------------------------------------------------- lists and shares


def _read_list(root: Path, source: str, problems: list[Problem]) -> list[str]:
    """Ids of the list ``source``: its name in ImageSets/Segmentation, or a text file relative to the root."""
    named = root / VOC_LISTS / f"{source}.txt"
    path = named if named.is_file() else root / Path(source).expanduser()
    if not path.is_file():
        valid = sorted(item.stem for item in (root / VOC_LISTS).glob("*.txt")) or sorted(
            item.name for item in root.glob("*.txt")
        )
        problems.append(
            Problem(str(named if named.parent.is_dir() else path), "no such list", hint=nearest(source, valid))
        )
        return []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(str(path), f"the list cannot be read: {error}"))
        return []
    names: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if not name:
            continue
        if name in names:
            problems.append(Problem(f"{path}:{number}", "each name may be listed once", value=f"{name!r} again"))
        names.setdefault(name, number)
    return list(names)


def _known_ids(names: list[str], everything: Iterable[str], path: Path, problems: list[Problem]) -> list[str]:
    """Replace names of a list in folders, which may be whole ids or stems that occur once, by ids."""
    ids = set(everything)
    by_stem: dict[str, list[str]] = {}
    for item in ids:
        by_stem.setdefault(item.rpartition("/")[2], []).append(item)
    known = []
    for name in names:
        matches = [name] if name in ids else by_stem.get(name, [])
        if len(matches) == 1:
            known.append(matches[0])
        elif matches:
            problems.append(Problem(str(path), f"{name!r} is ambiguous", hint="write " + " or ".join(sorted(matches))))
        else:
            problems.append(Problem(str(path), f"there is no image {name!r}", hint=nearest(name, sorted(ids))))
    return known


def _shares(data: DataConfig, val_source: str | float) -> dict[str, float]:
    sources: dict[str, str | float | None] = {"test": data.test, "val": val_source}
    return {part: source for part, source in sources.items() if isinstance(source, float)}


def _draw(pool: Sequence[str], shares: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    """Seeded disjoint shares of ``pool``, each of at least one image, in the pool's own order."""
    order = sorted(pool, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    drawn: dict[str, list[str]] = {}
    start = 0
    for part, share in shares.items():
        stop = start + max(1, round(share * len(pool)))
        chosen = set(order[start:stop])
        drawn[part] = [name for name in pool if name in chosen]
        start = stop
    return drawn


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


# -------------------------------------------------------------------------------------------------------- files on disk

Side = tuple[Path, list[Path]]
"""Where a file must lie, without its suffix, and the files of that name that are there."""


def _pair_folders(root: Path, data: DataConfig) -> tuple[dict[str, tuple[Side, Side]], list[Problem]]:
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
        raise DataError(_no_folder(root / data.images, "no such image folder"))

    everything: dict[str, tuple[Side, Side]] = {}
    missing, orphans = [], []
    for folder in image_folders:
        parts = _captured(data.images, folder.relative_to(root).as_posix()) if wildcards else ()
        mask_folder = root / _filled(data.masks, parts)
        if not mask_folder.is_dir():
            missing.append(_no_folder(mask_folder, f"no such mask folder, for the images in {folder}"))
            continue
        shared = folder == mask_folder
        if shared and not data.mask_suffix:
            rule = "must be given where images and masks share a folder"
            raise DataError(Problem("data", rule, path="mask_suffix", hint="such as _mask"))
        images, masks = _by_stem(folder, IMAGE_SUFFIXES), _by_stem(mask_folder, (*MASK_SUFFIXES, ".jpg", ".jpeg"))
        if data.mask_suffix:
            if shared:
                images = {stem: files for stem, files in images.items() if not stem.endswith(data.mask_suffix)}
            masks = {
                stem.removesuffix(data.mask_suffix): files
                for stem, files in masks.items()
                if stem.endswith(data.mask_suffix)
            }
        if images and masks and not images.keys() & masks.keys() and not data.mask_suffix:
            raise DataError(_no_pairs(sorted(images), sorted(masks), folder, mask_folder))
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


def _no_pairs(images: Sequence[str], masks: Sequence[str], folder: Path, mask_folder: Path) -> Problem:
    """One problem instead of one for every file, with the suffix that would mend it where there is one."""
    rule = f"no mask in it has the name of an image in {folder}"
    suffixes = {mask.removeprefix(image) for mask in masks for image in images[:1] if mask.startswith(image)}
    hint = "partners have the same name"
    if suffixes:  # of 1 and 10_m both _m and 0_m would do: the one that makes most pairs
        pairs = {suffix: len({image + suffix for image in images} & set(masks)) for suffix in suffixes}
        hint = f"data.mask_suffix={max(pairs, key=lambda suffix: pairs[suffix])} may be missing"
    return Problem(str(mask_folder), rule, value=f"{images[0]} there and {masks[0]} here", hint=hint)


def _partner_problems(why: str, image: Side, mask: Side, *, hints: bool) -> list[Problem]:
    problems = []
    for what, (expected, files) in (("image", image), ("mask", mask)):
        if not files:
            # Looking for the nearest of many names takes a while: not for every one of a thousand problems.
            hint = nearest(expected.name, sorted(_by_stem(expected.parent, IMAGE_SUFFIXES))) if hints else ""
            problems.append(Problem(str(expected), f"there is no {what} of this name, and {why}", hint=hint))
        elif len(files) > 1:
            both = " and ".join(path.name for path in files)
            problems.append(Problem(str(files[0]), f"there must be one {what} {expected.name!r}", value=both))
        elif what == "mask" and files[0].suffix.lower() in (".jpg", ".jpeg"):
            hint = "export the masks as PNG"
            problems.append(Problem(str(files[0]), "a mask must be lossless: JPEG changes labels", hint=hint))
    return problems


def _by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, list[Path]]:
    """Files of ``folder`` with one of ``suffixes``, in either case, by stem and in order of their names."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            files.setdefault(path.stem, []).append(path)
    return files


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


def _root_name(data: DataConfig) -> str:
    return str(data_root(data) or f"data.layout {data.layout}")


def _sample_root(data: DataConfig) -> Path:
    from tunesearch.segmentation.data.sample import sample_folder, write_sample

    return write_sample(data_root(data) or sample_folder())


def _existing_root(data: DataConfig) -> Path:
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


def _no_folder(folder: Path, rule: str) -> Problem:
    """A missing folder, with the nearest name that lies beside it (beside its first missing parent)."""
    present = folder
    while not present.parent.is_dir() and present != present.parent:
        present = present.parent
    try:
        beside = sorted(item.name for item in present.parent.iterdir() if item.is_dir())
    except OSError:
        beside = []
    hint = nearest(present.name, beside)
    return Problem(str(folder), rule, hint=hint)
