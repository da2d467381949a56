"""Signals to the driver of a real search. Oracles: its exit code, what it says, and ``verify.py`` at the end."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import Search
from verify import verify

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.filterwarnings("ignore")]


def test_signals_save_and_say_how_to_go_on(tmp_path: Path, mlflow_database: Callable[[Path], str]) -> None:
    """Exit code 130 and the resume command, with two trials at once; a second signal does not wait for anything."""
    mlflow_database(tmp_path / "search" / "runs")
    search = Search(tmp_path / "search", concurrency=2)
    how = f"tunesearch resume a --storage {search.storage}"
    try:
        search.start()
        search.wait_for_log("begin", 3)
        search.signal(signal.SIGTERM)
        assert search.wait_for_end() == 130
        assert how in search.said()
        assert search.result()["status"] == "interrupted"
        search.start()
        search.wait_for_log("begin", 2)
        search.signal(signal.SIGINT)
        assert search.wait_for_end() == 130
        assert how in search.said()
        search.start()
        search.hold("take before", 2)  # the driver is busy and cannot end by itself
        search.signal(signal.SIGINT)
        time.sleep(1.0)
        assert search.alive
        search.signal(signal.SIGINT)
        assert search.wait_for_end() == 130
        search.release()
        assert search.finish() == 0, search.said()
        verdict = verify(search)
    finally:
        search.close()
    # A signal interrupts an epoch as a kill does; it is begun again, which the judge only allows to kills.
    assert not [problem for problem in verdict.problems if "was begun again" not in problem]
