"""A search-space file -> an Experiment: what is searched, how, on which data. Plain data, no heavy import.

A file is checked as it stands, its ``smoke`` section too, and every problem is raised at once with file and line. Then
``--smoke`` and ``--set`` change it, in this order:

* A new ``choice``, ``int`` or ``float`` replaces a parameter's old domain (``log`` and ``step`` with it) and keeps its
  ``when``. ``--set parameters.lr.float=[...]`` changes that key alone, so ``log`` stays.
* ``train.X`` for a searched X fixes it; ``parameters.X=null`` leaves it at its fixed or default value. What was
  conditional on X is then decided by that value: it goes, or it inherits the condition of X.
* ``parameters.X`` for a fixed X searches it.
* After a narrowing, values of a ``when`` that its parent can no longer take are forgotten, parameters that can never
  be active are dropped, and ``try_first`` points that no longer fit are kept aside in ``skipped_points``.
"""

from __future__ import annotations

import copy
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.tokens import AliasToken, AnchorToken, DirectiveToken, TagToken

from tunesearch.errors import InputError, Problem, nearest
from tunesearch.segmentation.config import DataConfig, TrainConfig
from tunesearch.space import (
    DOMAIN_KEYS,
    GRID_RULE,
    Choice,
    Domain,
    FloatRange,
    Parameter,
    Point,
    Space,
    read_parameter,
    same,
    text,
)

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
SECTIONS = (
    "name",
    "description",
    "data",
    "train",
    "search",
    "scheduler",
    "objective",
    "parameters",
    "try_first",
    "smoke",
)
SMOKE_SECTIONS = ("train", "search", "scheduler", "objective", "parameters", "try_first")
SCHEDULERS = ("asha", "median")
FIELDS = tuple(TrainConfig.model_fields)
FITTED_TOGETHER = ("architecture", "encoder", "batch_size", "micro_batch")
"""The fields of TrainConfig's rules over several fields."""

_Model = TypeVar("_Model", bound=BaseModel)


class SearchSettings(BaseModel):
    """How many trials, and who proposes them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    trials: int = Field(default=32, ge=1)
    """Trials to run."""
    sampler: Literal["tpe", "random", "grid", "gp", "cmaes"] = "tpe"
    """Who proposes configurations: Optuna's samplers."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the sampler and, with the trial's number, of every trial."""


class Asha(BaseModel):
    """Asynchronous successive halving: of those that reach a rung, one in ``reduction`` goes on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    grace_epochs: int = Field(default=4, ge=1)
    """Epochs that every trial gets."""
    reduction: int = Field(default=3, ge=2)
    """One in this many survives a rung; rungs lie at grace_epochs * reduction**k."""


class Median(BaseModel):
    """Stops a trial that is worse than the median of the others at the same epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    grace_epochs: int = Field(default=4, ge=1)
    """Epochs that every trial gets."""
    min_trials: int = Field(default=4, ge=1)
    """Trials that must have reached the epoch before any is stopped."""


class Objective(BaseModel):
    """What the search makes large or small."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    metric: Literal["val_miou", "val_miou_no_background", "val_dice", "val_pixel_accuracy", "val_loss"] = "val_miou"
    """Measured on the validation split after every epoch; a trial counts with its best."""
    mode: Literal["max", "min"] = "max"
    """May be left out: min for val_loss, max for the others."""

    @model_validator(mode="before")
    @classmethod
    def _natural_mode(cls, value: Any) -> Any:
        if isinstance(value, dict) and "mode" not in value:
            return {**value, "mode": "min" if value.get("metric") == "val_loss" else "max"}
        return value

    @model_validator(mode="after")
    def _right_way(self) -> Objective:
        natural = "min" if self.metric == "val_loss" else "max"
        if self.mode != natural:
            raise ValueError(f"mode must be {natural} for {self.metric}; it may be left out")
        return self


