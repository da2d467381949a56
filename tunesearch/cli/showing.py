"""``tunesearch list``, ``show``, ``ui`` and ``sync``: looking at searches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

import tunesearch
from tunesearch.cli import options
from tunesearch.errors import InputError, Problem

if TYPE_CHECKING:
    from rich.console import Console

    from tunesearch.api.result import SearchResult
    from tunesearch.ledger.records import TrialRecord
    from tunesearch.strategy.confirmation import Confirmation

TEST_MEASURES = ("miou", "miou_no_background", "dice", "pixel_accuracy")
_OTHERS = 5
"""How many trials beside the best one end a search on the screen."""
_PIPE_WIDTH = 1000
"""Columns of what no terminal shows."""


@click.command("list")
@options.storage
@options.as_json
def list_(storage: Path | None, as_json: bool) -> None:
    """List all searches of the storage folder."""
    results = tunesearch.list_searches(storage=storage)
    if as_json:
        import json

        rows = [{key: value for key, value in result.as_dict().items() if key != "trials"} for result in results]
        click.echo(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    if not results:
        from tunesearch.api.places import storage_folder

        click.echo(f"no searches in {storage_folder(storage)}")
        return
    table = Table("search", "status", "trials", "best", "trial", "data")
    for result in results:
        best = result.best
        table.add_row(
            result.name,
            result.status,
            str(len(result.trials)),
            f"{best.best:.4f}" if best and best.best is not None else "-",
            str(best.number) if best else "-",
            "SAMPLE" if result.sample else "",
        )
    Console().print(table)


@click.command()
@click.argument("name")
@options.storage
@options.as_json
def show(name: str, storage: Path | None, as_json: bool) -> None:
    """Show the search NAME: its trials, their outcomes, and the best configuration."""
    result = tunesearch.load(name, storage=storage)
    if as_json:
        import json

        click.echo(json.dumps(result.as_dict(), indent=1))
    else:
        print_result(result, storage, every=True)


@click.command()
@options.storage
@options.tracking_uri
@click.option("--port", type=click.IntRange(1, 65535), default=5000, help="On 127.0.0.1 [5000].")
def ui(storage: Path | None, tracking_uri: str | None, port: int) -> int:
    """Open MLflow's page on the trials, on http://127.0.0.1:PORT."""
    import socket
    import subprocess
    import sys

    from tunesearch.api import places
    from tunesearch.tracking.store import artifact_folder, prepare_database, without_password

    folder = places.storage_folder(storage)
    uri = places.tracking_uri(folder, tracking_uri)
    if uri.startswith("http"):
        click.echo(f"the tracking server has a page of its own: {without_password(uri)}")
        return 0
    if uri.partition(":")[0].partition("+")[0] not in ("sqlite", "postgresql", "mysql", "mssql"):
        rule = "must be an http(s) address or a database such as sqlite:///FILE"
        raise InputError(Problem("--tracking-uri", rule, value=repr(without_password(uri))))
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", port))
        except OSError as error:
            raise InputError(Problem("--port", f"must be free: {error.strerror}", value=str(port))) from error
    click.echo(f"MLflow on http://127.0.0.1:{port} over {without_password(uri)}; Ctrl-C ends it", err=True)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    if uri.startswith("sqlite:"):
        prepare_database(uri)
        command += ["--default-artifact-root", artifact_folder(folder)]
    try:
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        return 0


@click.command()
@click.argument("name")
@options.storage
@options.tracking_uri
def sync(name: str, storage: Path | None, tracking_uri: str | None) -> None:
    """Make MLflow say what the ledger of NAME says, also where MLflow was away or is another one."""
    uri = tunesearch.sync(name, storage=storage, tracking_uri=tracking_uri)
    click.echo(f"{name} is in MLflow at {uri}")


def print_result(result: SearchResult, storage: Path | None, *, every: bool = False) -> None:
    """What a search found and what to do next.

    Args:
        every: list every trial by number; else the five best that are not the best one, which is told below them.
    """
    from rich.console import Console
    from rich.text import Text

    from tunesearch.cli.live import duration

    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)  # a line per trial, whatever its length: for grep, not for eyes
    counts = Counter(record.outcome or "running" for record in result.trials)
    sample = "  [built-in SAMPLE data]" if result.sample else ""
    console.print(
        Text(f"{result.name}: {result.status}, {len(result.trials)} trials in {duration(result.seconds)}{sample}")
    )
    console.print(Text("outcomes: " + ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))))
    if result.duplicates:
        console.print(Text(f"{result.duplicates} suggestions equalled an earlier trial and were not trained again"))
    for source in result.warm_start:
        console.print(Text(f"warm-started from {source}"))
    _print_trials(console, result, every=every)
    _print_reasons(console, result.trials)
    if result.best is None or result.best.best is None:
        return
    _print_best(console, result, result.best)
    if result.confirmation is not None:
        _print_confirmation(console, result.confirmation)
    _print_next(console, result, storage)


