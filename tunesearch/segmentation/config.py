"""TrainConfig: one training, completely. DataConfig: one data set, completely. Both are plain data.

This module imports neither torch nor any other heavy library, so that the command line can validate a file at once. The
names listed here are held equal to the tables that implement them (models, losses, optimizers, schedules) by a test.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

ENCODER_ARCHITECTURES = (
    "encoder_unet",
    "unetplusplus",
    "linknet",
    "manet",
    "fpn",
    "pspnet",
    "deeplabv3",
    "deeplabv3plus",
    "pan",
    "upernet",
    "segformer",
    "upsampling_decoder",
    "deconv_decoder",
)
"""Architectures with an encoder of segmentation-models-pytorch by name: that library's, then two decoders of ours."""
ARCHITECTURES = (
    "unet",
    "unet_medium",
    "unet_small",
    "unet_bn",
    "unet_deep",
    "resunet",
    "fcn",
    "conv_stack",
    "encoder_decoder",
    "conv_deconv",
    "max_unpooling",
    *ENCODER_ARCHITECTURES,
)
BATCHES_OF_TWO = ("deeplabv3", "deeplabv3plus", "pan", "upernet", "max_unpooling")
"""Architectures with a batch norm on features of one pixel, which a single image cannot be trained with."""
POOLED_ENCODERS = re.compile(r"resnest|skresne")
"""Encoders of which the same is true."""
OPTIMIZERS = ("adam", "adamw", "sgd", "adamax", "nadam", "rmsprop")
SCHEDULES = ("none", "time_decay", "exponential", "cosine", "plateau", "step", "poly")
PIXEL_LOSSES = ("cross_entropy", "focal", "hinge")
"""Means over pixels: these know per-sample class weights and hard pixels."""
LOSSES = (*PIXEL_LOSSES, "dice", "jaccard", "tversky", "lovasz")
CLASS_WEIGHTS = ("none", "inverse_frequency", "median_frequency", "area", "image_mean", "sample")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
AUGMENTATIONS = ("none", "flip", "standard", "report_c_early", "report_c", "report_d")
VAL_METRICS = ("val_miou", "val_miou_no_background", "val_dice", "val_pixel_accuracy", "val_loss")
"""What a validation pass measures of the whole: of these only val_loss is better when it is smaller."""

IMPORT_PATH = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
"""``module:attribute``: how a user's own model, loss or data set is named."""


ValMetric = Literal["val_miou", "val_miou_no_background", "val_dice", "val_pixel_accuracy", "val_loss"]


