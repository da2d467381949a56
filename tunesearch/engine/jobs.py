"""Searches on a cluster from afar, through Ray's own Jobs API: submit, look, follow, stop.

A search is a job whose driver runs on the head and outlives whoever sent it; a resumed search is a further job of the
same name. Jobs carry the search's name in their metadata, so that jobs of others on the same cluster are left alone.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import secrets
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesearch.engine.jobs_api import head_client, one_line
from tunesearch.errors import InputError, Problem, SearchNameError, TunesearchError, nearest

STOP_SECONDS = 120
"""What a driver has to save its search before Ray kills it."""

MOST_BYTES = 100 * 1024**2
"""What Ray's dashboard takes as one upload."""

EXCLUDED = (".git", ".venv", "venv", "__pycache__", "runs", "mlruns", "wandb", "node_modules")
"""Never sent along with a search space."""

_SEARCH = "tunesearch.search"
_CALL = "tunesearch.call"
_LIVE = ("pending", "running")

_NO_STORAGE = "error: --storage must be given, for the cluster names no folder in this variable"
_EXIT = {
    1: "it ended and no trial has a score",
    2: "it was refused",
    4: "its surroundings made it stop; everything is saved",
    127: "the head has no tunesearch on its PATH: start Ray there in the environment that tunesearch is installed in",
    130: "interrupted; everything is saved",
}


@dataclass(frozen=True)
class Job:
    """A search, or a session of a resumed one, as the cluster tells it.

    Attributes:
        name: of the search.
        status: pending, running, stopped (as asked), interrupted (saved, can be resumed), succeeded or failed.
        since: when it was sent where it is live, else when it ended; Unix seconds.
        message: why it failed or was interrupted; empty otherwise.
        progress: the last line of its log that tells how far it is; only of the last job of each search.
        id: Ray's, of the submission.
    """

    name: str
    status: str
    since: float
    message: str
    progress: str
    id: str

    @property
    def live(self) -> bool:
        """Whether it waits or runs."""
        return self.status in _LIVE


