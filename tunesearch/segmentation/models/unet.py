"""U-Net in four forms: three sizes, from report E (VOC 2012 at 128x128), and one with more norms, from report D.

Encoder blocks are twice [3x3 conv, ReLU, batch norm], max-pooling between them; decoder blocks are a 2x2 transposed
convolution, concatenation with the skip connection and twice [3x3 conv, ReLU], with a batch norm after each in report D
and none in report E; a 1x1 conv ends it. (The last row of D's table reads 32 channels into the 1x1 conv: the block
before it gives 64.)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

ORIGINAL = (64, 128, 256, 512, 1024)
MEDIUM = (64, 128, 256, 512)
SMALL = (64, 128, 512)
"""Channels per level, from full resolution to the bottleneck."""


def _block(inputs: int, outputs: int, *, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU(inplace=True)]
        if batch_norm:
            layers.append(nn.BatchNorm2d(outputs))
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """U-Net.

    Args:
        classes: number of classes C.
        widths: channels per level; ``len(widths) - 1`` poolings.
        dropout: probability of zeroing a feature map before the classifier.
        decoder_norm: batch norm in the decoder too.

    Shapes: (N, 3, H, W) float -> (N, C, H, W); H and W must be multiples of :attr:`multiple`.
    """

    def __init__(
        self, classes: int, widths: Sequence[int], dropout: float = 0.0, *, decoder_norm: bool = False
    ) -> None:
        super().__init__()
        self.multiple = 2 ** (len(widths) - 1)
        self.down = nn.ModuleList(
            _block(inputs, outputs, batch_norm=True) for inputs, outputs in zip((3, *widths), widths, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        deep_to_shallow = list(reversed(widths))
        pairs = list(itertools.pairwise(deep_to_shallow))
        self.up = nn.ModuleList(nn.ConvTranspose2d(deep, shallow, 2, stride=2) for deep, shallow in pairs)
        self.merge = nn.ModuleList(_block(2 * shallow, shallow, batch_norm=decoder_norm) for _, shallow in pairs)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else self.pool(x))
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], dim=1))
        logits: Tensor = self.classifier(self.dropout(x))
        return logits
