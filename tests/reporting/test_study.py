"""Importance with uncertainty. Oracle: studies whose scores are computed from known parameters."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import optuna
import pytest

from tunesearch.ledger.store import Ledger
from tunesearch.reporting.importance import importances
from tunesearch.reporting.study import build_study


def _study(score: Callable[[optuna.Trial], float], trials: int, direction: str = "maximize") -> optuna.Study:
    study = optuna.create_study(direction=direction, sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(score, trials)
    return study


def _of_lr(trial: optuna.Trial) -> float:
    lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    trial.suggest_float("noise", 0, 1)
    if trial.suggest_categorical("optimizer", ["adam", "sgd"]) == "sgd" and lr < 2e-5:
        trial.suggest_float("momentum", 0, 1)
    return -abs(math.log10(lr) + 3)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_what_decides_is_found_and_what_does_not_is_within_chance(direction: str) -> None:
    sign = 1.0 if direction == "maximize" else -1.0
    found = importances(_study(lambda trial: sign * _of_lr(trial), 120, direction))
    assert found is not None
    rows = {row.name: row for row in found.rows}
    assert found.rows[0].name == "lr"
    assert rows["lr"].low > rows["lr"].chance
    assert all(rows[name].low <= rows[name].chance for name in ("noise", "optimizer"))
    assert all(row.low <= row.value <= row.high for row in found.rows)


def test_without_any_influence_nothing_is_evidence() -> None:
    rng = random.Random(0)

    def score(trial: optuna.Trial) -> float:
        for name in "abc":
            trial.suggest_float(name, 0, 1)
        return rng.random()

    found = importances(_study(score, 60))
    assert found is not None
    assert not [row for row in found.rows if row.low > row.chance]


def test_a_parameter_of_few_trials_is_left_out_with_its_count() -> None:
    study = _study(_of_lr, 60)
    active = sum("momentum" in trial.params for trial in study.trials)
    assert 0 < active < 10
    found = importances(study)
    assert found is not None
    assert found.left_out == {"momentum": active}


def test_too_few_trials_are_none() -> None:
    assert importances(_study(_of_lr, 9)) is None


def test_the_same_twice() -> None:
    study = _study(_of_lr, 30)
    assert importances(study) == importances(study)


def test_the_study_has_the_ledgers_numbers_and_values(told_search: Callable[..., Ledger]) -> None:
    """Trials 0 and 2 were completed, at their best epochs 0.5 and 0.6."""
    ledger = told_search()
    study = build_study(ledger, ledger.counted())
    complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    assert [(trial.number, trial.value) for trial in complete] == [(0, 0.5), (2, 0.6)]
    assert [trial.params for trial in complete] == [ledger.trials[0].parameters, ledger.trials[2].parameters]
    assert study.best_trial.number == 2
