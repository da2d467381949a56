"""What a trial gets. Oracle: hand-worked tables."""

from __future__ import annotations

from typing import Any

import pytest

from tunesearch.engine.resources import Resources, plan_resources, plan_workers
from tunesearch.errors import InputError


@pytest.mark.parametrize(
    ("nodes", "asked", "expected"),
    [
        ([{"CPU": 2.0}], {}, Resources(1, 0.0, 2)),
        ([{"CPU": 8.0}], {}, Resources(2, 0.0, 4)),
        ([{"CPU": 16.0, "GPU": 1.0}], {}, Resources(8, 1.0, 1)),
        ([{"CPU": 16.0, "GPU": 4.0}], {}, Resources(4, 1.0, 4)),
        ([{"CPU": 16.0, "GPU": 1.0}], {"gpus": 0.25}, Resources(4, 0.25, 4)),
        ([{"CPU": 16.0, "GPU": 1.0}], {"gpus": 0.3}, Resources(4, 0.3, 3)),
        ([{"CPU": 16.0, "GPU": 1.0}], {"gpus": 0.0, "cpus": 4}, Resources(4, 0.0, 4)),
        ([{"CPU": 4.0}, {"CPU": 8.0}], {"cpus": 4}, Resources(4, 0.0, 3)),
        ([{"CPU": 8.0}], {"cpus": 1, "concurrent": 3}, Resources(1, 0.0, 3)),
        ([{"CPU": 2.0}], {"concurrent": 64}, Resources(1, 0.0, 2)),
        ([{"CPU": 2.0}], {"concurrent": 64, "grows": True}, Resources(1, 0.0, 64)),
        ([{"CPU": 1.0}, {"CPU": 8.0, "GPU": 2.0}], {"gpus": 2.0}, Resources(8, 2.0, 1)),
    ],
)
def test_plan(nodes: list[dict[str, float]], asked: dict[str, Any], expected: Resources) -> None:
    assert plan_resources(nodes, **asked) == expected


@pytest.mark.parametrize(
    ("nodes", "asked", "said"),
    [
        ([{"CPU": 2.0}], {"gpus": 1.0}, "--gpus-per-trial"),
        ([{"CPU": 2.0}], {"cpus": 3}, "--cpus-per-trial"),
        ([{"CPU": 2.0}, {"CPU": 2.0}], {"cpus": 4}, "4 CPUs and 0 GPUs a trial, where the largest node has 2 CPUs"),
    ],
)
def test_a_trial_that_fits_nowhere_is_refused(nodes: list[dict[str, float]], asked: dict[str, Any], said: str) -> None:
    """Ray itself would wait for ever without a word."""
    with pytest.raises(InputError, match=said):
        plan_resources(nodes, **asked)


@pytest.mark.parametrize(
    ("nodes", "workers", "expected"),
    [
        ([{"CPU": 2.0}], 2, Resources(1, 0.0, 2)),
        ([{"CPU": 8.0}], 3, Resources(2, 0.0, 3)),
        ([{"CPU": 3.0}, {"CPU": 5.0}], 2, Resources(3, 0.0, 2)),  # a share of 4 would not fit on the first
        ([{"CPU": 16.0, "GPU": 4.0}], 4, Resources(4, 1.0, 4)),
        ([{"CPU": 16.0, "GPU": 4.0}, {"CPU": 64.0}], 2, Resources(8, 1.0, 2)),
    ],
)
def test_processes_of_one_training(nodes: list[dict[str, float]], workers: int, expected: Resources) -> None:
    assert plan_workers(nodes, workers) == expected


def test_more_processes_than_fit() -> None:
    with pytest.raises(InputError, match="--workers: must be at most the number of GPUs there are, 2, but got 3"):
        plan_workers([{"CPU": 16.0, "GPU": 2.0}, {"CPU": 16.0}], 3)
