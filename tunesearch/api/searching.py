"""``run``, ``resume`` and ``confirm``: the verbs that drive trials."""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesearch.api.driving import close, search
from tunesearch.api.options import ConfirmOptions, ResumeOptions, RunOptions
from tunesearch.api.places import all_opened, code_folder, require_no_password, require_writable, storage_folder
from tunesearch.api.result import SearchResult, result_of, status_kept
from tunesearch.engine.callback import SearchCallback
from tunesearch.engine.checkpoints import drop_other_repeats
from tunesearch.engine.options import SearchOptions
from tunesearch.engine.preflight import check_surroundings, preflight
from tunesearch.errors import InputError, Problem
from tunesearch.experiment import Experiment, load_flagged
from tunesearch.ledger.database import check_url
from tunesearch.ledger.folders import require_free_name
from tunesearch.ledger.steering import request_repeats
from tunesearch.ledger.store import Ledger
from tunesearch.options import takes
from tunesearch.production.evaluation.confirmed import evaluate_test
from tunesearch.segmentation.data.layouts import find_pairs
from tunesearch.strategy import confirmation
from tunesearch.strategy.warm_start import gather, require_heeding


@takes(RunOptions)
def run(space: str | Path, options: RunOptions) -> SearchResult:
    """Search a space for the best configuration.

    Args:
        space: name of a shipped search space, or path of a file.
        options: the flags of ``tunesearch run``.

    Raises:
        InputError: every problem of the space, the data, the weights and the flags, before anything is created.
        NoUsableTrial: the search ended and no trial has a score, or its first trials all failed alike.
        Halted: a full disk or a ledger that cannot be written made it stop; ``resume`` goes on.
    """
    callback = options.callback or SearchCallback()
    experiment = load_flagged(
        space,
        trials=options.trials,
        epochs=options.epochs,
        size=options.size,
        sampler=options.sampler,
        seed=options.seed,
        overrides=options.overrides,
        smoke=options.smoke,
        data=options.data,
    )
    storage = storage_folder(options.storage)
    name = options.name or f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    require_free_name(storage, name)
    require_writable(storage)
    url = options.ledger_url or os.environ.get("TUNESEARCH_LEDGER") or None
    kept = _kept(options, code_folder(space))
    if url is not None:
        url = check_url(url)
    sample = experiment.data.layout == "sample"
    callback.on_message(f"data: {'the built-in SAMPLE of generated scenes' if sample else experiment.data.root}")
    ledger = _create(storage, name, experiment, kept, options, url=url, callback=callback)
    try:
        return search(ledger, kept, callback)
    except InputError:
        if not ledger.trials:  # nothing began: the name stays free
            Ledger.discard(ledger.folder)
        raise


def _kept(options: RunOptions, code: Path) -> SearchOptions:
    """What is kept of the flags for a resume: paths and the environment's words resolved.

    Raises:
        InputError: a flag that cannot be.
    """
    weights = options.encoder_weights
    if weights is not None and not Path(weights).expanduser().exists():
        raise InputError(Problem("--encoder-weights", "must be an existing file or folder", value=str(weights)))
    if options.local and options.address not in (None, "local"):
        rule = "cannot be given with --local, which always uses this machine"
        raise InputError(Problem("--address", rule, value=options.address))
    _require_patience(options.stall_timeout)
    if options.gpus_per_trial is not None and not math.isfinite(options.gpus_per_trial):
        raise InputError(Problem("--gpus-per-trial", "must be a number", value=str(options.gpus_per_trial)))
    uri = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    require_no_password(uri or "")
    private = options.local or (options.smoke and options.address is None)
    return replace(
        SearchOptions(**options.as_dict()),
        address="local" if private else options.address,
        encoder_weights=None if weights is None else str(Path(weights).expanduser().resolve()),
        tracking_uri=uri,
        code=str(code),
    )


def _create(
    storage: Path,
    name: str,
    experiment: Experiment,
    kept: SearchOptions,
    options: RunOptions,
    *,
    url: str | None,
    callback: SearchCallback,
) -> Ledger:
    """Check everything that would fail later, then freeze the search."""
    with all_opened(options.warm_start, storage) as others:
        if others:
            require_heeding(experiment, others)
        report, split, notes = preflight(experiment, kept)
        warm = gather(experiment, split, others) if others else None
    callback.on_data_checked(report)
    for text in notes:
        callback.on_message(text)
    if warm is not None:
        callback.on_message(str(warm))
        experiment = warm.tried_first(experiment)
    return Ledger.create(storage, name, experiment, split, kept.as_dict(), url=url, warm_start=warm)


