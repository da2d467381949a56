"""Masks for a folder of pictures, written as files, each as large as its picture."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from tunesearch.errors import DataError, InputError, PicturesSkipped, Problem
from tunesearch.production.prediction.pictures import find_pictures
from tunesearch.production.prediction.predictor import Predictor, Prepared
from tunesearch.production.prefetch import batches, prefetch
from tunesearch.segmentation.data.images import Pixels, read_image
from tunesearch.segmentation.data.overlay import overlay
from tunesearch.segmentation.data.palette import palette
from tunesearch.segmentation.files import write_atomic
from tunesearch.segmentation.inference import save_mask

OVERLAYS = "overlays"
"""Folder of the overlays, beside the masks."""
_ROWS = 256
"""Of an overlay that are mixed at once."""
_UNSAVED = 4
"""Masks that wait to be written while the next ones are predicted."""

OnPicture = Callable[[Path, Pixels | None, int], None]
"""Told of every picture: its mask's file and the mask (or itself and None: it cannot be read), and their number."""


def predict(
    predictor: Predictor,
    images: Path,
    output: Path,
    *,
    overlays: bool = False,
    background: int | None = 0,
    on_picture: OnPicture = lambda path, mask, total: None,
) -> list[Path]:
    """Write a mask for every picture: at the picture's own size, in the colours of the classes or with their palette.

    Args:
        images: a picture, or a folder of pictures and of folders of them.
        output: folder for ``NAME.png``, and ``FOLDER/NAME.png`` for what lies in folders; made if it is not there.
        overlays: also write ``overlays/NAME.jpg``, the mask laid over its picture.
        background: class that stays clear in overlays; None: all are shown.
        on_picture: see :data:`OnPicture`.

    Returns:
        The masks that were written, in the order of the pictures' names.

    Raises:
        InputError: no picture, two of one name, a mask that would be written over a picture.
        DataError: no picture could be read.
        PicturesSkipped: some could not; the masks of the others are written.
    """
    pictures = find_pictures(images, output)
    base = images if images.is_dir() else images.parent
    masks = {path: output / path.relative_to(base).with_suffix(".png") for path in pictures}
    shown = {path: output / OVERLAYS / path.relative_to(base).with_suffix(".jpg") for path in pictures if overlays}
    _require_own_names(images, pictures, [*masks.values(), *shown.values()])
    problems: list[Problem] = []

    def readable() -> Iterator[tuple[Path, Prepared]]:
        for path, found in prefetch(lambda path: _read(predictor, path), pictures):
            if isinstance(found, Problem):
                problems.append(found)
                on_picture(path, None, len(pictures))
            else:
                yield path, found

    with _Writer(predictor, masks, shown, background, on_picture) as writer:
        for batch in batches(readable(), predictor.batch):
            writer.write(batch)
    if problems and not writer.written:
        raise DataError(problems)
    if problems:
        raise PicturesSkipped(problems, writer.written)
    return writer.written


def _read(predictor: Predictor, path: Path) -> Prepared | Problem:
    try:
        return predictor.prepare(read_image(path))
    except DataError as error:
        return error.problems[0]


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


class _Writer:
    """Writes masks and overlays in two threads, while the next masks are predicted.

    Args:
        masks, overlays: the file per picture; no overlay where a picture has none.

    Attributes:
        written: the masks' files so far, in the order of their pictures.
    """

    def __init__(
        self,
        predictor: Predictor,
        masks: dict[Path, Path],
        overlays: dict[Path, Path],
        background: int | None,
        on_picture: OnPicture,
    ) -> None:
        self.written: list[Path] = []
        self._predictor, self._masks, self._overlays = predictor, masks, overlays
        self._background, self._on_picture = background, on_picture
        self._colors = palette(predictor.classes)
        self._pool = ThreadPoolExecutor(max_workers=2)
        self._unsaved: deque[tuple[Path, Pixels, Future[None]]] = deque()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._wait(0)
        finally:
            self._pool.shutdown()

    def write(self, batch: Sequence[tuple[Path, Prepared]]) -> None:
        """Predict the masks of some pictures, and begin to write them."""
        masks = self._predictor.masks([prepared for _, prepared in batch])
        for (path, _), mask in zip(batch, masks, strict=True):
            self._unsaved.append((path, mask, self._pool.submit(self._save, path, mask)))
            self._wait(_UNSAVED)

    def _save(self, path: Path, mask: Pixels) -> None:
        save_mask(self._masks[path], mask, self._predictor.classes)
        if path in self._overlays:
            _save_overlay(self._overlays[path], read_image(path), mask, self._colors, self._background)

    def _wait(self, left: int) -> None:
        """Wait until no more than so many masks are unsaved."""
        while len(self._unsaved) > left:
            path, mask, future = self._unsaved.popleft()
            future.result()
            self.written.append(self._masks[path])
            self._on_picture(self._masks[path], mask, len(self._masks))


def _save_overlay(target: Path, image: Pixels, mask: Pixels, colors: Pixels, background: int | None) -> None:
    bands = [slice(top, top + _ROWS) for top in range(0, len(mask), _ROWS)]
    mixed = np.concatenate([overlay(image[rows], mask[rows], colors, background=background) for rows in bands])
    write_atomic(target, lambda path: Image.fromarray(mixed).save(path, format="JPEG", quality=90))
