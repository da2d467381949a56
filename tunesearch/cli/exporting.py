"""``tunesearch export``: from the best trial to a file."""

from __future__ import annotations

from pathlib import Path

import click

import tunesearch
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
@click.option(
    "--trial", type=click.IntRange(min=0), help="Its number [the best; once confirmed, the leader's best repeat]."
)
@click.option(
    "--register", metavar="MODEL", help="Make the folder the next version of MODEL in MLflow's registry, too."
)
@options.tracking
@options.storage
def export(
    name: str,
    output: Path,
    trial: int | None,
    register: str | None,
    tracking_uri: str | None,
    storage: Path | None,
) -> None:
    """Write the best network of the search NAME as a folder with everything to use, audit and train it again.

    \b
    tunesearch export voc -o model            weights, programs, model card, configuration, split
    tunesearch export voc -o best.yaml        the configuration alone
    """
    content = tunesearch.export(
        name, output, trial=trial, register=register, tracking=tracking_uri, storage=storage, said=click.echo
    )
    origin, score = content.get("origin", content), content["score"]
    value = "no score" if score["value"] is None else f"{score['objective']} {score['value']:.4f}"
    repeated = f", a repeat of trial {origin['confirms']}" if origin.get("confirms") is not None else ""
    click.echo(f"{output}: trial {origin['trial']} of {name}{repeated} ({origin['outcome']}, {value})")
    if "origin" in content and not content["confirmation"]:
        click.echo(f"      (unconfirmed; {output / 'README.md'} tells what it is and how to use it)")