def _named(table: tuple[str, ...], what: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        if isinstance(value, str) and (value in table or IMPORT_PATH.match(value)):
            return value
        raise ValueError(f"{what} must be one of {', '.join(table)} or an import path 'module:function'")

    return BeforeValidator(check, json_schema_input_type=str)


_TERM = re.compile(r"\s*(?:(\d+(?:\.\d*)?|\.\d+)\s*\*)?\s*([a-z_]+)\s*")


def loss_terms(loss: str) -> tuple[tuple[float, str], ...]:
    """The terms of a loss as (weight, name): ``0.5*cross_entropy + dice`` -> ((0.5, cross_entropy), (1.0, dice)).

    A user's own ``module:function`` is the one term (1.0, that path).

    Raises:
        ValueError: a term is no ``NAME`` or ``WEIGHT*NAME``, a name is unknown or stands twice, a weight is zero.
    """
    if IMPORT_PATH.match(loss):
        return ((1.0, loss),)
    terms: dict[str, float] = {}
    for written in loss.split("+"):
        match = _TERM.fullmatch(written)
        if match is None or match[2] not in LOSSES:
            raise ValueError(
                f"loss must be one of {', '.join(LOSSES)}, a sum such as 0.5*cross_entropy + dice, "
                "or an import path 'module:function'"
            )
        if match[2] in terms or (match[1] is not None and float(match[1]) == 0.0):
            raise ValueError("the terms of a loss must be different losses with weights above 0")
        terms[match[2]] = float(match[1] or 1.0)
    return tuple((weight, name) for name, weight in terms.items())


def _check_loss(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, a sum of them, or an import path 'module:function'")
    loss_terms(value)
    return value


def _read_class_weights(value: Any) -> Any:
    """A name of the table, or one weight per class: a list, or in one text such as ``1, 2.5, 4``."""
    if isinstance(value, str) and value not in CLASS_WEIGHTS:
        try:
            value = [float(part) for part in value.split(",")]
        except ValueError:
            value = None
    if isinstance(value, list | tuple) and len(value) > 1 and all(_is_weight(item) for item in value) and any(value):
        return tuple(float(item) for item in value)
    if isinstance(value, str):
        return value
    raise ValueError(f"class_weights must be one of {', '.join(CLASS_WEIGHTS)} or one weight of at least 0 per class")


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def _check_augmentation(value: Any) -> Any:
    """A name of the table, or a list of albumentations transforms, each ``{Name: {argument: value}}``."""
    if isinstance(value, str) and value in AUGMENTATIONS:
        return value
    if isinstance(value, list | tuple) and all(
        isinstance(item, dict) and len(item) == 1 and all(isinstance(key, str) for key in item) for item in value
    ):
        return tuple({name: arguments or {} for name, arguments in item.items()} for item in value)
    raise ValueError(
        f"augmentation must be one of {', '.join(AUGMENTATIONS)}, or a list of albumentations transforms "
        "such as - HorizontalFlip: {p: 0.5}"
    )


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


def _read_crop(value: Any) -> Any:
    """A Size, a share or None."""
    if value is None or isinstance(value, Size):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
        return float(value)
    if isinstance(value, str | dict):
        with contextlib.suppress(ValidationError):
            return Size.model_validate(value)
    raise ValueError("crop must be WIDTHxHEIGHT of at least 16x16, a share of the size above 0 and up to 1, or null")


class TrainConfig(BaseModel):
    """One training, completely. Every field may be fixed under ``train:`` or searched under ``parameters:``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    architecture: Annotated[str, _named(ARCHITECTURES, "architecture")] = "unet"
    """The network: a name of the table, or ``module:function`` called as ``function(config, classes)``."""
    encoder: str | None = None
    """Encoder of segmentation-models-pytorch, for the architectures that have one."""
    encoder_weights: Literal["imagenet", "none"] = "none"
    """Where the encoder starts from."""
    encoder_depth: int = Field(default=5, ge=3, le=5)
    """encoder_unet, unetplusplus: stages of the encoder that are used; each but the first halves the resolution."""
    finetune_fraction: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of the encoder's layers that is trained, counted from its output side; the rest is frozen."""
    encoder_lr_factor: float = Field(default=1.0, gt=0.0, le=10.0)
    """The encoder's learning rate as a multiple of the others'."""
    decoder_width: int = Field(default=256, ge=8, le=2048)
    """encoder_unet, unetplusplus, upsampling_decoder: channels of the decoder's first block, halved from block to
    block."""
    upsampling: Literal["default", "nearest", "bilinear", "transposed"] = "default"
    """encoder_decoder: bilinear (its default) or transposed convolutions. encoder_unet, unetplusplus: nearest (their
    default) or bilinear."""
    depth: int = Field(default=5, ge=2, le=7)
    """encoder_decoder: poolings; conv_stack: hidden convolutions."""
    width: int = Field(default=30, ge=4, le=256)
    """encoder_decoder, conv_stack: channels of the first block; each further one has three times as many, at most 81
    times."""
    double_conv: bool = False
    """encoder_decoder: two convolutions per block instead of one."""
    batch_norm: bool = False
    """encoder_decoder: batch norm after every convolution of a block."""
    skip_connections: bool = False
    """encoder_decoder: every encoder block's features go to the decoder block of the same resolution."""
    residual: bool = False
    """encoder_decoder: the input of every encoder block is added to its output."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Probability of zeroing a feature map before the classifier (where the decoder has its own place, there)."""
    dropout_places: Literal["encoder", "decoder", "both"] = "both"
    """encoder_decoder: dropout behind the whole encoder, behind the whole decoder, or at both places."""
    initialization: Literal["default", "xavier", "he"] = "default"
    """Of convolutions that start from no pretrained weights: torch's own, Xavier (Glorot) normal, or He normal."""

    optimizer: Literal["adam", "adamw", "sgd", "adamax", "nadam", "rmsprop"] = "adam"
    """torch.optim's optimiser of that name."""
    lr: float = Field(default=1e-3, gt=0.0, le=100.0)
    """Learning rate before the schedule."""
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """For sgd and rmsprop."""
    nesterov: bool = False
    """For sgd with a momentum."""
    weight_decay: float = Field(default=0.0, ge=0.0, le=10.0)
    """As torch.optim applies it (decoupled in adamw, L2 elsewhere)."""
    decay_norms_and_biases: bool = True
    """False: weight decay spares the parameters of norms and the biases."""
    schedule: Literal["none", "time_decay", "exponential", "cosine", "plateau", "step", "poly"] = "none"
    """How the learning rate changes; t counts optimiser updates. time_decay: lr / (1 + lr_decay * t). exponential:
    times lr_gamma every epoch, for the first time in the one behind lr_hold_epochs. cosine: down to 0 at the end.
    plateau: times lr_gamma whenever plateau_metric has not improved for longer than plateau_patience. step: times
    lr_gamma every lr_step_epochs. poly: lr * (1 - t / total) ** poly_power."""
    lr_decay: float = Field(default=1e-3, ge=0.0, le=10.0)
    """For time_decay."""
    lr_gamma: float = Field(default=0.1, gt=0.0, lt=1.0)
    """For exponential, plateau and step: what the learning rate is multiplied by each time."""
    lr_hold_epochs: int = Field(default=0, ge=0)
    """For exponential: epochs at the first learning rate."""
    lr_step_epochs: int = Field(default=30, ge=1)
    """For step."""
    poly_power: float = Field(default=0.9, gt=0.0, le=10.0)
    """For poly."""
    plateau_metric: ValMetric = "val_loss"
    """For plateau: what must improve (val_loss: fall; the others: rise)."""
    plateau_patience: int = Field(default=5, ge=0)
    """For plateau: epochs without an improvement that are borne."""
    plateau_threshold: float = Field(default=1e-4, ge=0.0)
    """For plateau: an improvement is a change by more than this (absolute)."""
    warmup_epochs: int = Field(default=0, ge=0)
    """Epochs over which the learning rate rises linearly to what the schedule says."""
    grad_clip: float | None = Field(default=None, gt=0.0)
    """Largest norm of the whole gradient; null: not clipped."""

    loss: Annotated[str, BeforeValidator(_check_loss, json_schema_input_type=str)] = "cross_entropy"
    """A name of the table, a weighted sum such as ``0.5*cross_entropy + dice``, or ``module:function`` called as
    ``function(config, ignore_index, class_weights)``."""
    focal_gamma: float = Field(default=2.0, ge=0.0, le=10.0)
    """Focusing parameter of the focal loss."""
    tversky_alpha: float = Field(default=0.3, ge=0.0, le=1.0)
    """Weight of false positives in the Tversky loss; that of false negatives is 1 minus it (0.5: the Dice loss)."""
    class_weights: Annotated[
        Literal["none", "inverse_frequency", "median_frequency", "area", "image_mean", "sample"] | tuple[float, ...],
        BeforeValidator(_read_class_weights, json_schema_input_type=str | list[float]),
    ] = "none"
    """Weights per class: measured once on the training split, per image (sample), or given by hand, one per class."""
    hard_pixels: float = Field(default=1.0, gt=0.0, le=1.0)
    """Online hard example mining in losses over pixels: the share of each image's pixels, those with the largest loss,
    that counts."""

    batch_size: int = Field(default=16, ge=1, le=65536)
    """Images per optimiser update."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Images per forward and backward pass, gradients accumulated to batch_size; null: batch_size."""
    size: Size = Size(width=128, height=128)
    """Images and masks are resized to this before anything else."""
    normalization: Literal["auto", "measured"] = "auto"
    """Mean and deviation per channel: those that the encoder's weights were trained with (ImageNet's without an
    encoder), or those of the training split."""
    crop: Annotated[
        Size | float | None,
        BeforeValidator(_read_crop, json_schema_input_type=str | float | None),
    ] = None
    """Training sees windows of this size, or of this share of either side of ``size``; null: whole images."""
    cropping: Literal["random", "five", "grid"] = "random"
    """Which windows: one at random per image and epoch; the four corners and the centre; or all of a grid."""
    tiled_inference: bool = False
    """Validation and prediction go over the image in overlapping windows of ``crop`` and blend them."""
    tile_overlap: float = Field(default=0.25, ge=0.0, lt=0.9)
    """For the grid and for tiled_inference: the least share of a window that it has in common with the next."""
    scale_jitter: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Training images are scaled by a random factor between 1 - this and 1 + this, then cropped or padded."""
    expansion: int = Field(default=1, ge=1, le=100)
    """How often every training image is shown per epoch, augmented anew each time."""
    epochs: int = Field(default=30, ge=1, le=100_000)
    """Passes over the training split."""
    early_stop_patience: int | None = Field(default=None, ge=1)
    """End the training when early_stop_metric has not improved for this many epochs; null: train to the end."""
    early_stop_delta: float = Field(default=0.0, ge=0.0)
    """An improvement is a change by more than this (absolute)."""
    early_stop_metric: ValMetric = "val_loss"
    """What must improve (val_loss: fall; the others: rise). The best epoch's weights are kept in any case."""
    augmentation: Annotated[
        str | tuple[dict[str, dict[str, Any]], ...],
        BeforeValidator(_check_augmentation, json_schema_input_type=str | list[dict[str, Any]]),
    ] = "standard"
    """A named pipeline, or a list of albumentations transforms: ``- HorizontalFlip: {p: 0.5}``."""
    augmentation_strength: float = Field(default=0.5, ge=0.0, le=1.0)
    """For standard. 0: none. Above 0: horizontal flip; scale, shift, rotation and colour changes grow with it."""
    copy_paste: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability that objects of another training image are pasted into an image (not those of the background)."""
    ema_decay: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Decay per update of an exponential moving average of the weights, such as 0.99, which is then what is validated
    and kept (in update t at most (1 + t) / (10 + t)); null: the weights themselves are."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Autocast type; auto picks what the device is fast at."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of initial weights, order, augmentation and dropout. A search derives one per trial unless it is given."""

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
        return Size.model_construct(width=width, height=height)  # whether it is too small is told with the size

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


def _on(field: str, *values: Any) -> Callable[[TrainConfig], bool]:
    """Holds where ``field`` has one of ``values``, or is the user's own, which may read any field."""

    def holds(config: TrainConfig) -> bool:
        value = getattr(config, field)
        return value in values or (isinstance(value, str) and IMPORT_PATH.match(value) is not None)

    return holds


def _has_term(*names: str) -> Callable[[TrainConfig], bool]:
    """Holds where one of the losses is in the sum, or the loss is the user's own."""

    def holds(config: TrainConfig) -> bool:
        return any(name in names or ":" in name for _, name in loss_terms(config.loss))

    return holds


def _class_weights_govern(config: TrainConfig) -> bool:
    return config.class_weights != "sample" or _has_term(*PIXEL_LOSSES)(config)


ONE_PIXEL: dict[str, Callable[[TrainConfig], int]] = {
    "unet": lambda config: 16,
    "unet_bn": lambda config: 16,
    "encoder_decoder": lambda config: 2**config.depth if config.batch_norm else 0,
    "conv_deconv": lambda config: 32,
    **dict.fromkeys(set(ENCODER_ARCHITECTURES) - {"pspnet"}, lambda config: 32),  # that one has no norm there
    **dict.fromkeys(("encoder_unet", "unetplusplus"), lambda config: 2**config.encoder_depth),
}
"""Up to which size in pixels the deepest batch norm of an architecture sees one pixel."""

_ENCODER = _on("architecture", *ENCODER_ARCHITECTURES)
_STACKED = _on("architecture", "encoder_decoder", "conv_stack")
_OPTIONS = _on("architecture", "encoder_decoder")

GOVERNS: dict[str, Callable[[TrainConfig], bool]] = {
    "encoder": _ENCODER,
    "encoder_weights": _ENCODER,
    "encoder_depth": _on("architecture", "encoder_unet", "unetplusplus"),
    "finetune_fraction": _ENCODER,
    "encoder_lr_factor": _ENCODER,
    "decoder_width": _on("architecture", "encoder_unet", "unetplusplus", "upsampling_decoder"),
    "upsampling": _on("architecture", "encoder_unet", "unetplusplus", "encoder_decoder"),
    "depth": _STACKED,
    "width": _STACKED,
    "double_conv": _OPTIONS,
    "batch_norm": _OPTIONS,
    "skip_connections": _OPTIONS,
    "residual": _OPTIONS,
    "dropout_places": lambda config: _OPTIONS(config) and config.dropout > 0,
    "momentum": _on("optimizer", "sgd", "rmsprop"),
    "nesterov": lambda config: config.optimizer == "sgd" and config.momentum > 0,
    "decay_norms_and_biases": lambda config: config.weight_decay > 0,
    "lr_decay": _on("schedule", "time_decay"),
    "lr_gamma": _on("schedule", "exponential", "plateau", "step"),
    "lr_hold_epochs": _on("schedule", "exponential"),
    "lr_step_epochs": _on("schedule", "step"),
    "poly_power": _on("schedule", "poly"),
    "plateau_metric": _on("schedule", "plateau"),
    "plateau_patience": _on("schedule", "plateau"),
    "plateau_threshold": _on("schedule", "plateau"),
    "focal_gamma": _has_term("focal"),
    "tversky_alpha": _has_term("tversky"),
    "class_weights": _class_weights_govern,
    "hard_pixels": _has_term(*PIXEL_LOSSES),
    "cropping": lambda config: config.crop is not None,
    "tiled_inference": lambda config: config.crop is not None,
    "tile_overlap": lambda config: config.cropping == "grid" or config.tiled_inference,
    "early_stop_delta": lambda config: config.early_stop_patience is not None,
    "early_stop_metric": lambda config: config.early_stop_patience is not None,
    "augmentation_strength": lambda config: config.augmentation == "standard",
}
"""Fields that have an effect in some configurations only, and in which."""


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


class Folds(BaseModel):
    """Cross-validation over what is training and validation together: seeded k-fold, or repeated seeded draws."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    k_fold: int | None = Field(default=None, ge=2, le=100)
    """Parts, each of which is the validation of one training."""
    monte_carlo: int | None = Field(default=None, ge=2, le=100)
    """Draws of a validation share."""
    val: float = Field(default=0.2, gt=0.0, lt=1.0)
    """For monte_carlo: that share."""

    @model_validator(mode="after")
    def _one_kind(self) -> Folds:
        if (self.k_fold is None) == (self.monte_carlo is None):
            raise ValueError("must be {k_fold: 5} or {monte_carlo: 4, val: 0.2}")
        return self


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
    folds: Folds | None = None
    """``{k_fold: 5}`` or ``{monte_carlo: 4, val: 0.2}``: train every trial on each fold, its score is their mean."""
    split_seed: int = Field(default=0, ge=0)
    """Of the seeded shares and folds."""
    classes: int | tuple[str, ...] | tuple[ClassSpec, ...] | None = None
    """Their number, names, or names with colours; null: the 21 of PASCAL VOC in the voc layout."""
    background: int | None = Field(default=0, ge=0)
    """Class left out of mean IoU without background; null: there is none."""
    ignore_index: int = Field(default=255, ge=0, le=255)
    """Label value that counts nowhere (void)."""
    ignore_colors: tuple[Color, ...] = ()
    """color: colours that mean void."""
