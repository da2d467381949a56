"""From what is given to the job: which files are trained on, and what changes where nothing is validated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesearch.errors import DataError, InputError, Problem
from tunesearch.production.training.job import Job
from tunesearch.production.training.setup import TrainingSetup
from tunesearch.production.training.source import Source
from tunesearch.segmentation.data.augmentation import check_augmentation
from tunesearch.segmentation.data.checks import check_data
from tunesearch.segmentation.data.splits import POOL, Split, freeze_split
from tunesearch.segmentation.device import pick_device
from tunesearch.segmentation.files import data_root


def plan_job(source: Source, setup: TrainingSetup, on_message: Callable[[str], None]) -> Job:
    """The job of a training, with everything but its files: see :func:`with_files`.

    Raises:
        InputError: the schedule looks at the validation, where there is none.
    """
    changes: dict[str, Any] = {} if setup.epochs is None else {"epochs": setup.epochs}
    if setup.on == POOL:
        changes |= _without_validation(source, on_message)
    data, weights = source.data, setup.encoder_weights
    if setup.data_root is not None:
        data = data.model_copy(update={"root": setup.data_root.expanduser().absolute()})
    code = None if source.bundle is None else source.bundle.code
    return Job(
        config=source.config.model_copy(update=changes),
        data=data,
        split=Split(root=Path(), train=(), val=()),
        on=setup.on,
        objective=source.objective,
        folder=setup.output,
        encoder_weights=None if weights is None else weights.absolute(),
        code=None if code is None else code.resolve(),
        beside=None if source.bundle is not None else source.path.parent.resolve(),
        threads=_recorded_threads(source),
    )


def with_files(job: Job, source: Source, *, data_as_is: bool, on_message: Callable[[str], None]) -> Job:
    """The job with the files that it is trained on, checked as everything is that fails before the first epoch.

    Raises:
        InputError: the data set or the augmentation is not as it must be.
    """
    with job.user_code():
        split = _split(source, job, data_as_is=data_as_is, on_message=on_message)
        check_data(job.data, split=split).raise_if_broken()
        check_augmentation(job.config)
    return replace(job, split=split)


def _without_validation(source: Source, on_message: Callable[[str], None]) -> dict[str, Any]:
    """The fields to change where nothing is validated; the schedule stays whole.

    Raises:
        InputError: the schedule looks at the validation.
    """
    if source.config.schedule == "plateau":
        rule = "the schedule plateau looks at the validation, and with train+val there is none"
        raise InputError(Problem("--on", rule, hint="--on train, or another schedule"))
    score = source.document.get("score") or {}
    if score.get("epoch") and score["epoch"] < source.config.epochs:
        best = f" (the best epoch of the search was {score['epoch']} of {source.config.epochs})"
    else:
        best = ""
    on_message(
        f"note: on train+val there is no validation: all epochs are trained, and the last one's weights kept{best}"
    )
    if source.config.early_stop_patience is None:
        return {}
    on_message("note: without a validation no early stopping")
    return {"early_stop_patience": None}


def _split(source: Source, job: Job, *, data_as_is: bool, on_message: Callable[[str], None]) -> Split:
    """The files to train on: a model folder's frozen ones in the data set's folder, or those that are found there.

    Raises:
        DataError: a frozen file is missing or has changed; the data set cannot be read.
    """
    data = job.data
    if source.bundle is None or data_as_is:
        split = freeze_split(data)
        if split.digest != source.document["data"].get("digest"):
            on_message("note: the data set is not the one that the search used (its digest differs)")
        return split
    if data.layout in ("voc", "folders") and data_root(data) is None:
        rule = "must be given: a model folder does not know where the data set lies"
        raise InputError(Problem("--data", rule, hint="tunesearch train MODEL --data ROOT"))
    root = freeze_split(data).root if data.layout == "sample" else data_root(data) or freeze_split(data).root
    split = source.bundle.split.moved_to(root)
    try:
        split.verify()
    except DataError as error:
        hint = "--data-as-is trains on the data set as it is now"
        first = error.problems[0]
        raise DataError([replace(first, hint=hint), *error.problems[1:]]) from error
    return split


def _recorded_threads(source: Source) -> int | None:
    """The number of threads of what was trained on a CPU, where this will be, too."""
    recorded = source.effective
    if pick_device().type != "cpu" or recorded.get("device") != "cpu":
        return None
    threads = recorded.get("threads")
    return threads if isinstance(threads, int) and threads > 0 else None
