"""``tunesearch export``: from the best trial to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import tunesearch
from tunesearch.api.options import ExportOptions
from tunesearch.cli import options


@click.command()
@click.argument("name")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder to make, or FILE.yaml for the bare configuration.",
)
@options.options_of(ExportOptions)
def export(name: str, output: Path, **given: Any) -> None:
    """Write the best network of the search NAME as a folder with everything to use, audit and train it again.

    \b
    tunesearch export voc -o model            weights, programs, model card, configuration, split
    tunesearch export voc -o best.yaml        the configuration alone
    """
    content = tunesearch.export(name, output, on_message=click.echo, **options.written(given))
    origin, score = content.get("origin", content), content["score"]
    value = "no score" if score["value"] is None else f"{score['objective']} {score['value']:.4f}"
    repeated = f", a repeat of trial {origin['confirms']}" if origin.get("confirms") is not None else ""
    click.echo(f"{output}: trial {origin['trial']} of {name}{repeated} ({origin['outcome']}, {value})")
    if "origin" in content and not content["confirmation"]:
        click.echo(f"      (unconfirmed; {output / 'README.md'} tells what it is and how to use it)")
