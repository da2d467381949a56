"""The final network of report C: a deep, narrow U-Net with a stem.

The report gives the row of layers and of channels: a stem [3x3 conv, batch norm, ReLU] x 2 of 10 channels; six levels
of [conv, batch norm, ReLU] x 2 and max-pooling, 32 to 1024 channels; six decoder blocks [transposed conv, ReLU, conv,
batch norm, ReLU], 512 to 32 channels and then 10; skip connections. It leaves open, and here is chosen:

- what is skipped: the output of each level, after its pooling, and of the stem. These, and no other features, have the
  channels and the resolution of the decoder blocks' outputs, 512 to 10 at 1/32 to 1/1.
- how: concatenated behind the transposed convolution and its ReLU, as in the U-Net that the report refers to.
- the transposed convolution: 2x2 with stride 2.
- the end: a 1x1 convolution to the classes, as logits behind a ReLU could not be negative.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

STEM = 10
WIDTHS = (32, 64, 128, 256, 512, 1024)


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class DeepUNet(nn.Module):
    """Six levels below a stem.

    Args:
        classes: number of classes C.
        dropout: probability of zeroing a feature map before the classifier.

    Shapes: (N, 3, H, W) float -> (N, C, H, W); H and W must be multiples of 64. The bottleneck of a 64x64 image is one
    pixel, but no batch norm stands there: the smallest features that one sees are 2x2.
    """

    multiple = 2 ** len(WIDTHS)

    def __init__(self, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        widths = (STEM, *WIDTHS)
        self.stem = nn.Sequential(_conv(3, STEM), _conv(STEM, STEM))
        self.down = nn.ModuleList(
            nn.Sequential(_conv(inputs, outputs), _conv(outputs, outputs), nn.MaxPool2d(2))
            for inputs, outputs in itertools.pairwise(widths)
        )
        pairs = list(itertools.pairwise(reversed(widths)))
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(deep, shallow, 2, stride=2), nn.ReLU(inplace=True))
            for deep, shallow in pairs
        )
        self.merge = nn.ModuleList(_conv(2 * shallow, shallow) for _, shallow in pairs)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(STEM, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        skips: list[Tensor] = []
        for level in self.down:
            skips.append(x)
            x = level(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], dim=1))
        logits: Tensor = self.classifier(self.dropout(x))
        return logits
