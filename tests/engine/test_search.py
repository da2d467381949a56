"""Whole searches on real Ray, Optuna and MLflow (SQLite). Oracles: the ledger, MLflow's client, the trainer's log."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tunesearch
from tunesearch.engine import clock
from tunesearch.engine.callback import SearchCallback
from tunesearch.engine.training import build_training
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.tracking.tracker import Tracker

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("own_ray"),
    # Ray's and MLflow's own, about themselves and their dependencies.
    pytest.mark.filterwarnings("ignore"),
]


def _runs(storage: Path, space: str = "tiny") -> tuple[Any, list[Any], Any]:
    """MLflow's parent and children of the search ``a``, and the client."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name(space)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`tunesearch.search` = 'a'")
    parents = [run for run in runs if run.data.tags["tunesearch.trial"] == "parent"]
    assert len(parents) == 1
    children = sorted(
        (run for run in runs if run not in parents), key=lambda run: int(run.data.tags["tunesearch.trial"])
    )
    return parents[0], children, client


ONE_AT_A_TIME: dict[str, Any] = {"max_concurrent": 1, "cpus_per_trial": 1}


@dataclass(frozen=True)
class Finished:
    """A search ``a`` of six trials, one at a time, that has ended; the tests only look at it.

    Attributes:
        space: its search-space file.
    """

    space: Path
    storage: Path
    result: Any


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    write_tiny_space: Callable[[Path], Path],
    mlflow_database: Callable[[Path], str],
    own_ray: None,
) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    space, storage = write_tiny_space(folder), folder / "runs"
    mlflow_database(storage)
    return Finished(space, storage, tunesearch.run(space, name="a", storage=storage, trials=6, **ONE_AT_A_TIME))


