"""Losses over logits (N, C, H, W) and masks (N, H, W) int64, all deaf to the ignore index.

Each is a module with two methods: ``forward`` gives the mean loss, and ``share`` the weight that a batch has in that
mean, so that micro-batches add up to exactly what the whole batch would give.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunesearch.segmentation.config import LOSSES as NAMES
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.models import import_object


class Loss(nn.Module):
    """Base of all losses."""

    def share(self, masks: Tensor) -> Tensor:
        """The weight that a batch has in a mean over batches, a float32 scalar: here its number of images."""
        return torch.tensor(float(masks.shape[0]), device=masks.device)


class _PixelLoss(Loss):
    """What cross-entropy and focal share: class weights and an ignore index.

    Args:
        ignore_index: label that counts nowhere.
        weight: class weights (C,) float32, or None.
    """

    def __init__(self, *, ignore_index: int, weight: Tensor | None = None) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.weight: Tensor | None
        self.register_buffer("weight", weight)

    def share(self, masks: Tensor) -> Tensor:
        """Sum of the weights of the pixels that count: a float32 scalar."""
        valid = masks != self.ignore_index
        if self.weight is None:
            return valid.sum().float()
        return (self.weight[masks.where(valid, 0)] * valid).sum()


class CrossEntropy(_PixelLoss):
    """Softmax cross-entropy, averaged over the pixels that count with their class weights (torch's own)."""

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        total = F.cross_entropy(logits.float(), masks, self.weight, ignore_index=self.ignore_index, reduction="sum")
        return total / self.share(masks).clamp_min(1e-12)


class Focal(_PixelLoss):
    """Focal loss for softmax (Lin et al. 2017, eq. 5): cross-entropy times ``(1 - p_t) ** gamma`` and class weights."""

    def __init__(self, *, ignore_index: int, gamma: float, weight: Tensor | None = None) -> None:
        super().__init__(ignore_index=ignore_index, weight=weight)
        self.gamma = gamma

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        negative_log = F.cross_entropy(logits.float(), masks, ignore_index=self.ignore_index, reduction="none")
        # (N, H, W); 0 where ignored. The clamp keeps the gradient of the power finite where p_t is 1.
        factor = (1.0 - torch.exp(-negative_log)).clamp_min(1e-8) ** self.gamma
        if self.weight is not None:
            factor = factor * self.weight[masks.where(masks != self.ignore_index, 0)]
        return (factor * negative_log).sum() / self.share(masks).clamp_min(1e-12)


class Dice(Loss):
    """Soft Dice loss: the mean over classes of ``1 - 2 |P G| / (|P| + |G|)`` (Milletari et al. 2016 without squares).

    Sums run over the whole batch; a class that is in no mask of the batch does not count, as in
    segmentation-models-pytorch. With class weights it is their weighted mean.
    """

    def __init__(self, *, ignore_index: int, weight: Tensor | None = None, epsilon: float = 1e-7) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.epsilon = epsilon
        self.weight: Tensor | None
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        classes = logits.shape[1]
        valid = masks != self.ignore_index  # (N, H, W)
        truth = F.one_hot(masks.where(valid, 0), classes).permute(0, 3, 1, 2) * valid.unsqueeze(1)  # (N, C, H, W)
        chance = logits.float().softmax(dim=1) * valid.unsqueeze(1)
        overlap = (chance * truth).sum(dim=(0, 2, 3))  # (C,)
        size = chance.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
        loss = 1.0 - 2.0 * overlap / size.clamp_min(self.epsilon)
        counts = (truth.sum(dim=(0, 2, 3)) > 0).float()
        if self.weight is not None:
            counts = counts * self.weight
        return (loss * counts).sum() / counts.sum().clamp_min(self.epsilon)


LOSSES: dict[str, Callable[[TrainConfig, int, Tensor | None], Loss]] = {
    "cross_entropy": lambda _, ignore, weight: CrossEntropy(ignore_index=ignore, weight=weight),
    "dice": lambda _, ignore, weight: Dice(ignore_index=ignore, weight=weight),
    "focal": lambda config, ignore, weight: Focal(ignore_index=ignore, gamma=config.focal_gamma, weight=weight),
}


class _OwnLoss(Loss):
    """A user's own loss, ``(logits, masks) -> scalar``; micro-batches are averaged by their number of images."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        value: Tensor = self.loss(logits, masks)
        return value


def build_loss(config: TrainConfig, *, ignore_index: int, weight: Tensor | None) -> Loss:
    """The loss of a configuration.

    Args:
        weight: class weights (C,) float32, or None.

    Raises:
        InputError: the user's own loss cannot be imported.
    """
    if config.loss in NAMES:
        return LOSSES[config.loss](config, ignore_index, weight)
    return _OwnLoss(import_object(config.loss, "loss")(config, ignore_index, weight))
