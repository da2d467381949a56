"""torch.optim's optimisers by name, over the parameters that are trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tunesearch.segmentation.config import TrainConfig

OPTIMIZERS: dict[str, Callable[[Any, TrainConfig], torch.optim.Optimizer]] = {
    "adam": lambda groups, config: torch.optim.Adam(groups, lr=config.lr),
    "adamw": lambda groups, config: torch.optim.AdamW(groups, lr=config.lr),
    "sgd": lambda groups, config: torch.optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov and config.momentum > 0
    ),
    "adamax": lambda groups, config: torch.optim.Adamax(groups, lr=config.lr),
    "nadam": lambda groups, config: torch.optim.NAdam(groups, lr=config.lr),
    "rmsprop": lambda groups, config: torch.optim.RMSprop(groups, lr=config.lr, momentum=config.momentum),
}


def build_optimizer(
    model: nn.Module, config: TrainConfig, *, encoder: nn.Module | None = None
) -> torch.optim.Optimizer:
    """The optimiser of a configuration; frozen parameters are in no group and so cost neither time nor memory.

    Each group has a ``factor``, by which its learning rate differs from the schedule's: ``encoder_lr_factor`` for the
    parameters of ``encoder``, 1 for the others. One-dimensional parameters (norms, biases) are groups of their own,
    spared from weight decay on request.
    """
    inner: set[int] = set()
    if encoder is not None and config.encoder_lr_factor != 1.0:
        inner = {id(parameter) for parameter in encoder.parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    spared = config.weight_decay if config.decay_norms_and_biases else 0.0
    groups = [
        {
            "params": [p for p in trained if (id(p) in inner) == within and (p.ndim <= 1) == vectors],
            "weight_decay": spared if vectors else config.weight_decay,
            "factor": factor,
            "lr": config.lr * factor,
        }
        for within, factor in ((False, 1.0), (True, config.encoder_lr_factor))
        for vectors in (False, True)
    ]
    groups = [group for group in groups if group["params"]]
    return OPTIMIZERS[config.optimizer](groups, config)


def describe_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Its kind and the settings of its groups, as read from it. Plain data."""
    return {
        "optimizer": type(optimizer).__name__,
        "optimizer_groups": [
            {
                "tensors": len(group["params"]),
                **{k: v for k, v in group.items() if k not in ("params", "lr") and isinstance(v, int | float | tuple)},
            }
            for group in optimizer.param_groups
        ],
    }
