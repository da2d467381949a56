"""The table of architectures, and the one network class that the trainer, the export and the user see."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunesearch.errors import InputError, Problem
from tunesearch.segmentation.config import IMPORT_PATH, TrainConfig
from tunesearch.segmentation.models.freezing import Freezing, freeze
from tunesearch.segmentation.models.library import IMAGENET_MEAN, IMAGENET_STD, LIBRARY, build_library, normalisation
from tunesearch.segmentation.models.unet import WIDTHS, UNet
from tunesearch.segmentation.models.weights import load_encoder

__all__ = ["ARCHITECTURES", "SegmentationModel", "build_model", "import_object"]

ARCHITECTURES: tuple[str, ...] = (*WIDTHS, *LIBRARY)


class SegmentationModel(nn.Module):
    """A network with its normalisation inside, for images of any size.

    Shapes: images (N, 3, H, W), uint8 or float in 0..255 -> logits (N, C, H, W). Heights and widths that are no
    multiple of what the network needs are padded by repeating the border, and the logits cropped.

    Attributes:
        network: the architecture itself, fed with normalised images.
        freezing: what is frozen of its encoder; None where there is no encoder.
    """

    def __init__(self, network: nn.Module, *, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.multiple = int(cast(int, getattr(network, "multiple", 1)))
        self.freezing: Freezing | None = None
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255.0 * torch.tensor(mean).view(1, 3, 1, 1))  # (1, 3, 1, 1)
        self.register_buffer("std", 255.0 * torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        x = (images.to(self.mean.dtype) - self.mean) / self.std
        down, right = -height % self.multiple, -width % self.multiple
        if down or right:
            x = F.pad(x, (0, right, 0, down), mode="replicate")
        logits: Tensor = self.network(x)
        return logits[..., :height, :width] if down or right else logits

    def train(self, mode: bool = True) -> SegmentationModel:
        """As in torch, but frozen norms stay in evaluation mode."""
        super().train(mode)
        if mode and self.freezing is not None:
            self.freezing.hold()
        return self


def import_object(path: str, what: str) -> Any:
    """The object behind ``module:attribute``, a user's own model, loss or data set.

    Raises:
        InputError: it cannot be imported.
    """
    module_name, _, attribute = path.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        hint = "put the module beside the file that names it, or on PYTHONPATH"
        problem = Problem(what, "must be importable as module:attribute", value=f"{path} ({error})", hint=hint)
        raise InputError(problem) from error


def build_model(config: TrainConfig, classes: int, *, encoder_weights: Path | None = None) -> SegmentationModel:
    """The network of a configuration, initialised, loaded and frozen as it says.

    Args:
        classes: number of classes C.
        encoder_weights: file or folder that ``imagenet`` is read from; None: the library's loader and cache.

    Raises:
        Infeasible: the parts do not go together.
        WeightsError: the encoder's weights cannot be had.
        InputError: the user's own model cannot be imported.
    """
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    if IMPORT_PATH.match(config.architecture):
        network = import_object(config.architecture, "architecture")(config, classes)
    elif config.architecture in WIDTHS:
        network = UNet(classes, WIDTHS[config.architecture], config.dropout)
    else:
        assert config.encoder is not None  # TrainConfig holds this
        mean, std = normalisation(config.encoder)
        network = build_library(config.architecture, encoder=config.encoder, classes=classes, dropout=config.dropout)
        if config.encoder_weights == "imagenet":
            load_encoder(network, config.encoder, source=encoder_weights)
    model = SegmentationModel(network, mean=mean, std=std)
    if config.has_encoder:
        model.freezing = freeze(network.encoder, config.finetune_fraction)
    return model
