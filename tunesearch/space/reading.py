"""An entry of a file's ``parameters`` as a parameter, or everything that is wrong with it."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from tunesearch.errors import Problem, nearest
from tunesearch.space.domains import Choice, Domain, FloatRange, IntRange, Scalar, same, text
from tunesearch.space.space import Parameter

DOMAIN_KEYS = ("choice", "int", "float")
PARAMETER_KEYS = (*DOMAIN_KEYS, "log", "step", "when")


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
