"""A network small enough to be trained while it is being killed, and two ways to end badly on its own."""

from __future__ import annotations

import time

from torch import nn
from torch.nn import functional as F

PACE = 0.05
"""Seconds that a training batch takes at least: a random moment shall lie within an epoch rather than between two."""


class Paced(nn.Sequential):
    def forward(self, images):
        if self.training:
            time.sleep(PACE)
        return super().forward(images)


def tiny(config, classes):
    if config.lr == 0.03 and config.optimizer == "adam" and config.dropout:
        raise RuntimeError("this network cannot be built: on purpose")
    first = [nn.Conv2d(3, config.width, 3, padding=1), nn.BatchNorm2d(config.width), nn.ReLU()]
    return Paced(*first, nn.Dropout2d(config.dropout), nn.Conv2d(config.width, classes, 1))


def touchy(config, ignore_index, weight):
    """Cross entropy, but no number at the highest rate without momentum."""
    factor = float("nan") if config.lr == 0.03 and config.momentum < 0.9 else 1.0
    return lambda logits, masks: factor * F.cross_entropy(logits, masks, weight, ignore_index=ignore_index)
