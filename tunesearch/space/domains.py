"""The domains that a value is drawn from: a few scalars, whole numbers, real numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

Scalar = str | int | float | bool | None
Point = dict[str, Scalar]

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
