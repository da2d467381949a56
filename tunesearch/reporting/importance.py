"""How much each searched parameter matters, with uncertainty."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.study import StudyDirection
from optuna.trial import TrialState

RESAMPLES = 50
"""Of the bootstrap and of the shuffles."""
MOST = 300
"""Trials of a resample: more would take minutes. The interval of a longer search is wider than it need be."""
ENOUGH = 10
"""Completed trials below which an importance is not to be trusted."""


@dataclass(frozen=True)
class Importance:
    """Of one parameter, as a share of the importance of all that were measured.

    Attributes:
        name: of the parameter.
        value, low, high: the median, the 5th and the 95th percentile over bootstrap resamples of the trials.
        chance: the 95th percentile over shuffled scores: what a parameter without any influence reaches.
        active: completed trials in which the parameter is active.
    """

    name: str
    value: float
    low: float
    high: float
    chance: float
    active: int


@dataclass(frozen=True)
class Importances:
    """Of all parameters, the most important first.

    Attributes:
        rows: those that could be measured.
        left_out: parameters that are active in too few completed trials or have one value only, with their count.
        trials: completed trials that it was measured on.
        quantile: the share of trials that counts as good.
    """

    rows: tuple[Importance, ...]
    left_out: dict[str, int]
    trials: int
    quantile: float


def importances(study: optuna.Study, *, seed: int = 0) -> Importances | None:
    """PED-ANOVA (Watanabe et al. 2023; conditional parameters as Ishikawa et al. 2026) with bootstrap intervals.

    How much a parameter decides on being among the best: the share ``quantile`` of the trials, at least five of them,
    as Optuna advises. A parameter that is active in fewer than ``ENOUGH`` trials, or had a single value, is left out.

    Returns:
        None: fewer than ``ENOUGH`` completed trials, or nothing to measure.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(trials) < ENOUGH:
        return None
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    active = {name: sum(name in trial.params for trial in trials) for name in names}
    varied = {name: len({repr(trial.params[name]) for trial in trials if name in trial.params}) > 1 for name in names}
    measured = [name for name in names if active[name] >= ENOUGH and varied[name]]
    if not measured:
        return None
    quantile = min(0.5, max(0.1, 5 / len(trials)))
    sign = -1.0 if study.direction is StudyDirection.MAXIMIZE else 1.0
    losses = sign * np.array([trial.value for trial in trials], dtype=np.float64)
    rng = np.random.default_rng(seed)

    def measure(study: optuna.Study, scores: Sequence[float]) -> list[float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about being experimental, and that smaller is better
            found = get_param_importances(
                study,
                evaluator=PedAnovaImportanceEvaluator(target_quantile=quantile),
                params=measured,
                target=lambda trial: scores[trial.number],  # where there is a target, smaller is better
            )
        return [found.get(name, 0.0) for name in measured]

    def resample() -> list[float]:
        drawn = rng.integers(len(trials), size=min(len(trials), MOST))
        resampled = optuna.create_study()
        resampled.add_trials([trials[index] for index in drawn])
        return measure(resampled, losses[drawn].tolist())

    def shuffle() -> list[float]:
        scores = dict(zip((trial.number for trial in trials), rng.permutation(losses).tolist(), strict=True))
        return measure(study, [scores.get(number, 0.0) for number in range(trials[-1].number + 1)])

    low, middle, high = np.percentile([resample() for _ in range(RESAMPLES)], (5, 50, 95), axis=0)
    chance = np.percentile([shuffle() for _ in range(RESAMPLES)], 95, axis=0)
    rows = [
        Importance(name, float(middle[i]), float(low[i]), float(high[i]), float(chance[i]), active[name])
        for i, name in enumerate(measured)
    ]
    return Importances(
        tuple(sorted(rows, key=lambda row: -row.value)),
        {name: active[name] for name in names if name not in measured},
        len(trials),
        quantile,
    )
