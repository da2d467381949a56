"""``tunesearch run``, ``resume`` and ``confirm``."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

import tunesearch
from tunesearch.api.options import ConfirmOptions, ResumeOptions, RunOptions
from tunesearch.cli import options
from tunesearch.errors import Halted, NoUsableTrial

if TYPE_CHECKING:
    from tunesearch.api.result import SearchResult


@click.command(context_settings={"show_default": False})
@click.argument("space")
@options.options_of(RunOptions)
@options.as_json
def run(space: str, as_json: bool, **given: Any) -> int:
    """Search SPACE, a shipped name or the path of a file, for the best configuration.

    \b
    tunesearch run voc_unet --smoke
    tunesearch run voc_unet --data ~/VOC2012 --size 256x256 --trials 64
    tunesearch run my_space.yaml --set 'parameters.encoder.choice=[resnet18]' --time-budget 8h
    """
    return _watch(partial(tunesearch.run, space), given, as_json=as_json)


@click.command()
@click.argument("name")
@options.options_of(ResumeOptions)
@options.as_json
def resume(name: str, as_json: bool, **given: Any) -> int:
    """Go on with the search NAME after an interruption, a crash or a spent time budget."""
    return _watch(partial(tunesearch.resume, name), given, as_json=as_json)


@click.command()
@click.argument("name")
@options.options_of(ConfirmOptions)
@options.as_json
def confirm(name: str, as_json: bool, **given: Any) -> int:
    """Repeat the best trials of NAME over seeds, name a winner where it holds, and test it once.

    \b
    Every repeat trains all its epochs. The winner is evaluated on the test part that was set aside when the search
    began. Killed or interrupted, the same command goes on; with more seeds it trains what is missing.
    """
    return _watch(partial(tunesearch.confirm, name), given, as_json=as_json, verb="confirm")


def _watch(search: Callable[..., SearchResult], given: dict[str, Any], *, as_json: bool, verb: str = "resume") -> int:
    """Call a verb that drives trials, show what happens and how it ended; gives the exit code."""
    from tunesearch.cli.live import view
    from tunesearch.cli.showing import print_result

    callback = view(to_stderr=as_json, confirming=verb == "confirm")
    storage: Path | None = given["storage"]
    ended: NoUsableTrial | Halted | None = None
    # SIGTERM is what a cluster's scheduler sends: it is Ctrl-C, also where no search runs yet or any more.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # What libraries print belongs to no machine that reads our JSON.
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            result = search(callback=callback, **options.written(given))
    except (NoUsableTrial, Halted) as error:
        if error.result is None:
            raise
        ended, result = error, cast("SearchResult", error.result)
    finally:
        callback.on_end()
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
