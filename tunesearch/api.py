"""The verbs of the command line, in Python: ``tunesearch.run``, ``resume``, ``load``, ``export``, ``train`` ..."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from tunesearch.comparison import Comparison
from tunesearch.comparison import compare as compare_trials
from tunesearch.errors import DiskFull, Halted, InputError, NoUsableTrial, Problem
from tunesearch.experiment import load_flagged
from tunesearch.experiment.document import read_overrides
from tunesearch.production.export import chosen, is_configuration
from tunesearch.production.export import export as write_export
from tunesearch.production.predict import predict as write_masks
from tunesearch.production.train import train as train_configuration
from tunesearch.registry import check_model_name
from tunesearch.registry import register as register_bundle
from tunesearch.search import requests
from tunesearch.search.database import check_url
from tunesearch.search.interruption import Interruption
from tunesearch.search.ledger import Ledger, TrialRecord, require_free_name, searches
from tunesearch.search.preflight import check_surroundings, find_own_code, preflight
from tunesearch.search.resources import Resources
from tunesearch.search.run import drive, unfinished
from tunesearch.search.settings import Settings
from tunesearch.segmentation.data.checks import DataReport
from tunesearch.segmentation.data.layouts import find_pairs, resolve_classes
from tunesearch.segmentation.trainer import EpochMetrics
from tunesearch.tracking import Tracker, default_uri, without_password
from tunesearch.tracking import sync as sync_view

__all__ = [
    "Progress",
    "SearchResult",
    "compare",
    "enqueue",
    "export",
    "extend",
    "list_searches",
    "load",
    "predict",
    "resume",
    "retry",
    "run",
    "stop",
    "storage_folder",
    "sync",
    "tracking_uri",
    "train",
]


class Progress(Protocol):
    """What is told while a search goes on. Every method returns at once."""

    def note(self, text: str) -> None:
        """One line about what is happening or worth knowing."""

    def checked(self, report: DataReport) -> None:
        """The data set has passed its checks."""

    def started(self, ledger: Ledger, resources: Resources) -> None:
        """The first trial is about to begin."""

    def changed(self, number: int) -> None:
        """A trial began, went on or ended."""

    def ended(self) -> None:
        """No more trials come."""


class Silence:
    """Progress that nobody looks at."""

    def note(self, text: str) -> None:
        pass

    def checked(self, report: DataReport) -> None:
        pass

    def started(self, ledger: Ledger, resources: Resources) -> None:
        pass

    def changed(self, number: int) -> None:
        pass

    def ended(self) -> None:
        pass


@dataclass(frozen=True)
class SearchResult:
    """A search as its ledger tells it.

    Attributes:
        name: of the search.
        status: running, completed, exhausted (no further configuration), time_budget, interrupted, failed (an
            unexpected fault of the driver, or its first trials all failed alike) or damaged (its files cannot be read).
        objective: the metric that was searched for.
        trials: those that count, by number.
        best: the best completed trial (of the unfinished ones where none was completed); None: no trial has a score.
        classes: their names, in the order of their indices.
        sample: whether the data were the built-in sample.
        duplicates: suggestions that equalled an earlier trial and were not trained.
        seconds: of searching, all sessions together.
    """

    name: str
    status: str
    objective: str
    trials: tuple[TrialRecord, ...]
    best: TrialRecord | None
    classes: tuple[str, ...]
    sample: bool
    duplicates: int
    seconds: float

    def class_iou(self) -> dict[str, float | None]:
        """IoU per class at the best trial's best epoch; None for a class absent from truth and prediction."""
        if self.best is None or not self.best.epochs:
            return {}
        return dict(zip(self.classes, self.best.best_epoch(self.objective).metrics.val_iou, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """The JSON of ``run`` and ``show``."""
        best = None
        if self.best is not None:
            best = {
                **self.best.as_dict(),
                "iou": self.class_iou(),
                "config": self.best.config.model_dump(mode="json"),
            }
        return {
            "name": self.name,
            "status": self.status,
            "objective": self.objective,
            "data": "built-in sample" if self.sample else "user",
            "seconds": round(self.seconds, 3),
            "duplicates": self.duplicates,
            "best": best,
            "trials": [record.as_dict() for record in self.trials],
        }


def storage_folder(storage: str | Path | None) -> Path:
    """Where searches are kept: the argument, ``$TUNESEARCH_STORAGE``, or ``./runs``. It need not exist.

    Raises:
        InputError: it is no folder, or its path cannot stand in a database's address.
    """
    given = Path(storage or os.environ.get("TUNESEARCH_STORAGE") or "runs")
    try:
        folder = given.expanduser()
        folder.resolve()
    except RuntimeError as error:  # ~nobody-of-that-name, a loop of links
        raise InputError(Problem("--storage", f"must be a folder: {error}", value=str(given))) from error
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not there.is_dir():
        raise InputError(Problem("--storage", "must be a folder", value=str(there)))
    if any(character in str(folder.resolve()) for character in "{}?#%"):
        raise InputError(Problem("--storage", "its path cannot have { } ? # or % in it", value=str(folder.resolve())))
    return folder


def _require_writable(folder: Path) -> None:
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(Problem("--storage", "must be a folder that can be written", value=str(folder)))


def tracking_uri(storage: Path, uri: str | None = None) -> str:
    """MLflow's: the argument, ``$MLFLOW_TRACKING_URI``, or SQLite in the storage folder."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(storage)


def code_folder(space: str | Path) -> Path:
    """Where a user's own modules are looked for: beside the search-space file, or here for a shipped space."""
    return (Path(space).parent if Path(space).suffix in (".yaml", ".yml") else Path.cwd()).resolve()


def run(
    space: str | Path,
    *,
    data: str | Path | None = None,
    trials: int | None = None,
    epochs: int | None = None,
    size: str | None = None,
    time_budget: float | None = None,
    name: str | None = None,
    tracking: str | None = None,
    address: str | None = None,
    gpus_per_trial: float | None = None,
    cpus_per_trial: int | None = None,
    max_concurrent: int | None = None,
    sampler: str | None = None,
    encoder_weights: str | Path | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    local: bool = False,
    smoke: bool = False,
    system_metrics: bool = False,
    storage: str | Path | None = None,
    ledger_url: str | None = None,
    keep_checkpoints: int | None = None,
    stall_timeout: float | None = None,
    progress: Progress | None = None,
) -> SearchResult:
    """Search a space for the best configuration.

    Args:
        space: name of a shipped search space, or path of a file.
        data: root of the data set, instead of the file's.
        trials, epochs, size, sampler, seed: instead of the file's ``search.trials``, ``train.epochs`` and so on.
        time_budget: seconds after which the search ends.
        name: of the search; None: the space's name and the time.
        tracking: MLflow's tracking URI; None: ``$MLFLOW_TRACKING_URI``, else SQLite in the storage folder.
        address: of a Ray cluster; None: ``$RAY_ADDRESS``, else a private Ray on this machine.
        gpus_per_trial, cpus_per_trial, max_concurrent: None: planned from what there is.
        encoder_weights: file or folder that ImageNet weights are read from.
        overrides: ``PATH=YAML``, as given to ``--set``.
        local: always a private Ray on this machine.
        smoke: small, short, on the built-in sample data.
        system_metrics: log the machine's load to MLflow.
        storage: folder of all searches; None: ``$TUNESEARCH_STORAGE``, else ``./runs``.
        ledger_url: PostgreSQL database that the ledger is kept in; None: ``$TUNESEARCH_LEDGER``, else SQLite.
        keep_checkpoints: how many completed trials keep their weights, the best ones; None: all.
        stall_timeout: seconds without a sign of life after which a trial is started again; None: half an hour.
        progress: told what happens.

    Raises:
        InputError: every problem of the space, the data, the weights and the flags, before anything is created.
        NoUsableTrial: the search ended and no trial has a score, or its first trials all failed alike.
        Halted: a full disk or a ledger that cannot be written made it stop; ``resume`` goes on.
    """
    progress = progress or Silence()
    experiment = load_flagged(
        space,
        trials=trials,
        epochs=epochs,
        size=size,
        sampler=sampler,
        seed=seed,
        overrides=overrides,
        smoke=smoke,
        data=data,
    )
    folder = storage_folder(storage)
    name = name or f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    require_free_name(folder, name)
    _require_writable(folder)
    if encoder_weights is not None and not Path(encoder_weights).expanduser().exists():
        raise InputError(Problem("--encoder-weights", "must be an existing file or folder", value=str(encoder_weights)))
    if local and address not in (None, "local"):
        raise InputError(
            Problem("--address", "cannot be given with --local, which always uses this machine", value=address)
        )
    _require_patience(stall_timeout)
    if gpus_per_trial is not None and not math.isfinite(gpus_per_trial):
        raise InputError(Problem("--gpus-per-trial", "must be a number", value=str(gpus_per_trial)))
    _require_no_password(tracking or os.environ.get("MLFLOW_TRACKING_URI") or "")
    ledger_url = ledger_url or os.environ.get("TUNESEARCH_LEDGER") or None
    if ledger_url is not None:
        ledger_url = check_url(ledger_url)
    settings = Settings(
        address="local" if local or (smoke and address is None) else address,
        cpus_per_trial=cpus_per_trial,
        gpus_per_trial=gpus_per_trial,
        max_concurrent=max_concurrent,
        encoder_weights=str(Path(encoder_weights).expanduser().resolve()) if encoder_weights else None,
        time_budget=time_budget,
        tracking_uri=tracking or os.environ.get("MLFLOW_TRACKING_URI"),
        system_metrics=system_metrics,
        code=str(code_folder(space)),
        keep_checkpoints=keep_checkpoints,
        **({} if stall_timeout is None else {"stall_timeout": stall_timeout}),
    )
    progress.note(
        "data: the built-in SAMPLE of generated scenes"
        if experiment.data.layout == "sample"
        else f"data: {experiment.data.root}"
    )
    report, split, notes = preflight(experiment, settings)
    progress.checked(report)
    for text in notes:
        progress.note(text)
    ledger = Ledger.create(folder, name, experiment, split, settings.as_dict(), url=ledger_url)
    try:
        return _search(ledger, settings, progress)
    except InputError:
        if not ledger.trials:  # nothing began: the name stays free
            Ledger.discard(ledger.folder)
        raise


def resume(
    name: str,
    *,
    storage: str | Path | None = None,
    time_budget: float | None = None,
    address: str | None = None,
    max_concurrent: int | None = None,
    keep_checkpoints: int | None = None,
    stall_timeout: float | None = None,
    progress: Progress | None = None,
) -> SearchResult:
    """Go on with a search, whatever ended it; with nothing left to do it only reports.

    Args:
        time_budget: further seconds, instead of what is left of the first budget.
        address, max_concurrent, keep_checkpoints, stall_timeout: instead of what the search was started with.

    Raises:
        SearchNameError: there is no such search.
        LedgerBusy: another process drives it.
        DataError: the data set is no longer what it was.
    """
    progress = progress or Silence()
    _require_patience(stall_timeout)
    ledger = Ledger.open(storage_folder(storage), name, drive=True)
    changes: dict[str, Any] = {
        "address": address,
        "max_concurrent": max_concurrent,
        "keep_checkpoints": keep_checkpoints,
        "stall_timeout": stall_timeout,
    }
    if time_budget is not None:
        changes["time_budget"] = time_budget + ledger.seconds()
    kept = {**ledger.attribute("settings", {}), **{key: value for key, value in changes.items() if value is not None}}
    settings = Settings(**kept)
    status = str(ledger.attribute("status", "interrupted"))
    try:
        nothing_new = status == "exhausted" and not ledger.live() and not ledger.wishes()
        if nothing_new or not unfinished(ledger):
            progress.note(f"{name} has nothing left to do")
            if status in ("running", "interrupted"):  # its driver died at the very end
                status = "completed"
                _close(ledger, settings, status)
            return _result(ledger, status)
        if settings.time_budget is not None and ledger.seconds() >= settings.time_budget:
            progress.note(f"the time budget of {name} is spent; --time-budget gives it more")
            _close(ledger, settings, "time_budget")
            return _result(ledger, "time_budget")
        check_surroundings(ledger.experiment, settings)
        if ledger.experiment.data.layout == "sample":
            find_pairs(ledger.experiment.data)  # makes it again where the cache was emptied
        ledger.split.verify()
        ledger.set_attribute("settings", settings.as_dict())
        count, live = len(ledger.counted()), len(ledger.live())
        progress.note(f"resuming {name}: {count} trials known, {live} of them unfinished")
        return _search(ledger, settings, progress)
    finally:
        ledger.close()


def _require_no_password(uri: str) -> None:
    try:
        held = urlsplit(uri).password is not None
    except ValueError:  # no URL at all; MLflow says what it thinks of it
        held = False
    if held:
        hint = "give it in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or for PostgreSQL in PGPASSWORD"
        rule = "must not hold a password, which would be kept with the search"
        raise InputError(Problem("--tracking-uri", rule, value=without_password(uri), hint=hint))


def _require_patience(stall_timeout: float | None) -> None:
    if stall_timeout is not None and stall_timeout < 15:
        rule = "must be at least 15s: a trial gives a sign of life every five seconds at most"
        raise InputError(Problem("--stall-timeout", rule, value=f"{stall_timeout:g}s"))


def _close(ledger: Ledger, settings: Settings, status: str) -> None:
    """Finish what a driver left half written behind the last trial's end, in the ledger and in MLflow."""
    ledger.recover()
    ledger.set_attribute("status", status)
    tracker = Tracker(ledger, settings.tracking_uri or default_uri(ledger.folder.parent))
    tracker.start()
    tracker.finish(status)


def _search(ledger: Ledger, settings: Settings, progress: Progress) -> SearchResult:
    uri = settings.tracking_uri or default_uri(ledger.folder.parent)
    tracker = Tracker(ledger, uri, system_metrics=settings.system_metrics, said=progress.note)

    def started(resources: Resources) -> None:
        ledger.set_attribute("status", "running")
        tracker.start()
        progress.started(ledger, resources)

    def changed(number: int) -> None:
        tracker.changed(number)
        with contextlib.suppress(Exception):  # what only looks on must not end a search
            progress.changed(number)

    def abandon(reason: str) -> None:
        ledger.note("status", "interrupted")
        if tracker.started:
            tracker.finish("interrupted", patience=5.0)
        progress.ended()
        resume = f"tunesearch resume {ledger.name} --storage {ledger.folder.parent}"
        progress.note(f"error: {reason}; everything is saved: {resume}")

    ledger.listen(progress.note)
    status, before = "failed", str(ledger.attribute("status", "interrupted"))
    ended: Halted | NoUsableTrial | None = None
    with Interruption() as interruption:
        try:
            status = drive(
                ledger,
                settings,
                changed=changed,
                started=started,
                abandon=abandon,
                interruption=interruption,
                said=progress.note,
            )
        except (KeyboardInterrupt, SystemExit):  # outside of Ray's loop; Ray's own handler of SIGTERM exits
            status = "interrupted"
        except InputError:  # nothing was begun
            status = before
            raise
        except (Halted, DiskFull) as error:
            status, ended = "interrupted", error if isinstance(error, Halted) else Halted(str(error))
        except NoUsableTrial as error:
            ended = error
        finally:
            interruption.ending = True
            progress.ended()
            ledger.note("status", status)
            if tracker.started and not tracker.finish(status):
                progress.note(
                    f"MLflow at {without_password(uri)} does not have everything ({tracker.trouble}); "
                    f"tunesearch sync {ledger.name} sends the rest"
                )
            try:
                result = _result(ledger, status)
            finally:
                ledger.close()
    if ended is not None:
        ended.result = result
        raise ended
    if status != "interrupted" and result.best is None:
        ends = "; ".join(sorted({record.message for record in result.trials if record.message})[:3])
        raise NoUsableTrial(f"search {result.name} ended and no trial has a score. {ends}", result)
    return result


def _result(ledger: Ledger, status: str) -> SearchResult:
    counted = ledger.counted()
    return SearchResult(
        name=ledger.name,
        status=status,
        objective=ledger.experiment.objective.metric,
        trials=tuple(counted),
        best=ledger.best(),
        classes=tuple(spec.name for spec in resolve_classes(ledger.experiment.data)),
        sample=ledger.experiment.data.layout == "sample",
        duplicates=len(ledger.trials) - len(counted),
        seconds=ledger.seconds(),
    )


def load(name: str, *, storage: str | Path | None = None) -> SearchResult:
    """A search as it stands now, running or not.

    Raises:
        SearchNameError: there is no such search.
    """
    ledger = Ledger.open(storage_folder(storage), name)
    try:
        return _result(ledger, _status(ledger))
    finally:
        ledger.close()


def _status(ledger: Ledger) -> str:
    if ledger.driven:
        return "running"
    status = str(ledger.attribute("status", "interrupted"))
    return "interrupted" if status == "running" else status  # its driver died


def list_searches(*, storage: str | Path | None = None) -> list[SearchResult]:
    """All searches of a storage folder, oldest first."""
    folder = storage_folder(storage)
    return [_load_or_damaged(name, folder) for name in searches(folder)]


def _load_or_damaged(name: str, folder: Path) -> SearchResult:
    try:
        return load(name, storage=folder)
    except InputError:
        return SearchResult(name, "damaged", "", (), None, (), sample=False, duplicates=0, seconds=0.0)


def extend(name: str, more: int, *, storage: str | Path | None = None) -> tuple[int, bool]:
    """Give a search further trials; gives how many there are to be, and whether a driver takes them up now.

    Without one, :func:`resume` takes them up. So with :func:`enqueue` and :func:`retry`.

    Raises:
        InputError: no such search, or a grid without further points.
    """
    with _opened(name, storage) as ledger:
        return requests.extend(ledger, more), ledger.driven


def enqueue(name: str, point: Mapping[str, Any] | Sequence[str], *, storage: str | Path | None = None) -> bool:
    """Have a search try a point, on top of its trials; gives whether a driver takes it up now.

    Args:
        point: full or partial, as a mapping or as ``NAME=VALUE`` texts; the rest is sampled.

    Raises:
        InputError: no such search; every way in which the point does not fit its space.
    """
    if not isinstance(point, Mapping):
        changes, problems = read_overrides(point, flag="enqueue", example="lr=0.01")
        if problems:
            raise InputError(problems)
        point = requests.as_point(changes)
    with _opened(name, storage) as ledger:
        requests.enqueue(ledger, point)
        return ledger.driven


def retry(
    name: str, *, failed: bool = False, trials: Sequence[int] = (), storage: str | Path | None = None
) -> tuple[list[int], bool]:
    """Have trials trained again; gives their numbers, and whether a driver takes them up now.

    Args:
        failed: every trial that failed or was lost.
        trials: numbers of others.

    Raises:
        InputError: no such search or trial, or one that cannot end otherwise.
    """
    with _opened(name, storage) as ledger:
        return requests.retry(ledger, failed=failed, trials=trials), ledger.driven


def stop(name: str, *, trial: int | None = None, storage: str | Path | None = None) -> None:
    """Have a trial ended at its next epoch, or (None) the whole search stopped with its state saved.

    Raises:
        InputError: no such search or trial, or it does not run.
    """
    with _opened(name, storage) as ledger:
        requests.stop(ledger, trial)


@contextlib.contextmanager
def _opened(name: str, storage: str | Path | None) -> Iterator[Ledger]:
    ledger = Ledger.open(storage_folder(storage), name)
    try:
        yield ledger
    finally:
        ledger.close()


def sync(name: str, *, storage: str | Path | None = None, tracking: str | None = None) -> str:
    """Make MLflow say what the ledger says; gives the tracking URI."""
    folder = storage_folder(storage)
    ledger = Ledger.open(folder, name)
    try:
        uri = tracking or ledger.attribute("settings", {}).get("tracking_uri") or default_uri(folder)
        sync_view(ledger, uri, status=_status(ledger))
    finally:
        ledger.close()
    return without_password(uri)


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
    """Write a trial (None: the best) as a model folder; only its configuration where ``output`` ends in .yaml or .yml.

    Args:
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
        _require_no_password(uri)
    ledger = Ledger.open(folder, name)
    try:
        find_own_code(str(ledger.attribute("settings", {}).get("code", ".")))
        content = write_export(ledger, output, trial=trial, said=said)
    finally:
        ledger.close()
    if register is not None:
        version = register_bundle(output, content, register, uri=uri, storage=folder)
        said(f"registered in MLflow: version {version} of {register}")
    return content


def predict(
    name: str,
    images: str | Path,
    output: str | Path,
    *,
    trial: int | None = None,
    storage: str | Path | None = None,
    said: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Write a mask for a picture, or for each in a folder, by the network of a trial (None: the best).

    Returns:
        The masks' files: each as large as its picture, in the classes' colours or with their palette.

    Raises:
        InputError: no such search or trial, no weights kept, no pictures or unreadable ones.
    """
    ledger = Ledger.open(storage_folder(storage), name)
    try:
        find_own_code(str(ledger.attribute("settings", {}).get("code", ".")))
        return write_masks(ledger, chosen(ledger, trial), Path(images), Path(output), said=said)
    finally:
        ledger.close()


def compare(
    names: Sequence[str],
    *,
    by: Sequence[str] = (),
    trials: Sequence[int] = (),
    stopped: bool = False,
    storage: str | Path | None = None,
) -> Comparison:
    """Compare the completed trials of searches; see :func:`tunesearch.comparison.compare`.

    Raises:
        InputError: no such search, field or trial; no trial to compare.
    """
    folder = storage_folder(storage)
    with contextlib.ExitStack() as stack:
        ledgers = []
        for name in dict.fromkeys(names):
            ledgers.append(Ledger.open(folder, name))
            stack.callback(ledgers[-1].close)
        return compare_trials(ledgers, by=tuple(by), trials=tuple(trials), stopped=stopped)


def train(
    configuration: str | Path,
    *,
    output: str | Path | None = None,
    data: str | Path | None = None,
    encoder_weights: str | Path | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    tracking: str | None = None,
    storage: str | Path | None = None,
    said: Callable[[str], None] = lambda text: None,
    epoch_done: Callable[[EpochMetrics], None] = lambda metrics: None,
) -> dict[str, Any]:
    """Train an exported configuration to its end and save its weights; see ``tunesearch.production.train``.

    Args:
        output: folder; None: ``STORAGE/trained/NAME`` after the configuration's file.
        said, epoch_done: told what happens.

    Raises:
        InputError: the configuration, the data or the weights are not as they must be.
    """
    folder = storage_folder(storage)
    path = Path(configuration)
    return train_configuration(
        path,
        output=Path(output) if output is not None else folder / "trained" / path.stem,
        tracking_uri=tracking_uri(folder, tracking),
        storage=folder,
        data_root=Path(data) if data is not None else None,
        encoder_weights=Path(encoder_weights).expanduser() if encoder_weights is not None else None,
        epochs=epochs,
        seed=seed,
        said=said,
        epoch_done=epoch_done,
    )
