"""Options are written once. Oracles: click's own list of parameters, Python's own signature, a list by hand."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import click
import pytest

import tunesearch
from tunesearch.api.options import (
    ConfirmOptions,
    EnsembleOptions,
    EvaluateOptions,
    ExportOptions,
    PredictOptions,
    ResumeOptions,
    RunOptions,
    TrainOptions,
)
from tunesearch.cli import cli
from tunesearch.engine.options import SearchOptions
from tunesearch.options import Flag, field, flags, takes

VERBS: dict[str, tuple[Callable[..., Any], type, set[str], set[str]]] = {
    "run": (tunesearch.run, RunOptions, {"space"}, {"as_json"}),
    "resume": (tunesearch.resume, ResumeOptions, {"name"}, {"as_json"}),
    "confirm": (tunesearch.confirm, ConfirmOptions, {"name"}, {"as_json"}),
    "export": (tunesearch.export, ExportOptions, {"name", "output"}, set()),
    "train": (tunesearch.train, TrainOptions, {"source"}, {"as_json"}),
    "predict": (tunesearch.predict, PredictOptions, {"models", "images", "output"}, {"tiles", "scale"}),
    "evaluate": (tunesearch.evaluate, EvaluateOptions, {"models"}, {"tiles", "scale", "as_json"}),
    "ensemble": (tunesearch.ensemble, EnsembleOptions, {"models", "output"}, {"tiles", "scale"}),
}
"""Verb -> the function, its options, what stands before them, and flags that only the command line has."""


@pytest.mark.parametrize("verb", VERBS)
def test_flags_and_arguments_are_the_same(verb: str) -> None:
    function, options, leading, only_here = VERBS[verb]
    command = cli.commands[verb]
    assert {parameter.name for parameter in command.params} == leading | set(flags(options)) | only_here
    parameters = inspect.signature(function).parameters
    fields = {item.name: item for item in dataclasses.fields(options)}
    assert set(parameters) == leading | set(fields)
    for name, item in fields.items():
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].default == item.default
        assert f"{name}: " in (function.__doc__ or "")


@pytest.mark.parametrize("verb", VERBS)
def test_help_says_what_the_flag_says(verb: str) -> None:
    _, options, _, _ = VERBS[verb]
    told = {p.name: p.help for p in cli.commands[verb].params if isinstance(p, click.Option)}
    assert {name: told[name] for name in flags(options)} == {name: flag.help for name, flag in flags(options).items()}


def test_what_a_search_keeps_of_them() -> None:
    """Ledgers of earlier versions hold just these, under ``settings``: a resume makes the options of them."""
    kept = {
        "address": "local", "cpus_per_trial": None, "gpus_per_trial": 0.5, "max_concurrent": 2, "encoder_weights": "/w",
        "time_budget": 60.0, "tracking_uri": "sqlite:///a", "system_metrics": True, "code": "/here",
        "keep_checkpoints": 3, "stall_timeout": 90.0,
    }  # fmt: skip
    assert SearchOptions(**kept).as_dict() == kept
    assert RunOptions(**kept, trials=3, smoke=True).as_dict() == kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Base:
    depth: int | None = field(Flag("How deep.", least=1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options(_Base):
    height: float = field(Flag("How high [2]."), 2.0)
    listener: object = field("who is told.")


@takes(_Options)
def _measure(what: str, unit: str, options: _Options) -> tuple[str, str, _Options]:
    """Measure something.

    Args:
        what: the thing.
        unit: of the result.
        options: those of the command.
    """
    return what, unit, options


def test_a_function_takes_the_fields() -> None:
    assert _measure("a", "m", height=3.0) == ("a", "m", _Options(height=3.0))
    assert _measure(unit="m", what="a", depth=1)[2] == _Options(depth=1)
    with pytest.raises(TypeError, match="widht"):
        _measure("a", "m", widht=1)  # type: ignore[call-arg]
    assert str(inspect.signature(_measure)).startswith("(what: 'str', unit: 'str', *, depth: ")
    assert (_measure.__doc__ or "").splitlines()[3:8] == [
        "        what: the thing.",
        "        unit: of the result.",
        "        depth: How deep.",
        "        height: How high [2].",
        "        listener: who is told.",
    ]


def test_own_flags_come_before_those_of_the_class_that_is_extended() -> None:
    assert list(flags(_Options)) == ["height", "depth"]