class Experiment(BaseModel):
    """One search, completely described."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """Of the search-space file."""
    description: str | None = None
    """What it is for."""
    data: DataConfig = DataConfig()
    """The data set; its root is absolute."""
    train: dict[str, Any] = {}
    """Fixed TrainConfig fields, as written; the others are searched or at their defaults."""
    search: SearchSettings = SearchSettings()
    """How many trials and which sampler."""
    scheduler: Asha | Median | None = Asha()
    """What stops weak trials early; None: nothing does."""
    objective: Objective = Objective()
    """The score of a trial."""
    parameters: InstanceOf[Space]
    """What is searched."""
    try_first: tuple[dict[str, Any], ...] = ()
    """Full or partial points to try before the sampler takes over; the rest of each is sampled."""
    skipped_points: tuple[tuple[int, str], ...] = ()
    """``try_first`` points that no longer fit after a narrowing: their 0-based place in the list, and why."""

    @property
    def space(self) -> Space:
        """``parameters`` under the name that it is called by: ``experiment.space(trial)``."""
        return self.parameters

    def train_config(self, parameters: Mapping[str, Any], *, seed: int) -> TrainConfig:
        """The training that a point means: fixed fields and the point; a seed in either wins over ``seed``.

        Raises:
            InputError: the fields do not fit, alone or together.
        """
        try:
            return TrainConfig.model_validate({"seed": seed, **self.train, **parameters})
        except ValidationError as error:
            problems = [
                Problem(where="", path=".".join(map(str, found["loc"])), rule=_rule(found["msg"]))
                for found in error.errors()
            ]
            raise InputError(problems) from None

    def to_document(self) -> dict[str, Any]:
        """Plain data that ``from_document`` reads back to an equal Experiment; a valid search-space file once
        ``skipped_points`` (only there when points were skipped) is taken out."""
        document: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            document["description"] = self.description
        document["data"] = _with_absolute_root(self.data).model_dump(mode="json")
        document["train"] = copy.deepcopy(self.train)
        document["search"] = self.search.model_dump()
        if self.scheduler is None:
            document["scheduler"] = "none"
        else:
            kind = "asha" if isinstance(self.scheduler, Asha) else "median"
            document["scheduler"] = {kind: self.scheduler.model_dump()}
        document["objective"] = self.objective.model_dump()
        document["parameters"] = self.parameters.to_document()
        document["try_first"] = [dict(point) for point in self.try_first]
        if self.skipped_points:
            document["skipped_points"] = [{"index": index, "reason": reason} for index, reason in self.skipped_points]
        return document

    def to_yaml(self) -> str:
        """``to_document`` as YAML, in order: ruamel's safe dumper would sort the parameters."""
        stream = io.StringIO()
        YAML(typ="rt", pure=True).dump(self.to_document(), stream)
        return stream.getvalue()

    @classmethod
    def from_document(cls, document: Mapping[str, Any], *, where: str = "") -> Experiment:
        """Reads what ``to_document`` wrote, checked like a file.

        Args:
            document: plain data.
            where: named in problems, such as the file it came from.

        Raises:
            InputError: every problem at once.
        """
        data = copy.deepcopy(dict(document))
        skipped = data.pop("skipped_points", [])
        experiment, problems = _Builder(_Document(data, {"": where})).build()
        try:
            skipped_points = tuple((int(entry["index"]), str(entry["reason"])) for entry in skipped)
        except (TypeError, KeyError, ValueError):
            problems.append(Problem(where=where, path="skipped_points", rule="must be a list of {index, reason}"))
        if problems or experiment is None:
            raise InputError(problems)
        return experiment.model_copy(update={"skipped_points": skipped_points})


def shipped_spaces() -> dict[str, Path]:
    """Name -> file of the search spaces that come with tunesearch."""
    package = Path(__file__).parent
    folder = package / "search_spaces"
    if not folder.is_dir():  # a checkout or an editable install: the files stand beside the package
        folder = package.parent / "search_spaces"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_experiment(
    space: str | Path, *, overrides: Sequence[str] = (), smoke: bool = False, data_root: Path | None = None
) -> Experiment:
    """Reads a search-space file and changes it as asked.

    Args:
        space: name of a shipped space, or path of a YAML file.
        overrides: ``PATH=YAML`` as given to ``--set``, applied last, in order.
        smoke: make it small: the built-in sample data, the file's ``smoke`` section, and where that says nothing at
            most 4 epochs of 64x64 pixels and 8 trials; encoders start from scratch, so that nothing is downloaded.
        data_root: replaces ``data.root``.

    Raises:
        InputError: every problem of the file and of the overrides at once.
    """
    path = _find(space)
    problems: list[Problem] = []  # of the options
    changes = _read_overrides(overrides, problems)
    if smoke and data_root is not None:
        rule = "a smoke run brings its own data"
        problems.append(Problem(where="--data", rule=rule, hint="use --set data.layout=... and --set data.root=..."))
    in_file, document, small = _read_file(path, problems)

    changed = (small if smoke else document).copy()
    points = [*document.points(), *small.points()]
    for dotted, value in changes:
        changed.change(dotted.split("."), value, where=f"--set {dotted}", problems=problems)
    if data_root is not None:
        changed.change(["data", "root"], str(data_root), where="--data", problems=problems)
    narrowed = smoke or bool(changes)
    experiment, found = _Builder(changed, file=in_file if narrowed else None, points=points).build()
    # `--set train.epoch` says the path already.
    problems += [replace(it, path="") if it.where == f"--set {it.path}" else it for it in found]
    if problems or experiment is None:
        raise InputError(problems)
    return experiment


def _read_file(path: Path, option_problems: Sequence[Problem]) -> tuple[Experiment, _Document, _Document]:
    """The file as it stands: the experiment, the raw document, and that document with its smoke section applied.

    Raises:
        InputError: every problem of the file, and ``option_problems`` with them.
    """
    problems: list[Problem] = []
    try:
        document = _read_document(path, problems)
    except InputError as error:
        raise InputError([*error.problems, *option_problems]) from None
    experiment, found = _Builder(document).build()
    problems += found + _smoke_problems(document)
    if experiment is not None and not problems:
        small = _smoked(document)
        for problem in _Builder(small, file=experiment, points=document.points()).build()[1]:
            source = f"smoke.{problem.path}"
            problems.append(replace(problem, path=source) if source in document.marks else problem)
        if not problems:
            return experiment, document, small
    raise InputError([*problems, *option_problems])


# Reading YAML ---------------------------------------------------------------------------------------------------------


