"""The options of every verb that has more than a handful: flags of the command line and arguments in Python at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tunesearch.engine.options import (
    ADDRESS,
    ENCODER_WEIGHTS,
    KEEP_CHECKPOINTS,
    MAX_CONCURRENT,
    STALL_TIMEOUT,
    TIME_BUDGET,
    TRACKING_URI,
    SearchOptions,
)
from tunesearch.options import Flag, field

if TYPE_CHECKING:
    from tunesearch.engine.callback import SearchCallback
    from tunesearch.segmentation.epoch import EpochMetrics

STORAGE = Flag("Folder of all searches [$TUNESEARCH_STORAGE, else ./runs].", kind="folder")
DATA = Flag("Root of the data set, instead of the file's.", kind="path")
DATA_NOW = Flag("Where the data set lies now.", kind="path")
TRIAL = Flag("Of a search, instead of its best; once confirmed, instead of the leader's best repeat.", least=0)
STACK = Flag("What tunesearch ensemble wrote for these models [their mean].", kind="path")
FLIP = Flag("Average over each picture and its mirror image.")
CALLBACK = "told what happens."
ON_MESSAGE = "told what is worth knowing."
ON_PROGRESS = "told how many of how many pictures are done."
SCALE = "see pictures in windows of the trained size, resized by this factor before; None: as in validation."


def silent(text: str) -> None:
    """Nobody is told."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(SearchOptions):
    """Of ``run``."""

    data: str | Path | None = field(DATA)
    trials: int | None = field(Flag("How many trials.", least=1))
    epochs: int | None = field(Flag("Epochs of a full training.", least=1))
    size: str | None = field(Flag("Image size in pixels, width first, such as 256x192.", metavar="WxH"))
    name: str | None = field(Flag("Name of the search [the space's name and the time]."))
    sampler: str | None = field(Flag("Who proposes trials.", among=("tpe", "random", "grid", "gp", "cmaes")))
    seed: int | None = field(Flag("Of the search and, with its number, of each trial.", least=0, most=2**32 - 1))
    overrides: Sequence[str] = field(
        Flag("Change anything in the file; repeatable.", name="--set", metavar="PATH=YAML", several=True), ()
    )
    warm_start: Sequence[str] = field(
        Flag(
            "Search whose trials the sampler is told, as far as they fit; repeatable.",
            metavar="NAME",
            several=True,
        ),
        (),
    )
    local: bool = field(Flag("Always a private Ray on this machine, with its one GPU or its CPUs."), False)
    smoke: bool = field(Flag("Small and short, on the built-in sample data."), False)
    ledger_url: str | None = field(
        Flag(
            "PostgreSQL of the ledger, postgresql://USER@HOST/DATABASE [$TUNESEARCH_LEDGER, else SQLite].",
            name="--ledger",
            metavar="URL",
        )
    )
    storage: str | Path | None = field(STORAGE)
    callback: SearchCallback | None = field(CALLBACK)


@dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    """Of ``resume``; what is not given stays as the search was started with."""

    time_budget: float | None = field(TIME_BUDGET)
    address: str | None = field(ADDRESS)
    max_concurrent: int | None = field(MAX_CONCURRENT)
    keep_checkpoints: int | None = field(KEEP_CHECKPOINTS)
    stall_timeout: float | None = field(STALL_TIMEOUT)
    storage: str | Path | None = field(STORAGE)
    callback: SearchCallback | None = field(CALLBACK)


