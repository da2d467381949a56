"""Masks for pictures, by the network of a trial, each as large as its picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tunesearch.errors import DataError, InputError, Problem
from tunesearch.production.model import trained_model
from tunesearch.search.ledger import Ledger, TrialRecord
from tunesearch.segmentation.data.images import read_image
from tunesearch.segmentation.data.layouts import IMAGE_SUFFIXES, resolve_classes
from tunesearch.segmentation.inference import predict as predict_one
from tunesearch.segmentation.inference import save_mask
from tunesearch.segmentation.trainer import pick_device


def predict(
    ledger: Ledger, record: TrialRecord, images: Path, output: Path, *, said: Callable[[str], None] = lambda text: None
) -> list[Path]:
    """Write a mask for every picture: at the picture's own size, in the colours of the classes or with their palette.

    Args:
        record: a completed trial of the ledger's search.
        images: a picture, or a folder of pictures.
        output: folder for ``NAME.png``; made if it is not there.
        said: told of every mask.

    Returns:
        The files that were written, in the order of the pictures' names.

    Raises:
        InputError: the trial's weights are not there; no picture, or two of one name.
        WeightsError: the file of the weights is damaged.
        DataError: a picture cannot be read.
    """
    classes = resolve_classes(ledger.experiment.data)
    model = trained_model(ledger, record, len(classes))
    pictures = find_pictures(images)
    problems = [problem for path in pictures if (problem := _unreadable(path))]
    if problems:
        raise DataError(problems)
    targets = [output / f"{path.stem}.png" for path in pictures]
    lost = {path.resolve() for path in pictures} & {path.resolve() for path in targets}
    if lost:
        rule = "a mask must not be written over its picture"
        raise InputError(Problem("-o", rule, value=str(min(lost)), hint="give another folder"))
    device = pick_device()
    model.to(device)
    output.mkdir(parents=True, exist_ok=True)
    for path, target in zip(pictures, targets, strict=True):
        mask = predict_one(model, read_image(path), record.config, device)
        save_mask(target, mask, classes)
        said(f"{target}: {mask.shape[1]}x{mask.shape[0]}")
    return targets


def find_pictures(images: Path) -> list[Path]:
    """The picture, or those of the folder in the order of their names.

    Raises:
        InputError: there is none, or two would be written to one mask.
    """
    if images.is_file():
        return [images]
    if not images.is_dir():
        raise InputError(Problem(str(images), "must be an existing picture or folder of pictures"))
    found = sorted(path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise InputError(Problem(str(images), f"no picture ({', '.join(IMAGE_SUFFIXES)}) in this folder"))
    names = [path.stem for path in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(Problem(str(images), "pictures need names of their own", value=f"{twice[0]} twice"))
    return found


def _unreadable(path: Path) -> Problem | None:
    """A problem where the file does not begin as a picture does."""
    try:
        with Image.open(path):
            return None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        return Problem(str(path), f"the file cannot be read as a picture: {reason}")
