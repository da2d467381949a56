"""The base of all losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

TINY = 1e-12
"""Least divisor: where nothing counts, a loss is 0 / TINY = 0 with zero gradients."""


class Loss(nn.Module):
    """Base of all losses; as it is, one that counts images."""

    def batch_weight(self, masks: Tensor) -> Tensor:
        """The weight that a batch has in a mean over batches, a float32 scalar: here its number of images."""
        return torch.full((), float(len(masks)), device=masks.device)

    def contribution(self, logits: Tensor, masks: Tensor, whole: Tensor) -> Tensor:
        """What some images of a batch add to the loss of the whole batch, a scalar.

        Args:
            logits: (N, C, H, W), of these images.
            masks: (N, H, W) int64, of these images.
            whole: (M, H, W) int64, the masks of the whole batch.
        """
        value: Tensor = self(logits, masks)
        if len(masks) == len(whole):
            return value
        return value * self.batch_weight(masks) / self.batch_weight(whole).clamp_min(TINY)

    def describe(self) -> list[dict[str, Any]]:
        """The terms with their settings, as read from the objects. Plain data."""
        return [{"loss": type(self).__name__}]


def precise(logits: Tensor) -> Tensor:
    """In float32 at least: half precision can neither sum many pixels nor tell a probability from 1."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
