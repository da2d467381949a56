"""Plain data against a pydantic model: what pydantic says, as problems in our words, placed in the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tunesearch.errors import Problem, nearest
from tunesearch.segmentation.config import ARCHITECTURES, AUGMENTATIONS, CLASS_WEIGHTS, LOSSES, TrainConfig
from tunesearch.space import text

WORDS = {
    "Value error, ": "",
    "Input should be an object": "must be a mapping",
    "Input should be a valid array": "must be a list",
    "Input should be a valid integer": "must be a whole number",
    "Input should be a valid number": "must be a number",
    "Input should be a valid string": "must be a text",
    "Input should be a valid boolean": "must be true or false",
    "Input should be ": "must be ",
    "Field required": "is missing",
}
"""How pydantic's messages begin -> our words; the first that fits counts."""

TABLES = {
    "architecture": ARCHITECTURES,
    "loss": LOSSES,
    "class_weights": CLASS_WEIGHTS,
    "augmentation": AUGMENTATIONS,
}
"""Fields whose value is a name of a table, or something else that cannot be listed."""

_Model = TypeVar("_Model", bound=BaseModel)


def rule_of(message: str) -> str:
    """Pydantic's message in our words."""
    for theirs, ours in WORDS.items():
        if message.startswith(theirs):
            return ours + message.removeprefix(theirs)
    return message


def validate(
    model: type[_Model], value: Any, path: str, *, where: Callable[[str], str]
) -> tuple[_Model | None, list[Problem]]:
    """Checks plain data against a model, strictly: no text is taken for a number, no number for a truth value.

    Args:
        model: the model.
        value: the data.
        path: dotted path of the data in its file.
        where: dotted path -> ``file:line``.

    Returns:
        The model, None where there are problems, and the problems.
    """
    if not isinstance(value, dict):
        example = ", ".join(list(model.model_fields)[:3])
        rule = f"must be a mapping with keys such as {example}"
        return None, [Problem(where=where(path), path=path, rule=rule, value=text(value))]
    try:
        return model.model_validate_json(json.dumps(value), strict=True), []  # JSON: lists may become tuples
    except ValidationError as error:
        errors = error.errors()

    # A union reports every branch, under a tag that is no part of the file: field -> tag -> (depth, problem).
    fields: dict[str, dict[str, list[tuple[int, Problem]]]] = {}
    for found in errors:
        location, kind = found["loc"], found["type"]
        parts, tag, inner = _locate(location, value, missing=kind == "missing")
        dotted = ".".join([path, *parts] if path else parts)
        if kind == "extra_forbidden":
            hint = nearest(location[-1], model.model_fields if len(location) == 1 else ())
            problem = Problem(where=where(dotted), path=dotted, rule="unknown key", hint=hint)
        else:
            shown = "" if kind == "missing" or not location else text(inner)
            problem = Problem(where=where(dotted), path=dotted, rule=rule_of(found["msg"]), value=shown)
        fields.setdefault(str(location[:1]), {}).setdefault(tag, []).append((len(parts), problem))
    problems: dict[str, Problem] = {}
    for branches in fields.values():
        # The branch that got furthest, with the fewest complaints, is the one that was meant.
        ranks = {tag: (max(depth for depth, _ in branch), -len(branch)) for tag, branch in branches.items()}
        for problem in (it for tag in branches if ranks[tag] == max(ranks.values()) for _, it in branches[tag]):
            there = problems.setdefault(problem.path, problem)
            if problem.rule not in there.rule:
                problems[problem.path] = replace(there, rule=f"{there.rule} or {problem.rule}")
    return None, list(problems.values())


def _locate(location: Sequence[int | str], value: Any, *, missing: bool) -> tuple[list[str], str, Any]:
    """Pydantic's location in plain data: the keys that lead there, the tag of a union's branch, and what is there."""
    parts, tag = [], ""
    for element in location:
        if isinstance(value, dict) and (element in value or missing):
            value = value.get(element)
        elif isinstance(value, list) and isinstance(element, int):
            value = value[element]
        else:
            tag = tag or str(element)
            continue
        parts.append(str(element))
    return parts, tag, value


def field_problems(name: str, value: Any, path: str, *, where: str) -> list[Problem]:
    """What one TrainConfig field has against a value that stands at ``path``, in the line ``where``."""
    # An encoder and a crop at hand, so that what needs one is judged by itself.
    candidate = {"encoder": "mobilenet_v2", "crop": 1.0, name: value}
    if name == "crop":
        candidate["size"] = "8192x8192"
    problems = validate(TrainConfig, candidate, "", where=lambda _: where)[1]
    hint = "a size is written 256x192" if name == "size" else ""
    if isinstance(value, str) and "must be one of" in "".join(problem.rule for problem in problems):
        hint = nearest(value, TABLES.get(name, ()), listed=False)  # the rule lists them already
    return [replace(problem, path=path + problem.path.removeprefix(name), hint=hint) for problem in problems]
