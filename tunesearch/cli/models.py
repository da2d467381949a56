"""``tunesearch models``: which networks there are, and what one of them consists of and costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tunesearch.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from tunesearch.segmentation.config import TrainConfig
    from tunesearch.segmentation.models.summary import Summary


@click.group()
def models() -> None:
    """List networks, and show what one consists of and costs."""


@models.command("list")
@options.as_json
def list_command(*, as_json: bool) -> None:
    """List every architecture: what it is, where it is from, and whether it takes an encoder."""
    from tunesearch.segmentation.architectures import DESCRIPTIONS
    from tunesearch.segmentation.config import ENCODER_ARCHITECTURES

    if as_json:
        import json
        from dataclasses import asdict

        rows = [
            {"name": name, "encoder": name in ENCODER_ARCHITECTURES, **asdict(description)}
            for name, description in DESCRIPTIONS.items()
        ]
        click.echo(json.dumps(rows, indent=1))
        return
    from rich.table import Table

    table = Table(box=None)
    table.add_column("name", no_wrap=True)
    for title in ("encoder", "what", "from"):
        table.add_column(title)
    for name, description in DESCRIPTIONS.items():
        takes = "yes" if name in ENCODER_ARCHITECTURES else ""
        table.add_row(name, takes, description.what, description.source)
    console = _console()
    console.print(table)
    console.print("\nencoder: it takes one, any of segmentation-models-pytorch's or tu-NAME of timm's")


@models.command()
@click.argument("name")
@click.option("--encoder", help="For a network that takes one.")
@click.option("--classes", type=click.IntRange(min=1), default=21, show_default=True, help="Number of classes.")
@click.option("--size", default="128x128", show_default=True, metavar="WxH", help="Width and height in pixels.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Any field of a training, such as depth=6 or decoder_width=128. Repeatable.",
)
@options.as_json
def show(name: str, *, encoder: str | None, classes: int, size: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show the layers of NAME, its parameters, and the multiply-adds of one image.

    NAME is one that `tunesearch models list` tells, or your own as module:function. Nothing is trained or downloaded,
    and no memory is taken for weights.
    """
    config = _config(name, encoder, size, overrides)
    from tunesearch.errors import InputError, Problem, TunesearchError
    from tunesearch.segmentation.models.library import encoder_problem
    from tunesearch.segmentation.models.summary import summarize

    if config.encoder is not None and (problem := encoder_problem(config.encoder, "--encoder")):
        raise InputError(problem)
    try:
        summary = summarize(config, classes, height=config.size.height, width=config.size.width)
    except TunesearchError:
        raise
    except Exception as error:  # whatever a user's own function does
        if ":" not in name:
            raise
        rule = f"must be a function(config, classes) that gives a network: {type(error).__name__}: {error}"
        raise InputError(Problem("NAME", rule, value=name)) from error
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(
            json.dumps({"architecture": config.architecture, "encoder": config.encoder, **asdict(summary)}, indent=1)
        )
    else:
        _print(config, classes, summary)


def _config(name: str, encoder: str | None, size: str, overrides: tuple[str, ...]) -> TrainConfig:
    """The configuration that the words of the command line mean; everything that is wrong with them at once."""
    from dataclasses import replace

    from tunesearch.errors import InputError, Problem, nearest
    from tunesearch.experiment.document import read_overrides
    from tunesearch.experiment.validation import validate
    from tunesearch.segmentation.config import ARCHITECTURES, ENCODER_ARCHITECTURES, IMPORT_PATH, TrainConfig

    if name not in ARCHITECTURES and not IMPORT_PATH.match(name):
        hint = nearest(name, ARCHITECTURES)
        raise InputError(Problem("NAME", "must be an architecture or module:function", value=repr(name), hint=hint))
    flags = {"architecture": "NAME", "encoder": "--encoder", "size": "--size"}
    fields: dict[str, Any] = {"architecture": name, "encoder": encoder, "size": size}
    changes, problems = read_overrides(overrides)
    for field, value in changes:
        fields[field] = value
        flags[field] = f"--set {field}"
    fixed = [f"--set {field}" for field, _ in changes if field in ("architecture", "encoder", "size")]
    problems += [Problem(where, "is said by NAME, --encoder or --size") for where in fixed]
    if encoder is not None and name in ARCHITECTURES and name not in ENCODER_ARCHITECTURES:
        hint = f"those that do: {', '.join(ENCODER_ARCHITECTURES)}"
        problems.append(Problem("--encoder", f"{name} takes no encoder", value=encoder, hint=hint))
    config, found = validate(TrainConfig, fields, "", where=lambda path: flags.get(path.split(".")[0], ""))
    problems += [replace(problem, path="") for problem in found]
    if config is None or problems:
        raise InputError(problems)
    return config


def _console() -> Console:
    """Wide enough for a table where nobody's terminal is."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=140)


def _print(config: TrainConfig, classes: int, summary: Summary) -> None:
    from rich.table import Table
    from rich.text import Text

    console = _console()
    table = Table(box=None)
    for title in ("layer", "kind"):
        table.add_column(title, overflow="fold")
    for title in ("output", "parameters"):
        table.add_column(title, justify="right", no_wrap=True)
    for layer in summary.layers:
        output = " x ".join(map(str, layer.output))
        table.add_row(Text(layer.name), layer.kind, output, f"{layer.parameters:,}" if layer.parameters else "")
    console.print(table)
    on = f" on {config.encoder}" if config.encoder else ""
    lines = (
        f"{config.architecture}{on}, {classes} classes, {config.size} pixels",
        f"parameters     {summary.parameters:,}",
        f"of them trained {summary.trained:,}",
        f"multiply-adds  {summary.multiply_adds:,} per image (convolutions and matrix products alone)",
        f"output         {' x '.join(map(str, summary.output))}",
    )
    console.print(Text("\n".join(("", *lines))))
