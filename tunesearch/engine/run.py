"""From an experiment to a finished search: preflight, the ledger, Ray Tune, and how it ended."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tunesearch.engine.interruption import Interruption
from tunesearch.engine.options import Settings
from tunesearch.engine.resources import Resources, plan_resources
from tunesearch.engine.session import ray_session, remove_folder
from tunesearch.errors import Halted, NoUsableTrial, TunesearchError
from tunesearch.ledger.database import TROUBLE
from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.store import Ledger
from tunesearch.segmentation.config import Size
from tunesearch.segmentation.data.splits import POOL
from tunesearch.segmentation.files import is_disk_full

ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON and TensorBoard files that nobody reads
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # snapshots that are never restored from
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours saves and says how to resume
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_WARN_THRESHOLD_S": "30",
    "TUNE_MAX_PENDING_TRIALS_PG": "auto",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a box whatever the verbosity
    "RAY_USAGE_STATS_ENABLED": "0",
    # Printed to stdout whatever log_to_driver says.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "Raylet is terminated|has been marked dead|A worker died or was killed",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}


def drive(
    ledger: Ledger,
    settings: Settings,
    *,
    changed: Callable[[int], None] = lambda number: None,
    started: Callable[[Resources], None] = lambda resources: None,
    trainable: type | None = None,
    decode: bool = True,
    abandon: Callable[[str], None] = lambda reason: None,
    interruption: Interruption | None = None,
    said: Callable[[str], None] = lambda text: None,
    confirming: bool = False,
) -> str:
    """Run a search until it ends, from wherever the ledger stands.

    Args:
        changed: told the number of every trial that began, went on or ended, from Ray's loop: it must return at once.
        started: told once what a trial gets and how many run at once.
        trainable: Ray's class trainable; None: ``SegmentationTrial``. For benchmarks.
        decode: whether the data set is decoded before the first trial; not for trials that read none.
        abandon: called from another thread when Ray has died and its loop does not return: save what can be saved. The
            process ends with exit code 4 then; Ray itself would end it a minute later.
        interruption: hears signals; None: nobody does.
        said: told what is worth knowing, from Ray's loop: it must return at once.
        confirming: train only what confirms the search's trials, and let the search itself rest.

    Returns:
        ``completed``, ``exhausted`` (the space has no further configuration), ``time_budget`` or ``interrupted``.

    Raises:
        InputError: no trial fits on the cluster, the cluster cannot be reached, or a node of it cannot run trials.
        Halted: the surroundings made it stop, everything before is kept.
        NoUsableTrial: its first trials all failed alike.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from ray import tune

    from tunesearch.engine import nodes as fleet
    from tunesearch.engine.searcher import ALIKE, Conductor, EndStopper, LedgerScheduler, LedgerSearcher
    from tunesearch.engine.trial import SegmentationTrial

    interruption = interruption or Interruption()
    clock = "confirm_seconds" if confirming else "seconds"
    spent = ledger.seconds(clock)
    begun = time.monotonic()
    timed = settings.time_budget is not None and not confirming
    deadline = begun + (settings.time_budget or 0.0) - spent if timed else None
    if decode:
        _warm_cache(ledger)
    _sweep(ledger)
    address = settings.cluster()
    with ray_session(address, noted=partial(ledger.set_attribute, "ray_folder"), abandon=abandon) as guard:
        interruption.listen()
        nodes = fleet.reachable()
        resources = plan_resources(
            nodes,
            cpus=settings.cpus_per_trial,
            gpus=settings.gpus_per_trial,
            concurrent=settings.max_concurrent,
            grows=address != "local",
        )
        alone = len(nodes) == 1 and fleet.is_only_here()
        demands = None if alone else asdict(fleet.check_nodes(ledger.folder, settings))
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
                "demands": demands,
                "unfit": list(conductor.unfit),
            }

        def request(config: dict[str, Any]) -> tune.PlacementGroupFactory:
            barred = [{"ray.io/node-id": f"!in({','.join(config['unfit'])})"}] if config["unfit"] else None
            bundle = {"CPU": resources.cpus, "GPU": resources.gpus}
            return tune.PlacementGroupFactory([bundle], bundle_label_selector=barred)

        noted = begun

        def looked() -> None:
            nonlocal noted
            if time.monotonic() - noted > 10:  # so that a killed session's time counts, too
                noted = time.monotonic()
                ledger.note(clock, spent + noted - begun)

        conductor = Conductor(
            ledger,
            assign=assign,
            changed=changed,
            deadline=deadline,
            keep_checkpoints=settings.keep_checkpoints,
            stall_timeout=settings.stall_timeout,
            end_process=fleet.end_process,
            said=said,
            looked=looked,
            nodes=lambda: fleet.with_room(resources.cpus),
            confirming=confirming,
        )
        guard.lost = conductor.halt
        scratch = _scratch(ledger)
        for name in ("ray", "ray.tune"):  # a trial's fault is told once, by us, under its name
            logging.getLogger(name).setLevel(logging.CRITICAL)
        interruption.tell = conductor.interrupt
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's and Tune's own, about themselves
            tuner = tune.Tuner(
                tune.with_resources(trainable or SegmentationTrial, request),
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
            except Exception as error:
                if is_disk_full(error, scratch):  # Ray Tune's own files
                    conductor.halt(f"{ledger.folder}: the disk is full")
                if not conductor.ending:
                    raise
            finally:
                interruption.ending = True
                ledger.note(clock, spent + time.monotonic() - begun)
                shutil.rmtree(scratch, ignore_errors=True)
    if not conductor.halted:
        with contextlib.suppress(*TROUBLE):
            ledger.poll()  # a request that came at the very end
    more = unfinished(ledger, confirming=confirming)
    if conductor.halted and more:
        raise Halted(conductor.halted)
    if conductor.alike and more:
        raise NoUsableTrial(f"the first {ALIKE} trials all failed alike, so the search stopped: {conductor.alike}")
    if conductor.interrupted:
        return "interrupted" if more else "completed"
    if conductor.out_of_time and more:
        conductor.cancel_live("the time budget was spent")
        return "time_budget"
    if conductor.exhausted and not ledger.live():
        return "exhausted"
    return "interrupted" if more else "completed"


def unfinished(ledger: Ledger, *, confirming: bool = False) -> bool:
    """Whether trials (``confirming``: those that confirm others) are live or still to be asked."""
    if ledger.repeats() or any(record.confirms is not None or not confirming for record in ledger.live()):
        return True
    return not confirming and len(ledger.counted()) < ledger.target


def _scratch(ledger: Ledger) -> Path:
    """Where Ray Tune keeps its own files, which are never read."""
    return ledger.folder / "ray"


def _sweep(ledger: Ledger) -> None:
    """Remove what a killed driver left: Ray Tune's files, and the folder of its private Ray, which died with it."""
    shutil.rmtree(_scratch(ledger), ignore_errors=True)
    remove_folder(ledger.attribute("ray_folder"))


def _trial_name(trial: Any) -> str:
    return f"trial-{trial.config.get('number', trial.trial_id)}-{trial.trial_id}"


def _warm_cache(ledger: Ledger) -> None:
    """Decode the data set on this machine before the first trial asks for it, where the size is known."""
    from tunesearch.segmentation.data.cache import decoded, original_masks

    experiment = ledger.experiment
    parts = ("train", "val") if experiment.data.folds is None else (POOL,)
    if "size" not in experiment.space:
        size = Size.model_validate(experiment.possible("size")[0])
        for part in parts:
            decoded(experiment.data, ledger.split, part, size)
    if experiment.objective.resolution == "original":
        original_masks(experiment.data, ledger.split, parts[-1])