def _print_trials(console: Console, result: SearchResult, *, every: bool) -> None:
    """A line per trial."""
    from rich.table import Table
    from rich.text import Text

    from tunesearch.cli.live import short, sparkline

    best = result.best.number if result.best else None
    records = list(result.trials)
    if not every:
        others = [record for record in records if record.number != best]
        sign = 1 if result.objective == "val_loss" else -1
        others.sort(key=lambda record: float("inf") if record.best is None else sign * record.best)
        records = others[:_OTHERS]
    if not records:
        return
    table = Table(box=None, pad_edge=False, header_style="dim", expand=console.is_terminal)
    for column in ("trial" if every else "others", "outcome", "epochs", result.objective, "curve"):
        table.add_column(column, no_wrap=True)
    table.add_column("configuration", no_wrap=True, ratio=1)  # what is too long is cut here
    for record in records:
        curve = [getattr(saved.metrics, result.objective) for _, saved in sorted(record.epochs.items())]
        table.add_row(
            str(record.number),
            record.outcome or "running",
            str(max(record.epochs, default=0)),
            f"{record.best:.4f}" if record.best is not None else "-",
            sparkline(curve, 12),
            Text(short(record) if console.is_terminal else _settings(record.parameters)),
            style="bold green" if record.number == best else "",
        )
    console.print()
    console.print(table)
    left = len(result.trials) - len(records) - (best is not None)
    if not every and left > 0:
        console.print(Text(f"and {left} more: tunesearch show {result.name}"))


def _print_reasons(console: Console, records: Sequence[TrialRecord]) -> None:
    """Why trials failed, a reason that many have in common once."""
    from rich.text import Text

    reasons: dict[tuple[str, str], list[int]] = {}
    for record in records:
        if record.outcome in ("failed", "infeasible", "lost"):
            reasons.setdefault((record.outcome, record.message), []).append(record.number)
    for (outcome, message), numbers in reasons.items():
        trials = f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
        console.print(Text(f"{trials} {outcome}: {message}"))


def _print_best(console: Console, result: SearchResult, best: TrialRecord) -> None:
    """The best trial: its score, how far that can be trusted, its classes and its configuration."""
    from rich.text import Text

    folds = max((len(saved.metrics.folds) for saved in best.epochs.values()), default=0)
    what = f"the mean of {folds} folds, one training each" if folds else "one training"
    head = Text("\nbest: ", style="bold").append(
        f"trial {best.number}, {result.objective} {best.best:.4f}", "bold green"
    )
    console.print(head)
    if result.confirmation is None:
        console.print(Text(f"UNCONFIRMED: {what}; the top of many trials is partly luck"))
    told = ", ".join(f"{name} {'absent' if iou is None else f'{iou:.3f}'}" for name, iou in result.class_iou().items())
    console.print(Text(f"IoU per class: {told}"))
    console.print(Text(_settings(best.parameters), style="dim" if console.is_terminal else ""))


def _print_next(console: Console, result: SearchResult, storage: Path | None) -> None:
    """The commands that come next, each on a line that can be copied."""
    from rich.text import Text

    where = f" --storage {storage}" if storage else ""
    name, confirmed = result.name, result.confirmation
    steps = {
        "see everything": f"report {name}{where}",
        "take the model": f"export {name} -o {name}_model{where}",
        "browse trials": f"ui{where}",
    }
    if confirmed is None or not confirmed.done:
        flags = f" {confirmed.flags}" if confirmed else ""
        steps = {"does it hold?": f"confirm {name}{flags}{where}", **steps}
    console.print(Text("\nnext:", style="bold"))
    for what, step in steps.items():  # never wrapped by us: a command that is copied must be whole
        console.print(Text(f"  {what:<15} tunesearch {step}"), soft_wrap=True)


def _print_confirmation(console: Console, confirmed: Confirmation) -> None:
    """The table of the repeated trials, the verdict, and the score on the test part."""
    from rich.table import Table
    from rich.text import Text

    console.print(Text(f"\nconfirmed over seeds: {confirmed.objective}", style="bold"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("trial", "search", "mean", "±", "95 % interval", "behind the leader"):
        table.add_column(column)
    behind = {one.trial: f"{one.value:.4f} ({one.low:.4f} to {one.high:.4f})" for one in confirmed.differences}
    for one in confirmed.candidates:
        table.add_row(
            str(one.trial),
            f"{one.searched:.4f}",
            "-" if one.mean is None else f"{one.mean:.4f}",
            "-" if one.deviation is None else f"{one.deviation:.4f}",
            "-" if one.low is None or one.high is None else f"{one.low:.4f} to {one.high:.4f}",
            behind.get(one.trial, ""),
            style="bold green" if one.trial == confirmed.leader else "",
        )
    console.print(table)
    for one in confirmed.candidates:  # by number and not in the table, which stays narrow enough to compare
        told = [f"{value:.4f}" for value in one.values] + list(one.failures) + ["waiting"] * one.waiting
        console.print(Text(f"trial {one.trial} per seed: {' '.join(told)}"))
        console.print(Text(f"  {_settings(one.parameters)}", style="dim" if console.is_terminal else ""))
    console.print(Text(confirmed.verdict))
    if confirmed.network is not None:
        what = f"trial {confirmed.network}, the repeat of trial {confirmed.leader} with the best {confirmed.objective}"
        console.print(Text(f"report, export, evaluate and predict use the network of {what}"))
    if confirmed.test is not None:
        test = confirmed.test
        spread = [f"{name} {test[name]['mean']:.4f} ± {test[name]['deviation']:.4f}" for name in TEST_MEASURES]
        often = "once" if confirmed.looks == 1 else f"{confirmed.looks} TIMES"
        said = f"test part, {test['images']} images at original size, looked at {often}: {', '.join(spread)}"
        console.print(Text(said))
        per_class = [f"{name} {'absent' if iou is None else f'{iou:.3f}'}" for name, iou in test["iou"].items()]
        console.print(Text(f"test IoU per class: {', '.join(per_class)}"))


def _settings(parameters: dict[str, object]) -> str:
    return ", ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in parameters.items()
    )
