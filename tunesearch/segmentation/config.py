"""TrainConfig: one training, completely. DataConfig: one data set, completely. Both are plain data.

This module imports neither torch nor any other heavy library, so that the command line can validate a file at once. The
names listed here are held equal to the tables that implement them (models, losses, optimizers, schedules) by a test.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

ENCODER_ARCHITECTURES = ("encoder_unet", "fpn", "pspnet", "deeplabv3plus")
"""Architectures of segmentation-models-pytorch: an encoder by name below a decoder."""
ARCHITECTURES = ("unet", "unet_medium", "unet_small", *ENCODER_ARCHITECTURES)
OPTIMIZERS = ("adam", "adamw", "sgd", "adamax", "nadam", "rmsprop")
SCHEDULES = ("none", "time_decay", "cosine")
LOSSES = ("cross_entropy", "dice", "focal")
CLASS_WEIGHTS = ("none", "inverse_frequency")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")

IMPORT_PATH = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
"""``module:attribute``: how a user's own model, loss or data set is named."""


def _named(table: tuple[str, ...], what: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        if isinstance(value, str) and (value in table or IMPORT_PATH.match(value)):
            return value
        raise ValueError(f"{what} must be one of {', '.join(table)} or an import path 'module:function'")

    return BeforeValidator(check, json_schema_input_type=str)


class Size(BaseModel):
    """Width and height in pixels. Written ``256x192`` (width first) or ``{width: 256, height: 192}``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(ge=16, le=8192)
    height: int = Field(ge=16, le=8192)

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if isinstance(value, str):
            match = re.fullmatch(r"\s*(\d+)\s*[xX]\s*(\d+)\s*", value)
            if not match:
                raise ValueError("size must be WIDTHxHEIGHT in pixels, such as 256x192")
            return {"width": int(match[1]), "height": int(match[2])}
        return value

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


class TrainConfig(BaseModel):
    """One training, completely. Every field may be fixed under ``train:`` or searched under ``parameters:``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    architecture: Annotated[str, _named(ARCHITECTURES, "architecture")] = "unet"
    """The network: a name of the table, or ``module:function`` called as ``function(config, classes)``."""
    encoder: str | None = None
    """Encoder of segmentation-models-pytorch, for the architectures that have one."""
    encoder_weights: Literal["imagenet", "none"] = "none"
    """Where the encoder starts from."""
    finetune_fraction: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of the encoder's layers that is trained, counted from its output side; the rest is frozen."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Probability of zeroing a feature map before the classifier (where the decoder has its own place, there)."""

    optimizer: Literal["adam", "adamw", "sgd", "adamax", "nadam", "rmsprop"] = "adam"
    """torch.optim's optimiser of that name."""
    lr: float = Field(default=1e-3, gt=0.0, le=100.0)
    """Learning rate before the schedule."""
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """For sgd and rmsprop."""
    weight_decay: float = Field(default=0.0, ge=0.0, le=10.0)
    """As torch.optim applies it (decoupled in adamw, L2 elsewhere)."""
    decay_norms_and_biases: bool = True
    """False: weight decay spares the parameters of norms and the biases."""
    schedule: Literal["none", "time_decay", "cosine"] = "none"
    """How the learning rate changes; t counts optimiser updates. time_decay: lr / (1 + lr_decay * t)."""
    lr_decay: float = Field(default=1e-3, ge=0.0, le=10.0)
    """For time_decay."""
    grad_clip: float | None = Field(default=None, gt=0.0)
    """Largest norm of the whole gradient; null: not clipped."""

    loss: Annotated[str, _named(LOSSES, "loss")] = "cross_entropy"
    """A name of the table, or ``module:function`` called as ``function(config, ignore_index, class_weights)``."""
    focal_gamma: float = Field(default=2.0, ge=0.0, le=10.0)
    """Focusing parameter of the focal loss."""
    class_weights: Literal["none", "inverse_frequency"] = "none"
    """Weights per class, measured once on the training split."""

    batch_size: int = Field(default=16, ge=1, le=65536)
    """Images per optimiser update."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Images per forward and backward pass, gradients accumulated to batch_size; null: batch_size."""
    size: Size = Size(width=128, height=128)
    """Images and masks are resized to this before they reach the network."""
    epochs: int = Field(default=30, ge=1, le=100_000)
    """Passes over the training split."""
    augmentation_strength: float = Field(default=0.5, ge=0.0, le=1.0)
    """0: none. Above 0: horizontal flip; scale, shift, rotation and colour changes grow with it."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Autocast type; auto picks what the device is fast at."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of initial weights, order, augmentation and dropout. A search derives one per trial unless it is given."""

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if self.architecture in ENCODER_ARCHITECTURES and self.encoder is None:
            raise ValueError(f"architecture {self.architecture!r} needs an encoder, such as mobilenet_v2")
        smallest = min(self.batch_size, self.micro_batch or self.batch_size)
        if self.architecture in ("pspnet", "deeplabv3plus") and smallest < 2:
            raise ValueError(
                f"{self.architecture} has batch norm on pooled features: batches of at least 2 images needed"
            )
        return self

    @property
    def has_encoder(self) -> bool:
        """Whether ``encoder``, ``encoder_weights`` and ``finetune_fraction`` govern anything."""
        return self.architecture in ENCODER_ARCHITECTURES

    def governing(self) -> dict[str, Any]:
        """The fields that have an effect, without the seed: two equal results mean the same training but for chance."""
        fields = self.model_dump(mode="json", exclude={"seed"})
        if not self.has_encoder and self.architecture in ARCHITECTURES:
            for name in ("encoder", "encoder_weights", "finetune_fraction"):
                del fields[name]
        if self.optimizer not in ("sgd", "rmsprop"):
            del fields["momentum"]
        if self.weight_decay == 0:
            del fields["decay_norms_and_biases"]
        if self.schedule != "time_decay":
            del fields["lr_decay"]
        if self.loss in LOSSES and self.loss != "focal":
            del fields["focal_gamma"]
        return fields


Color = tuple[
    Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]
]
PartSource = str | Annotated[float, Field(gt=0.0, lt=1.0)]
"""A list (its name in ImageSets/Segmentation, or a text file of names) or a seeded share."""


