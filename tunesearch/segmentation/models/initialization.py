"""Initial weights of layers that are not pretrained."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "xavier": nn.init.xavier_normal_,
    "he": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
}
"""Glorot and Bengio (2010): deviation sqrt(2 / (fan_in + fan_out)). He et al. (2015): sqrt(2 / fan_in). The fans are
torch's, who counts those of a transposed convolution's weight (in, out, k, k) as fan_in = out * k * k."""

DRAWN = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    nn.Linear,
)
"""Whose weights are drawn."""


def initialize(network: nn.Module, kind: str, *, spare: nn.Module | None = None) -> None:
    """Draw the weights of convolutions, transposed convolutions and linear maps anew, and zero their biases, in place.

    Args:
        network: the network.
        kind: ``xavier``, ``he``, or ``default``, which leaves everything as it was built.
        spare: a part of it that keeps what it has.
    """
    if kind == "default":
        return
    spared = set() if spare is None else set(spare.modules())
    for module in network.modules():
        if isinstance(module, DRAWN) and module not in spared:
            WEIGHTS[kind](module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
