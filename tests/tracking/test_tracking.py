"""MLflow as a view of the ledger, on real MLflow and SQLite, without Ray. Oracles: the ledger; a fresh ``sync``."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import types
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tunesearch
from tunesearch.engine.asking import Asker
from tunesearch.errors import InputError
from tunesearch.experiment import load_experiment
from tunesearch.ledger import store as ledger_module
from tunesearch.ledger.store import Ledger
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.tracking.store import default_uri, without_password
from tunesearch.tracking.sync import sync
from tunesearch.tracking.tracker import Tracker

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # MLflow's own, about its dependencies


def _metrics(epoch: int, miou: float) -> EpochMetrics:
    return EpochMetrics(
        epoch=epoch, train_loss=1.0, val_loss=1.0 - miou, val_miou=miou, val_miou_no_background=miou, val_dice=miou,
        val_pixel_accuracy=miou, val_iou=(miou, None), lr=0.1, updates=epoch, train_seconds=1.0, val_seconds=0.5,
        images_per_second=10.0, finished_at=1000.0 + epoch,
    )  # fmt: skip


def _search(space: Path, storage: Path, name: str = "a", seed: int = 0, trials: int = 4) -> Ledger:
    """Two trials: one completed with 0.4 then 0.3, one live after an epoch."""
    experiment = load_experiment(space, overrides=[f"search.seed={seed}", f"search.trials={trials}"])
    ledger = Ledger.create(storage, name, experiment, Split(root=Path("/nowhere"), train=(), val=()), {})
    for number in range(2):
        record = Asker(ledger).ask()
        assert record is not None
        ledger.commit_epoch(_metrics(1, 0.4), number=number, stopped=False)
        if number == 0:
            ledger.commit_epoch(_metrics(2, 0.3), number=number, stopped=False)
            ledger.end(number, "completed")
    return ledger


def _told(uri: str) -> dict[tuple[str, str], Any]:
    """Every run by its search's identity and its trial."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    by_key = {(run.data.tags["tunesearch.identity"], run.data.tags["tunesearch.trial"]): run for run in runs}
    assert len(by_key) == len(runs)
    return by_key


def test_the_view_and_its_end(tiny_space: Path, storage: Path) -> None:
    """Hand-worked: the parent has the best value 0.4 of the first epoch; an interruption closes the live trial."""
    ledger = _search(tiny_space, storage)
    uri = default_uri(storage)
    tracker = Tracker(ledger, uri)
    tracker.start()
    assert tracker.finish("interrupted")
    runs = {trial: run for (_, trial), run in _told(uri).items()}
    assert runs["parent"].data.metrics["best_val_miou"] == 0.4
    assert runs["parent"].data.metrics["search_best/val_loss"] == pytest.approx(0.6)
    assert runs["parent"].info.status == "KILLED"
    assert runs["parent"].data.tags["tunesearch.count.completed"] == "1"
    assert runs["0"].data.metrics["val_miou"] == 0.3
    assert (runs["0"].info.status, runs["1"].info.status) == ("FINISHED", "KILLED")
    assert runs["1"].data.tags["tunesearch.outcome"] == "running"

    # The search goes on: the same runs, open again, then closed.
    ledger.commit_epoch(_metrics(2, 0.5), number=1, stopped=False)
    ledger.end(1, "stopped")
    tracker = Tracker(ledger, uri)
    tracker.start()
    assert tracker.finish("completed")
    again = {trial: run for (_, trial), run in _told(uri).items()}
    assert {trial: run.info.run_id for trial, run in again.items()} == {t: r.info.run_id for t, r in runs.items()}
    assert {run.info.status for run in again.values()} == {"FINISHED"}
    assert again["1"].data.metrics["best_val_miou"] == 0.5


def test_a_lost_mlflow_is_rebuilt_in_place(
    tiny_space: Path, storage: Path, tmp_path: Path, mlflow_database: Callable[..., str]
) -> None:
    """An empty database under an address whose run ids the ledger knows: they are worthless, and made anew."""
    ledger = _search(tiny_space, storage)
    uri = default_uri(storage)
    sync(ledger, uri, status="interrupted")
    other = mlflow_database(tmp_path, "new.db")
    for name, value in ledger.attributes(f"mlflow_run:{uri}:").items():  # as if it had been noted under the new one
        ledger.set_attribute(f"mlflow_run:{other}:{name}", value)
    sync(ledger, other, status="interrupted")
    assert {trial for _, trial in _told(other)} == {"parent", "0", "1"}


