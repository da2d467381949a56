"""The classes of a data set: given, or known from its layout."""

from __future__ import annotations

from collections.abc import Iterable

from tunesearch.errors import DataError, Problem
from tunesearch.segmentation.config import ClassSpec, DataConfig

MAX_CLASSES = 255
"""Masks are uint8 and 255 is void."""
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
