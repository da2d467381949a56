"""What earlier versions left on disk still opens. Oracle: what that version itself made of it (see README.md here).

Where something is trained on, the numbers of another processor may differ in their last digits; so curves behind an
interruption are compared to three digits, and everything that was written then exactly.
"""

from __future__ import annotations

import json
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

import tunesearch
from tunesearch.production.training.setup import TrainingSetup
from tunesearch.production.training.train import train

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # MLflow's own, about its dependencies

ARCHIVES = sorted(Path(__file__).parent.glob("*.tar.xz"))
RunCli = Callable[..., tuple[int, str, str]]
Trained = Callable[[], list[tuple[int, int]]]


@dataclass(frozen=True)
class Left:
    """A copy of what a version left behind.

    Attributes:
        root: with ``runs`` (the storage), ``data``, ``model``, ``trained``, ``stack`` and ``unfinished.training``.
        expected: what that version said of it, with the paths of the copy.
    """

    root: Path
    expected: dict[str, Any]

    @property
    def runs(self) -> Path:
        """The storage folder."""
        return self.root / "runs"

    @property
    def data(self) -> Path:
        """The data set."""
        return self.root / "data"

    def setup(self, output: Path, **others: Any) -> TrainingSetup:
        """Of a training into ``output``, told to that version's MLflow; without programs, which take long to write."""
        uri = f"sqlite:///{self.runs}/mlflow.db"
        return TrainingSetup(output=output, tracking_uri=uri, storage=self.runs, formats=(), **others)


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def left(request: pytest.FixtureRequest, tmp_path: Path) -> Left:
    """A copy as if it had been made here: absolute paths in it are those of the copy."""
    root = tmp_path / "left"
    with tarfile.open(request.param) as tar:
        tar.extractall(root, filter="data")
    old = json.loads((root / "expected.json").read_text())["root"]
    for file in (path for path in root.rglob("*") if path.suffix in (".json", ".yaml")):
        text = file.read_text("utf-8")
        if old in text:
            file.write_text(text.replace(old, str(root)), "utf-8")
    for file in root.rglob("*.db"):
        _replace_in_database(file, old, str(root))
    return Left(root, json.loads((root / "expected.json").read_text()))


def _replace_in_database(file: Path, old: str, new: str) -> None:
    """Replace a text in every column of every table."""
    with closing(sqlite3.connect(file)) as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for column in [row[1] for row in database.execute(f"PRAGMA table_info('{table}')")]:
                database.execute(
                    f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) WHERE instr("{column}", ?)',
                    (old, new, old),
                )
        database.commit()