def _undisturbed(storage: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[EpochMetrics]:
    """The epochs of trial 0 of the search ``a``, trained again in this process, by the network that does not die."""
    ledger = tunesearch.load("a", storage=storage)
    config = ledger.trials[0].config.model_dump(mode="json") | {"architecture": "tiny_model:tiny"}
    monkeypatch.syspath_prepend(storage.parent / "space")
    monkeypatch.delitem(sys.modules, "tiny_model", raising=False)
    assignment = {"config": config, "search": storage / "a", "folder": folder, "workers": 0, "encoder_weights": None}
    training = build_training(assignment, heartbeat=lambda: None, reading=contextlib.nullcontext)
    return list(training.trainer.epochs())


def test_a_search_and_what_mlflow_says_of_it(
    finished: Finished,
    tmp_path: Path,
    mlflow_database: Callable[..., str],
    epochs_trained: Callable[[], list[tuple[int, int]]],
) -> None:
    """Oracle for MLflow: the ledger, point by point; for the ledger: the numbers that must hold by construction."""
    storage, result = finished.storage, finished.result
    assert result.status == "completed"
    assert [record.number for record in result.trials] == list(range(6))
    outcomes = [record.outcome for record in result.trials]
    assert set(outcomes) <= {"completed", "stopped"}
    assert "stopped" in outcomes
    for record in result.trials:
        assert sorted(record.epochs) == list(range(1, max(record.epochs) + 1))
        assert (max(record.epochs) == 3) == (record.outcome == "completed")
    best = result.best
    assert best is not None
    assert best.best == max(r.best or 0 for r in result.trials if r.outcome == "completed")
    iou = result.class_iou()
    assert list(iou) == ["background", "disc", "square", "triangle", "stripes"]
    assert best.best == pytest.approx(sum(value for value in iou.values() if value is not None) / 5)
    assert len({record.config.seed for record in result.trials}) == 6

    parent, children, client = _runs(storage)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["tunesearch.best_trial"] == str(best.number)
    assert parent.data.metrics["best_val_miou"] == best.best
    assert len(children) == 6
    for record, child in zip(result.trials, children, strict=True):
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.tags["tunesearch.outcome"] == record.outcome
        assert child.info.status == "FINISHED"
        assert child.data.params["lr"] == str(record.config.lr)
        assert child.data.params["size"] == "32x32"
        history = client.get_metric_history(child.info.run_id, "val_miou")
        assert [(point.step, point.value) for point in history] == [
            (epoch, saved.metrics.val_miou) for epoch, saved in sorted(record.epochs.items())
        ]
        files = {file.path for file in client.list_artifacts(child.info.run_id)}
        assert {"config.json", "effective.json", "predictions.png"} <= files

    # Telling everything again changes nothing.
    before = [client.get_metric_history(child.info.run_id, "val_loss") for child in children]
    tunesearch.sync("a", storage=storage)
    _, again, client = _runs(storage)
    assert [run.info.run_id for run in again] == [run.info.run_id for run in children]
    after = [client.get_metric_history(child.info.run_id, "val_loss") for child in again]
    assert [[(p.step, p.value) for p in points] for points in after] == [
        [(p.step, p.value) for p in points] for points in before
    ]
    # Into an empty MLflow the ledger writes the same.
    empty = mlflow_database(tmp_path, "other.db")
    tunesearch.sync("a", storage=storage, tracking_uri=empty)
    from mlflow import MlflowClient

    other = MlflowClient(tracking_uri=empty)
    experiment = other.get_experiment_by_name("tiny")
    rebuilt = other.search_runs([experiment.experiment_id], "tags.`tunesearch.trial` != 'parent'")
    assert {(r.data.tags["tunesearch.trial"], r.data.metrics["best_val_miou"]) for r in rebuilt} == {
        (r.data.tags["tunesearch.trial"], r.data.metrics["best_val_miou"]) for r in children
    }

    # What is left on disk: no checkpoints, weights only of completed trials, Ray's scratch gone.
    left = {path.relative_to(storage / "a").as_posix() for path in (storage / "a").rglob("*") if path.is_file()}
    weights = {f"trials/{r.number:04d}/best.safetensors" for r in result.trials if r.outcome == "completed"}
    assert {path for path in left if path.endswith(".safetensors")} == weights
    assert not [path for path in left if path.endswith(".pt") or path.startswith("ray/")]

    # Resuming a finished search trains nothing.
    epochs_trained()
    resumed = tunesearch.resume("a", storage=storage)
    assert resumed.as_dict()["trials"] == result.as_dict()["trials"]
    assert epochs_trained() == []


ENDINGS = """
name: endings
data: {layout: sample}
train: {epochs: 3, size: 32x32, batch_size: 4, augmentation_strength: 0}
search: {trials: 5, seed: 3}
parameters:
  architecture: {choice: [tiny_model:tiny, tiny_model:broken, tiny_model:dies_always, tiny_model:never_fits,
    deeplabv3plus]}
  encoder: {choice: [vgg16], when: {architecture: deeplabv3plus}}
  loss: {choice: [cross_entropy, tiny_model:not_a_number]}
try_first:
  - {architecture: tiny_model:broken, loss: cross_entropy}
  - {architecture: tiny_model:tiny, loss: tiny_model:not_a_number}
  - {architecture: deeplabv3plus, encoder: vgg16, loss: cross_entropy}
  - {architecture: tiny_model:dies_always, loss: cross_entropy}
  - {architecture: tiny_model:never_fits, loss: cross_entropy}
"""


def test_endings_have_names(tiny_space: Path, storage: Path) -> None:
    """A search all of whose trials end badly, each in its own way, still ends and says how; exit code 1 is the error's.

    By hand: what each of the points to be tried first is bound to end as, and what is said of it.
    """
    tiny_space.write_text(ENDINGS)
    with pytest.raises(tunesearch.NoUsableTrial, match="search a ended and no trial has a score") as caught:
        tunesearch.run(tiny_space, name="a", storage=storage)
    assert caught.value.exit_code == 1
    wanted = ["failed", "diverged", "infeasible", "lost", "out_of_memory"]
    trials = tunesearch.load("a", storage=storage).trials
    assert [record.outcome for record in trials] == wanted
    assert "this network cannot be built: on purpose" in trials[0].message
    assert "cannot be built on encoder vgg16" in trials[2].message
    assert any(record.message and record.message in str(caught.value) for record in trials)
    _, children, _ = _runs(storage, "endings")
    assert [child.data.tags["tunesearch.outcome"] for child in children] == wanted
    assert "RUNNING" not in {child.info.status for child in children}


def test_a_trial_that_only_fits_in_parts_is_completed(
    tiny_space: Path, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of 16 in memory for 4 images: halved to 8, then 4; as many updates as with room for all."""
    tight = ["scheduler=none", "train.architecture=tiny_model:fits_in_fours"]
    result = tunesearch.run(tiny_space, name="a", storage=storage, trials=1, overrides=tight)
    assert result.trials[0].outcome == "completed"
    roomy = _undisturbed(storage, tmp_path / "roomy", monkeypatch)
    assert [saved.metrics.updates for saved in result.trials[0].epochs.values()] == [epoch.updates for epoch in roomy]
    effective = json.loads((storage / "a" / "trials" / "0000" / "effective.json").read_text())
    assert effective["batch_size"] == 16


def test_a_lost_process_goes_on_from_its_checkpoint(
    tiny_space: Path, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process kills itself in its second epoch, once. Oracle: the same training without a death or Ray."""
    overrides = ["train.architecture=tiny_model:dies_once"]
    result = tunesearch.run(tiny_space, name="a", storage=storage, trials=1, overrides=overrides)
    assert (tiny_space.parent / "died").exists()
    [record] = result.trials
    assert (record.outcome, record.attempts) == ("completed", 1)
    calm = _undisturbed(storage, tmp_path / "calm", monkeypatch)
    assert [saved.metrics.val_loss for saved in record.epochs.values()] == [epoch.val_loss for epoch in calm]


def test_time_budget(tiny_space: Path, storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs when the time is up is cancelled, and can no longer be taken for a score of its own.

    The search's clock, which no trial sees, is put forward by an hour as soon as an epoch is there.
    """
    late = 0.0

    class Late(SearchCallback):
        def on_start(self, ledger: Any, resources: Any) -> None:
            self.ledger = ledger

        def on_trial_change(self, number: int) -> None:
            nonlocal late
            if self.ledger.trials[number].epochs:
                late = 3600.0

    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + late))
    result = tunesearch.run(
        tiny_space, name="a", storage=storage, trials=500, epochs=4000, time_budget=3600.0,
        overrides=["scheduler=none"], callback=Late(), **ONE_AT_A_TIME,
    )  # fmt: skip
    assert result.status == "time_budget"
    assert {record.outcome for record in result.trials} <= {"completed", "cancelled"}
    assert "cancelled" in {record.outcome for record in result.trials}
    assert result.best is not None
    _, children, _ = _runs(storage)
    assert len(children) == len(result.trials)
    assert "RUNNING" not in {child.info.status for child in children}


def test_exhausted(tiny_space: Path, storage: Path) -> None:
    """Two configurations and four trials wanted: two are trained, and it says so."""
    overrides = ["parameters.momentum=null", "parameters.lr.choice=[0.01]", "train.epochs=1"]
    result = tunesearch.run(tiny_space, name="a", storage=storage, sampler="grid", overrides=overrides, **ONE_AT_A_TIME)
    assert (result.status, len(result.trials)) == ("exhausted", 2)


def test_same_seed_same_search(
    finished: Finished, storage: Path, epochs_trained: Callable[[], list[tuple[int, int]]]
) -> None:
    """At concurrency 1 a search is reproducible to the last digit."""
    again = tunesearch.run(finished.space, name="a", storage=storage, trials=6, **ONE_AT_A_TIME)
    assert json.dumps(again.as_dict()["trials"]) == json.dumps(finished.result.as_dict()["trials"])
    assert epochs_trained() == [(record.number, epoch) for record in again.trials for epoch in sorted(record.epochs)]


def test_mlflow_that_is_not_there_does_not_stop_a_search(
    tiny_space: Path, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that refuses every connection; afterwards everything is sent to one that answers."""
    notes: list[str] = []
    monkeypatch.setitem(Tracker.finish.__kwdefaults__, "patience", 2.0)  # seconds that the end waits for it

    class Listening(SearchCallback):
        def on_message(self, text: str) -> None:
            notes.append(text)

    result = tunesearch.run(
        tiny_space, name="a", storage=storage, trials=2, epochs=1, tracking_uri="http://127.0.0.1:9",
        callback=Listening(), **ONE_AT_A_TIME,
    )  # fmt: skip
    assert result.status == "completed"
    assert any("tunesearch sync a" in note for note in notes)
    tunesearch.sync("a", storage=storage, tracking_uri=f"sqlite:///{storage}/mlflow.db")
    _, children, _ = _runs(storage)
    assert len(children) == 2


def test_a_cluster_that_is_there_is_used(tiny_space: Path, storage: Path) -> None:
    """$RAY_ADDRESS names this session's Ray; another process searches on it and leaves it running."""
    import ray

    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "tunesearch", "run", str(tiny_space), "--trials", "2", "--epochs", "1", "--json"]
    command += ["--storage", str(storage), "--name", "a", "--max-concurrent", "1"]
    environment = {**os.environ, "RAY_ADDRESS": address}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert [trial["outcome"] for trial in json.loads(done.stdout)["trials"]] == ["completed"] * 2
    assert ray.cluster_resources()["CPU"] == 2


# ------------------------------------------------------------------------------------ folds, original size, early stop


def test_a_search_over_folds(tiny_space: Path, storage: Path, tmp_path: Path) -> None:
    """Three folds at the masks' own size. Oracles: the mean of what each fold has; the rungs, which saw those means."""
    overrides = ["data={layout: sample, folds: {k_fold: 3}}", "objective.resolution=original"]
    result = tunesearch.run(tiny_space, name="a", storage=storage, trials=3, overrides=overrides)
    assert {record.outcome for record in result.trials} <= {"completed", "stopped"}
    for record in result.trials:
        for epoch in record.epochs.values():
            assert len(epoch.metrics.folds) == 3
            assert epoch.metrics.val_miou == pytest.approx(sum(epoch.metrics.folds) / 3)
        assert record.best == max(epoch.metrics.val_miou for epoch in record.epochs.values())
        folder = storage / "a" / "trials" / f"{record.number:04d}"
        effective = json.loads((folder / "effective.json").read_text())
        # 48 + 24 scenes of the sample in three parts.
        assert effective["folds"] == [{"train_images": 48, "val_images": 24}] * 3
        assert (folder / "predictions.png").is_file()
        kept = {path.name for path in folder.rglob("*.safetensors")}
        assert kept == ({"best.safetensors"} if record.outcome == "completed" else set())
        assert not list(folder.rglob("last.pt"))
    _, children, _ = _runs(storage)
    assert len(children) == 3
    with pytest.raises(tunesearch.InputError, match="trained on 3 folds"):
        tunesearch.predict("a", tiny_space.parent, tmp_path / "masks", storage=storage)


def test_a_lost_process_goes_on_with_its_folds(
    tiny_space: Path, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies in a later epoch of one of the folds, once. Oracle: the same training without a death."""
    overrides = ["data={layout: sample, folds: {monte_carlo: 2, val: 0.25}}", "train.architecture=tiny_model:dies_once"]
    dying = tunesearch.run(tiny_space, name="a", storage=storage, trials=1, overrides=overrides)
    assert (tiny_space.parent / "died").exists()
    assert dying.trials[0].attempts == 1
    calm = _undisturbed(storage, tmp_path / "calm", monkeypatch)
    assert [saved.metrics.folds for saved in dying.trials[0].epochs.values()] == [epoch.folds for epoch in calm]


def test_a_trial_that_stops_early_is_completed(tiny_space: Path, storage: Path) -> None:
    """Nothing improves by 0.9, so every trial ends after two of three epochs, and is no trial that ASHA stopped."""
    overrides = ["train.early_stop_patience=1", "train.early_stop_delta=0.9", "scheduler=none"]
    result = tunesearch.run(tiny_space, name="a", storage=storage, trials=2, overrides=overrides, **ONE_AT_A_TIME)
    assert [(record.outcome, max(record.epochs)) for record in result.trials] == [("completed", 2)] * 2


def test_masks_of_the_best_trial(finished: Finished, tmp_path: Path) -> None:
    """Oracles: sizes of the pictures; the confusion of the validation pictures at the trial's own size."""
    import numpy as np
    from PIL import Image

    storage, result, pictures = finished.storage, finished.result, tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("wide.jpg", (7, 64, 3)), ("tall.png", (90, 1, 3)), ("grey.png", (33, 20))):
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(pictures / name)
    written = tunesearch.predict("a", pictures, tmp_path / "masks", storage=storage)
    assert [path.name for path in written] == ["grey.png", "tall.png", "wide.png"]
    assert [Image.open(path).size for path in written] == [(20, 33), (1, 90), (64, 7)]
    assert {Image.open(path).mode for path in written} == {"P"}
    assert np.asarray(Image.open(written[0])).max() < 5
    assert tunesearch.predict("a", pictures / "wide.jpg", tmp_path / "one", storage=storage)[0].name == "wide.png"
    before = (pictures / "grey.png").read_bytes()
    with pytest.raises(tunesearch.InputError, match="must not be written among the pictures"):
        tunesearch.predict("a", pictures, pictures, storage=storage)
    assert (pictures / "grey.png").read_bytes() == before
    stopped = [record.number for record in result.trials if record.outcome == "stopped"]
    problems = [(tmp_path / "nothing", None, "existing picture or folder"), (finished.space.parent, None, "no picture")]
    problems += [(pictures, 9, "must be a trial of a")] + [
        (pictures, number, "it has no weights: it is stopped") for number in stopped
    ]
    for images, trial, rule in problems:
        with pytest.raises(tunesearch.InputError, match=rule):
            tunesearch.predict("a", images, tmp_path / "more", trial=trial, storage=storage)
    (pictures / "wide.png").write_bytes((pictures / "grey.png").read_bytes())
    with pytest.raises(tunesearch.InputError, match="wide twice"):
        tunesearch.predict("a", pictures, tmp_path / "more", storage=storage)
    (pictures / "wide.png").write_bytes(b"no picture")
    with pytest.raises(tunesearch.InputError, match="cannot be read as a picture"):
        tunesearch.predict("a", pictures / "wide.png", tmp_path / "more", storage=storage)
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.class_weights=[1, 2]", "train.class_weights: .*5 classes"),
        ("parameters.class_weights.choice=['1, 2', '3, 4, 5']", "2 problems|5 classes.*\\n.*5 classes"),
        ("train.augmentation=[{HorizontalFlop: {p: 0.5}}]", "train.augmentation.0.HorizontalFlop.*HorizontalFlip"),
        ("train={size: 64x64, crop: 32x32, augmentation: [{Resize: {height: 64, width: 64}}]}", "32x32"),
        ("train.augmentation=[{HorizontalFlip: {q: 0.5}}]", "q"),
        ("data={layout: sample, folds: {k_fold: 80}}", "train and val have 72 together"),
    ],
)
def test_what_only_the_libraries_and_the_data_can_tell(
    tiny_space: Path, tmp_path: Path, override: str, said: str
) -> None:
    """Told before anything is created."""
    with pytest.raises(tunesearch.InputError, match=said):
        tunesearch.run(tiny_space, name="a", storage=tmp_path / "runs", trials=1, overrides=[override])
    assert not (tmp_path / "runs").exists()


