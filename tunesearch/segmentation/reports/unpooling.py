"""Report D's own network: max-pooling whose places are kept and used to un-pool (its table 1).

As printed the table does not close. Repaired here, so that 224x224 gives 224x224 with the table's sizes in between:

- both poolings have stride 2 (printed: 1), as their output sizes say; the second takes 7 to 3 (printed: 4), from which
  the next convolution's printed 2 follows;
- the 7x7 transposed convolution has padding 3 (printed: 1), so that 14 becomes 27;
- the output of the 12x12 transposed convolution is 224 (printed: 244).
"""

from __future__ import annotations

from torch import Tensor, nn


class _Step(nn.Module):
    """A strided convolution or its transpose, ReLU, batch norm."""

    def __init__(self, convolution: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.convolution = convolution
        self.norm = nn.BatchNorm2d(convolution.out_channels)

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        """``like``: the features whose height and width a transposed convolution is to give."""
        x = self.convolution(x) if like is None else self.convolution(x, output_size=like.shape[-2:])
        y: Tensor = self.norm(nn.functional.relu(x))
        return y


def _down(inputs: int, outputs: int, kernel: int = 3) -> _Step:
    return _Step(nn.Conv2d(inputs, outputs, kernel, stride=2, padding=1))


def _up(inputs: int, outputs: int, kernel: int = 3, padding: int = 1) -> _Step:
    return _Step(nn.ConvTranspose2d(inputs, outputs, kernel, stride=2, padding=padding))


class MaxUnpooling(nn.Module):
    """Six strided convolutions and two max-poolings, and all of it back: transposed convolutions and un-pooling.

    Every step up is told the size of the features that its counterpart started from, so that any even size closes.

    Args:
        classes: number of classes C.
        dropout: probability of zeroing a feature map before the classifier.

    Shapes: (N, 3, H, W) float -> (N, C, H, W); H and W must be even and at least 46.
    """

    multiple = 2
    smallest = 46

    def __init__(self, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, stride=2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2, stride=2)
        self.down1 = _down(3, 32, kernel=11)
        self.down2 = _down(32, 64)
        self.down3 = _down(64, 128)
        self.down4 = _down(128, 256)
        self.down5 = _down(256, 512)
        self.down6 = _down(512, 1024)
        self.up6 = _up(1024, 512)
        self.up5 = _up(512, 256)
        self.up4 = _up(256, 128)
        self.up3 = _up(128, 64, kernel=7, padding=3)
        self.up2 = _up(64, 32)
        self.up1 = _up(32, 32, kernel=12)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(32, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)  # 108 x 108 of a 224 x 224 image
        two = self.down2(one)  # 54
        pooled_two, places_two = self.pool(two)  # 27
        three = self.down3(pooled_two)  # 14
        four = self.down4(three)  # 7
        pooled_four, places_four = self.pool(four)  # 3
        five = self.down5(pooled_four)  # 2
        y = self.down6(five)  # 1
        y = self.up6(y, five)
        y = self.up5(y, pooled_four)
        y = self.unpool(y, places_four, output_size=four.shape[-2:])
        y = self.up4(y, three)
        y = self.up3(y, pooled_two)
        y = self.unpool(y, places_two, output_size=two.shape[-2:])
        y = self.up2(y, one)
        y = self.up1(y, x)
        logits: Tensor = self.classifier(self.dropout(y))
        return logits
