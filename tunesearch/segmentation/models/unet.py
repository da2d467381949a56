"""U-Net in the three sizes of report E (PASCAL VOC 2012 at 128x128; see docs in the README's table of models).

Encoder blocks are twice [3x3 conv, ReLU, batch norm], max-pooling between them; decoder blocks are a 2x2 transposed
convolution, concatenation with the skip connection and twice [3x3 conv, ReLU] without batch norm; a 1x1 conv ends it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

WIDTHS: dict[str, tuple[int, ...]] = {
    "unet": (64, 128, 256, 512, 1024),
    "unet_medium": (64, 128, 256, 512),
    "unet_small": (64, 128, 512),
}
"""Channels per level, from full resolution to the bottleneck."""


def _encoder_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.BatchNorm2d(outputs),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.BatchNorm2d(outputs),
    )


def _decoder_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """U-Net without batch norm in the decoder.

    Args:
        classes: number of classes C.
        widths: channels per level; ``len(widths) - 1`` poolings.
        dropout: probability of zeroing a feature map before the classifier.

    Shapes: (N, 3, H, W) float -> (N, C, H, W); H and W must be multiples of :attr:`multiple`.
    """

    def __init__(self, classes: int, widths: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        self.multiple = 2 ** (len(widths) - 1)
        self.down = nn.ModuleList(
            _encoder_block(inputs, outputs) for inputs, outputs in zip((3, *widths), widths, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        deep_to_shallow = list(reversed(widths))
        pairs = list(itertools.pairwise(deep_to_shallow))
        self.up = nn.ModuleList(nn.ConvTranspose2d(deep, shallow, 2, stride=2) for deep, shallow in pairs)
        self.merge = nn.ModuleList(_decoder_block(2 * shallow, shallow) for _, shallow in pairs)
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