@dataclass
class _Document:
    """Plain data, and where each part of it was written: dotted path -> ``file:line`` or ``--set PATH``."""

    data: dict[str, Any]
    marks: dict[str, str] = field(default_factory=dict)

    def where(self, path: str) -> str:
        """Where ``path`` was written, or the innermost part of it that was written at all."""
        while path and path not in self.marks:
            path = path.rpartition(".")[0]
        return self.marks.get(path, "")

    def copy(self) -> _Document:
        return _Document(copy.deepcopy(self.data), dict(self.marks))

    def points(self) -> list[Any]:
        """The raw ``try_first`` points."""
        points = self.data.get("try_first")
        return list(points) if isinstance(points, list) else []

    def section(self, name: str) -> dict[str, Any]:
        """A section that is a mapping, or nothing."""
        content = self.data.get(name)
        return content if isinstance(content, dict) else {}

    def change(self, path: list[str], value: Any, *, where: str, problems: list[Problem]) -> None:
        """Sets what stands at ``path``; the rules are those of the module's docstring."""
        section, name = path[0], path[1] if len(path) > 1 else ""
        if section == "smoke":
            problems.append(Problem(where=where, rule="the smoke section itself cannot be changed", hint="use --smoke"))
            return
        self._make_room(path)
        if section == "train" and len(path) == 2:
            self._remove(["parameters", name])
        if section == "parameters" and len(path) >= 2 and value is not None:
            self._remove(["train", name])
        if section == "parameters" and value is None and len(path) == 2 and name not in self.section("parameters"):
            rule, hint = "is no parameter of this space", nearest(name, self.section("parameters"))
            problems.append(Problem(where=where, rule=rule, hint=hint))
            return
        if section == "parameters" and len(path) <= 3 and value is None:
            self._remove(path)
            return
        keeps_when = False
        if section == "parameters" and len(path) == 2 and isinstance(value, dict):
            old = self.section("parameters").get(name)
            kept = old if isinstance(old, dict) else {}
            if any(key in value for key in DOMAIN_KEYS):
                kept = {key: item for key, item in kept.items() if key == "when"}
            keeps_when = "when" not in value
            value = {**kept, **value}
        inner: Any = self.data
        for index, key in enumerate(path[:-1]):
            inner = inner.setdefault(key, {})
            self.marks.setdefault(".".join(path[: index + 1]), where)
            if not isinstance(inner, dict):
                rule, parent = "must be a mapping to be changed in part", ".".join(path[: index + 1])
                hint = f"set {parent} as a whole"
                problems.append(Problem(where=where, path=parent, rule=rule, value=text(inner), hint=hint))
                return
        inner[path[-1]] = copy.deepcopy(value)
        dotted = ".".join(path)
        for mark in [mark for mark in self.marks if mark.startswith(f"{dotted}.")]:
            if not (keeps_when and mark.startswith(f"{dotted}.when")):
                del self.marks[mark]
        self.marks[dotted] = where
        if section == "parameters" and len(path) > 2:
            self.marks[f"parameters.{name}"] = where

    def _make_room(self, path: list[str]) -> None:
        """A parameter or scheduler has one kind: setting a part of another kind ends the old one."""
        if path[0] == "parameters" and len(path) == 3 and path[2] in DOMAIN_KEYS:
            raw = self.section("parameters").get(path[1])
            if isinstance(raw, dict) and path[2] not in raw:
                for key in (*DOMAIN_KEYS, "log", "step"):
                    raw.pop(key, None)
        if path[0] == "scheduler" and len(path) > 1 and path[1] not in self.section("scheduler"):
            self.data["scheduler"] = {}

    def _remove(self, path: list[str]) -> None:
        inner: Any = self.data
        for key in path[:-1]:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner.pop(path[-1], None)


def _find(space: str | Path) -> Path:
    """The file that ``space`` means. Raises InputError where it is neither a shipped name nor a file."""
    shipped = shipped_spaces()
    if isinstance(space, str) and space in shipped:
        return shipped[space]
    path = Path(space)
    if path.is_file():
        return path
    if isinstance(space, str) and path.name == space and path.suffix not in (".yaml", ".yml"):
        rule = f"no search space is called {space!r}"
        raise InputError(Problem(where="", rule=rule, hint=nearest(space, shipped)))
    raise InputError(Problem(where=str(space), rule="is a folder, not a file" if path.is_dir() else "no such file"))


def _read_document(path: Path, problems: list[Problem]) -> _Document:
    """Raises InputError where there is nothing to go on with: unreadable, no YAML, no mapping."""
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(Problem(where=str(path), rule="must be text in UTF-8")) from None
    except OSError as error:
        raise InputError(Problem(where=str(path), rule=f"cannot be read: {error.strerror}")) from None
    data, marks = _parse(content, lambda line: f"{path}:{line}", problems)
    if not isinstance(data, dict):
        rule = "is empty" if data is None else "must be a mapping with the sections " + ", ".join(SECTIONS)
        hint = "`tunesearch spaces show voc_unet` shows one that is not" if data is None else ""
        raise InputError([Problem(where=str(path), rule=rule, hint=hint)])
    return _Document(data, {**marks, "": str(path)})


def _read_overrides(overrides: Sequence[str], problems: list[Problem]) -> list[tuple[str, Any]]:
    changes = []
    for override in overrides:
        dotted, equals, value = override.partition("=")
        dotted = dotted.strip()
        where = f"--set {dotted}"
        if not equals or not all(dotted.split(".")):
            rule = "must be PATH=VALUE, such as train.epochs=10"
            problems.append(Problem(where="--set", rule=rule, value=repr(override)))
        elif not value.strip():
            problems.append(Problem(where=where, rule="needs a value after =", hint="write null for nothing"))
        else:
            try:
                changes.append((dotted, _parse(value, lambda line, where=where: where, problems)[0]))  # type: ignore[misc]
            except InputError as error:
                problems += error.problems
    return changes


