"""``tunesearch export``: from the best trial to a file."""

from __future__ import annotations

from pathlib import Path

import click

from tunesearch.cli import options


@click.command()
@click.argument("name")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="YAML file to write."
)
@click.option("--trial", type=click.IntRange(min=0), help="Its number [the best].")
@options.storage
def export(name: str, output: Path, trial: int | None, storage: Path | None) -> None:
    """Write the complete configuration of the best trial of NAME."""
    from tunesearch import api

    document = api.export(name, output, trial=trial, storage=storage)
    score = document["score"]
    value = "no score" if score["value"] is None else f"{score['objective']} {score['value']:.4f}"
    click.echo(f"{output}: trial {document['trial']} of {name} ({document['outcome']}, {value})")
