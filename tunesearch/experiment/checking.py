"""The check of a document: every problem with its file and line, or the fields of an Experiment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tunesearch.errors import Problem, nearest
from tunesearch.experiment.document import Document
from tunesearch.experiment.sections import (
    FIELDS,
    NAME_PATTERN,
    SCHEDULERS,
    SECTIONS,
    Asha,
    Median,
    Objective,
    SearchSettings,
    field_hint,
)
from tunesearch.experiment.validation import field_problems, rule_of, validate
from tunesearch.segmentation.config import DataConfig, TrainConfig
from tunesearch.space import GRID_RULE, Choice, FloatRange, Parameter, Point, Scalar, Space, read_parameter, same, text

FITTED_TOGETHER = (
    "architecture",
    "encoder",
    "encoder_depth",
    "depth",
    "batch_norm",
    "batch_size",
    "micro_batch",
    "cropping",
    "tiled_inference",
    "size",
    "crop",
)
"""The fields of TrainConfig's rules over several fields."""

_Model = TypeVar("_Model", bound=BaseModel)


def with_absolute_root(data: DataConfig) -> DataConfig:
    """Raises RuntimeError where the root begins with a ``~`` that has no home directory."""
    return data if data.root is None else data.model_copy(update={"root": data.root.expanduser().absolute()})


