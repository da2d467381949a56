"""``tunesearch compare``: tables as reports print them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import tunesearch
from tunesearch.cli import options

if TYPE_CHECKING:
    from tunesearch.reporting.comparison import Comparison, Row, Spread

TITLES = {
    "val_miou": "mIoU",
    "val_miou_no_background": "mIoU without background",
    "val_dice": "Dice",
    "val_pixel_accuracy": "pixel accuracy",
    "val_loss": "val loss",
}
WITH_LARGEST = ("val_miou", "val_miou_no_background", "val_dice")
"""Scores whose maximum over the repeats is told, too."""


class Names(click.ParamType[tuple[str, ...]]):
    """``architecture,loss``: a tuple of texts."""

    name = "name,name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        names = tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else tuple(value)
        if not all(names):
            self.fail(f"must be names with commas between them, but got {value!r}", param, ctx)
        return names


class Numbers(click.ParamType[tuple[int, ...]]):
    """``3,5,7``: a tuple of whole numbers."""

    name = "n,n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        try:
            return tuple(int(part) for part in parts)
        except ValueError:
            self.fail(f"must be whole numbers such as 3,5,7, but got {value!r}", param, ctx)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--by", type=Names(), metavar="FIELD[,FIELD]", default=(), help="A row per value [a row per configuration]."
)
@click.option("--trials", type=Numbers(), metavar="N[,N]", default=(), help="These of a single search only [all].")
@click.option("--all", "stopped", is_flag=True, help="Also trials that the search stopped early.")
@options.storage
@options.as_json
@click.option("--markdown", is_flag=True, help="A table to paste into a report.")
def compare(
    names: tuple[str, ...],
    by: tuple[str, ...],
    trials: tuple[int, ...],
    stopped: bool,
    storage: Path | None,
    as_json: bool,
    markdown: bool,
) -> None:
    """Compare the completed trials of one or several searches, repeats over seeds and searches put together.

    \b
    tunesearch compare models --by architecture
    tunesearch compare seed1 seed2 seed3 --by architecture,loss --markdown
    """
    if as_json and markdown:
        raise click.UsageError("--json and --markdown cannot be given together")
    comparison = tunesearch.compare(names, by=by, trials=trials, stopped=stopped, storage=storage)
    if as_json:
        import json

        click.echo(json.dumps(comparison.as_dict(), indent=1))
    elif markdown:
        click.echo(_markdown(comparison))
    else:
        _print(comparison)


def _print(comparison: Comparison) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    head, rows = _cells(comparison)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for title in head:
        table.add_column(Text(title), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
    for line in _notes(comparison):
        console.print(Text(line))


def _markdown(comparison: Comparison) -> str:
    head, rows = _cells(comparison)
    table = [head, ["---"] * len(head), *rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    return "\n".join([*lines, "", *(f"- {line}" for line in _notes(comparison))])


def _notes(comparison: Comparison) -> list[str]:
    """What must be known to read the table, and what makes it less comparable."""
    stopped = sum(row.stopped for row in comparison.rows)
    notes = [
        f"scores: on the validation part at each trial's best epoch (by {comparison.objective}); "
        "mean ± sample standard deviation over n trials",
        "s/epoch, s/1000 images: medians over the epochs but the first, on the share of the machine that a trial had; "
        "the second is the validation pass at the trained size, with its loss and scoring",
    ]
    if stopped:
        notes.append(f"{stopped} of the trials were stopped early by the search: they had fewer epochs")
    return notes + [f"warning: {warning}" for warning in comparison.warnings]


def _cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """The titles and the rows of the table, as texts."""
    rows = comparison.rows
    partly = any(row.trained_parameters != row.parameters for row in rows)
    head = [
        *comparison.fields,
        "n",
        *(TITLES[name] for name in comparison.metrics),
        "parameters",
        *(["trained"] if partly else []),
        "s/epoch",
        "s/1000 images",
        "epochs",
    ]
    return head, [
        [
            *(_value(row.fields[name]) if name in row.fields else "-" for name in comparison.fields),
            _count(row),
            *(_spread(row.scores[name], largest=name in WITH_LARGEST) for name in comparison.metrics),
            _range(row.parameters),
            *([_range(row.trained_parameters)] if partly else []),
            _seconds(row.epoch_seconds),
            _seconds(row.seconds_per_1000_images),
            _range(row.epochs),
        ]
        for row in rows
    ]


def _value(value: Any) -> str:
    from tunesearch.space import text

    if isinstance(value, dict) and set(value) == {"width", "height"}:
        return f"{value['width']}x{value['height']}"
    return f"{value:.4g}" if isinstance(value, float) else text(value)


def _count(row: Row) -> str:
    return f"{len(row.trials)} ({row.stopped} stopped)" if row.stopped else str(len(row.trials))


def _spread(spread: Spread, *, largest: bool) -> str:
    if spread.deviation is None:
        return f"{spread.mean:.4f}"
    text = f"{spread.mean:.4f} ±{spread.deviation:.4f}"
    return f"{text}, max {spread.largest:.4f}" if largest else text


def _range(numbers: tuple[int, ...]) -> str:
    """``7``, ``1.23M to 24.4M``, ``-``."""
    ends = [f"{number / 1e6:.3g}M" if number >= 1_000_000 else str(number) for number in numbers[:1] + numbers[-1:]]
    return " to ".join(dict.fromkeys(ends)) or "-"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.0f}" if seconds >= 1000 else f"{seconds:.3g}"
