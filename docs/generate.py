"""Writes the parts of these pages that are made from the code: ``make docs``, or ``python docs/generate.py``.

A part stands between ``<!-- made by docs/generate.py: NAME -->`` and ``<!-- end -->``; everything else of a page is
written by hand. A test holds every part current.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PART = re.compile(r"(<!-- made by docs/generate\.py: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

TRAIN_GROUPS = {
    "Network": "architecture",
    "Optimiser": "optimizer",
    "Schedule": "schedule",
    "Loss": "loss",
    "Batches, sizes and windows": "batch_size",
    "Epochs and early stopping": "epochs",
    "Augmentation": "augmentation",
    "The rest": "ema_decay",
}
"""What the fields of TrainConfig are about, by the first field of each group."""


# ---------------------------------------------------------------------------------------------------- commands
def _leaves(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that can be run, by the words that call it."""
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from _leaves(child, (*path, name))
    else:
        yield path, command


def _context(path: tuple[str, ...], command: click.Command) -> click.Context:
    return click.Context(command, info_name=" ".join(path))


def _usage(path: tuple[str, ...], command: click.Command) -> str:
    context = _context(path, command)
    arguments = [param.make_metavar(context) for param in command.params if isinstance(param, click.Argument)]
    return " ".join([*path, *arguments])


def command_table() -> str:
    """One line per command."""
    from tunesearch.cli import cli

    lines = ["| command | what it does |", "|---|---|"]
    for path, command in _leaves(cli, ("tunesearch",)):
        anchor = re.sub(r"[^\w -]", "", " ".join(path)).replace(" ", "-")
        lines.append(f"| [`{_usage(path, command)}`](#{anchor}) | {_cell(command.get_short_help_str(limit=400))} |")
    return "\n".join(lines)


def command_reference() -> str:
    """Every command with its help and its options."""
    from tunesearch.cli import cli

    return "\n\n".join(_command(path, command) for path, command in _leaves(cli, ("tunesearch",)))


