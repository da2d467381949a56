"""Whole searches on real Ray, Optuna and MLflow (SQLite). Oracles: the ledger, MLflow's client, the trainer's log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tunesearch
from tunesearch.engine.callback import SearchCallback
from tunesearch.engine.trial import EPOCH_LOG

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("own_ray"),
    # Ray's and MLflow's own, about themselves and their dependencies.
    pytest.mark.filterwarnings("ignore"),
]


def _runs(storage: Path) -> tuple[Any, list[Any], Any]:
    """MLflow's parent and children of the search ``a``, and the client."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`tunesearch.search` = 'a'")
    parents = [run for run in runs if run.data.tags["tunesearch.trial"] == "parent"]
    assert len(parents) == 1
    children = sorted(
        (run for run in runs if run not in parents), key=lambda run: int(run.data.tags["tunesearch.trial"])
    )
    return parents[0], children, client


def test_a_search_and_what_mlflow_says_of_it(tiny_space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle for MLflow: the ledger, point by point; for the ledger: the numbers that must hold by construction."""
    storage = tmp_path / "runs"
    result = tunesearch.run(tiny_space, name="a", storage=storage, trials=6, max_concurrent=2)
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
    tunesearch.sync("a", storage=storage, tracking_uri=f"sqlite:///{tmp_path}/other.db")
    from mlflow import MlflowClient

    other = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/other.db")
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
    log = tmp_path / "epochs.log"
    monkeypatch.setenv(EPOCH_LOG, str(log))
    resumed = tunesearch.resume("a", storage=storage)
    assert resumed.as_dict()["trials"] == result.as_dict()["trials"]
    assert not log.exists()


@pytest.mark.parametrize(
    ("overrides", "outcome", "said"),
    [
        (["train.architecture=tiny_model:broken"], "failed", "this network cannot be built: on purpose"),
        (["train.loss=tiny_model:not_a_number"], "diverged", ""),
        (
            ["train.architecture=deeplabv3plus", "train.encoder=vgg16", "train.batch_size=4"],
            "infeasible",
            "cannot be built on encoder vgg16",
        ),
        (["train.architecture=tiny_model:dies_always"], "lost", ""),
        (["train.architecture=tiny_model:never_fits"], "out_of_memory", ""),
    ],
)
def test_endings_have_names(tiny_space: Path, tmp_path: Path, overrides: list[str], outcome: str, said: str) -> None:
    """A search all of whose trials end badly still ends, and says how; exit code 1 is the error's."""
    with pytest.raises(tunesearch.NoUsableTrial, match=said) as caught:
        tunesearch.run(tiny_space, name="a", storage=tmp_path / "runs", trials=2, overrides=overrides)
    assert caught.value.exit_code == 1
    result = tunesearch.load("a", storage=tmp_path / "runs")
    assert [record.outcome for record in result.trials] == [outcome] * 2
    assert all(said in record.message for record in result.trials)
    _, children, _ = _runs(tmp_path / "runs")
    assert [child.data.tags["tunesearch.outcome"] for child in children] == [outcome] * 2
    assert "RUNNING" not in {child.info.status for child in children}


def test_a_trial_that_only_fits_in_parts_is_completed(tiny_space: Path, tmp_path: Path) -> None:
    """Batches of 16 in memory for 4 images: halved to 8, then 4; as many updates as with room for all."""
    usual = ["scheduler=none"]
    roomy = tunesearch.run(tiny_space, name="a", storage=tmp_path / "roomy", trials=1, overrides=usual)
    tight = [*usual, "train.architecture=tiny_model:fits_in_fours"]
    result = tunesearch.run(tiny_space, name="a", storage=tmp_path / "runs", trials=1, overrides=tight)
    assert result.trials[0].outcome == "completed"
    updates = [[saved.metrics.updates for saved in r.trials[0].epochs.values()] for r in (roomy, result)]
    assert updates[0] == updates[1]
    effective = json.loads((tmp_path / "runs" / "a" / "trials" / "0000" / "effective.json").read_text())
    assert effective["batch_size"] == 16


def test_a_lost_process_goes_on_from_its_checkpoint(tiny_space: Path, tmp_path: Path) -> None:
    """The process kills itself in its second epoch, once. Oracle: the same trial without a death."""
    calm = tunesearch.run(tiny_space, name="a", storage=tmp_path / "calm", trials=1)
    overrides = ["train.architecture=tiny_model:dies_once"]
    result = tunesearch.run(tiny_space, name="a", storage=tmp_path / "runs", trials=1, overrides=overrides)
    assert (tiny_space.parent / "died").exists()
    [record] = result.trials
    assert (record.outcome, record.attempts) == ("completed", 1)
    expected = [saved.metrics.val_loss for saved in calm.trials[0].epochs.values()]
    assert [saved.metrics.val_loss for saved in record.epochs.values()] == expected


def test_time_budget(tiny_space: Path, tmp_path: Path) -> None:
    """What runs when the time is up is cancelled, and can no longer be taken for a score of its own."""
    result = tunesearch.run(
        tiny_space, name="a", storage=tmp_path / "runs", trials=500, epochs=4000, time_budget=30.0,
        overrides=["scheduler=none"],
    )  # fmt: skip
    assert result.status == "time_budget"
    assert {record.outcome for record in result.trials} <= {"completed", "cancelled"}
    assert "cancelled" in {record.outcome for record in result.trials}
    assert result.best is not None
    _, children, _ = _runs(tmp_path / "runs")
    assert len(children) == len(result.trials)
    assert "RUNNING" not in {child.info.status for child in children}


def test_exhausted(tiny_space: Path, tmp_path: Path) -> None:
    """Two configurations and four trials wanted: two are trained, and it says so."""
    overrides = ["parameters.momentum=null", "parameters.lr.choice=[0.01]", "train.epochs=1"]
    result = tunesearch.run(tiny_space, name="a", storage=tmp_path / "runs", sampler="grid", overrides=overrides)
    assert (result.status, len(result.trials)) == ("exhausted", 2)


@pytest.mark.parametrize("sampler", ["gp", "cmaes"])
def test_other_samplers(tiny_space: Path, tmp_path: Path, sampler: str) -> None:
    result = tunesearch.run(
        tiny_space, name="a", storage=tmp_path / "runs", sampler=sampler, trials=4, epochs=1, max_concurrent=1
    )
    assert len({record.config.lr for record in result.trials}) == 4


def test_same_seed_same_search(tiny_space: Path, tmp_path: Path) -> None:
    """At concurrency 1 a search is reproducible to the last digit."""
    results = [
        tunesearch.run(tiny_space, name="a", storage=tmp_path / f"runs{i}", max_concurrent=1, cpus_per_trial=1)
        for i in range(2)
    ]
    rows = [json.dumps(result.as_dict()["trials"]) for result in results]
    assert rows[0] == rows[1]


def test_mlflow_that_is_not_there_does_not_stop_a_search(tiny_space: Path, tmp_path: Path) -> None:
    """A server that refuses every connection; afterwards everything is sent to one that answers."""
    notes: list[str] = []

    class Listening(SearchCallback):
        def on_message(self, text: str) -> None:
            notes.append(text)

    result = tunesearch.run(
        tiny_space, name="a", storage=tmp_path / "runs", trials=2, epochs=1, tracking_uri="http://127.0.0.1:9",
        callback=Listening(),
    )  # fmt: skip
    assert result.status == "completed"
    assert any("tunesearch sync a" in note for note in notes)
    tunesearch.sync("a", storage=tmp_path / "runs", tracking_uri=f"sqlite:///{tmp_path}/runs/mlflow.db")
    _, children, _ = _runs(tmp_path / "runs")
    assert len(children) == 2


def test_a_cluster_that_is_there_is_used(tiny_space: Path, tmp_path: Path) -> None:
    """$RAY_ADDRESS names this session's Ray; another process searches on it and leaves it running."""
    import ray

    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "tunesearch", "run", str(tiny_space), "--trials", "2", "--epochs", "1", "--json"]
    command += ["--storage", str(tmp_path / "runs"), "--name", "a"]
    environment = {**os.environ, "RAY_ADDRESS": address}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert [trial["outcome"] for trial in json.loads(done.stdout)["trials"]] == ["completed"] * 2
    assert ray.cluster_resources()["CPU"] == 2


