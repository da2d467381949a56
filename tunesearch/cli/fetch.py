"""``tunesearch data fetch``: a public data set onto this machine."""

from __future__ import annotations

from pathlib import Path

import click

SPACES = {"voc2007": "voc2007_transfer", "voc2012": "voc_unet"}
"""A search space to begin with, by data set."""


@click.command()
@click.argument("name")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("~/data"),
    help="Folder that VOCdevkit comes into [~/data].",
)
def fetch(name: str, root: Path) -> None:
    """Download the data set NAME: voc2012 or voc2007 (PASCAL VOC), from its publisher.

    An interrupted download goes on when the command is given again. Nothing is extracted before its checksum is right.
    """
    import shlex

    from tunesearch.segmentation.data.fetch import fetch as fetch_data

    with _view() as view:
        folder = fetch_data(name, root, log=view.log, progress=view.progress)
    click.echo(f"{name}: {folder}")
    given = f"{SPACES[name]} --data {shlex.quote(str(folder))}"
    click.echo(f"next: tunesearch data check {given}\n      tunesearch run {given}")


class _Lines:
    """A line for whatever happens, and for every tenth of a download; for logs and pipes. All of it on stderr."""

    def __init__(self) -> None:
        self.tenths: dict[str, int] = {}

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def log(self, text: str) -> None:
        click.echo(text, err=True)

    def progress(self, what: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if tenth > self.tenths.get(what, 0):
            self.log(f"{what}: {10 * tenth} %")
        self.tenths[what] = tenth


class _Bar(_Lines):
    """A bar with speed and time to go, in a terminal."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TaskID,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Bar:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def log(self, text: str) -> None:
        self.bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def progress(self, what: str, done: int, total: int) -> None:
        if what not in self.tasks:  # what came earlier is not part of the speed
            self.tasks[what] = self.bar.add_task(what, total=total, completed=done)
        self.bar.update(self.tasks[what], completed=done, total=total)


def _view() -> _Lines:
    import sys

    return _Bar() if sys.stderr.isatty() else _Lines()
