"""The best of all searches, on real MLflow and SQLite. Oracle: what the ledgers were given, hand-worked."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import tunesearch
from tunesearch.cli import main
from tunesearch.engine.asking import Asker
from tunesearch.errors import InputError
from tunesearch.experiment import load_experiment
from tunesearch.ledger.steering import request_repeats
from tunesearch.ledger.store import Ledger
from tunesearch.reporting.leaderboard import boards
from tunesearch.segmentation.config import DataConfig, TrainConfig
from tunesearch.segmentation.data.splits import Split, SplitItem
from tunesearch.strategy import confirmation
from tunesearch.tracking.recorded_runs import RecordedRun, recorded_runs
from tunesearch.tracking.store import default_uri
from tunesearch.tracking.sync import sync
from tunesearch.tracking.tags import measured_on
from tunesearch.tracking.training import TrainingRun

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # MLflow's own, about its dependencies

SPACE = """
name: {space}
data: {{{data}}}
train: {{architecture: unet_small, epochs: 2, size: 32x32}}
search: {{trials: 9, sampler: random}}
objective: {{metric: {metric}}}
parameters:
  lr: {{float: [1.0e-4, 1.0e-1], log: true}}
  optimizer: {{choice: [adam, sgd]}}
"""
Metrics = Callable[..., Any]


def _split(content: str) -> Split:
    item = SplitItem(id="a", image="a", mask="a", image_sha256=content, mask_sha256=content)
    return Split(root=Path("/nowhere"), train=(item,), val=(item,), test=(item,))


def _search(
    storage: Path,
    metrics: Metrics,
    name: str,
    scores: Sequence[float],
    *,
    root: str = "maize",
    metric: str = "val_miou",
    status: str = "completed",
) -> Ledger:
    """A search whose trials were completed with these scores in their first epoch, in this order."""
    file = storage.parent / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    data = "layout: sample" if root == "sample" else f"layout: voc, root: /data/{root}, classes: 3"
    file.write_text(SPACE.format(space=f"space-{root}", data=data, metric=metric))
    ledger = Ledger.create(storage, name, load_experiment(file), _split(root), {})
    for score in scores:
        record = Asker(ledger).ask()
        assert record is not None
        for epoch in (1, 2):
            ledger.commit_epoch(metrics(epoch, score / epoch), number=record.number, stopped=False)
        ledger.end(record.number, "completed")
    ledger.set_attribute("status", status)
    return ledger


def _repeat(ledger: Ledger, metrics: Metrics, scores: dict[int, Sequence[float]]) -> None:
    """What ``confirm`` leaves in a ledger: repeats of trials, and one look at the test part."""
    seeds = len(next(iter(scores.values())))
    request_repeats(ledger, [(trial, seed) for seed in range(1, seeds + 1) for trial in scores])
    waiting = {trial: list(values) for trial, values in scores.items()}
    while (record := Asker(ledger).repeat()) is not None:
        assert record.confirms is not None
        ledger.commit_epoch(metrics(1, waiting[record.confirms].pop(0)), number=record.number, stopped=False)
        ledger.end(record.number, "completed")
    confirmed = confirmation.confirmation(ledger)
    assert confirmed is not None
    assert confirmed.leader is not None
    result = {"images": 3, "miou": {"values": [0.3, 0.5], "mean": 0.4, "deviation": 0.1}}
    trials = confirmed.candidate(confirmed.leader).trials
    ledger.record_look(by="confirm", trials=trials, result=result)


@pytest.fixture(scope="module")
def storage(
    tmp_path_factory: pytest.TempPathFactory, epoch_metrics: Metrics, mlflow_database: Callable[[Path], str]
) -> Path:
    """Searches over two data sets, two measures and the sample; one confirmed, one interrupted; and a training."""
    storage = tmp_path_factory.mktemp("leaderboard") / "runs"
    uri = mlflow_database(storage)
    made = [
        _search(storage, epoch_metrics, "first", [0.25, 0.5, 0.375]),
        _search(storage, epoch_metrics, "second", [0.75], status="interrupted"),
        _search(storage, epoch_metrics, "nothing", [], status="failed"),
        _search(storage, epoch_metrics, "by-loss", [0.25, 0.5], metric="val_loss"),
        _search(storage, epoch_metrics, "elsewhere", [0.875], root="wheat"),
        _search(storage, epoch_metrics, "tryout", [0.625], root="sample"),
    ]
    _repeat(made[0], epoch_metrics, {1: (0.5, 0.25), 2: (0.5, 0.5)})
    for ledger in made:
        sync(ledger, uri, status=ledger.attribute("status"))
        ledger.close()
    data = DataConfig(root=Path("/data/maize"))
    run = TrainingRun(
        uri,
        storage=storage,
        name="best",
        params=TrainConfig(lr=0.25).model_dump(mode="json"),
        tags={
            "tunesearch.search": "first",
            "tunesearch.trial": "1",
            **measured_on(data, _split("maize").digest, objective="val_miou", resolution="network"),
        },
    )
    for epoch, miou in enumerate((0.5, 0.625, 0.375), 1):
        run.epoch(epoch_metrics(epoch, miou))
    run.finish("completed", [])
    assert run.trouble == ""
    return storage


def test_what_may_be_compared_stands_together(storage: Path) -> None:
    """Hand-worked: the scores that the searches were given; the better ones first, those without one last."""
    found = tunesearch.leaderboard(storage=storage)
    told = [
        (board.data, board.objective, board.sample, [(entry.name, entry.kind, entry.value) for entry in board.entries])
        for board in found
    ]
    assert told == [
        ("maize", "val_loss", False, [("by-loss", "search", 0.5)]),
        (
            "maize",
            "val_miou",
            False,
            [
                ("second", "search", 0.75),
                ("best", "training", 0.625),
                ("first", "search", 0.5),
                ("nothing", "search", None),
            ],
        ),
        ("wheat", "val_miou", False, [("elsewhere", "search", 0.875)]),
        ("built-in sample", "val_miou", True, [("tryout", "search", 0.625)]),
    ]
    assert {board.digest for board in found if board.data == "maize"} == {_split("maize").digest}
    assert {board.resolution for board in found} == {"network"}


def test_an_entry(storage: Path) -> None:
    """Of the confirmed search: trial 1 was best with 0.5; repeated over two seeds trial 2 is (0.5, 0.5)."""
    board = next(board for board in tunesearch.leaderboard(storage=storage) if board.objective == "val_miou")
    second, best, first, nothing = board.entries
    ledger = Ledger.open(storage, "first")
    assert (first.trial, first.status) == (1, "completed")
    assert float(first.settings["lr"]) == ledger.trials[1].config.lr
    assert first.settings["architecture"] == "unet_small"  # fixed, not searched
    assert first.settings["size"] == "32x32"
    assert "encoder" not in first.settings  # governs nothing
    ledger.close()
    assert first.confirmed is not None
    assert (first.confirmed.trial, first.confirmed.mean, first.confirmed.deviation) == (2, 0.5, 0.0)
    assert first.confirmed.seeds == 2
    assert "no difference shown" in first.confirmed.verdict
    assert first.test == {"miou": 0.4}
    assert (second.confirmed, second.test, second.status) == (None, {}, "interrupted")
    assert (best.trial, best.settings["lr"], best.status) == (1, "0.25", "completed")
    assert (nothing.trial, nothing.settings, nothing.status) == (None, {}, "failed")


def test_only_the_best_of_many(storage: Path) -> None:
    board = next(board for board in tunesearch.leaderboard(storage=storage, top=2) if board.objective == "val_miou")
    assert ([entry.name for entry in board.entries], board.more) == (["second", "best"], 2)


def test_everything_is_read_page_by_page(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of two, experiments one by one. Oracle: what comes in one page."""
    from mlflow import MlflowClient

    from tunesearch.tracking import recorded_runs as module

    uri = default_uri(storage)
    whole = recorded_runs(uri)
    assert len(whole) == 7
    pages = []
    for name in ("search_runs", "search_experiments"):
        real = getattr(MlflowClient, name)

        def small(*values: Any, real: Callable[..., Any] = real, **named: Any) -> Any:
            pages.append(real.__name__)
            return real(*values, max_results=2, **named)

        monkeypatch.setattr(MlflowClient, name, small)
    monkeypatch.setattr(module, "_EXPERIMENTS", 1)
    assert recorded_runs(uri) == whole
    assert pages.count("search_experiments") > 1
    assert pages.count("search_runs") > 5