class ClassSpec(BaseModel):
    """One class: its name and, for colour-coded masks, every colour that stands for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    colors: tuple[Color, ...] = ()


class DataConfig(BaseModel):
    """Where images and masks lie and how they are read. Paths inside are relative to ``root``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    layout: Annotated[str, _named(("voc", "folders", "sample"), "layout")] = "voc"
    """voc: JPEGImages, SegmentationClass, ImageSets/Segmentation. folders: images + masks, paired by name. sample: the
    built-in generated scenes. ``module:function``: your own, see the README."""
    root: Path | None = None
    """Folder of the data set; ``--data`` overrides it."""
    images: str = "images"
    """folders: the image folder; wildcards allowed (``Training/*/*/Images``)."""
    masks: str = "masks"
    """folders: the mask folder, with the same wildcards."""
    mask_suffix: str = ""
    """folders: what a mask's name has after the image's stem, such as ``_mask``."""
    mask_format: Literal["index", "color", "binary"] = "index"
    """index: palette or grey PNG whose values are classes. color: RGB colours of ``classes``. binary: 0 and not 0."""
    train: str | None = None
    """The training list; null: ``train`` in the voc layout, everything that is left in folders."""
    val: PartSource | None = None
    """The validation list or share; null: ``val`` in the voc layout, a share of 0.2 in folders."""
    test: PartSource | None = None
    """A list, or a seeded share of what is not training; set aside at the start, no trial ever sees it."""
    split_seed: int = Field(default=0, ge=0)
    """Of the seeded shares."""
    classes: int | tuple[str, ...] | tuple[ClassSpec, ...] | None = None
    """Their number, names, or names with colours; null: the 21 of PASCAL VOC in the voc layout."""
    background: int | None = Field(default=0, ge=0)
    """Class left out of mean IoU without background; null: there is none."""
    ignore_index: int = Field(default=255, ge=0, le=255)
    """Label value that counts nowhere (void)."""
    ignore_colors: tuple[Color, ...] = ()
    """color: colours that mean void."""
