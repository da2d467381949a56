"""Which fields have an effect in which configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tunesearch.segmentation.config.loss_terms import loss_terms
from tunesearch.segmentation.config.names import ENCODER_ARCHITECTURES, IMPORT_PATH, PIXEL_LOSSES
from tunesearch.segmentation.config.train_fields import TrainFields

Rule = Callable[[TrainFields], bool]


def _on(field: str, *values: Any) -> Rule:
    """Holds where ``field`` has one of ``values``, or is the user's own, which may read any field."""

    def holds(config: TrainFields) -> bool:
        value = getattr(config, field)
        return value in values or (isinstance(value, str) and IMPORT_PATH.match(value) is not None)

    return holds


def _has_term(*names: str) -> Rule:
    """Holds where one of the losses is in the sum, or the loss is the user's own."""

    def holds(config: TrainFields) -> bool:
        return any(name in names or ":" in name for _, name in loss_terms(config.loss))

    return holds


def _class_weights_govern(config: TrainFields) -> bool:
    return config.class_weights != "sample" or _has_term(*PIXEL_LOSSES)(config)


_ENCODER = _on("architecture", *ENCODER_ARCHITECTURES)
_STACKED = _on("architecture", "encoder_decoder", "conv_stack")
_OPTIONS = _on("architecture", "encoder_decoder")

GOVERNS: dict[str, Rule] = {
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
