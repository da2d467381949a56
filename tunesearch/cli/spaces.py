"""``tunesearch spaces``: what can be searched, and whether a search-space file is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from tunesearch.experiment import Experiment

SAMPLES = 4
"""Configurations that ``show`` draws."""


def _changes(command: Callable[..., None]) -> Callable[..., None]:
    """``--set`` and ``--smoke``, as ``tunesearch run`` takes them."""
    command = click.option(
        "--smoke", is_flag=True, help="As a smoke run changes it: small, on the built-in sample data."
    )(command)
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="PATH=VALUE",
        help="Change a part of the file, such as train.epochs=10 or parameters.lr.float='[1e-4, 1e-2]'. Repeatable.",
    )(command)


@click.group()
def spaces() -> None:
    """List, show and check search spaces."""


@spaces.command("list")
def list_command() -> None:
    """List the search spaces that come with tunesearch."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from tunesearch.experiment import load_experiment, shipped_spaces

    table = Table(box=None)
    for title in ("name", "parameters", "trials", "what for"):
        table.add_column(title)
    for name in shipped_spaces():
        experiment = load_experiment(name)
        lines = (experiment.description or "").strip().splitlines()
        counts = (str(len(experiment.space)), str(experiment.search.trials))
        table.add_row(name, *counts, escape(lines[0] if lines else ""))
    Console().print(table)


@spaces.command()
@click.argument("space")
@click.option("--json", "as_json", is_flag=True, help="Print the resolved experiment as JSON.")
@_changes
def show(space: str, *, as_json: bool, overrides: tuple[str, ...], smoke: bool) -> None:
    """Show what SPACE, a shipped name or a YAML file, searches; with a few configurations drawn from it."""
    import json

    from tunesearch.experiment import load_experiment

    experiment = load_experiment(space, overrides=overrides, smoke=smoke)
    if as_json:
        click.echo(json.dumps(experiment.to_document(), indent=2))
    else:
        _print(experiment)


@spaces.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@_changes
def check(files: tuple[str, ...], *, overrides: tuple[str, ...], smoke: bool) -> None:
    """Check search-space files; every problem of every file is told, with its line."""
    from dataclasses import replace

    from tunesearch.errors import InputError, Problem
    from tunesearch.experiment import load_experiment

    problems: list[Problem] = []
    for file in files:
        try:
            experiment = load_experiment(file, overrides=overrides, smoke=smoke)
        except InputError as error:
            problems += error.problems
            continue
        try:
            if _asks_libraries(experiment):
                from tunesearch.engine.preflight import check_training

                check_training(experiment)
        except InputError as error:
            problems += [replace(problem, where=problem.where or file) for problem in error.problems]
        else:
            count = len(experiment.space)
            click.echo(f"{file}: ok ({count} parameter{'s' if count > 1 else ''})")
            for name in experiment.idle_fields():
                click.echo(f"{file}: note: train.{name} has no effect on anything that is searched here")
    if problems:
        raise InputError(problems)


def _asks_libraries(experiment: Experiment) -> bool:
    """Whether the file has transforms or class weights of its own; looking at them takes seconds of imports."""
    from tunesearch.segmentation.config import CLASS_WEIGHTS

    weights = experiment.space["class_weights"].domain.representatives() if "class_weights" in experiment.space else []
    fixed = experiment.train.get("class_weights", "none")
    listed = not isinstance(experiment.train.get("augmentation", ""), str)
    return listed or any(value not in CLASS_WEIGHTS for value in [*weights, str(fixed)])


@spaces.command()
def schema() -> None:
    """Print the JSON Schema of search-space files, for editors."""
    import json

    from tunesearch.experiment import experiment_schema

    click.echo(json.dumps(experiment_schema(), indent=2))


class RandomTrial:
    """Draws what a space asks for, uniformly; an Optuna trial without Optuna."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.random.choice(choices)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        if log:
            return round(self._log_uniform(low, high))
        return self.random.randrange(low, high + 1, step)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if log:
            return self._log_uniform(low, high)
        if step is None:
            return self.random.uniform(low, high)
        return min(high, low + step * self.random.randint(0, round((high - low) / step)))

    def _log_uniform(self, low: float, high: float) -> float:
        from math import exp, log

        return min(high, max(low, exp(self.random.uniform(log(low), log(high)))))


def _print(experiment: Experiment) -> None:
    from random import Random

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from tunesearch.space import text

    def short(value: object) -> str:
        return escape(f"{value:.3g}" if isinstance(value, float) else text(value))

    console = Console(highlight=False)
    document = experiment.to_document()
    console.print(f"[bold]{experiment.name}[/bold]")
    if experiment.description:
        console.print(escape(experiment.description.strip()))

    searched = Table(box=None, title="searched", title_justify="left")
    for title in ("parameter", "domain", "when"):
        searched.add_column(title, overflow="fold")
    for row in experiment.space.describe():
        searched.add_row(*map(escape, row))
    console.print("", searched)

    fixed = Table(box=None, title="fixed", title_justify="left", show_header=False)
    fixed.add_column(no_wrap=True)
    fixed.add_column(overflow="fold")
    data = {name: value for name, value in document["data"].items() if name in experiment.data.model_fields_set}
    for section, content in (("train", experiment.train), ("data", data), ("search", document["search"])):
        for name, value in content.items():
            fixed.add_row(f"{section}.{name}", escape(text(value)))
    fixed.add_row("scheduler", escape(text(document["scheduler"])))
    fixed.add_row("objective", escape(text(document["objective"])))
    console.print("", fixed)

    if experiment.try_first or experiment.skipped_points:
        console.print("\ntried first")
    for point in experiment.try_first:
        console.print("  " + escape(text(point)))
    for index, reason in experiment.skipped_points:
        console.print(f"  [dim]point {index + 1} skipped: {escape(reason)}[/dim]")

    random = Random(0)
    points = [experiment.space(RandomTrial(random)) for _ in range(SAMPLES)]
    drawn = Table(box=None, title=f"{SAMPLES} configurations drawn at random", title_justify="left")
    drawn.add_column("parameter", no_wrap=True)
    for number in range(1, SAMPLES + 1):
        drawn.add_column(str(number), overflow="fold")
    for name in experiment.space.names:
        drawn.add_row(name, *(short(point[name]) if name in point else "" for point in points))
    console.print("", drawn)
