"""Pixel losses: means over the pixels that count, with weights per class or per image, and hard pixels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunesearch.segmentation.losses.base import TINY, Loss, precise

_PARTS = 10**9
"""Hard pixels are counted in integers, of this many parts: float32 cannot tell 0.7 * 10 from a little more than 7."""


class PixelLoss(Loss):
    """A mean over the pixels that count: sum of w * l over sum of w.

    w is the pixel's class weight (1 without); with ``sample`` it is its own image's weight, and the sum is divided by
    the number of pixels instead. A class weight of 0 leaves the pixels of the class out.

    With ``hard_pixels`` f below 1 only the ceil(f * n) pixels with the largest w * l of an image with n such pixels
    count (online hard example mining: Shrivastava et al. 2016, there with boxes). The divisor is then the same share,
    ceil(f * n) / n, of each image's weights: the number of kept pixels where there are no class weights, from the masks
    alone, and, like the mean itself, not changed by a factor in all weights.

    Args:
        ignore_index: label that counts nowhere.
        weight: class weights (C,) float32, or None.
        sample: weight each image by its own mask (``weight`` is then None).
        hard_pixels: the share f of each image's pixels that counts, to nine decimals.
    """

    def __init__(
        self, *, ignore_index: int, weight: Tensor | None = None, sample: bool = False, hard_pixels: float = 1.0
    ) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.weight: Tensor | None
        self.register_buffer("weight", weight)
        self.sample = sample
        self.hard_pixels = hard_pixels

    def pixels(self, logits: Tensor, masks: Tensor) -> Tensor:
        """The loss of every pixel, (N, H, W), at least 0, without weights; 0 where ignored.

        Args:
            logits: (N, C, H, W), float32 or float64.
            masks: (N, H, W) int64.
        """
        raise NotImplementedError

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        return self.contribution(logits, masks, masks)

    def batch_weight(self, masks: Tensor) -> Tensor:
        """Sum of the weights of the pixels that count: a float32 scalar."""
        valid = masks != self.ignore_index
        weights = valid if self.weight is None else self._class_weights(masks)
        of_image = weights.sum(dim=(1, 2)).float()
        if self.hard_pixels < 1.0:
            count = valid.sum(dim=(1, 2))
            of_image = of_image * self._kept(count) / count.clamp_min(1)
        return of_image.sum()

    def contribution(self, logits: Tensor, masks: Tensor, whole: Tensor) -> Tensor:
        losses = self.pixels(precise(logits), masks)
        if self.weight is not None:
            losses = losses * self._class_weights(masks)
        elif self.sample:
            losses = losses * sample_weights(masks, logits.shape[1], self.ignore_index)
        if self.hard_pixels < 1.0:
            losses = self._hardest(losses, masks != self.ignore_index)
        return losses.sum() / self.batch_weight(whole).clamp_min(TINY)

    def describe(self) -> list[dict[str, Any]]:
        weights = "sample" if self.sample else self.weight.tolist() if self.weight is not None else None
        (term,) = super().describe()
        return [{**term, "class_weights": weights, "hard_pixels": self.hard_pixels}]

    def _class_weights(self, masks: Tensor) -> Tensor:
        """The weight of every pixel, (N, H, W); 0 where ignored."""
        assert self.weight is not None
        valid = masks != self.ignore_index
        # index_select is ten times as fast here as indexing.
        return self.weight.index_select(0, masks.where(valid, 0).flatten()).view_as(masks) * valid

    def _kept(self, count: Tensor) -> Tensor:
        """ceil(f * n) for numbers n of pixels, (N,) int64."""
        parts = max(round(self.hard_pixels * _PARTS), 1)
        return (count * parts + _PARTS - 1).div(_PARTS, rounding_mode="floor")

    def _hardest(self, losses: Tensor, valid: Tensor) -> Tensor:
        """Per image the largest losses, (N, H * W), and 0 in place of the others."""
        kept = self._kept(valid.sum(dim=(1, 2)))
        # Ignored pixels come last: -1 is below every loss.
        ordered = losses.masked_fill(~valid, -1.0).flatten(1).sort(dim=1, descending=True).values
        rank = torch.arange(ordered.shape[1], device=losses.device)
        return ordered.where(rank < kept.unsqueeze(1), 0.0)


class CrossEntropy(PixelLoss):
    """Softmax cross-entropy; with class weights torch's own weighted mean."""

    def pixels(self, logits: Tensor, masks: Tensor) -> Tensor:
        return F.cross_entropy(logits, masks, ignore_index=self.ignore_index, reduction="none")


class Focal(PixelLoss):
    """Focal loss for softmax (Lin et al. 2017, eq. 4): cross-entropy times ``(1 - p_t) ** gamma``."""

    def __init__(self, *, gamma: float, **common: Any) -> None:
        super().__init__(**common)
        self.gamma = gamma

    def pixels(self, logits: Tensor, masks: Tensor) -> Tensor:
        negative_log = F.cross_entropy(logits, masks, ignore_index=self.ignore_index, reduction="none")
        # 1 - p_t; the clamp keeps the gradient of the power finite where p_t is 1.
        missing = (-torch.expm1(-negative_log)).clamp_min(1e-8)
        return missing**self.gamma * negative_log

    def describe(self) -> list[dict[str, Any]]:
        (term,) = super().describe()
        return [{**term, "gamma": self.gamma}]


class Hinge(PixelLoss):
    """``max(0, 1 + max of the wrong classes' probabilities - p_t)``: Keras' ``categorical_hinge`` on a softmax.

    It lies between 0 and 2, and is the multi-class hinge of Crammer and Singer (2001) with probabilities for scores.
    """

    def pixels(self, logits: Tensor, masks: Tensor) -> Tensor:
        valid = masks != self.ignore_index
        truth = masks.where(valid, 0).unsqueeze(1)
        chance = logits.softmax(dim=1)
        right = chance.gather(1, truth)
        wrong = chance.scatter(1, truth, 0.0).amax(dim=1, keepdim=True)
        return (1.0 + wrong - right).clamp_min(0.0).squeeze(1).where(valid, 0.0)


def sample_weights(masks: Tensor, classes: int, ignore_index: int) -> Tensor:
    """The weight of every pixel from its own image's mask, (N, H, W) float32; 0 where ignored.

    With n_c the pixels of class c in the image, at least 1, a pixel of class 0 weighs n_0 / sqrt(sum of n_c ** 2) and
    one of class c > 0 weighs n_0 / n_c: ``class_weights.image_weights`` on the device.

    Args:
        masks: (N, H, W) int64.
        classes: number of classes C.
        ignore_index: label that counts nowhere.
    """
    index = masks.where(masks != ignore_index, classes).flatten(1)  # (N, H * W); void is class C
    ones = torch.ones((), dtype=torch.int64, device=masks.device).expand_as(index)
    counted = torch.zeros(len(masks), classes + 1, dtype=torch.int64, device=masks.device).scatter_add(1, index, ones)
    pixels = counted[:, :classes].clamp_min(1).float()
    weights = pixels[:, :1] / pixels
    first = pixels[:, :1] / pixels.norm(dim=1, keepdim=True)
    table = torch.cat([first, weights[:, 1:], torch.zeros_like(first)], dim=1)  # (N, C + 1)
    return table.gather(1, index).view(masks.shape)
