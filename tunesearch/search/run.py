"""From an experiment to a finished search: preflight, the ledger, Ray Tune, and how it ended."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from tunesearch.errors import InputError, Problem, TunesearchError
from tunesearch.experiment import Experiment
from tunesearch.search.asha import most_epochs
from tunesearch.search.ledger import Ledger, TrialRecord
from tunesearch.search.resources import Resources, plan_resources
from tunesearch.segmentation.config import ENCODER_ARCHITECTURES, IMPORT_PATH, Size, TrainConfig
from tunesearch.segmentation.data.checks import DataReport, check_data
from tunesearch.segmentation.data.layouts import resolve_classes
from tunesearch.segmentation.data.splits import POOL, Split, folds, freeze_split

ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON and TensorBoard files that nobody reads
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # snapshots that are never restored from
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours saves and says how to resume
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_WARN_THRESHOLD_S": "30",
    "TUNE_MAX_PENDING_TRIALS_PG": "auto",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a box whatever the verbosity
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "NO_ALBUMENTATIONS_UPDATE": "1",
}


_RAY_PREFIX = "tunesearch-ray-"


@dataclass(frozen=True)
class Settings:
    """How a search is run, as opposed to what it searches; kept in the ledger for ``resume``.

    Attributes:
        address: of a Ray cluster; ``local``: a private Ray on this machine; None: ``$RAY_ADDRESS``, else local.
        cpus_per_trial, gpus_per_trial, max_concurrent: None: planned from what there is.
        encoder_weights: file or folder of ImageNet weights; None: the library's loader.
        time_budget: seconds of searching, all sessions together; None: no end.
        tracking_uri: MLflow's; None: SQLite in the storage folder.
        system_metrics: log the machine's load to MLflow.
        code: folder put on the import path of every trial, for a user's own model, loss or data set.
    """

    address: str | None = None
    cpus_per_trial: int | None = None
    gpus_per_trial: float | None = None
    max_concurrent: int | None = None
    encoder_weights: str | None = None
    time_budget: float | None = None
    tracking_uri: str | None = None
    system_metrics: bool = False
    code: str = "."

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the ledger."""
        return asdict(self)


# ------------------------------------------------------------------------------------------------------------ preflight


def preflight(experiment: Experiment, settings: Settings) -> tuple[DataReport, Split, list[str]]:
    """Check everything that would fail later, before anything is created.

    Returns:
        The data report, the frozen split, and notes worth telling.

    Raises:
        InputError: with every problem of the data, the encoders and the user's own code.
    """
    problems: list[Problem] = []
    report: DataReport | None = None
    split: Split | None = None
    find_own_code(settings.code)
    try:
        split = freeze_split(experiment.data)
        folds(experiment.data, split)  # says if there are too few images for them
        report = check_data(experiment.data, split=split)
        report.raise_if_broken()
    except InputError as error:
        problems.extend(error.problems)
    problems += _surroundings(experiment, settings, problems)
    if problems:
        raise InputError(problems)
    assert report is not None
    assert split is not None
    return report, split, _notes(experiment)


def check_surroundings(experiment: Experiment, settings: Settings) -> None:
    """What a resumed search needs again: its cluster, the user's own code, the encoders' weights.

    Raises:
        InputError: every problem at once.
    """
    find_own_code(settings.code)
    problems = _surroundings(experiment, settings, [])
    if problems:
        raise InputError(problems)


def find_own_code(folder: str) -> None:
    """Let modules of the user's own be imported from a folder; what is installed goes first."""
    if folder not in sys.path:
        sys.path.append(folder)


def _surroundings(experiment: Experiment, settings: Settings, known: list[Problem]) -> list[Problem]:
    problems: list[Problem] = []
    for check in (_check_address, _check_own_code, _check_training, _check_encoders):
        if (known or problems) and check is _check_encoders and not settings.encoder_weights:
            break  # it may download; that can wait until the rest is mended
        try:
            check(experiment, settings)
        except InputError as error:
            problems.extend(error.problems)
    return problems


def possible(experiment: Experiment, name: str) -> list[Any]:
    """Every value that a field of choices can have in an experiment: searched, fixed, or its default."""
    if name in experiment.space:
        return list(experiment.space[name].domain.representatives())
    return [_fixed(experiment, name)]


def _address(settings: Settings) -> str:
    return settings.address or os.environ.get("RAY_ADDRESS") or "local"


