"""Early stopping. Oracle: Ray's own scheduler on the same curves; hand-worked numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tunesearch.strategy.asha import Asha
from tunesearch.strategy.median import MedianRule


def _arrivals(seed: int, trials: int, epochs: int) -> list[tuple[int, int, float]]:
    """Reports of trials that run at the same time: (trial, epoch, running best) in a random order of arrival."""
    rng = np.random.default_rng(seed)
    curves = np.maximum.accumulate(rng.random((trials, epochs)), axis=1)
    at = [0] * trials
    arrivals = []
    while open_trials := [trial for trial in range(trials) if at[trial] < epochs]:
        trial = int(rng.choice(open_trials[:4]))  # at most four run at once
        arrivals.append((trial, at[trial] + 1, float(curves[trial, at[trial]])))
        at[trial] += 1
    return arrivals


@pytest.mark.parametrize(("grace", "reduction", "epochs"), [(1, 2, 9), (4, 3, 40), (2, 4, 30), (3, 2, 3)])
def test_decisions_equal_rays(grace: int, reduction: int, epochs: int) -> None:
    """Oracle: ray.tune's AsyncHyperBandScheduler with one bracket, fed with the same reports."""
    from ray.tune.schedulers import AsyncHyperBandScheduler

    ray_asha = AsyncHyperBandScheduler(
        time_attr="epoch", metric="value", mode="max", grace_period=grace, reduction_factor=reduction, max_t=epochs
    )
    ours = Asha(grace_epochs=grace, reduction=reduction, max_epochs=epochs)
    stopped: set[int] = set()
    decisions = 0
    trials: dict[int, Any] = {}
    for number, epoch, value in _arrivals(seed=grace, trials=40, epochs=epochs):
        if number in stopped:
            continue
        if number not in trials:
            trials[number] = SimpleNamespace(trial_id=str(number))
            ray_asha.on_trial_add(None, trials[number])
        theirs = ray_asha.on_trial_result(None, trials[number], {"epoch": epoch, "value": value})
        if epoch == epochs:
            continue  # Ray stops every trial at its end; ours completes there
        decision = ours.stops(number, epoch, value)
        assert decision == (theirs == "STOP"), (number, epoch)
        decisions += decision
        if decision:
            stopped.add(number)
    assert decisions > 0 or grace >= epochs


def test_filled_from_a_record_it_decides_the_same() -> None:
    """Oracle: the same object without an interruption."""
    arrivals = _arrivals(seed=5, trials=30, epochs=12)
    whole = Asha(grace_epochs=1, reduction=3, max_epochs=12)
    expected = [whole.stops(*arrival) for arrival in arrivals]
    for cut in (1, 17, 100, 200):
        resumed = Asha(grace_epochs=1, reduction=3, max_epochs=12)
        for arrival in reversed(arrivals[:cut]):  # in whatever order a ledger is read
            resumed.record(*arrival)
        assert [resumed.stops(*arrival) for arrival in arrivals[cut:]] == expected[cut:]


def test_hand_worked_rung() -> None:
    """Reduction 2: the median of the earlier values decides; the first goes on; median(0.5, 0.4) = 0.45."""
    asha = Asha(grace_epochs=2, reduction=2, max_epochs=10)
    assert sorted(asha.rungs) == [2, 4, 8]
    assert not asha.stops(0, 1, 0.0)  # no rung
    assert not asha.stops(0, 2, 0.5)
    assert asha.stops(1, 2, 0.4)
    assert not asha.stops(2, 2, 0.45)
    assert asha.stops(3, 2, 0.44)  # median(0.5, 0.4, 0.45) = 0.45
    assert not asha.stops(1, 2, 0.0)  # a report that is told again is decided already


def test_median_rule_hand_worked() -> None:
    """Others at epoch 2 have 0.2, 0.4, 0.6: their median is 0.4."""
    rule = MedianRule(grace_epochs=2, min_trials=3)
    for number, value in enumerate((0.2, 0.4, 0.6)):
        assert not rule.stops(number, 1, value)
        rule.record(number, 2, value)
    assert not rule.stops(3, 1, 0.0)  # within the grace
    assert rule.stops(3, 2, 0.39)
    assert not rule.stops(4, 2, 0.41)  # others: 0.2, 0.39, 0.4, 0.6, median 0.395
