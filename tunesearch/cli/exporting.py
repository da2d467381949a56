"""``tunesearch export``, ``predict`` and ``train``: from the best trial to production."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

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
@click.option("--trial", type=click.IntRange(min=0), help="Its number [the confirmed winner, else the best].")
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
    from tunesearch import api

    content = api.export(
        name, output, trial=trial, register=register, tracking=tracking_uri, storage=storage, said=click.echo
    )
    origin, score = content.get("origin", content), content["score"]
    value = "no score" if score["value"] is None else f"{score['objective']} {score['value']:.4f}"
    click.echo(f"{output}: trial {origin['trial']} of {name} ({origin['outcome']}, {value})")
    if "origin" in content and not content["confirmation"]:
        click.echo(f"      (unconfirmed; {output / 'README.md'} tells what it is and how to use it)")


@click.command()
@click.argument("name")
@click.argument("images", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of masks."
)
@click.option("--trial", type=click.IntRange(min=0), help="Its number [the best].")
@options.storage
def predict(name: str, images: Path, output: Path, trial: int | None, storage: Path | None) -> None:
    """Write a mask for IMAGES, a picture or a folder of them, by the network of the best trial of NAME."""
    from tunesearch import api

    written = api.predict(name, images, output, trial=trial, storage=storage, said=click.echo)
    click.echo(f"{len(written)} masks in {output}")


@click.command()
@click.argument("configuration", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder [STORAGE/trained/FILE].")
@options.data
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the configuration's.")
@click.option("--seed", type=click.IntRange(min=0, max=2**32 - 1), help="Instead of the configuration's.")
@options.encoder_weights
@options.tracking
@options.storage
@options.as_json
def train(configuration: Path, as_json: bool, **given: Any) -> int:
    """Train an exported CONFIGURATION to its end and save its weights. Goes on where it was killed."""
    from tunesearch import api

    def epoch_done(metrics: Any) -> None:
        click.echo(
            f"epoch {metrics.epoch}: val_miou {metrics.val_miou:.4f}, val_loss {metrics.val_loss:.4f}, "
            f"train_loss {metrics.train_loss:.4f}, {metrics.images_per_second:.0f} images/s",
            err=as_json,
        )

    given["tracking"] = given.pop("tracking_uri")
    result = api.train(configuration, said=lambda text: click.echo(text, err=as_json), epoch_done=epoch_done, **given)
    if as_json:
        import json

        click.echo(json.dumps(result, indent=1))
    elif result["weights"]:
        best = result["best"]
        click.echo(f"{result['weights']}: val_miou {best['val_miou']:.4f} at epoch {best['epoch']}")
    if result["outcome"] != "completed":
        click.echo(f"the training ended as {result['outcome']}", err=True)
        return 1
    return 0
