"""``export``, ``train``, ``predict``, ``evaluate`` and ``ensemble``: what a search hands over, in use."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from tunesearch.api.places import require_no_password, storage_folder, tracking_uri
from tunesearch.engine.preflight import check_address
from tunesearch.errors import InputError, Problem
from tunesearch.ledger.store import Ledger
from tunesearch.production.evaluation.evaluate import evaluate as measure
from tunesearch.production.evaluation.files import write_evaluation
from tunesearch.production.evaluation.looks import looked_at_test, warning
from tunesearch.production.evaluation.pairs import frozen_pairs, pairs_below, pairs_in
from tunesearch.production.evaluation.result import Evaluation
from tunesearch.production.export import export as write_export
from tunesearch.production.export import is_configuration
from tunesearch.production.labelled import holds_own_images, holds_test_images
from tunesearch.production.model import Model, open_model
from tunesearch.production.prediction.ensemble import fit_stack
from tunesearch.production.prediction.predict import predict as write_masks
from tunesearch.production.prediction.predictor import Predictor, require_same_classes
from tunesearch.production.prediction.stack import Stack
from tunesearch.production.training.options import TrainOptions
from tunesearch.production.training.train import train as train_configuration
from tunesearch.segmentation.data.images import Pixels
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.own_code import find_own_code
from tunesearch.tracking.registry import check_model_name
from tunesearch.tracking.registry import register as register_bundle


def export(
    name: str,
    output: str | Path,
    *,
    trial: int | None = None,
    register: str | None = None,
    tracking: str | None = None,
    storage: str | Path | None = None,
    said: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write a trial as a model folder; only its configuration where ``output`` ends in .yaml or .yml.

    Args:
        trial: its number; None: the best one, and once that was confirmed the leader's repeat with the best value.
        register: name in MLflow's model registry, which the folder becomes the next version of; None: it does not.
        tracking: MLflow's tracking URI; None: ``$MLFLOW_TRACKING_URI``, else SQLite in the storage folder.
        said: told what is left out of the folder and why, and the version.

    Returns:
        What was written: bundle.json of the folder, or the configuration.

    Raises:
        InputError: no such search or trial, or none with a score; no weights kept; the folder exists.
    """
    folder, output = storage_folder(storage), Path(output)
    if register is not None:
        if is_configuration(output):
            raise InputError(Problem("--register", "needs a model folder, not a configuration", value=str(output)))
        check_model_name(register)
        uri = tracking_uri(folder, tracking)
        require_no_password(uri)
    ledger = Ledger.open(folder, name)
    try:
        find_own_code(str(ledger.attribute("settings", {}).get("code", ".")))
        content = write_export(ledger, output, trial=trial, on_message=said)
    finally:
        ledger.close()
    if register is not None:
        version = register_bundle(output, content, register, uri=uri, storage=folder)
        said(f"registered in MLflow: version {version} of {register}")
    return content


def train(
    source: str | Path,
    *,
    output: str | Path | None = None,
    data: str | Path | None = None,
    data_as_is: bool = False,
    encoder_weights: str | Path | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    seeds: Sequence[int] = (),
    repeats: int = 1,
    on: Literal["train", "train+val"] = "train",
    workers: int = 1,
    address: str | None = None,
    tracking: str | None = None,
    storage: str | Path | None = None,
    said: Callable[[str], None] = lambda text: None,
    epoch_done: Callable[[EpochMetrics], None] = lambda metrics: None,
) -> dict[str, Any]:
    """Train a model folder or an exported configuration to its end; see ``tunesearch.production.training.train``.

    Args:
        output: the model folder to be made; None: ``STORAGE/trained/NAME`` after the source.
        seed: short for one of ``seeds``.
        address: Ray cluster; None: with several workers that of ``$RAY_ADDRESS``, else this machine.

    Raises:
        InputError: the configuration, the data or the weights are not as they must be.
        DiskFull, Halted: its surroundings ended it; the same call goes on.
    """
    folder = storage_folder(storage)
    path = Path(source)
    if not path.exists() and (folder / path / "experiment.yaml").is_file():
        hint = f"tunesearch export {path} -o {path}-model makes a model folder of its best trial"
        raise InputError(Problem(str(source), "is a search, and neither a model folder nor a configuration", hint=hint))
    if address is not None:
        check_address(address, "--address")
    elif workers > 1 and (address := os.environ.get("RAY_ADDRESS") or None) is not None:
        check_address(address, "$RAY_ADDRESS")
    chosen = TrainOptions(
        output=Path(output) if output is not None else folder / "trained" / (path.name if path.is_dir() else path.stem),
        tracking_uri=tracking_uri(folder, tracking),
        storage=folder,
        data_root=Path(data) if data is not None else None,
        data_as_is=data_as_is,
        encoder_weights=Path(encoder_weights).expanduser() if encoder_weights is not None else None,
        epochs=epochs,
        seeds=[*([] if seed is None else [seed]), *seeds],
        repeats=repeats,
        on=on,
        workers=workers,
        address=address,
    )
    return train_configuration(path, chosen, on_message=said, on_epoch=epoch_done)


