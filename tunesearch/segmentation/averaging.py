"""The exponential moving average of a network's weights, kept beside the training and scored in its place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """``average = d * average + (1 - d) * weights`` after every update, with the statistics of batch norms alike.

    In update t (0 the first) ``d`` is at most (1 + t) / (10 + t), as in TensorFlow's ExponentialMovingAverage with
    ``num_updates``: without it a short training's average would be that of its beginning.

    Args:
        model: what is averaged; the average starts as a copy of it.
        decay: d, above 0 and below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        # Buffers too: the running statistics of a batch norm belong to the weights before it.
        self._averaged = AveragedModel(model, multi_avg_fn=self._mix, use_buffers=True)

    @property
    def model(self) -> nn.Module:
        """The network with the averaged weights."""
        return self._averaged.module

    def update(self, model: nn.Module) -> None:
        """Take in the weights after an update."""
        self._averaged.update_parameters(model)

    @torch.no_grad()
    def _mix(self, averaged: Any, current: Any, _: Tensor | int) -> None:
        if not averaged[0].is_floating_point():  # a batch norm's count of batches
            torch._foreach_copy_(averaged, current)  # torch has no public name for copying many tensors in one call
            return
        t = int(self._averaged.n_averaged)  # on the CPU, so nothing waits for the device
        mix = get_ema_multi_avg_fn(min(self.decay, (1 + t) / (10 + t)))  # type: ignore[no-untyped-call]
        mix(averaged, current, t)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return self._averaged.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._averaged.load_state_dict(state)