class Checker:
    """Checks one document and collects every problem.

    Args:
        document: the raw data.
        file: the space as it stands in the file, when the document is a narrowing of it.
        points: raw ``try_first`` points that were right before the narrowing; these may be skipped.
    """

    def __init__(self, document: Document, *, file: Space | None = None, points: Sequence[Any] = ()) -> None:
        self.document = document
        self.train = document.section("train")
        self.searched = document.section("parameters")
        self.file = file
        self.points = points
        self.problems: list[Problem] = []

    def say(self, path: str, rule: str, *, value: str = "", hint: str = "") -> None:
        """Adds a problem with what stands at ``path``."""
        self.problems.append(Problem(where=self.document.where(path), path=path, rule=rule, value=value, hint=hint))

    def check(self) -> tuple[dict[str, Any], list[Problem]]:
        """The fields of an Experiment, of use only without problems, and the problems in the order of the sections."""
        for key in self.document.data:
            if key not in SECTIONS:
                self.say(key, "unknown key", hint=nearest(key, SECTIONS))
        fields: dict[str, Any] = {"name": self.name(), "description": self.description(), "data": self.data()}
        before = len(self.problems)
        self.check_train()
        space = self.space()
        unread: set[str] = set()
        if len(self.problems) == before:
            self.check_combinations(space)
        else:
            unread = set(self.searched) - set(space.names)
        search = self.model("search", SearchSettings)
        fields |= {"train": self.train, "parameters": space, "search": search, "scheduler": self.scheduler()}
        fields["objective"] = self.model("objective", Objective)
        if search is not None and search.sampler == "grid":
            self.check_grid(space)
        fields["try_first"], fields["skipped_points"] = self.try_first(space, unread)
        return fields, self.problems

    # The sections that are no space

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

    def model(self, section: str, model: type[_Model]) -> _Model | None:
        """A section that is a model."""
        value, problems = validate(model, self.document.data.get(section, {}), section, where=self.document.where)
        self.problems += problems
        return value

    def data(self) -> DataConfig | None:
        data = self.model("data", DataConfig)
        if data is None:
            return None
        try:
            return with_absolute_root(data)
        except RuntimeError:
            self.say("data.root", "must be a path whose ~ has a home directory", value=str(data.root))
            return None

    def check_train(self) -> None:
        raw = self.document.data.get("train", {})
        if not isinstance(raw, dict):
            self.say("train", "must be a mapping such as {epochs: 30, size: 256x192}", value=text(raw))
        for name, value in self.train.items():
            if name not in FIELDS:
                self.say(f"train.{name}", "is no field of TrainConfig", hint=field_hint(name))
            else:
                self.check_field(name, value, f"train.{name}")

    def check_field(self, name: str, value: Any, path: str) -> None:
        """A value that stands at ``path`` must be one that the TrainConfig field takes."""
        self.problems += field_problems(name, value, path, where=self.document.where(path))

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
        scheduler, problems = validate(SCHEDULERS[kind], settings, f"scheduler.{kind}", where=self.document.where)
        self.problems += problems
        return scheduler

    # Parameters and their conditions

    def space(self) -> Space:
        """The space of the parameters that could be read."""
        if not self.searched:
            raw = self.document.data.get("parameters")
            rule = "is missing" if raw is None else "must be a mapping that names at least one TrainConfig field"
            hint = "such as parameters: {lr: {float: [1e-5, 1e-1], log: true}}"
            self.say("parameters", rule, value="" if raw is None else text(raw), hint=hint)
            return Space(())
        read: dict[str, Parameter] = {}
        for name, content in self.searched.items():
            path = f"parameters.{name}"
            if name not in FIELDS:
                self.say(path, "is no field of TrainConfig", hint=field_hint(name))
                continue
            if name in self.train:
                line = self.document.where(f"train.{name}")
                self.say(path, f"is searched here and fixed under train ({line})", hint="keep one of the two")
            parameter, problems = read_parameter(name, content)
            for problem in problems:
                self.say(f"parameters.{problem.path}", problem.rule, value=problem.value, hint=problem.hint)
            if parameter is not None:
                self.check_domain(parameter)
                read[name] = parameter
        space = self.with_conditions(read)
        if not space and not self.problems:
            self.say("parameters", "nothing is left to search")
        return space

    def check_domain(self, parameter: Parameter) -> None:
        """Every choice and both ends of a range must be values that the field takes."""
        domain = parameter.domain
        if isinstance(domain, Choice):
            kind, values = "choice", domain.values
        else:
            kind, values = "float" if isinstance(domain, FloatRange) else "int", (domain.low, domain.high)
        for index, value in enumerate(values):
            self.check_field(parameter.name, value, f"parameters.{parameter.name}.{kind}.{index}")

    def with_conditions(self, read: Mapping[str, Parameter]) -> Space:
        """Checks every ``when``; after a narrowing, resolves it to what is still possible."""
        kept: dict[str, Parameter] = {}
        for name, parameter in read.items():
            when = self.resolved(parameter, read, kept)
            if when is None:
                continue
            kept[name] = Parameter(name, parameter.domain, when)
            if when and not any(name in point for point in Space(tuple(kept.values())).skeletons([name])):
                if self.file is None:
                    self.say(f"parameters.{name}.when", "can never hold: its conditions exclude each other")
                del kept[name]
        return Space(tuple(kept.values()))

    def resolved(
        self, parameter: Parameter, read: Mapping[str, Parameter], kept: Mapping[str, Parameter]
    ) -> dict[str, tuple[Scalar, ...]] | None:
        """The ``when`` of a parameter in terms of those kept above it; None where it can never hold or is wrong."""
        path, order = f"parameters.{parameter.name}.when", list(self.searched)
        above = order[: order.index(parameter.name)]
        when: dict[str, tuple[Scalar, ...]] = {}
        queue = list(parameter.when.items())
        while queue:
            name, values = queue.pop(0)
            if name in read and name in above:
                if name not in kept:
                    return None
                self.check_possible(f"{path}.{name}", read[name], values)
                possible = tuple(value for value in values if read[name].domain.contains(value))
                if name in when:
                    possible = tuple(value for value in when[name] if any(same(value, other) for other in possible))
                if not possible:
                    return None
                when[name] = possible
            elif self.file is not None and name in self.file and name not in self.searched:
                # Fixed or taken out by the narrowing: its value decides, under its own condition.
                if not any(same(self.fixed(name), value) for value in values):
                    return None
                queue += self.file[name].when.items()
            else:
                self.say_not_above(path, parameter.name, name)
                return None
        return when

    def fixed(self, name: str) -> Any:
        """The value of a TrainConfig field that is not searched, as a file would write it."""
        if name in self.train:
            return self.train[name]
        value = TrainConfig.model_fields[name].default
        return str(value) if isinstance(value, BaseModel) else value

    def say_not_above(self, path: str, name: str, parent: str) -> None:
        """Says why the ``when`` of ``name`` cannot name ``parent``; nothing where ``parent`` could not be read."""
        order, path = list(self.searched), f"{path}.{parent}"
        if parent in order and order.index(parent) >= order.index(name):
            hint = f"move {parent} above {name}" if parent != name else ""
            self.say(path, "`when` may only name parameters that stand above", value=parent, hint=hint)
        elif parent in self.train:
            hint = "leave the condition out, or leave the parameter out"
            self.say(path, "is fixed under train, so the condition never changes", hint=hint)
        elif parent not in order:
            above = order[: order.index(name)]
            self.say(path, "`when` names no parameter of this space", hint=nearest(parent, above))

    def check_possible(self, path: str, parent: Parameter, values: Iterable[Scalar]) -> None:
        """Every value of a ``when`` must be possible, now or before the narrowing."""
        domains = [parent.domain]
        if self.file is not None and parent.name in self.file:
            domains.append(self.file[parent.name].domain)
        for index, value in enumerate(values):
            if not any(domain.contains(value) for domain in domains):
                inner = f"{path}.{index}" if f"{path}.{index}" in self.document.marks else path
                hint = nearest(value, parent.domain.values) if isinstance(parent.domain, Choice) else ""
                rule = f"{parent.name} can never be this: it is {parent.domain}"
                self.say(inner, rule, value=text(value), hint=hint)

    def check_combinations(self, space: Space) -> None:
        """TrainConfig's rules over several fields must hold for whatever the space can propose."""
        seen: set[str] = set()
        for point in space.skeletons(FITTED_TOGETHER):
            fields = {name: value for name, value in {**self.train, **point}.items() if name in FITTED_TOGETHER}
            try:
                TrainConfig.model_validate(fields)
            except ValidationError as error:
                for rule in (rule_of(found["msg"]) for found in error.errors()):
                    if rule not in seen:
                        seen.add(rule)
                        named = [name for name in FITTED_TOGETHER if name in fields and name in rule.split()]
                        name = named[-1] if named else "architecture"
                        path = f"parameters.{name}" if name in space else f"train.{name}"
                        self.say(path, rule, hint=self.encoder_hint(fields, space) if "encoder" in rule else "")

    def encoder_hint(self, fields: Mapping[str, Any], space: Space) -> str:
        if "encoder" in fields:
            return ""
        if "encoder" in space:
            return f"the `when` of parameters.encoder must let {fields['architecture']} through"
        return "fix train.encoder or search parameters.encoder"

    def check_grid(self, space: Space) -> None:
        for parameter in space:
            if isinstance(parameter.domain, FloatRange) and parameter.domain.step is None:
                path = f"parameters.{parameter.name}.float"
                self.say(path, GRID_RULE, value=str(parameter.domain), hint="or write a choice")

    # Points

    def try_first(self, space: Space, unread: set[str]) -> tuple[tuple[Point, ...], tuple[tuple[int, str], ...]]:
        """The points that fit, and after a narrowing those that no longer do."""
        raw = self.document.data.get("try_first", [])
        if not isinstance(raw, list):
            self.say("try_first", "must be a list of points such as - {lr: 1.0e-4}", value=text(raw))
            return (), ()
        fitting: list[Point] = []
        skipped: list[tuple[int, str]] = []
        for index, written in enumerate(raw):
            path = f"try_first.{index}"
            if not isinstance(written, dict) or not written:
                self.say(path, "must be a mapping such as {lr: 1.0e-4}", value=text(written))
                continue
            point = {name: value for name, value in written.items() if not self.is_settled(name, value)}
            problems = [problem for problem in space.problems(point) if problem.path not in unread] if space else []
            if problems and self.file is not None and written in self.points:
                skipped.append((index, "; ".join(map(self.why_skipped, problems))))
                continue
            for problem in problems:
                rule, hint = problem.rule, problem.hint
                if problem.path in self.train:
                    rule, hint = "is fixed under train, not searched", "leave it out"
                self.say(f"{path}.{problem.path}", rule, value=problem.value, hint=hint)
            if point:  # a narrowing may settle all that it says
                fitting.append(point)
        return tuple(fitting), tuple(skipped)

    def is_settled(self, name: str, value: Any) -> bool:
        """Whether the narrowing fixed ``name`` at just this value, so that the point need not say it."""
        if self.file is None or name not in self.file or name in self.searched:
            return False
        return same(self.fixed(name), value)

    def why_skipped(self, problem: Problem) -> str:
        if problem.path not in self.searched and problem.path in FIELDS:
            return f"{problem.path} is fixed at {text(self.fixed(problem.path))}"
        return str(replace(problem, where="", hint=""))
