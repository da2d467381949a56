"""Micro-batches: how many images go through the network at once, which is halved when the memory does not suffice."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.team import Team

T = TypeVar("T")


class MicroBatches:
    """The micro-batches of one training.

    Attributes:
        size: most images in one.
        smallest: fewest images that a forward pass of the training needs.
    """

    def __init__(self, config: TrainConfig, team: Team, device: torch.device) -> None:
        self.size = min(config.micro_batch or config.batch_size, config.batch_size)
        self.smallest = config.smallest_batch
        self.team = team
        self.device = device

    def within_memory(self, work: Callable[[], T], *, release: Callable[[], None]) -> T | None:
        """``work()``, again with half the size as often as the memory does not suffice; None where it never does.

        Args:
            work: is done in micro-batches of :attr:`size`.
            release: lets go of what a failed attempt has left on the device.

        Raises:
            torch.OutOfMemoryError: the memory does not suffice, and there are others in the team.
        """
        if self.team.size > 1:  # the others wait for this member's gradients: all must start anew
            return work()
        while True:
            with contextlib.suppress(torch.OutOfMemoryError):
                return work()
            # Outside the handler: its traceback would keep the failed graph's memory alive.
            if self.size <= self.smallest:
                return None
            self.size = max(self.size // 2, self.smallest)
            release()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def of_batch(self, images: int) -> tuple[slice, int, int]:
        """Of a training batch: this member's images, in how many micro-batches, and how many members do the same.

        All members have the same number of micro-batches, because a synchronised norm waits for all of them at each. A
        batch too small to give every member its least is done by all of them whole.
        """
        team, least = self.team, self.smallest
        if images < team.size * least:
            mine, smallest, largest, copies = slice(0, images), images, images, team.size
        else:
            mine, smallest, largest, copies = team.share(images), images // team.size, math.ceil(images / team.size), 1
        # Of nearly equal size: no remainder of a single image that a batch norm could not take.
        return mine, max(min(math.ceil(largest / self.size), smallest // least), 1), copies

    def split(self, batch: Tensor) -> list[Tensor]:
        """Micro-batches of nearly equal size; none of a batch that is empty."""
        parts = min(math.ceil(len(batch) / self.size), len(batch) // self.smallest)
        return list(batch.tensor_split(max(parts, 1))) if len(batch) else []
