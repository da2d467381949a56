"""What nodes must have before and while they run trials, and what becomes of a trial that shows no sign of life.

Oracles: the message, which must name each node by its address; the log that the trials append to themselves.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest

import tunesearch

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.filterwarnings("ignore")]

TUNESEARCH = (sys.executable, "-m", "tunesearch")


def _run(space: Path, *more: object) -> list[str]:
    folder = space.parents[1]
    options = ["--data", folder / "data", "--name", "a", "--storage", folder / "runs", *more]
    return [*TUNESEARCH, "run", str(space), *map(str, options)]


def test_every_node_is_examined_before_a_search(fleet: Any, slow_space: Path, tmp_path: Path) -> None:
    """Four nodes with seven faults: all are told at once, by the node's address, and nothing is left behind."""
    runs, data, code, other = (tmp_path / name for name in ("runs", "data", "space", "other"))
    runs.mkdir()
    shutil.copytree(data, other)
    first = min((other / "JPEGImages").iterdir(), key=lambda file: file.name)
    first.write_bytes(first.read_bytes() + b"\0")
    installed = tmp_path / "installed" / "timm-0.0.1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: timm\nVersion: 0.0.1\n")

    def hide(folder: Path) -> str:
        return f"mount -t tmpfs none '{folder}'"

    head = fleet.add("head", cpus=0)
    fleet.wait("head")
    faults = {
        fleet.add("far", setup=hide(runs)): ["must see the storage folder: No such file or directory"],
        fleet.add("apart", setup=f"{hide(runs)}; mkdir '{runs}/a'; echo 1 > '{runs}/a/nonce'"): [
            "must see the driver's storage folder; another one lies there under the same path"
        ],
    }
    fleet.wait("far", "apart")
    readonly = f"mount --bind '{runs}' '{runs}'; mount -o remount,bind,ro '{runs}'"
    changed = f"mount --bind '{other}' '{data}'"
    faults[fleet.add("old", setup=f"{readonly}; {changed}", PYTHONPATH=str(installed.parent))] = [
        "must be able to write to the storage folder: Read-only file system",
        f"must have the same data set as the driver; a file differs, but got {data / 'JPEGImages' / first.name}",
        f"must have timm {version('timm')}, as the driver has, but got 0.0.1",
    ]
    faults[fleet.add("bare", setup=f"{hide(data)}; {hide(code)}")] = [
        f"must be able to read the data set: No such file or directory, but got {data}",
        "must have the code of your own: architecture: must be importable as module:attribute, but got slow_model:slow",
    ]
    fleet.wait("old", "bare")
    done = subprocess.run(
        fleet.command(*_run(slow_space, "--address", fleet.address)),
        env=fleet.environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("  node ")]
    assert len(told) == sum(map(len, faults.values())), done.stderr
    assert head not in done.stderr
    for ip, rules in faults.items():
        for rule in rules:
            assert [line for line in told if line.startswith(f"  node {ip} (") and f"): {rule}" in line], (rule, told)
    assert "Traceback" not in done.stderr
    assert not fleet.log.path.exists()
    assert not (runs / "a").exists()  # the name stays free


def test_a_trial_without_a_sign_of_life_is_started_again(
    slow_space: Path, tmp_path: Path, until: Any, epoch_log: Any, launch: Any
) -> None:
    """One process is stopped by a signal, one hangs in its own code: both trials go on from their checkpoints."""
    said = tmp_path / "said"
    overrides = ("--set", "train.architecture=slow_model:hangs_once", "--set", "scheduler=none")
    command = _run(slow_space, "--local", "--trials", 2, "--cpus-per-trial", 1, "--stall-timeout", "20s", *overrides)
    driver = launch(command, {**os.environ, "TUNESEARCH_EPOCH_LOG": str(epoch_log.path)})
    marker = slow_space.parent / "hung"

    def trains() -> list[int]:
        hung = marker.read_text() if marker.exists() else ""
        return [pid for epoch, pid in epoch_log.under_way().values() if epoch > 1 and hung not in ("", str(pid))]

    stopped = psutil.Process(until(trains, what="one trial hangs, the other trains", process=driver)[0])
    stopped.suspend()
    assert driver.wait(timeout=500) == 0, said.read_text()
    assert not stopped.is_running()
    result = tunesearch.load("a", storage=tmp_path / "runs")
    assert [(record.outcome, record.attempts) for record in result.trials] == [("completed", 1)] * 2
    assert sorted(epoch_log.epochs("end")) == [(number, epoch) for number in (0, 1) for epoch in (1, 2, 3, 4)]
    assert len(set(epoch_log.epochs("begin"))) == 8
    assert len(epoch_log.epochs("begin")) <= 10  # only the two epochs that were interrupted began twice


def test_the_death_of_ray_is_noticed(slow_space: Path, tmp_path: Path, until: Any, epoch_log: Any, launch: Any) -> None:
    """Without its raylet a driver would hang for ever; without the GCS Ray would end it with no word on what to do."""
    said, environment = tmp_path / "said", {**os.environ, "TUNESEARCH_EPOCH_LOG": str(epoch_log.path)}
    resume = [*TUNESEARCH, "resume", "a", "--storage", str(tmp_path / "runs")]
    command = _run(slow_space, "--local", "--trials", 3, "--max-concurrent", 1, "--set", "scheduler=none")
    for victim in ("raylet", "gcs_server"):
        before = len(epoch_log.lines())
        driver = launch(command, environment)
        until(lambda: len(epoch_log.lines()) > before + 2, what="epochs are trained", process=driver)  # noqa: B023
        [process] = [child for child in psutil.Process(driver.pid).children() if child.name() == victim]
        process.kill()
        assert driver.wait(timeout=500) == 4, said.read_text()
        assert f"tunesearch resume a --storage {tmp_path / 'runs'}" in said.read_text()
        assert tunesearch.load("a", storage=tmp_path / "runs").status == "interrupted"
        command = resume
    driver = launch(command, environment)
    assert driver.wait(timeout=500) == 0, said.read_text()
    result = tunesearch.load("a", storage=tmp_path / "runs")
    assert [record.outcome for record in result.trials] == ["completed"] * 3
    assert sorted(epoch_log.epochs("end")) == [(number, epoch) for number in range(3) for epoch in (1, 2, 3, 4)]
