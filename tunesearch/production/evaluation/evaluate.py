"""Evaluation: how good a model is on labelled images, at the size of each image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tunesearch.errors import DataError, InputError, Problem
from tunesearch.production.evaluation.result import Evaluation, confusion
from tunesearch.production.labelled import read_pair, trained_on
from tunesearch.production.model import Model
from tunesearch.production.prediction.predictor import Predictor, Prepared
from tunesearch.production.prediction.stack import Stack
from tunesearch.production.prefetch import batches, prefetch
from tunesearch.segmentation.config import DataConfig
from tunesearch.segmentation.data.images import Pixels
from tunesearch.segmentation.data.layouts import Pair
from tunesearch.segmentation.metrics import scores


def evaluate(
    models: Model | Sequence[Model],
    pairs: Sequence[Pair],
    data: DataConfig,
    *,
    what: str = "",
    stack: Stack | None = None,
    scale: float | None = None,
    flip: bool = False,
    device: str = "auto",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Predict every image at its own size and compare it with its mask.

    Args:
        models: one, or several that predict together.
        data: how the masks are read.
        what: a name for ``pairs``.
        stack, scale, flip, device: as of :class:`~tunesearch.production.prediction.predictor.Predictor`.
        on_progress: told how many of how many images are done.

    Raises:
        InputError: nothing to measure on; models that do not go together.
        DataError: every file that cannot be read, labels of no class, masks of another size than their image.
    """
    models = [models] if isinstance(models, Model) else list(models)
    if not pairs:
        raise InputError(Problem(what or "evaluate", "there must be at least one image with a mask"))
    predictor = Predictor(models, stack=stack, scale=scale, flip=flip, device=device)
    count = len(predictor.classes)
    total: NDArray[np.int64] = np.zeros((count, count), np.int64)
    images: list[tuple[str, float | None]] = []
    for batch in batches(_readable(predictor, pairs, data), predictor.batch):
        for pair, matrix in _confusions(predictor, batch):
            total += matrix
            images.append((pair.id, scores(matrix, background=data.background).miou if matrix.any() else None))
            on_progress(len(images), len(pairs))
    return Evaluation(
        models=tuple(model.name for model in models),
        what=what,
        classes=predictor.classes,
        background=data.background,
        matrix=total,
        images=tuple(images),
        seen=trained_on(models, pairs),
    )


Labelled = tuple[Pair, Prepared, Pixels]
"""An image, prepared for the networks, and its mask."""


def _readable(predictor: Predictor, pairs: Sequence[Pair], data: DataConfig) -> Iterator[Labelled]:
    """Every image with its mask; once a file is broken only the other broken ones are looked for.

    Raises:
        DataError: at the end, with every file that cannot be read.
    """
    problems: list[Problem] = []

    def read(pair: Pair) -> tuple[Prepared, Pixels] | list[Problem]:
        try:
            image, mask = read_pair(pair, data, predictor.classes)
        except DataError as error:
            return list(error.problems)
        return predictor.prepare(image), mask

    for pair, found in prefetch(read, pairs):
        if isinstance(found, list):
            problems += found
        elif not problems:  # what is broken makes the rest useless
            yield (pair, *found)
    if problems:
        raise DataError(problems)


def _confusions(predictor: Predictor, batch: Sequence[Labelled]) -> Iterator[tuple[Pair, NDArray[np.int64]]]:
    """The confusion matrix of every image of a batch."""
    predictions = predictor.masks([prepared for _, prepared, _ in batch])
    for (pair, _, truth), prediction in zip(batch, predictions, strict=True):
        yield pair, confusion(truth, prediction, len(predictor.classes))
