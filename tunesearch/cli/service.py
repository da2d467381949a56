"""``tunesearch submit``, ``status`` and ``logs``: searches on a cluster, from anywhere."""

from __future__ import annotations

import copy
import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tunesearch.cli import options, running
from tunesearch.errors import InputError, Problem

if TYPE_CHECKING:
    from tunesearch.engine.jobs import Job
    from tunesearch.experiment import Experiment

_HERE = ("address", "local", "as_json", "name")
"""Options of ``run`` and ``resume`` that a job is not given as they are."""

_WRITTEN = "tunesearch.written"

api = click.option(
    "--address", metavar="URL", help="Of the head's dashboard, http://HEAD:8265 [$RAY_API_SERVER_ADDRESS]."
)


def reach(address: str | None) -> str:
    """The address of a cluster's Jobs API, checked; says what is risky about it.

    Raises:
        InputError: there is none, or it is no such address.
    """
    from tunesearch.engine import jobs_api

    found = jobs_api.api_address(address)
    if risk := jobs_api.exposure(found):
        click.echo(f"warning: {risk}", err=True)
    return found


class Written(click.Command):
    """A command that also keeps its options as they were written, to pass them on."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_WRITTEN] = self.make_parser(ctx).parse_args(list(args))[0]
        return super().parse_args(ctx, args)


@click.command(cls=Written, context_settings={"show_default": False})
@click.argument("space")
@api
@click.option("--name", help="Name of the search [the space's name and the time].")
@click.option("--resume", is_flag=True, help="SPACE is the name of a search on the cluster to go on with.")
@click.option(
    "--code",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="With --resume: folder of the search's own modules here, to be sent again.",
)
@options.as_json
def submit(
    space: str, address: str | None, name: str | None, resume: bool, code: Path | None, as_json: bool, **given: Any
) -> None:
    """Send the search of SPACE to a cluster and return at once; it runs there whatever becomes of this machine.

    SPACE is a shipped name or a file; modules of your own that it names are sent along from its folder. --data,
    --storage and --encoder-weights are paths on the cluster. Every other option is that of `tunesearch run`, or with
    --resume that of `tunesearch resume`.

    \b
    tunesearch submit voc_unet --address http://HEAD:8265 --data /mnt/VOC2012 --storage /mnt/runs
    tunesearch submit NAME --resume --storage /mnt/runs
    """
    if resume and name is not None:
        raise click.UsageError("--name cannot be given with --resume, where SPACE is the name")
    if code is not None and not resume:
        raise click.UsageError("--code is for --resume; else a search space's own modules lie beside it")
    arguments = _arguments(running.resume if resume else running.run)
    experiment = None if resume else _checked(space, given)
    from tunesearch.engine import jobs
    from tunesearch.ledger.names import check_name

    if experiment is None:
        name = space
        check_name(name)
        url = reach(address)
        job = jobs.submit(url, ["resume", name, *arguments, "--address", "auto"], name=name, working_dir=code)
    else:
        name = name or f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        check_name(name)
        url = reach(address)
        with _sent_along(space, experiment) as (there, folder):
            command = ["run", there, *arguments, "--address", "auto", "--name", name]
            job = jobs.submit(url, command, name=name, working_dir=folder)
    if as_json:
        click.echo(json.dumps({"name": name, "job": job, "address": url}, indent=1))
        return
    click.echo(f"{name} was sent to {url}")
    for verb, what in (
        (f"logs {name} -f", "follow it"),
        (f"status {name}", "how far"),
        (f"stop {name}", "save and end"),
    ):
        click.echo(f"  tunesearch {verb} --address {url}  # {what}")


def _adopt() -> None:
    """Give ``submit`` the options of ``run`` and ``resume``, with paths taken as the cluster's."""
    for option in (*running.run.params, *running.resume.params):
        if isinstance(option, click.Option) and option.name not in {*_HERE, *(known.name for known in submit.params)}:
            option = copy.copy(option)
            if isinstance(option.type, click.Path):
                option.type = ClusterPath()
                option.help = f"ON THE CLUSTER: {option.help}".replace(", else ./runs", " there")
            submit.params.append(option)


