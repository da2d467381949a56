"""click's options, made of a verb's options class, and the types of values that people write."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tunesearch.api.options import DATA, STORAGE
from tunesearch.engine.options import ADDRESS, ENCODER_WEIGHTS, TRACKING_URI
from tunesearch.options import Flag, flags

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Duration(click.ParamType[float]):
    """``90s``, ``30m``, ``1h30m``, ``2d``: seconds as a float."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        if not re.fullmatch(r"(\d+(\.\d+)?[smhd])+", value):
            self.fail(f"must be a time such as 90s, 30m, 1h30m or 2d, but got {value!r}", param, ctx)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)([smhd])", value))
        if seconds <= 0:
            self.fail(f"must be more than nothing, but got {value!r}", param, ctx)
        return seconds


class Kept(click.ParamType[int | None]):
    """``all`` or ``best:5``: how many completed trials keep their weights; None for all."""

    name = "kept"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value == "all":
            return None
        number = str(value).removeprefix("best:")
        if not number.isdecimal() or not 0 < int(number) <= 1_000_000 or number == value:
            self.fail(f"must be all or best:N, such as best:5, but got {value!r}", param, ctx)
        return int(number)


KINDS: dict[str, click.ParamType[Any]] = {
    "path": click.Path(path_type=Path),
    "folder": click.Path(path_type=Path, file_okay=False),
    "duration": Duration(),
    "kept": Kept(),
}


def option(name: str, about: Flag, annotation: str = "") -> Callable[[F], F]:
    """click's option of one flag.

    Args:
        name: of the parameter.
        annotation: of its field.
    """
    given: dict[str, Any] = {"help": about.help, "metavar": about.metavar}
    if about.kind in KINDS:
        given["type"] = KINDS[about.kind]
    elif about.among is not None:
        given["type"] = click.Choice(about.among)
    elif annotation.startswith("bool"):
        given["is_flag"] = True
    elif annotation.startswith("int"):
        least, most = (None if bound is None else int(bound) for bound in (about.least, about.most))
        given["type"] = click.IntRange(min=least, max=most)
    elif annotation.startswith("float"):
        given["type"] = click.FloatRange(min=about.least, max=about.most)
    if about.several:
        given["multiple"] = True
    words = (about.name or "--" + name.replace("_", "-")).split("/")
    return click.option(*words, name, **given)


def options_of(verb: type) -> Callable[[F], F]:
    """All flags of an options class, which the command is given only as far as they were written."""

    def decorate(command: F) -> F:
        annotations = {item.name: str(item.type) for item in dataclasses.fields(verb)}
        for name, about in reversed(flags(verb).items()):
            command = option(name, about, annotations[name])(command)
        return command

    return decorate


def written(given: dict[str, Any]) -> dict[str, Any]:
    """The values that somebody wrote; the others are the options class's own."""
    context = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    return {name: value for name, value in given.items() if context.get_parameter_source(name) is not default}


storage = option("storage", STORAGE)
tracking_uri = option("tracking_uri", TRACKING_URI)
data = option("data", DATA)
encoder_weights = option("encoder_weights", ENCODER_WEIGHTS)
address = option("address", ADDRESS)
as_json = click.option("--json", "as_json", is_flag=True, help="Machine output alone on stdout.")
