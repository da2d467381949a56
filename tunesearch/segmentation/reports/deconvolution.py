"""Report D's baseline, and its decoder of transposed convolutions on any encoder."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

ENCODER = (32, 64, 128, 256, 512)
DECODER = (512, 256, 128, 64, 32)
"""Channels per layer; each halves, or doubles, the resolution."""


def _with_norm(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.ReLU(inplace=True), nn.BatchNorm2d(convolution.out_channels)]


def _decoder(inputs: int) -> nn.Sequential:
    """Five times [3x3 transposed conv with stride 2, ReLU, batch norm]."""
    layers: list[nn.Module] = []
    for channels, outputs in zip((inputs, *DECODER), DECODER, strict=False):
        layers += _with_norm(nn.ConvTranspose2d(channels, outputs, 3, stride=2, padding=1, output_padding=1))
    return nn.Sequential(*layers)


class ConvDeconv(nn.Module):
    """The baseline: five strided 3x3 convolutions and five transposed ones, each with ReLU and batch norm; a 1x1 conv.

    Args:
        classes: number of classes C.
        dropout: probability of zeroing a feature map before the classifier.

    Shapes: (N, 3, H, W) float -> (N, C, H, W); H and W must be multiples of 32.
    """

    multiple = 2 ** len(ENCODER)

    def __init__(self, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in zip((3, *ENCODER), ENCODER, strict=False):
            layers += _with_norm(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1))
        self.down = nn.Sequential(*layers)
        self.up = _decoder(ENCODER[-1])
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(DECODER[-1], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(self.up(self.down(x))))
        return logits


class EncoderDeconv(nn.Module):
    """The same decoder on the last features of an encoder; report D's is ResNet-18 with frozen weights.

    Args:
        encoder: of segmentation-models-pytorch.
        classes: number of classes C.
        dropout: probability of zeroing a feature map before the classifier.

    Shapes: (N, 3, H, W) float -> (N, C, H, W); H and W must suit the encoder. The decoder doubles the
    resolution five times; where the encoder's last features are not at 1/32, the logits are resized bilinearly.
    """

    def __init__(self, encoder: Any, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = _decoder(encoder.out_channels[-1])
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(DECODER[-1], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(self.decoder(self.encoder(x)[-1])))
        size = x.shape[-2:]
        return logits if logits.shape[-2:] == size else F.interpolate(logits, size, mode="bilinear")
