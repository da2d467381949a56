"""One training in several processes through Ray Train: on GPUs one process each, else on CPUs.

Ray Train starts the processes, gives each its device and joins them to a group of torch.distributed; what they do then
is :func:`tunesearch.production.job.take_part`. All of them must see the data set and the training's folder.
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
from typing import Any

import torch

from tunesearch.engine.interruption import Interruption
from tunesearch.engine.resources import plan_workers
from tunesearch.engine.session import RAY_ENVIRONMENT, ray_session, remove_folder
from tunesearch.errors import Halted, TunesearchError
from tunesearch.production.job import Job, Tell, take_part
from tunesearch.segmentation.files import write_text
from tunesearch.segmentation.team import Team

RESTARTS = 3
"""How often in a row the processes are started again without having finished an epoch."""
_SETTINGS = {
    **RAY_ENVIRONMENT,
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of a user's own code
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # importing torch takes its time on a busy machine
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


def train_together(
    job: Job, workers: int, tell: Tell, *, address: str, interruption: Interruption, said: Callable[[str], None]
) -> None:
    """Train a job in ``workers`` processes; ``tell`` hears the first of them, in this process and thread.

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
        attempts = 0
        while True:
            done: list[dict[str, Any]] = []

            def heard(kind: str, value: Any, done: list[dict[str, Any]] = done) -> None:
                if kind != "built":
                    done.append(value)
                tell(kind, value)

            error = _fit(job, workers, heard, gpus=each.gpus > 0, cpus=each.cpus, lost=lost)
            if error is None:
                return
            attempts = 1 if done else attempts + 1
            if _is_out_of_memory(error):
                smaller = (job.config.micro_batch or -(-job.config.batch_size // workers)) // 2
                if smaller < job.config.smallest_batch:
                    tell("ended", {"outcome": "out_of_memory", "best": None})
                    return
                said(f"note: out of memory; going on with micro-batches of {smaller}")
                job = replace(job, config=job.config.model_copy(update={"micro_batch": smaller}))
            elif attempts > RESTARTS:
                raise Halted(f"the training's processes died {attempts} times in a row: {_words(error)}") from error
            else:
                said(f"note: a process died ({_words(error)}); going on from the last epoch")


def _fit(job: Job, workers: int, tell: Tell, *, gpus: bool, cpus: int, lost: list[str]) -> Exception | None:
    """Start the processes and pass on what the first of them tells, until they end; gives the error of one that died.

    Raises:
        TunesearchError: what one of them raised.
        Halted: Ray has died.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.util.queue import Empty, Queue

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    scratch = job.folder / "ray"
    news = Queue(actor_options={"num_cpus": 0})
    failed: list[Exception] = []
    resources = {"CPU": float(cpus), **({"GPU": 1.0} if gpus else {})}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, about itself
        trainer = TorchTrainer(
            _member,
            train_loop_config={"job": job, "news": news, "gpus": gpus, "cpus": cpus},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus, resources_per_worker=resources),
            run_config=RunConfig(
                name=f"session-{time.time_ns()}",
                storage_path=str(scratch.absolute()),
                failure_config=FailureConfig(max_failures=0),
            ),
        )

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:  # Ray's, around whatever a process raised
            failed.append(error)

    # In a thread, because Ray would take Ctrl-C over in the main one, and this one passes the news on.
    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    try:
        while True:
            running = thread.is_alive()
            try:
                kind, value = news.get(timeout=0.5)
            except Empty:
                if lost:
                    raise Halted(lost[0]) from None
                if not running:
                    break
            else:
                tell(kind, value)
    finally:
        with contextlib.suppress(Exception):  # Ray may be gone
            news.shutdown(force=True)  # where nobody listens any more, the processes end
        shutil.rmtree(scratch, ignore_errors=True)
    if not failed:
        return None
    # Ray's own errors are of processes that died; the others then find their connection closed. The rest was raised.
    failures = getattr(failed[0], "worker_failures", {}).values()
    own = [cause for cause in failures if not type(cause).__module__.startswith("ray.")]
    raised = [cause for cause in own if not isinstance(cause, ConnectionError)]
    for cause in sorted(raised, key=lambda cause: not isinstance(cause, TunesearchError)):
        if isinstance(cause, torch.OutOfMemoryError):
            return cause
        raise cause
    return failed[0]


def _member(given: dict[str, Any]) -> None:
    """What every process does."""
    import ray.train

    job, news = given["job"], given["news"]
    context = ray.train.get_context()
    team = Team(context.get_world_rank(), context.get_world_size())

    def tell(kind: str, value: Any) -> None:
        if team.rank == 0:
            news.put((kind, value))

    device = "cuda" if given["gpus"] else "cpu"
    if not given["gpus"]:
        job = replace(job, threads=given["cpus"])
    take_part(job, team, tell, device=device, cpus=given["cpus"])


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError)


def _words(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
