"""The state of a training: how far it is, and everything else that it goes on from after an interruption."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from tunesearch.segmentation.averaging import WeightAverage
from tunesearch.segmentation.checkpoint import load_checkpoint, save_checkpoint
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.micro_batches import MicroBatches
from tunesearch.segmentation.team import Team

CHECKPOINT_FORMAT = 3
"""Raised whenever a checkpoint's content changes."""
TrainerOutcome = Literal["completed", "diverged", "out_of_memory"]


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        epoch: epochs that are finished.
        updates: optimiser updates so far.
        outcome: how it ended; None while it goes on.
        best: the best epoch so far.
        curve: the VAL_METRICS of every finished epoch, which the plateau and early stopping look at.
    """

    epoch: int = 0
    updates: int = 0
    outcome: TrainerOutcome | None = None
    best: EpochMetrics | None = None
    curve: list[dict[str, float]] = field(default_factory=list)


class RandomState:
    """A training's own place in torch's global random numbers, so that several may take turns in one process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.save()

    def save(self) -> None:
        """Remember where the numbers stand."""
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        self.states: tuple[Tensor, Tensor | None] = torch.get_rng_state(), cuda

    def restore(self) -> None:
        """Go on from there."""
        cpu, cuda = self.states
        torch.set_rng_state(cpu)
        if cuda is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(cuda, self.device)


@dataclass
class TrainingState:
    """Everything that changes while a training runs: what a checkpoint holds."""

    model: nn.Module
    average: WeightAverage | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    random: RandomState
    micro_batches: MicroBatches
    progress: Progress

    def save(self, path: Path, metrics: EpochMetrics) -> None:
        """Write a checkpoint.

        Args:
            metrics: of the epoch that has just been finished.

        Raises:
            DiskFull: there is no room for it; the old one is whole.
        """
        progress = self.progress
        state = {
            "format": CHECKPOINT_FORMAT,
            "epoch": progress.epoch,
            "updates": progress.updates,
            "micro_batch": self.micro_batches.size,
            "outcome": progress.outcome,
            "metrics": asdict(metrics),
            "best": asdict(progress.best) if progress.best else None,
            "curve": progress.curve,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": self.random.states,
        }
        save_checkpoint(path, state)

    def restore(self, path: Path) -> EpochMetrics | None:
        """Go on from a checkpoint.

        Returns:
            The metrics of its epoch. None where there is no checkpoint, a damaged one, or one of another version of
            tunesearch: then nothing is changed, and the training starts anew.
        """
        state = load_checkpoint(path)
        if state is None or state.get("format") != CHECKPOINT_FORMAT:
            return None
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        progress = self.progress
        progress.epoch, progress.updates, progress.outcome = state["epoch"], state["updates"], state["outcome"]
        progress.best = EpochMetrics.from_dict(state["best"]) if state["best"] else None
        progress.curve = state["curve"]
        self.micro_batches.size = min(state["micro_batch"], self.micro_batches.size)
        self.random.states = state["rng"]
        return EpochMetrics.from_dict(state["metrics"])

    def synchronise(self, team: Team, folder: Path | None) -> None:
        """Let all members of a team begin with the first one's weights.

        Args:
            folder: of the checkpoint, for the error.

        Raises:
            RuntimeError: a member read another checkpoint than the others.
        """
        mine = torch.tensor(float(self.progress.epoch), device=self.random.device)
        if team.sum(mine.clone()) != mine * team.size:
            raise RuntimeError(f"{folder}: the members of a team must all see the same checkpoint there")
        team.broadcast(self.model.state_dict().values())
        if self.average is not None:
            team.broadcast(self.average.model.state_dict().values())

    def broadcast_statistics(self, team: Team) -> None:
        """Give all members the first one's running statistics, as torch's DistributedDataParallel does: norms that are
        not synchronised have each seen their own images."""
        team.broadcast(self.model.buffers())
        if self.average is not None:
            team.broadcast(self.average.model.buffers())
