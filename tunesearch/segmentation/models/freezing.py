"""Freezing: which of an encoder's layers are trained, counted from its output side (``finetune_fraction``)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
"""Norms that may keep running statistics; timm's are subclasses of these."""


@dataclass(frozen=True)
class Freezing:
    """What was frozen in an encoder, as found in the built network.

    Attributes:
        layers: how many convolutions and linear maps the encoder has.
        trained: how many of them are trained, from the output side.
        frozen_norms: batch norms whose running statistics stay as they are: those of frozen layers, and those that have
            no part in the output.
    """

    layers: int
    trained: int
    frozen_norms: tuple[nn.Module, ...]

    def freeze_norms(self) -> None:
        """Put the frozen norms into evaluation mode; call after every ``model.train()``."""
        for norm in self.frozen_norms:
            norm.eval()


def encoder_layers(encoder: nn.Module) -> list[list[nn.Module]]:
    """The encoder's layers in forward order: each a convolution or linear map with what follows it before the next.

    A norm (and any other module with parameters of its own) goes with the layer before it. Modules that the forward
    pass does not reach, or whose results it throws away, belong to no layer: some encoders of less than full depth run
    one stage more than they give.
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
        if next(module.parameters(recurse=False), None) is not None or isinstance(module, NORMS)
    ]
    hooks = [module.register_forward_hook(note) for module in own_state]
    was_training = {module: module.training for module in encoder.modules()}
    parameters = list(encoder.parameters())
    was_trained = [parameter.requires_grad for parameter in parameters]
    encoder.eval().requires_grad_(True)
    probe = parameters[0]
    try:
        with torch.enable_grad():
            features = encoder(torch.zeros(1, 3, 64, 64, device=probe.device, dtype=probe.dtype))
            total = torch.stack([feature.sum() for feature in features]).sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in was_training.items():
            module.training = mode
        for parameter, trained in zip(parameters, was_trained, strict=True):
            parameter.requires_grad_(trained)
    idle = {parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is None}
    layers: list[list[nn.Module]] = []
    for module in order:
        own = set(module.parameters(recurse=False))
        if own and own <= idle:
            continue
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
    used = [module for layer in layers for module in layer]
    frozen = [module for layer in layers[: len(layers) - trained] for module in layer]
    frozen += [module for module in encoder.modules() if module not in set(used)]
    norms = tuple(module for module in frozen if isinstance(module, NORMS))
    return Freezing(layers=len(layers), trained=trained, frozen_norms=norms)