def test_the_best_of_a_training_is_known_after_it_went_on(
    tmp_path: Path, epoch_metrics: Metrics, mlflow_database: Callable[[Path], str]
) -> None:
    """0.625 in the first session, less in the second; by a loss the smallest counts."""
    uri = mlflow_database(tmp_path)
    for objective, best in (("val_miou", 0.625), ("val_loss", 0.375)):
        run_id = None
        for miou in (0.625, 0.5):
            tags = {"tunesearch.objective": objective}
            run = TrainingRun(uri, storage=tmp_path, name="t", params={}, tags=tags, run_id=run_id)
            run.epoch(epoch_metrics(1, miou))
            run.finish("completed", [])
            assert run.trouble == ""
            run_id = run.run_id
        assert [
            board.entries[0].value for board in boards(recorded_runs(uri), top=1) if board.objective == objective
        ] == [best]


def test_runs_of_an_older_version(storage: Path) -> None:
    """Without the newer tags: the sampled parameters for settings, the network's size for the resolution."""
    tags = {
        "tunesearch.search": "old",
        "tunesearch.objective": "val_miou",
        "tunesearch.data": "http://me:secret@host/fields",
        "tunesearch.best_parameters": '{"lr": 0.1}',
        "tunesearch.best_trial": "3",
        "tunesearch.confirmed.mean": "0.5",  # the rest was never written
    }
    (board,) = boards([RecordedRun("old", False, tags, {"best_val_miou": 0.5}, {}, "RUNNING", 5.0, 2.0)], top=1)
    (entry,) = board.entries
    assert (board.data, board.digest, board.resolution) == ("fields", "", "network")
    assert (entry.settings, entry.trial, entry.status, entry.when) == ({"lr": "0.1"}, 3, "running", 5.0)
    assert entry.confirmed is None
    assert "secret" not in json.dumps(board.as_dict())


