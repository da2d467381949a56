"""``tunesearch report``: a search as one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

import tunesearch
from tunesearch.cli import options


@click.command()
@click.argument("name")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="HTML file [STORAGE/NAME/report.html]."
)
@options.storage
@options.tracking_uri
@options.as_json
def report(name: str, output: Path | None, storage: Path | None, tracking_uri: str | None, as_json: bool) -> None:
    """Write all that is known about the search NAME as one HTML file, which opens anywhere, also offline."""
    told = tunesearch.report(
        name, output, storage=storage, tracking_uri=tracking_uri, on_message=lambda text: click.echo(text, err=as_json)
    )
    if as_json:
        import json

        click.echo(json.dumps(told, indent=1))
        return
    for missing in told["missing"]:
        click.echo(f"not in it: {missing}")
    if told["mlflow"]:
        click.echo(f"note: MLflow does not have it ({told['mlflow']})")
    click.echo(f"{told['output']}: {told['bytes'] / 1e6:.1f} MB")
