"""The watchdog over heartbeat files that are written by hand; time is what is told to it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tunesearch.engine.heartbeat import FILE
from tunesearch.engine.watchdog import Watchdog


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that passes when its ``now`` is set."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def beat(tmp_path: Path) -> Callable[[int], None]:
    """Writes trial 0's heartbeat of that count."""

    def write(count: int) -> None:
        (tmp_path / FILE).write_text(json.dumps({"node": "n", "pid": 42, "created": 7.0, "count": count}))

    return write


def _watchdog(folder: Path, ended: list[Any]) -> Watchdog:
    ledger: Any = SimpleNamespace(trial_folder=lambda number: folder)
    return Watchdog(
        ledger, stall_timeout=60.0, end_process=lambda *what: ended.append(what), on_message=lambda text: None
    )


def test_a_heartbeat_that_stops_ends_its_process_once(
    tmp_path: Path, clock: SimpleNamespace, beat: Callable[[int], None]
) -> None:
    ended: list[Any] = []
    watchdog = _watchdog(tmp_path, ended)
    beat(1)
    for now, count in ((0, 1), (50, 2), (105, 2), (109, 2)):
        clock.now = 1000.0 + now
        beat(count)
        watchdog.check([0])
    assert ended == []
    clock.now += 2.0  # 61 s since the second beat was seen
    watchdog.check([0])
    watchdog.check([0])
    assert ended == [("n", 42, 7.0)]


def test_a_trial_without_a_heartbeat_waits_for_its_node(tmp_path: Path, clock: SimpleNamespace) -> None:
    ended: list[Any] = []
    watchdog = _watchdog(tmp_path, ended)
    for now in (0, 1000, 2000):
        clock.now = 1000.0 + now
        watchdog.check([0])
    assert ended == []


def test_the_drivers_own_pause_is_not_the_trials_silence(
    tmp_path: Path, clock: SimpleNamespace, beat: Callable[[int], None]
) -> None:
    ended: list[Any] = []
    watchdog = _watchdog(tmp_path, ended)
    beat(1)
    watchdog.check([0])
    clock.now += 100.0
    watchdog.excuse(90.0)
    watchdog.check([0])
    assert ended == []


def test_what_is_forgotten_begins_anew(tmp_path: Path, clock: SimpleNamespace, beat: Callable[[int], None]) -> None:
    ended: list[Any] = []
    watchdog = _watchdog(tmp_path, ended)
    beat(1)
    watchdog.check([0])
    watchdog.forget(0)
    assert not (tmp_path / FILE).exists()
    beat(1)
    clock.now += 100.0
    watchdog.check([0])
    assert ended == []
