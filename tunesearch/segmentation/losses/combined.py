"""A weighted sum of losses, and a loss of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tunesearch.segmentation.losses.base import Loss
from tunesearch.segmentation.losses.pixel import PixelLoss


class Sum(Loss):
    """A weighted sum of losses. In a mean over batches it counts pixels where all its terms do, else images."""

    def __init__(self, terms: Sequence[tuple[float, Loss]]) -> None:
        super().__init__()
        self.weights = [weight for weight, _ in terms]
        self.terms = nn.ModuleList(loss for _, loss in terms)

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        return self.contribution(logits, masks, masks)

    def batch_weight(self, masks: Tensor) -> Tensor:
        """Of pixel losses, which have the same weights, that of the first; else the number of images."""
        if all(isinstance(term, PixelLoss) for term in self.terms):
            return self._loss(0).batch_weight(masks)
        return super().batch_weight(masks)

    def contribution(self, logits: Tensor, masks: Tensor, whole: Tensor) -> Tensor:
        values = [weight * self._loss(i).contribution(logits, masks, whole) for i, weight in enumerate(self.weights)]
        return torch.stack(values).sum()

    def describe(self) -> list[dict[str, Any]]:
        return [
            {**term, "weight": weight} for i, weight in enumerate(self.weights) for term in self._loss(i).describe()
        ]

    def _loss(self, index: int) -> Loss:
        term = self.terms[index]
        assert isinstance(term, Loss)
        return term


class OwnLoss(Loss):
    """A user's own loss, ``(logits, masks) -> scalar``; micro-batches are averaged by their number of images."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        value: Tensor = self.loss(logits, masks)
        return value

    def describe(self) -> list[dict[str, Any]]:
        named = self.loss if hasattr(self.loss, "__qualname__") else type(self.loss)
        return [{"loss": f"{named.__module__}:{named.__qualname__}"}]
