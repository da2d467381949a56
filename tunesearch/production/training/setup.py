"""What a production training is given beside the configuration that it trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tunesearch.production.bundle import FORMATS

TrainedOn = Literal["train", "train+val"]
"""The images that are trained on."""


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """How a configuration is trained, and where that is kept.

    Attributes:
        output: the model folder to be made; with several seeds the folder of theirs.
        tracking_uri: of MLflow.
        storage: where MLflow's artifacts go beside a local database.
        data_root: of the data set; None: the configuration's.
        data_as_is: split the data set anew as it is now, instead of a model folder's frozen files.
        encoder_weights: file or folder of ImageNet weights; None: the library's loader.
        epochs: instead of the configuration's.
        seeds: train once with each; none: the configuration's.
        repeats: train with so many seeds: the configuration's and those that follow it.
        on: ``train+val`` trains on both, to the last epoch, whose weights are kept; nothing is validated then.
        workers: processes that train together (data parallelism), on GPUs one each, else on CPUs; 1 without an address:
            this one.
        address: Ray cluster where they run; None: this machine.
        formats: programs that the model folder gets.
    """

    output: Path
    tracking_uri: str
    storage: Path
    data_root: Path | None = None
    data_as_is: bool = False
    encoder_weights: Path | None = None
    epochs: int | None = None
    seeds: Sequence[int] = ()
    repeats: int = 1
    on: TrainedOn = "train"
    workers: int = 1
    address: str | None = None
    formats: Sequence[str] = FORMATS
