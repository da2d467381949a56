"""The names that a configuration can choose from. A test holds them equal to the tables that implement them."""

from __future__ import annotations

import re
from typing import Literal

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
