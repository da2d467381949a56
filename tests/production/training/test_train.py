"""Production training. Oracles: the same training without an interruption; the search's own curve; sums by hand."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps
from ruamel.yaml import YAML
from safetensors.torch import load_file

import tunesearch
from tunesearch.cli import main
from tunesearch.production.bundle import read_bundle
from tunesearch.production.training.setup import TrainingSetup
from tunesearch.production.training.train import train as train_production
from tunesearch.production.training.unfinished import UnfinishedTraining
from tunesearch.segmentation.data.layouts import find_pairs
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.files import write_atomic

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # MLflow's own, about its dependencies

CONFIG = {"architecture": "tiny_model:tiny", "size": "32x32", "epochs": 4, "batch_size": 16, "dropout": 0.2, "lr": 0.01}
OWN = {"architecture": "conv_stack", "depth": 2, "width": 4, "size": "32x32", "epochs": 2, "batch_size": 16}


def _configuration(folder: Path, **changes: object) -> Path:
    path = folder / "best.yaml"
    folder.mkdir(exist_ok=True)
    YAML().dump({"config": {**CONFIG, **changes}, "data": {"layout": "sample"}, "search": "s", "trial": 3}, path)
    return path


class _PowerCutError(Exception):
    pass


def _curve(output: Path) -> list[tuple[float, float]]:
    metrics = json.loads((output / "metrics.json").read_text())
    return [(epoch["train_loss"], epoch["val_miou"]) for epoch in metrics["epochs"]]


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Callable[[Path], str]) -> str:
    """MLflow's database, which takes seconds to make."""
    return mlflow_database(tmp_path_factory.mktemp("tracker"))


@pytest.fixture
def train(tmp_path: Path, tracker: str) -> Callable[..., dict[str, Any]]:
    """Training without the programs for other runtimes, which take long."""

    def call(path: Path, output: str, **given: Any) -> dict[str, Any]:
        callbacks = {name: given.pop(name) for name in ("on_message", "on_epoch") if name in given}
        setup = TrainingSetup(output=tmp_path / output, tracking_uri=tracker, storage=tmp_path, formats=(), **given)
        return train_production(path, setup, **callbacks)

    return call


Train = Callable[..., dict[str, Any]]


def test_killed_and_started_again_it_is_one_training(
    tiny_space: Path, tmp_path: Path, train: Train, tracker: str
) -> None:
    """Killed after its second epoch: the whole curve, one MLflow run, and the numbers of an uninterrupted training."""
    best = _configuration(tiny_space.parent)
    calm = train(best, "calm")
    assert calm["outcome"] == "completed"

    def die(metrics: EpochMetrics) -> None:
        if metrics.epoch == 2:
            raise _PowerCutError

    with pytest.raises(_PowerCutError):
        train(best, "killed", on_epoch=die)
    assert not (tmp_path / "killed").exists()
    seen: list[int] = []
    result = train(best, "killed", on_epoch=lambda metrics: seen.append(metrics.epoch))
    assert seen == [3, 4]
    assert result["epochs"] == 4
    assert _curve(tmp_path / "killed") == _curve(tmp_path / "calm")
    assert not (tmp_path / "killed.training").exists()
    assert read_bundle(tmp_path / "killed").name == "killed"

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracker)
    experiment = client.get_experiment_by_name("tunesearch-train")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "attributes.run_name = 'killed'")
    assert len(runs) == 1
    assert runs[0].info.status == "FINISHED"
    assert len(client.get_metric_history(runs[0].info.run_id, "val_miou")) == 4


