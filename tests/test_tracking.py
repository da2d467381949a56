"""MLflow as a view of the ledger, on real MLflow and SQLite, without Ray. Oracle: the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tunesearch
from tunesearch.experiment import load_experiment
from tunesearch.search.ledger import Ledger
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.trainer import EpochMetrics
from tunesearch.tracking import Tracker, default_uri, sync, without_password

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
        record = ledger.ask()
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


def test_the_view_and_its_end(tiny_space: Path, tmp_path: Path) -> None:
    """Hand-worked: the parent has the best value 0.4 of the first epoch; an interruption closes the live trial."""
    ledger = _search(tiny_space, tmp_path / "runs")
    uri = default_uri(tmp_path / "runs")
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


def test_a_lost_mlflow_is_rebuilt_in_place(tiny_space: Path, tmp_path: Path) -> None:
    """An empty database under an address whose run ids the ledger knows: they are worthless, and made anew."""
    ledger = _search(tiny_space, tmp_path / "runs")
    uri = default_uri(tmp_path / "runs")
    sync(ledger, uri, status="interrupted")
    other = f"sqlite:///{tmp_path}/new.db"
    for name, value in ledger.attributes(f"mlflow_run:{uri}:").items():  # as if it had been noted under the new one
        ledger.set_attribute(f"mlflow_run:{other}:{name}", value)
    sync(ledger, other, status="interrupted")
    assert {trial for _, trial in _told(other)} == {"parent", "0", "1"}


def test_a_run_that_a_dying_driver_could_not_note_is_found(tiny_space: Path, tmp_path: Path) -> None:
    """Oracle: no second run for the trial."""
    ledger = _search(tiny_space, tmp_path / "runs")
    uri = default_uri(tmp_path / "runs")
    sync(ledger, uri, status="interrupted")
    before = {key: run.info.run_id for key, run in _told(uri).items()}
    for name in ("0", "parent"):
        ledger.set_attribute(f"mlflow_run:{uri}:{name}", "was never written")
    sync(ledger, uri, status="interrupted")
    assert {key: run.info.run_id for key, run in _told(uri).items()} == before


def test_a_name_given_again_is_another_search(tiny_space: Path, tmp_path: Path) -> None:
    """The first search's folder was removed; its runs stay its own."""
    import shutil

    uri = default_uri(tmp_path / "runs")
    first = _search(tiny_space, tmp_path / "runs", seed=1)
    sync(first, uri, status="completed")
    first.close()
    shutil.rmtree(first.folder)
    second = _search(tiny_space, tmp_path / "runs", seed=2)
    sync(second, uri, status="completed")
    assert len(_told(uri)) == 6


def test_a_driver_that_died_behind_the_last_trial(tiny_space: Path, tmp_path: Path) -> None:
    """All trials have ended, nothing was closed: ``resume`` closes it without Ray or data, here and in MLflow."""
    ledger = _search(tiny_space, tmp_path / "runs", trials=2)
    ledger.commit_epoch(_metrics(2, 0.2), number=1, stopped=True)
    ledger.end(1, "stopped")
    ledger.set_attribute("status", "running")
    ledger.close()
    assert tunesearch.load("a", storage=tmp_path / "runs").status == "interrupted"
    assert tunesearch.resume("a", storage=tmp_path / "runs").status == "completed"
    assert tunesearch.load("a", storage=tmp_path / "runs").status == "completed"
    runs = _told(default_uri(tmp_path / "runs"))
    assert sorted(trial for _, trial in runs) == ["0", "1", "parent"]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_passwords_are_not_shown() -> None:
    assert without_password("http://me:secret@host:5000/x") == "http://host:5000/x"
    assert without_password("sqlite:////data/mlflow.db") == "sqlite:////data/mlflow.db"