def submit(
    address: str,
    arguments: Sequence[str],
    *,
    name: str,
    working_dir: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Send ``tunesearch ARGUMENTS`` to a cluster as a job of the search ``name``, and return at once.

    Args:
        address: of the head's Jobs API, such as ``http://HEAD:8265``.
        working_dir: folder whose files the job finds in its current folder and on its import path; None: nothing.
        environment: variables of the driver and of every trial. Everybody who may use the cluster can read them.

    Returns:
        Ray's id of the submission.

    Raises:
        InputError: the cluster cannot be reached or refuses the token, the folder is too large, or a job of this search
            is live.
    """
    if working_dir is not None:
        _require_small(working_dir)
    with head_client(address) as client:
        if any(job.live for job in _jobs(client, name)):
            hint = f"tunesearch logs {name} -f follows it; --name gives a new one another name"
            raise SearchNameError(Problem(f"search {name}", f"is live on {address} already", hint=hint))
        return _send(client, arguments, f"{name}-{secrets.token_hex(3)}", {_SEARCH: name}, working_dir, environment)


def states(address: str, name: str | None = None) -> list[Job]:
    """Every job of every search, or of one, the oldest first.

    Raises:
        SearchNameError: the cluster has no job of a search of this name.
        InputError: the cluster cannot be reached or refuses the token.
    """
    with head_client(address) as client:
        jobs = _jobs(client) if name is None else _known(client, name)
        last = {job.name: job.id for job in jobs}
        return [_told(client, job) if job.id == last[job.name] else job for job in jobs]


def logs(address: str, name: str, *, follow: bool = False) -> Iterator[str]:
    """What the last job of a search has written, in pieces; with ``follow`` until it ends.

    Raises:
        SearchNameError: the cluster has no job of a search of this name.
        InputError: the cluster cannot be reached or refuses the token.
        TunesearchError: the connection broke while following.
    """
    with head_client(address) as client:
        job = _known(client, name)[-1]
        if not follow:
            yield client.get_job_logs(job.id)
            return
        with asyncio.Runner() as runner:
            pieces = client.tail_job_logs(job.id)

            async def following() -> str | None:
                return await anext(pieces, None)

            while (piece := runner.run(following())) is not None:
                yield piece


def stop(address: str, name: str, *, patience: float = STOP_SECONDS + 30) -> Job:
    """Ask the live job of a search to save and end, and wait until it has; a search that is not live is left as it is.

    Args:
        patience: seconds to wait.

    Returns:
        The last job as it is then.

    Raises:
        SearchNameError: the cluster has no job of a search of this name.
        InputError: the cluster cannot be reached or refuses the token.
    """
    with head_client(address) as client:
        job = _known(client, name)[-1]
        if job.live:
            client.stop_job(job.id)
        until = time.monotonic() + patience
        while job.live and time.monotonic() < until:
            time.sleep(0.5)
            job = _job(client.get_job_info(job.id))
        return _told(client, job)


def call(address: str, arguments: Sequence[str], *, patience: float = 300.0) -> tuple[int, str]:
    """Run a short tunesearch command on the head and wait for it.

    Args:
        arguments: of ``tunesearch``.
        patience: seconds to wait.

    Returns:
        Its exit code, and what it wrote on stdout and stderr together.

    Raises:
        InputError: the cluster cannot be reached or refuses the token.
        TunesearchError: the command could not be started, or did not end in time.
    """
    with head_client(address) as client:
        job = _send(client, arguments, f"tunesearch-{secrets.token_hex(6)}", {_CALL: arguments[0]}, None, None)
        until = time.monotonic() + patience
        while not (details := client.get_job_info(job)).status.is_terminal():
            if time.monotonic() > until:
                raise TunesearchError(
                    f"tunesearch {arguments[0]} has not ended on {address} after {patience:g} seconds"
                )
            time.sleep(0.25)
        log = client.get_job_logs(job)
    if details.driver_exit_code is None:
        raise TunesearchError(f"tunesearch {arguments[0]} could not be run on {address}: {one_line(details.message)}")
    return details.driver_exit_code, _written(log)


# ------------------------------------------------------------------------------------------------------------- the jobs


def _send(
    client: Any,
    arguments: Sequence[str],
    id: str,
    metadata: dict[str, str],
    working_dir: Path | None,
    environment: Mapping[str, str] | None,
) -> str:
    entrypoint = "exec " + shlex.join(["tunesearch", *arguments])
    if "--storage" not in arguments:
        # Without either a search would be kept in a folder of Ray's session, which goes with the cluster.
        entrypoint = f': "${{TUNESEARCH_STORAGE:?{_NO_STORAGE}}}" && {entrypoint}'
    runtime_env: dict[str, Any] = {
        # Ray's job supervisor, which gets these as well, kills after three seconds unless told otherwise.
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), **(environment or {})},
    }
    if working_dir is not None:
        runtime_env |= {"working_dir": str(working_dir), "excludes": list(EXCLUDED)}
    return str(client.submit_job(entrypoint=entrypoint, submission_id=id, metadata=metadata, runtime_env=runtime_env))


def _jobs(client: Any, name: str | None = None) -> list[Job]:
    """Ours, oldest first, without a look into their logs."""
    ours = [details for details in client.list_jobs() if _SEARCH in (details.metadata or {})]
    ours.sort(key=lambda details: details.start_time or 0)
    return [_job(details) for details in ours if name in (None, details.metadata[_SEARCH])]


def _known(client: Any, name: str) -> list[Job]:
    """The jobs of a search: one at least."""
    jobs = _jobs(client)
    if not any(job.name == name for job in jobs):
        hint = nearest(name, dict.fromkeys(job.name for job in jobs))
        raise SearchNameError(Problem(f"search {name}", "was never sent to this cluster as it is up now", hint=hint))
    return [job for job in jobs if job.name == name]


def _job(details: Any) -> Job:
    status, message, code = details.status.value.lower(), "", details.driver_exit_code
    if status == "failed":
        if code is None:
            message = one_line(details.message)
        elif code < 0:
            message = f"its driver was killed by signal {-code}; what it had reached is saved"
        else:
            message = _EXIT.get(code, f"exit code {code}")
        status = "interrupted" if code in (4, 130) else "failed"
    since = (details.start_time if status in _LIVE else details.end_time or details.start_time) or 0
    return Job(details.metadata[_SEARCH], status, since / 1000, message, "", details.submission_id)


_PROGRESS = re.compile(r"\[\d+/\d+ |search \S+: |best: |interrupted; ")
_ERROR = re.compile(
    r"(?:.{0,60}TUNESEARCH_STORAGE: )?(?:error: |unexpected )(.*)"
)  # the shell's own way to say it comes first


def _told(client: Any, job: Job) -> Job:
    """With what its log says."""
    lines = [line.rstrip() for line in _written(client.get_job_logs(job.id)).splitlines() if line.strip()]
    progress = next((line for line in reversed(lines) if _PROGRESS.match(line)), lines[-1] if lines else "")
    message = job.message
    errors = [index for index, line in enumerate(lines) if _ERROR.match(line)]
    if job.status == "failed" and errors:
        following = itertools.takewhile(lambda line: line.startswith("  "), lines[errors[-1] + 1 :])
        message = one_line(" ".join([*_ERROR.findall(lines[errors[-1]]), *following]))
    return Job(job.name, job.status, job.since, message, progress, job.id)


_RAYS_OWN = re.compile(r"^(?:\S+ \S+\tINFO job_manager\.py:.*|Running entrypoint for job .*)\n", re.MULTILINE)


def _written(log: str) -> str:
    """What the command itself wrote. A quick one writes before Ray has written its own lines."""
    return _RAYS_OWN.sub("", log)


def _require_small(folder: Path) -> None:
    """Refuse a folder that Ray would refuse after packing it.

    Raises:
        InputError: it is too large.
    """
    total = 0
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in EXCLUDED]
        for name in files:
            total += (Path(place) / name).lstat().st_size
            if total > MOST_BYTES:
                rule = f"is sent with your own modules, and Ray takes at most {MOST_BYTES >> 20} MB"
                hint = "keep the search space and its modules in a folder of their own; data stay on the cluster"
                raise InputError(Problem(str(folder), rule, hint=hint))