# ------------------------------------------------------------------------------------ folds, original size, early stop


def test_a_search_over_folds(tiny_space: Path, tmp_path: Path) -> None:
    """Three folds at the masks' own size. Oracles: the mean of what each fold has; the rungs, which saw those means."""
    overrides = ["data={layout: sample, folds: {k_fold: 3}}", "objective.resolution=original"]
    result = tunesearch.run(tiny_space, name="a", storage=tmp_path / "runs", trials=3, overrides=overrides)
    assert {record.outcome for record in result.trials} <= {"completed", "stopped"}
    for record in result.trials:
        for epoch in record.epochs.values():
            assert len(epoch.metrics.folds) == 3
            assert epoch.metrics.val_miou == pytest.approx(sum(epoch.metrics.folds) / 3)
        assert record.best == max(epoch.metrics.val_miou for epoch in record.epochs.values())
        folder = tmp_path / "runs" / "a" / "trials" / f"{record.number:04d}"
        effective = json.loads((folder / "effective.json").read_text())
        # 48 + 24 scenes of the sample in three parts.
        assert effective["folds"] == [{"train_images": 48, "val_images": 24}] * 3
        assert (folder / "predictions.png").is_file()
        kept = {path.name for path in folder.rglob("*.safetensors")}
        assert kept == ({"best.safetensors"} if record.outcome == "completed" else set())
        assert not list(folder.rglob("last.pt"))
    _, children, _ = _runs(tmp_path / "runs")
    assert len(children) == 3
    with pytest.raises(tunesearch.InputError, match="trained on 3 folds"):
        tunesearch.predict("a", tiny_space.parent, tmp_path / "masks", storage=tmp_path / "runs")