def _check_address(experiment: Experiment, settings: Settings) -> None:
    """Ray itself would try for minutes to reach an address where nobody listens."""
    address = _address(settings)
    if address in ("local", "auto"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        where = "--address" if settings.address else "$RAY_ADDRESS"
        rule = "must be local, auto or the HOST:PORT of a Ray cluster that answers"
        raise InputError(Problem(where, rule, value=f"{address} ({error})")) from error


def _check_own_code(experiment: Experiment, settings: Settings) -> None:
    from tunesearch.segmentation.models import import_object

    for what in ("architecture", "loss"):
        for value in possible(experiment, what):
            if IMPORT_PATH.match(str(value)):
                import_object(value, what)


def _check_encoders(experiment: Experiment, settings: Settings) -> None:
    from tunesearch.segmentation.models.library import encoder_problem
    from tunesearch.segmentation.models.weights import check_weights

    encoders: dict[str, bool] = {}  # name -> whether ImageNet weights are asked for with it
    for point in experiment.space.skeletons(("architecture", "encoder", "encoder_weights")):
        fields = {name: point.get(name, _fixed(experiment, name)) for name in ("architecture", "encoder_weights")}
        encoder = point.get("encoder", _fixed(experiment, "encoder"))
        if fields["architecture"] in ENCODER_ARCHITECTURES and encoder is not None:
            encoders[str(encoder)] = encoders.get(str(encoder), False) or fields["encoder_weights"] == "imagenet"
    problems = [problem for encoder in encoders if (problem := encoder_problem(encoder, "parameters.encoder"))]
    if problems:
        raise InputError(problems)
    loaded = [encoder for encoder, wanted in encoders.items() if wanted]
    if loaded:
        check_weights(loaded, source=Path(settings.encoder_weights) if settings.encoder_weights else None)


def _check_training(experiment: Experiment, settings: Settings) -> None:
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
    for value in possible(experiment, "class_weights"):
        weights = TrainConfig.model_validate({"class_weights": value})
        checked_by(partial(check_class_weights, weights, classes), "class_weights")
    checked = set()
    names = ("size", "crop", "augmentation")
    for point in experiment.space.skeletons(names):
        config = TrainConfig.model_validate({name: point.get(name, _fixed(experiment, name)) for name in names})
        if (kind := (str(config.window or config.size), str(config.augmentation))) not in checked:
            checked.add(kind)
            checked_by(partial(check_augmentation, config), "augmentation")
    if problems:
        raise InputError(problems)


def _fixed(experiment: Experiment, name: str) -> Any:
    """The value of a field that a point leaves open."""
    return experiment.train.get(name, TrainConfig.model_fields[name].default)


def _notes(experiment: Experiment) -> list[str]:
    notes = [f"try_first {index + 1} is skipped: {reason}" for index, reason in experiment.skipped_points]
    notes += [f"train.{name} has no effect on anything that is searched here" for name in experiment.idle_fields()]
    if experiment.search.sampler == "grid" and experiment.try_first:
        notes.append("try_first is not used: a grid tries every point anyway")
    grace = getattr(experiment.scheduler, "grace_epochs", None)
    if grace is not None and most_epochs(experiment) <= grace:
        notes.append(
            f"nothing will be stopped early: {most_epochs(experiment)} epochs are within the grace period of {grace}"
        )
    return notes


# ----------------------------------------------------------------------------------------------------------- the search


def drive(
    ledger: Ledger,
    settings: Settings,
    *,
    changed: Callable[[int], None] = lambda number: None,
    started: Callable[[Resources], None] = lambda resources: None,
    trainable: type | None = None,
    decode: bool = True,
) -> str:
    """Run a search until it ends, from wherever the ledger stands.

    Args:
        changed: told the number of every trial that began, went on or ended, from Ray's loop: it must return at once.
        started: told once what a trial gets and how many run at once.
        trainable: Ray's class trainable; None: ``SegmentationTrial``. For benchmarks.
        decode: whether the data set is decoded before the first trial; not for trials that read none.

    Returns:
        ``completed``, ``exhausted`` (the space has no further configuration), ``time_budget`` or ``interrupted``.

    Raises:
        InputError: no trial fits on the cluster, or the cluster cannot be reached.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from ray import tune

    from tunesearch.search.searcher import Conductor, EndStopper, LedgerScheduler, LedgerSearcher
    from tunesearch.search.trial import SegmentationTrial

    spent = float(ledger.attribute("seconds", 0.0))
    begun = time.monotonic()
    deadline = None if settings.time_budget is None else begun + settings.time_budget - spent
    if decode:
        _warm_cache(ledger)
    _sweep(ledger)
    with _ray(settings, ledger) as nodes:
        resources = plan_resources(
            nodes,
            cpus=settings.cpus_per_trial,
            gpus=settings.gpus_per_trial,
            concurrent=settings.max_concurrent,
        )
        started(resources)

        def assign(record: TrialRecord) -> dict[str, Any]:
            return {
                "number": record.number,
                "config": record.config.model_dump(mode="json"),
                "search": str(ledger.folder.resolve()),
                "folder": str(ledger.trial_folder(record.number).resolve()),
                "cpus": resources.cpus,
                # One process of the trial's CPUs trains; on a GPU the others prepare its batches.
                "workers": resources.cpus - 1 if resources.gpus > 0 else 0,
                "encoder_weights": settings.encoder_weights,
                "code": settings.code,
            }

        noted = begun

        def heard(number: int) -> None:
            nonlocal noted
            if time.monotonic() - noted > 10:  # so that a killed session's time counts, too
                noted = time.monotonic()
                ledger.set_attribute("seconds", spent + noted - begun)
            changed(number)

        conductor = Conductor(ledger, assign=assign, changed=heard, deadline=deadline)
        scratch = _scratch(ledger)
        for name in ("ray", "ray.tune"):  # a trial's fault is told once, by us, under its name
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with _signals(conductor), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's and Tune's own, about themselves
            tuner = tune.Tuner(
                tune.with_resources(trainable or SegmentationTrial, {"CPU": resources.cpus, "GPU": resources.gpus}),
                tune_config=tune.TuneConfig(
                    search_alg=LedgerSearcher(conductor),
                    scheduler=LedgerScheduler(conductor),
                    num_samples=-1,
                    max_concurrent_trials=resources.concurrent,
                    reuse_actors=True,
                    trial_name_creator=_trial_name,
                    trial_dirname_creator=_trial_name,
                ),
                run_config=tune.RunConfig(
                    name=f"session-{time.time_ns()}",
                    storage_path=str(scratch.resolve()),
                    verbose=0,
                    stop=EndStopper(conductor),
                    failure_config=tune.FailureConfig(max_failures=0),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False, checkpoint_frequency=0),
                ),
            )
            try:
                tuner.fit()
            except TunesearchError:
                raise
            except Exception:
                if not conductor.interrupted:
                    raise
            finally:
                ledger.set_attribute("seconds", spent + time.monotonic() - begun)
                shutil.rmtree(scratch, ignore_errors=True)
    if not conductor.interrupted and conductor.out_of_time and unfinished(ledger):
        conductor.cancel_live("the time budget was spent")
        return "time_budget"
    if conductor.exhausted and not ledger.live():
        return "exhausted"
    return "interrupted" if unfinished(ledger) else "completed"


def unfinished(ledger: Ledger) -> bool:
    """Whether trials are live or still to be asked."""
    return bool(ledger.live()) or len(ledger.counted()) < ledger.experiment.search.trials


def _scratch(ledger: Ledger) -> Path:
    """Where Ray Tune keeps its own files, which are never read."""
    return ledger.folder / "ray"


def _sweep(ledger: Ledger) -> None:
    """Remove what a killed driver left: Ray Tune's files, and the folder of its private Ray, which died with it."""
    shutil.rmtree(_scratch(ledger), ignore_errors=True)
    left = ledger.attribute("ray_folder")
    if left and Path(left).name.startswith(_RAY_PREFIX):
        shutil.rmtree(left, ignore_errors=True)


def _trial_name(trial: Any) -> str:
    return f"trial-{trial.config.get('number', trial.trial_id)}-{trial.trial_id}"


def _warm_cache(ledger: Ledger) -> None:
    """Decode the data set on this machine before the first trial asks for it, where the size is known."""
    from tunesearch.segmentation.data.cache import decoded, original_masks

    experiment = ledger.experiment
    parts = ("train", "val") if experiment.data.folds is None else (POOL,)
    if "size" not in experiment.space:
        size = Size.model_validate(possible(experiment, "size")[0])
        for part in parts:
            decoded(experiment.data, ledger.split, part, size)
    if experiment.objective.resolution == "original":
        original_masks(experiment.data, ledger.split, parts[-1])


@contextlib.contextmanager
def _ray(settings: Settings, ledger: Ledger) -> Iterator[list[dict[str, float]]]:
    """Ray for the length of a search: the given cluster, or a private one. Gives each node's resources."""
    import ray

    if ray.is_initialized():  # the caller's own Ray: used, and left as it is
        yield _nodes(ray)
        return
    address = _address(settings)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    temporary: str | None = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if address == "local":
                # Short, because the path of a Unix socket below it may have 107 characters at most.
                temporary = tempfile.mkdtemp(prefix=_RAY_PREFIX, dir="/tmp" if os.name == "posix" else None)
                ledger.set_attribute("ray_folder", temporary)
                ray.init(address="local", _temp_dir=temporary, include_dashboard=False, **quiet)
            else:
                try:
                    ray.init(address=address, **quiet)
                except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
                    reason = " ".join(str(error).split())[:200]
                    raise InputError(
                        Problem("--address", f"must be a Ray cluster that answers: {reason}", value=address)
                    ) from error
        _keep_token_private()
        yield _nodes(ray)
    finally:
        ray.shutdown()
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _nodes(ray: Any) -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _keep_token_private() -> None:
    """Ray writes its authentication token readable for everyone on the machine."""
    token = Path("~/.ray/auth_token").expanduser()
    if token.is_file() and token.stat().st_mode & 0o077:
        with contextlib.suppress(OSError):
            token.chmod(0o600)


@contextlib.contextmanager
def _signals(conductor: Any) -> Iterator[None]:
    """SIGINT and SIGTERM end the search with its state saved; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if conductor.interrupted:
            os._exit(130)
        conductor.interrupted = True

    before = {name: signal.signal(name, stop) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