def test_a_run_that_a_dying_driver_could_not_note_is_found(tiny_space: Path, storage: Path) -> None:
    """Oracle: no second run for the trial."""
    ledger = _search(tiny_space, storage)
    uri = default_uri(storage)
    sync(ledger, uri, status="interrupted")
    before = {key: run.info.run_id for key, run in _told(uri).items()}
    for name in ("0", "parent"):
        ledger.set_attribute(f"mlflow_run:{uri}:{name}", "was never written")
    sync(ledger, uri, status="interrupted")
    assert {key: run.info.run_id for key, run in _told(uri).items()} == before


def test_a_name_given_again_is_another_search(tiny_space: Path, storage: Path) -> None:
    """The first search's folder was removed; its runs stay its own."""
    import shutil

    uri = default_uri(storage)
    first = _search(tiny_space, storage, seed=1)
    sync(first, uri, status="completed")
    first.close()
    shutil.rmtree(first.folder)
    second = _search(tiny_space, storage, seed=2)
    sync(second, uri, status="completed")
    assert len(_told(uri)) == 6


def test_a_driver_that_died_behind_the_last_trial(tiny_space: Path, storage: Path) -> None:
    """All trials have ended, nothing was closed: ``resume`` closes it without Ray or data, here and in MLflow."""
    ledger = _search(tiny_space, storage, trials=2)
    ledger.commit_epoch(_metrics(2, 0.2), number=1, stopped=True)
    ledger.end(1, "stopped")
    ledger.set_attribute("status", "running")
    ledger.close()
    assert tunesearch.load("a", storage=storage).status == "interrupted"
    assert tunesearch.resume("a", storage=storage).status == "completed"
    assert tunesearch.load("a", storage=storage).status == "completed"
    runs = _told(default_uri(storage))
    assert sorted(trial for _, trial in runs) == ["0", "1", "parent"]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_passwords_are_not_shown() -> None:
    assert without_password("http://me:secret@host:5000/x") == "http://host:5000/x"
    assert without_password("http://me:se@cret@host:5000/x") == "http://host:5000/x"
    assert without_password("postgresql://host/db?user=me&password=secret&a=b") == (
        "postgresql://host/db?user=***&password=***&a=b"
    )
    assert without_password("sqlite:////data/mlflow.db") == "sqlite:////data/mlflow.db"
    assert without_password("sqlite:////data/x@y/mlflow.db") == "sqlite:////data/x@y/mlflow.db"


# ------------------------------------------------------------------------------------------- live and from the ledger