def test_a_lost_process_goes_on_with_its_folds(tiny_space: Path, tmp_path: Path) -> None:
    """The process dies in a later epoch of one of the folds, once. Oracle: the same trial without a death."""
    folds = "data={layout: sample, folds: {monte_carlo: 2, val: 0.25}}"
    calm = tunesearch.run(tiny_space, name="a", storage=tmp_path / "calm", trials=1, overrides=[folds])
    dying = tunesearch.run(
        tiny_space,
        name="a",
        storage=tmp_path / "dying",
        trials=1,
        overrides=[folds, "train.architecture=tiny_model:dies_once"],
    )
    assert (tiny_space.parent / "died").exists()
    assert dying.trials[0].attempts == 1
    assert [saved.metrics.folds for saved in dying.trials[0].epochs.values()] == [
        saved.metrics.folds for saved in calm.trials[0].epochs.values()
    ]


def test_a_trial_that_stops_early_is_completed(tiny_space: Path, tmp_path: Path) -> None:
    """Nothing improves by 0.9, so every trial ends after two of three epochs, and is no trial that ASHA stopped."""
    overrides = ["train.early_stop_patience=1", "train.early_stop_delta=0.9", "scheduler=none"]
    result = tunesearch.run(tiny_space, name="a", storage=tmp_path / "runs", trials=2, overrides=overrides)
    assert [(record.outcome, max(record.epochs)) for record in result.trials] == [("completed", 2)] * 2


def test_masks_of_the_best_trial(tiny_space: Path, tmp_path: Path) -> None:
    """Oracles: sizes of the pictures; the confusion of the validation pictures at the trial's own size."""
    import numpy as np
    from PIL import Image

    storage, pictures = tmp_path / "runs", tmp_path / "pictures"
    result = tunesearch.run(tiny_space, name="a", storage=storage, trials=2)
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
    problems = [(tmp_path / "nothing", None, "existing picture or folder"), (tiny_space.parent, None, "no picture")]
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


def test_folds_of_which_a_checkpoint_was_lost_start_anew(tiny_space: Path, tmp_path: Path) -> None:
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
    folds = "data={layout: sample, folds: {k_fold: 2}}"
    calm = tunesearch.run(tiny_space, name="a", storage=tmp_path / "calm", trials=1, overrides=[folds])
    torn = tunesearch.run(
        tiny_space,
        name="a",
        storage=tmp_path / "runs",
        trials=1,
        overrides=[folds, "train.architecture=tiny_losing:loses"],
    )
    assert (tiny_space.parent / "died").exists()
    assert torn.trials[0].attempts == 1
    assert [saved.metrics.folds for saved in torn.trials[0].epochs.values()] == [
        saved.metrics.folds for saved in calm.trials[0].epochs.values()
    ]