def _parse(content: str, place: Callable[[int], str], problems: list[Problem]) -> tuple[Any, dict[str, str]]:
    """YAML 1.2 to plain data: dict, list, str, int, float, bool, None; and where each part of it was written.

    Tags, anchors, aliases, merge keys, dates and repeated keys are refused: what a reader sees is what is meant.

    Raises:
        InputError: no YAML, or tags and the like. What else is refused is appended to ``problems``.
    """
    found = []
    refused = {AnchorToken: "anchors", AliasToken: "aliases", TagToken: "tags", DirectiveToken: "directives"}
    try:
        node = YAML(typ="rt", pure=True).compose(content)
        for token in YAML(typ="rt", pure=True).scan(content):
            if type(token) in refused:
                rule = f"YAML {refused[type(token)]} are not used here"
                hint = "write the value out, in quotes if it is a text with & * or !"
                found.append(Problem(where=place(token.start_mark.line + 1), rule=rule, hint=hint))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        rule = ", ".join(str(part) for part in (error.context, error.problem) if part)
        raise InputError(Problem(where=place(mark.line + 1 if mark else 1), rule=f"no valid YAML: {rule}")) from None
    except YAMLError as error:
        line = content.count("\n", 0, getattr(error, "position", 0) or 0) + 1
        rule = f"no valid YAML: {getattr(error, 'reason', 'unreadable')}"
        raise InputError(Problem(where=place(line), rule=rule)) from None
    except RecursionError:
        raise InputError(Problem(where=place(1), rule="nested too deeply")) from None
    if found:
        raise InputError(found)
    marks: dict[str, str] = {}
    return (None if node is None else _plain(node, "", place, marks, problems)), marks


def _plain(node: Node, path: str, place: Callable[[int], str], marks: dict[str, str], problems: list[Problem]) -> Any:
    """The node's value; its parts are marked in ``marks``."""
    if isinstance(node, ScalarNode):
        return _scalar(node, path, place, problems)
    if not isinstance(node, MappingNode):
        items = []
        for index, item in enumerate(node.value):
            inner = f"{path}.{index}" if path else str(index)
            marks[inner] = place(item.start_mark.line + 1)
            items.append(_plain(item, inner, place, marks, problems))
        return items
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        where = place(key_node.start_mark.line + 1)
        key = key_node.value if isinstance(key_node, ScalarNode) else None
        if key == "<<":
            hint = "write the keys out"
            problems.append(Problem(where=where, path=path, rule="merge keys (<<) are not used here", hint=hint))
            continue
        if not isinstance(key, str) or not key_node.tag.endswith(":str"):
            problems.append(Problem(where=where, path=path, rule="keys must be names", value=text(key)))
            continue
        inner = f"{path}.{key}" if path else key
        if key in result:
            before = marks[inner].rpartition(":")[2]
            problems.append(Problem(where=where, path=inner, rule=f"stands there twice: first in line {before}"))
            continue
        marks[inner] = where
        result[key] = _plain(value_node, inner, place, marks, problems)
    return result


def _scalar(node: ScalarNode, path: str, place: Callable[[int], str], problems: list[Problem]) -> Any:
    kind = str(node.tag).rpartition(":")[2]
    where = place(node.start_mark.line + 1)
    if kind == "timestamp":
        rule, hint = "dates are not used here", f"write '{node.value}' in quotes if it is a text"
        problems.append(Problem(where=where, path=path, rule=rule, hint=hint))
        return str(node.value)
    if kind in ("int", "float", "bool", "null"):
        try:
            return YAML(typ="safe", pure=True).constructor.construct_object(node)
        except ValueError:
            problems.append(Problem(where=where, path=path, rule="must be a number", value=node.value[:40]))
            return None
    return str(node.value)


# Checking -------------------------------------------------------------------------------------------------------------


def _rule(message: str) -> str:
    """Pydantic's message in our words."""
    for theirs, ours in (
        ("Value error, ", ""),
        ("Input should be an object", "must be a mapping"),
        ("Input should be a valid array", "must be a list"),
        ("Input should be a valid integer", "must be a whole number"),
        ("Input should be a valid number", "must be a number"),
        ("Input should be a valid string", "must be a text"),
        ("Input should be a valid boolean", "must be true or false"),
        ("Input should be ", "must be "),
        ("Field required", "is missing"),
    ):
        if message.startswith(theirs):
            return ours + message.removeprefix(theirs)
    return message


def _validate(model: type[_Model], value: Any, path: str, document: _Document) -> tuple[_Model | None, list[Problem]]:
    """Checks plain data against a model, strictly: no text is taken for a number, no number for a truth value."""
    if not isinstance(value, dict):
        example = ", ".join(list(model.model_fields)[:3])
        rule = f"must be a mapping with keys such as {example}"
        return None, [Problem(where=document.where(path), path=path, rule=rule, value=text(value))]
    try:
        return model.model_validate_json(json.dumps(value), strict=True), []  # JSON: lists may become tuples
    except ValidationError as error:
        return None, _problems_of(error, value, path, model=model, document=document)