@dataclass(frozen=True, kw_only=True)
class ConfirmOptions:
    """Of ``confirm``."""

    top: int = field(Flag("How many of the completed trials, the best ones [3].", least=1), 3)
    seeds: int = field(Flag("How often each is trained [5].", least=2), 5)
    address: str | None = field(ADDRESS)
    max_concurrent: int | None = field(MAX_CONCURRENT)
    storage: str | Path | None = field(STORAGE)
    callback: SearchCallback | None = field(CALLBACK)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Of ``export``."""

    trial: int | None = field(Flag("Its number [the best; once confirmed, the leader's best repeat].", least=0))
    register: str | None = field(
        Flag("Make the folder the next version of MODEL in MLflow's registry, too.", metavar="MODEL")
    )
    tracking_uri: str | None = field(TRACKING_URI)
    storage: str | Path | None = field(STORAGE)
    on_message: Callable[[str], None] = field(ON_MESSAGE, silent)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Of ``train``."""

    output: str | Path | None = field(Flag("Folder [STORAGE/trained/NAME].", name="-o/--output", kind="folder"))
    data: str | Path | None = field(DATA)
    data_as_is: bool = field(Flag("Split the data set anew, instead of a model's frozen files."), False)
    on: Literal["train", "train+val"] = field(
        Flag("What is trained on [train].", among=("train", "train+val")), "train"
    )
    epochs: int | None = field(Flag("Instead of the configuration's.", least=1))
    seed: int | Sequence[int] = field(
        Flag("Instead of the configuration's; repeatable.", several=True, least=0, most=2**32 - 1), ()
    )
    seeds: int = field(Flag("Train with so many seeds.", least=1), 1)
    workers: int = field(Flag("Processes, on GPUs one each [1].", least=1), 1)
    address: str | None = field(
        Flag("Ray cluster of the processes: auto or an address [$RAY_ADDRESS, else this machine].")
    )
    encoder_weights: str | Path | None = field(ENCODER_WEIGHTS)
    tracking_uri: str | None = field(TRACKING_URI)
    storage: str | Path | None = field(STORAGE)
    on_message: Callable[[str], None] = field(ON_MESSAGE, silent)
    on_epoch: Callable[[EpochMetrics], None] = field("told the metrics of every epoch.", lambda metrics: None)


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Of ``predict``."""

    trial: int | None = field(TRIAL)
    stack: str | Path | None = field(STACK)
    scale: float | None = field(SCALE)
    flip: bool = field(FLIP, False)
    overlays: bool = field(Flag("Also lay the masks over the pictures, in OUTPUT/overlays.", name="--overlay"), False)
    storage: str | Path | None = field(STORAGE)
    on_message: Callable[[str], None] = field("told of every mask.", silent)
    on_progress: Callable[[int, int], None] | None = field(ON_PROGRESS)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Of ``evaluate``."""

    part: str | None = field(
        Flag("Part of the model's frozen split [val].", name="--split", among=("train", "val", "test"))
    )
    data: str | Path | None = field(
        Flag("Where that data set lies now; without --split: another one like it.", kind="path")
    )
    images: str | Path | None = field(Flag("Folder of images, with --masks.", kind="path"))
    masks: str | Path | None = field(Flag("Folder of their masks, of the same names.", kind="path"))
    mask_suffix: str | None = field(Flag("What masks' names end in behind the image's, such as _mask.", metavar="TEXT"))
    output: str | Path | None = field(Flag("Folder of tables and pictures.", name="-o/--output", kind="folder"))
    trial: int | None = field(TRIAL)
    stack: str | Path | None = field(STACK)
    scale: float | None = field(SCALE)
    flip: bool = field(FLIP, False)
    storage: str | Path | None = field(STORAGE)
    on_message: Callable[[str], None] = field(ON_MESSAGE, silent)
    on_progress: Callable[[int, int], None] | None = field(ON_PROGRESS)


@dataclass(frozen=True, kw_only=True)
class EnsembleOptions:
    """Of ``ensemble``."""

    data: str | Path | None = field(DATA_NOW)
    scale: float | None = field(SCALE)
    flip: bool = field(FLIP, False)
    storage: str | Path | None = field(STORAGE)
    on_message: Callable[[str], None] = field(ON_MESSAGE, silent)
    on_progress: Callable[[int, int], None] | None = field(ON_PROGRESS)