class ClusterPath(click.ParamType[str]):
    """A path on the cluster: absolute, or in the home folder there."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not str(value).startswith(("/", "~")):
            self.fail(f"must be an absolute path on the cluster, but got {value!r}", param, ctx)
        return str(value)


_adopt()


def _arguments(command: click.Command) -> list[str]:
    """What was given to ``submit``, as it was written, as arguments of the command that the job runs."""
    known = {option.name for option in command.params}
    arguments: list[str] = []
    written: dict[str, Any] = click.get_current_context().meta[_WRITTEN]
    for option in submit.params:
        own = option.name in {*_HERE, "resume", "code"}
        if own or not isinstance(option, click.Option) or option.name not in written:
            continue
        flag = option.opts[0]
        if option.name not in known:
            how = "with" if command is running.resume else "without"
            raise click.UsageError(f"{flag} cannot be given {how} --resume")
        if option.is_flag:
            arguments.append(flag)
            continue
        given = written[option.name]
        for value in given if option.multiple else [given]:
            _require_no_password(flag, value)
            arguments += [flag, value]
    return arguments


def _require_no_password(flag: str, value: str) -> None:
    """Everybody who may use a cluster reads the commands of its jobs.

    Raises:
        InputError: a URL with a password.
    """
    if re.search(r"://[^@\s]*:[^@\s]*@", value):
        hint = "give it to Ray on the head as a variable, such as MLFLOW_TRACKING_PASSWORD or PGPASSFILE"
        raise InputError(Problem(flag, "must have no password in it: a job's command is no secret", hint=hint))


def _checked(space: str, given: dict[str, Any]) -> Experiment:
    """The experiment as the job will read it, without a look at data.

    Raises:
        InputError: every problem of the space and of the options that change it.
    """
    from tunesearch.experiment import load_flagged

    names = ("trials", "epochs", "size", "sampler", "seed", "overrides", "smoke", "data")
    experiment = load_flagged(space, **{name: given[name] for name in names})
    if given["warm_start"]:
        from tunesearch.strategy.warm_start import require_heeding

        require_heeding(experiment, [])
    if experiment.data.layout != "sample" and given["data"] is None:
        _require_absolute_root(space, given["overrides"])
    return experiment


def _require_absolute_root(space: str, overrides: tuple[str, ...]) -> None:
    from tunesearch.experiment import shipped_spaces
    from tunesearch.experiment.document import read_document, read_overrides

    document, _ = read_document(shipped_spaces().get(space, Path(space)))
    for dotted, value in read_overrides(overrides)[0]:
        document.change(dotted.split("."), value, where=f"--set {dotted}")
    root = document.section("data").get("root")
    if root is not None and not str(root).startswith(("/", "~")):
        where = document.where("data.root")
        raise InputError(Problem(where, "must be an absolute path on the cluster", path="data.root", value=str(root)))


@contextmanager
def _sent_along(space: str, experiment: Experiment) -> Iterator[tuple[str, Path | None]]:
    """What the job is to call the space, and the folder that it needs for that; None: it needs nothing.

    The folder of the space is sent only where it holds modules that the space names: it may be somebody's home.
    """
    from tunesearch.experiment import shipped_spaces
    from tunesearch.segmentation.config import IMPORT_PATH

    shipped = space in shipped_spaces()
    folder = Path.cwd() if shipped else Path(space).resolve().parent
    named = [experiment.data.layout, *experiment.possible("architecture"), *experiment.possible("loss")]
    packages = {str(value).partition(":")[0].partition(".")[0] for value in named if IMPORT_PATH.match(str(value))}
    if any((folder / package).is_dir() or (folder / f"{package}.py").is_file() for package in packages):
        yield space if shipped else Path(space).name, folder
    elif shipped:
        yield space, None
    else:
        with tempfile.TemporaryDirectory(prefix="tunesearch-") as alone:
            shutil.copy(space, alone)
            yield Path(space).name, Path(alone)


@click.command()
@click.argument("name", required=False)
@api
@options.as_json
def status(name: str | None, address: str | None, as_json: bool) -> None:
    """Show the searches that were sent to a cluster, or every session of the search NAME."""
    from tunesearch.engine import jobs

    found = jobs.states(reach(address), name)
    if name is None:
        found = list({job.name: job for job in found}.values())
    if as_json:
        from dataclasses import asdict

        click.echo(json.dumps([asdict(job) for job in found], indent=1))
    elif not found:
        click.echo("no search was sent to this cluster")
    else:
        _print(found)


def _print(found: list[Job]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for title in ("search", "status", "since", "last heard"):
        table.add_column(title, overflow="fold")
    for job in found:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.since))
        heard = "; ".join(dict.fromkeys(filter(None, (job.message, job.progress if job.status != "failed" else ""))))
        table.add_row(Text(job.name), job.status, since, Text(heard))
    console.print(table)


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on until the search ends.")
@api
def logs(name: str, follow: bool, address: str | None) -> int:
    """Print what the search NAME on a cluster has written. Ctrl-C ends the printing only."""
    from tunesearch.engine import jobs

    url = reach(address)
    try:
        for piece in jobs.logs(url, name, follow=follow):
            click.echo(piece, nl=False)
    except KeyboardInterrupt:
        click.echo(f"\n{name} goes on; tunesearch stop {name} --address {url} ends it", err=True)
        return 130
    return 0
