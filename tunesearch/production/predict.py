"""Masks for pictures, each as large as its picture."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from tunesearch.errors import DataError, InputError, PicturesSkipped, Problem, nearest
from tunesearch.production.labeller import Labeller, Prepared, ahead
from tunesearch.segmentation.data.images import Pixels, read_image
from tunesearch.segmentation.data.layouts import IMAGE_SUFFIXES
from tunesearch.segmentation.data.overlay import overlay
from tunesearch.segmentation.data.palette import palette
from tunesearch.segmentation.files import write_atomic
from tunesearch.segmentation.inference import save_mask

OVERLAYS = "overlays"
"""Folder of the overlays, beside the masks."""
_ROWS = 256
"""Of an overlay that are mixed at once."""


def predict(
    labeller: Labeller,
    images: Path,
    output: Path,
    *,
    overlays: bool = False,
    background: int | None = 0,
    said: Callable[[Path, Pixels | None, int], None] = lambda path, mask, total: None,
) -> list[Path]:
    """Write a mask for every picture: at the picture's own size, in the colours of the classes or with their palette.

    Args:
        images: a picture, or a folder of pictures and of folders of them.
        output: folder for ``NAME.png``, and ``FOLDER/NAME.png`` for what lies in folders; made if it is not there.
        overlays: also write ``overlays/NAME.jpg``, the mask laid over its picture.
        background: class that stays clear in overlays; None: all are shown.
        said: told of every picture: its mask's file and the mask (or itself and None: it cannot be read), and how many
            pictures there are.

    Returns:
        The masks that were written, in the order of the pictures' names.

    Raises:
        InputError: no picture, two of one name, a mask that would be written over a picture.
        DataError: no picture could be read.
        PicturesSkipped: some could not; the masks of the others are written.
    """
    pictures = find_pictures(images, output)
    base = images if images.is_dir() else images.parent
    targets = {path: output / path.relative_to(base).with_suffix(".png") for path in pictures}
    shown = {path: output / OVERLAYS / path.relative_to(base).with_suffix(".jpg") for path in pictures if overlays}
    _require_own_names(images, pictures, [*targets.values(), *shown.values()])
    problems: dict[Path, Problem] = {}
    colors = palette(labeller.classes)
    written: list[Path] = []
    saving: deque[tuple[Path, Pixels, Future[None]]] = deque()

    def read(path: Path) -> Prepared | Problem:
        try:
            return labeller.prepare(read_image(path))
        except DataError as error:
            return error.problems[0]

    def save(path: Path, mask: Pixels) -> None:
        save_mask(targets[path], mask, labeller.classes)
        if overlays:
            _save_overlay(shown[path], read_image(path), mask, colors, background)

    def saved(left: int) -> None:
        while len(saving) > left:
            path, mask, future = saving.popleft()
            future.result()
            written.append(targets[path])
            said(targets[path], mask, len(pictures))

    with ThreadPoolExecutor(max_workers=2) as pool:
        waiting: list[tuple[Path, Prepared]] = []

        def label() -> None:
            masks = labeller.masks([prepared for _, prepared in waiting])
            for (path, _), mask in zip(waiting, masks, strict=True):
                saving.append((path, mask, pool.submit(save, path, mask)))
                saved(4)
            waiting.clear()

        for path, found in ahead(read, pictures):
            if isinstance(found, Problem):
                problems[path] = found
                said(path, None, len(pictures))
                continue
            waiting.append((path, found))
            if len(waiting) >= labeller.batch:
                label()
        if waiting:
            label()
        saved(0)
    if problems and not written:
        raise DataError(list(problems.values()))
    if problems:
        raise PicturesSkipped(list(problems.values()), written)
    return written


def find_pictures(images: Path, output: Path | None = None) -> list[Path]:
    """The picture, or those of the folder and of the folders in it, in the order of their names.

    What begins with a dot, and the folder that is written to, are left out.

    Raises:
        InputError: there is none.
    """
    if images.is_file():
        return [images]
    if not images.is_dir():
        hint = nearest(images.name, [path.name for path in images.parent.iterdir()]) if images.parent.is_dir() else ""
        raise InputError(Problem(str(images), "must be an existing picture or folder of pictures", hint=hint))
    if output is not None and output.resolve() == images.resolve():
        rule = "masks must not be written among the pictures, where they would count as some"
        raise InputError(Problem("-o", rule, value=str(output), hint="give another folder, which may lie in it"))
    own = output.resolve() if output is not None else None
    found = []
    for folder, inner, names in os.walk(images):
        inner[:] = [name for name in inner if not name.startswith(".") and Path(folder, name).resolve() != own]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    found = sorted(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise InputError(Problem(str(images), f"no picture ({', '.join(IMAGE_SUFFIXES)}) in this folder"))
    return found


def _require_own_names(images: Path, pictures: Sequence[Path], targets: Sequence[Path]) -> None:
    seen: set[Path] = set()
    for target in targets:
        if target in seen:
            raise InputError(Problem(str(images), "pictures need names of their own", value=f"{target.stem} twice"))
        seen.add(target)
    lost = {path.resolve() for path in pictures} & {path.resolve() for path in targets}
    if lost:
        rule = "a mask must not be written over its picture"
        raise InputError(Problem("-o", rule, value=str(min(lost)), hint="give another folder"))


def _save_overlay(target: Path, image: Pixels, mask: Pixels, colors: Pixels, background: int | None) -> None:
    bands = [slice(top, top + _ROWS) for top in range(0, len(mask), _ROWS)]
    mixed = np.concatenate([overlay(image[rows], mask[rows], colors, background=background) for rows in bands])
    write_atomic(target, lambda path: Image.fromarray(mixed).save(path, format="JPEG", quality=90))
