"""Production training of an exported configuration. Oracle: the same training without an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import tunesearch
from tunesearch.segmentation.trainer import EpochMetrics

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # MLflow's own, about its dependencies

CONFIG = {"architecture": "tiny_model:tiny", "size": "32x32", "epochs": 4, "batch_size": 16, "dropout": 0.2, "lr": 0.01}


def _configuration(folder: Path, **changes: object) -> Path:
    path = folder / "best.yaml"
    YAML().dump({"config": {**CONFIG, **changes}, "data": {"layout": "sample"}, "search": "s", "trial": 3}, path)
    return path


class _PowerCutError(Exception):
    pass


def _curve(output: Path) -> list[tuple[float, float]]:
    metrics = json.loads((output / "metrics.json").read_text())
    return [(epoch["train_loss"], epoch["val_miou"]) for epoch in metrics["epochs"]]


def test_killed_and_started_again_it_is_one_training(tiny_space: Path, tmp_path: Path) -> None:
    """Killed after its second epoch: the whole curve, one MLflow run, and the numbers of an uninterrupted training."""
    best = _configuration(tiny_space.parent)
    calm = tunesearch.train(best, output=tmp_path / "calm", storage=tmp_path)
    assert calm["outcome"] == "completed"

    def die(metrics: EpochMetrics) -> None:
        if metrics.epoch == 2:
            raise _PowerCutError

    with pytest.raises(_PowerCutError):
        tunesearch.train(best, output=tmp_path / "out", storage=tmp_path, epoch_done=die)
    seen: list[int] = []
    result = tunesearch.train(
        best, output=tmp_path / "out", storage=tmp_path, epoch_done=lambda metrics: seen.append(metrics.epoch)
    )
    assert seen == [3, 4]
    assert result["epochs"] == 4
    assert _curve(tmp_path / "out") == _curve(tmp_path / "calm")
    assert not (tmp_path / "out" / "last.pt").exists()

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("tunesearch-train")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "attributes.run_name = 'out'")
    assert len(runs) == 1
    assert runs[0].info.status == "FINISHED"
    assert len(client.get_metric_history(runs[0].info.run_id, "val_miou")) == 4


def test_another_configuration_does_not_go_on_from_this_one(tiny_space: Path, tmp_path: Path) -> None:
    def die(metrics: EpochMetrics) -> None:
        raise _PowerCutError

    with pytest.raises(_PowerCutError):
        tunesearch.train(_configuration(tiny_space.parent), output=tmp_path / "out", storage=tmp_path, epoch_done=die)
    other = _configuration(tiny_space.parent, lr=0.02)
    with pytest.raises(tunesearch.InputError, match="unfinished training of another configuration"):
        tunesearch.train(other, output=tmp_path / "out", storage=tmp_path)
