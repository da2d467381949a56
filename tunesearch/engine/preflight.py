"""Before a search: everything that would fail later is checked while nothing has been created."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from tunesearch.engine.options import SearchOptions
from tunesearch.errors import InputError, Problem
from tunesearch.experiment import Experiment
from tunesearch.segmentation.config import ENCODER_ARCHITECTURES, IMPORT_PATH, TrainConfig
from tunesearch.segmentation.data.checks import DataReport, check_data
from tunesearch.segmentation.data.layouts import resolve_classes
from tunesearch.segmentation.data.splits import Split, folds, freeze_split
from tunesearch.segmentation.user_code import find_user_code
from tunesearch.strategy.early_stopping import most_epochs


def preflight(experiment: Experiment, options: SearchOptions) -> tuple[DataReport, Split, list[str]]:
    """Check everything that would fail later, before anything is created.

    Returns:
        The data report, the frozen split, and notes worth telling.

    Raises:
        InputError: with every problem of the data, the encoders and the user's own code.
    """
    problems: list[Problem] = []
    report: DataReport | None = None
    split: Split | None = None
    find_user_code(options.code)
    try:
        split = freeze_split(experiment.data)
        folds(experiment.data, split)  # says if there are too few images for them
        report = check_data(experiment.data, split=split)
        report.raise_if_broken()
    except InputError as error:
        problems.extend(error.problems)
    problems += _surroundings(experiment, options, problems)
    if problems:
        raise InputError(problems)
    assert report is not None
    assert split is not None
    return report, split, _notes(experiment)


def check_surroundings(experiment: Experiment, options: SearchOptions) -> None:
    """What a resumed search needs again: its cluster, the user's own code, the encoders' weights.

    Raises:
        InputError: every problem at once.
    """
    find_user_code(options.code)
    problems = _surroundings(experiment, options, [])
    if problems:
        raise InputError(problems)


def _surroundings(experiment: Experiment, options: SearchOptions, known: list[Problem]) -> list[Problem]:
    problems: list[Problem] = []
    for check in (_check_address, _check_own_code, _check_training, _check_encoders):
        if (known or problems) and check is _check_encoders and not options.encoder_weights:
            break  # it may download; that can wait until the rest is mended
        try:
            check(experiment, options)
        except InputError as error:
            problems.extend(error.problems)
    return problems


def _check_address(experiment: Experiment, options: SearchOptions) -> None:
    check_address(options.cluster(), "--address" if options.address else "$RAY_ADDRESS")


def check_address(address: str, where: str) -> None:
    """That somebody listens at a cluster's address: Ray itself would try for minutes.

    Raises:
        InputError: nobody does.
    """
    if address in ("local", "auto"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        rule = "must be local, auto or the HOST:PORT of a Ray cluster that answers"
        raise InputError(Problem(where, rule, value=f"{re.sub('//[^/]*@', '//', address)} ({error})")) from error


def _check_own_code(experiment: Experiment, options: SearchOptions) -> None:
    check_own_code(experiment)


def check_own_code(experiment: Experiment) -> None:
    """That the networks and losses of the user's own can be imported here.

    Raises:
        InputError: one cannot.
    """
    from tunesearch.segmentation.user_code import import_object

    for what in ("architecture", "loss"):
        for value in experiment.possible(what):
            if IMPORT_PATH.match(str(value)):
                import_object(value, what)


def _check_encoders(experiment: Experiment, options: SearchOptions) -> None:
    from tunesearch.segmentation.models.library import encoder_problem
    from tunesearch.segmentation.models.weights import check_weights

    encoders: dict[str, bool] = {}  # name -> whether ImageNet weights are asked for with it
    for point in experiment.space.skeletons(("architecture", "encoder", "encoder_weights")):
        fields = {name: point.get(name, experiment.fixed(name)) for name in ("architecture", "encoder_weights")}
        encoder = point.get("encoder", experiment.fixed("encoder"))
        if fields["architecture"] in ENCODER_ARCHITECTURES and encoder is not None:
            encoders[str(encoder)] = encoders.get(str(encoder), False) or fields["encoder_weights"] == "imagenet"
    problems = [problem for encoder in encoders if (problem := encoder_problem(encoder, "parameters.encoder"))]
    if problems:
        raise InputError(problems)
    loaded = [encoder for encoder, wanted in encoders.items() if wanted]
    if loaded:
        check_weights(loaded, source=Path(options.encoder_weights) if options.encoder_weights else None)


def _check_training(experiment: Experiment, options: SearchOptions) -> None:
    check_training(experiment)


def check_training(experiment: Experiment) -> None:
    """What only the libraries and the number of classes can tell: the augmentation's transforms, the class weights.

    Raises:
        InputError: every problem at once.
    """
    from tunesearch.segmentation.data.augmentation import check_augmentation
    from tunesearch.segmentation.data.class_weights import check_class_weights

    problems: list[Problem] = []

    def checked_by(check: Callable[[], None], field: str) -> None:
        section = "parameters" if field in experiment.space else "train"
        try:
            check()
        except InputError as error:
            for problem in error.problems:
                inner = ".".join(part for part in (problem.where, problem.path) if part and part != field)
                problems.append(replace(problem, where="", path=".".join(filter(None, (section, field, inner)))))

    classes = len(resolve_classes(experiment.data))
    for value in experiment.possible("class_weights"):
        weights = TrainConfig.model_validate({"class_weights": value})
        checked_by(partial(check_class_weights, weights, classes), "class_weights")
    checked = set()
    names = ("size", "crop", "augmentation")
    for point in experiment.space.skeletons(names):
        config = TrainConfig.model_validate({name: point.get(name, experiment.fixed(name)) for name in names})
        if (kind := (str(config.window or config.size), str(config.augmentation))) not in checked:
            checked.add(kind)
            checked_by(partial(check_augmentation, config), "augmentation")
    if problems:
        raise InputError(problems)


def _notes(experiment: Experiment) -> list[str]:
    notes = [
        f"try_first {i + 1} does not fit this space and is skipped: {reason}" for i, reason in experiment.skipped_points
    ]
    notes += [f"train.{name} has no effect on anything that is searched here" for name in experiment.idle_fields()]
    if experiment.search.sampler == "grid" and experiment.try_first:
        notes.append("try_first is not used: a grid tries every point anyway")
    grace = getattr(experiment.scheduler, "grace_epochs", None)
    if grace is not None and most_epochs(experiment) <= grace:
        notes.append(
            f"nothing will be stopped early: {most_epochs(experiment)} epochs are within the grace period of {grace}"
        )
    return notes
