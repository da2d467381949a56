"""``tunesearch data check``: is a data set what the search space says it is?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tunesearch.cli import options


@click.group()
def data() -> None:
    """Fetch a data set, and look at one before searching."""


@data.command()
@click.argument("space")
@options.data
@click.option("--set", "overrides", metavar="PATH=YAML", multiple=True, help="Change anything in the file; repeatable.")
@click.option("--smoke", is_flag=True, help="The built-in sample data.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("data_check.png"),
    help="Picture of samples with overlays [data_check.png].",
)
@options.as_json
def check(space: str, data: Path | None, overrides: tuple[str, ...], smoke: bool, output: Path, as_json: bool) -> None:
    """Check the data set of SPACE: partners, sizes, labels, colours, splits; print classes, weights; save a picture."""
    from tunesearch.api.places import code_folder
    from tunesearch.experiment import load_experiment
    from tunesearch.segmentation.data.checks import check_data
    from tunesearch.segmentation.data.overlay import sample_picture
    from tunesearch.segmentation.data.splits import freeze_split
    from tunesearch.segmentation.files import write_atomic
    from tunesearch.segmentation.user_code import find_user_code

    experiment = load_experiment(space, overrides=overrides, smoke=smoke, data_root=data)
    find_user_code(str(code_folder(space)))  # for a layout of the user's own
    report = check_data(experiment.data)
    if not any(part.images for part in report.parts.values()):
        report.raise_if_broken()  # a table of zeros would say nothing
    if as_json:
        import json

        click.echo(json.dumps(_as_dict(report), indent=1))
    else:
        _print(report, sample=experiment.data.layout == "sample")
    report.raise_if_broken()
    picture = sample_picture(experiment.data, freeze_split(experiment.data))
    write_atomic(output, lambda path: picture.save(path, format="PNG"))
    click.echo(f"samples with overlays: {output}", err=as_json)


def _as_dict(report: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "classes": [spec.name for spec in report.classes],
        "parts": {name: asdict(part) for name, part in report.parts.items()},
        "class_weights": report.class_weights,
        "problems": [str(problem) for problem in report.problems],
        "warnings": list(report.warnings),
    }


def _print(report: Any, *, sample: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    if sample:
        console.print(Text("the built-in SAMPLE of generated scenes, not real data"))
    table = Table("class", *(f"{name} {what}" for name in report.parts for what in ("images", "% of pixels")))
    for index, spec in enumerate(report.classes):
        cells = []
        for part in report.parts.values():
            labelled = sum(part.pixels) or 1
            has = index < len(part.pixels)
            cells += [
                str(part.images_with[index]) if has else "-",
                f"{100 * part.pixels[index] / labelled:.2f}" if has else "-",
            ]
        table.add_row(f"{index} {spec.name}", *cells)
    console.print(table)
    for name, part in report.parts.items():
        if part.images:
            void = 100 * part.void / ((sum(part.pixels) + part.void) or 1)
            sizes = f"{part.smallest[0]}x{part.smallest[1]} to {part.largest[0]}x{part.largest[1]}"
            console.print(Text(f"{name}: {part.images} images, {sizes}, {void:.2f} % void"))
    if report.class_weights:
        where = "of the whole training part at original resolution; a trial measures them at its own size"
        console.print(Text(f"class weights {where}"))
        weights = Table("class", *report.class_weights)
        for index, spec in enumerate(report.classes):
            values = (kind[index] for kind in report.class_weights.values())
            weights.add_row(f"{index} {spec.name}", *(f"{value:.4g}" for value in values))
        console.print(weights)
    for warning in report.warnings:
        console.print(Text(f"warning: {warning}"))
    if not report.problems:
        console.print(Text("no problems found"))
