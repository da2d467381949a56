"""One training in several processes through Ray Train: on GPUs one process each, else on CPUs.

Ray Train starts the processes, gives each its device and joins them to a group of torch.distributed; what they do then
is :func:`tunesearch.production.training.job.run_job`. All of them must see the data set and the training's folder.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tunesearch.engine.interruption import Interruption
from tunesearch.engine.resources import Resources, plan_workers
from tunesearch.engine.session import RAY_ENVIRONMENT, ray_session, remove_folder
from tunesearch.errors import Halted, TunesearchError
from tunesearch.production.training.job import Job, OnEvent, run_job
from tunesearch.segmentation.files import write_text
from tunesearch.segmentation.team import Team

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer
    from ray.util.queue import Queue

RESTARTS = 3
"""How often in a row the processes are started again without having finished an epoch."""
_SETTINGS = {
    **RAY_ENVIRONMENT,
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of a user's own code
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # importing torch takes its time on a busy machine
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


def train_together(
    job: Job,
    workers: int,
    on_event: OnEvent,
    *,
    address: str,
    interruption: Interruption,
    on_message: Callable[[str], None],
) -> None:
    """Train a job in ``workers`` processes; ``on_event`` hears the first of them, in this process and thread.

    A process that dies is started again with the others, from the last epoch, as are all with half the micro-batch
    where the memory of one does not suffice.

    Raises:
        InputError: the cluster cannot be reached or has too few GPUs or CPUs.
        Halted: the processes die again and again, or Ray does.
        TunesearchError: what a process raised.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    lost: list[str] = []
    left = job.folder / "ray_folder"  # of a private Ray whose driver was killed
    if left.is_file():
        remove_folder(left.read_text("utf-8"))

    def abandon(reason: str) -> None:
        print(f"error: {reason}; the training goes on from its last epoch when it is started again", file=sys.stderr)

    with ray_session(address, on_folder=partial(write_text, left), on_abandon=abandon) as guard:
        guard.on_lost = lost.append
        interruption.listen()
        import ray

        each = plan_workers([node["Resources"] for node in ray.nodes() if node["Alive"]], workers)
        _fit_until_done(job, workers, each, on_event, lost=lost, on_message=on_message)


def _fit_until_done(
    job: Job,
    workers: int,
    each: Resources,
    on_event: OnEvent,
    *,
    lost: list[str],
    on_message: Callable[[str], None],
) -> None:
    """Start the processes again whenever one died, with smaller micro-batches where memory did not suffice."""
    attempts = 0
    while True:
        progress: list[str] = []

        def counted(kind: str, value: Any, progress: list[str] = progress) -> None:
            if kind != "built":
                progress.append(kind)
            on_event(kind, value)

        error = _fit(job, workers, each, counted, lost=lost)
        if error is None:
            return
        attempts = 1 if progress else attempts + 1
        if isinstance(error, torch.OutOfMemoryError):
            smaller = (job.config.micro_batch or -(-job.config.batch_size // workers)) // 2
            if smaller < job.config.smallest_batch:
                on_event("ended", {"outcome": "out_of_memory", "best": None})
                return
            on_message(f"note: out of memory; going on with micro-batches of {smaller}")
            job = replace(job, config=job.config.model_copy(update={"micro_batch": smaller}))
        elif attempts > RESTARTS:
            raise Halted(f"the training's processes died {attempts} times in a row: {_words(error)}") from error
        else:
            on_message(f"note: a process died ({_words(error)}); going on from the last epoch")


def _fit(job: Job, workers: int, each: Resources, on_event: OnEvent, *, lost: list[str]) -> Exception | None:
    """Start the processes and pass on what the first of them tells, until they end; gives the error of one that died.

    Raises:
        TunesearchError: what one of them raised.
        Halted: Ray has died.
    """
    from ray.util.queue import Queue

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    scratch = job.folder / "ray"
    news = Queue(actor_options={"num_cpus": 0})
    trainer = _trainer(job, workers, each, news, scratch)
    failed: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:  # Ray's, around whatever a process raised
            failed.append(error)

    # In a thread, because Ray would take Ctrl-C over in the main one, and this one passes the news on.
    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    try:
        _pass_on(news, on_event, thread, lost)
    finally:
        with contextlib.suppress(Exception):  # Ray may be gone
            news.shutdown(force=True)  # where nobody listens any more, the processes end
        shutil.rmtree(scratch, ignore_errors=True)
    return _death(failed[0]) if failed else None


def _trainer(job: Job, workers: int, each: Resources, news: Queue, scratch: Path) -> TorchTrainer:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    gpus = each.gpus > 0
    resources = {"CPU": float(each.cpus), **({"GPU": 1.0} if gpus else {})}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, about itself
        return TorchTrainer(
            _worker,
            train_loop_config={"job": job, "news": news, "gpus": gpus, "cpus": each.cpus},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus, resources_per_worker=resources),
            run_config=RunConfig(
                name=f"session-{time.time_ns()}",
                storage_path=str(scratch.absolute()),
                failure_config=FailureConfig(max_failures=0),
            ),
        )


def _pass_on(news: Queue, on_event: OnEvent, thread: threading.Thread, lost: list[str]) -> None:
    """Tell what the processes tell, until the thread that runs them has ended and all is told.

    Raises:
        Halted: Ray has died.
    """
    from ray.util.queue import Empty

    while True:
        running = thread.is_alive()
        try:
            kind, value = news.get(timeout=0.5)
        except Empty:
            if lost:
                raise Halted(lost[0]) from None
            if not running:
                return
        else:
            on_event(kind, value)


def _death(error: Exception) -> Exception:
    """The error of a process that died, or whose memory did not suffice.

    Raises:
        TunesearchError: what a process raised itself; also whatever else the user's own code raised.
    """
    # Ray's own errors are of processes that died; the others then find their connection closed. The rest was raised.
    failures = getattr(error, "worker_failures", {}).values()
    own = [cause for cause in failures if not type(cause).__module__.startswith("ray.")]
    raised = [cause for cause in own if not isinstance(cause, ConnectionError)]
    for cause in sorted(raised, key=lambda cause: not isinstance(cause, TunesearchError)):
        if isinstance(cause, torch.OutOfMemoryError):
            return cause
        raise cause
    return error


def _worker(given: dict[str, Any]) -> None:
    """What every process does."""
    import ray.train

    job, news = given["job"], given["news"]
    context = ray.train.get_context()
    team = Team(context.get_world_rank(), context.get_world_size())

    def on_event(kind: str, value: Any) -> None:
        if team.rank == 0:
            news.put((kind, value))

    if not given["gpus"]:
        job = replace(job, threads=given["cpus"])
    run_job(job, team, on_event, device="cuda" if given["gpus"] else "cpu", cpus=given["cpus"])


def _words(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