def _problems_of(
    error: ValidationError, value: Any, path: str, *, model: type[BaseModel], document: _Document
) -> list[Problem]:
    """Pydantic's errors as problems, placed in the file."""
    # A union reports every branch, under a tag that is no part of the file: field -> tag -> (depth, problem).
    fields: dict[str, dict[str, list[tuple[int, Problem]]]] = {}
    for found in error.errors():
        inner, parts, tag = value, [path] if path else [], ""
        for element in found["loc"]:
            if isinstance(inner, dict) and (element in inner or found["type"] == "missing"):
                inner = inner.get(element)
            elif isinstance(inner, list) and isinstance(element, int):
                inner = inner[element]
            else:
                tag = tag or str(element)
                continue
            parts.append(str(element))
        dotted = ".".join(parts)
        if found["type"] == "extra_forbidden":
            valid = model.model_fields if len(found["loc"]) == 1 else ()
            problem = Problem(document.where(dotted), "unknown key", dotted, hint=nearest(found["loc"][-1], valid))
        else:
            shown = "" if found["type"] == "missing" or not found["loc"] else text(inner)
            problem = Problem(document.where(dotted), _rule(found["msg"]), dotted, shown)
        branches = fields.setdefault(str(found["loc"][:1]), {})
        branches.setdefault(tag, []).append((len(parts), problem))
    problems: dict[str, Problem] = {}
    for branches in fields.values():
        # The branch that got furthest, with the fewest complaints, is the one that was meant.
        rank = {tag: (max(depth for depth, _ in found), -len(found)) for tag, found in branches.items()}
        for tag in (tag for tag in branches if rank[tag] == max(rank.values())):
            for _, problem in branches[tag]:
                there = problems.setdefault(problem.path, problem)
                if problem.rule not in there.rule:
                    problems[problem.path] = replace(there, rule=f"{there.rule} or {problem.rule}")
    return list(problems.values())


def _field_problems(name: str, value: Any, path: str, document: _Document) -> list[Problem]:
    """What one TrainConfig field has against a value."""
    wrapped = _Document({}, {"": document.where(path)})
    # An encoder at hand, so that an architecture that needs one is judged by itself.
    candidate = {"encoder": "mobilenet_v2", name: value}
    problems = _validate(TrainConfig, candidate, "", wrapped)[1]
    hint = "a size is written 256x192" if name == "size" else ""
    return [replace(problem, path=path + problem.path.removeprefix(name), hint=hint) for problem in problems]


