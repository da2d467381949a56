"""What a configuration's network consists of and costs, without running it on a real image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tunesearch.errors import Infeasible
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.models import SegmentationModel, build_model


@dataclass(frozen=True)
class Layer:
    """One module without parts of its own, as the forward pass met it.

    Attributes:
        name: dotted path in the network.
        kind: its class.
        output: (C, H, W), or whatever else comes behind the batch.
        parameters: numbers in its weights; 0 where it was met before.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class Summary:
    """A network in numbers.

    Attributes:
        layers: in the order of the forward pass; what it does not reach is not there.
        parameters: numbers in all weights, those that nothing reaches included.
        trained: of these, the numbers that a training changes.
        multiply_adds: of one image's forward pass, in convolutions and matrix products alone; norms, activations,
            pooling and resizing are not counted.
        output: (C, H, W) of the logits.
    """

    layers: tuple[Layer, ...]
    parameters: int
    trained: int
    multiply_adds: int
    output: tuple[int, ...]


def summarize(config: TrainConfig, classes: int, *, height: int, width: int) -> Summary:
    """Build the network of a configuration with random weights and look at it.

    Everything is built and run on torch's meta device, which knows shapes and holds no numbers; encoders that compute
    with numbers while they are built (some of the transformers) are built on the CPU.

    Args:
        height, width: of the image in pixels.

    Raises:
        Infeasible, InputError: as ``build_model``.
    """
    config = config.model_copy(update={"encoder_weights": "none"})
    try:
        with torch.device("meta"):
            model = build_model(config, classes)
    except (Infeasible, RuntimeError, NotImplementedError):
        model = build_model(config, classes).to("meta")
    model.eval()

    layers: list[Layer] = []
    seen: set[nn.Module] = set()
    names = {module: name for name, module in model.network.named_modules()}

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            count = 0 if module in seen else sum(p.numel() for p in module.parameters())
            layers.append(Layer(names[module], type(module).__name__, tuple(output.shape[1:]), count))
            seen.add(module)

    for module in model.network.modules():
        if next(module.children(), None) is None and not isinstance(module, nn.Identity):
            module.register_forward_hook(note)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        logits = model(torch.zeros(1, 3, height, width, device="meta"))
    return Summary(
        layers=tuple(layers),
        parameters=_count(model),
        trained=_count(model, trained=True),
        multiply_adds=counter.get_total_flops() // 2,  # it counts a multiplication and an addition each
        output=tuple(logits.shape[1:]),
    )


def _count(model: SegmentationModel, *, trained: bool = False) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)
