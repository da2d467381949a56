"""Models 1 and 2 of report C, with everything that the report switched on and off between its phases.

An encoder block is [3x3 conv, ReLU] and max-pooling; a decoder block is [3x3 conv, ReLU] and a doubling of the
resolution, in this order, so the decoder's convolutions work at half the resolution that they lead to. The options:

- upsampling: bilinear (corner pixels aligned, as torch's UpsamplingBilinear2d), nearest, or a 2x2 transposed
  convolution with stride 2, which keeps the channels.
- double_conv: a second [3x3 conv, ReLU] per block: before the pooling, and behind the doubling.
- batch_norm: between each of these convolutions and its ReLU.
- skip_connections: the output of encoder block i is concatenated with the decoder's features of the same resolution.
- residual: the input of an encoder block is added to its features before the pooling; through a 1x1 convolution where
  the channels differ. The report names no such convolution, but its channels do differ.
- dropout behind the whole encoder, behind the whole decoder, or both.

The last convolution of the last decoder block is the classifier: it has no batch norm and no ReLU, and the dropout
behind the decoder stands before it. So 6 poolings of width 30 are 3-30-90-270-810-2430-2430, then
2430-810-270-90-30-classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from tunesearch.segmentation.reports.conv_stack import tripled


def _conv(inputs: int, outputs: int, *, batch_norm: bool) -> list[nn.Module]:
    norm: list[nn.Module] = [nn.BatchNorm2d(outputs)] if batch_norm else []
    return [nn.Conv2d(inputs, outputs, 3, padding=1), *norm, nn.ReLU(inplace=True)]


def _doubling(kind: str, channels: int) -> nn.Module:
    if kind == "transposed":
        return nn.ConvTranspose2d(channels, channels, 2, stride=2)
    return nn.Upsample(scale_factor=2, mode=kind, align_corners=True if kind == "bilinear" else None)


class _EncoderBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, double_conv: bool, batch_norm: bool, residual: bool) -> None:
        super().__init__()
        layers = _conv(inputs, outputs, batch_norm=batch_norm)
        if double_conv:
            layers += _conv(outputs, outputs, batch_norm=batch_norm)
        self.body = nn.Sequential(*layers)
        self.shortcut: nn.Module | None = None
        if residual:
            self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        if self.shortcut is not None:
            features = features + self.shortcut(x)
        pooled: Tensor = self.pool(features)
        return pooled


class EncoderDecoder(nn.Module):
    """Report C's encoder-decoder.

    Args:
        classes: number of classes C.
        depth: encoder blocks, and decoder blocks.
        width: channels of the first block; each further one has three times as many, at most 81 times.
        upsampling: how a decoder block doubles the resolution.
        double_conv, batch_norm, skip_connections, residual: as the module says.
        dropout: probability of zeroing a feature map.
        dropout_places: where.

    Shapes: (N, 3, H, W) float -> (N, C, H, W); H and W must be multiples of :attr:`multiple`.
    """

    def __init__(
        self,
        classes: int,
        *,
        depth: int,
        width: int,
        upsampling: Literal["bilinear", "nearest", "transposed"] = "bilinear",
        double_conv: bool = False,
        batch_norm: bool = False,
        skip_connections: bool = False,
        residual: bool = False,
        dropout: float = 0.0,
        dropout_places: Literal["encoder", "decoder", "both"] = "both",
    ) -> None:
        super().__init__()
        self.multiple = 2**depth
        self.skip_connections = skip_connections
        widths = tripled(width, depth)
        self.down = nn.ModuleList(
            _EncoderBlock(inputs, outputs, double_conv=double_conv, batch_norm=batch_norm, residual=residual)
            for inputs, outputs in zip((3, *widths), widths, strict=False)
        )
        self.dropout: nn.Module = nn.Identity() if dropout_places == "decoder" else nn.Dropout2d(dropout)
        before = nn.Identity() if dropout_places == "encoder" else nn.Dropout2d(dropout)

        self.up = nn.ModuleList()
        channels = widths[-1]
        for level in range(depth - 1, -1, -1):  # the decoder block that leads to the resolution of encoder block level
            inputs = channels + (widths[level] if skip_connections and level < depth - 1 else 0)
            channels = widths[level - 1] if level else width
            layers: list[nn.Module]
            if level and double_conv:
                layers = [*_conv(inputs, channels, batch_norm=batch_norm), _doubling(upsampling, channels)]
                layers += _conv(channels, channels, batch_norm=batch_norm)
            elif level:
                layers = [*_conv(inputs, channels, batch_norm=batch_norm), _doubling(upsampling, channels)]
            elif double_conv:
                layers = [*_conv(inputs, channels, batch_norm=batch_norm), _doubling(upsampling, channels)]
                layers += [before, nn.Conv2d(channels, classes, 3, padding=1)]
            else:
                layers = [before, nn.Conv2d(inputs, classes, 3, padding=1), _doubling(upsampling, classes)]
            self.up.append(nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for block in self.down:
            x = block(x)
            skips.append(x)
        skips.pop()  # that of the last block is the decoder's input itself
        x = self.up[0](self.dropout(x))
        for block in self.up[1:]:
            skip = skips.pop()
            x = block(torch.cat([skip, x], dim=1) if self.skip_connections else x)
        return x