def _command(path: tuple[str, ...], command: click.Command) -> str:
    context = _context(path, command)
    parts = [f"### {' '.join(path)}", f"`{_usage(path, command)}`", *_paragraphs(command.help or "")]
    records = [param.get_help_record(context) for param in command.params if isinstance(param, click.Option)]
    rows = [f"| `{_cell(names.replace(' RANGE', ''))}` | {_cell(text)} |" for names, text in filter(None, records)]
    if rows:
        parts.append("\n".join(["| option | |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def _paragraphs(text: str) -> Iterator[str]:
    """A help text in Markdown; commands that click leaves unwrapped (behind a backspace) become a block of code."""
    for paragraph in re.split(r"\n\s*\n", "\n".join(line.strip() for line in text.splitlines()).strip()):
        lines = [line for line in paragraph.splitlines() if line != "\b"]
        if all(line.startswith("tunesearch ") for line in lines):
            yield "\n".join(["```bash", *(re.sub(r"\s{2,}", "  # ", line) for line in lines), "```"])
        else:
            yield " ".join(lines)


def _cell(text: str) -> str:
    """Text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


# ---------------------------------------------------------------------------------------------------- fields
def train_fields() -> str:
    """Every field that may be fixed or searched, in groups."""
    from tunesearch.segmentation.config import TrainConfig

    names = list(TrainConfig.model_fields)
    starts = [*(names.index(first) for first in TRAIN_GROUPS.values()), len(names)]
    tables = []
    for title, start, end in zip(TRAIN_GROUPS, starts, starts[1:], strict=False):
        tables.append(f"#### {title}\n\n{_fields(TrainConfig, names[start:end])}")
    return "\n\n".join(tables)


def section_fields() -> str:
    """The other sections of a search-space file."""
    from tunesearch.experiment.sections import SCHEDULERS, Objective, SearchSettings
    from tunesearch.segmentation.config import ClassSpec, DataConfig, Folds

    models: dict[str, type[BaseModel]] = {
        "`data:`": DataConfig,
        "`data: {classes: [...]}`": ClassSpec,
        "`data: {folds: ...}`": Folds,
        "`search:`": SearchSettings,
        "`objective:`": Objective,
        **{f"`scheduler: {{{kind}: ...}}`": model for kind, model in SCHEDULERS.items()},
    }
    return "\n\n".join(
        f"#### {title}\n\n{_text(model.__doc__)}\n\n{_fields(model, list(model.model_fields))}"
        for title, model in models.items()
    )


def _fields(model: type[BaseModel], names: list[str]) -> str:
    from tunesearch.segmentation.config import ARCHITECTURES, AUGMENTATIONS, CLASS_WEIGHTS, LOSSES

    tables = {"loss": LOSSES, "class_weights": CLASS_WEIGHTS, "augmentation": AUGMENTATIONS}
    schema = model.model_json_schema()
    lines = ["| field | values | default | what it is |", "|---|---|---|---|"]
    for name in names:
        about = schema["properties"][name]
        if name == "architecture":
            values = f"[{len(ARCHITECTURES)} networks](#the-networks), `module:function`"
        elif name in tables and model.__name__ == "TrainConfig":
            values = ", ".join(f"`{value}`" for value in tables[name]) + ", or as said"
        else:
            values = _values(about, schema.get("$defs", {}))
        default = _default(about, required=name in schema.get("required", ()))
        lines.append(f"| `{name}` | {values} | {default} | {_text(about.get('description'))} |")
    return "\n".join(lines)


def _values(about: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What a field may be, in words."""
    if "anyOf" in about:
        return " or ".join(dict.fromkeys(_values(option, definitions) for option in about["anyOf"]))
    if "$ref" in about:
        name = about["$ref"].rpartition("/")[2]
        return {"Size": "`WIDTHxHEIGHT`", "ClassSpec": "a class", "Folds": "[folds](#data-folds-)"}[name]
    if "enum" in about:
        return ", ".join(f"`{value}`" for value in about["enum"])
    kind = about.get("type", "string")
    if kind in ("integer", "number"):
        return {"integer": "a whole number", "number": "a number"}[kind] + _bounds(about)
    if kind == "array" and "prefixItems" in about:
        return "`[red, green, blue]`"
    if kind == "array":
        return f"a list (of {_values(about['items'], definitions)})"
    return {"string": "text", "boolean": "`true`, `false`", "null": "`null`"}[kind]


def _bounds(about: dict[str, Any]) -> str:
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    if {"minimum", "maximum"} <= about.keys():
        return f", {about['minimum']:g} to {about['maximum']:g}"
    told = [f"{word} {about[key]:.10g}" for key, word in words.items() if key in about]
    return f", {', '.join(told)}" if told else ""


def _default(about: dict[str, Any], *, required: bool) -> str:
    if required or "default" not in about:
        return "must be given" if required else "-"
    value = about["default"]
    if value in ("", []):
        return "-"
    if isinstance(value, dict):
        value = f"{value['width']}x{value['height']}"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _text(text: str | None) -> str:
    """A docstring as Markdown for a cell."""
    return _cell(re.sub(r":\w+:`", "`", (text or "").replace("``", "`")))


def networks() -> str:
    """The architectures, in words."""
    from tunesearch.segmentation.architectures import DESCRIPTIONS
    from tunesearch.segmentation.config import ENCODER_ARCHITECTURES

    lines = ["| name | takes an encoder | what | from |", "|---|---|---|---|"]
    for name, about in DESCRIPTIONS.items():
        takes = "yes" if name in ENCODER_ARCHITECTURES else ""
        lines.append(f"| `{name}` | {takes} | {_text(about.what)} | {_text(about.source)} |")
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------- the tree
def first_line(file: Path) -> str:
    """What a module says it is.

    Raises:
        ValueError: it has no docstring.
    """
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    if not docstring:
        raise ValueError(f"{file}: must begin with a docstring that says what the module is")
    return docstring.splitlines()[0].replace("``", "`")


def tree() -> str:
    """Every module with its first line, package by package."""
    package = ROOT / "tunesearch"
    lines = [f"**[`tunesearch/`](../tunesearch)** {first_line(package / '__init__.py')}", "", *_modules(package, 0)]
    for folder in sorted(path.parent for path in package.glob("*/__init__.py")):
        name = folder.relative_to(ROOT)
        lines += [
            "",
            f"**[`{name}/`](../{name})** {first_line(folder / '__init__.py')}",
            "",
            *_modules(folder, 0, deep=True),
        ]
    return "\n".join(lines)


def _modules(folder: Path, depth: int, *, deep: bool = False) -> Iterator[str]:
    indent = "  " * depth
    for file in sorted(folder.glob("*.py")):
        if file.name != "__init__.py":
            yield f"{indent}- [`{file.name}`](../{file.relative_to(ROOT)}) {first_line(file)}"
    if deep:
        for inner in sorted(path.parent for path in folder.glob("*/__init__.py")):
            yield f"{indent}- [`{inner.name}/`](../{inner.relative_to(ROOT)}) {first_line(inner / '__init__.py')}"
            yield from _modules(inner, depth + 1, deep=True)


def contracts() -> str:
    """The import rules that ``make check`` holds."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines = []
    for contract in content["tool"]["importlinter"]["contracts"]:
        line = f"- **{contract['name']}**"
        if contract["type"] == "layers":
            layers = [layer.replace("tunesearch.", "") for layer in contract["layers"]]
            line += f": {' → '.join(f'`{one}`' for one in layers)}"
        lines.append(line)
    return "\n".join(lines)


def public_names() -> str:
    """What ``import tunesearch`` offers."""
    import tunesearch

    lines = ["| name | what it is |", "|---|---|"]
    for name in tunesearch.__all__:
        docstring = getattr(tunesearch, name).__doc__ if not name.startswith("__") else None
        if docstring:
            lines.append(f"| `tunesearch.{name}` | {_text(docstring.strip().split(chr(10) * 2)[0])} |")
    return "\n".join(lines)


PARTS: dict[str, Callable[[], str]] = {
    "command_table": command_table,
    "command_reference": command_reference,
    "train_fields": train_fields,
    "section_fields": section_fields,
    "networks": networks,
    "tree": tree,
    "contracts": contracts,
    "public_names": public_names,
}


def generated(page: str) -> str:
    """The text of a page with every part made anew."""
    return PART.sub(lambda match: f"{match[1]}\n{PARTS[match[2]]()}\n\n{match[3]}", page)


def main() -> None:
    for file in sorted(DOCS.glob("*.md")):
        text = file.read_text(encoding="utf-8")
        if (new := generated(text)) != text:
            file.write_text(new, encoding="utf-8")
            print(f"changed: {file.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
