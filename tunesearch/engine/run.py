"""Driving a search: a session of Ray Tune, from wherever the ledger stands to how it ended."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesearch.engine.callback import SearchCallback
from tunesearch.engine.clock import SearchClock
from tunesearch.engine.conductor import ALIKE, Conductor
from tunesearch.engine.interruption import Interruption
from tunesearch.engine.options import SearchOptions
from tunesearch.engine.resources import plan_resources
from tunesearch.engine.session import ray_session, remove_folder, set_environment
from tunesearch.errors import Halted, NoUsableTrial, TunesearchError
from tunesearch.ledger.database import TROUBLE
from tunesearch.ledger.store import Ledger
from tunesearch.segmentation.config import Size
from tunesearch.segmentation.data.splits import POOL
from tunesearch.segmentation.files import is_disk_full

if TYPE_CHECKING:
    from tunesearch.engine.assignment import Assigner


def drive(
    ledger: Ledger,
    options: SearchOptions,
    callback: SearchCallback | None = None,
    *,
    interruption: Interruption | None = None,
    confirming: bool = False,
    trainable: type | None = None,
    decode: bool = True,
) -> str:
    """Run a search until it ends, from wherever the ledger stands.

    Args:
        callback: told what happens.
        interruption: hears signals; None: nobody does.
        confirming: train only what confirms the search's trials, and let the search itself rest.
        trainable: Ray's class trainable; None: ``SegmentationTrial``. For benchmarks.
        decode: whether the data set is decoded before the first trial; not for trials that read none.

    Returns:
        ``completed``, ``exhausted`` (the space has no further configuration), ``time_budget`` or ``interrupted``.

    Raises:
        InputError: no trial fits on the cluster, the cluster cannot be reached, or a node of it cannot run trials.
        Halted: the surroundings made it stop, everything before is kept.
        NoUsableTrial: its first trials all failed alike.
    """
    set_environment()
    callback, interruption = callback or SearchCallback(), interruption or Interruption()
    name, budget = ("confirm_seconds", None) if confirming else ("seconds", options.time_budget)
    clock = SearchClock(ledger, name, budget=budget)
    if decode:
        _decode(ledger)
    _sweep(ledger)

    note_folder = partial(ledger.set_attribute, "ray_folder")
    with ray_session(options.cluster(), on_folder=note_folder, on_abandon=callback.on_abandon) as ray_watchdog:
        interruption.listen()
        from tunesearch.engine import nodes  # imports Ray, under the environment set above

        assigner = _plan(ledger, options)
        callback.on_start(ledger, assigner.resources)
        conductor = Conductor(
            ledger,
            options,
            callback,
            clock=clock,
            end_process=nodes.end_process,
            fit_nodes=lambda: nodes.with_room(assigner.resources.cpus),
            confirming=confirming,
        )
        ray_watchdog.on_lost = conductor.halt
        interruption.tell = conductor.interrupt
        try:
            _tune(conductor, assigner, trainable)
        finally:
            interruption.ending = True
            clock.keep()
            shutil.rmtree(_scratch(ledger), ignore_errors=True)

    return _ending(conductor)


def _plan(ledger: Ledger, options: SearchOptions) -> Assigner:
    """What a trial gets, and what the nodes must have; every node is examined now."""
    from tunesearch.engine import nodes
    from tunesearch.engine.assignment import Assigner

    reachable = nodes.reachable()
    resources = plan_resources(
        reachable,
        cpus=options.cpus_per_trial,
        gpus=options.gpus_per_trial,
        concurrent=options.max_concurrent,
        grows=options.cluster() != "local",
    )
    alone = len(reachable) == 1 and nodes.is_only_here()
    demands = None if alone else nodes.check_nodes(ledger.folder, options)
    return Assigner(ledger, options, resources, demands)


def _tune(conductor: Conductor, assigner: Assigner, trainable: type | None) -> None:
    """Ray Tune's loop, until the conductor has nothing more to give or wants to end."""
    from ray import tune

    from tunesearch.engine.assignment import placement
    from tunesearch.engine.hooks import EndStopper, LedgerScheduler, LedgerSearcher
    from tunesearch.engine.trial import SegmentationTrial

    scratch = _scratch(conductor.ledger)
    for name in ("ray", "ray.tune"):  # a trial's fault is told once, by us, under its name
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's and Tune's own, about themselves
        tuner = tune.Tuner(
            tune.with_resources(trainable or SegmentationTrial, partial(placement, resources=assigner.resources)),
            tune_config=tune.TuneConfig(
                search_alg=LedgerSearcher(conductor, assigner),
                scheduler=LedgerScheduler(conductor),
                num_samples=-1,
                max_concurrent_trials=assigner.resources.concurrent,
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
                conductor.halt(f"{conductor.ledger.folder}: the disk is full")
            if not conductor.ending:
                raise


def _ending(conductor: Conductor) -> str:
    """The status of a search whose session has ended; raises what is wrong, where there is more to train."""
    ledger = conductor.ledger
    if not conductor.halted:
        with contextlib.suppress(*TROUBLE):
            ledger.poll()  # a request that came at the very end
    more = ledger.is_unfinished(confirming=conductor.confirming)
    if conductor.halted and more:
        raise Halted(conductor.halted)
    if conductor.alike and more:
        raise NoUsableTrial(f"the first {ALIKE} trials all failed alike, so the search stopped: {conductor.alike}")
    if conductor.interrupted:
        return "interrupted" if more else "completed"
    if conductor.clock.is_out and more:
        conductor.cancel_live("the time budget was spent")
        return "time_budget"
    if conductor.exhausted and not ledger.live():
        return "exhausted"
    return "interrupted" if more else "completed"


def _scratch(ledger: Ledger) -> Path:
    """Where Ray Tune keeps its own files, which are never read."""
    return ledger.folder / "ray"


def _sweep(ledger: Ledger) -> None:
    """Remove what a killed driver left: Ray Tune's files, and the folder of its private Ray, which died with it."""
    shutil.rmtree(_scratch(ledger), ignore_errors=True)
    remove_folder(ledger.attribute("ray_folder"))


def _trial_name(trial: Any) -> str:
    return f"trial-{trial.config.get('number', trial.trial_id)}-{trial.trial_id}"


def _decode(ledger: Ledger) -> None:
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
