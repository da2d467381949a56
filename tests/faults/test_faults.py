"""The short part of the fault campaign; ``make faults`` is the long one. Oracles: see ``verify.py``.

Searches are run by the real command line, on a real Ray and a real MLflow server, and killed with SIGKILL.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import HERE, Kill, Search
from verify import Verdict, judge_decisions, judge_epochs, judge_trials, read_rows, verify

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Callable[[Path], str]) -> Iterator[Search]:
    """The search that nobody kills, at concurrency 1."""
    folder = tmp_path_factory.mktemp("calm") / "search"
    mlflow_database(folder / "runs")
    search = Search(folder)
    try:
        assert search.finish() == 0, search.said()
        yield search
    finally:
        search.close()


def test_killed_and_resumed_it_is_the_search_that_nobody_killed(
    calm: Search, tmp_path: Path, mlflow_database: Callable[[Path], str]
) -> None:
    """At concurrency 1, one kill of each kind: the same trials, nothing lost or repeated, MLflow as the ledger."""
    mlflow_database(tmp_path / "search" / "server")
    search = Search(tmp_path / "search", served=True, seed=1)
    try:
        search.kill(Kill("mlflow", "tracker.log_batch after", 2))
        search.kill(Kill("driver", "ledger.end inside"))
        search.kill(Kill("actor", "checkpoint before", 2))
        assert search.kill(Kill("ray", "asha after")).exit_code == 4
        assert f"tunesearch resume a --storage {search.storage}" in search.said()
        search.kill(Kill("ray and driver", "training", 2))
        assert search.finish() == 0, search.said()
        verdict = verify(search, calm)
    finally:
        search.close()
    assert not verdict.problems
    assert (verdict.lost, verdict.repeated, verdict.zombies) == (0, 0, 0)
    assert sum(verdict.retrained) <= 4


def _more(text: str) -> Callable[[Search], None]:
    """Appends to the log that trials write."""

    def tamper(search: Search) -> None:
        with search.log.open("a") as log:
            log.write(text)

    return tamper


def _sql(statement: str) -> Callable[[Search], None]:
    """Changes the ledger's tables."""

    def tamper(search: Search) -> None:
        with closing(sqlite3.connect(search.storage / "a" / "ledger.db")) as database, database:
            assert database.execute(statement).rowcount > 0

    return tamper


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (_more("end 0 3 1 2000000000.0\n"), "epoch 3 of trial 0 was trained to its end 2 times"),
        (_more("begin 0 9 1 2000000000.0\n"), "epoch 9 of trial 0 was begun again though nobody was killed"),
        (_sql("UPDATE trials SET state = 'RUNNING' WHERE number = 4"), "trial 4 is still RUNNING in Optuna"),
        (_sql("UPDATE trials SET number = 20 WHERE number = 9"), "numbers have gaps"),
        (_sql("UPDATE trial_values SET value = value + 0.1"), "its value is"),
        (_sql("DELETE FROM trial_intermediate_values WHERE step = 2"), "Optuna was told"),
        (_sql("DELETE FROM trial_user_attributes WHERE key = 'epoch:0002'"), "has gaps"),
        (
            _sql(
                "UPDATE trial_user_attributes SET value_json = "
                "replace(value_json, '\"stopped\": true', '\"stopped\": false')"
            ),
            "decided was []",
        ),
    ],
)
def test_the_judge_sees(calm: Search, tmp_path: Path, tamper: Callable[[Search], None], said: str) -> None:
    """What the campaign looks for is found where it is."""
    folder = tmp_path / "search"
    shutil.copytree(calm.folder, folder)
    search = Search.read(folder)
    shown = json.loads(calm._output("out").read_text())

    def problems() -> str:
        verdict, rows = Verdict(), read_rows(search.storage / "a" / "ledger.db")
        judge_trials(search, rows, shown, verdict)
        judge_epochs(search, rows, verdict)
        judge_decisions(search, rows, verdict)
        return "\n".join(verdict.problems)

    assert problems() == ""
    tamper(search)
    assert said in problems()


def test_the_injection_leaves_another_sitecustomize_in_place(tmp_path: Path) -> None:
    """Both run, and without its variable ours wraps nothing."""
    (tmp_path / "sitecustomize.py").write_text("import os; os.environ['OTHER'] = 'ran'")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE / "inject"), str(tmp_path)])}
    script = (
        "import os, sys, sitecustomize, tunesearch.strategy.asha as a;"
        "print(os.environ['OTHER'], sitecustomize.__file__, hasattr(a.Asha.stops, '__wrapped__'))"
    )
    for variables, wrapped in (({}, False), ({"TUNESEARCH_FAULTS": str(tmp_path)}, True)):
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment | variables, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["ran", str(HERE / "inject" / "sitecustomize.py"), str(wrapped)]