def test_another_configuration_does_not_go_on_from_this_one(tiny_space: Path, tmp_path: Path, train: Train) -> None:
    def die(metrics: EpochMetrics) -> None:
        raise _PowerCutError

    with pytest.raises(_PowerCutError):
        train(_configuration(tiny_space.parent), "out", on_epoch=die)
    other = _configuration(tiny_space.parent, lr=0.02)
    with pytest.raises(tunesearch.InputError, match="unfinished training of another configuration"):
        train(other, "out")
    for damage in ("", "{", "[]", '{"what": {}, "run_id": null, "curve": [{"epoch": 1}]}'):
        (tmp_path / "out.training" / "training.json").write_text(damage)
        with pytest.raises(tunesearch.InputError, match=r"training\.json: is damaged: .*remove .*out\.training to"):
            train(other, "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("own_ray")
def test_a_trial_is_reproduced_to_the_last_digit(tiny_space: Path, tmp_path: Path, train: Train, tracker: str) -> None:
    """Oracle: the curve that the search recorded; another seed, and a data set that changed, are told."""
    from tunesearch.ledger.store import Ledger
    from tunesearch.production.export import export

    result = tunesearch.run(tiny_space, name="s", storage=tmp_path, trials=1, tracking_uri=tracker)
    assert result.best is not None
    ledger = Ledger.open(tmp_path, "s")
    recorded = [(e.metrics.train_loss, e.metrics.val_miou) for _, e in sorted(ledger.trials[0].epochs.items())]
    export(ledger, tmp_path / "model", formats=())
    export(ledger, tmp_path / "best.yaml")
    ledger.close()

    said: list[str] = []
    torch.set_num_threads(2)  # not what the trial had
    try:
        again = train(tmp_path / "model", "again", on_message=said.append)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert again["reproduced"] is True
    assert said[-1] == "the curve is the recorded one, to the last digit"
    assert _curve(tmp_path / "again") == recorded
    (tmp_path / "tiny_model.py").write_text((tiny_space.parent / "tiny_model.py").read_text())
    bare = train(
        tmp_path / "best.yaml", "bare", on_message=said.append
    )  # which records threads and the best score, too
    assert bare["reproduced"] is True
    assert said[-1] == f"val_miou {result.best.best} is the recorded one, to the last digit"
    assert _curve(tmp_path / "bare") == recorded
    one, other = (load_file(tmp_path / name / "weights.safetensors") for name in ("model", "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert read_bundle(tmp_path / "again").code is not None  # the user's own network goes along

    # The model that was trained is a source as good as the one that was exported.
    assert train(tmp_path / "again", "third")["reproduced"] is True
    assert train(tmp_path / "again", "fourth", seeds=[99])["reproduced"] is None
    fourth = read_bundle(tmp_path / "fourth")
    assert (fourth.content["origin"]["trial"], fourth.content["seed"]) == (None, 99)
    assert fourth.document["trained_from"] == {"search": "s", "space": "tiny", "trial": 0}


def test_the_frozen_files_are_trained_on(tmp_path: Path, train: Train) -> None:
    """A model folder knows its files by hash: moved they are found, changed they are an error until it is asked for."""
    from tunesearch.segmentation.config import DataConfig

    pairs = find_pairs(DataConfig(layout="sample"))
    root = pairs["train"][0].image.parents[1]
    best = tmp_path / "voc.yaml"
    here = Path(shutil.copytree(root, tmp_path / "here"))
    YAML().dump({"config": OWN, "data": {"layout": "voc", "root": str(here), "classes": 5}}, best)
    train(best, "model")
    assert str(tmp_path) not in (tmp_path / "model" / "split.json").read_text()

    with pytest.raises(tunesearch.InputError, match="--data: must be given"):
        train(tmp_path / "model", "again")
    there = here.rename(tmp_path / "there")
    assert train(tmp_path / "model", "again", data_root=there)["reproduced"] is True

    image = there / read_bundle(tmp_path / "model").split.train[0].image
    with Image.open(image) as picture:
        ImageOps.invert(picture.convert("RGB")).save(image)
    with pytest.raises(tunesearch.InputError, match=r"the file has changed since the split was frozen.*--data-as-is"):
        train(tmp_path / "model", "third", data_root=there)
    assert not list(tmp_path.glob("third*"))
    said: list[str] = []
    result = train(tmp_path / "model", "third", data_root=there, data_as_is=True, on_message=said.append)
    assert result["reproduced"] is None
    assert any("the data set is not the one" in text for text in said)


def test_on_training_and_validation_together(tmp_path: Path, train: Train) -> None:
    """48 + 24 scenes, the whole schedule, the last epoch's weights, and nowhere a number as if it were a validation."""
    best = _configuration(tmp_path / "space", **OWN, schedule="cosine", early_stop_patience=1)
    said: list[str] = []
    result = train(best, "both", on="train+val", on_message=said.append)
    assert (result["outcome"], result["epochs"], result["best"]["epoch"]) == ("completed", 2, 2)
    assert result["best"]["val_miou"] is None
    assert result["best"]["val_loss"] is None
    assert "note: without a validation no early stopping" in said
    text = (tmp_path / "both" / "metrics.json").read_text()
    assert "NaN" not in text
    epochs = json.loads(text)["epochs"]
    assert [epoch["updates"] for epoch in epochs] == [5, 10]  # 72 / 16
    assert all(epoch[name] is None for epoch in epochs for name in epoch if name.startswith("val_m"))
    assert all(epoch["val_iou"] == [] for epoch in epochs)
    bundle = read_bundle(tmp_path / "both")
    assert bundle.content["score"]["value"] is None
    assert bundle.document["on"] == "train+val"
    assert [len(bundle.split.items(part)) for part in ("train", "val", "test")] == [72, 0, 0]

    plateau = _configuration(tmp_path / "space", **OWN, schedule="plateau")
    with pytest.raises(tunesearch.InputError, match="the schedule plateau looks at the validation"):
        train(plateau, "other", on="train+val")
    assert not list(tmp_path.glob("other*"))


def test_several_seeds_are_gone_on_with_as_a_whole(tmp_path: Path, train: Train) -> None:
    """Killed in the second of three: the first is not trained again, the summary is that of all."""
    best = _configuration(tmp_path / "space", **OWN, seed=5)
    epochs: list[int] = []

    def die(metrics: EpochMetrics) -> None:
        epochs.append(metrics.epoch)
        if len(epochs) == 3:
            raise _PowerCutError

    with pytest.raises(_PowerCutError):
        train(best, "seeds", repeats=3, on_epoch=die)
    assert epochs == [1, 2, 1]
    epochs.clear()
    result = train(best, "seeds", repeats=3, on_epoch=lambda metrics: epochs.append(metrics.epoch))
    assert epochs == [2, 1, 2]
    assert [training["seed"] for training in result["trainings"]] == [5, 6, 7]
    scores = []
    for seed in (5, 6, 7):
        bundle = read_bundle(tmp_path / "seeds" / f"seed-{seed}")
        assert bundle.content["seed"] == seed
        scores.append(bundle.content["score"]["value"])
    assert result["mean"] == pytest.approx(statistics.fmean(scores))
    assert result["deviation"] == pytest.approx(statistics.stdev(scores))
    saved = json.loads((tmp_path / "seeds" / "summary.json").read_text())
    assert (saved["mean"], saved["deviation"]) == (result["mean"], result["deviation"])
    alone = train(best, "alone", seeds=[6])
    assert alone["best"]["val_miou"] == scores[1]
    with pytest.raises(tunesearch.InputError, match=r"seed-5: holds a finished training of another"):
        train(best, "seeds", repeats=3, epochs=1)
    with pytest.raises(tunesearch.InputError, match="give one of both"):
        train(best, "more", repeats=3, seeds=[1])


def test_the_average_of_the_weights_is_kept(tmp_path: Path, train: Train) -> None:
    train(_configuration(tmp_path / "space", **OWN, ema_decay=0.5), "averaged")
    train(_configuration(tmp_path / "space", **OWN), "plain")
    averaged, plain = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("averaged", "plain"))
    losses = [[epoch["train_loss"] for epoch in found["epochs"]] for found in (averaged, plain)]
    assert losses[0] == losses[1]
    assert json.loads((tmp_path / "averaged" / "effective.json").read_text())["ema_decay"] == 0.5
    one, other = (load_file(tmp_path / name / "weights.safetensors") for name in ("averaged", "plain"))
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("score", "said"),
    [
        ("{objective: val_mious}", r"score\.objective: .*'val_miou'"),
        ("{resolution: big}", r"score\.resolution: .*'network' or 'original'"),
        ("[1, 2]", "score: must be a mapping"),
    ],
)
def test_a_score_that_is_none_is_told(tmp_path: Path, train: Train, score: str, said: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(f"config: {{}}\ndata: {{layout: sample}}\nscore: {score}\n")
    with pytest.raises(tunesearch.InputError, match=said):
        train(path, "out")


def test_outputs_that_are_something_else(tmp_path: Path, train: Train) -> None:
    best = _configuration(tmp_path / "space", **OWN)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("")
    with pytest.raises(tunesearch.InputError, match="taken: exists and is no model folder"):
        train(best, "taken")
    (tmp_path / "empty").mkdir()
    assert train(best, "empty")["outcome"] == "completed"
    with pytest.raises(tunesearch.InputError, match="holds a finished training already"):
        train(best, "empty")


def test_looks_at_the_test_part_are_inherited_whatever_is_killed(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed behind the model folder and before its record: the next start makes up for it."""
    looks = [{"at": 0.0, "by": "evaluate"}]
    train(_configuration(tmp_path / "c", **OWN), "model")
    (tmp_path / "model" / "test_looks.json").write_text(json.dumps(looks))

    def die(source: Path, heir: Path) -> None:
        raise _PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr("tunesearch.production.training.one_training.inherit_looks", die)
        with pytest.raises(_PowerCutError):
            train(tmp_path / "model", "heir")
    assert read_bundle(tmp_path / "heir")
    assert not (tmp_path / "heir" / "test_looks.json").exists()
    assert train(tmp_path / "model", "heir")["outcome"] == "completed"
    assert json.loads((tmp_path / "heir" / "test_looks.json").read_text()) == looks


def test_what_is_refused_leaves_nothing(tmp_path: Path, train: Train) -> None:
    """Known only when the network is built; what was begun before is kept all the same."""
    (tmp_path / "weights").mkdir()
    needs = {"architecture": "encoder_unet", "encoder": "mobilenet_v2", "encoder_weights": "imagenet"}
    best = _configuration(tmp_path / "c", **needs)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(tunesearch.InputError, match=r"mobilenet_v2"):
        train(best, "out", encoder_weights=tmp_path / "weights")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("loss", "outcome"), [("tiny_model:not_a_number", "diverged")])
def test_a_training_that_ends_badly_leaves_no_model(
    tiny_space: Path, tmp_path: Path, train: Train, loss: str, outcome: str
) -> None:
    result = train(_configuration(tiny_space.parent, loss=loss), "out")
    assert (result["outcome"], result["weights"], result["best"]) == (outcome, None, None)
    assert not (tmp_path / "out").exists()
    assert json.loads((tmp_path / "out.training" / "metrics.json").read_text())["outcome"] == outcome


def test_a_full_disk_ends_it_with_exit_code_4(
    tiny_space: Path,
    tmp_path: Path,
    tracker: str,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The system says ENOSPC when the second epoch is noted; with room again the same command goes on."""
    best, note = _configuration(tiny_space.parent), UnfinishedTraining.note

    def full(state: UnfinishedTraining, *, run_id: str | None = None, metrics: EpochMetrics | None = None) -> None:
        def write(path: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        if metrics is not None and metrics.epoch == 2:
            write_atomic(state.file, write)
        note(state, run_id=run_id, metrics=metrics)

    command = ["train", str(best), "--storage", str(tmp_path), "--tracking-uri", tracker, "-o", str(tmp_path / "out")]
    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(UnfinishedTraining, "note", full)
        with pytest.raises(SystemExit) as ended:
            main(command)
    signal.signal(signal.SIGTERM, handler)
    assert ended.value.code == 4
    _, err = capsys.readouterr()
    assert "the disk is full" in err
    assert "the same command goes on from there" in err
    said: list[str] = []
    assert train(best, "out", on_message=said.append)["outcome"] == "completed"
    assert "going on after epoch 2" in said