class _Builder:
    """Reads one document and collects every problem.

    Args:
        document: the raw data.
        file: the experiment as it stands in the file, when the document is a narrowing of it.
        points: raw ``try_first`` points that were right before the narrowing; these may be skipped.
    """

    def __init__(self, document: _Document, *, file: Experiment | None = None, points: Sequence[Any] = ()) -> None:
        self.document = document
        self.file = file
        self.points = points
        self.problems: list[Problem] = []

    def say(self, path: str, rule: str, *, value: str = "", hint: str = "") -> None:
        """Adds a problem with what stands at ``path``."""
        self.problems.append(Problem(where=self.document.where(path), path=path, rule=rule, value=value, hint=hint))

    def build(self) -> tuple[Experiment | None, list[Problem]]:
        """The experiment, None where there are problems, and the problems in the order of the file's sections."""
        for key in self.document.data:
            if key not in SECTIONS:
                self.say(key, "unknown key", hint=nearest(key, SECTIONS))
        name, description = self.name(), self.description()
        data = self.data()
        before = len(self.problems)
        train = self.train()
        space = self.space(train)
        unread: set[str] = set()
        if len(self.problems) == before:
            self.fits_together(train, space)
        else:
            unread = set(self.document.section("parameters")) - set(space.names)
        search = self.section("search", SearchSettings)
        scheduler = self.scheduler()
        objective = self.section("objective", Objective)
        if search is not None and search.sampler == "grid":
            self.enumerable(space)
        points, skipped = self.try_first(train, space, unread)
        if self.problems or data is None or search is None or objective is None:
            return None, self.problems
        experiment = Experiment(
            name=name,
            description=description,
            data=data,
            train=train,
            search=search,
            scheduler=scheduler,
            objective=objective,
            parameters=space,
            try_first=tuple(points),
            skipped_points=tuple(skipped),
        )
        return experiment, []

    def name(self) -> str:
        value = self.document.data.get("name")
        if value is None:
            self.say("name", "is missing", hint="such as name: my_space")
        elif not isinstance(value, str) or not re.fullmatch(NAME_PATTERN, value):
            rule = "must be 1 to 64 letters, digits, dots, dashes or underscores, a letter or digit first"
            self.say("name", rule, value=text(value))
        return str(value)

    def description(self) -> str | None:
        value = self.document.data.get("description")
        if value is not None and not isinstance(value, str):
            self.say("description", "must be a text", value=text(value))
            return None
        return value

    def section(self, name: str, model: type[_Model]) -> _Model | None:
        value, problems = _validate(model, self.document.data.get(name, {}), name, self.document)
        self.problems += problems
        return value

    def data(self) -> DataConfig | None:
        data = self.section("data", DataConfig)
        if data is None:
            return None
        try:
            return _with_absolute_root(data)
        except RuntimeError:  # pathlib: a home directory that cannot be found
            self.say("data.root", "must be a path whose ~ has a home directory", value=str(data.root))
            return None

    def train(self) -> dict[str, Any]:
        raw = self.document.data.get("train", {})
        if not isinstance(raw, dict):
            self.say("train", "must be a mapping such as {epochs: 30, size: 256x192}", value=text(raw))
            return {}
        for name, value in raw.items():
            if name not in FIELDS:
                self.say(f"train.{name}", "is no field of TrainConfig", hint=nearest(name, FIELDS))
            else:
                self.problems += _field_problems(name, value, f"train.{name}", self.document)
        return raw

    def scheduler(self) -> Asha | Median | None:
        raw = self.document.data.get("scheduler", {"asha": {}})
        if raw == "none":
            return None
        if not isinstance(raw, dict) or len(raw) != 1:
            example = "none, {asha: {grace_epochs: 4, reduction: 3}} or {median: {grace_epochs: 4, min_trials: 4}}"
            self.say("scheduler", f"must be {example}", value=text(raw))
            return None
        ((kind, settings),) = raw.items()
        if kind not in SCHEDULERS:
            self.say(f"scheduler.{kind}", "unknown scheduler", hint=nearest(kind, (*SCHEDULERS, "none")))
            return None
        model: type[Asha] | type[Median] = Asha if kind == "asha" else Median
        scheduler, problems = _validate(model, settings, f"scheduler.{kind}", self.document)
        self.problems += problems
        return scheduler

    def space(self, train: Mapping[str, Any]) -> Space:
        """The space of the parameters that could be read."""
        raw = self.document.data.get("parameters")
        if not isinstance(raw, dict) or not raw:
            rule = "is missing" if raw is None else "must be a mapping that names at least one TrainConfig field"
            hint = "such as parameters: {lr: {float: [1e-5, 1e-1], log: true}}"
            self.say("parameters", rule, value="" if raw is None else text(raw), hint=hint)
            return Space(())
        read: list[Parameter] = []
        for name, content in raw.items():
            path = f"parameters.{name}"
            if name not in FIELDS:
                self.say(path, "is no field of TrainConfig", hint=nearest(name, FIELDS))
                continue
            if name in train:
                line = self.document.where(f"train.{name}")
                self.say(path, f"is searched here and fixed under train ({line})", hint="keep one of the two")
            parameter, problems = read_parameter(name, content)
            for problem in problems:
                self.say(f"parameters.{problem.path}", problem.rule, value=problem.value, hint=problem.hint)
            if parameter is not None:
                self.check_values(parameter)
                read.append(parameter)
        known = {parameter.name for parameter in read}
        unread = {name for name in raw if name not in known}
        space = self.conditions(read, order=list(raw), unread=unread, train=train)
        if not space and not self.problems:
            self.say("parameters", "nothing is left to search")
        return space

    def check_values(self, parameter: Parameter) -> None:
        """Every choice and both ends of a range must be values that the field takes."""
        path, domain = f"parameters.{parameter.name}", parameter.domain
        if isinstance(domain, Choice):
            for index, value in enumerate(domain.values):
                self.problems += _field_problems(parameter.name, value, f"{path}.choice.{index}", self.document)
            return
        kind = "float" if isinstance(domain, FloatRange) else "int"
        for index, end in enumerate((domain.low, domain.high)):
            self.problems += _field_problems(parameter.name, end, f"{path}.{kind}.{index}", self.document)

    def conditions(
        self, read: list[Parameter], *, order: list[str], unread: set[str], train: Mapping[str, Any]
    ) -> Space:
        """Checks every ``when``; after a narrowing, resolves it to what is still possible."""
        kept: dict[str, Parameter] = {}
        dropped: set[str] = set()
        domains = {parameter.name: parameter.domain for parameter in read}
        for parameter in read:
            name, path = parameter.name, f"parameters.{parameter.name}.when"
            resolved: dict[str, tuple[Any, ...]] | None = {}
            queue = list(parameter.when.items())
            while queue and resolved is not None:
                parent, values = queue.pop(0)
                domain = domains.get(parent)
                before = self.file.parameters[parent] if self.file and parent in self.file.parameters else None
                if parent in dropped:
                    resolved = None
                elif domain is None and before is not None and parent not in order:
                    # Fixed or taken out by the narrowing: its value decides, under its own condition.
                    fixed = train.get(parent, _default(parent))
                    resolved = resolved if any(same(fixed, value) for value in values) else None
                    queue += before.when.items()
                elif domain is None or parent not in order[: order.index(name)]:
                    self.not_above(path, parent, order=order, unread=unread, train=train)
                    resolved = None
                else:
                    was = before.domain if before is not None else None
                    self.possible(f"{path}.{parent}", parent, values, domain=domain, was=was)
                    now = tuple(value for value in values if domain.contains(value))
                    if parent in resolved:
                        now = tuple(value for value in resolved[parent] if any(same(value, other) for other in now))
                    resolved = {**resolved, parent: now} if now else None
            if resolved is None:
                dropped.add(name)
                continue
            kept[name] = Parameter(name, parameter.domain, resolved)
            if resolved and not any(name in point for point in Space(tuple(kept.values())).skeletons([name])):
                if self.file is None:
                    self.say(path, "can never hold: its conditions exclude each other")
                del kept[name]
                dropped.add(name)
        return Space(tuple(kept.values()))

    def not_above(
        self, path: str, parent: str, *, order: list[str], unread: set[str], train: Mapping[str, Any]
    ) -> None:
        """Says why ``parent`` cannot be named in a ``when``."""
        name = path.split(".")[1]
        if parent in order and order.index(parent) >= order.index(name):
            hint = f"move {parent} above {name}" if parent != name else ""
            self.say(f"{path}.{parent}", "`when` may only name parameters that stand above", value=parent, hint=hint)
        elif parent in train:
            hint = "leave the condition out, or leave the parameter out"
            self.say(f"{path}.{parent}", "is fixed under train, so the condition never changes", hint=hint)
        elif parent not in unread:
            above = order[: order.index(name)]
            self.say(f"{path}.{parent}", "`when` names no parameter of this space", hint=nearest(parent, above))

    def possible(self, path: str, parent: str, values: Iterable[Any], *, domain: Domain, was: Domain | None) -> None:
        """Every value of a ``when`` must be possible, now or before the narrowing."""
        for index, value in enumerate(values):
            if not domain.contains(value) and not (was is not None and was.contains(value)):
                inner = f"{path}.{index}" if f"{path}.{index}" in self.document.marks else path
                hint = nearest(value, domain.values) if isinstance(domain, Choice) else ""
                self.say(inner, f"{parent} can never be this: it is {domain}", value=text(value), hint=hint)

    def fits_together(self, train: Mapping[str, Any], space: Space) -> None:
        """TrainConfig's rules over several fields must hold for whatever the space can propose."""
        fixed = {name: train[name] for name in FITTED_TOGETHER if name in train}
        seen: set[str] = set()
        for point in space.skeletons(FITTED_TOGETHER):
            fields = {**fixed, **{name: point[name] for name in FITTED_TOGETHER if name in point}}
            try:
                TrainConfig.model_validate(fields)
            except ValidationError as error:
                for rule in (_rule(found["msg"]) for found in error.errors()):
                    if rule in seen:
                        continue
                    seen.add(rule)
                    path = "parameters.architecture" if "architecture" in space else "train.architecture"
                    hint = ""
                    if "encoder" not in fields:
                        hint = (
                            f"the `when` of parameters.encoder must let {fields['architecture']} through"
                            if "encoder" in space
                            else "fix train.encoder or search parameters.encoder"
                        )
                    self.say(path, rule, hint=hint)

    def enumerable(self, space: Space) -> None:
        for parameter in space:
            if isinstance(parameter.domain, FloatRange) and parameter.domain.step is None:
                path = f"parameters.{parameter.name}.float"
                self.say(path, GRID_RULE, value=str(parameter.domain), hint="or write a choice")

    def try_first(
        self, train: Mapping[str, Any], space: Space, unread: set[str]
    ) -> tuple[list[Point], list[tuple[int, str]]]:
        """The points that fit, and after a narrowing those that no longer do."""
        raw = self.document.data.get("try_first", [])
        if not isinstance(raw, list):
            self.say("try_first", "must be a list of points such as - {lr: 1.0e-4}", value=text(raw))
            return [], []
        fitting: list[Point] = []
        skipped = []
        for index, point in enumerate(raw):
            path = f"try_first.{index}"
            if not isinstance(point, dict) or not point:
                self.say(path, "must be a mapping such as {lr: 1.0e-4}", value=text(point))
                continue
            point = {name: value for name, value in point.items() if not self.is_settled(name, value, train, space)}
            problems = [problem for problem in space.problems(point) if problem.path not in unread] if space else []
            if problems and self.file is not None and any(raw[index] == known for known in self.points):
                skipped.append((index, "; ".join(self.why_skipped(problem, train) for problem in problems)))
                continue
            for problem in problems:
                rule, hint = problem.rule, problem.hint
                if problem.path in train:
                    rule, hint = "is fixed under train, not searched", "leave it out"
                self.say(f"{path}.{problem.path}", rule, value=problem.value, hint=hint)
            fitting.append(point)
        return fitting, skipped

    def is_settled(self, name: str, value: Any, train: Mapping[str, Any], space: Space) -> bool:
        """Whether the narrowing fixed ``name`` at just this value, so that the point need not say it."""
        if self.file is None or name not in self.file.parameters or name in self.document.section("parameters"):
            return False
        return same(train.get(name, _default(name)), value)

    def why_skipped(self, problem: Problem, train: Mapping[str, Any]) -> str:
        if problem.path not in self.document.section("parameters") and problem.path in FIELDS:
            return f"{problem.path} is fixed at {text(train.get(problem.path, _default(problem.path)))}"
        return str(replace(problem, where="", hint=""))


