"""The table of architectures, and the one network class that the trainer, the export and the user see."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunesearch.segmentation.config import IMPORT_PATH, TrainConfig
from tunesearch.segmentation.models.freezing import Freezing, freeze
from tunesearch.segmentation.models.initialization import initialize
from tunesearch.segmentation.models.library import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LIBRARY,
    MISFITS,
    Builder,
    build_library,
    misfit,
    normalisation,
)
from tunesearch.segmentation.models.unet import MEDIUM, ORIGINAL, SMALL, UNet
from tunesearch.segmentation.models.weights import load_encoder
from tunesearch.segmentation.reports import networks as reports
from tunesearch.segmentation.user_code import import_object

__all__ = ["NETWORKS", "SegmentationModel", "build_model"]

NETWORKS: dict[str, Builder] = {
    "unet": lambda config, classes: UNet(classes, ORIGINAL, config.dropout),
    "unet_medium": lambda config, classes: UNet(classes, MEDIUM, config.dropout),
    "unet_small": lambda config, classes: UNet(classes, SMALL, config.dropout),
    "unet_bn": lambda config, classes: UNet(classes, ORIGINAL, config.dropout, decoder_norm=True),
    **reports.NETWORKS,
    **dict.fromkeys(LIBRARY, build_library),
}
"""Every architecture: (configuration, number of classes) -> network, with random weights."""


class SegmentationModel(nn.Module):
    """A network with its normalisation inside, for images of any size.

    Shapes: images (N, 3, H, W), uint8 or float in 0..255 -> logits (N, C, H, W). Heights and widths that are no
    multiple of what the network needs, or smaller than it can take, are padded by repeating the border, and the logits
    cropped.

    Attributes:
        network: the architecture itself, fed with normalised images.
        freezing: what is frozen of its encoder; None where there is no encoder.
    """

    def __init__(self, network: nn.Module, *, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.multiple = int(cast(int, getattr(network, "multiple", 1)))
        self.smallest = int(cast(int, getattr(network, "smallest", 1)))
        self.freezing: Freezing | None = None
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255.0 * torch.tensor(mean).view(1, 3, 1, 1))  # (1, 3, 1, 1)
        self.register_buffer("std", 255.0 * torch.tensor(std).view(1, 3, 1, 1))

    def normalise_by(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Take other means and deviations per channel, of images in 0..1, than those the encoder was trained with."""
        for buffer, values in ((self.mean, mean), (self.std, std)):
            buffer.copy_(255.0 * torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        x = (images.to(self.mean.dtype) - self.mean) / self.std
        down, right = self._lacking(height), self._lacking(width)
        if down or right:
            x = F.pad(x, (0, right, 0, down), mode="replicate")
        logits: Tensor = self.network(x)
        return logits[..., :height, :width] if down or right else logits

    def _lacking(self, length: int) -> int:
        """Pixels to be added to a height or width."""
        enough = max(length, self.smallest)
        return enough + -enough % self.multiple - length

    @property
    def encoder(self) -> nn.Module | None:
        """The network's encoder, where it is one on an encoder."""
        encoder: nn.Module | None = getattr(self.network, "encoder", None) if self.freezing is not None else None
        return encoder

    def describe(self) -> dict[str, Any]:
        """What was built, as read from the modules. Plain data."""
        parameters = list(self.parameters())
        return {
            "network": type(self.network).__name__,
            "encoder": type(self.encoder).__name__ if self.encoder is not None else None,
            "parameters": sum(p.numel() for p in parameters),
            "trained_parameters": sum(p.numel() for p in parameters if p.requires_grad),
            "encoder_layers": self.freezing.layers if self.freezing else None,
            "encoder_layers_trained": self.freezing.trained if self.freezing else None,
            "dropout": sorted({m.p for m in self.modules() if isinstance(m, nn.Dropout | nn.Dropout2d)}),
            "normalisation": {
                "mean": [round(v / 255, 6) for v in self.mean.flatten().tolist()],
                "std": [round(v / 255, 6) for v in self.std.flatten().tolist()],
            },
        }

    def train(self, mode: bool = True) -> SegmentationModel:
        """As in torch, but frozen norms stay in evaluation mode."""
        super().train(mode)
        if mode and self.freezing is not None:
            self.freezing.freeze_norms()
        return self


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
    else:
        network = NETWORKS[config.architecture](config, classes)
        pretrained = config.has_encoder and config.encoder_weights == "imagenet"
        initialize(network, config.initialization, spare=network.encoder if pretrained else None)
    if config.has_encoder:
        assert config.encoder is not None  # TrainConfig holds this
        mean, std = normalisation(config.encoder)
        if config.encoder_weights == "imagenet":
            load_encoder(network, config.encoder, source=encoder_weights)
    model = SegmentationModel(network, mean=mean, std=std)
    if config.has_encoder:
        try:
            model.freezing = freeze(network.encoder, config.finetune_fraction)
        except MISFITS as error:  # its first forward pass: a transformer for images of one size alone
            raise misfit(config, error) from error
    return model
