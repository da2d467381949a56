"""The systems of five course reports, row by row: a shipped search space reaches each, and each trains.

Oracles: the reports' own descriptions, as points of the spaces; the space, which must contain the point; and a training
of one epoch at a small size from random weights, after which the loss is finite and the weights have moved.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from tunesearch.experiment import load_experiment
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.data.cache import DecodedPart
from tunesearch.segmentation.trainer import Trainer

VGG_UNET = {"encoder": "vgg16", "encoder_depth": 4, "optimizer": "adam", "lr": 1e-5}
"""Report A, ACRE, all teams and crops."""
UPSAMPLING = {
    "architecture": "upsampling_decoder",
    "optimizer": "nadam",
    "lr": 1e-4,
    "schedule": "plateau",
    "dropout": 0.2,
}
"""Report B, ACRE, maize of one team."""
SMALL = {"width": 4}
"""Of report C's networks, whose width trebles at every level."""
BLOCKS = {"architecture": "encoder_decoder", "optimizer": "adam", "lr": 1e-3, "schedule": "none"}
"""Report C, nine photographic classes."""
ADAMW = {"optimizer": "adamw", "lr": 1e-3, "initialization": "xavier"}
"""Report D, PASCAL VOC 2007."""
WEIGHTED = {"schedule": "cosine", "class_weights": "inverse_frequency", "augmentation": "report_d", "expansion": 3}
ADAM = {"optimizer": "adam", "lr": 1e-4, "schedule": "time_decay", "lr_decay": 1e-3}
"""Report E, PASCAL VOC 2012."""


@dataclass(frozen=True)
class Row:
    """One system.

    Attributes:
        name: report and system.
        space: the shipped search space that reaches it.
        point: what the search would have to propose.
        small: what is made smaller for the test, for networks that are too large for it as they are.
    """

    name: str
    space: str
    point: dict[str, Any]
    small: dict[str, Any] = field(default_factory=dict)


