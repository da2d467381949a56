"""Learning-rate schedules and early stopping as pure functions of what is known: nothing to save, nothing to lose.

A schedule is a function of the number t of optimiser updates and, for the plateau, of a metric of every epoch so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tunesearch.segmentation.config import TrainConfig


def _epoch(config: TrainConfig, t: int, total: int) -> int:
    """The epoch that update t belongs to, from 0; ``total`` is a multiple of the epochs."""
    return t * config.epochs // max(total, 1)


SCHEDULES: dict[str, Callable[[TrainConfig, int, int, Sequence[float]], float]] = {
    "none": lambda config, t, total, values: 1.0,
    # Keras' time-based decay, which reports of 2019 call "decay".
    "time_decay": lambda config, t, total, values: 1.0 / (1.0 + config.lr_decay * t),
    # From epoch lr_hold_epochs (counted from 0) on, each epoch has lr_gamma times the rate of the one before.
    "exponential": lambda config, t, total, values: (
        config.lr_gamma ** max(0, _epoch(config, t, total) - config.lr_hold_epochs + 1)
    ),
    # Loshchilov and Hutter 2017 without restarts, down to 0 after the last update.
    "cosine": lambda config, t, total, values: 0.5 * (1.0 + math.cos(math.pi * min(t, total) / max(total, 1))),
    "plateau": lambda config, t, total, values: config.lr_gamma ** plateaus(config, values),
    # torch's StepLR.
    "step": lambda config, t, total, values: config.lr_gamma ** (_epoch(config, t, total) // config.lr_step_epochs),
    # Chen et al. 2018 (DeepLab), Keras' PolynomialDecay down to 0.
    "poly": lambda config, t, total, values: (1.0 - min(t, total) / max(total, 1)) ** config.poly_power,
}


def lr_factor(config: TrainConfig, t: int, total: int, values: Sequence[float] = ()) -> float:
    """What the learning rate is multiplied by at the update after ``t`` updates, of ``total`` in the whole training.

    Args:
        values: ``config.plateau_metric`` of every finished epoch; for the plateau schedule alone.
    """
    factor = SCHEDULES[config.schedule](config, t, total, values)
    warmup = config.warmup_epochs * total // config.epochs
    return factor * (t + 1) / warmup if t < warmup else factor


def plateaus(config: TrainConfig, values: Sequence[float]) -> int:
    """How often the learning rate has been reduced after these epochs, as torch's ReduceLROnPlateau does (absolute
    threshold, no cooldown): when ``plateau_patience`` epochs without an improvement are exceeded, and again from there.
    """
    best, waited, count = math.inf, 0, 0
    for value in _smaller_is_better(config.plateau_metric, values):
        if value < best - config.plateau_threshold:
            best, waited = value, 0
        else:
            waited += 1
        if waited > config.plateau_patience:
            count, waited = count + 1, 0
    return count


def stops_early(config: TrainConfig, values: Sequence[float]) -> bool:
    """Whether a training ends after these epochs: as Keras' EarlyStopping, when ``early_stop_metric`` has not improved
    by more than ``early_stop_delta`` for ``early_stop_patience`` epochs.

    Args:
        values: ``config.early_stop_metric`` of every finished epoch.
    """
    if config.early_stop_patience is None:
        return False
    best, waited = math.inf, 0
    for value in _smaller_is_better(config.early_stop_metric, values):
        if value < best - config.early_stop_delta:
            best, waited = value, 0
        else:
            waited += 1
    return waited >= config.early_stop_patience


def _smaller_is_better(metric: str, values: Sequence[float]) -> list[float]:
    return list(values) if metric == "val_loss" else [-value for value in values]
