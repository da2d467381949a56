"""A list of albumentations transforms, as a user writes it: built from the library's public names, and tried at once.

albumentations only warns about an argument that it does not know, fails on the first image about a transform that needs
more than an image and a mask, and fills a mask with 0, which is a class here. All that is an error, or is set right,
before anything is trained.
"""

from __future__ import annotations

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # as in augmentation.py

import copy
import inspect
import random
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import albumentations
import cv2
import numpy as np
from albumentations.core.composition import BaseCompose
from albumentations.core.type_definitions import Targets
from pydantic import ValidationError

from tunesearch.errors import InputError, Problem, nearest
from tunesearch.segmentation.config import Size
from tunesearch.segmentation.data.images import VOID, Pixels

WHERE = "augmentation"
"""The field that every problem names."""

_GROUPS: dict[str, Any] = {
    name: getattr(albumentations, name) for name in ("OneOf", "SomeOf", "Sequential", "RandomOrder")
}
"""Transforms that hold others, under ``transforms``."""


def _for_masks(kind: Any) -> bool:
    """Whether a public name is a transform of images with masks. Image-only ones are: the mask stays as it is."""
    if not (inspect.isclass(kind) and issubclass(kind, albumentations.BasicTransform)):
        return False
    if issubclass(kind, albumentations.ImageOnlyTransform):
        return kind is not albumentations.ImageOnlyTransform
    # The base classes have none. Before an instance is made the library has no public name for it.
    targets = getattr(kind, "_targets", ())
    return isinstance(targets, tuple) and Targets.MASK in targets


_TRANSFORMS: dict[str, Any] = {name: getattr(albumentations, name) for name in dir(albumentations)}
_TRANSFORMS = {name: kind for name, kind in _TRANSFORMS.items() if _for_masks(kind)}

_RESIZING = ("LongestMaxSize", "RandomResizedCrop", "RandomScale", "RandomSizedCrop", "Resize", "SmallestMaxSize")
"""Where OpenCV's INTER_NEAREST takes the label of a pixel's corner, half a pixel beside what the image shows."""

_ADVICE = ("is a special case of", "is a specialized version of", "is an alias for", "is very slow")
"""Of what albumentations warns about while it builds a transform, this is advice. All else says that an argument was
changed or not used."""

_SEEDS = 5
"""Of a trial: a quarter turn that changes the size must not slip through by chance."""


def build_transforms(items: Sequence[dict[str, Any]]) -> list[Any]:
    """The transforms of ``items``, each ``{NAME: {argument: value}}``; groups hold others under ``transforms``.

    Masks keep their labels: what comes in from outside of the image is void unless ``fill_mask`` says otherwise. The
    names of OpenCV's constants (``BORDER_REFLECT_101``) may be written as texts.

    Args:
        items: in the order of their application.

    Raises:
        InputError: names, arguments and values that do not exist, all at once.
    """
    problems: list[Problem] = []
    transforms = _build(items, "", problems)
    if problems:
        raise InputError(problems)
    return transforms


def reseed(transform: albumentations.Compose, words: Sequence[int]) -> None:
    """Let all random numbers of ``transform`` follow from ``words``.

    ``Compose.set_random_seed`` would give each of its transforms a generator of the same seed: the first image would be
    mirrored exactly when it is turned. Here all share one stream.
    """
    sequence = np.random.SeedSequence(words)
    seed = int.from_bytes(sequence.generate_state(4).tobytes(), "little")
    transform.set_random_state(np.random.default_rng(sequence), random.Random(seed))


def _build(items: Any, above: str, problems: list[Problem]) -> list[Any]:
    """The transforms of a list; what is wrong is added to ``problems``."""
    transforms = []
    for number, item in enumerate(items):
        if not (isinstance(item, dict) and len(item) == 1 and isinstance(next(iter(item.values())), dict | None)):
            rule = "a transform is written as NAME: {argument: value, ...}"
            problems.append(Problem(WHERE, rule, path=f"{above}{number}", value=repr(item)))
            continue
        [(name, arguments)] = item.items()
        made = _one(str(name), dict(arguments or {}), f"{above}{number}.{name}", problems)
        if made is not None:
            transforms.append(made)
    return transforms


