"""A training as plain data (the job), from which every process that takes part in it builds the same trainer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunesearch.experiment import Objective
from tunesearch.production.training.setup import TrainedOn
from tunesearch.segmentation.config import DataConfig, TrainConfig
from tunesearch.segmentation.data.cache import decoded, original_masks
from tunesearch.segmentation.data.layouts import resolve_classes
from tunesearch.segmentation.data.splits import POOL, Split
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.team import Team
from tunesearch.segmentation.trainer import Trainer
from tunesearch.segmentation.user_code import find_user_code, user_modules

OnEvent = Callable[[str, Any], None]
"""Takes ``built`` with {effective, resumed}, ``epoch`` with metrics, ``ended`` with {outcome, best}: plain data."""


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        config: what to train.
        data: how images and masks are read.
        split: the files, with the folder that they lie in.
        on: the images that are trained on; with ``train+val`` nothing is left to validate on.
        objective: decides which epoch is the best, and at which size IoU is measured.
        folder: of the checkpoint and the best weights.
        encoder_weights: file or folder of ImageNet weights; None: the library's loader.
        code: a model folder's modules, which go before all others of their names; None: there are none.
        beside: another folder that modules of the user's own are imported from; None: nowhere else.
        threads: of torch, on a CPU; None: as they are.
    """

    config: TrainConfig
    data: DataConfig
    split: Split
    on: TrainedOn
    objective: Objective
    folder: Path
    encoder_weights: Path | None
    code: Path | None
    beside: Path | None
    threads: int | None

    @property
    def trained_split(self) -> Split:
        """The split as the new model has it: of train+val nothing is left that it could be validated on."""
        if self.on == "train":
            return self.split
        return self.split.model_copy(update={"train": self.split.items(POOL), "val": ()})

    @contextlib.contextmanager
    def user_code(self) -> Iterator[None]:
        """Let the user's own modules be imported."""
        if self.beside is not None:
            find_user_code(str(self.beside))
        with user_modules(self.code):
            yield

    def trainer(self, team: Team, *, device: str = "auto", cpus: int | None = None) -> Trainer:
        """Build the trainer, which goes on from the folder's checkpoint where there is one.

        Args:
            cpus: that this process may use; None: all of the machine.
        """
        size, cuda = self.config.size, device == "cuda" or (device == "auto" and torch.cuda.is_available())
        with self.user_code():
            train = decoded(self.data, self.split, POOL if self.on == POOL else "train", size)
            val = None if self.on == POOL else decoded(self.data, self.split, "val", size)
            at_original = val is not None and self.objective.resolution == "original"
            return Trainer(
                self.config,
                train=train,
                val=val,
                classes=len(resolve_classes(self.data)),
                background=self.data.background,
                encoder_weights=self.encoder_weights,
                folder=self.folder,
                device=device,
                workers=min(8, (cpus or os.cpu_count() or 1) - 1) if cuda else 0,
                monitor=self.objective.metric,
                originals=original_masks(self.data, self.split, "val") if at_original else None,
                team=team,
            )


def run_job(job: Job, team: Team, on_event: OnEvent, *, device: str = "auto", cpus: int | None = None) -> None:
    """Train a job to its end as one of a team; every epoch is told when its checkpoint is on disk."""
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    trainer = job.trainer(team, device=device, cpus=cpus)
    try:
        resumed = None if trainer.resumed is None else trainer.resumed.as_dict()
        on_event("built", {"effective": trainer.effective(), "resumed": resumed})
        for metrics in trainer.epochs():
            on_event("epoch", metrics.as_dict())
        best: EpochMetrics | None = trainer.best
        on_event("ended", {"outcome": trainer.outcome, "best": None if best is None else best.as_dict()})
    finally:
        trainer.close()
