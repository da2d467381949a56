"""Validation: one pass over the validation part, which gives loss, confusion matrix and some predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.data.cache import OriginalMasks
from tunesearch.segmentation.data.loader import BatchLoader
from tunesearch.segmentation.device import autocast
from tunesearch.segmentation.inference import resized_labels, window_logits
from tunesearch.segmentation.losses import Loss
from tunesearch.segmentation.metrics import ConfusionMatrix
from tunesearch.segmentation.micro_batches import MicroBatches
from tunesearch.segmentation.team import Team


class Validated(NamedTuple):
    """What a pass gave.

    Attributes:
        loss: mean over the part.
        confusion: counts of pixels (C, C) int64.
        predictions: of the images that were asked for, (len(watch), H, W) uint8; None: none were.
    """

    loss: float
    confusion: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.uint8] | None


class Validation:
    """A validation part and how a network is measured on it.

    Args:
        batches: of the part, in its order.
        loss: on the device.
        classes: number of classes C.
        ignore_index: label that counts nowhere.
        originals: masks at the sizes of their files, to fill the confusion matrix at; None: at ``config.size``.
        watch: images whose predictions are given back, by their index.
        dtype: autocast type.
        heartbeat: called after every micro-batch.
    """

    def __init__(
        self,
        batches: BatchLoader,
        loss: Loss,
        config: TrainConfig,
        *,
        classes: int,
        ignore_index: int,
        originals: OriginalMasks | None,
        watch: tuple[int, ...],
        micro_batches: MicroBatches,
        team: Team,
        device: torch.device,
        dtype: torch.dtype,
        heartbeat: Callable[[], None],
    ) -> None:
        self.batches = batches
        self.loss = loss
        self.config = config
        self.classes = classes
        self.ignore_index = ignore_index
        self.originals = originals
        self.watch = watch
        self.micro_batches = micro_batches
        self.team = team
        self.device = device
        self.dtype = dtype
        self.heartbeat = heartbeat

    @torch.inference_mode()
    def run(self, network: nn.Module) -> Validated:
        """Measure a network, which is left in evaluation mode."""
        network.eval()
        confusion = ConfusionMatrix(self.classes, ignore_index=self.ignore_index, device=self.device)
        total = torch.zeros((), device=self.device)
        weight = torch.zeros((), device=self.device)
        watched: dict[int, npt.NDArray[np.uint8]] = {}
        first = 0
        for images, masks in self.batches:
            masks = masks.to(self.device, non_blocking=True).long()
            batch_weight = self.loss.batch_weight(masks)
            weight += batch_weight
            mine = self.team.share(len(masks))
            images = images[mine].to(self.device, non_blocking=True)
            start, first = first, first + mine.start
            micro_batches = zip(self.micro_batches.split(images), self.micro_batches.split(masks[mine]), strict=True)
            for part, truth in micro_batches:
                with autocast(self.device, self.dtype):
                    logits = self._logits(network, part)
                total += self.loss.contribution(logits, truth, masks) * batch_weight
                prediction = logits.argmax(dim=1)  # (N, H, W)
                if self.originals is None:
                    confusion.add(truth, prediction)
                else:
                    self._score_originals(confusion, logits, first, self.originals)
                for index in self.watch:
                    if first <= index < first + len(truth):
                        watched[index] = prediction[index - first].to(torch.uint8).cpu().numpy()
                first += len(truth)
                self.heartbeat()
            first = start + len(masks)
        self.team.sum(total)
        self.team.sum(confusion.counts)
        predictions = np.stack([watched[index] for index in self.watch]) if self.watch else None
        return Validated(float(total / weight.clamp_min(1e-12)), confusion.numpy(), predictions)

    def _logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """As predictions are made: of the whole images, or of overlapping windows."""
        if not self.config.tiled_inference:
            logits: Tensor = network(images)
            return logits
        assert self.config.window is not None
        return window_logits(network, images, crop=self.config.window, overlap=self.config.tile_overlap)

    def _score_originals(
        self, confusion: ConfusionMatrix, logits: Tensor, first: int, originals: OriginalMasks
    ) -> None:
        """Count logits (N, C, H, W) of the validation images from ``first`` on at the sizes of their files."""
        for index, one in enumerate(logits, start=first):
            truth = torch.from_numpy(originals[index].copy()).to(self.device)  # (H0, W0)
            confusion.add(truth, resized_labels(one, (truth.shape[0], truth.shape[1])))
