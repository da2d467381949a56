"""Schedules and early stopping. Oracles: numbers worked out by hand, and the schedulers of torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, get_args

import pytest
import torch

from tunesearch.segmentation import config as names
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.schedules import SCHEDULES, lr_factor, stops_early


def test_the_names_of_the_configuration_are_those_of_the_table() -> None:
    assert tuple(SCHEDULES) == names.SCHEDULES
    assert get_args(TrainConfig.model_fields["schedule"].annotation) == names.SCHEDULES


def test_none_is_constant() -> None:
    assert [lr_factor(TrainConfig(), t, 10) for t in range(10)] == [1.0] * 10


@pytest.mark.parametrize(
    ("decay", "t", "factor"),
    [(1e-3, 0, 1.0), (1e-3, 1000, 0.5), (1e-3, 3000, 0.25), (0.25, 1, 0.8), (0.25, 4, 0.5), (0.0, 99, 1.0)],
)
def test_time_decay_by_hand(decay: float, t: int, factor: float) -> None:
    """1 / (1 + decay * t), whatever the length of the training (report E)."""
    config = TrainConfig(schedule="time_decay", lr_decay=decay)
    assert lr_factor(config, t, 10) == pytest.approx(factor)
    assert lr_factor(config, t, 100_000) == pytest.approx(factor)


def test_cosine_by_hand() -> None:
    """(1 + cos(pi t / 4)) / 2 at t = 0, 1, 2, 3, 4: 1, (1 + 1/sqrt 2) / 2, 1/2, (1 - 1/sqrt 2) / 2, 0."""
    config = TrainConfig(schedule="cosine")
    half = math.sqrt(0.5)
    expected = [1, (1 + half) / 2, 0.5, (1 - half) / 2, 0]
    assert [lr_factor(config, t, 4) for t in range(5)] == pytest.approx(expected)
    assert lr_factor(config, 9, 4) == pytest.approx(0.0)  # past the end it stays down


def test_cosine_is_torchs() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=17)
    config = TrainConfig(schedule="cosine")
    for t in range(17):
        assert lr_factor(config, t, 17) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        torchs.step()


# ------------------------------------------------------------------------ the first 20 values of each, against another


def torchs(build: Callable[[torch.optim.Optimizer], Any], steps: int, values: Sequence[float] = ()) -> list[float]:
    """The learning rate before each of ``steps`` steps of a scheduler of torch; the plateau's is told ``values``."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build(optimizer)
    rates = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(*([values[step]] if values else []))
    return rates


def factors(config: TrainConfig, steps: int, *, per_epoch: int) -> list[float]:
    return [lr_factor(config, t, config.epochs * per_epoch) for t in range(steps)]


def test_time_decay_first_20() -> None:
    """Oracle: torch's LambdaLR with Keras' formula."""
    config = TrainConfig(schedule="time_decay", lr_decay=0.07, epochs=40)
    expected = torchs(lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + 0.07 * t)), 20)
    assert factors(config, 20, per_epoch=1) == pytest.approx(expected)


def test_cosine_first_20() -> None:
    config = TrainConfig(schedule="cosine", epochs=8)
    expected = torchs(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=24), 20)
    assert factors(config, 20, per_epoch=3) == pytest.approx(expected)


def test_exponential_first_20_epochs() -> None:
    """Report A: epochs 0 to 14 at the first rate, then times exp(-0.1) each. And torch's ExponentialLR."""
    rate = math.exp(-0.1)
    config = TrainConfig(schedule="exponential", lr_gamma=rate, lr_hold_epochs=15, epochs=30)
    expected = [1.0] * 15 + [rate, rate**2, rate**3, rate**4, rate**5]
    assert [lr_factor(config, 4 * epoch, 120) for epoch in range(20)] == pytest.approx(expected)
    assert [lr_factor(config, 4 * epoch + 3, 120) for epoch in range(20)] == pytest.approx(expected)  # all of an epoch
    config = TrainConfig(schedule="exponential", lr_gamma=0.8, lr_hold_epochs=1, epochs=30)
    expected = torchs(lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.8), 20)
    assert factors(config, 20, per_epoch=1) == pytest.approx(expected)