def _holds(told: Any, expected: Any, where: str = "") -> None:
    """That all of ``expected`` is there, with the same values; a mapping may have got more keys since."""
    if isinstance(expected, dict):
        assert isinstance(told, dict), where
        for key, value in expected.items():
            assert key in told, f"{where}.{key} is no longer there"
            _holds(told[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert isinstance(told, list | tuple), where
        assert len(told) == len(expected), where
        for index, value in enumerate(expected):
            _holds(told[index], value, f"{where}[{index}]")
    else:
        assert told == expected, where


def _curve(record: Any) -> list[dict[str, Any]]:
    return [saved.metrics.as_dict() for _, saved in sorted(record.epochs.items())]


def _same_curve(found: list[dict[str, Any]], expected: list[dict[str, Any]], *, exact: int) -> None:
    """The first ``exact`` epochs to the last digit, the others as they come out on any processor."""
    assert [epoch["epoch"] for epoch in found] == [epoch["epoch"] for epoch in expected]
    _holds(found[:exact], expected[:exact])
    for new, old in zip(found[exact:], expected[exact:], strict=True):
        assert new["updates"] == old["updates"]
        for name in ("train_loss", "val_loss", "val_miou", "val_dice", "lr"):
            assert new[name] == pytest.approx(old[name], rel=2e-3, abs=2e-3), f"{name} of epoch {new['epoch']}"


def _mlflow_runs(runs: Path) -> dict[str, str]:
    """Run ids by search, trial and name; a run that is there twice fails."""
    from mlflow import MlflowClient

    client, found = MlflowClient(tracking_uri=f"sqlite:///{runs}/mlflow.db"), {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            tags = run.data.tags
            key = f"{tags.get('tunesearch.search', '')}/{tags.get('tunesearch.trial', '')}/{run.info.run_name}"
            key = f"{experiment.name}/{key}"
            assert key not in found, f"{key} is there twice"
            found[key] = run.info.run_id
    return found


def test_something_is_kept() -> None:
    assert ARCHIVES


def test_show_and_list(left: Left, run_cli: RunCli) -> None:
    """Every trial, outcome, epoch, the best, the warm start and the confirmation, as they were."""
    for name, expected in left.expected["searches"].items():
        code, out, _ = run_cli("show", name, "--storage", left.runs, "--json")
        assert code == 0
        _holds(json.loads(out), expected["told"], name)
        curves = {str(record.number): _curve(record) for record in tunesearch.load(name, storage=left.runs).trials}
        _holds(curves, expected["curves"], name)
        code, out, _ = run_cli("show", name, "--storage", left.runs)
        assert code == 0
        assert f"{name}: {expected['told']['status']}" in out
    code, out, _ = run_cli("list", "--storage", left.runs, "--json")
    assert code == 0
    listed = {search["name"]: search for search in json.loads(out)}
    assert sorted(listed) == sorted(left.expected["searches"])
    for name, search in listed.items():
        told = left.expected["searches"][name]["told"]
        _holds(search, {key: value for key, value in told.items() if key != "trials"}, name)
    finished = left.expected["searches"]["finished"]["told"]
    assert finished["confirmation"]["done"]
    assert finished["warm_start"]


def test_compare_and_leaderboard(left: Left, run_cli: RunCli) -> None:
    code, out, _ = run_cli("compare", "finished", "before", "--storage", left.runs, "--json")
    assert code == 0
    _holds(json.loads(out), left.expected["compare"])
    code, out, _ = run_cli("leaderboard", "--storage", left.runs, "--json")
    assert code == 0
    _holds(json.loads(out), left.expected["leaderboard"])


def test_report(left: Left, run_cli: RunCli) -> None:
    """Everything can be shown, the pictures too, for which the network predicts; MLflow knows the search's run."""
    code, out, _ = run_cli("report", "finished", "--storage", left.runs, "--json")
    assert code == 0
    told = json.loads(out)
    assert told["missing"] == left.expected["report"]["missing"]
    assert told["mlflow"] == ""
    best = left.expected["searches"]["finished"]["told"]["best"]["best_value"]
    assert f"{best:.4f}" in (left.runs / "finished" / "report.html").read_text("utf-8")


def test_export(left: Left, tmp_path: Path, run_cli: RunCli) -> None:
    """The same network, configuration and description as that version's own export."""
    from tunesearch.ledger.store import Ledger
    from tunesearch.production.export import export

    code, _, _ = run_cli("export", "finished", "-o", tmp_path / "best.yaml", "--storage", left.runs)
    assert code == 0
    # As data: a line is folded where the length of the copy's path wants it.
    mine, theirs = (YAML(typ="safe").load(folder / "best.yaml") for folder in (tmp_path, left.root))
    assert mine == theirs
    ledger = Ledger.open(left.runs, "finished")
    try:
        content = export(ledger, tmp_path / "model", formats=())
    finally:
        ledger.close()
    own = ("code", "programs", "files", "sha256")  # of the version that writes it
    _holds(content, {key: value for key, value in left.expected["model"].items() if key not in own})
    for name in ("weights.safetensors", "split.json", "metrics.json", "effective.json", "code/earlier_model.py"):
        old = left.root / "model" / name
        if old.exists() or not name.startswith("code/"):
            assert (tmp_path / "model" / name).read_bytes() == old.read_bytes(), name


def test_a_finished_search_has_nothing_left_to_do(left: Left, run_cli: RunCli, epochs_trained: Trained) -> None:
    told = left.expected["searches"]["finished"]["told"]
    code, out, err = run_cli("resume", "finished", "--storage", left.runs, "--json")
    assert code == 0
    assert "has nothing left to do" in out + err
    _holds(json.loads(out[out.index("{") :]), told)
    code, out, _ = run_cli("confirm", "finished", "--top", 2, "--seeds", 2, "--storage", left.runs, "--json")
    assert code == 0
    _holds(json.loads(out[out.index("{") :]), told)
    assert epochs_trained() == []
    assert _mlflow_runs(left.runs) == left.expected["runs"]


@pytest.mark.parametrize("name", ["interrupted", "folded"])
def test_an_interrupted_search_goes_on(name: str, left: Left, epochs_trained: Trained) -> None:
    """Killed by the system in that version. No trial is lost or repeated, no epoch trained twice, what was asked of it
    is done. Oracle: the same folder, resumed by that version; for what is trained, the trials' own log."""
    before = left.expected["searches"][name]
    after = left.expected["resumed"][name]
    assert before["told"]["status"] == "interrupted"
    result = tunesearch.resume(name, storage=left.runs, max_concurrent=1)
    told, expected = result.as_dict(), after["told"]
    assert told["status"] == expected["status"] == "completed"
    rows = ("number", "parameters", "outcome", "epochs", "seed", "message")
    assert [{row: trial[row] for row in rows} for trial in told["trials"]] == [
        {row: trial[row] for row in rows} for trial in expected["trials"]
    ]
    assert [trial.get("retry_of") for trial in told["trials"]] == [
        trial.get("retry_of") for trial in expected["trials"]
    ]
    for record in result.trials:
        # The checkpoint of one was an epoch ahead of the ledger when it was killed: that epoch is not trained again.
        trained = sum(number == record.number for number, _ in after["epochs_trained"])
        _same_curve(_curve(record), after["curves"][str(record.number)], exact=len(record.epochs) - trained)
    assert told["best"]["number"] == expected["best"]["number"]
    assert epochs_trained() == [(number, epoch) for number, epoch in after["epochs_trained"]]
    runs = _mlflow_runs(left.runs)
    assert left.expected["runs"].items() <= runs.items()
    assert {key for key in runs if key.split("/")[1] == name} == set(after["runs"])


def test_sync_finds_its_runs_again(left: Left, run_cli: RunCli) -> None:
    """In the MLflow of that version: not one run more, nothing that is not as it was."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{left.runs}/mlflow.db")
    before = {key: client.get_run(run).data for key, run in left.expected["runs"].items()}
    for name in ("before", "finished"):
        code, _, _ = run_cli("sync", name, "--storage", left.runs)
        assert code == 0
    assert _mlflow_runs(left.runs) == left.expected["runs"]
    for key, run in left.expected["runs"].items():
        data = client.get_run(run).data
        assert data.metrics == before[key].metrics, key
        assert data.params == before[key].params, key
        assert data.tags == before[key].tags, key


def test_predict(left: Left, tmp_path: Path, run_cli: RunCli) -> None:
    """By a model folder, a search, and two model folders with their stack: the masks of that version, every pixel."""
    seeds = [left.root / "trained" / f"seed-{seed}" for seed in (1, 2)]
    ways: dict[str, tuple[object, ...]] = {
        "model": (left.root / "model",),
        "finished": ("finished",),
        "stack": (*seeds, "--stack", left.root / "stack"),
    }
    for name, models in ways.items():
        pictures = left.data / "JPEGImages"
        code, _, _ = run_cli("predict", *models, pictures, "-o", tmp_path / name, "--storage", left.runs)
        assert code == 0
        masks = sorted((left.root / "expected" / name).glob("*.png"))
        assert len(masks) == len(list(pictures.iterdir()))
        assert len({path.read_bytes() for path in masks}) > 1
        for mask in masks:
            with Image.open(mask) as old, Image.open(tmp_path / name / mask.name) as new:
                assert np.array_equal(np.asarray(old), np.asarray(new)), f"{name}/{mask.name}"
                assert old.getpalette() == new.getpalette()


def test_evaluate(left: Left, run_cli: RunCli) -> None:
    """On the frozen test part: the same confusion matrix. That the part was looked at before is still known."""
    ways = {"model": left.root / "model", "trained": left.root / "trained" / "seed-1", "finished": "finished"}
    for name, model in ways.items():
        code, out, err = run_cli(
            "evaluate", model, "--split", "test", "--data", left.data, "--storage", left.runs, "--json"
        )
        assert code == 0
        _holds(json.loads(out), left.expected["evaluated"][name])
        assert "the test part was looked at before" in err


def test_an_interrupted_training_goes_on(left: Left) -> None:
    """From its checkpoint, with moving average, schedule and early stopping as they stood, in the same MLflow run."""
    saved = json.loads((left.root / "unfinished.training" / "training.json").read_text())
    seen: list[int] = []
    setup = left.setup(left.root / "unfinished")
    result = train(left.root / "training.yaml", setup, on_epoch=lambda metrics: seen.append(metrics.epoch))
    expected = left.expected["trained_curve"]
    assert seen == [epoch["epoch"] for epoch in expected][3:]
    assert result["outcome"] == "completed"
    curve = json.loads((left.root / "unfinished" / "metrics.json").read_text())["epochs"]
    _same_curve(curve, expected, exact=3)
    assert not (left.root / "unfinished.training").exists()
    assert _mlflow_runs(left.runs) == left.expected["runs"]
    assert saved["run_id"] in left.expected["runs"].values()


def test_a_model_folder_trains_again(left: Left, tmp_path: Path) -> None:
    """The frozen files, the recorded configuration: the recorded curve."""
    result = train(left.root / "model", left.setup(tmp_path / "again", data_root=left.data))
    assert result["outcome"] == "completed"
    curve, recorded = (
        json.loads((folder / "metrics.json").read_text())["epochs"]
        for folder in (tmp_path / "again", left.root / "model")
    )
    _same_curve(curve, recorded, exact=0)


@pytest.mark.usefixtures("own_ray")
def test_a_new_search_is_warm_started_from_an_old_one(left: Left) -> None:
    """All trials of the old one that have a score fit, since the space is the same."""
    result = tunesearch.run(
        left.root / "space" / "space.yaml",
        name="new",
        storage=left.runs,
        warm_start=["finished"],
        trials=1,
        max_concurrent=1,
    )
    told = left.expected["searches"]["finished"]["told"]
    usable = sum(trial["outcome"] in ("completed", "stopped") for trial in told["trials"])
    assert [(source.search, source.fit) for source in result.warm_start] == [("finished", usable)]