def test_folds_of_which_a_checkpoint_was_lost_start_anew(
    tiny_space: Path, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network's process removes one fold's checkpoint before it dies. Oracle: the same trial without all that."""
    (tiny_space.parent / "tiny_losing.py").write_text("""
import os, pathlib
from tiny_model import tiny

HERE = pathlib.Path(__file__).parent

def loses(config, classes):
    network = tiny(config, classes)
    marker, calls = HERE / "died", {"train": 0}
    def count(module, inputs):
        calls["train"] += module.training
        if calls["train"] > 7 and not marker.exists():
            marker.touch()
            (HERE.parent / "runs/a/trials/0000/fold-1/last.pt").unlink()
            os._exit(1)
    network.register_forward_pre_hook(count)
    return network
""")
    overrides = ["data={layout: sample, folds: {k_fold: 2}}", "train.architecture=tiny_losing:loses"]
    torn = tunesearch.run(tiny_space, name="a", storage=storage, trials=1, overrides=overrides)
    assert (tiny_space.parent / "died").exists()
    assert torn.trials[0].attempts == 1
    calm = _undisturbed(storage, tmp_path / "calm", monkeypatch)
    assert [saved.metrics.folds for saved in torn.trials[0].epochs.values()] == [epoch.folds for epoch in calm]