def test_step_first_20() -> None:
    config = TrainConfig(schedule="step", lr_gamma=0.3, lr_step_epochs=6, epochs=30)
    expected = torchs(lambda o: torch.optim.lr_scheduler.StepLR(o, 6, 0.3), 20)
    assert factors(config, 20, per_epoch=1) == pytest.approx(expected)
    assert factors(config, 14, per_epoch=2) == pytest.approx([1.0] * 12 + [0.3] * 2)


def test_poly_first_20() -> None:
    config = TrainConfig(schedule="poly", poly_power=0.9, epochs=8)
    expected = torchs(lambda o: torch.optim.lr_scheduler.PolynomialLR(o, total_iters=24, power=0.9), 20)
    assert factors(config, 20, per_epoch=3) == pytest.approx(expected)


LOSSES = [5.0, 4.0, 4.0, 3.9995, 3.9, 3.95, 3.9, 3.9, 3.899, 3.0, 3.1, 3.2, 3.3, 3.4, 3.5, 3.6, 3.7, 2.9, 2.9, 2.9]


@pytest.mark.parametrize(("patience", "threshold"), [(0, 0.0), (1, 1e-3), (3, 1e-3), (4, 0.5), (2, 0.0)])
def test_plateau_first_20_epochs(patience: int, threshold: float) -> None:
    """Oracle: torch's ReduceLROnPlateau, minimising a loss and maximising the same with its sign changed."""

    def plateau(mode: Any) -> Callable[[torch.optim.Optimizer], Any]:
        return lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(
            o, mode, factor=0.5, patience=patience, threshold=threshold, threshold_mode="abs", eps=0.0
        )

    for metric, mode, sign in (("val_loss", "min", 1), ("val_miou", "max", -1)):
        values = [sign * value for value in LOSSES]
        config = TrainConfig.model_validate(
            {
                "schedule": "plateau",
                "lr_gamma": 0.5,
                "plateau_metric": metric,
                "plateau_patience": patience,
                "plateau_threshold": threshold,
            }
        )
        mine = [lr_factor(config, 7 * epoch, 700, values[:epoch]) for epoch in range(20)]
        assert mine == pytest.approx(torchs(plateau(mode), 20, values))


@pytest.mark.parametrize("schedule", ["none", "cosine", "poly"])
def test_warmup_first_20(schedule: Any) -> None:
    """Two epochs of three updates: (t + 1) / 6 of what the schedule says, which is torch's LinearLR for ``none``."""
    config = TrainConfig(schedule=schedule, warmup_epochs=2, epochs=8)
    plain = factors(TrainConfig(schedule=schedule, epochs=8), 20, per_epoch=3)
    rising = torchs(lambda o: torch.optim.lr_scheduler.LinearLR(o, start_factor=1 / 6, total_iters=5), 20)
    expected = [factor * rise for factor, rise in zip(plain, rising, strict=True)]
    assert factors(config, 20, per_epoch=3) == pytest.approx(expected)


# ----------------------------------------------------------------------------------------------------------- early stop


@pytest.mark.parametrize(
    ("losses", "patience", "delta", "stops"),
    [
        ([3.0, 2.0, 1.0], 1, 0.0, False),
        ([3.0, 2.0, 2.0], 1, 0.0, True),
        ([3.0, 2.0, 2.1], 2, 0.0, False),
        ([3.0, 2.0, 2.1, 2.0], 2, 0.0, True),
        ([3.0, 2.9995, 2.999], 2, 1e-2, True),  # smaller than delta is no improvement
        ([3.0, 2.995, 2.98], 2, 1e-2, False),  # 2.98 improves on 3.0, from which it is measured
        ([], 1, 0.0, False),
        ([3.0], 1, 0.0, False),
    ],
)
def test_early_stopping_by_hand(losses: list[float], patience: int, delta: float, stops: bool) -> None:
    """The rule of Keras' EarlyStopping, worked out by hand; mirrored for a metric that is to rise."""
    config = TrainConfig(early_stop_patience=patience, early_stop_delta=delta)
    assert stops_early(config, losses) is stops
    rising = config.model_copy(update={"early_stop_metric": "val_miou"})
    assert stops_early(rising, [-loss for loss in losses]) is stops
    assert not stops_early(TrainConfig(), losses)