# ------------------------------------------------------------------------------------------------------- command line


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["leaderboard", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


def test_the_tables(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, "--storage", storage, "--top", 3)
    assert (code, err) == (0, "")
    digest = _split("maize").digest[:8]
    assert f"maize ({digest}), val_miou" in out
    assert f"built-in SAMPLE data ({_split('sample').digest[:8]}), val_miou" in out
    assert "0.5000 ± 0.0000 (2 seeds, trial 2)" in " ".join(out.split())
    assert "best (training)" in out
    assert "and 1 more; --top shows them" in out
    code, out, _ = _run(capsys, "--storage", storage, "--json")
    assert code == 0
    assert [board["data"] for board in json.loads(out)] == ["maize", "maize", "wheat", "built-in sample"]
    assert json.loads(out)[1]["entries"][2]["confirmed"]["seeds"] == 2


def test_an_mlflow_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One message each, nothing is made."""
    (tmp_path / "text.db").write_text("no database")
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE mine (a)")
    other.close()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for uri, said in (
        (f"sqlite:///{tmp_path}/mlflow.db", "must be an MLflow that is there: no such file"),
        (f"sqlite:///{tmp_path}/text.db", "must be a database of MLflow: file is not a database"),
        (f"sqlite:///{tmp_path}/other.db", "must be a database of MLflow: no such table"),
        ("http://me:secret@127.0.0.1:1", "must be an MLflow that answers: "),
        ("nonsense://x", "must be an MLflow that answers: "),
    ):
        code, out, err = _run(capsys, "--tracking-uri", uri)
        assert (code, out) == (2, "")
        assert err.startswith("error: --tracking-uri: ")
        assert said in err
        assert err.count("\n") == 1
        assert "secret" not in err
    code, _, err = _run(capsys, "--storage", tmp_path / "none")
    assert (code, "error: --storage: must be a folder with searches that MLflow knows" in err) == (2, True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(InputError):
        tunesearch.leaderboard(storage=tmp_path)


def test_an_empty_mlflow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mlflow_database: Callable[[Path], str]
) -> None:
    uri = mlflow_database(tmp_path)
    assert _run(capsys, "--tracking-uri", uri) == (0, "MLflow knows no searches\n", "")
    assert _run(capsys, "--tracking-uri", uri, "--json") == (0, "[]\n", "")
