"""Losses over logits (N, C, H, W) and masks (N, H, W) int64, in which pixels of the ignore index count nowhere.

There are two kinds. Pixel losses are means over the pixels that count, so they know weights per pixel (class weights,
per-sample weights) and hard pixels. Region losses compare the areas of a class in truth and prediction over the whole
batch; they know weights per class. A loss may be a sum of both.

Three calls: ``loss(logits, masks)`` is the mean loss; ``batch_weight(masks)`` is the weight that a batch has in a mean
over batches; ``contribution(logits, masks, whole)`` is what some images of a batch add to the loss of the whole batch.
The contributions to a pixel loss add up to exactly what the whole batch would give.

Nothing here waits for the device, and everything is computed in float32 at least, whatever the logits are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from tunesearch.segmentation.config import TrainConfig, loss_terms
from tunesearch.segmentation.losses.base import Loss
from tunesearch.segmentation.losses.combined import OwnLoss, Sum
from tunesearch.segmentation.losses.pixel import CrossEntropy, Focal, Hinge, PixelLoss, sample_weights
from tunesearch.segmentation.losses.region import Dice, Jaccard, Lovasz, RegionLoss, Tversky
from tunesearch.segmentation.user_code import import_object

__all__ = [
    "LOSSES",
    "CrossEntropy",
    "Dice",
    "Focal",
    "Hinge",
    "Jaccard",
    "Loss",
    "Lovasz",
    "OwnLoss",
    "PixelLoss",
    "RegionLoss",
    "Sum",
    "Tversky",
    "build_loss",
    "sample_weights",
]


def _pixel(config: TrainConfig, ignore_index: int, weight: Tensor | None) -> dict[str, Any]:
    sample = config.class_weights == "sample"
    return {"ignore_index": ignore_index, "weight": weight, "sample": sample, "hard_pixels": config.hard_pixels}


LOSSES: dict[str, Callable[[TrainConfig, int, Tensor | None], Loss]] = {
    "cross_entropy": lambda config, ignore, weight: CrossEntropy(**_pixel(config, ignore, weight)),
    "focal": lambda config, ignore, weight: Focal(gamma=config.focal_gamma, **_pixel(config, ignore, weight)),
    "hinge": lambda config, ignore, weight: Hinge(**_pixel(config, ignore, weight)),
    "dice": lambda _, ignore, weight: Dice(ignore_index=ignore, weight=weight),
    "jaccard": lambda _, ignore, weight: Jaccard(ignore_index=ignore, weight=weight),
    "tversky": lambda config, ignore, weight: Tversky(alpha=config.tversky_alpha, ignore_index=ignore, weight=weight),
    "lovasz": lambda _, ignore, weight: Lovasz(ignore_index=ignore, weight=weight),
}


def build_loss(config: TrainConfig, *, ignore_index: int, weight: Tensor | None) -> Loss:
    """The loss of a configuration.

    Args:
        weight: class weights (C,) float32, or None. Weights per sample are read from the configuration.

    Raises:
        InputError: the user's own loss cannot be imported.
    """
    terms = loss_terms(config.loss)
    if terms[0][1] not in LOSSES:
        return OwnLoss(import_object(config.loss, "loss")(config, ignore_index, weight))
    built = [(factor, LOSSES[name](config, ignore_index, weight)) for factor, name in terms]
    return built[0][1] if len(built) == 1 and built[0][0] == 1.0 else Sum(built)
