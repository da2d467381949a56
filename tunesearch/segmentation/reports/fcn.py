"""The FCN of report E: VGG16's first four blocks, the classifier as convolutions, and one big step up.

Its layers and their weights are printed in the report: 34,397,525 at 21 classes.
"""

from __future__ import annotations

from torch import Tensor, nn

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512))
HIDDEN = 1024


class FCN(nn.Module):
    """Four VGG16 blocks with their poolings, 7x7 conv, dropout, 1x1 conv, dropout, 1x1 conv, up-sampling by 16.

    The last step is bilinear, with pixel centres that stay where they are (``align_corners=False``); the report does
    not say of which kind its own is. The dropout is of single values, as Keras' Dropout.

    Args:
        classes: number of classes C.
        dropout: probability of zeroing a value, at both places.

    Shapes: (N, 3, H, W) float -> (N, C, H, W); H and W must be multiples of 16.
    """

    multiple = 2 ** len(BLOCKS)

    def __init__(self, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for block in BLOCKS:
            for width in block:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.hidden = nn.Sequential(
            nn.Conv2d(channels, HIDDEN, 7, padding=3),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(HIDDEN, HIDDEN, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )
        self.classifier = nn.Conv2d(HIDDEN, classes, 1)
        self.up = nn.Upsample(scale_factor=self.multiple, mode="bilinear", align_corners=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.up(self.classifier(self.hidden(self.features(x))))
        return logits