def _dump(uri: str) -> dict[str, Any]:
    """All that an MLflow says of a search, by trial; its own ids taken out."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    runs = {trial: run for (_, trial), run in _told(uri).items()}
    for run in runs.values():
        assert run.data.tags.get("mlflow.parentRunId") in (None, runs["parent"].info.run_id)
    return {
        trial: {
            "params": run.data.params,
            "tags": {name: value for name, value in run.data.tags.items() if name != "mlflow.parentRunId"},
            "child": "mlflow.parentRunId" in run.data.tags,
            "info": (run.info.run_name, run.info.status, run.info.start_time, run.info.end_time),
            "points": {
                name: sorted(
                    (point.step, point.timestamp, point.value)
                    for point in client.get_metric_history(run.info.run_id, name)
                )
                for name in run.data.metrics
            },
            "latest": run.data.metrics,
            "artifacts": sorted(file.path for file in client.list_artifacts(run.info.run_id)),
        }
        for trial, run in runs.items()
    }


@pytest.fixture
def fresh(tmp_path: Path, mlflow_database: Callable[..., str]) -> Callable[[Ledger, str], dict[str, Any]]:
    """What ``sync`` tells an empty MLflow: (ledger, status) -> see :func:`_dump`."""
    numbers = itertools.count()

    def tell(ledger: Ledger, status: str) -> dict[str, Any]:
        uri = mlflow_database(tmp_path, f"fresh{next(numbers)}.db")
        sync(ledger, uri, status=status)
        return _dump(uri)

    return tell


Fresh = Callable[[Ledger, str], dict[str, Any]]


def _session(ledger: Ledger, uri: str, status: str, work: Callable[[Tracker], None] = lambda tracker: None) -> None:
    tracker = Tracker(ledger, uri)
    tracker.start()
    work(tracker)
    assert tracker.finish(status)


def test_sync_tells_what_was_told_live(
    tiny_space: Path, storage: Path, monkeypatch: pytest.MonkeyPatch, fresh: Fresh
) -> None:
    """Three sessions, endings of every kind, while the driver's clock and a worker's are set back again and again."""
    clock = iter(range(2_000_000_000, 0, -1000))
    monkeypatch.setattr(ledger_module, "time", types.SimpleNamespace(time=lambda: next(clock), time_ns=time.time_ns))
    ledger = _search(tiny_space, storage, trials=8)  # 0 completed, 1 has an epoch
    uri = default_uri(storage)

    def epoch(number: int, epoch: int, miou: float, at: float) -> None:
        metrics = _metrics(epoch, miou)
        object.__setattr__(metrics, "finished_at", at)
        ledger.commit_epoch(metrics, number=number, stopped=False)

    def leave(number: int, file: str) -> None:
        ledger.trial_folder(number).mkdir(parents=True)
        (ledger.trial_folder(number) / file).write_text(f"of {number}")

    def first(tracker: Tracker) -> None:
        ledger.end(1, "stopped")
        for _ in range(4):
            Asker(ledger).ask()
            tracker.changed(max(ledger.trials))
        leave(2, "error.txt")
        ledger.end(2, "failed", "on purpose")  # without an epoch
        tracker.changed(2)
        for number, at in enumerate((5e9, 3e9, 4e9), start=1):  # beyond the driver's clock, and back
            epoch(3, number, 0.3 + number / 10, at)
            tracker.changed(3)

    def second(tracker: Tracker) -> None:
        leave(3, "predictions.png")
        ledger.end(3, "completed")
        tracker.changed(3)
        epoch(4, 1, 0.9, 10.0)  # before everything
        ledger.end(4, "out_of_memory", "too large")
        tracker.changed(4)

    def third(tracker: Tracker) -> None:
        leave(5, "predictions.png")
        epoch(5, 1, 0.65, 2e9)
        ledger.end(5, "completed")
        tracker.changed(5)

    for work, status in ((first, "interrupted"), (second, "interrupted"), (third, "completed")):
        _session(ledger, uri, status, work)
        live = _dump(uri)
        assert live == fresh(ledger, status)
    assert {trial: run["artifacts"] for trial, run in live.items() if trial in ("2", "3", "parent")} == {
        "2": ["config.json", "error.txt"],
        "3": ["config.json", "predictions.png"],
        "parent": ["best.json", "experiment.yaml", "predictions.png", "split.json", "versions.json"],
    }
    assert sorted(live) == ["0", "1", "2", "3", "4", "5", "parent"]
    for run in live.values():
        assert run["info"][3] >= run["info"][2]  # no end before its start
    assert [(step, at) for step, at, _ in live["3"]["points"]["val_miou"]] == [
        (1, int(5e12)), (2, int(3e12)), (3, int(4e12))
    ]  # fmt: skip
    assert live["3"]["latest"]["val_miou"] == pytest.approx(0.6)
    # Hand-worked. Ends in their order: 0 completed with 0.4, 1 stopped with 0.4, 2 failed, 3 completed with 0.6,
    # 4 out of memory with 0.9, 5 completed with 0.65; a completed trial goes before any other.
    assert [(step, value) for step, _, value in live["parent"]["points"]["best_val_miou"]] == [
        (1, 0.4), (4, pytest.approx(0.6)), (6, 0.65)
    ]  # fmt: skip
    assert live["parent"]["tags"]["tunesearch.best_trial"] == "5"
    counts = {name: value for name, value in live["parent"]["tags"].items() if ".count." in name}
    assert counts == {
        "tunesearch.count.completed": "3", "tunesearch.count.stopped": "1",
        "tunesearch.count.failed": "1", "tunesearch.count.out_of_memory": "1",
    }  # fmt: skip


def test_a_run_that_was_made_twice_is_one_again(tiny_space: Path, storage: Path) -> None:
    """The answer to the request that made it was lost, so that it was made again. The one that was logged to stays."""
    from mlflow import MlflowClient

    ledger = _search(tiny_space, storage)
    uri = default_uri(storage)
    sync(ledger, uri, status="interrupted")
    before = _dump(uri)
    client = MlflowClient(tracking_uri=uri)
    for run in list(_told(uri).values()):
        tags = {name: value for name, value in run.data.tags.items() if name.startswith("tunesearch.")}
        client.create_run(run.info.experiment_id, tags=tags, start_time=run.info.start_time)
    sync(ledger, uri, status="interrupted")
    assert _dump(uri) == before  # which asserts that there is one run of each


# ----------------------------------------------------------------------------------------------- an MLflow in trouble


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it did not come true within two minutes"
        time.sleep(0.05)


def test_a_refused_trial_does_not_hold_up_the_others(tiny_space: Path, storage: Path, fresh: Fresh) -> None:
    """A trial's run is deleted by hand meanwhile: MLflow refuses it, takes the others, and has it anew at the end."""
    from mlflow import MlflowClient

    ledger = _search(tiny_space, storage)
    uri = default_uri(storage)
    said: list[str] = []
    tracker = Tracker(ledger, uri, on_message=said.append)
    client = MlflowClient(tracking_uri=uri)
    tracker.start()
    _until(lambda: client.get_experiment_by_name("tiny") and len(_told(uri)) == 3)
    runs = {trial: run.info.run_id for (_, trial), run in _told(uri).items()}
    _until(lambda: client.get_run(runs["1"]).data.metrics)
    client.delete_run(runs["0"])
    ledger.commit_epoch(_metrics(2, 0.5), number=1, stopped=False)
    for number in (0, 1):
        tracker.changed(number)
    _until(lambda: said and client.get_run(runs["1"]).data.metrics["val_miou"] == 0.5)
    assert len(said) == 1
    assert said[0].startswith(f"MLflow at {uri} refuses trial 0 (")
    assert tracker.trouble
    assert tracker.finish("interrupted")
    assert said[1:] == [f"MLflow at {uri} has everything again"]
    assert _dump(uri) == fresh(ledger, "interrupted")


