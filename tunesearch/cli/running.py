"""``tunesearch run``, ``resume`` and ``confirm``."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from typing import Any

import click

import tunesearch
from tunesearch.cli import options
from tunesearch.errors import Halted, NoUsableTrial


@click.command(context_settings={"show_default": False})
@click.argument("space")
@options.data
@click.option("--trials", type=click.IntRange(min=1), help="How many trials.")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs of a full training.")
@click.option("--size", metavar="WxH", help="Image size in pixels, width first, such as 256x192.")
@options.time_budget
@click.option("--name", help="Name of the search [the space's name and the time].")
@options.tracking
@options.address
@click.option("--gpus-per-trial", type=click.FloatRange(min=0), help="May be a fraction [1 where there are GPUs].")
@click.option("--cpus-per-trial", type=click.IntRange(min=1), help="[planned from what there is]")
@options.max_concurrent
@click.option("--sampler", type=click.Choice(["tpe", "random", "grid", "gp", "cmaes"]), help="Who proposes trials.")
@options.encoder_weights
@click.option(
    "--seed", type=click.IntRange(min=0, max=2**32 - 1), help="Of the search and, with its number, of each trial."
)
@click.option("--set", "overrides", metavar="PATH=YAML", multiple=True, help="Change anything in the file; repeatable.")
@click.option("--local", is_flag=True, help="Always a private Ray on this machine, with its one GPU or its CPUs.")
@click.option("--smoke", is_flag=True, help="Small and short, on the built-in sample data.")
@click.option(
    "--ledger",
    "ledger_url",
    metavar="URL",
    help="PostgreSQL for the ledger, postgresql://USER@HOST/DATABASE [$TUNESEARCH_LEDGER, else SQLite in the storage].",
)
@click.option(
    "--keep-checkpoints",
    type=options.Kept(),
    metavar="all|best:N",
    help="Completed trials that keep their weights [all].",
)
@click.option(
    "--stall-timeout", type=options.Duration(), help="Start a trial without a sign of life again after [30m]."
)
@click.option(
    "--warm-start",
    metavar="NAME",
    multiple=True,
    help="Search of the storage whose trials the sampler is told, as far as they fit; repeatable.",
)
@click.option("--system-metrics", is_flag=True, help="Log this machine's load to MLflow.")
@options.storage
@options.as_json
def run(space: str, as_json: bool, **given: Any) -> int:
    """Search SPACE, a shipped name or the path of a file, for the best configuration.

    \b
    tunesearch run voc_unet --smoke
    tunesearch run voc_unet --data ~/VOC2012 --size 256x256 --trials 64
    tunesearch run my_space.yaml --set 'parameters.encoder.choice=[resnet18]' --time-budget 8h
    """
    given["tracking"] = given.pop("tracking_uri")
    return _watch(lambda progress: tunesearch.run(space, progress=progress, **given), given["storage"], as_json=as_json)


@click.command()
@click.argument("name")
@options.time_budget
@options.address
@options.max_concurrent
@options.keep_checkpoints
@options.stall_timeout
@options.storage
@options.as_json
def resume(name: str, as_json: bool, **given: Any) -> int:
    """Go on with the search NAME after an interruption, a crash or a spent time budget."""
    return _watch(
        lambda progress: tunesearch.resume(name, progress=progress, **given), given["storage"], as_json=as_json
    )


@click.command()
@click.argument("name")
@click.option(
    "--top", type=click.IntRange(min=1), default=3, help="How many of the completed trials, the best ones [3]."
)
@click.option("--seeds", type=click.IntRange(min=2), default=5, help="How often each is trained [5].")
@options.address
@options.max_concurrent
@options.storage
@options.as_json
def confirm(name: str, as_json: bool, **given: Any) -> int:
    """Repeat the best trials of NAME over seeds, name a winner where it holds, and test it once.

    \b
    Every repeat trains all its epochs. The winner is evaluated on the test part that was set aside when the search
    began. Killed or interrupted, the same command goes on; with more seeds it trains what is missing.
    """
    return _watch(
        lambda progress: tunesearch.confirm(name, progress=progress, **given),
        given["storage"],
        as_json=as_json,
        verb="confirm",
    )


def _watch(search: Any, storage: Path | None, *, as_json: bool, verb: str = "resume") -> int:
    from tunesearch.cli.live import view
    from tunesearch.cli.showing import print_result

    progress = view(to_stderr=as_json, confirming=verb == "confirm")
    ended: NoUsableTrial | Halted | None = None
    # SIGTERM is what a cluster's scheduler sends: it is Ctrl-C, also where no search runs yet or any more.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # What libraries print belongs to no machine that reads our JSON.
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            result = search(progress)
    except (NoUsableTrial, Halted) as error:
        if error.result is None:
            raise
        ended, result = error, error.result
    finally:
        progress.ended()
    if as_json:
        import json

        click.echo(json.dumps(result.as_dict(), indent=1))
    else:
        print_result(result, storage)
    flags = f" {result.confirmation.flags}" if verb == "confirm" and result.confirmation is not None else ""
    saved = f"tunesearch {verb} {result.name}{flags}{f' --storage {storage}' if storage else ''}"
    if ended is not None:
        if result.status == "interrupted":
            click.echo(f"everything is saved; once that is mended: {saved}", err=True)
        raise ended
    if result.status == "interrupted":
        click.echo(f"interrupted; everything is saved: {saved}", err=True)
        return 130
    return 0