def _default(name: str) -> Any:
    """A TrainConfig field's default, as a file would write it."""
    value = TrainConfig.model_fields[name].default
    return str(value) if isinstance(value, BaseModel) else value


def _with_absolute_root(data: DataConfig) -> DataConfig:
    return data if data.root is None else data.model_copy(update={"root": data.root.expanduser().absolute()})


# Smoke ----------------------------------------------------------------------------------------------------------------


def _smoke_problems(document: _Document) -> list[Problem]:
    """What is wrong with the shape of the smoke section; its content is checked by applying it."""
    raw = document.data.get("smoke", {})
    if not isinstance(raw, dict):
        rule = "must be a mapping with the sections " + ", ".join(SMOKE_SECTIONS)
        return [Problem(where=document.where("smoke"), path="smoke", rule=rule, value=text(raw))]
    problems = []
    for name, content in raw.items():
        path = f"smoke.{name}"
        if name not in SMOKE_SECTIONS:
            hint = "a smoke run brings its own data" if name == "data" else nearest(name, SMOKE_SECTIONS)
            problems.append(Problem(where=document.where(path), path=path, rule="unknown key", hint=hint))
        elif name in ("train", "search", "objective", "parameters") and not isinstance(content, dict):
            rule = "must be a mapping"
            problems.append(Problem(where=document.where(path), path=path, rule=rule, value=text(content)))
    return problems


