"""Model 0 of report C: convolutions at full resolution and nothing else."""

from __future__ import annotations

from torch import Tensor, nn


def tripled(width: int, count: int) -> list[int]:
    """Channels of report C's blocks: ``width``, then three times as many in each, at most 81 times ``width``."""
    return [width * 3 ** min(index, 4) for index in range(count)]


class ConvStack(nn.Module):
    """``depth`` times [3x3 conv, ReLU], then a 3x3 conv to the classes.

    Report C's is depth 4, width 30: 3-30-90-270-810-10. Its last convolution has a ReLU too, which is left out here:
    logits must be free to be negative.

    Args:
        classes: number of classes C.
        depth: hidden convolutions.
        width: channels of the first; see :func:`tripled`.
        dropout: probability of zeroing a feature map before the classifier.

    Shapes: (N, 3, H, W) float -> (N, C, H, W), any H and W.
    """

    def __init__(self, classes: int, *, depth: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for wider in tripled(width, depth):
            layers += [nn.Conv2d(channels, wider, 3, padding=1), nn.ReLU(inplace=True)]
            channels = wider
        self.hidden = nn.Sequential(*layers)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(self.hidden(x)))
        return logits
