"""Confirming a real search. Oracles: each repeat trained by the trainer alone, a count of trainings, MLflow itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tunesearch
from tunesearch.errors import InputError
from tunesearch.ledger.store import Ledger
from tunesearch.production.bundle import read_bundle
from tunesearch.segmentation.data.cache import decoded
from tunesearch.segmentation.trainer import Trainer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's and MLflow's own, about themselves

TOP, SEEDS = 2, 2


def _command(storage: Path, *words: object) -> list[str]:
    return [sys.executable, "-m", "tunesearch", *map(str, words), "--storage", str(storage)]


@pytest.fixture
def searched(tiny_space: Path, storage: Path, own_ray: Path) -> Path:
    """The storage of a search ``a`` of three trials of two epochs, one at a time."""
    overrides = ["data.test=0.25", "scheduler=none"]
    small: dict[str, Any] = {"trials": 3, "epochs": 2, "overrides": overrides, "max_concurrent": 1}
    tunesearch.run(tiny_space, name="a", storage=storage, address="local", **small)
    return storage


@pytest.mark.long
def test_killed_and_interrupted_it_is_confirmed_all_the_same(
    searched: Path, tiny_space: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    """Killed in the second training: no repeat is lost or trained twice, each is what the trainer makes of it. The
    test part is looked at once, with every network of the leader."""
    storage, log = searched, tmp_path / "epochs.log"
    before = tunesearch.load("a", storage=storage)
    environment = {**os.environ, "TUNESEARCH_EPOCH_LOG": str(log)}
    confirm = _command(storage, "confirm", "a", "--top", TOP, "--seeds", SEEDS, "--max-concurrent", 1)
    killed = subprocess.Popen(confirm, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not (log.exists() and "begin 4 2" in log.read_text()):
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    half = tunesearch.load("a", storage=storage)
    assert half.confirmation is not None
    assert not half.confirmation.done
    assert half.confirmation.network is None
    assert half.confirmation.flags == f"--top {TOP} --seeds {SEEDS}"
    assert (half.status, half.best) == (before.status, before.best)

    done = subprocess.run(confirm, env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert "looked at once" in done.stdout
    ends = [line.split()[1:3] for line in log.read_text().splitlines() if line.startswith("end")]
    assert sorted(ends) == [[str(number), str(epoch)] for number in (3, 4, 5, 6) for epoch in (1, 2)]

    result = tunesearch.load("a", storage=storage)
    confirmed = result.confirmation
    assert confirmed is not None
    assert confirmed.done
    assert [len(one.values) for one in confirmed.candidates] == [SEEDS, SEEDS]
    assert [(record.number, record.outcome) for record in result.trials] == [
        (record.number, record.outcome) for record in before.trials
    ]
    assert result.duplicates == before.duplicates  # a repeat is no duplicate
    ledger = Ledger.open(storage, "a")
    repeat = ledger.confirmations()[0]
    parts = [decoded(ledger.experiment.data, ledger.split, part, repeat.config.size) for part in ("train", "val")]
    sys.path.append(str(tiny_space.parent))
    alone = Trainer(repeat.config, train=parts[0], val=parts[1], classes=5)
    assert [epoch.val_miou for epoch in alone.epochs()] == pytest.approx(
        [saved.metrics.val_miou for _, saved in sorted(repeat.epochs.items())], abs=0.02
    )  # the trial may have had another number of threads

    assert confirmed.test is not None
    assert confirmed.test["images"] == len(ledger.split.test)
    assert len(confirmed.test["miou"]["values"]) == SEEDS
    assert set(confirmed.test["iou"]) == set(result.classes)
    ledger.close()
    again = tunesearch.confirm("a", top=TOP, seeds=SEEDS, storage=storage)
    assert again.confirmation == confirmed  # nothing is trained or looked at once more

    leader = confirmed.candidates[0]
    tunesearch.export("a", tmp_path / "model", storage=storage)
    bundle = read_bundle(tmp_path / "model")
    assert bundle.content["origin"]["confirms"] == leader.trial
    assert bundle.content["score"]["value"] == max(leader.values)
    assert bundle.content["confirmation"]["verdict"] == confirmed.verdict
    assert f"over several seeds**: {confirmed.verdict}" in (tmp_path / "model" / "README.md").read_text()

    assert confirmed.network == bundle.content["origin"]["trial"]
    shown = run_cli("show", "a", "--storage", storage)[1]
    assert f"use the network of trial {confirmed.network}, the repeat of trial {leader.trial}" in shown
    said: list[str] = []
    tunesearch.train(tmp_path / "model", output=tmp_path / "again", storage=storage)
    tunesearch.evaluate(tmp_path / "again", part="test", storage=storage, on_message=said.append)
    assert any("looked at before" in text and "by confirm" in text for text in said)  # as that it was trained from
    said.clear()
    tunesearch.evaluate(tmp_path / "model", part="test", storage=storage, on_message=said.append)
    assert any("looked at before" in text and "by confirm" in text for text in said)  # the folder knows of the search's

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    [parent] = [run for run in runs if run.data.tags["tunesearch.trial"] == "parent"]
    assert parent.data.tags["tunesearch.confirmed.trial"] == str(leader.trial)
    assert float(parent.data.tags["tunesearch.confirmed.mean"]) == pytest.approx(leader.mean, abs=1e-6)
    assert parent.data.metrics["test/miou"] == pytest.approx(confirmed.test["miou"]["mean"])
    repeats = [run for run in runs if "tunesearch.confirms" in run.data.tags]
    assert len(repeats) == TOP * SEEDS
    assert {run.info.status for run in [parent, *repeats]} == {"FINISHED"}


def test_more_seeds_train_only_what_is_missing(
    searched: Path,
    run_cli: Callable[..., tuple[int, str, str]],
    epochs_trained: Callable[[], list[tuple[int, int]]],
) -> None:
    epochs_trained()
    tunesearch.confirm("a", top=1, seeds=2, storage=searched)
    assert sorted(epochs_trained()) == [(3, 1), (3, 2), (4, 1), (4, 2)]
    code, out, err = run_cli("confirm", "a", "--top", 1, "--seeds", 3, "--json", "--storage", searched)
    assert code == 0, err
    assert epochs_trained() == [(5, 1), (5, 2)]
    confirmed = json.loads(out)["confirmation"]
    assert [len(one["values"]) for one in confirmed["candidates"]] == [3]
    assert "nothing to compare it with" in confirmed["verdict"]
    assert len(confirmed["test"]["miou"]["values"]) == 2  # the one look of before: it was the same trial
    assert "test part, trial" not in err


def test_what_cannot_be_confirmed(tiny_space: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be 2 at least, but got 1"):
        tunesearch.confirm("a", seeds=1, storage=tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        tunesearch.confirm("a", storage=tmp_path)
