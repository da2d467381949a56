"""What a search ends with, over a ledger that is written here. By hand: the lines of a terminal of 80 columns."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tunesearch.api.result import SearchResult, result_of
from tunesearch.cli.showing import print_result
from tunesearch.engine.asking import Asker
from tunesearch.experiment import load_experiment
from tunesearch.ledger.store import Ledger
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.epoch import EpochMetrics

SCORES = (0.1, 0.7, 0.3, 0.2, 0.6, 0.5, 0.4)
"""Of trials 0 to 6; 7 failed."""


@pytest.fixture
def result(tiny_space: Path, tmp_path: Path, epoch_metrics: Callable[..., EpochMetrics]) -> SearchResult:
    """A search of eight trials: the best is trial 1, the last one failed."""
    split = Split(root=Path("/nowhere"), train=(), val=())
    experiment = load_experiment(tiny_space, overrides=["search.trials=8", "train.epochs=2"])
    ledger = Ledger.create(tmp_path / "runs", "a", experiment, split, {})
    asker = Asker(ledger)
    for score in SCORES:
        record = asker.ask()
        assert record is not None
        for epoch in (1, 2):
            metrics = epoch_metrics(epoch, score * epoch / 2, val_iou=(score, None, 0.5, 0.5, 0.5))
            ledger.commit_epoch(metrics, number=record.number, stopped=False)
        ledger.end(record.number, "completed")
    failed = asker.ask()
    assert failed is not None
    ledger.end(failed.number, "failed", "ValueError: no such thing")
    try:
        return result_of(ledger, "completed")
    finally:
        ledger.close()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """A terminal of 80 columns; gives its lines without colours."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    return lambda: re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()


def test_the_best_trial_once_and_the_five_next(result: SearchResult, terminal: Callable[[], list[str]]) -> None:
    print_result(result, None)
    lines = terminal()
    assert [line for line in lines if line.startswith("best: ")] == ["best: trial 1, val_miou 0.7000"]
    rows = [line.split()[:4] for line in lines if re.match(r"\d+ +(completed|failed) ", line)]
    assert [row[0] for row in rows] == ["4", "5", "6", "2", "3"]  # by score; 1 is told below, 0 and 7 are "2 more"
    assert rows[0] == ["4", "completed", "2", "0.6000"]
    assert "and 2 more: tunesearch show a" in lines
    assert "trial 7 failed: ValueError: no such thing" in lines
    assert max(map(len, lines)) <= 80
    told = " ".join(" ".join(lines).split())
    assert "IoU per class: background 0.700, disc absent, square 0.500, triangle 0.500, stripes 0.500" in told


def test_the_commands_that_come_next_are_whole(result: SearchResult, terminal: Callable[[], list[str]]) -> None:
    storage = Path("/a/rather/long/folder/of/searches/that/does/not/fit/into/a/terminal/of/eighty/columns")
    print_result(result, storage)
    steps = [line.split("tunesearch ", 1)[1] for line in terminal() if re.match(r"  \S.* tunesearch ", line)]
    assert steps == [
        f"confirm a --storage {storage}",
        f"report a --storage {storage}",
        f"export a -o a_model --storage {storage}",
        f"ui --storage {storage}",
    ]


def test_every_trial_by_number(result: SearchResult, terminal: Callable[[], list[str]]) -> None:
    print_result(result, None, every=True)
    rows = [line.split()[0] for line in terminal() if re.match(r"\d+ +(completed|failed) ", line)]
    assert rows == list("01234567")