def test_one_that_reads_and_does_not_write(tiny_space: Path, storage: Path, fresh: Fresh) -> None:
    """MLflow answers, but has no room for another run: it is given up at the end. Then it is mended."""
    ledger = _search(tiny_space, storage)
    uri = default_uri(storage)
    sync(ledger, uri, status="interrupted")
    number = Asker(ledger).ask().number  # type: ignore[union-attr]
    database = sqlite3.connect(storage / "mlflow.db", isolation_level=None)
    database.execute("CREATE TRIGGER full BEFORE INSERT ON runs BEGIN INSERT INTO a_full_disk VALUES (1); END")
    said: list[str] = []
    tracker = Tracker(ledger, uri, on_message=said.append)
    tracker.start()
    _until(lambda: said)
    assert not tracker.finish("interrupted", patience=5)
    assert "a_full_disk" in tracker.trouble
    assert "does not answer (" in said[0]
    assert len(said) == 1
    assert str(number) not in {trial for _, trial in _told(uri)}
    tracker._thread.join(60)
    database.execute("DROP TRIGGER full")
    database.close()
    _session(ledger, uri, "interrupted")
    assert _dump(uri) == fresh(ledger, "interrupted")


class Server:
    """A real MLflow server on a port of its own, with its database in a folder."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return True
        except OSError:
            return False

    def send(self, number: signal.Signals) -> None:
        """To all its processes."""
        assert self.process is not None
        os.killpg(self.process.pid, number)
        if number is signal.SIGKILL:
            self.process.wait()


@pytest.fixture
def server(tmp_path: Path, mlflow_database: Callable[[Path], str]) -> Iterator[Server]:
    mlflow_database(tmp_path / "server")
    server = Server(tmp_path / "server")
    yield server
    if server.process is not None:
        with contextlib.suppress(ProcessLookupError):
            server.send(signal.SIGKILL)


@pytest.mark.long
def test_a_server_that_is_down_hangs_and_dies(
    tiny_space: Path, storage: Path, monkeypatch: pytest.MonkeyPatch, server: Server, fresh: Fresh
) -> None:
    """Down at the start, frozen, killed: each is said once, then that it has caught up; in the end nothing is missing.

    Oracle: what the ledger tells an empty MLflow. A frozen server answers later what it was asked before it froze, so
    that it may make runs that nobody waits for.
    """
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    ledger = _search(tiny_space, storage, trials=8)
    said: list[str] = []
    tracker = Tracker(ledger, server.uri.replace("//", "//me:secret@"), on_message=said.append)

    def trouble() -> bool:
        return bool(said) and "does not answer (" in said[-1]

    def caught_up() -> bool:
        return bool(said) and said[-1].endswith("has everything again")

    def go_on() -> None:
        """A trial goes on and ends, another one begins."""
        number = max(ledger.trials)
        ledger.commit_epoch(_metrics(2, 0.5 + number / 10), number=number, stopped=False)
        ledger.end(number, "completed")
        fresh = Asker(ledger).ask()
        assert fresh is not None
        ledger.commit_epoch(_metrics(1, 0.2), number=fresh.number, stopped=False)
        for changed in (number, fresh.number):
            tracker.changed(changed)

    tracker.start()
    _until(trouble)
    go_on()
    server.start()
    _until(caught_up)
    for disturb, restore in (
        (lambda: server.send(signal.SIGSTOP), lambda: server.send(signal.SIGCONT)),
        (lambda: server.send(signal.SIGKILL), server.start),
    ):
        disturb()
        go_on()
        _until(trouble)
        go_on()
        restore()
        _until(caught_up)
    assert tracker.finish("interrupted")
    assert len(said) >= 6
    assert all(f"MLflow at {server.uri} " in text and "secret" not in text for text in said)
    for index, text in enumerate(said):  # never two of one kind in a row
        assert ("does not answer" in text, text.endswith("has everything again")) == (index % 2 == 0, index % 2 == 1)
    assert _dump(server.uri) == fresh(ledger, "interrupted")


def test_a_server_that_never_answers_is_not_waited_for(
    tiny_space: Path, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes connections and says nothing; the end comes while the call hangs, and ``sync`` says what is wrong."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")
    ledger = _search(tiny_space, storage)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        uri = f"http://me:secret@127.0.0.1:{deaf.getsockname()[1]}"
        tracker = Tracker(ledger, uri)
        tracker.start()
        assert not tracker.finish("completed", patience=1)
        assert tracker._thread.is_alive()
        assert tracker.trouble == "no answer within 1 s"
        ledger.close()
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        with pytest.raises(InputError, match="--tracking-uri: must be an MLflow that answers") as caught:
            sync(ledger, uri, status="completed")
        assert "secret" not in str(caught.value)
    tracker._thread.join(60)  # the closed connection ends the call, and the thread with it
    assert not tracker._thread.is_alive()


PREPARE = """
import os, sys
from sqlalchemy import Engine, event
from tunesearch.tracking.store import prepare_database

