"""Schedules. Oracle: numbers worked out by hand, and torch's CosineAnnealingLR."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from tunesearch.segmentation import config as names
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.schedules import SCHEDULES, lr_factor


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
