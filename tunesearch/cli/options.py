"""Options that several commands share, and types of values that people write."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Duration(click.ParamType[float]):
    """``90s``, ``30m``, ``1h30m``, ``2d``: seconds as a float."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        if not re.fullmatch(r"(\d+(\.\d+)?[smhd])+", value):
            self.fail(f"must be a time such as 90s, 30m, 1h30m or 2d, but got {value!r}", param, ctx)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)([smhd])", value))
        if seconds <= 0:
            self.fail(f"must be more than nothing, but got {value!r}", param, ctx)
        return seconds


class Kept(click.ParamType[int | None]):
    """``all`` or ``best:5``: how many completed trials keep their weights; None for all."""

    name = "kept"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value == "all":
            return None
        number = str(value).removeprefix("best:")
        if not number.isdecimal() or not 0 < int(number) <= 1_000_000 or number == value:
            self.fail(f"must be all or best:N, such as best:5, but got {value!r}", param, ctx)
        return int(number)


storage = click.option(
    "--storage",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of all searches [$TUNESEARCH_STORAGE, else ./runs].",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Machine output alone on stdout.")
tracking = click.option("--tracking-uri", help="MLflow's [$MLFLOW_TRACKING_URI, else SQLite in the storage folder].")
encoder_weights = click.option(
    "--encoder-weights",
    type=click.Path(path_type=Path),
    help="File, or folder of ENCODER.pth|.safetensors, that ImageNet weights are read from [downloaded].",
)
data = click.option("--data", type=click.Path(path_type=Path), help="Root of the data set, instead of the file's.")
address = click.option(
    "--address", help="Ray cluster: local, auto or an address [$RAY_ADDRESS, else a private Ray on this machine]."
)
max_concurrent = click.option("--max-concurrent", type=click.IntRange(min=1), help="Trials at once [what fits].")
time_budget = click.option("--time-budget", type=Duration(), help="End the search after 90s, 30m, 1h30m ...")
keep_checkpoints = click.option(
    "--keep-checkpoints",
    type=Kept(),
    metavar="all|best:N",
    help="Completed trials that keep their weights [all].",
)
stall_timeout = click.option(
    "--stall-timeout", type=Duration(), help="Restart a trial without a sign of life after [30m]."
)