made = 0

@event.listens_for(Engine, "after_cursor_execute")
def die(connection, cursor, statement, *more):
    global made
    made += "CREATE TABLE" in statement
    if made and made == int(sys.argv[2]):
        os._exit(9)

if sys.argv[2] == "0":
    prepare_database(sys.argv[1])
else:
    from mlflow import MlflowClient
    MlflowClient(tracking_uri=sys.argv[1]).search_experiments()
"""


@pytest.mark.long
def test_mlflow_s_database_is_made_whole(tmp_path: Path) -> None:
    """Two processes at once; then after one that dies at its 12th table. Oracle: MLflow's client reads it."""
    from mlflow import MlflowClient

    def command(uri: str, tables: int) -> list[str]:
        return [sys.executable, "-c", PREPARE, uri, str(tables)]

    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    together = [subprocess.Popen(command(uri, 0)) for _ in range(2)]
    assert [process.wait(300) for process in together] == [0, 0]
    assert [experiment.name for experiment in MlflowClient(tracking_uri=uri).search_experiments()] == ["Default"]
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert subprocess.run(command(uri, 12), timeout=300, check=False).returncode == 9
    subprocess.run(command(uri, 0), check=True, timeout=300)
    assert MlflowClient(tracking_uri=uri).search_experiments()
    assert len(list(tmp_path.glob("mlflow.db.broken-*"))) == 1
