"""``tunesearch leaderboard``: the best of all searches, from MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import tunesearch
from tunesearch.cli import options

if TYPE_CHECKING:
    from tunesearch.reporting.leaderboard import Board, Entry


@click.command()
@click.option("--top", type=click.IntRange(min=1), default=10, help="Entries per data set and objective [10].")
@options.tracking_uri
@options.storage
@options.as_json
def leaderboard(top: int, tracking_uri: str | None, storage: Path | None, as_json: bool) -> None:
    """Rank the best of every search and production training that MLflow knows.

    Scores on other data or by another measure are not comparable: each pair of them has a table of its own.
    """
    found = tunesearch.leaderboard(top=top, tracking_uri=tracking_uri, storage=storage)
    if as_json:
        import json

        click.echo(json.dumps([board.as_dict() for board in found], indent=1))
        return
    if not found:
        click.echo("MLflow knows no searches")
    for board in found:
        _print(board)


def _print(board: Board) -> None:
    import time

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=180)
    data = "built-in SAMPLE data" if board.sample else board.data
    at = "" if board.resolution == "network" else f" at {board.resolution} size"
    title = f"{data} ({board.digest[:8] or 'content not known'}), {board.objective}{at}"
    table = Table(title=Text(title), title_justify="left")
    for column in ("", "name", board.objective, "confirmed", "test", "trial", "configuration", "when", "status"):
        table.add_column(column, overflow="fold")
    for place, entry in enumerate(board.entries, 1):
        table.add_row(
            str(place) if entry.value is not None else "-",
            Text(entry.name + (" (training)" if entry.kind == "training" else "")),
            f"{entry.value:.4f}" if entry.value is not None else "-",
            _confirmed(entry),
            _test(entry, board.objective),
            str(entry.trial) if entry.trial is not None else "-",
            Text(", ".join(f"{name}={_short(value)}" for name, value in entry.settings.items())),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.when)),
            entry.status,
        )
    console.print(table)
    if board.more:
        console.print(Text(f"and {board.more} more; --top shows them"))


def _confirmed(entry: Entry) -> str:
    """``0.4123 ± 0.0100 (5 seeds)``, with the trial where it is not the search's best."""
    if entry.confirmed is None:
        return "-"
    one = entry.confirmed
    which = f", trial {one.trial}" if one.trial != entry.trial else ""
    return f"{one.mean:.4f} ± {one.deviation:.4f} ({one.seeds} seeds{which})"


def _test(entry: Entry, objective: str) -> str:
    """The objective on the test part."""
    value = entry.test.get(objective.removeprefix("val_"))
    return "-" if value is None else f"{value:.4f}"


def _short(value: str) -> str:
    try:
        return f"{float(value):.3g}"
    except ValueError:
        return value
