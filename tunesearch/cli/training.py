"""``tunesearch train``: from a configuration to a model."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import click

import tunesearch
from tunesearch.api.options import TrainOptions
from tunesearch.cli import options
from tunesearch.errors import DiskFull, Halted


@click.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="MODEL_OR_CONFIG")
@options.options_of(TrainOptions)
@options.as_json
def train(source: Path, as_json: bool, **given: Any) -> int:
    """Train a model folder or an exported configuration to its end, into a model folder. Goes on where it was killed.

    \b
    tunesearch train best.yaml
    tunesearch train voc_model --data ~/data/VOC2012 -o again      the same files, and on a CPU the same curve
    tunesearch train voc_model --data ~/data/VOC2012 --on train+val --seeds 3
    tunesearch train best.yaml --workers 4                         on four GPUs
    """

    def on_epoch(metrics: Any) -> None:
        scores = "" if metrics.val_miou != metrics.val_miou else f"val_miou {metrics.val_miou:.4f}, "
        scores += "" if metrics.val_loss != metrics.val_loss else f"val_loss {metrics.val_loss:.4f}, "
        click.echo(
            f"epoch {metrics.epoch}: {scores}train_loss {metrics.train_loss:.4f}, "
            f"{metrics.images_per_second:.0f} images/s",
            err=as_json,
        )

    # SIGTERM is what a cluster's scheduler sends: it is Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        result = tunesearch.train(
            source,
            on_message=lambda text: click.echo(text, err=as_json),
            on_epoch=on_epoch,
            **options.written(given),
        )
    except KeyboardInterrupt:
        click.echo("interrupted; the last epoch is saved: the same command goes on from there", err=True)
        return 130
    except (DiskFull, Halted):
        click.echo("the last epoch is saved; once that is mended the same command goes on from there", err=True)
        raise
    if as_json:
        import json

        click.echo(json.dumps(result, indent=1))
    else:
        for training in result.get("trainings", [result]):
            _tell(training)
        if result.get("mean") is not None:
            deviation = "" if result["deviation"] is None else f", deviation {result['deviation']:.4f}"
            click.echo(f"{result['output']}: {result['metric']} mean {result['mean']:.4f}{deviation}")
    if result["outcome"] != "completed":
        click.echo(f"the training ended as {result['outcome']}", err=True)
        return 1
    return 0


def _tell(result: dict[str, Any]) -> None:
    """One line on one training."""
    if not result["weights"]:
        click.echo(f"{result['output']}: {result['outcome']}")
    elif result["best"]["val_miou"] is None:
        click.echo(f"{result['weights']}: epoch {result['best']['epoch']}, without a validation score")
    else:
        click.echo(f"{result['weights']}: val_miou {result['best']['val_miou']:.4f} at epoch {result['best']['epoch']}")
