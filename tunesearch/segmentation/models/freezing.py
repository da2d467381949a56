"""Fine-tune fraction: which of an encoder's layers are trained, counted from its output side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase


@dataclass(frozen=True)
class Freezing:
    """What was frozen in an encoder, as found in the built network.

    Attributes:
        layers: how many convolutions and linear maps the encoder has.
        trained: how many of them are trained, from the output side.
        frozen_norms: batch norms whose running statistics stay as they are.
    """

    layers: int
    trained: int
    frozen_norms: tuple[nn.Module, ...]

    def hold(self) -> None:
        """Keep the frozen norms in evaluation mode; call after every ``model.train()``."""
        for norm in self.frozen_norms:
            norm.eval()


def encoder_layers(encoder: nn.Module) -> list[list[nn.Module]]:
    """The encoder's layers in forward order: each a convolution or linear map with what follows it before the next.

    A norm (and any other module with parameters of its own) goes with the layer before it. Modules that the forward
    pass does not reach belong to no layer and have no part in the output.
    """
    order: list[nn.Module] = []
    seen: set[int] = set()

    def note(module: nn.Module, *_: object) -> None:
        if id(module) not in seen:
            seen.add(id(module))
            order.append(module)

    own_state = [
        module
        for module in encoder.modules()
        if next(module.parameters(recurse=False), None) is not None or isinstance(module, _NormBase)
    ]
    hooks = [module.register_forward_hook(note) for module in own_state]
    was_training = encoder.training
    encoder.eval()
    probe = next(encoder.parameters())
    try:
        with torch.no_grad():
            encoder(torch.zeros(1, 3, 64, 64, device=probe.device, dtype=probe.dtype))
    finally:
        for hook in hooks:
            hook.remove()
        encoder.train(was_training)
    layers: list[list[nn.Module]] = []
    for module in order:
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear) or not layers:
            layers.append([module])
        else:
            layers[-1].append(module)
    return layers


def freeze(encoder: nn.Module, fraction: float) -> Freezing:
    """Leave the last ``round(fraction * n)`` of the n layers trainable and freeze the rest with their norms."""
    layers = encoder_layers(encoder)
    trained = round(fraction * len(layers))
    encoder.requires_grad_(False)
    for layer in layers[len(layers) - trained :]:
        for module in layer:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(True)
    frozen = layers[: len(layers) - trained]
    norms = tuple(module for layer in frozen for module in layer if isinstance(module, _NormBase))
    return Freezing(layers=len(layers), trained=trained, frozen_norms=norms)
