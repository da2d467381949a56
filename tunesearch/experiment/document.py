"""The raw document of a search-space file: plain data, where each part of it was written, and changes to it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.tokens import AliasToken, AnchorToken, DirectiveToken, TagToken

from tunesearch.errors import InputError, Problem, nearest
from tunesearch.experiment.sections import SECTIONS
from tunesearch.space import DOMAIN_KEYS, text

REFUSED = {AnchorToken: "anchors", AliasToken: "aliases", TagToken: "tags", DirectiveToken: "directives"}


@dataclass
class Document:
    """Plain data, and where each part of it was written: dotted path -> ``file:line`` or ``--set PATH``."""

    data: dict[str, Any]
    marks: dict[str, str] = field(default_factory=dict)

    def where(self, path: str) -> str:
        """Where ``path`` was written, or the innermost part of it that was written at all."""
        while path and path not in self.marks:
            path = path.rpartition(".")[0]
        return self.marks.get(path, "")

    def copy(self) -> Document:
        return Document(copy.deepcopy(self.data), dict(self.marks))

    def section(self, name: str) -> dict[str, Any]:
        """A section that is a mapping, or nothing."""
        content = self.data.get(name)
        return content if isinstance(content, dict) else {}

    def points(self) -> list[Any]:
        """The raw ``try_first`` points."""
        points = self.data.get("try_first")
        return list(points) if isinstance(points, list) else []

    def change(self, path: Sequence[str], value: Any, *, where: str) -> list[Problem]:
        """Sets what stands at ``path``, by the rules in the docstring of ``tunesearch.experiment``.

        Returns:
            Why it cannot be set; nothing where it was.
        """
        section = path[0]
        if section == "smoke":
            return [Problem(where=where, rule="the smoke section itself cannot be changed", hint="use --smoke")]
        self._make_room(path)
        if section == "parameters" and value is None and len(path) <= 3:
            return self._take_out(path, where)
        if section == "train" and len(path) == 2:
            self.section("parameters").pop(path[1], None)
        keeps_when = False
        if section == "parameters" and len(path) > 1:
            if value is not None:
                self.section("train").pop(path[1], None)
            if len(path) == 2 and isinstance(value, dict):
                keeps_when = "when" not in value
                value = self._merged(path[1], value)

        inner: Any = self.data
        for end, key in enumerate(path[:-1], start=1):
            inner, parent = inner.setdefault(key, {}), ".".join(path[:end])
            self.marks.setdefault(parent, where)
            if not isinstance(inner, dict):
                rule, hint = "must be a mapping to be changed in part", f"set {parent} as a whole"
                return [Problem(where=where, path=parent, rule=rule, value=text(inner), hint=hint)]
        inner[path[-1]] = copy.deepcopy(value)

        dotted = ".".join(path)
        for mark in [mark for mark in self.marks if mark.startswith(f"{dotted}.")]:
            if not (keeps_when and mark.startswith(f"{dotted}.when")):
                del self.marks[mark]
        self.marks[dotted] = where
        if section == "parameters" and len(path) > 2:
            self.marks[f"parameters.{path[1]}"] = where
        return []

    def _make_room(self, path: Sequence[str]) -> None:
        """A parameter or scheduler has one kind: setting a part of another kind ends the old one."""
        if path[0] == "parameters" and len(path) == 3 and path[2] in DOMAIN_KEYS:
            raw = self.section("parameters").get(path[1])
            if isinstance(raw, dict) and path[2] not in raw:
                for key in (*DOMAIN_KEYS, "log", "step"):
                    raw.pop(key, None)
        if path[0] == "scheduler" and len(path) > 1 and path[1] not in self.section("scheduler"):
            self.data["scheduler"] = {}

    def _take_out(self, path: Sequence[str], where: str) -> list[Problem]:
        """Removes the parameters, one of them, or a key of one."""
        parameters = self.section("parameters")
        if len(path) == 2 and path[1] not in parameters:
            return [Problem(where=where, rule="is no parameter of this space", hint=nearest(path[1], parameters))]
        inner: Any = self.data
        for key in path[:-1]:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner.pop(path[-1], None)
        return []

    def _merged(self, name: str, value: dict[str, Any]) -> dict[str, Any]:
        """A parameter after a change: a new domain replaces all of the old one and keeps its ``when``."""
        old = self.section("parameters").get(name)
        if not isinstance(old, dict):
            return value
        new_domain = any(key in value for key in DOMAIN_KEYS)
        return {**{key: item for key, item in old.items() if key == "when" or not new_domain}, **value}


def read_document(path: Path) -> tuple[Document, list[Problem]]:
    """A YAML file, and what in it is not used here.

    Raises:
        InputError: there is nothing to go on with: unreadable, no YAML, no mapping.
    """
    problems: list[Problem] = []
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
        raise InputError(Problem(where=str(path), rule=rule, hint=hint))
    return Document(data, {**marks, "": str(path)}), problems


def read_overrides(
    overrides: Sequence[str], *, flag: str = "--set", example: str = "train.epochs=10"
) -> tuple[list[tuple[str, Any]], list[Problem]]:
    """``PATH=YAML`` texts as (dotted path, value), and what is wrong with the others, which came with ``flag``."""
    changes: list[tuple[str, Any]] = []
    problems: list[Problem] = []
    for override in overrides:
        try:
            changes.append(_read_override(override, problems, flag, example))
        except InputError as error:
            problems += error.problems
    return changes, problems


def _read_override(override: str, problems: list[Problem], flag: str, example: str) -> tuple[str, Any]:
    dotted, equals, value = override.partition("=")
    dotted = dotted.strip()
    where = f"{flag} {dotted}"
    if not equals or not all(dotted.split(".")):
        rule = f"must be PATH=VALUE, such as {example}"
        raise InputError(Problem(where=flag, rule=rule, value=repr(override)))
    if not value.strip():
        raise InputError(Problem(where=where, rule="needs a value after =", hint="write null for nothing"))
    return dotted, _parse(value, lambda line: where, problems)[0]


def _parse(content: str, place: Callable[[int], str], problems: list[Problem]) -> tuple[Any, dict[str, str]]:
    """YAML 1.2 to plain data: dict, list, str, int, float, bool, None; and where each part of it was written.

    Tags, anchors, aliases, merge keys, dates and repeated keys are refused: what a reader sees is what is meant.

    Raises:
        InputError: no YAML, or tags and the like. What else is refused is appended to ``problems``.
    """
    refused = []
    try:
        node = YAML(typ="rt", pure=True).compose(content)
        for token in YAML(typ="rt", pure=True).scan(content):
            if type(token) in REFUSED:
                rule = f"YAML {REFUSED[type(token)]} are not used here"
                hint = "write the value out, in quotes if it is a text with & * or !"
                refused.append(Problem(where=place(token.start_mark.line + 1), rule=rule, hint=hint))
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
    if refused:
        raise InputError(refused)
    reader = _Reader(place, problems)
    return (None if node is None else reader.read(node, "")), reader.marks


@dataclass
class _Reader:
    """YAML nodes to plain data; notes where each part stands and what is not used here."""

    place: Callable[[int], str]
    problems: list[Problem]
    marks: dict[str, str] = field(default_factory=dict)

    def where(self, node: Node) -> str:
        return self.place(node.start_mark.line + 1)

    def say(self, node: Node, path: str, rule: str, *, value: str = "", hint: str = "") -> None:
        self.problems.append(Problem(where=self.where(node), path=path, rule=rule, value=value, hint=hint))

    def read(self, node: Node, path: str) -> Any:
        if isinstance(node, ScalarNode):
            return self.scalar(node, path)
        if isinstance(node, MappingNode):
            return self.mapping(node, path)
        items = []
        for index, item in enumerate(node.value):
            inner = f"{path}.{index}" if path else str(index)
            self.marks[inner] = self.where(item)
            items.append(self.read(item, inner))
        return items

    def mapping(self, node: MappingNode, path: str) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, ScalarNode) else None
            inner = f"{path}.{key}" if path else str(key)
            if key == "<<":
                self.say(key_node, path, "merge keys (<<) are not used here", hint="write the keys out")
            elif not isinstance(key, str) or not key_node.tag.endswith(":str"):
                self.say(key_node, path, "keys must be names", value=text(key))
            elif key in result:
                before = self.marks[inner].rpartition(":")[2]
                self.say(key_node, inner, f"stands there twice: first in line {before}")
            else:
                self.marks[inner] = self.where(key_node)
                result[key] = self.read(value_node, inner)
        return result

    def scalar(self, node: ScalarNode, path: str) -> Any:
        kind = str(node.tag).rpartition(":")[2]
        if kind == "timestamp":
            hint = f"write '{node.value}' in quotes if it is a text"
            self.say(node, path, "dates are not used here", hint=hint)
        elif kind in ("int", "float", "bool", "null"):
            try:
                return YAML(typ="safe", pure=True).constructor.construct_object(node)
            except ValueError:
                self.say(node, path, "must be a number", value=node.value[:40])
                return None
        return str(node.value)
