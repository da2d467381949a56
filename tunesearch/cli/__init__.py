"""The command line. Every command imports what it needs when it runs, so that ``--help`` is instant."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from tunesearch.cli import (
    comparing,
    data,
    exporting,
    fetch,
    leaderboard,
    models,
    predicting,
    reporting,
    running,
    service,
    showing,
    spaces,
    steering,
    training,
)
from tunesearch.errors import InputError, PicturesSkipped, TunesearchError
from tunesearch.version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="tunesearch")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Find the best training configuration for a semantic segmentation model.

    \b
    tunesearch run voc_unet --smoke     the whole path in minutes, on a built-in sample
    tunesearch run voc_unet --data DIR  search on your data
    tunesearch show NAME                what a search found
    tunesearch confirm NAME             does the best one hold? over seeds, then once on the test part
    tunesearch report NAME              all of it as one HTML file
    tunesearch export NAME -o best.yaml the best configuration, complete
    tunesearch train best.yaml          train it to the end

    \b
    Exit codes: 0 done; 1 the search ended with no usable trial; 2 bad input; 3 an unexpected fault;
    4 stopped by its surroundings, with the state saved; 130 interrupted, with the state saved.
    """


for command in (
    running.run,
    running.resume,
    running.confirm,
    service.submit,
    service.status,
    service.logs,
    steering.extend,
    steering.enqueue,
    steering.retry,
    steering.stop,
    showing.list_,
    showing.show,
    leaderboard.leaderboard,
    showing.ui,
    showing.sync,
    reporting.report,
    comparing.compare,
    exporting.export,
    training.train,
    predicting.evaluate,
    predicting.predict,
    predicting.ensemble,
    data.data,
    models.models,
    spaces.spaces,
):
    cli.add_command(command)
data.data.add_command(fetch.fetch)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; every error of ours is one clean message."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if debug:  # wherever it stands
        given = ["--debug", *(word for word in given if word != "--debug")]
    try:
        code = cli.main(given, prog_name="tunesearch", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except TunesearchError as error:
        if debug:
            raise
        _tell(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:  # a path that is not there or not ours, a full disk
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"error: {where}{error.strerror or error}", err=True)
        sys.exit(2)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, RuntimeError) and "home directory" in str(error):  # pathlib's, of ~somebody
            click.echo(f"error: a path begins with ~ and a name that no user has: {error}", err=True)
            sys.exit(2)
        click.echo(f"unexpected {type(error).__name__}: {error}\n--debug shows where; please report it", err=True)
        sys.exit(3)
    sys.exit(code if isinstance(code, int) else 0)


_PROBLEMS = 40
"""How many are told one by one: a wrong folder makes one of every file."""


def _tell(error: TunesearchError) -> None:
    if isinstance(error, InputError) and len(error.problems) > 1:
        click.echo(f"error: {len(error.problems)} problems", err=True)
        # Pictures that were skipped are named nowhere else.
        shown = error.problems if isinstance(error, PicturesSkipped) else error.problems[:_PROBLEMS]
        for problem in shown:
            click.echo(f"  {problem}", err=True)
        if len(error.problems) > len(shown):
            click.echo(f"  and {len(error.problems) - len(shown)} more (--debug tells all)", err=True)
    else:
        click.echo(f"error: {error}", err=True)
