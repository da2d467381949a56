"""Whole searches with the ledger and MLflow on PostgreSQL, as a cluster's head has them, killed and cut off.

Oracles: the same search with its ledger in SQLite; a log that the trials append to themselves; the server's own tables.
"""

from __future__ import annotations

import collections
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),  # MLflow's own, about its dependencies
]

TRIALS, EPOCHS = 5, 4


class Head:
    """Runs tunesearch as on the head: the services' variables and their home, one trial at a time."""

    def __init__(self, services: Any, space: Path, log: Path) -> None:
        self.services = services
        self.space = space
        self.log = log
        self.storage: Path = services.storage
        self.environment = {**os.environ, **services.variables(), "TUNESEARCH_EPOCH_LOG": str(log)}

    def run(self, name: str, *options: str) -> list[str]:
        return [
            sys.executable, "-m", "tunesearch", "run", str(self.space), "--name", name, "--trials", str(TRIALS),
            "--epochs", str(EPOCHS), "--local", "--max-concurrent", "1", "--cpus-per-trial", "1", "--json", *options,
        ]  # fmt: skip

    def resume(self, name: str, *options: str) -> list[str]:
        return [sys.executable, "-m", "tunesearch", "resume", name, "--json", *options]

    def start(self, command: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def ended(self, process: subprocess.Popen[str]) -> list[dict[str, Any]]:
        """The trials of a search that must have come to its end."""
        stdout, stderr = process.communicate(timeout=600)
        assert process.returncode == 0, stderr
        assert stdout.startswith("{"), stdout + stderr
        result = json.loads(stdout)
        assert result["status"] == "completed"
        trials: list[dict[str, Any]] = result["trials"]
        return trials

    def wait_for(self, epochs: int, process: subprocess.Popen[str]) -> None:
        for _ in range(3000):
            if self.log.exists() and self.log.read_text().count("end ") >= epochs:
                return
            assert process.poll() is None, "the search ended too early"
            time.sleep(0.1)
        raise AssertionError("no training in five minutes")

    def trained(self) -> collections.Counter[tuple[int, int]]:
        """How often each epoch of each trial was trained to its checkpoint."""
        words = (line.split() for line in self.log.read_text().splitlines())
        return collections.Counter((int(number), int(epoch)) for what, number, epoch, *_ in words if what == "end")

    def restart_postgresql(self) -> None:
        data = self.storage / ".services" / "postgresql"
        program = Path((data / "postmaster.opts").read_text().split()[0]).with_name("pg_ctl")
        done = self.services.call(program, "restart", "-s", "-w", "-m", "fast", "-D", data, "-l", data / "log")
        assert done.returncode == 0, done.stderr


@pytest.fixture
def head(services: Any, tiny_space: Path, tmp_path: Path) -> Head:
    return Head(services, tiny_space, tmp_path / "epochs.log")


def _in_sqlite(head: Head, folder: Path) -> list[dict[str, Any]]:
    """The trials of the search that nobody disturbs, its ledger and MLflow in SQLite."""
    theirs = ("TUNESEARCH_LEDGER", "MLFLOW_TRACKING_URI", "TUNESEARCH_EPOCH_LOG")
    environment = {name: value for name, value in head.environment.items() if name not in theirs}
    calm = head.run("calm", "--storage", str(folder))
    done = subprocess.run(calm, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "calm" / "ledger.db").is_file()
    trials: list[dict[str, Any]] = json.loads(done.stdout)["trials"]
    return trials


def _on_server(head: Head, asked: str) -> list[tuple[Any, ...]]:
    import psycopg

    url = head.environment["TUNESEARCH_LEDGER"].replace("+psycopg", "")
    with psycopg.connect(url, passfile=head.environment["HOME"] + "/.pgpass") as connection:
        return connection.execute(asked).fetchall()  # type: ignore[arg-type]


def _in_mlflow(head: Head, name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """MLflow's runs of a search by their trial, asked with the password that lies in the home."""
    from mlflow import MlflowClient

    monkeypatch.setenv("HOME", head.environment["HOME"])
    client = MlflowClient(head.environment["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], f"tags.`tunesearch.search` = '{name}'")
    found = {run.data.tags["tunesearch.trial"]: run for run in runs}
    assert len(found) == len(runs)
    return found


def test_killed_and_cut_off_it_is_the_search_that_sqlite_has(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver is killed twice; while the third works, PostgreSQL is restarted, under the ledger and under MLflow."""
    wanted = _in_sqlite(head, tmp_path / "calm")
    process = head.start(head.run("a"))
    for epochs in (3, 6):
        head.wait_for(epochs, process)
        process.kill()
        process.communicate()
        process = head.start(head.resume("a"))
    head.wait_for(9, process)
    head.restart_postgresql()
    assert head.ended(process) == wanted

    counts = head.trained()
    once = {(t["number"], epoch): 1 for t in wanted for epoch in range(1, t["epochs"] + 1)}
    assert counts == once, head.log.read_text()

    # Where it lies: all on the server, nothing beside the files; the password nowhere.
    folder = head.storage / "a"
    assert not (folder / "ledger.db").exists()
    password = (head.storage / ".services" / "postgres_password").read_text()
    assert not [path for path in folder.rglob("*") if path.is_file() and password.encode() in path.read_bytes()]
    study = json.loads((folder / "ledger.json").read_text())["study"]
    states = _on_server(
        head, f"SELECT number, state FROM trials JOIN studies USING (study_id) WHERE study_name = '{study}' ORDER BY 1"
    )
    told = {"completed": "COMPLETE", "stopped": "PRUNED"}
    assert states == [(trial["number"], told[trial["outcome"]]) for trial in wanted]

    runs = _in_mlflow(head, "a", monkeypatch)
    assert sorted(runs) == sorted([*(str(trial["number"]) for trial in wanted), "parent"])
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for trial in wanted:
        assert runs[str(trial["number"])].data.metrics["best_val_miou"] == trial["best_value"]


def test_one_driver_on_all_machines(head: Head, tmp_path: Path) -> None:
    """A second one is refused, also where it sees another file to lock, as on a file system without locks."""
    process = head.start(head.run("one", "--trials", "1000"))
    try:
        head.wait_for(1, process)
        elsewhere = tmp_path / "elsewhere"
        shutil.copytree(head.storage / "one", elsewhere / "one", ignore=shutil.ignore_patterns("ray", "driver.lock"))
        for options in ((), ("--storage", str(elsewhere))):
            second = subprocess.run(
                head.resume("one", *options), env=head.environment, capture_output=True, text=True, check=False
            )
            assert second.returncode == 2
            assert second.stderr.strip().endswith("search one: another process is driving it")
            assert "Traceback" not in second.stderr
    finally:
        process.kill()
        process.communicate()
    # The lock died with its driver: whoever comes next gets it.
    epochs = sum(head.trained().values())
    process = head.start(head.resume("one"))
    head.wait_for(epochs + 2, process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr


def test_a_ledger_that_cannot_be_had(head: Head) -> None:
    """One message, exit code 2, nothing created; a password is refused, and not shown."""
    url = head.environment["TUNESEARCH_LEDGER"]
    for ledger, passwords, said in (
        (url, "/nowhere", "no password supplied"),
        (f"{url.rpartition('/')[0]}/nothing", "", 'database "nothing" does not exist'),
        (url.replace("tunesearch@", "tunesearch:geheim@"), "", "must not hold the password"),
    ):
        environment = {**head.environment, **({"PGPASSFILE": passwords} if passwords else {})}
        refused = subprocess.run(
            head.run("none", "--ledger", ledger), env=environment, capture_output=True, text=True, check=False
        )
        assert refused.returncode == 2, refused.stderr
        assert said in refused.stderr
        assert "Traceback" not in refused.stderr
        assert "geheim" not in refused.stderr
        assert not (head.storage / "none").exists()
