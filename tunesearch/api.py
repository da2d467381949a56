"""The verbs of the command line, in Python: ``tunesearch.run``, ``resume``, ``load``, ``export``, ``train`` ..."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from tunesearch.boards import Board, boards
from tunesearch.comparison import Comparison
from tunesearch.comparison import compare as compare_trials
from tunesearch.errors import DiskFull, Halted, InputError, NoUsableTrial, Problem
from tunesearch.experiment import load_flagged
from tunesearch.experiment.document import read_overrides
from tunesearch.production.confirm import evaluate_test
from tunesearch.production.ensemble import fit_stack
from tunesearch.production.evaluate import (
    Evaluation,
    frozen_pairs,
    holds_test_images,
    pairs_below,
    pairs_in,
    write_evaluation,
)
from tunesearch.production.evaluate import evaluate as measure
from tunesearch.production.export import export as write_export
from tunesearch.production.export import is_configuration
from tunesearch.production.labeller import Labeller, require_same_classes
from tunesearch.production.looks import looked_at_test, warning
from tunesearch.production.model import Model, open_model
from tunesearch.production.predict import predict as write_masks
from tunesearch.production.stack import Stack
from tunesearch.production.train import train as train_configuration
from tunesearch.registry import check_model_name
from tunesearch.registry import register as register_bundle
from tunesearch.search import confirmation, requests
from tunesearch.search.confirmation import Confirmation
from tunesearch.search.database import check_url
from tunesearch.search.interruption import Interruption
from tunesearch.search.ledger import Ledger, TrialRecord, require_free_name, searches
from tunesearch.search.preflight import check_address, check_surroundings, find_own_code, preflight
from tunesearch.search.resources import Resources
from tunesearch.search.run import drive, unfinished
from tunesearch.search.settings import Settings
from tunesearch.search.warm_start import Source, gather, require_heeding
from tunesearch.segmentation.data.checks import DataReport
from tunesearch.segmentation.data.images import Pixels
from tunesearch.segmentation.data.layouts import find_pairs, resolve_classes
from tunesearch.segmentation.trainer import EpochMetrics
from tunesearch.tracking import Tracker, default_uri, known, log_report, without_password
from tunesearch.tracking import sync as sync_view

__all__ = [
    "Progress",
    "SearchResult",
    "compare",
    "confirm",
    "enqueue",
    "ensemble",
    "evaluate",
    "export",
    "extend",
    "leaderboard",
    "list_searches",
    "load",
    "predict",
    "report",
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
        warm_start: what other searches gave the sampler; empty: nothing did.
        confirmation: what repeating the best trials over seeds has shown; None: nobody has asked for it.
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
    warm_start: tuple[Source, ...] = ()
    confirmation: Confirmation | None = None

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
            "warm_start": [asdict(source) for source in self.warm_start],
            "confirmation": None if self.confirmation is None else self.confirmation.as_dict(),
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
    warm_start: Sequence[str] = (),
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
        warm_start: searches of the storage folder whose trials the sampler is told; see
            :mod:`tunesearch.search.warm_start`.
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
    with _all_opened(warm_start, folder) as others:
        if others:
            require_heeding(experiment, others)
        report, split, notes = preflight(experiment, settings)
        warm = gather(experiment, split, others) if others else None
    progress.checked(report)
    for text in notes:
        progress.note(text)
    if warm is not None:
        progress.note(str(warm))
        experiment = warm.tried_first(experiment)
    ledger = Ledger.create(folder, name, experiment, split, settings.as_dict(), url=ledger_url, warm_start=warm)
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
        nothing_new = status == "exhausted" and not (ledger.live() or ledger.wishes() or ledger.repeats())
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


def confirm(
    name: str,
    *,
    top: int = 3,
    seeds: int = 5,
    storage: str | Path | None = None,
    address: str | None = None,
    max_concurrent: int | None = None,
    progress: Progress | None = None,
) -> SearchResult:
    """Repeat the best trials of a search over seeds, say which of them wins, and evaluate it once on the test part.

    The repeats are trials of the same ledger: killed or interrupted, the same call goes on. Asking for more trials or
    seeds later trains only what is missing.

    Args:
        top: how many of the completed trials, the best ones.
        seeds: how often each is trained, 2 at least.
        address, max_concurrent: instead of what the search was started with.

    Returns:
        The search, whose ``confirmation`` tells what was shown.

    Raises:
        SearchNameError: there is no such search.
        LedgerBusy: another process drives it.
        InputError: no trial was completed; the data set is no longer what it was.
        Halted, NoUsableTrial: as :func:`run`.
    """
    progress = progress or Silence()
    if top < 1 or seeds < 2:
        flag, least, value = ("--top", 1, top) if top < 1 else ("--seeds", 2, seeds)
        raise InputError(Problem(flag, f"must be {least} at least", value=str(value)))
    ledger = Ledger.open(storage_folder(storage), name, drive=True)
    try:
        wanted = confirmation.plan(ledger, top=top, seeds=seeds)
        if not wanted:
            hint = f"tunesearch resume {name} goes on with it" if unfinished(ledger) else ""
            raise InputError(Problem(f"search {name}", "has no completed trial to confirm", hint=hint))
        changes = {"address": address, "max_concurrent": max_concurrent}
        kept = {**ledger.attribute("settings", {}), **{k: value for k, value in changes.items() if value is not None}}
        settings = Settings(**kept)
        check_surroundings(ledger.experiment, settings)
        if ledger.experiment.data.layout == "sample":
            find_pairs(ledger.experiment.data)  # makes it again where the cache was emptied
        ledger.split.verify()
        confirmation.request(ledger, wanted)
        chosen_trials = list(dict.fromkeys(trial for trial, _ in wanted))
        if len(chosen_trials) < top:
            progress.note(f"only {len(chosen_trials)} trials were completed, so {top} cannot be confirmed")
        if unfinished(ledger, confirming=True):
            told = ", ".join(map(str, chosen_trials))
            progress.note(f"confirming {name}: trials {told}, each with {seeds} seeds, at all their epochs")
            result = _search(ledger, settings, progress, confirming=True)
            if result.status == "interrupted" and not (result.confirmation and result.confirmation.done):
                return result
            ledger = Ledger.open(storage_folder(storage), name, drive=True)
        _test_once(ledger, progress)
        if settings.keep_checkpoints is not None:
            confirmation.drop_others(ledger)
        _close(ledger, settings, _status_kept(ledger))
        return _result(ledger, _status_kept(ledger))
    finally:
        ledger.close()


def _test_once(ledger: Ledger, progress: Progress) -> None:
    """Evaluate what was confirmed on the test part, unless that has been done or cannot be."""
    confirmed = confirmation.confirmation(ledger)
    if confirmed is None or not confirmed.done or confirmed.leader is None or confirmed.test is not None:
        return
    if not ledger.split.test:
        progress.note("no test part was set aside when the search began (data.test), so there is no test score")
        return
    if ledger.experiment.data.folds is not None:
        progress.note("trained on folds, so that there is no one network: no test score")
        return
    if confirmation.looks(ledger):
        rule = "a choice that was made by it is no longer independent"
        progress.note(f"the test part was looked at before; now again, for trial {confirmed.leader}: {rule}")
    evaluate_test(ledger, confirmed, said=progress.note)


def _status_kept(ledger: Ledger) -> str:
    """The search's status as it stands where nobody drives it."""
    status = str(ledger.attribute("status", "interrupted"))
    return "interrupted" if status == "running" else status  # its driver died


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


