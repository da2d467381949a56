"""Parameters and conditions, and the space they span: a picklable callable over anything with Optuna's ``suggest_*``.

File order is sampling order. A parameter whose ``when`` does not hold is inactive: it is not sampled and absent from
the point, and so is everything that depends on it. A point is a dict from parameter name to value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

from tunesearch.errors import InputError, Problem, nearest

Scalar = str | int | float | bool | None
Point = dict[str, Scalar]

DOMAIN_KEYS = ("choice", "int", "float")
PARAMETER_KEYS = (*DOMAIN_KEYS, "log", "step", "when")
LOOKS_OTHERWISE = re.compile(r"|true|false|null|~|[-+]?[\d.]+(e[-+]?\d+)?", re.IGNORECASE)
"""Texts that YAML would read as something else if they stood without quotes."""


class Suggests(Protocol):
    """What a space asks of a trial; Optuna's ``Trial`` has it."""

    def suggest_categorical(self, name: str, choices: Sequence[Scalar], /) -> Any: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...


def same(left: object, right: object) -> bool:
    """Equality as a reader of the file sees it: 1 is 1.0, but true is not 1."""
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def text(value: object) -> str:
    """A value as it would stand in the file."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(text(item) for item in value) + "]"
    if isinstance(value, float):
        short = f"{value:g}" if float(f"{value:g}") == value else str(value)
        return f"{short}.0" if short.lstrip("-").isdigit() else short  # 4.0 is not 4
    if isinstance(value, str) and LOOKS_OTHERWISE.fullmatch(value):
        return f'"{value}"'
    return str(value)


@dataclass(frozen=True)
class Choice:
    """One of a few scalars."""

    values: tuple[Scalar, ...]

    def suggest(self, trial: Suggests, name: str) -> Scalar:
        value: Scalar = trial.suggest_categorical(name, self.values)
        return value

    def contains(self, value: object) -> bool:
        return any(same(value, own) for own in self.values)

    def grid(self) -> Sequence[Scalar]:
        return self.values

    def representatives(self) -> tuple[Scalar, ...]:
        return self.values

    def to_document(self) -> dict[str, Any]:
        return {"choice": list(self.values)}

    def __str__(self) -> str:
        return " | ".join(text(value) for value in self.values)


@dataclass(frozen=True)
class IntRange:
    """Whole numbers from ``low`` to ``high``, both included."""

    low: int
    high: int
    log: bool = False
    step: int = 1

    def suggest(self, trial: Suggests, name: str) -> Scalar:
        return trial.suggest_int(name, self.low, self.high, step=self.step, log=self.log)

    def contains(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        return self.low <= value <= self.high and (value - self.low) % self.step == 0

    def grid(self) -> Sequence[Scalar]:
        return range(self.low, self.high + 1, self.step)

    def representatives(self) -> tuple[Scalar, ...]:
        return (self.low, self.low + (self.high - self.low) // self.step // 2 * self.step, self.high)

    def to_document(self) -> dict[str, Any]:
        return _range_document("int", self, {} if self.step == 1 else {"step": self.step})

    def __str__(self) -> str:
        return _range_text(self, "int", "" if self.step == 1 else f", step {self.step}")


@dataclass(frozen=True)
class FloatRange:
    """Real numbers from ``low`` to ``high``, both included."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def suggest(self, trial: Suggests, name: str) -> Scalar:
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def contains(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return abs(steps - round(steps)) < 1e-8  # Optuna's own tolerance

    def grid(self) -> Sequence[Scalar]:
        """Raises ValueError without ``step``."""
        if self.step is None:
            raise ValueError("a float range without `step` cannot be enumerated")
        low, step = Decimal(str(self.low)), Decimal(str(self.step))  # 0.1 + 2 * 0.1 is 0.3 only in decimals
        return [float(low + index * step) for index in range(round((self.high - self.low) / self.step) + 1)]

    def representatives(self) -> tuple[Scalar, ...]:
        return (self.low, self.high) if self.step is not None else (self.low, (self.low + self.high) / 2, self.high)

    def to_document(self) -> dict[str, Any]:
        return _range_document("float", self, {} if self.step is None else {"step": self.step})

    def __str__(self) -> str:
        return _range_text(self, "float", "" if self.step is None else f", step {text(self.step)}")


def _range_document(kind: str, domain: IntRange | FloatRange, step: dict[str, Any]) -> dict[str, Any]:
    return {kind: [domain.low, domain.high], **({"log": True} if domain.log else {}), **step}


def _range_text(domain: IntRange | FloatRange, kind: str, step: str) -> str:
    return f"{kind} {text(domain.low)} .. {text(domain.high)}{', log' if domain.log else ''}{step}"


Domain = Choice | IntRange | FloatRange


@dataclass(frozen=True)
class Parameter:
    """One searched field.

    Attributes:
        name: the TrainConfig field.
        domain: where its values come from.
        when: parent name -> values. Active when every parent is active and has any of its values.
    """

    name: str
    domain: Domain
    when: dict[str, tuple[Scalar, ...]] = field(default_factory=dict)

    def is_active(self, point: Mapping[str, object]) -> bool:
        """Whether ``when`` holds in a point whose inactive parameters are absent."""
        return all(
            parent in point and any(same(point[parent], value) for value in values)
            for parent, values in self.when.items()
        )

    def to_document(self) -> dict[str, Any]:
        """The parameter as the file writes it."""
        document = self.domain.to_document()
        if self.when:
            document["when"] = {parent: list(values) for parent, values in self.when.items()}
        return document


@dataclass(frozen=True)
class Space:
    """Parameters in sampling order: every ``when`` names parameters that stand above."""

    parameters: tuple[Parameter, ...]

    def __call__(self, trial: Suggests) -> Point:
        """Samples a point, top to bottom; inactive parameters are neither suggested nor in the result."""
        point: Point = {}
        for parameter in self.parameters:
            if parameter.is_active(point):
                point[parameter.name] = parameter.domain.suggest(trial, parameter.name)
        return point

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Parameter:
        """Raises KeyError."""
        return self._by_name[name]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def _by_name(self) -> dict[str, Parameter]:
        return {parameter.name: parameter for parameter in self.parameters}

    def active(self, params: Mapping[str, object]) -> tuple[str, ...]:
        """The parameters that are certain to be active, given these values.

        A parent that is not given counts only where it has a single value to take.
        """
        known: dict[str, object] = {}
        active = []
        for parameter in self.parameters:
            if not parameter.is_active(known):
                continue
            active.append(parameter.name)
            if parameter.name in params:
                known[parameter.name] = params[parameter.name]
            elif isinstance(parameter.domain, Choice) and len(parameter.domain.values) == 1:
                known[parameter.name] = parameter.domain.values[0]
        return tuple(active)

    def contains(self, point: Mapping[str, object]) -> bool:
        """Whether the point is complete: every active parameter, nothing else, every value in its domain."""
        return set(point) == set(self.active(point)) and not self.problems(point)

    def problems(self, point: Mapping[str, object]) -> list[Problem]:
        """What is wrong with a full or partial point; each problem's ``path`` is the parameter's name."""
        found = []
        by_name, active = self._by_name, self.active(point)
        for name, value in point.items():
            if name not in by_name:
                rule, hint = "is no parameter of this space", nearest(name, self.names)
                found.append(Problem(where="", path=name, rule=rule, hint=hint))
                continue
            parameter = by_name[name]
            if not parameter.domain.contains(value):
                kind = "be one of" if isinstance(parameter.domain, Choice) else "lie in"
                rule = f"must {kind} {parameter.domain}"
                found.append(Problem(where="", path=name, rule=rule, value=text(value)))
            if name not in active:
                rule = f"only has a meaning when {when_text(parameter.when)}, which this point does not say"
                found.append(Problem(where="", path=name, rule=rule, hint="give that too, or leave this out"))
        return found

    def grid(self) -> Iterator[Point]:
        """Every full point, the last parameter turning fastest.

        Raises:
            InputError: naming each float range without ``step``.
        """
        self._check_grid()
        return self._points({parameter.name: parameter.domain.grid() for parameter in self.parameters})

    def grid_size(self) -> int:
        """How many points ``grid`` yields, without visiting them all. Raises InputError as ``grid`` does."""
        self._check_grid()
        parents = {parent for parameter in self.parameters for parent in parameter.when}

        def count(index: int, point: Point) -> int:
            if index == len(self.parameters):
                return 1
            parameter = self.parameters[index]
            if not parameter.is_active(point):
                return count(index + 1, point)
            values = parameter.domain.grid()
            if parameter.name not in parents:  # nothing below depends on the value
                return len(values) * count(index + 1, point)
            return sum(count(index + 1, {**point, parameter.name: value}) for value in values)

        return count(0, {})

    def _check_grid(self) -> None:
        problems = [
            Problem(where="", path=f"parameters.{parameter.name}", rule=GRID_RULE, hint="or write a choice")
            for parameter in self.parameters
            if isinstance(parameter.domain, FloatRange) and parameter.domain.step is None
        ]
        if problems:
            raise InputError(problems)

    def skeletons(self, names: Iterable[str]) -> Iterator[Point]:
        """Points over ``names`` and all that decides on them: every choice, and for a range its ends, its middle and
        the values that a ``when`` names. Enough to see which combinations are possible at all."""
        by_name = self._by_name
        wanted: set[str] = set()
        queue = [name for name in names if name in by_name]
        while queue:
            name = queue.pop()
            wanted.add(name)
            queue += [parent for parent in by_name[name].when if parent in by_name and parent not in wanted]
        values: dict[str, Sequence[Scalar]] = {}
        for name in wanted:
            domain = by_name[name].domain
            named = [value for parameter in self.parameters for value in parameter.when.get(name, ())]
            candidates = [*domain.representatives(), *(value for value in named if domain.contains(value))]
            values[name] = list(dict.fromkeys(candidates))
        part = Space(tuple(parameter for parameter in self.parameters if parameter.name in wanted))
        return part._points(values)

    def _points(self, values: Mapping[str, Sequence[Scalar]]) -> Iterator[Point]:
        # Depth first from the top: what a condition names stands above it, so every condition is decided when reached.
        stack: list[tuple[int, Point]] = [(0, {})]
        while stack:
            depth, point = stack.pop()
            if depth == len(self.parameters):
                yield point
                continue
            parameter = self.parameters[depth]
            if not parameter.is_active(point):
                stack.append((depth + 1, point))
                continue
            stack += [(depth + 1, {**point, parameter.name: value}) for value in reversed(values[parameter.name])]

    def describe(self) -> list[tuple[str, str, str]]:
        """Rows for a table: name, domain, condition."""
        return [(parameter.name, str(parameter.domain), when_text(parameter.when)) for parameter in self.parameters]

    def to_document(self) -> dict[str, Any]:
        """The ``parameters`` section as the file writes it."""
        return {parameter.name: parameter.to_document() for parameter in self.parameters}


GRID_RULE = "the grid sampler needs a `step` for a float range"


def when_text(when: Mapping[str, Sequence[Scalar]]) -> str:
    """``optimizer = sgd and loss = dice | focal``."""
    return " and ".join(f"{name} = {' | '.join(text(value) for value in values)}" for name, values in when.items())


def read_parameter(name: str, raw: object) -> tuple[Parameter | None, list[Problem]]:
    """One entry of the ``parameters`` section.

    Returns:
        The parameter, None where it cannot be made, and everything that is wrong; each ``path`` starts with ``name``.
        Whether ``when`` names other parameters rightly is for the reader of the whole section to say.
    """
    example = "{float: [0.0, 0.7]}, {int: [1, 8]} or {choice: [a, b]}"
    if not isinstance(raw, dict):
        return None, [Problem(where="", path=name, rule=f"must be a mapping such as {example}", value=text(raw))]
    problems = [
        Problem(where="", path=f"{name}.{key}", rule="unknown key", hint=nearest(key, PARAMETER_KEYS))
        for key in raw
        if key not in PARAMETER_KEYS
    ]
    kinds = [key for key in DOMAIN_KEYS if key in raw]
    domain: Domain | None = None
    if len(kinds) != 1:
        rule = "exactly one of choice, int, float must be given"
        problems.append(Problem(where="", path=name, rule=rule, value=", ".join(kinds), hint=f"such as {example}"))
    elif kinds == ["choice"]:
        domain, found = _read_choice(name, raw)
        problems += found
    else:
        domain, found = _read_range(name, raw, kinds[0])
        problems += found
    when, found = _read_when(name, raw.get("when", {}))
    problems += found
    if problems or domain is None:
        return None, problems
    return Parameter(name, domain, when), []


def _read_choice(name: str, raw: dict[str, Any]) -> tuple[Choice | None, list[Problem]]:
    path, values = f"{name}.choice", raw["choice"]
    problems = [
        Problem(where="", path=f"{name}.{key}", rule=f"`{key}` goes with int and float, not with choice")
        for key in ("log", "step")
        if key in raw
    ]
    if not isinstance(values, list):
        problems.append(Problem(where="", path=path, rule="must be a list", value=text(values)))
        return None, problems
    if not values:
        problems.append(Problem(where="", path=path, rule="must hold at least one value", value="[]"))
    for index, value in enumerate(values):
        if isinstance(value, list | dict):
            hint = "a size is written 256x192" if name == "size" else ""
            rule = "must be a string, a number, true, false or null"
            problems.append(Problem(where="", path=f"{path}.{index}", rule=rule, value=text(value), hint=hint))
        elif any(same(value, earlier) for earlier in values[:index]):
            problems.append(
                Problem(where="", path=f"{path}.{index}", rule="values must differ", value=f"{text(value)} twice")
            )
    return (None if problems else Choice(tuple(values))), problems


def _read_range(name: str, raw: dict[str, Any], kind: str) -> tuple[Domain | None, list[Problem]]:
    path, ends = f"{name}.{kind}", raw[kind]
    log: Any = raw.get("log", False)
    step: Any = raw.get("step")
    wanted: Any = int if kind == "int" else int | float
    what = "whole numbers" if kind == "int" else "numbers"

    def is_number(value: object) -> bool:
        return isinstance(value, wanted) and not isinstance(value, bool)

    problems = []
    if not isinstance(log, bool):
        problems.append(Problem(where="", path=f"{name}.log", rule="must be true or false", value=text(log)))
    if "step" in raw and not (is_number(step) and 0 < step < math.inf):
        problems.append(Problem(where="", path=f"{name}.step", rule=f"must be a {what[:-1]} > 0", value=text(step)))
    if log is True and "step" in raw:
        problems.append(Problem(where="", path=f"{name}.step", rule="`step` and `log` exclude each other"))
    if not (isinstance(ends, list) and len(ends) == 2 and all(is_number(end) for end in ends)):
        problems.append(Problem(where="", path=path, rule=f"must be two {what} [low, high]", value=text(ends)))
        return None, problems
    low, high = ends
    shown = f"low={text(low)}, high={text(high)}"
    if not low < high:
        hint = f"a fixed value belongs under train: {name}" if low == high else ""
        problems.append(Problem(where="", path=path, rule="`low < high` must hold", value=shown, hint=hint))
    if log is True and not low > 0:
        problems.append(Problem(where="", path=path, rule="`low > 0` must hold with `log: true`", value=shown))
    if problems:
        return None, problems
    # Optuna would silently lower `high` to the last step.
    if step is not None and math.isfinite(high - low) and (Decimal(str(high)) - Decimal(str(low))) % Decimal(str(step)):
        rule = "`high - low` must be a multiple of `step`"
        return None, [Problem(where="", path=f"{name}.step", rule=rule, value=f"{shown}, step={text(step)}")]
    if kind == "int":
        return IntRange(low, high, log=log, step=1 if step is None else step), []
    return FloatRange(float(low), float(high), log=log, step=None if step is None else float(step)), []


def _read_when(name: str, raw: object) -> tuple[dict[str, tuple[Scalar, ...]], list[Problem]]:
    path = f"{name}.when"
    if not isinstance(raw, dict):
        rule = "must be a mapping such as {optimizer: sgd} or {optimizer: [sgd, rmsprop]}"
        return {}, [Problem(where="", path=path, rule=rule, value=text(raw))]
    when: dict[str, tuple[Scalar, ...]] = {}
    problems = []
    for parent, values in raw.items():
        listed = values if isinstance(values, list) else [values]
        if not listed or any(isinstance(value, list | dict) for value in listed):
            rule = "must be one value or a list of values"
            problems.append(Problem(where="", path=f"{path}.{parent}", rule=rule, value=text(values)))
        else:
            when[parent] = tuple(listed)
    return when, problems
