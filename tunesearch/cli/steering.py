"""``tunesearch extend``, ``enqueue``, ``retry`` and ``stop``: what a person asks of a search, also while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import tunesearch
from tunesearch.cli import options, service

_there = click.option(
    "--address", metavar="URL", help="Of the cluster that the search was sent to, http://HEAD:8265; storage is there."
)


class More(click.ParamType[int]):
    """``+20`` or ``20``: how many more."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).removeprefix("+")
        if not text.isdecimal() or not 0 < int(text) <= 1_000_000:
            self.fail(f"must be a number of further trials such as +20, but got {value!r}", param, ctx)
        return int(text)


@click.command()
@click.argument("name")
@click.option("--trials", "more", type=More(), required=True, metavar="+N", help="How many more.")
@options.storage
@_there
def extend(name: str, more: int, storage: Path | None, address: str | None) -> int:
    """Give the search NAME further trials, while it runs or before it is resumed.

    \b
    tunesearch extend voc --trials +20
    """
    if address is not None:
        return _on_cluster(address, ["extend", name, "--trials", f"+{more}"], storage)
    target, driven = tunesearch.extend(name, more, storage=storage)
    click.echo(f"{name} is to have {target} trials; {_when(name, driven, storage)}")
    return 0


@click.command()
@click.argument("name")
@click.argument("point", nargs=-1, required=True, metavar="PARAMETER=VALUE...")
@options.storage
@_there
def enqueue(name: str, point: tuple[str, ...], storage: Path | None, address: str | None) -> int:
    """Have the search NAME try a point, on top of its trials. What the point leaves open is sampled.

    \b
    tunesearch enqueue voc architecture=unet lr=0.003
    """
    if address is not None:
        return _on_cluster(address, ["enqueue", name, *point], storage)
    driven = tunesearch.enqueue(name, point, storage=storage)
    click.echo(f"{name} is to try {', '.join(point)}; {_when(name, driven, storage)}")
    return 0


@click.command()
@click.argument("name")
@click.option("--failed", is_flag=True, help="Every trial that failed or was lost.")
@click.option("--trial", "trials", type=click.IntRange(min=0), multiple=True, help="This one; repeatable.")
@options.storage
@_there
def retry(name: str, failed: bool, trials: tuple[int, ...], storage: Path | None, address: str | None) -> int:
    """Have trials of the search NAME trained again, as new trials of the same configuration.

    \b
    tunesearch retry voc --failed
    """
    if not failed and not trials:
        raise click.UsageError("say which: --failed, or --trial N")
    if address is not None:
        chosen = [*(["--failed"] if failed else []), *(f"--trial={number}" for number in trials)]
        return _on_cluster(address, ["retry", name, *chosen], storage)
    numbers, driven = tunesearch.retry(name, failed=failed, trials=trials, storage=storage)
    if not numbers:
        click.echo(f"{name} has nothing to retry")
        return 0
    told = f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
    click.echo(f"{name} is to train {told} again; {_when(name, driven, storage)}")
    return 0


@click.command()
@click.argument("name")
@click.option("--trial", type=click.IntRange(min=0), help="Only this trial, at its next epoch.")
@options.storage
@_there
def stop(name: str, trial: int | None, storage: Path | None, address: str | None) -> int:
    """Stop the search NAME with its state saved, as Ctrl-C does; tunesearch resume goes on.

    \b
    tunesearch stop voc
    tunesearch stop voc --trial 7
    """
    if address is not None and trial is not None:
        return _on_cluster(address, ["stop", name, "--trial", str(trial)], storage)
    if address is not None:
        from tunesearch.engine import jobs

        job = jobs.stop(service.reach(address), name)
        click.echo(f"{name}: {job.status.lower()}; tunesearch submit {name} --resume goes on with it")
        return 0
    tunesearch.stop(name, trial=trial, storage=storage)
    if trial is None:
        click.echo(f"{name} stops within seconds; tunesearch resume {name}{_where(storage)} goes on with it")
    else:
        click.echo(f"trial {trial} of {name} ends at its next epoch, as cancelled")
    return 0


def _on_cluster(address: str, arguments: list[str], storage: Path | None) -> int:
    """Have a command run where the search's storage is; gives its exit code."""
    from tunesearch.engine import jobs

    there = ["--storage", str(storage)] if storage else []
    code, output = jobs.call(service.reach(address), [*arguments, *there])
    click.echo(output.rstrip(), err=code != 0)
    return code


def _where(storage: Path | None) -> str:
    return f" --storage {storage}" if storage else ""


def _when(name: str, driven: bool, storage: Path | None) -> str:
    if driven:
        return "the running search takes it up within seconds"
    return f"tunesearch resume {name}{_where(storage)} takes it up"