def _search(ledger: Ledger, settings: Settings, progress: Progress, *, confirming: bool = False) -> SearchResult:
    """Drive a search, or what confirms it, to its end; the ledger is closed then. A confirmation that ends well leaves
    the search's own status as it was."""
    uri = settings.tracking_uri or default_uri(ledger.folder.parent)
    tracker = Tracker(ledger, uri, system_metrics=settings.system_metrics, said=progress.note)

    def started(resources: Resources) -> None:
        if not confirming:
            ledger.set_attribute("status", "running")
        tracker.start()
        progress.started(ledger, resources)

    def changed(number: int) -> None:
        tracker.changed(number)
        with contextlib.suppress(Exception):  # what only looks on must not end a search
            progress.changed(number)

    def abandon(reason: str) -> None:
        if not confirming:
            ledger.note("status", "interrupted")
        if tracker.started:
            tracker.finish(before if confirming else "interrupted", patience=5.0)
        progress.ended()
        verb = "confirm" if confirming else "resume"
        resume = f"tunesearch {verb} {ledger.name} --storage {ledger.folder.parent}"
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
                confirming=confirming,
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
            if not confirming:
                ledger.note("status", status)
            if tracker.started and not tracker.finish(before if confirming else status):
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
        warm_start=ledger.warm_start.sources,
        confirmation=confirmation.confirmation(ledger),
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
    return "running" if ledger.driven else _status_kept(ledger)


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


