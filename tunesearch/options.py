"""Options of a verb, written once: a dataclass whose fields are its flags on the command line and its Python arguments.

:class:`takes` gives a function the fields of an options class as its keyword arguments, with their documentation;
``tunesearch.cli.options`` makes click's options of the same fields.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

P = ParamSpec("P")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
R = TypeVar("R")
O = TypeVar("O")  # noqa: E741  # an options class


@dataclass(frozen=True)
class Flag:
    """A flag of the command line, and the argument of the same meaning in Python.

    Attributes:
        help: one sentence; what holds without the flag stands in brackets.
        name: where it is not the field's, such as ``--set``.
        kind: of what is written, where the annotation does not say it; see ``tunesearch.cli.options``.
        least, most: bounds of a number.
        among: the values that are allowed; None: any.
        metavar: how help calls the value; None: click's own word.
        several: it may be given more than once.
    """

    help: str
    name: str | None = None
    kind: str | None = None
    least: float | None = None
    most: float | None = None
    among: tuple[str, ...] | None = None
    metavar: str | None = None
    several: bool = False


def field(about: Flag | str, default: Any = None) -> Any:
    """A field of an options class: a :class:`Flag`, or the help of an argument that only Python has."""
    return dataclasses.field(default=default, metadata={"about": about})


def flags(options: type) -> dict[str, Flag]:
    """The flags of an options class by the field's name: its own first, then those of the classes that it extends."""
    fields = {item.name: item.metadata["about"] for item in dataclasses.fields(options)}
    named = [name for kind in options.__mro__ for name in vars(kind).get("__annotations__", {})]
    return {name: about for name in dict.fromkeys(named) if isinstance(about := fields.get(name), Flag)}


class takes(Generic[P, O]):  # noqa: N801  # a decorator
    """Has a function of something and its options take the options' fields as keyword arguments.

    They are documented under ``Args`` of its docstring, in place of the line ``options: ...``.

    Args:
        options: the options' class, the function's last parameter.
    """

    def __init__(self, options: Callable[P, O]) -> None:
        self.options = options

    @overload
    def __call__(self, function: Callable[[A, O], R]) -> Callable[Concatenate[A, P], R]: ...
    @overload
    def __call__(self, function: Callable[[A, B, O], R]) -> Callable[Concatenate[A, B, P], R]: ...
    @overload
    def __call__(self, function: Callable[[A, B, C, O], R]) -> Callable[Concatenate[A, B, C, P], R]: ...
    def __call__(self, function: Callable[..., R]) -> Callable[..., R]:
        *leading, _ = inspect.signature(function).parameters.values()

        @functools.wraps(function)
        def verb(*args: Any, **kwargs: Any) -> R:
            own = {item.name: kwargs.pop(item.name) for item in leading[len(args) :] if item.name in kwargs}
            return function(*args, **own, options=self.options(**kwargs))  # type: ignore[call-arg]

        fields = inspect.signature(self.options).parameters.values()
        verb.__signature__ = inspect.signature(function).replace(parameters=[*leading, *fields])  # type: ignore[attr-defined]
        verb.__doc__ = _documented(function.__doc__ or "", self.options)
        return verb


def _documented(doc: str, options: Any) -> str:
    """A docstring in which a line for every field stands in place of the line ``options: ...``."""
    lines = []
    for item in dataclasses.fields(options):
        about = item.metadata["about"]
        text = f"{item.name}: {about.help if isinstance(about, Flag) else about}"
        lines.append(textwrap.fill(text, 116, initial_indent=" " * 8, subsequent_indent=" " * 12))
    return re.sub(r"^ {8}options: .*$", lambda match: "\n".join(lines), doc, flags=re.MULTILINE)
