"""The fields of a training's configuration: their types, defaults and meaning.

:class:`~tunesearch.segmentation.config.train.TrainConfig` adds how they must fit together.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tunesearch.segmentation.config.loss_terms import check_loss
from tunesearch.segmentation.config.names import ARCHITECTURES, ValMetric
from tunesearch.segmentation.config.size import Size, read_crop
from tunesearch.segmentation.config.values import check_augmentation, named, read_class_weights


class TrainFields(BaseModel):
    """Every field of a training, each valid for itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    architecture: Annotated[str, named(ARCHITECTURES, "architecture")] = "unet"
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

    loss: Annotated[str, BeforeValidator(check_loss, json_schema_input_type=str)] = "cross_entropy"
    """A name of the table, a weighted sum such as ``0.5*cross_entropy + dice``, or ``module:function`` called as
    ``function(config, ignore_index, class_weights)``."""
    focal_gamma: float = Field(default=2.0, ge=0.0, le=10.0)
    """Focusing parameter of the focal loss."""
    tversky_alpha: float = Field(default=0.3, ge=0.0, le=1.0)
    """Weight of false positives in the Tversky loss; that of false negatives is 1 minus it (0.5: the Dice loss)."""
    class_weights: Annotated[
        Literal["none", "inverse_frequency", "median_frequency", "area", "image_mean", "sample"] | tuple[float, ...],
        BeforeValidator(read_class_weights, json_schema_input_type=str | list[float]),
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
        BeforeValidator(read_crop, json_schema_input_type=str | float | None),
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
        BeforeValidator(check_augmentation, json_schema_input_type=str | list[dict[str, Any]]),
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