def _one(name: str, arguments: dict[str, Any], path: str, problems: list[Problem]) -> Any:
    kind = _GROUPS.get(name) or _TRANSFORMS.get(name)
    if kind is None:
        rule = "must be a transform of albumentations for images with masks"
        problems.append(Problem(WHERE, rule, path=path, hint=nearest(name, [*_TRANSFORMS, *_GROUPS])))
        return None
    known = inspect.signature(kind).parameters
    before = len(problems)
    for argument, value in arguments.items():
        if argument not in known:
            rule = f"{name} has no argument {argument!r}"
            problems.append(Problem(WHERE, rule, path=path, hint=nearest(argument, known)))
        elif argument in ("border_mode", "interpolation", "mask_interpolation") and isinstance(value, str):
            arguments[argument] = _constant(argument, value, f"{path}.{argument}", problems)
    if name in _GROUPS:
        if not isinstance(arguments.get("transforms"), list | tuple) or not arguments["transforms"]:
            problems.append(Problem(WHERE, f"{name} needs a list of transforms", path=f"{path}.transforms"))
        else:
            arguments["transforms"] = _build(arguments["transforms"], f"{path}.transforms.", problems)
    elif "fill_mask" in known and known["fill_mask"].default is not None:
        # The library's 0 would make background of what comes in from outside.
        arguments.setdefault("fill_mask", VOID)
    if name in _RESIZING:
        arguments.setdefault("mask_interpolation", cv2.INTER_NEAREST_EXACT)
    return None if len(problems) > before else _construct(kind, arguments, path, problems)


def _constant(argument: str, value: str, path: str, problems: list[Problem]) -> Any:
    """OpenCV's number behind a name such as BORDER_REFLECT_101, which YAML could otherwise only write as 4."""
    prefix = "BORDER_" if argument == "border_mode" else "INTER_"
    names = [name for name in dir(cv2) if name.startswith(prefix)]
    if value in names:
        return getattr(cv2, value)
    problems.append(
        Problem(WHERE, f"must be one of OpenCV's {prefix} names", path=path, value=value, hint=nearest(value, names))
    )
    return None


def _construct(kind: Any, arguments: dict[str, Any], path: str, problems: list[Problem]) -> Any:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            made = kind(**arguments)
        except Exception as error:  # a transform's own check may raise anything
            problems.extend(_refused(error, path))
            return None
    objections = [str(item.message) for item in caught if not any(text in str(item.message) for text in _ADVICE)]
    problems.extend(Problem(WHERE, f"albumentations objects: {text}", path=path) for text in objections)
    return None if objections else made


def _refused(error: Exception, path: str) -> list[Problem]:
    """One problem per argument that was refused."""
    if not isinstance(error.__cause__, ValidationError):
        return [Problem(WHERE, f"albumentations refuses it: {error}", path=path)]
    found: dict[str, Problem] = {}
    for item in error.__cause__.errors(include_url=False):
        # Of an argument that may have several types, each type complains; the first complaint will do.
        place = f"{path}.{item['loc'][0]}" if item["loc"] else path
        text = item["msg"].removeprefix("Value error, ")
        value = "" if isinstance(item["input"], dict) else repr(item["input"])
        found.setdefault(place, Problem(WHERE, f"albumentations refuses it: {text}", path=place, value=value))
    return list(found.values())


def try_transforms(transforms: list[Any], size: Size) -> None:
    """Apply a list to a made-up pair, with every part of it forced and as it is.

    The mask holds 1, 2 and void: any other label afterwards was made up, unless it is the user's own ``fill_mask``.

    Args:
        size: of what they are applied to, and of what they must give back.

    Raises:
        InputError: the first transform that an image with a mask cannot be given to, or that gives back something else
            than such a pair.
    """
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (size.height, size.width, 3), np.uint8)
    blocks = rng.choice(np.array([1, 2, VOID], np.uint8), (8, 8))
    mask = np.asarray(cv2.resize(blocks, (size.width, size.height), interpolation=cv2.INTER_NEAREST), np.uint8)
    image.flags.writeable = mask.flags.writeable = False  # as they come out of the cache
    allowed = {1, 2, VOID, *_fills(transforms)}
    paths = [f"{number}.{type(transform).__name__}" for number, transform in enumerate(transforms)]
    for which in (*(_forced(transforms, turn) for turn in range(_turns(transforms))), transforms):
        whole = albumentations.Compose(which)
        made = [_apply(whole, seed, paths, image, mask, allowed) for seed in (0, 0, *range(1, _SEEDS))]
        if not all(map(np.array_equal, made[0], made[1])):
            raise InputError(Problem(WHERE, "the same seed must give the same picture twice, and does not here"))


