"""Report B's network: an encoder and five steps up, without skip connections.

Its counts of trained parameters at 3 classes: 22,908,835 with DenseNet201, and so many has ours with densenet201.
63,298,723 with Keras' ResNet152V2, where ours with tu-resnetv2_152 has 63,242,851: Keras gives biases to the first
convolution, the last one of every block and the shortcuts (51,776) and ends in a batch norm (4,096) that timm does not
apply to features.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = 5
SLOPE = 0.3
"""Of LeakyReLU for negative values: Keras' default, which the report relies on."""


class UpsamplingDecoder(nn.Module):
    """Five times [bilinear x 2, 3x3 conv, LeakyReLU, dropout], then a 1x1 conv to the classes.

    The dropout is of single values, as Keras' Dropout.

    Args:
        encoder: of segmentation-models-pytorch; its last features are used.
        classes: number of classes C.
        width: channels of the first block, halved from block to block, at least 1; 256 in the report.
        dropout: probability of zeroing a value, in every block.

    Shapes: (N, 3, H, W) float -> (N, C, H, W); H and W must suit the encoder. Where the encoder's last
    features are not at 1/32, the logits are resized bilinearly.
    """

    def __init__(self, encoder: Any, classes: int, *, width: int = 256, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        layers: list[nn.Module] = []
        channels = encoder.out_channels[-1]
        for block in range(BLOCKS):
            narrower = max(width // 2**block, 1)
            layers += [
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                nn.Conv2d(channels, narrower, 3, padding=1),
                nn.LeakyReLU(SLOPE, inplace=True),
                nn.Dropout(dropout),
            ]
            channels = narrower
        self.decoder = nn.Sequential(*layers)
        self.classifier = nn.Conv2d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.decoder(self.encoder(x)[-1]))
        size = x.shape[-2:]
        return logits if logits.shape[-2:] == size else F.interpolate(logits, size, mode="bilinear")
