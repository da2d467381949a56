"""check_data: read the whole data set once and say everything that is wrong with it, before hours are spent on it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tunesearch.errors import DataError, Problem
from tunesearch.segmentation.config import ClassSpec, DataConfig
from tunesearch.segmentation.data.class_weights import MEASURED
from tunesearch.segmentation.data.images import VOID, read_image, read_mask
from tunesearch.segmentation.data.layouts import PARTS, Pair, resolve_classes, scan
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.files import sha256


@dataclass(frozen=True)
class PartReport:
    """What one part holds, counted at original resolution.

    Attributes:
        images: number of pairs that could be read.
        pixels: per class, in class order.
        void: pixels that count nowhere.
        images_with: per class, the number of images in which it occurs.
        smallest, largest: least and greatest (width, height) over the images, each dimension for itself.
    """

    images: int
    pixels: tuple[int, ...]
    void: int
    images_with: tuple[int, ...]
    smallest: tuple[int, int]
    largest: tuple[int, int]


@dataclass(frozen=True)
class DataReport:
    """The result of ``check_data``: problems stop a run, warnings do not.

    Attributes:
        classes: in class order.
        parts: what each part holds, by its name.
        class_weights: per kind that is measured, the weights of the training part as a whole at original resolution, in
            class order; empty where nothing is labelled. A trial measures them at its own size, with folds on its own.
        problems, warnings: all that was found.
    """

    classes: tuple[ClassSpec, ...]
    parts: dict[str, PartReport]
    class_weights: dict[str, tuple[float, ...]]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]

    def raise_if_broken(self) -> None:
        """Raise DataError with all problems, if there are any."""
        if self.problems:
            raise DataError(self.problems)


@dataclass(frozen=True)
class _Reading:
    """What one pair gave. ``pixels`` has the classes and, last, void; empty where the pair could not be read."""

    pair: Pair
    size: tuple[int, int] = (0, 0)
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    fingerprint: bytes = b""
    problems: tuple[Problem, ...] = ()


def check_data(data: DataConfig, *, split: Split | None = None) -> DataReport:
    """Read every image and every mask once.

    Args:
        data: the data set.
        split: check these files, and that they have not changed since; None: find them as ``find_pairs`` does.

    Returns:
        All problems and warnings with what was counted; never raises for what is wrong with the data.
    """
    problems: list[Problem] = []
    pairs: dict[str, list[Pair]] = {part: [] for part in PARTS}
    classes: tuple[ClassSpec, ...] = ()
    expected: dict[Path, str] = {}
    try:
        classes = resolve_classes(data)
    except DataError as error:
        problems += error.problems
    try:
        if split is None:
            pairs, found = scan(data)
            problems += found
        else:
            pairs = {part: split.pairs(part) for part in PARTS}
            for part in PARTS:
                for item in split.items(part):
                    expected[split.root / item.image] = item.image_sha256
                    expected[split.root / item.mask] = item.mask_sha256
    except DataError as error:
        problems += error.problems
    if not classes:
        return DataReport((), {}, {}, tuple(problems), ())

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        readings = {
            part: list(pool.map(lambda pair: _read(pair, data, classes, expected), pairs[part])) for part in PARTS
        }
    everything = [reading for part in PARTS for reading in readings[part]]
    problems += [problem for reading in everything for problem in reading.problems]
    twice, warnings = _same_images(readings)
    problems += twice
    parts = {part: _summary(readings[part], len(classes)) for part in PARTS}
    warnings += _empty_masks(everything, data.background)
    warnings += _absent_classes(parts, classes)
    return DataReport(classes, parts, _class_weights(readings["train"]), tuple(problems), tuple(warnings))


def _read(pair: Pair, data: DataConfig, classes: tuple[ClassSpec, ...], expected: dict[Path, str]) -> _Reading:
    problems: list[Problem] = []
    contents: dict[Path, bytes] = {}
    for path in (pair.image, pair.mask):
        try:
            contents[path] = path.read_bytes()
        except OSError as error:
            problems.append(Problem(str(path), f"the file cannot be read: {error.strerror}"))
            continue
        if path in expected and sha256(contents[path]) != expected[path]:
            problems.append(Problem(str(path), "the file has changed since the split was frozen"))

    image = mask = None
    try:
        if pair.image in contents:
            image = read_image(pair.image, contents[pair.image])
    except DataError as error:
        problems += error.problems
    try:
        if pair.mask in contents:
            mask = read_mask(pair.mask, data, classes, content=contents[pair.mask])
    except DataError as error:
        problems += error.problems

    if image is None:
        return _Reading(pair, problems=tuple(problems))
    size = (image.shape[1], image.shape[0])
    fingerprint = hashlib.blake2b(image.data, digest_size=16, salt=f"{size[0]}x{size[1]}".encode()).digest()
    if mask is None:
        return _Reading(pair, size, fingerprint=fingerprint, problems=tuple(problems))
    if mask.shape != image.shape[:2]:
        turned = mask.shape == image.shape[1::-1]
        hint = "sides swapped: is the EXIF orientation of the image missing in the mask?" if turned else ""
        rule = f"the mask must be as large as its image {pair.image.name}, {size[0]}x{size[1]}"
        problems.append(Problem(str(pair.mask), rule, value=f"{mask.shape[1]}x{mask.shape[0]}", hint=hint))
        return _Reading(pair, size, fingerprint=fingerprint, problems=tuple(problems))
    counts = np.bincount(mask.ravel(), minlength=256)
    pixels = np.append(counts[: len(classes)], counts[VOID]).astype(np.int64)
    return _Reading(pair, size, pixels, fingerprint, tuple(problems))


def _same_images(readings: dict[str, list[_Reading]]) -> tuple[list[Problem], list[str]]:
    """Equal pixels in two parts are a leak; inside one part only worth a word."""
    first: dict[bytes, tuple[str, Pair]] = {}
    problems: list[Problem] = []
    warnings: list[str] = []
    for part, items in readings.items():
        for reading in items:
            if not reading.fingerprint:
                continue
            other, pair = first.setdefault(reading.fingerprint, (part, reading.pair))
            if other != part:
                rule = f"the same image must not be in two parts: it is in {part}, and in {other} as"
                problems.append(Problem(str(reading.pair.image), f"{rule} {pair.image}"))
            elif pair.id != reading.pair.id:
                warnings.append(f"{reading.pair.image}: the same image is in {part} already, as {pair.image}")
    return problems, warnings


def _summary(readings: list[_Reading], classes: int) -> PartReport:
    good = [reading for reading in readings if reading.pixels.size]
    if not good:
        return PartReport(0, (0,) * classes, 0, (0,) * classes, (0, 0), (0, 0))
    pixels = np.stack([reading.pixels for reading in good])  # (N, C + 1)
    sizes = np.array([reading.size for reading in good])  # (N, 2)
    smallest, largest = sizes.min(axis=0).tolist(), sizes.max(axis=0).tolist()
    return PartReport(
        images=len(good),
        pixels=tuple(pixels[:, :-1].sum(axis=0).tolist()),
        void=int(pixels[:, -1].sum()),
        images_with=tuple((pixels[:, :-1] > 0).sum(axis=0).tolist()),
        smallest=(smallest[0], smallest[1]),
        largest=(largest[0], largest[1]),
    )


def _class_weights(readings: list[_Reading]) -> dict[str, tuple[float, ...]]:
    pixels = [reading.pixels[:-1] for reading in readings if reading.pixels[:-1].any()]
    if not pixels:
        return {}
    return {kind: tuple(measure(np.stack(pixels)).tolist()) for kind, measure in MEASURED.items()}


def _empty_masks(readings: Iterable[_Reading], background: int | None) -> Iterable[str]:
    for reading in readings:
        labelled = reading.pixels[:-1].copy()
        if not labelled.size:
            continue
        if not labelled.any():
            yield f"{reading.pair.mask}: the mask is void everywhere"
        elif background is not None and labelled.sum() == labelled[background]:
            yield f"{reading.pair.mask}: the mask has nothing but background"


def _absent_classes(parts: dict[str, PartReport], classes: tuple[ClassSpec, ...]) -> Iterable[str]:
    for part in ("train", "val"):
        absent = [
            spec.name
            for spec, pixels in zip(classes, parts[part].pixels, strict=True)
            if parts[part].images and not pixels
        ]
        if absent:
            yield f"{part}: no pixel of {', '.join(absent)}"