def _turns(transforms: Sequence[Any]) -> int:
    """How many turns it takes until every part of every OneOf has had its own."""
    groups = [item for item in transforms if isinstance(item, BaseCompose)]
    parts = [len(item.transforms) if isinstance(item, albumentations.OneOf) else 1 for item in groups]
    return max([1, *(count * _turns(item.transforms) for count, item in zip(parts, groups, strict=True))])


def _forced(transforms: Sequence[Any], turn: int) -> list[Any]:
    """Copies that are always applied; of a OneOf the part whose turn it is, of other groups all parts."""
    made = []
    for item in transforms:
        if isinstance(item, albumentations.OneOf):
            below, which = divmod(turn, len(item.transforms))  # a OneOf inside takes its turns more slowly
            made.append(albumentations.Sequential(_forced([item.transforms[which]], below), p=1.0))
        elif isinstance(item, BaseCompose):
            made.append(albumentations.Sequential(_forced(item.transforms, turn), p=1.0))
        else:
            made.append(copy.deepcopy(item))
            made[-1].p = 1.0
    return made


def _fills(transforms: Sequence[Any]) -> set[int]:
    """Every label that holes and borders are filled with."""
    found: set[int] = set()
    for item in transforms:
        if isinstance(item, BaseCompose):
            found |= _fills(item.transforms)
        elif isinstance(fill := getattr(item, "fill_mask", None), int | float):
            found.add(int(fill))
    return found


def _apply(
    whole: albumentations.Compose, seed: int, paths: list[str], image: Pixels, mask: Pixels, allowed: set[int]
) -> tuple[Pixels, Pixels]:
    """What ``Compose`` does to a pair, with a look at it behind each transform."""
    reseed(whole, [seed])
    made: dict[str, Any] = {"image": image, "mask": mask}
    for path, transform in zip(paths, whole.transforms, strict=True):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = transform(**made)
        except Exception as error:  # a transform may raise anything
            rule = f"albumentations cannot apply it to an image with a mask: {error}"
            raise InputError(Problem(WHERE, rule, path=path)) from error
        for problem in _wrong(made["image"], made["mask"], path, allowed):
            raise InputError(problem)
    if made["mask"].shape != mask.shape:
        raise InputError(wrong_size(made["mask"], mask))
    return made["image"], made["mask"]


def _wrong(image: Any, mask: Any, path: str, allowed: set[int]) -> Iterator[Problem]:
    """What is wrong with a pair behind the transform at ``path``."""
    if not all(isinstance(item, np.ndarray) and item.dtype == np.uint8 for item in (image, mask)):
        rule = "images and masks must stay uint8: normalisation is part of the network"
        yield Problem(WHERE, rule, path=path, value=str(getattr(image, "dtype", type(image).__name__)))
    elif image.ndim != 3 or image.shape[2] != 3 or image.shape[:2] != mask.shape:
        rule = "the image must stay (H, W, 3) and its mask (H, W)"
        yield Problem(WHERE, rule, path=path, value=f"{image.shape} and {mask.shape}")
    elif strange := sorted(set(np.unique(mask).tolist()) - allowed):
        rule = f"makes labels that the mask does not have: {', '.join(map(str, strange[:5]))}"
        yield Problem(WHERE, rule, path=path, hint="labels must not be mixed; fill_mask: 255 is void")


def wrong_size(made: Pixels, mask: Pixels) -> Problem:
    """The problem of a mask that is no longer as large as it was."""
    (height, width), got = mask.shape, f"{made.shape[1]}x{made.shape[0]}"
    rule = f"the last transform must give back the size that is trained on, {width}x{height}"
    hint = f"end with - Resize: {{width: {width}, height: {height}}}, or use crop and scale_jitter"
    return Problem(WHERE, rule, value=got, hint=hint)