def predict(
    models: str | Path | Sequence[str | Path],
    images: str | Path,
    output: str | Path,
    *,
    trial: int | None = None,
    stack: str | Path | None = None,
    scale: float | None = None,
    flip: bool = False,
    overlays: bool = False,
    storage: str | Path | None = None,
    said: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write a mask for a picture, or for each in a folder and the folders in it.

    Args:
        models: a model folder or the name of a search; several predict together.
        trial: of the search; None: as of :func:`export`.
        stack: what :func:`ensemble` wrote for these models; None: the mean of their probabilities.
        scale: see pictures in windows of the trained size, resized by this factor before; None: as in validation.
        flip: average over each picture and its mirror image.
        overlays: also write each mask laid over its picture.
        said: told of every mask.
        progress: told how many of how many pictures are done.

    Returns:
        The masks' files: each as large as its picture, in the classes' colours or with their palette.

    Raises:
        InputError: no such model, no weights kept, no pictures; nothing is written then.
        PicturesSkipped: some pictures could not be read; the masks of the others are written.
    """
    opened = _models(models, trial, storage)
    predictor = Predictor(opened, stack=_stack(stack), scale=scale, flip=flip)
    done = 0

    def told(path: Path, mask: Pixels | None, total: int) -> None:
        nonlocal done
        done += 1
        if mask is not None:
            said(f"{path}: {mask.shape[1]}x{mask.shape[0]}")
        if progress is not None:
            progress(done, total)

    background = opened[0].data.background
    return write_masks(predictor, Path(images), Path(output), overlays=overlays, background=background, on_picture=told)


def evaluate(
    models: str | Path | Sequence[str | Path],
    *,
    part: str | None = None,
    data: str | Path | None = None,
    images: str | Path | None = None,
    masks: str | Path | None = None,
    mask_suffix: str | None = None,
    output: str | Path | None = None,
    trial: int | None = None,
    stack: str | Path | None = None,
    scale: float | None = None,
    flip: bool = False,
    storage: str | Path | None = None,
    said: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure a model, or several that predict together, on labelled pictures at the size of each.

    A look at the test part is recorded in the model folder or with the search; a second one is told.

    Args:
        models, trial, stack, scale, flip: as of :func:`predict`.
        part: of the first model's frozen split: train, val (where nothing else is given) or test.
        data: where the data set lies now; without ``part``: another one that lies as the model's own does.
        images, masks: folders of pictures and of masks with the same names, instead.
        mask_suffix: what the masks' names end in behind the image's, such as ``_mask``; None: as the model's own do.
        output: folder for tables and pictures; None: none.
        said: told what is worth knowing.
        progress: told how many of how many images are done.

    Raises:
        InputError: no such model, part or folder; files that changed, cannot be read or do not fit.
    """
    opened = _models(models, trial, storage)
    root = Path(data).expanduser().absolute() if data is not None else None
    if (images is None) != (masks is None):
        raise InputError(Problem("--images", "must be given together with --masks"))
    if mask_suffix is not None and images is None:
        raise InputError(Problem("--mask-suffix", "only has a meaning with --images", value=mask_suffix))
    if images is not None and (part is not None or data is not None):
        raise InputError(Problem("--images", "cannot be given together with --split or --data"))
    if images is not None and masks is not None:
        pairs, read_as = pairs_in(opened[0], Path(images).expanduser(), Path(masks).expanduser(), mask_suffix)
        what = str(images)
    elif root is not None and part is None:
        pairs, read_as = pairs_below(opened[0], root)
        what = str(data)
        if holds_own_images(opened[0], pairs):
            rule = "holds images of the model's own data set, of which a part must be named"
            raise InputError(Problem("--data", rule, value=what, hint="--split val, or --images and --masks"))
    else:
        what = part or "val"
        pairs, read_as = frozen_pairs(opened[0], what, root)
    how: dict[str, Any] = {"stack": _stack(stack), "scale": scale, "flip": flip}
    folder = Path(output) if output is not None else None
    if folder is not None and folder.exists() and not folder.is_dir():
        raise InputError(Problem("-o", "must be a folder", value=str(folder)))
    result = measure(opened, pairs, read_as, what=what, on_progress=progress or (lambda done, total: None), **how)
    for model in opened:
        if holds_test_images(model, pairs):
            measured = {"images": len(pairs), "resolution": "original", **asdict(result.scores)}
            earlier = looked_at_test(model, by="evaluate", result=measured)
            if earlier:
                said(f"warning: {model.name}: {warning(earlier)}")
    if result.seen and what != "train":
        said(f"note: {result.seen} of the {len(pairs)} images were trained on")
    if stack is not None and what == "val":
        said("note: the stack was fitted on the validation part, so these scores are optimistic")
    if folder is not None:
        write_evaluation(result, folder, models=opened, pairs=pairs, data=read_as, **how)
    return result


def ensemble(
    models: Sequence[str | Path],
    output: str | Path,
    *,
    data: str | Path | None = None,
    scale: float | None = None,
    flip: bool = False,
    storage: str | Path | None = None,
    said: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Fit how much each model counts, on the validation part of the first one's frozen split.

    Args:
        models: model folders or names of searches.
        output: folder that ``stack`` of :func:`predict` and :func:`evaluate` takes.
        data: where the data set lies now; None: where it lay then.
        scale, flip: as they will be used to predict.
        said, progress: told what is worth knowing, and how many of how many images are done.

    Returns:
        What was written to ``stack.json``.

    Raises:
        InputError: no such model, fewer than two, classes that differ; files that changed or cannot be read.
    """
    if len(models) < 2:
        raise InputError(Problem("ensemble", "needs at least two models", value=str(len(models))))
    opened = _models(models, None, storage)
    require_same_classes(opened)
    root = Path(data).expanduser().absolute() if data is not None else None
    pairs, read_as = frozen_pairs(opened[0], "val", root)
    stack = fit_stack(
        opened, pairs, read_as, flip=flip, scale=scale, on_progress=progress or (lambda done, total: None)
    )
    if seen := stack.content["images_trained_on"]:
        said(f"note: {seen} of the {len(pairs)} images were trained on, which flatters the models that did")
    stack.save(Path(output))
    return stack.content


def _models(sources: str | Path | Sequence[str | Path], trial: int | None, storage: str | Path | None) -> list[Model]:
    """Open one model or several; every problem at once.

    Raises:
        InputError: what cannot be opened; a trial of several models.
    """
    given = [sources] if isinstance(sources, str | Path) else list(sources)
    if trial is not None and len(given) > 1:
        raise InputError(Problem("--trial", "can only be given with one model", value=str(trial)))
    folder = storage_folder(storage)
    models: list[Model] = []
    problems: list[Problem] = []
    for source in given:
        try:
            models.append(open_model(source, storage=folder, trial=trial))
        except InputError as error:
            if len(given) == 1:
                raise
            problems += error.problems
    if problems:
        raise InputError(problems)
    return models


def _stack(folder: str | Path | None) -> Stack | None:
    return None if folder is None else Stack.load(Path(folder).expanduser())
