"""Deep residual U-Net: Zhang, Liu and Wang, Road Extraction by Deep Residual U-Net (IEEE GRSL, 2018), its table 1.

Report E compares a "simple version" of it and says no more. The paper has three levels of 64, 128 and 256 channels and
a bridge of 512, halves the resolution by strided convolutions, and builds every unit of [batch norm, ReLU, 3x3 conv] x
2 beside a shortcut. It leaves open how a shortcut changes resolution and channels (here a 1x1 convolution; without
those the weights sum up to the 7.8 million that the paper names) and how the decoder doubles the resolution (here by
nearest neighbour).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)


class _Unit(nn.Module):
    """``body(x) + shortcut(x)``; the first unit of the network has no norm before its first convolution."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, first: bool = False) -> None:
        super().__init__()
        before = [] if first else [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(
            *before,
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        sum_: Tensor = self.body(x) + self.shortcut(x)
        return sum_


class ResidualUNet(nn.Module):
    """U-Net of residual units.

    Args:
        classes: number of classes C.
        dropout: probability of zeroing a feature map before the classifier.

    Shapes: (N, 3, H, W) float -> (N, C, H, W); H and W must be multiples of 8.
    """

    multiple = 8

    def __init__(self, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        first, second, third, bridge = WIDTHS
        self.down = nn.ModuleList(
            [
                _Unit(3, first, first=True),
                _Unit(first, second, stride=2),
                _Unit(second, third, stride=2),
                _Unit(third, bridge, stride=2),
            ]
        )
        self.enlarge = nn.Upsample(scale_factor=2, mode="nearest")
        self.up = nn.ModuleList(
            [_Unit(bridge + third, third), _Unit(third + second, second), _Unit(second + first, first)]
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(first, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for unit in self.down:
            x = unit(x)
            skips.append(x)
        skips.pop()
        for unit in self.up:
            x = unit(torch.cat([skips.pop(), self.enlarge(x)], dim=1))
        logits: Tensor = self.classifier(self.dropout(x))
        return logits
