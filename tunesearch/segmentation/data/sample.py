"""The built-in sample: small generated scenes in VOC layout, so that everything can be tried without any data.

Discs, squares, triangles and stripes of class-specific colour and texture lie on a textured ground among distractors:
outlines in the classes' colours, and grey blobs in their shapes, both background. A network learns them in a few
epochs, but not by colour alone. Every scene is drawn from its own seed, so the files are the same on every machine with
the same libraries.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tunesearch.errors import DataError, Problem
from tunesearch.segmentation.data.palette import voc_colors
from tunesearch.segmentation.files import cache_folder, sync, write_text

VERSION = 1
"""Raised whenever the scenes change."""
TRAIN, VAL = 48, 24
_MARK = "SAMPLE"
"""File that says that the folder is a whole sample of this version."""
_COLORS = ((0, 0, 0), (200, 70, 60), (70, 110, 200), (80, 170, 80), (210, 170, 60))
"""Typical colour of a class; each object strays from it."""
_SUPER = 4
"""Shapes are drawn this many times larger and then reduced, for smooth edges and true borders."""


def sample_folder() -> Path:
    """Where the sample lies unless a root is given."""
    return cache_folder() / f"sample-v{VERSION}"


def write_sample(folder: Path) -> Path:
    """Write the sample data set into ``folder``, unless it is there; under a lock, completely or not at all.

    Returns:
        ``folder``, with 48 training and 24 validation scenes of 96x72 to 128x96 pixels, palette masks and void borders.

    Raises:
        DataError: the folder holds something else, or cannot be written.
    """
    if _is_sample(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if _is_sample(folder):
                return folder
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                rule = "the sample data set is written into a new or empty folder"
                raise DataError(Problem(str(folder), rule, hint="leave root away, or remove the folder"))
            building = folder.parent / f".{folder.name}.building"
            shutil.rmtree(building, ignore_errors=True)
            _write(building)
            building.replace(folder)
            sync(folder.parent)
    except OSError as error:
        raise DataError(Problem(str(folder), f"the sample cannot be written: {error.strerror or error}")) from error
    return folder


def _is_sample(folder: Path) -> bool:
    try:
        return (folder / _MARK).read_text(encoding="utf-8") == f"{VERSION}\n"
    except OSError:
        return False


def _write(folder: Path) -> None:
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    names = [f"sample_{number:04d}" for number in range(1, TRAIN + VAL + 1)]
    palette = voc_colors().ravel().tolist()
    for number, name in enumerate(names):
        image, mask = _scene(number)
        Image.fromarray(image).save(folder / "JPEGImages" / f"{name}.png", compress_level=1)
        picture = Image.fromarray(mask)
        picture.putpalette(palette)
        picture.save(folder / "SegmentationClass" / f"{name}.png")
    for part, items in (("train", names[:TRAIN]), ("val", names[TRAIN:])):
        write_text(folder / "ImageSets" / "Segmentation" / f"{part}.txt", "\n".join(items) + "\n")
    write_text(folder / _MARK, f"{VERSION}\n")  # last


def _scene(number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image uint8 (H, W, 3) and mask uint8 (H, W) with 255 along the borders of objects."""
    rng = np.random.default_rng([VERSION, number])
    height, width = int(rng.integers(72, 97)), int(rng.integers(96, 129))
    canvas = _ground(rng, height, width)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(2, 5))):  # distractors: shapes without a class
        kind = int(rng.integers(1, 5))
        cover = _shape(rng, kind, height, width)
        if rng.random() < 0.5:  # grey, filled
            tone = np.full(3, rng.uniform(60, 190))
        else:  # in a class's colour, but an outline
            tone = np.array(_COLORS[kind]) + rng.normal(0, 15, 3)
            cover = np.abs(_gradient(cover)).clip(0, 1)
        canvas += cover[:, :, None] * (tone - canvas)
    first = number % 4  # every class comes first equally often, so none is rare by chance
    for place in range(int(rng.integers(2, 5))):
        kind = 1 + (first + place * int(rng.integers(1, 4))) % 4
        cover = _shape(rng, kind, height, width)
        texture = (np.array(_COLORS[kind]) + rng.normal(0, 18, 3)) * _texture(rng, kind, height, width)[:, :, None]
        canvas += cover[:, :, None] * (texture - canvas)
        mask[cover >= 0.5] = kind
        mask[(cover > 0.02) & (cover < 0.98)] = 255
    canvas += rng.normal(0, 9, canvas.shape)
    return canvas.clip(0, 255).astype(np.uint8), mask


def _ground(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Smooth blotches of muted colour."""
    coarse = (rng.uniform(60, 180, (6, 8, 1)) + rng.uniform(-25, 25, (6, 8, 3))).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth, np.float64) * rng.uniform(0.7, 1.1)


def _shape(rng: np.random.Generator, kind: int, height: int, width: int) -> NDArray[np.float64]:
    """How much of each pixel a shape of ``kind`` covers, float64 (H, W) in 0..1."""
    radius = rng.uniform(0.15, 0.3) * height * (1.5 if kind == 3 else 1)  # else triangles are the smallest by far
    x, y = rng.uniform(0.1, 0.9) * width, rng.uniform(0.1, 0.9) * height
    turn = rng.uniform(0, 2 * np.pi)
    corners = {1: 40, 2: 4, 3: 3, 4: 4}[kind]  # disc, square, triangle, stripes
    angles = turn + 2 * np.pi * np.arange(corners) / corners
    along, across = np.cos(angles) * radius, np.sin(angles) * radius
    if kind == 4:  # a long bar
        bar = np.array([[-1.0, -0.3], [1.0, -0.3], [1.0, 0.3], [-1.0, 0.3]]) * radius * 1.5
        along = bar[:, 0] * np.cos(turn) - bar[:, 1] * np.sin(turn)
        across = bar[:, 0] * np.sin(turn) + bar[:, 1] * np.cos(turn)
    large = Image.new("L", (width * _SUPER, height * _SUPER))
    points = [((x + a) * _SUPER, (y + b) * _SUPER) for a, b in zip(along.tolist(), across.tolist(), strict=True)]
    ImageDraw.Draw(large).polygon(points, fill=255)
    return np.asarray(large.resize((width, height), Image.Resampling.BOX), np.float64) / 255


def _texture(rng: np.random.Generator, kind: int, height: int, width: int) -> NDArray[np.float64]:
    """Factor on the colour, float64 (H, W): smooth shading, a chequer, fine noise, or stripes."""
    rows, columns = np.mgrid[:height, :width]
    phase = rng.uniform(0, 2 * np.pi)
    if kind == 1:
        return np.asarray(0.9 + 0.2 * np.sin(columns / 18 + phase))
    if kind == 2:
        return np.where((rows // 4 + columns // 4) % 2 == 0, 1.1, 0.8)
    if kind == 3:
        return rng.uniform(0.6, 1.3, (height, width))
    return np.asarray(np.where(np.sin((rows + columns) * 0.9 + phase) > 0, 1.15, 0.55))


def _gradient(cover: NDArray[np.float64]) -> NDArray[np.float64]:
    rows, columns = np.gradient(cover)
    return np.asarray(np.hypot(rows, columns) * 2)
