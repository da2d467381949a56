"""Ledgers for reports: real ones whose epochs are written here, so that what a report must say is known."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from tunesearch.engine.asking import Asker
from tunesearch.experiment import load_experiment
from tunesearch.ledger.store import Ledger
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.strategy.early_stopping import build_stopper

NOWHERE = Split(root=Path("/data/nowhere"), train=(), val=())
STAGES: dict[str, tuple[str | None, list[float]]] = {
    "first": ("completed", [0.2, 0.4, 0.5]),
    "second": ("stopped", [0.1]),
    "third": ("completed", [0.3, 0.6, 0.55]),
    "fourth": ("diverged", [0.15, 0.1]),
}
"""Four trials of three epochs: outcome and mean IoU by epoch."""


@pytest.fixture
def told_search(tiny_space: Path, tmp_path: Path, epoch_metrics: Callable[..., EpochMetrics]) -> Callable[..., Ledger]:
    """Makes a search of the tiny space on the sample, whose trials go as they are told to; ``STAGES`` unless told."""

    def make(
        name: str = "told",
        stages: Mapping[str, tuple[str | None, list[float]]] | None = None,
        *overrides: str,
        message: str = "",
        split: Split = NOWHERE,
        settings: dict[str, Any] | None = None,
    ) -> Ledger:
        stages = STAGES if stages is None else stages
        given = {"code": str(tiny_space.parent), **(settings or {})}
        experiment = load_experiment(tiny_space, overrides=[f"search.trials={max(1, len(stages))}", *overrides])
        ledger = Ledger.create(tmp_path / "runs", name, experiment, split, given)
        for outcome, curve in stages.values():
            record = Asker(ledger).ask()
            assert record is not None
            for epoch, miou in enumerate(curve, start=1):
                iou = (miou,) * 5
                metrics = epoch_metrics(epoch, miou, val_iou=iou, train_seconds=30.0, val_seconds=6.0)
                ledger.commit_epoch(metrics, number=record.number, stopped=outcome == "stopped" and epoch == len(curve))
            if outcome is not None:
                ledger.end(record.number, outcome, message if outcome != "completed" else "")  # type: ignore[arg-type]
        ledger.close()
        return Ledger.open(tmp_path / "runs", name)

    return make


@pytest.fixture(scope="session")
def long_search(tmp_path_factory: pytest.TempPathFactory, epoch_metrics: Callable[..., EpochMetrics]) -> Ledger:
    """1000 trials of up to 10 epochs."""
    return write_long_search(tmp_path_factory.mktemp("long"), epoch_metrics, trials=1000, epochs=10)


def write_long_search(storage: Path, metrics: Callable[..., EpochMetrics], *, trials: int, epochs: int) -> Ledger:
    """A search of the shipped ``voc_unet`` as long as wanted, written at once: committing each epoch takes minutes.

    Better trials have a learning rate near 1e-3; ASHA decides as it would have.
    """
    overrides = [f"search.trials={trials}", "search.sampler=random", f"train.epochs={epochs}", "try_first=[]"]
    experiment = load_experiment("voc_unet", overrides=overrides, smoke=True)
    Ledger.create(storage, "long", experiment, NOWHERE, {}).close()
    storage_url = f"sqlite:///{storage / 'long' / 'ledger.db'}"
    study = optuna.load_study(study_name="long", storage=storage_url)
    stopper, rng = build_stopper(experiment), random.Random(0)
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    templates = []
    for number in range(trials):
        asked = drawn.ask()
        point = experiment.space(asked)
        config = experiment.train_config(point, seed=number)
        height = max(0.05, 0.6 - 0.12 * abs(-3 - math.log10(float(point["lr"]))) + rng.gauss(0, 0.03))  # type: ignore[arg-type]
        attributes: dict[str, Any] = {"config": config.model_dump(mode="json"), "asked_at": 1000.0 + number}
        best, stopped, epoch = 0.0, False, 0
        values = {}
        while epoch < epochs and not stopped:
            epoch += 1
            miou = height * (1 - 0.9**epoch) + rng.gauss(0, 0.01)
            best = max(best, miou)
            stopped = stopper.stops(number, epoch, best)
            values[epoch] = best
            told = dataclasses.asdict(metrics(epoch, miou, val_iou=(miou,) * 5))
            attributes[f"epoch:{epoch:04d}"] = {"metrics": told, "best": best, "stopped": stopped}
        attributes["outcome"] = "stopped" if stopped else "completed"
        attributes["ended"] = {"place": number + 1, "at": 2000.0 + number}
        templates.append(
            create_trial(
                state=TrialState.PRUNED if stopped else TrialState.COMPLETE,
                value=None if stopped else best,
                params=asked.params,
                distributions=asked.distributions,
                user_attrs=attributes,
                intermediate_values=values,
            )
        )
    study.add_trials(templates)
    return Ledger.open(storage, "long")
