"""space.py. Oracles: Optuna itself, and lists worked out by hand."""

from __future__ import annotations

import pickle
from typing import Any

import optuna
import pytest

from tunesearch.errors import InputError
from tunesearch.space import Choice, FloatRange, IntRange, Parameter, Space, read_parameter, same, text

SPACE = Space(
    (
        Parameter("optimizer", Choice(("adam", "sgd"))),
        Parameter("schedule", Choice(("none", "cosine")), {"optimizer": ("sgd",)}),
        Parameter("momentum", FloatRange(0.8, 0.9, step=0.1), {"optimizer": ("sgd",)}),
        Parameter("epochs", IntRange(1, 5, step=4), {"schedule": ("cosine",)}),
    )
)


class Recorder:
    """Answers each suggestion from a dict and remembers what it was asked, as Optuna would be."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.asked: list[tuple[Any, ...]] = []

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.asked.append((name, tuple(choices)))
        return self.answers[name]

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self.asked.append((name, low, high, step, log))
        return int(self.answers[name])

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        self.asked.append((name, low, high, step, log))
        return float(self.answers[name])


def test_only_active_parameters_are_suggested_in_file_order() -> None:
    """Oracle: the conditions, read by hand."""
    trial = Recorder({"optimizer": "sgd", "schedule": "cosine", "momentum": 0.9, "epochs": 5})
    assert SPACE(trial) == {"optimizer": "sgd", "schedule": "cosine", "momentum": 0.9, "epochs": 5}
    assert trial.asked == [
        ("optimizer", ("adam", "sgd")),
        ("schedule", ("none", "cosine")),
        ("momentum", 0.8, 0.9, 0.1, False),
        ("epochs", 1, 5, 4, False),
    ]


def test_a_child_of_an_inactive_parent_is_inactive() -> None:
    """Oracle: with adam, schedule is inactive, so epochs, which hangs on schedule, must not be asked either."""
    trial = Recorder({"optimizer": "adam"})
    assert SPACE(trial) == {"optimizer": "adam"}
    assert len(trial.asked) == 1


def test_grid_is_the_hand_worked_list() -> None:
    """Oracle: the tree drawn by hand: adam; sgd x {none, cosine} x {0.8, 0.9}, and under cosine x {1, 5}."""
    points: list[dict[str, Any]] = [
        {"optimizer": "adam"},
        {"optimizer": "sgd", "schedule": "none", "momentum": 0.8},
        {"optimizer": "sgd", "schedule": "none", "momentum": 0.9},
        {"optimizer": "sgd", "schedule": "cosine", "momentum": 0.8, "epochs": 1},
        {"optimizer": "sgd", "schedule": "cosine", "momentum": 0.8, "epochs": 5},
        {"optimizer": "sgd", "schedule": "cosine", "momentum": 0.9, "epochs": 1},
        {"optimizer": "sgd", "schedule": "cosine", "momentum": 0.9, "epochs": 5},
    ]
    assert list(SPACE.grid()) == points
    assert SPACE.grid_size() == 7
    assert all(SPACE.contains(point) for point in points)


def test_grid_values_of_ranges() -> None:
    """Oracle: decimal arithmetic by hand; in binary 0.1 + 2 * 0.1 would be 0.30000000000000004."""
    assert list(FloatRange(0.1, 0.4, step=0.1).grid()) == [0.1, 0.2, 0.3, 0.4]
    assert list(IntRange(1, 7, step=3).grid()) == [1, 4, 7]
    assert list(IntRange(2, 5, log=True).grid()) == [2, 3, 4, 5]


def test_grid_size_does_not_visit_every_point() -> None:
    """Oracle: 10 ** 40, the product of the counts."""
    space = Space(tuple(Parameter(f"p{index}", IntRange(1, 10)) for index in range(40)))
    assert space.grid_size() == 10**40


def test_grid_names_each_float_without_step() -> None:
    space = Space((Parameter("lr", FloatRange(0.1, 1.0)), Parameter("dropout", FloatRange(0.1, 0.5))))
    for enumerate_ in (space.grid, space.grid_size):
        with pytest.raises(InputError, match="step") as caught:
            enumerate_()
        assert [problem.path for problem in caught.value.problems] == ["parameters.lr", "parameters.dropout"]


@pytest.mark.parametrize(
    ("point", "active"),
    [
        ({}, ("optimizer",)),
        ({"optimizer": "adam"}, ("optimizer",)),
        ({"optimizer": "sgd"}, ("optimizer", "schedule", "momentum")),
        ({"schedule": "cosine"}, ("optimizer",)),
        ({"optimizer": "sgd", "schedule": "cosine"}, ("optimizer", "schedule", "momentum", "epochs")),
    ],
)
def test_active(point: dict[str, Any], active: tuple[str, ...]) -> None:
    """Oracle: the conditions, read by hand."""
    assert SPACE.active(point) == active


def test_a_parent_with_one_value_need_not_be_given() -> None:
    space = Space(
        (Parameter("optimizer", Choice(("sgd",))), Parameter("momentum", FloatRange(0.1, 0.9), {"optimizer": ("sgd",)}))
    )
    assert space.problems({"momentum": 0.5}) == []
    assert not space.contains({"momentum": 0.5})  # a full point says everything


@pytest.mark.parametrize(
    ("point", "says"),
    [
        ({"optimzer": "sgd"}, ["optimzer: is no parameter of this space (did you mean 'optimizer'?)"]),
        ({"optimizer": "adamw"}, ["optimizer: must be one of adam | sgd, but got adamw"]),
        ({"optimizer": "sgd", "momentum": 0.85}, ["momentum: must lie in float 0.8 .. 0.9, step 0.1, but got 0.85"]),
        (
            {"optimizer": "adam", "momentum": 0.8},
            [
                "momentum: only has a meaning when optimizer = sgd, which this point does not say"
                " (give that too, or leave this out)"
            ],
        ),
        ({"optimizer": "sgd", "momentum": 0.8}, []),
    ],
)
def test_problems_of_a_partial_point(point: dict[str, Any], says: list[str]) -> None:
    assert [str(problem) for problem in SPACE.problems(point)] == says


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (Choice((1, "a", None)), [1, 1.0, "a", None], [True, "1", 0]),
        (IntRange(1, 7, step=3), [1, 4, 7], [2, 8, 4.0, True, "4"]),
        (FloatRange(0.0, 1.0), [0, 1, 0.5], [1.1, -0.1, True, "0.5", float("nan")]),
        (FloatRange(0.0, 1.0, step=0.1), [0.3, 0.7, 1.0], [0.35]),
    ],
)
def test_contains(domain: Any, inside: list[Any], outside: list[Any]) -> None:
    """Oracle: set membership by hand; YAML's true is not 1."""
    assert [value for value in inside if not domain.contains(value)] == []
    assert [value for value in outside if domain.contains(value)] == []