ROWS = [
    Row("A small U-Net with dropout", "voc_unet", {"architecture": "unet_small", "dropout": 0.5}),
    Row("A VGG16 U-Net, last 80 %", "acre_vgg_unet", {**VGG_UNET, "finetune_fraction": 0.8, "decoder_width": 256}),
    Row("A VGG16 U-Net, wider", "acre_vgg_unet", {**VGG_UNET, "finetune_fraction": 1.0, "decoder_width": 512}),
    Row(
        "A exponential decay from epoch 15 on",
        "acre_vgg_unet",
        {**VGG_UNET, "schedule": "exponential", "lr_gamma": 0.905, "lr_hold_epochs": 15},
        {"encoder": "mobilenet_v2"},
    ),
    Row("A Xception", "acre_vgg_unet", {**VGG_UNET, "encoder": "xception"}),
    Row("A ResNetV2", "acre_vgg_unet", {**VGG_UNET, "encoder": "tu-resnetv2_101"}),
    Row(
        "B DenseNet201",
        "acre_densenet",
        {**UPSAMPLING, "encoder": "densenet201", "loss": "cross_entropy", "class_weights": "sample"},
    ),
    Row(
        "B ResNet152V2",
        "acre_densenet",
        {**UPSAMPLING, "encoder": "tu-resnetv2_152", "loss": "cross_entropy", "class_weights": "sample"},
    ),
    Row(
        "B VGG16, weights v1",
        "acre_densenet",
        {**UPSAMPLING, "encoder": "vgg16", "loss": "cross_entropy", "class_weights": "image_mean"},
    ),
    Row("B EfficientNet-B5", "acre_densenet", {**UPSAMPLING, "encoder": "efficientnet-b5"}),
    Row(
        "B tiling, copy-paste",
        "acre_densenet",
        {
            **UPSAMPLING,
            "encoder": "mobilenet_v2",
            "crop": 0.5,
            "cropping": "grid",
            "tiled_inference": True,
            "copy_paste": 0.5,
        },
    ),
    Row(
        "C model 0",
        "photo9_unet",
        {"architecture": "conv_stack", "depth": 4, "width": 30, "augmentation": "none", "batch_size": 10},
        SMALL,
    ),
    Row(
        "C phase 2: 5-5, bilinear",
        "photo9_unet",
        {**BLOCKS, "depth": 5, "width": 30, "upsampling": "bilinear", "augmentation": "report_c_early"},
        SMALL,
    ),
    Row(
        "C phase 3: 6-6, transposed",
        "photo9_unet",
        {**BLOCKS, "depth": 6, "width": 30, "upsampling": "transposed"},
        SMALL,
    ),
    Row("C phase 7.3: 4-4", "photo9_unet", {**BLOCKS, "depth": 4, "skip_connections": True}, SMALL),
    Row(
        "C phase 5: batch norm, dropout at both places",
        "photo9_unet",
        {**BLOCKS, "depth": 6, "batch_norm": True, "dropout": 0.5, "dropout_places": "both", "weight_decay": 1e-6},
        SMALL,
    ),
    Row(
        "C phase 6: double convolutions",
        "photo9_unet",
        {**BLOCKS, "double_conv": True, "batch_norm": True},
        SMALL,
    ),
    Row(
        "C phase 7: skip connections", "photo9_unet", {**BLOCKS, "skip_connections": True, "weight_decay": 1e-8}, SMALL
    ),
    Row("C phase 8: residual blocks", "photo9_unet", {**BLOCKS, "residual": True, "skip_connections": True}, SMALL),
    Row("C phase 9: plateau", "photo9_unet", {**BLOCKS, "schedule": "plateau"}, SMALL),
    Row("C phase 9.1: class weights", "photo9_unet", {**BLOCKS, "class_weights": "area"}, SMALL),
    Row(
        "C phase 7.4, final", "photo9_unet", {"architecture": "unet_deep", "augmentation": "report_c", "batch_size": 40}
    ),
    Row("C phase 7.5: step", "photo9_unet", {"architecture": "unet_deep", "schedule": "step"}),
    Row("C phase 7.7: RMSprop", "photo9_unet", {"architecture": "unet_deep", "optimizer": "rmsprop", "momentum": 0.9}),
    Row("D baseline", "voc2007_transfer", {**ADAMW, "architecture": "conv_deconv", "schedule": "none"}),
    Row("D + schedule", "voc2007_transfer", {**ADAMW, "architecture": "conv_deconv", "schedule": "cosine"}),
    Row(
        "D + augmentation",
        "voc2007_transfer",
        {**ADAMW, "architecture": "conv_deconv", "schedule": "cosine", "augmentation": "report_d", "expansion": 3},
    ),
    Row("D + class weights", "voc2007_transfer", {**ADAMW, **WEIGHTED, "architecture": "conv_deconv"}),
    Row("D custom", "voc2007_transfer", {**ADAMW, **WEIGHTED, "architecture": "max_unpooling", "batch_size": 8}),
    Row(
        "D ResNet18, frozen",
        "voc2007_transfer",
        {
            **ADAMW,
            **WEIGHTED,
            "architecture": "deconv_decoder",
            "encoder": "resnet18",
            "encoder_weights": "imagenet",
            "finetune_fraction": 0.0,
        },
    ),
    Row("D U-Net", "voc2007_transfer", {**ADAMW, **WEIGHTED, "architecture": "unet_bn"}),
    *(
        Row(f"E {name}", "voc2012_models", {**ADAM, "architecture": name, "class_weights": "inverse_frequency"})
        for name in ("unet", "unet_medium", "unet_small", "resunet", "fcn")
    ),
    Row("E pspnet", "voc2012_models", {**ADAM, "architecture": "pspnet", "encoder": "resnet18"}),
    *(
        Row(
            f"E {optimizer} {lr:g}",
            "voc2012_models",
            {
                "architecture": "unet_small",
                "optimizer": optimizer,
                "lr": lr,
                "schedule": "none",
                "loss": "cross_entropy",
            },
        )
        for optimizer in ("adam", "sgd", "adamax")
        for lr in (1e-3, 1e-4, 1e-5)
    ),
    Row(
        "E SGD with decay, the best",
        "voc_unet",
        {
            "architecture": "unet",
            "optimizer": "sgd",
            "momentum": 0.0,
            "lr": 1e-4,
            "schedule": "time_decay",
            "lr_decay": 1e-3,
            "class_weights": "inverse_frequency",
        },
    ),
    *(
        Row(
            f"E {loss}, weighted",
            "voc2012_models",
            {**ADAM, "architecture": "unet_small", "loss": loss, "class_weights": "inverse_frequency"},
        )
        for loss in ("cross_entropy", "focal", "hinge", "dice", "jaccard", "lovasz")
    ),
]


@pytest.fixture(scope="module")
def scenes() -> DecodedPart:
    rng = np.random.default_rng(0)
    masks = np.zeros((4, 64, 64), np.uint8)
    masks[:, 8:40, 8:30], masks[:, 40:, 20:50], masks[:, :4] = 1, 2, 255
    images = rng.integers(0, 80, (4, 64, 64, 3), np.uint8) + 80 * np.eye(3, dtype=np.uint8)[masks % 3]
    return DecodedPart(images, masks, tuple("abcd"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_shipped_space_reaches_it(row: Row) -> None:
    experiment = load_experiment(row.space)
    assert experiment.space.problems(row.point) == []


def _trained_differently(rows: list[Row]) -> list[Row]:
    """Without those that differ from a later one in nothing but the learning rate."""
    found = {str({**row.point, "lr": None, "small": row.small, "space": row.space}): row for row in rows}
    return list(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("row", _trained_differently(ROWS), ids=lambda row: row.name)
def test_it_trains(row: Row, scenes: DecodedPart) -> None:
    experiment = load_experiment(row.space)
    fixed = {
        name: value for name, value in experiment.train.items() if name not in ("size", "epochs", "encoder_weights")
    }
    point = {name: value for name, value in row.point.items() if name != "encoder_weights"}
    small = {"size": "64x64", "epochs": 1, "batch_size": 4, "precision": "float32"}
    config = TrainConfig.model_validate({**fixed, **point, **row.small, **small})
    trainer = Trainer(config, train=scenes, val=scenes, classes=3, device="cpu")
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
    (metrics,) = trainer.epochs()
    assert trainer.outcome == "completed"
    assert np.isfinite(metrics.val_loss)
    assert np.isfinite(metrics.train_loss)
    moved = [not torch.equal(before[name], value) for name, value in trainer.model.named_parameters() if name in before]
    assert any(moved)
