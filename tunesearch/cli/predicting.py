"""``tunesearch predict``, ``evaluate`` and ``ensemble``: using trained models."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import tunesearch
from tunesearch.api.options import EnsembleOptions, EvaluateOptions, PredictOptions
from tunesearch.cli import options

if TYPE_CHECKING:
    from tunesearch.production.evaluation.result import Evaluation

_models = click.argument("models", nargs=-1, required=True, metavar="MODEL...")
_tiles = click.option(
    "--tiles", is_flag=True, help="See each picture in windows of the trained size, not resized to that size."
)
_scale = click.option("--scale", type=float, help="With --tiles: resize pictures by this factor before [1].")


@click.command()
@_models
@click.argument("images", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of masks."
)
@options.options_of(PredictOptions)
@_tiles
@_scale
def predict(models: tuple[str, ...], images: Path, output: Path, **given: Any) -> None:
    """Write a mask for IMAGES, a picture or a folder of them, by one MODEL or the mean of several.

    A MODEL is a model folder or the name of a search: its best trial or, once confirmed, the leader's best repeat.

    \b
    tunesearch predict voc ~/pictures -o masks
    tunesearch predict voc_model seed1 seed2 field.jpg -o masks --tiles --overlay
    """
    with _bar("pictures") as bar:
        on_message = (lambda text: None) if bar else click.echo  # a bar says enough
        told: dict[str, Any] = {"on_message": on_message, "on_progress": bar}
        masks = tunesearch.predict(models, images, output, **told, **_windows(given))
    click.echo(f"{len(masks)} masks in {output}")


@click.command()
@_models
@options.options_of(EvaluateOptions)
@_tiles
@_scale
@options.as_json
def evaluate(models: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Measure one MODEL, or several that predict together, on labelled pictures at their own size.

    A MODEL is a model folder or the name of a search: its best trial or, once confirmed, the leader's best repeat.

    \b
    tunesearch evaluate voc --split test -o voc_test
    tunesearch evaluate voc_model --images field/images --masks field/masks --json
    """
    with _bar("images") as bar:
        evaluation = tunesearch.evaluate(models, on_message=_on_stderr, on_progress=bar, **_windows(given))
    if as_json:
        import json

        click.echo(json.dumps(evaluation.as_dict(), indent=1))
    else:
        _print(evaluation)
    if given["output"]:
        click.echo(f"tables and pictures in {given['output']}", err=as_json)


@click.command()
@_models
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of it.")
@options.options_of(EnsembleOptions)
@_tiles
@_scale
def ensemble(models: tuple[str, ...], output: Path, **given: Any) -> None:
    """Fit how much each MODEL counts, on the validation part: what --stack takes.

    Scores on the validation part are optimistic then; compare with the plain mean on the test part.

    \b
    tunesearch ensemble a b c -o abc
    tunesearch predict a b c pictures -o masks --stack abc
    """
    with _bar("images") as bar:
        content = tunesearch.ensemble(models, output, on_message=_on_stderr, on_progress=bar, **_windows(given))
    entropy = content["cross_entropy"]
    for name, weight in zip(content["models"], content["weights"], strict=True):
        click.echo(f"{name}: weight {weight:.3f} of its log-probabilities")
    click.echo(
        f"{output}: cross-entropy {entropy['fitted']:.4f} on {content['images']} validation images, "
        f"{entropy['equal_weights']:.4f} with equal weights"
    )


def _windows(given: dict[str, Any]) -> dict[str, Any]:
    """``--tiles`` and ``--scale`` as one: a factor, or None for pictures as a whole."""
    tiles, scale = given.pop("tiles"), given.pop("scale")
    if scale is not None and not tiles:
        raise click.UsageError("--scale only has a meaning with --tiles")
    return {**options.written(given), "scale": (1.0 if scale is None else scale) if tiles else None}


def _on_stderr(text: str) -> None:
    click.echo(text, err=True)


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on stderr, told (done, total); None where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _print(evaluation: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)

    def shown(value: float | None) -> str:
        return "absent" if value is None else f"{value:.4f}"

    title = f"{' + '.join(evaluation.models)} on {evaluation.what}: {len(evaluation.images)} images at their own size"
    table = Table("class", "IoU", "Dice", "accuracy", "pixels", title=Text(title), title_justify="left")
    for row in evaluation.per_class():
        table.add_row(
            Text(row["name"]), *(shown(row[key]) for key in ("iou", "dice", "accuracy")), f"{row['pixels']:,}"
        )
    console.print(table)
    told = evaluation.as_dict()
    console.print(
        f"mean IoU {told['miou']:.4f} (without background {told['miou_no_background']:.4f}), Dice {told['dice']:.4f}, "
        f"pixel accuracy {told['pixel_accuracy']:.4f}, mean class accuracy {told['mean_class_accuracy']:.4f}",
        highlight=False,
    )
    mious = dict(evaluation.images)
    for kind, names in evaluation.chosen(1).items():
        console.print(Text(f"{kind}: {', '.join(f'{name} ({mious[name]:.3f})' for name in names)}"))
