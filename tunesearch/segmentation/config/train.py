"""TrainConfig: one training, completely."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import model_validator

from tunesearch.segmentation.config.governing import GOVERNS
from tunesearch.segmentation.config.names import BATCHES_OF_TWO, ENCODER_ARCHITECTURES, POOLED_ENCODERS
from tunesearch.segmentation.config.size import Size
from tunesearch.segmentation.config.train_fields import TrainFields

ONE_PIXEL: dict[str, Callable[[TrainFields], int]] = {
    "unet": lambda config: 16,
    "unet_bn": lambda config: 16,
    "encoder_decoder": lambda config: 2**config.depth if config.batch_norm else 0,
    "conv_deconv": lambda config: 32,
    **dict.fromkeys(set(ENCODER_ARCHITECTURES) - {"pspnet"}, lambda config: 32),  # that one has no norm there
    **dict.fromkeys(("encoder_unet", "unetplusplus"), lambda config: 2**config.encoder_depth),
}
"""Up to which size in pixels the deepest batch norm of an architecture sees one pixel."""


class TrainConfig(TrainFields):
    """One training, completely. Every field may be fixed under ``train:`` or searched under ``parameters:``."""

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if self.architecture in ENCODER_ARCHITECTURES and self.encoder is None:
            raise ValueError(f"architecture {self.architecture!r} needs an encoder, such as mobilenet_v2")
        smallest = min(self.batch_size, self.micro_batch or self.batch_size)
        if smallest < self.smallest_batch:
            if self.architecture in BATCHES_OF_TWO or POOLED_ENCODERS.search(self.encoder or ""):
                what = self.architecture if self.architecture in BATCHES_OF_TWO else f"encoder {self.encoder}"
                raise ValueError(f"{what} has batch norm on pooled features: batches of at least 2 images needed")
            raise ValueError(
                f"{self.architecture} has batch norm on features of one pixel at {self.window or self.size}: "
                "batches of at least 2 images, or a larger size, needed"
            )
        if self.crop is None and (self.cropping != "random" or self.tiled_inference):
            what = "tiled_inference" if self.cropping == "random" else f"cropping {self.cropping!r}"
            raise ValueError(f"{what} needs a crop, such as crop: 256x256")
        window = self.window
        if window is not None and (window.width > self.size.width or window.height > self.size.height):
            raise ValueError(f"crop {window} must not be larger than size {self.size}")
        if window is not None and min(window.width, window.height) < 16:
            raise ValueError(f"crop {self.crop} of size {self.size} is {window}, and at least 16x16 are needed")
        return self

    @property
    def window(self) -> Size | None:
        """``crop`` in pixels."""
        if self.crop is None or isinstance(self.crop, Size):
            return self.crop
        width, height = (round(self.crop * side) for side in (self.size.width, self.size.height))
        return Size.model_construct(width=width, height=height)  # whether it is too small is checked with the size

    @property
    def smallest_batch(self) -> int:
        """Images that a forward pass of the training needs: 2 where a batch norm sees one pixel of each, else 1."""
        if self.has_encoder and self.encoder is not None and POOLED_ENCODERS.search(self.encoder):
            return 2
        window = self.window or self.size
        one_pixel = ONE_PIXEL[self.architecture](self) if self.architecture in ONE_PIXEL else 0
        return 2 if self.architecture in BATCHES_OF_TWO or max(window.width, window.height) <= one_pixel else 1

    @property
    def has_encoder(self) -> bool:
        """Whether ``encoder``, ``encoder_weights`` and ``finetune_fraction`` govern anything."""
        return self.architecture in ENCODER_ARCHITECTURES

    def governing(self) -> dict[str, Any]:
        """The fields that have an effect, without the seed: two equal results mean the same training but for chance."""
        fields = self.model_dump(mode="json", exclude={"seed"})
        return {name: value for name, value in fields.items() if name not in GOVERNS or GOVERNS[name](self)}