def test_pickles_with_the_standard_library() -> None:
    """Oracle: the copy samples the same points from the same Optuna seed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    drawn = []
    for space in (SPACE, pickle.loads(pickle.dumps(SPACE))):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
        drawn.append([space(study.ask()) for _ in range(20)])
    assert drawn[0] == drawn[1]
    assert pickle.loads(pickle.dumps(SPACE)) == SPACE


def test_optuna_sees_the_domains_as_written() -> None:
    """Oracle: the distributions that Optuna recorded."""
    space = Space(
        (
            Parameter("lr", FloatRange(1e-4, 1e-1, log=True)),
            Parameter("dropout", FloatRange(0.0, 0.5, step=0.25)),
            Parameter("batch_size", IntRange(2, 64, log=True)),
            Parameter("epochs", IntRange(2, 8, step=2)),
            Parameter("grad_clip", Choice((None, 1.0))),
        )
    )
    trial = optuna.create_study().ask()
    space(trial)
    assert trial.distributions == {
        "lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
        "dropout": optuna.distributions.FloatDistribution(0.0, 0.5, step=0.25),
        "batch_size": optuna.distributions.IntDistribution(2, 64, log=True),
        "epochs": optuna.distributions.IntDistribution(2, 8, step=2),
        "grad_clip": optuna.distributions.CategoricalDistribution((None, 1.0)),
    }


@pytest.mark.parametrize("parameter", SPACE.parameters, ids=SPACE.names)
def test_a_parameter_is_read_as_it_is_written(parameter: Parameter) -> None:
    assert read_parameter(parameter.name, parameter.to_document()) == (parameter, [])


def test_skeletons_hold_parents_of_what_is_asked_for() -> None:
    """Oracle: by hand: epochs hangs on schedule, which hangs on optimizer; momentum does not matter."""
    found = [tuple(point.values()) for point in SPACE.skeletons(["epochs"])]
    assert found == [("adam",), ("sgd", "none"), ("sgd", "cosine", 1), ("sgd", "cosine", 5)]


def test_describe_is_what_a_reader_expects() -> None:
    assert SPACE.describe() == [
        ("optimizer", "adam | sgd", ""),
        ("schedule", "none | cosine", "optimizer = sgd"),
        ("momentum", "float 0.8 .. 0.9, step 0.1", "optimizer = sgd"),
        ("epochs", "int 1 .. 5, step 4", "schedule = cosine"),
    ]


def test_values_are_shown_as_yaml_reads_them() -> None:
    """Oracle: YAML 1.2: what a person would have to type to mean the value."""
    shown = {text(value) for value in ("4", 4.0, 4, "none", "null", None, True, 1e-5)}
    assert shown == {'"4"', "4.0", "4", "none", '"null"', "null", "true", "1e-05"}
    assert same(1, 1.0)
    assert not same(1, True)
