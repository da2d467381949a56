"""``run``, ``resume`` and ``confirm``: the verbs that drive trials."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesearch.api.places import all_opened, code_folder, require_no_password, require_writable, storage_folder
from tunesearch.api.progress import Progress, Silence
from tunesearch.api.result import SearchResult, result_of, status_kept
from tunesearch.engine.interruption import Interruption
from tunesearch.engine.options import Settings
from tunesearch.engine.preflight import check_surroundings, preflight
from tunesearch.engine.resources import Resources
from tunesearch.engine.run import drive, unfinished
from tunesearch.errors import DiskFull, Halted, InputError, NoUsableTrial, Problem
from tunesearch.experiment import load_flagged
from tunesearch.ledger.database import check_url
from tunesearch.ledger.store import Ledger, require_free_name
from tunesearch.production.evaluation.confirmed import evaluate_test
from tunesearch.segmentation.data.layouts import find_pairs
from tunesearch.strategy import confirmation
from tunesearch.strategy.warm_start import gather, require_heeding
from tunesearch.tracking.store import default_uri, without_password
from tunesearch.tracking.tracker import Tracker


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
            :mod:`tunesearch.strategy.warm_start`.
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
    require_writable(folder)
    if encoder_weights is not None and not Path(encoder_weights).expanduser().exists():
        raise InputError(Problem("--encoder-weights", "must be an existing file or folder", value=str(encoder_weights)))
    if local and address not in (None, "local"):
        raise InputError(
            Problem("--address", "cannot be given with --local, which always uses this machine", value=address)
        )
    _require_patience(stall_timeout)
    if gpus_per_trial is not None and not math.isfinite(gpus_per_trial):
        raise InputError(Problem("--gpus-per-trial", "must be a number", value=str(gpus_per_trial)))
    require_no_password(tracking or os.environ.get("MLFLOW_TRACKING_URI") or "")
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
    with all_opened(warm_start, folder) as others:
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
            return result_of(ledger, status)
        if settings.time_budget is not None and ledger.seconds() >= settings.time_budget:
            progress.note(f"the time budget of {name} is spent; --time-budget gives it more")
            _close(ledger, settings, "time_budget")
            return result_of(ledger, "time_budget")
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
            progress.note(f"note: {len(chosen_trials)} instead of {top} trials, as no more were completed")
        if unfinished(ledger, confirming=True):
            told = f"trial{'s' if len(chosen_trials) > 1 else ''} {', '.join(map(str, chosen_trials))}"
            progress.note(f"confirming {name}: {told}, {seeds} seeds each, at all their epochs")
            result = _search(ledger, settings, progress, confirming=True)
            if result.status == "interrupted" and not (result.confirmation and result.confirmation.done):
                return result
            ledger = Ledger.open(storage_folder(storage), name, drive=True)
        _test_once(ledger, progress)
        if settings.keep_checkpoints is not None:
            confirmation.drop_others(ledger)
        _close(ledger, settings, status_kept(ledger))
        return result_of(ledger, status_kept(ledger))
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
    evaluate_test(ledger, confirmed, on_message=progress.note)


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
    asked = confirmation.confirmation(ledger) if confirming else None
    again = f"resume {ledger.name}" if asked is None else f"confirm {ledger.name} {asked.flags}"
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
        resume = f"tunesearch {again} --storage {ledger.folder.parent}"
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
                result = result_of(ledger, status)
            finally:
                ledger.close()
    if ended is not None:
        ended.result = result
        raise ended
    if status != "interrupted" and result.best is None:
        ends = "; ".join(sorted({record.message for record in result.trials if record.message})[:3])
        raise NoUsableTrial(f"search {result.name} ended and no trial has a score. {ends}", result)
    return result