def leaderboard(*, top: int = 10, tracking: str | None = None, storage: str | Path | None = None) -> list[Board]:
    """The best of every search and production training that an MLflow knows, those together that may be compared.

    Args:
        top: entries per data set and objective.
        tracking: MLflow's tracking URI; None: ``$MLFLOW_TRACKING_URI``, else SQLite in the storage folder.

    Raises:
        InputError: there is no MLflow, or it does not answer.
    """
    return boards(known(tracking_uri(storage_folder(storage), tracking)), top=top)


@contextlib.contextmanager
def _all_opened(names: Sequence[str], folder: Path) -> Iterator[list[Ledger]]:
    with contextlib.ExitStack() as stack:
        ledgers = []
        for name in dict.fromkeys(names):
            ledgers.append(Ledger.open(folder, name))
            stack.callback(ledgers[-1].close)
        yield ledgers


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


def report(
    name: str,
    output: str | Path | None = None,
    *,
    storage: str | Path | None = None,
    tracking: str | None = None,
    said: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write the report of a search, in whatever state it is, as one HTML file; MLflow keeps it with the search's run.

    Args:
        output: the file; None: ``STORAGE/NAME/report.html``.
        tracking: MLflow's tracking URI; None: the one that the search was told to.
        said: told what takes its time, and what could not be shown.

    Returns:
        ``output``, ``bytes``, ``missing`` (what could not be shown, and why) and ``mlflow`` (why it does not have it,
        else empty).

    Raises:
        InputError: no such search; a file that cannot be written.
    """
    from tunesearch.reporting.page import write_report  # plotly, which no other verb needs

    with _opened(name, storage) as ledger:
        file = Path(output) if output is not None else ledger.folder / "report.html"
        told = write_report(ledger, file, status=_status(ledger), said=said)
        uri = tracking or ledger.attribute("settings", {}).get("tracking_uri") or default_uri(ledger.folder.parent)
        return {**told, "mlflow": log_report(ledger, uri, file)}


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
        trial: of the search; None: the best.
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
    labeller = Labeller(opened, stack=_stack(stack), scale=scale, flip=flip)
    done = 0

    def told(path: Path, mask: Pixels | None, total: int) -> None:
        nonlocal done
        done += 1
        if mask is not None:
            said(f"{path}: {mask.shape[1]}x{mask.shape[0]}")
        if progress is not None:
            progress(done, total)

    background = opened[0].data.background
    return write_masks(labeller, Path(images), Path(output), overlays=overlays, background=background, said=told)


def evaluate(
    models: str | Path | Sequence[str | Path],
    *,
    part: str | None = None,
    data: str | Path | None = None,
    images: str | Path | None = None,
    masks: str | Path | None = None,
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
    if images is not None and (part is not None or data is not None):
        raise InputError(Problem("--images", "cannot be given together with --split or --data"))
    if images is not None and masks is not None:
        pairs, read_as = pairs_in(opened[0], Path(images).expanduser(), Path(masks).expanduser())
        what = str(images)
    elif root is not None and part is None:
        pairs, read_as = pairs_below(opened[0], root)
        what = str(data)
    else:
        what = part or "val"
        pairs, read_as = frozen_pairs(opened[0], what, root)
    how: dict[str, Any] = {"stack": _stack(stack), "scale": scale, "flip": flip}
    folder = Path(output) if output is not None else None
    if folder is not None and folder.exists() and not folder.is_dir():
        raise InputError(Problem("-o", "must be a folder", value=str(folder)))
    result = measure(opened, pairs, read_as, what=what, said=progress or (lambda done, total: None), **how)
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
    stack = fit_stack(opened, pairs, read_as, flip=flip, scale=scale, said=progress or (lambda done, total: None))
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
    with _all_opened(names, storage_folder(storage)) as ledgers:
        return compare_trials(ledgers, by=tuple(by), trials=tuple(trials), stopped=stopped)


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
    """Train a model folder or an exported configuration to its end; see ``tunesearch.production.train``.

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
    return train_configuration(
        path,
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
        said=said,
        epoch_done=epoch_done,
    )
