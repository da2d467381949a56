"""``export``, ``train``, ``predict``, ``evaluate`` and ``ensemble``: what a search hands over, in use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunesearch.api.options import EnsembleOptions, EvaluateOptions, ExportOptions, PredictOptions, TrainOptions
from tunesearch.api.places import require_no_password, storage_folder, tracking_uri
from tunesearch.engine.preflight import check_address
from tunesearch.errors import InputError, Problem
from tunesearch.ledger.store import Ledger
from tunesearch.options import takes
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
from tunesearch.production.training.setup import TrainingSetup
from tunesearch.production.training.train import train as train_configuration
from tunesearch.segmentation.config import DataConfig
from tunesearch.segmentation.data.images import Pixels
from tunesearch.segmentation.data.layouts import Pair
from tunesearch.segmentation.user_code import find_user_code
from tunesearch.tracking.registry import check_model_name
from tunesearch.tracking.registry import register as register_bundle


@takes(ExportOptions)
def export(name: str, output: str | Path, options: ExportOptions) -> dict[str, Any]:
    """Write a trial as a model folder; only its configuration where ``output`` ends in .yaml or .yml.

    Args:
        name: of the search.
        output: the folder, or a .yaml or .yml file.
        options: the flags of ``tunesearch export``.

    Returns:
        What was written: bundle.json of the folder, or the configuration.

    Raises:
        InputError: no such search or trial, or none with a score; no weights kept; the folder exists.
    """
    folder, output = storage_folder(options.storage), Path(output)
    if options.register is not None:
        if is_configuration(output):
            raise InputError(Problem("--register", "needs a model folder, not a configuration", value=str(output)))
        check_model_name(options.register)
        uri = tracking_uri(folder, options.tracking_uri)
        require_no_password(uri)
    ledger = Ledger.open(folder, name)
    try:
        find_user_code(str(ledger.attribute("settings", {}).get("code", ".")))
        content = write_export(ledger, output, trial=options.trial, on_message=options.on_message)
    finally:
        ledger.close()
    if options.register is not None:
        version = register_bundle(output, content, options.register, uri=uri, storage=folder)
        options.on_message(f"registered in MLflow: version {version} of {options.register}")
    return content


@takes(TrainOptions)
def train(source: str | Path, options: TrainOptions) -> dict[str, Any]:
    """Train a model folder or an exported configuration to its end; see ``tunesearch.production.training.train``.

    Args:
        source: the model folder or configuration.
        options: the flags of ``tunesearch train``.

    Raises:
        InputError: the configuration, the data or the weights are not as they must be.
        DiskFull, Halted: its surroundings ended it; the same call goes on.
    """
    folder, path, address = storage_folder(options.storage), Path(source), options.address
    if not path.exists() and (folder / path / "experiment.yaml").is_file():
        hint = f"tunesearch export {path} -o {path}-model makes a model folder of its best trial"
        raise InputError(Problem(str(source), "is a search, and neither a model folder nor a configuration", hint=hint))
    if address is not None:
        check_address(address, "--address")
    elif options.workers > 1 and (address := os.environ.get("RAY_ADDRESS") or None) is not None:
        check_address(address, "$RAY_ADDRESS")
    name = path.name if path.is_dir() else path.stem
    weights = options.encoder_weights
    setup = TrainingSetup(
        output=Path(options.output) if options.output is not None else folder / "trained" / name,
        tracking_uri=tracking_uri(folder, options.tracking_uri),
        storage=folder,
        data_root=Path(options.data) if options.data is not None else None,
        data_as_is=options.data_as_is,
        encoder_weights=Path(weights).expanduser() if weights is not None else None,
        epochs=options.epochs,
        seeds=[options.seed] if isinstance(options.seed, int) else list(options.seed),
        repeats=options.seeds,
        on=options.on,
        workers=options.workers,
        address=address,
    )
    return train_configuration(path, setup, on_message=options.on_message, on_epoch=options.on_epoch)


@takes(PredictOptions)
def predict(
    models: str | Path | Sequence[str | Path], images: str | Path, output: str | Path, options: PredictOptions
) -> list[Path]:
    """Write a mask for a picture, or for each in a folder and the folders in it.

    Args:
        models: a model folder or the name of a search; several predict together.
        images: the picture or folder.
        output: folder of the masks.
        options: the flags of ``tunesearch predict``.

    Returns:
        The masks' files: each as large as its picture, in the classes' colours or with their palette.

    Raises:
        InputError: no such model, no weights kept, no pictures; nothing is written then.
        PicturesSkipped: some pictures could not be read; the masks of the others are written.
    """
    opened = _models(models, options.trial, options.storage)
    predictor = Predictor(opened, stack=_stack(options.stack), scale=options.scale, flip=options.flip)
    done = 0

    def on_mask(path: Path, mask: Pixels | None, total: int) -> None:
        nonlocal done
        done += 1
        if mask is not None:
            options.on_message(f"{path}: {mask.shape[1]}x{mask.shape[0]}")
        if options.on_progress is not None:
            options.on_progress(done, total)

    return write_masks(
        predictor,
        Path(images),
        Path(output),
        overlays=options.overlays,
        background=opened[0].data.background,
        on_picture=on_mask,
    )


@takes(EvaluateOptions)
def evaluate(models: str | Path | Sequence[str | Path], options: EvaluateOptions) -> Evaluation:
    """Measure a model, or several that predict together, on labelled pictures at the size of each.

    A look at the test part is recorded in the model folder or with the search; a second one is told.

    Args:
        models: a model folder or the name of a search; several predict together.
        options: the flags of ``tunesearch evaluate``.

    Raises:
        InputError: no such model, part or folder; files that changed, cannot be read or do not fit.
    """
    opened = _models(models, options.trial, options.storage)
    pairs, read_as, what = _measured(opened[0], options)
    how: dict[str, Any] = {"stack": _stack(options.stack), "scale": options.scale, "flip": options.flip}
    folder = Path(options.output) if options.output is not None else None
    if folder is not None and folder.exists() and not folder.is_dir():
        raise InputError(Problem("-o", "must be a folder", value=str(folder)))
    result = measure(opened, pairs, read_as, what=what, on_progress=options.on_progress or _unseen, **how)
    for model in opened:
        if holds_test_images(model, pairs):
            measured = {"images": len(pairs), "resolution": "original", **asdict(result.scores)}
            earlier = looked_at_test(model, by="evaluate", result=measured)
            if earlier:
                options.on_message(f"warning: {model.name}: {warning(earlier)}")
    if result.seen and what != "train":
        options.on_message(f"note: {result.seen} of the {len(pairs)} images were trained on")
    if options.stack is not None and what == "val":
        options.on_message("note: the stack was fitted on the validation part, so these scores are optimistic")
    if folder is not None:
        write_evaluation(result, folder, models=opened, pairs=pairs, data=read_as, **how)
    return result


def _measured(model: Model, options: EvaluateOptions) -> tuple[list[Pair], DataConfig, str]:
    """What is evaluated: images with their masks, how they are read, and what they are called.

    Raises:
        InputError: flags that exclude each other, no such part or folder; files that changed.
    """
    if (options.images is None) != (options.masks is None):
        raise InputError(Problem("--images", "must be given together with --masks"))
    if options.mask_suffix is not None and options.images is None:
        raise InputError(Problem("--mask-suffix", "only has a meaning with --images", value=options.mask_suffix))
    if options.images is not None and (options.part is not None or options.data is not None):
        raise InputError(Problem("--images", "cannot be given together with --split or --data"))
    if options.images is not None and options.masks is not None:
        folders = Path(options.images).expanduser(), Path(options.masks).expanduser()
        return *pairs_in(model, *folders, options.mask_suffix), str(options.images)
    root = Path(options.data).expanduser().absolute() if options.data is not None else None
    if root is not None and options.part is None:
        pairs, read_as = pairs_below(model, root)
        if holds_own_images(model, pairs):
            rule = "holds images of the model's own data set, of which a part must be named"
            hint = "--split val, or --images and --masks"
            raise InputError(Problem("--data", rule, value=str(options.data), hint=hint))
        return pairs, read_as, str(options.data)
    what = options.part or "val"
    return *frozen_pairs(model, what, root), what


@takes(EnsembleOptions)
def ensemble(models: Sequence[str | Path], output: str | Path, options: EnsembleOptions) -> dict[str, Any]:
    """Fit how much each model counts, on the validation part of the first one's frozen split.

    Args:
        models: model folders or names of searches.
        output: folder that ``stack`` of :func:`predict` and :func:`evaluate` takes.
        options: the flags of ``tunesearch ensemble``.

    Returns:
        What was written to ``stack.json``.

    Raises:
        InputError: no such model, fewer than two, classes that differ; files that changed or cannot be read.
    """
    if len(models) < 2:
        raise InputError(Problem("ensemble", "needs at least two models", value=str(len(models))))
    opened = _models(models, None, options.storage)
    require_same_classes(opened)
    root = Path(options.data).expanduser().absolute() if options.data is not None else None
    pairs, read_as = frozen_pairs(opened[0], "val", root)
    flip, scale = options.flip, options.scale
    stack = fit_stack(opened, pairs, read_as, flip=flip, scale=scale, on_progress=options.on_progress or _unseen)
    if seen := stack.content["images_trained_on"]:
        told = f"note: {seen} of the {len(pairs)} images were trained on, which flatters the models that did"
        options.on_message(told)
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


def _unseen(done: int, total: int) -> None:
    """Nobody looks at the progress."""
