"""SIGKILL and SIGINT of a real driver during real training. Oracle: a log that the trials append to themselves."""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TRIALS, EPOCHS = 6, 4


def _command(tiny_space: Path, storage: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "tunesearch", "run", str(tiny_space), "--name", "a", "--storage", str(storage),
        "--trials", str(TRIALS), "--epochs", str(EPOCHS), "--local", "--json", *more,
    ]  # fmt: skip


def _resume(storage: Path, environment: dict[str, str]) -> dict[str, object]:
    command = [sys.executable, "-m", "tunesearch", "resume", "a", "--storage", str(storage), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


def _wait_for(log: Path, lines: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(3000):
        if log.exists() and log.read_text().count("end ") >= lines:
            return
        assert process.poll() is None, "the search ended before it could be killed"
        time.sleep(0.1)
    raise AssertionError("no training in five minutes")


def _epochs(log: Path) -> collections.Counter[tuple[int, int]]:
    """How often each epoch of each trial was trained to its checkpoint."""
    words = (line.split() for line in log.read_text().splitlines())
    return collections.Counter((int(number), int(epoch)) for what, number, epoch, *_ in words if what == "end")


def test_sigkill_then_resume_gives_the_uninterrupted_search(tiny_space: Path, tmp_path: Path) -> None:
    """At concurrency 1, killed three times: the trials of the search that nobody killed; nothing lost or repeated."""
    one_at_a_time = ("--max-concurrent", "1", "--cpus-per-trial", "1")
    calm = subprocess.run(
        _command(tiny_space, tmp_path / "calm", *one_at_a_time), capture_output=True, text=True, timeout=600, check=True
    )
    expected = json.loads(calm.stdout)["trials"]

    log, storage = tmp_path / "epochs.log", tmp_path / "runs"
    environment = {**os.environ, "TUNESEARCH_EPOCH_LOG": str(log)}
    process = subprocess.Popen(
        _command(tiny_space, storage, *one_at_a_time),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    resume = [sys.executable, "-m", "tunesearch", "resume", "a", "--storage", str(storage), "--json"]
    for kill in (2, 5, 9):
        _wait_for(log, kill, process)
        process.kill()
        process.wait()
        if kill != 9:
            process = subprocess.Popen(resume, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = _resume(storage, environment)
    assert found["status"] == "completed"
    assert found["trials"] == expected

    counts = _epochs(log)
    wanted = {(trial["number"], epoch) for trial in expected for epoch in range(1, trial["epochs"] + 1)}
    assert set(counts) == wanted
    assert max(counts.values()) == 1  # what a kill cost is the epoch that it interrupted, not one that was on disk

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    names = sorted(run.data.tags["tunesearch.trial"] for run in runs)
    assert names == sorted([str(trial["number"]) for trial in expected] + ["parent"])
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_sigint_saves_and_says_how_to_go_on(tiny_space: Path, tmp_path: Path) -> None:
    """Exit code 130 and the resume command; two trials at once, none is lost."""
    log, storage = tmp_path / "epochs.log", tmp_path / "runs"
    environment = {**os.environ, "TUNESEARCH_EPOCH_LOG": str(log)}
    process = subprocess.Popen(
        _command(tiny_space, storage), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    _wait_for(log, 3, process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr.decode()
    assert f"tunesearch resume a --storage {storage}" in stderr.decode()
    assert json.loads(stdout)["status"] == "interrupted"
    found = _resume(storage, environment)
    assert found["status"] == "completed"
    assert [trial["number"] for trial in found["trials"]] == list(range(TRIALS))  # type: ignore[index,attr-defined]
    assert max(_epochs(log).values()) == 1
