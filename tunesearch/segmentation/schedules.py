"""Learning-rate schedules as pure functions of the number of optimiser updates: nothing to save, nothing to lose."""

from __future__ import annotations

import math
from collections.abc import Callable

from tunesearch.segmentation.config import TrainConfig

SCHEDULES: dict[str, Callable[[TrainConfig, int, int], float]] = {
    "none": lambda config, t, total: 1.0,
    # Keras' time-based decay, which reports of 2019 call "decay".
    "time_decay": lambda config, t, total: 1.0 / (1.0 + config.lr_decay * t),
    # Loshchilov and Hutter 2017 without restarts, down to 0 after the last update.
    "cosine": lambda config, t, total: 0.5 * (1.0 + math.cos(math.pi * min(t, total) / max(total, 1))),
}


def lr_factor(config: TrainConfig, t: int, total: int) -> float:
    """What the learning rate is multiplied by at the update after ``t`` updates, of ``total`` in the whole training."""
    return SCHEDULES[config.schedule](config, t, total)
