"""What people ask of a search. Oracles: counts worked by hand, an heir of a driver that died."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import tunesearch
from tunesearch.engine.asking import Asker
from tunesearch.errors import InputError
from tunesearch.experiment import load_experiment
from tunesearch.ledger import steering as requests
from tunesearch.ledger.store import Ledger
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.epoch import EpochMetrics

EMPTY = Split(root=Path("/nowhere"), train=(), val=())
Metrics = Callable[..., EpochMetrics]


def _create(space: Path, storage: Path, *overrides: str) -> Ledger:
    return Ledger.create(storage, "a", load_experiment(space, overrides=overrides), EMPTY, {})


def _finish(ledger: Ledger, metrics: Metrics) -> None:
    """Ask and complete until nothing more is wanted."""
    while len(ledger.counted()) < ledger.target and (record := Asker(ledger).ask()) is not None:
        ledger.commit_epoch(metrics(1, 0.4), number=record.number, stopped=False)
        ledger.end(record.number, "completed")


def test_extend_and_enqueue_come_on_top(tiny_space: Path, tmp_path: Path, epoch_metrics: Metrics) -> None:
    """4 trials, 3 more, 2 wishes: 9. Another process asks; the driver sees it at its next look."""
    driver = _create(tiny_space, tmp_path, "search.trials=4")
    other = Ledger.open(tmp_path, "a")
    assert requests.extend(other, 3) == 7
    requests.enqueue(other, {"lr": 0.0625, "optimizer": "adam"})
    requests.enqueue(other, {"lr": 0.03125})
    assert driver.target == 4
    driver.poll()
    assert driver.target == 9
    first, second, third = Asker(driver).ask(), Asker(driver).ask(), Asker(driver).ask()
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.parameters == {"lr": 0.0625, "optimizer": "adam"}
    assert second.parameters["lr"] == 0.03125
    assert third.parameters["lr"] not in (0.0625, 0.03125)
    assert driver.requests.points() == []
    for record in (first, second, third):
        driver.end(record.number, "cancelled")
    _finish(driver, epoch_metrics)
    assert len(driver.counted()) == driver.target == 9


def test_a_wish_is_granted_once_whatever_dies(tiny_space: Path, tmp_path: Path) -> None:
    """The trial and the note that it grants the wish are one commit: the heir does not try the point again."""
    ledger = _create(tiny_space, tmp_path / "runs")
    requests.enqueue(ledger, {"lr": 0.0625})
    ledger.poll()
    record = Asker(ledger).ask()
    assert record is not None
    shutil.copytree(ledger.folder, tmp_path / "heir" / "a", ignore=shutil.ignore_patterns("driver.lock"))
    heir = Ledger.open(tmp_path / "heir", "a", drive=True)
    assert [live.number for live in heir.recover()] == [0]
    assert heir.requests.points() == []
    assert heir.target == 5


def test_a_wish_that_leaves_something_open_is_not_spent_on_duplicates(tiny_space: Path, tmp_path: Path) -> None:
    """Two parameters of two values: three points were tried, a wish leaves the fourth one open. It gets that one."""
    two = ("parameters.momentum=null", "parameters.lr={choice: [0.1, 0.2]}")
    ledger = _create(tiny_space, tmp_path, *two)
    for point in ({"lr": 0.1, "optimizer": "adam"}, {"lr": 0.1, "optimizer": "sgd"}, {"lr": 0.2, "optimizer": "adam"}):
        requests.enqueue(ledger, point)
    requests.enqueue(ledger, {"lr": 0.2})
    ledger.poll()
    asked = [Asker(ledger).ask() for _ in range(4)]
    assert asked[3] is not None
    assert asked[3].parameters == {"lr": 0.2, "optimizer": "sgd"}
    assert ledger.requests.points() == []
    assert ledger.target == 4 + 4


def test_a_grid_skips_no_point_for_a_wish(tiny_space: Path, tmp_path: Path, epoch_metrics: Metrics) -> None:
    steps = "parameters.lr={float: [0.1, 0.4], step: 0.1}"
    overrides = ("search.sampler=grid", "search.trials=8", "parameters.momentum=null", steps)
    ledger = _create(tiny_space, tmp_path, *overrides)
    points = ledger.experiment.space.grid_size()
    first = Asker(ledger).ask()
    assert first is not None
    requests.retry(ledger, failed=True, trials=[])  # nothing has failed: nothing is asked
    ledger.end(first.number, "failed", "a disk")
    assert requests.retry(ledger, failed=True, trials=[]) == [0]
    ledger.poll()
    _finish(ledger, epoch_metrics)
    asked = [tuple(sorted(record.parameters.items())) for record in ledger.counted()]
    assert len(set(asked)) == points == 8
    assert len(asked) == 9
    assert [record.retry_of for record in ledger.counted()].count(0) == 1
    with pytest.raises(InputError, match="a grid of 8 points"):
        requests.extend(ledger, 1)


def test_a_retry_is_the_same_training_and_is_not_retried_twice(tiny_space: Path, tmp_path: Path) -> None:
    ledger = _create(tiny_space, tmp_path)
    record = Asker(ledger).ask()
    assert record is not None
    ledger.end(record.number, "lost", "its node died")
    assert requests.retry(ledger, failed=True, trials=[]) == [0]
    ledger.poll()
    assert requests.retry(ledger, failed=True, trials=[]) == []  # it waits
    again = Asker(ledger).ask()
    assert again is not None
    assert again.config == record.config
    assert again.retry_of == 0
    assert requests.retry(ledger, failed=True, trials=[0]) == []  # it runs
    ledger.end(again.number, "failed", "a bug")
    assert requests.retry(ledger, failed=True, trials=[]) == [1]  # the retry failed in its turn
    assert Ledger.open(tmp_path, "a").trials[1].retry_of == 0


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ({}, "needs at least one parameter"),
        ({"optimiser": "adam"}, "enqueue optimiser: is no parameter of this space (did you mean 'optimizer'?)"),
        ({"optimizer": "rmsprop"}, "enqueue optimizer: must be one of"),
        ({"lr": 1.0}, "enqueue lr: must lie in float 0.0001 .. 0.1, log, but got 1.0"),
        ({"momentum": 0.9}, "enqueue momentum: only has a meaning when optimizer = sgd"),
        ({"epochs": 4}, "enqueue epochs: is fixed at 3, not searched (leave it out)"),
    ],
)
def test_points_that_do_not_fit(tiny_space: Path, tmp_path: Path, point: dict[str, object], said: str) -> None:
    ledger = _create(tiny_space, tmp_path)
    with pytest.raises(InputError) as caught:
        requests.enqueue(ledger, point)  # type: ignore[arg-type]
    assert said in str(caught.value)
    ledger.poll()
    assert ledger.target == 4


def test_a_point_that_was_tried_is_refused(tiny_space: Path, tmp_path: Path) -> None:
    ledger = _create(tiny_space, tmp_path)
    record = Asker(ledger).ask()
    assert record is not None
    with pytest.raises(InputError, match="equals trial 0 in effect"):
        requests.enqueue(ledger, record.parameters)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["lr"], "enqueue: must be PATH=VALUE, such as lr=0.01, but got 'lr'"),
        (["lr="], "enqueue lr: needs a value after ="),
        (["lr=0.01", "lr=0.02"], "enqueue lr: is given twice"),
        (["lr=[0.1, 0.2]"], "enqueue lr: must be one value, but got [0.1, 0.2]"),
    ],
)
def test_texts_that_are_no_point(tiny_space: Path, tmp_path: Path, texts: list[str], said: str) -> None:
    _create(tiny_space, tmp_path).close()
    with pytest.raises(InputError) as caught:
        tunesearch.enqueue("a", texts, storage=tmp_path)
    assert said in str(caught.value)


def test_only_what_runs_can_be_stopped(tiny_space: Path, tmp_path: Path) -> None:
    ledger = _create(tiny_space, tmp_path)
    record = Asker(ledger).ask()
    assert record is not None
    ledger.close()
    with pytest.raises(InputError, match="is not running"):
        tunesearch.stop("a", storage=tmp_path)
    with pytest.raises(InputError, match="must be a trial, 0 to 0, but got 7"):
        tunesearch.stop("a", trial=7, storage=tmp_path)
    tunesearch.stop("a", trial=0, storage=tmp_path)  # it is live: whoever resumes the search ends it
    heir = Ledger.open(tmp_path, "a", drive=True)
    assert heir.requests.stops(0)
    heir.end(0, "cancelled")
    with pytest.raises(InputError, match="must not have ended, but got 0, which is cancelled"):
        requests.stop(heir, 0)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_a_running_search_is_steered(tiny_space: Path, tmp_path: Path) -> None:
    """A real driver in a process of its own; what it is asked from here. Oracle: the counts and the trainer's log."""
    storage, log = tmp_path / "runs", tmp_path / "epochs.log"
    command = [
        sys.executable, "-m", "tunesearch", "run", str(tiny_space), "--name", "a", "--storage", str(storage), "--local",
        "--trials", "2", "--epochs", "400", "--max-concurrent", "2", "--set", "scheduler=none", "--json",
    ]  # fmt: skip
    environment = {**os.environ, "TUNESEARCH_EPOCH_LOG": str(log)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        _wait(lambda: log.exists() and {line.split()[1] for line in log.read_text().splitlines()} == {"0", "1"})
        assert tunesearch.enqueue("a", {"lr": 0.0625, "optimizer": "adam"}, storage=storage)  # before a place is free
        tunesearch.stop("a", trial=0, storage=storage)
        assert tunesearch.extend("a", 1, storage=storage) == (4, True)
        _wait(lambda: "begin 2 " in log.read_text())
        assert tunesearch.load("a", storage=storage).trials[0].outcome == "cancelled"
        tunesearch.stop("a", storage=storage)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr.decode()
    assert f"tunesearch resume a --storage {storage}" in stderr.decode()
    found = json.loads(stdout)
    assert found["status"] == "interrupted"
    trials = {trial["number"]: trial for trial in found["trials"]}
    assert trials[0]["outcome"] == "cancelled"
    assert trials[0]["message"] == "stopped by hand"
    assert trials[1]["outcome"] == "running"
    assert trials[2]["parameters"] == {"lr": 0.0625, "optimizer": "adam"}
    assert len(trials) == 3
    assert tunesearch.load("a", storage=storage).status == "interrupted"


def _wait(until: Callable[[], bool]) -> None:
    for _ in range(3000):
        if until():
            return
        time.sleep(0.1)
    raise AssertionError("not within five minutes")