def _smoked(document: _Document) -> _Document:
    """The document with its smoke section applied; the file itself is right."""
    small = document.copy()
    section = small.data.pop("smoke", {})
    train, search = small.section("train"), small.section("search")
    given = {f"{name}.{key}" for name in ("train", "search", "parameters") for key in section.get(name, {})}
    epochs = min(4, train.get("epochs", _default("epochs")))
    trials = min(8, search.get("trials", SearchSettings().trials))
    problems: list[Problem] = []
    for name, value in (("train.epochs", epochs), ("train.size", "64x64"), ("search.trials", trials)):
        if name not in given and name.replace("train.", "parameters.") not in given:
            small.change(name.split("."), value, where="--smoke", problems=problems)
    small.data["data"] = {"layout": "sample"}
    small.marks = {path: where for path, where in small.marks.items() if path.partition(".")[0] != "data"}
    for name, content in section.items():
        parts = content.items() if name in ("train", "search", "objective", "parameters") else [(None, content)]
        for key, value in parts:
            path = [name] if key is None else [name, key]
            source = ".".join(["smoke", *path])
            small.change(path, value, where=document.where(source), problems=problems)
            for mark in [mark for mark in document.marks if mark.startswith(source + ".")]:
                small.marks[mark.removeprefix("smoke.")] = document.marks[mark]
    _start_encoders_from_scratch(small)
    return small


def _start_encoders_from_scratch(small: _Document) -> None:
    """A smoke run downloads nothing, so no encoder starts from ImageNet."""
    if small.section("train").get("encoder_weights") == "imagenet":
        small.data["train"]["encoder_weights"] = "none"
    searched = small.section("parameters").get("encoder_weights")
    if isinstance(searched, dict) and "imagenet" in (searched.get("choice") or ()):
        searched["choice"] = ["none"]


# Schema ---------------------------------------------------------------------------------------------------------------


def experiment_schema() -> dict[str, Any]:
    """JSON Schema of a search-space file, for editors. Conditions and ranges of single fields are beyond it."""
    definitions: dict[str, Any] = {}

    def of(model: type[BaseModel]) -> dict[str, Any]:
        schema = model.model_json_schema(ref_template="#/$defs/{model}")
        definitions.update(schema.pop("$defs", {}))
        return schema

    train = of(TrainConfig)
    # Size is written 256x192 or as a mapping; the model's own schema knows only the mapping.
    definitions["Size"] = {"anyOf": [{"type": "string", "pattern": r"^\s*\d+\s*[xX]\s*\d+\s*$"}, definitions["Size"]]}
    scalar = {"type": ["string", "number", "boolean", "null"]}
    when = {
        "description": "Parent parameter -> value or values; all parents must hold.",
        "type": "object",
        "additionalProperties": {"anyOf": [scalar, {"type": "array", "items": scalar, "minItems": 1}]},
        "propertyNames": {"enum": list(FIELDS)},
    }

    def ends(kind: str) -> dict[str, Any]:
        return {"type": "array", "items": {"type": kind}, "minItems": 2, "maxItems": 2}

    common = {"when": {"$ref": "#/$defs/When"}}
    forms = []
    for key, content, more in (
        ("choice", {"type": "array", "items": scalar, "minItems": 1, "uniqueItems": True}, {}),
        ("int", ends("integer"), {"log": {"type": "boolean"}, "step": {"type": "integer", "minimum": 1}}),
        ("float", ends("number"), {"log": {"type": "boolean"}, "step": {"type": "number", "exclusiveMinimum": 0}}),
    ):
        properties = {key: content, **more, **common}
        forms.append({"type": "object", "properties": properties, "required": [key], "additionalProperties": False})
    definitions |= {"When": when, "Parameter": {"oneOf": forms}}
    fields = {
        name: {"$ref": "#/$defs/Parameter", "description": train["properties"][name].get("description", "")}
        for name in FIELDS
    }
    searched: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": fields}
    asha, median = of(Asha), of(Median)
    sections: dict[str, Any] = {
        "name": {"type": "string", "pattern": NAME_PATTERN},
        "description": {"type": ["string", "null"]},
        "data": of(DataConfig),
        "train": {**train, "required": []},
        "search": of(SearchSettings),
        "scheduler": {
            "oneOf": [
                {"const": "none"},
                *(
                    {"type": "object", "properties": {key: model}, "required": [key], "additionalProperties": False}
                    for key, model in (("asha", asha), ("median", median))
                ),
            ]
        },
        "objective": of(Objective),
        "parameters": {**searched, "minProperties": 1},
        "try_first": {
            "description": "Full or partial points that are tried before the sampler takes over.",
            "type": "array",
            "items": {
                "type": "object",
                "minProperties": 1,
                "propertyNames": {"enum": list(FIELDS)},
                "additionalProperties": scalar,
            },
        },
    }
    taken_out = {name: {"anyOf": [schema, {"type": "null"}]} for name, schema in fields.items()}
    smoke = {name: sections[name] for name in SMOKE_SECTIONS}
    smoke["parameters"] = {**searched, "properties": taken_out}
    sections["smoke"] = {
        "description": "What --smoke changes beside the data.",
        "type": "object",
        "properties": smoke,
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tunesearch search space",
        "type": "object",
        "properties": sections,
        "required": ["name", "parameters"],
        "additionalProperties": False,
        "$defs": definitions,
    }