@takes(ResumeOptions)
def resume(name: str, options: ResumeOptions) -> SearchResult:
    """Go on with a search, whatever ended it; with nothing left to do it only reports.

    Args:
        name: of the search.
        options: the flags of ``tunesearch resume``.

    Raises:
        SearchNameError: there is no such search.
        LedgerBusy: another process drives it.
        DataError: the data set is no longer what it was.
    """
    callback = options.callback or SearchCallback()
    _require_patience(options.stall_timeout)
    ledger = Ledger.open(storage_folder(options.storage), name, drive=True)
    budget = None if options.time_budget is None else options.time_budget + ledger.seconds()
    kept = _changed(
        ledger,
        address=options.address,
        max_concurrent=options.max_concurrent,
        keep_checkpoints=options.keep_checkpoints,
        stall_timeout=options.stall_timeout,
        time_budget=budget,
    )
    status = str(ledger.attribute("status", "interrupted"))
    try:
        wanted = ledger.live() or ledger.requests.points() or ledger.requests.repeats()
        if (status == "exhausted" and not wanted) or not ledger.is_unfinished():
            callback.on_message(f"{name} has nothing left to do")
            if status in ("running", "interrupted"):  # its driver died at the very end
                status = "completed"
                close(ledger, kept, status)
            return result_of(ledger, status)
        if kept.time_budget is not None and ledger.seconds() >= kept.time_budget:
            callback.on_message(f"the time budget of {name} is spent; --time-budget gives it more")
            close(ledger, kept, "time_budget")
            return result_of(ledger, "time_budget")
        _require_unchanged(ledger, kept)
        ledger.set_attribute("settings", kept.as_dict())
        count, live = len(ledger.counted()), len(ledger.live())
        callback.on_message(f"resuming {name}: {count} trials known, {live} of them unfinished")
        return search(ledger, kept, callback)
    finally:
        ledger.close()


@takes(ConfirmOptions)
def confirm(name: str, options: ConfirmOptions) -> SearchResult:
    """Repeat the best trials of a search over seeds, say which of them wins, and evaluate it once on the test part.

    The repeats are trials of the same ledger: killed or interrupted, the same call goes on. Asking for more trials or
    seeds later trains only what is missing.

    Args:
        name: of the search.
        options: the flags of ``tunesearch confirm``.

    Returns:
        The search, whose ``confirmation`` tells what was shown.

    Raises:
        SearchNameError: there is no such search.
        LedgerBusy: another process drives it.
        InputError: no trial was completed; the data set is no longer what it was.
        Halted, NoUsableTrial: as :func:`run`.
    """
    callback, top, seeds = options.callback or SearchCallback(), options.top, options.seeds
    if top < 1 or seeds < 2:
        flag, least, value = ("--top", 1, top) if top < 1 else ("--seeds", 2, seeds)
        raise InputError(Problem(flag, f"must be {least} at least", value=str(value)))
    storage = storage_folder(options.storage)
    ledger = Ledger.open(storage, name, drive=True)
    try:
        wanted = confirmation.plan(ledger, top=top, seeds=seeds)
        if not wanted:
            hint = f"tunesearch resume {name} goes on with it" if ledger.is_unfinished() else ""
            raise InputError(Problem(f"search {name}", "has no completed trial to confirm", hint=hint))
        kept = _changed(ledger, address=options.address, max_concurrent=options.max_concurrent)
        _require_unchanged(ledger, kept)
        request_repeats(ledger, wanted)
        chosen = list(dict.fromkeys(trial for trial, _ in wanted))
        if len(chosen) < top:
            callback.on_message(f"note: {len(chosen)} instead of {top} trials, as no more were completed")
        if ledger.is_unfinished(confirming=True):
            told = f"trial{'s' if len(chosen) > 1 else ''} {', '.join(map(str, chosen))}"
            callback.on_message(f"confirming {name}: {told}, {seeds} seeds each, at all their epochs")
            result = search(ledger, kept, callback, confirming=True)
            if result.status == "interrupted" and not (result.confirmation and result.confirmation.done):
                return result
            ledger = Ledger.open(storage, name, drive=True)
        _test_once(ledger, callback)
        if kept.keep_checkpoints is not None:
            drop_other_repeats(ledger)
        close(ledger, kept, status_kept(ledger))
        return result_of(ledger, status_kept(ledger))
    finally:
        ledger.close()


def _test_once(ledger: Ledger, callback: SearchCallback) -> None:
    """Evaluate what was confirmed on the test part, unless that has been done or cannot be."""
    confirmed = confirmation.confirmation(ledger)
    if confirmed is None or not confirmed.done or confirmed.leader is None or confirmed.test is not None:
        return
    if not ledger.split.test:
        callback.on_message("no test part was set aside when the search began (data.test), so there is no test score")
        return
    if ledger.experiment.data.folds is not None:
        callback.on_message("trained on folds, so that there is no one network: no test score")
        return
    if ledger.looks:
        rule = "a choice that was made by it is no longer independent"
        callback.on_message(f"the test part was looked at before; now again, for trial {confirmed.leader}: {rule}")
    evaluate_test(ledger, confirmed, on_message=callback.on_message)


def _changed(ledger: Ledger, **changes: Any) -> SearchOptions:
    """The options that a search was started with, but for what is given now."""
    given = {name: value for name, value in changes.items() if value is not None}
    return SearchOptions(**{**ledger.attribute("settings", {}), **given})


def _require_unchanged(ledger: Ledger, options: SearchOptions) -> None:
    """What a search needs again when it goes on.

    Raises:
        InputError: its cluster, the user's own code, the weights or the data set are not what they were.
    """
    check_surroundings(ledger.experiment, options)
    if ledger.experiment.data.layout == "sample":
        find_pairs(ledger.experiment.data)  # makes it again where the cache was emptied
    ledger.split.verify()


def _require_patience(stall_timeout: float | None) -> None:
    if stall_timeout is not None and stall_timeout < 15:
        rule = "must be at least 15s: a trial beats every five seconds at most"
        raise InputError(Problem("--stall-timeout", rule, value=f"{stall_timeout:g}s"))
