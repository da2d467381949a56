"""TrainConfig and DataConfig as plain data. Oracles: pydantic's rules by hand; a process without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from tunesearch.experiment import Objective
from tunesearch.segmentation import config as names
from tunesearch.segmentation.config import ARCHITECTURES, GOVERNS, DataConfig, Size, TrainConfig, loss_terms

ENCODER = {"architecture": "fpn", "encoder": "resnet18"}


def config(**fields: Any) -> TrainConfig:
    return TrainConfig.model_validate(fields)


@pytest.mark.parametrize("text", ["256x192", " 256 x 192 ", "256X192", {"width": 256, "height": 192}])
def test_size_is_width_then_height(text: Any) -> None:
    size = config(size=text).size
    assert (size.width, size.height) == (256, 192)
    assert str(size) == "256x192"
    assert size == Size(width=256, height=192)


@pytest.mark.parametrize("text", ["256", "256x", "256*192", "-256x192", "256x192x3", "25.6x19"])
def test_size_of_another_form(text: str) -> None:
    with pytest.raises(ValidationError, match="size must be WIDTHxHEIGHT in pixels, such as 256x192"):
        config(size=text)


@pytest.mark.parametrize("text", ["15x64", "64x15", "8193x64", "64x0", {"width": 64}, {"w": 64, "h": 64}, 128])
def test_size_out_of_bounds(text: Any) -> None:
    with pytest.raises(ValidationError):
        config(size=text)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("architecture", "unett", "architecture must be one of unet, unet_medium, unet_small, unet_bn"),
        ("architecture", 3, "architecture must be one of"),
        ("architecture", "my.module:", "or an import path 'module:function'"),
        ("loss", "hinges", "loss must be one of cross_entropy, focal, hinge, dice"),
        ("optimizer", "adagrad", "'adam', 'adamw', 'sgd'"),
        ("schedule", "linear", "'none', 'time_decay', 'exponential'"),
        ("encoder_weights", "noisy", "'imagenet' or 'none'"),
        ("lr", 0.0, "greater than 0"),
        ("lr", float("nan"), "finite number"),
        ("lr", float("inf"), "finite number"),
        ("momentum", 1.0, "less than 1"),
        ("weight_decay", -1e-9, "greater than or equal to 0"),
        ("dropout", 1.0, "less than 1"),
        ("finetune_fraction", 1.01, "less than or equal to 1"),
        ("grad_clip", 0.0, "greater than 0"),
        ("batch_size", 0, "greater than or equal to 1"),
        ("batch_size", 2.5, "valid integer"),
        ("micro_batch", 0, "greater than or equal to 1"),
        ("epochs", 0, "greater than or equal to 1"),
        ("augmentation_strength", 1.5, "less than or equal to 1"),
        ("precision", "float64", "'auto', 'float32', 'bfloat16' or 'float16'"),
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 2**32, "less than 4294967296"),
        ("learning_rate", 0.1, "Extra inputs are not permitted"),
    ],
)
def test_bad_values_are_told(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**{field: value})
    assert message in str(caught.value)
    assert field in str(caught.value)


def test_all_problems_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        config(lr=-1, epochs=0, optimizer="no", loss="no")
    assert {error["loc"][0] for error in caught.value.errors()} == {"lr", "epochs", "optimizer", "loss"}


@pytest.mark.parametrize("architecture", names.ENCODER_ARCHITECTURES)
def test_an_encoder_architecture_needs_an_encoder(architecture: str) -> None:
    with pytest.raises(ValidationError, match=f"'{architecture}' needs an encoder, such as mobilenet_v2"):
        config(architecture=architecture)


@pytest.mark.parametrize("architecture", ["upernet", "deeplabv3plus"])
@pytest.mark.parametrize("sizes", [{"batch_size": 1}, {"batch_size": 8, "micro_batch": 1}])
def test_pooled_batch_norm_needs_two_images(architecture: str, sizes: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="batches of at least 2 images needed"):
        config(architecture=architecture, encoder="resnet18", **sizes)
    assert config(architecture="encoder_unet", encoder="resnet18", **sizes)


def test_import_paths_are_names_too() -> None:
    own = config(architecture="my_models.big:build", loss="losses:hinge")
    assert (own.architecture, own.loss) == ("my_models.big:build", "losses:hinge")
    assert not own.has_encoder


def test_it_survives_json() -> None:
    full = config(**ENCODER, size="96x64", grad_clip=1.5, micro_batch=4, lr=3.3e-5, seed=2**32 - 1)
    assert TrainConfig.model_validate(json.loads(full.model_dump_json())) == full


def test_it_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        config().lr = 1.0  # type: ignore[misc]


def test_every_field_is_described() -> None:
    """The descriptions are what the JSON schema and the command line show."""
    assert [name for name, field in TrainConfig.model_fields.items() if not field.description] == []
    assert [name for name, field in DataConfig.model_fields.items() if not field.description] == []


def test_names_and_literals_agree() -> None:
    fields = TrainConfig.model_fields
    assert get_args(fields["precision"].annotation) == names.PRECISIONS
    assert get_args(get_args(fields["class_weights"].annotation)[0]) == names.CLASS_WEIGHTS
    for name in ("plateau_metric", "early_stop_metric"):
        assert get_args(fields[name].annotation) == names.VAL_METRICS
    assert get_args(Objective.model_fields["metric"].annotation) == names.VAL_METRICS
    assert get_args(fields["schedule"].annotation) == names.SCHEDULES
    assert get_args(fields["optimizer"].annotation) == names.OPTIMIZERS


# --------------------------------------------------------------------------------------------------------- governing()

ENCODER_FIELDS = {"encoder", "encoder_weights", "finetune_fraction", "encoder_lr_factor"}
OPTIONS = {"depth", "width", "upsampling", "double_conv", "batch_norm", "skip_connections", "residual"}
ALWAYS = {
    "architecture", "dropout", "initialization", "optimizer", "lr", "weight_decay", "schedule", "warmup_epochs",
    "grad_clip", "loss", "class_weights", "hard_pixels", "batch_size", "micro_batch", "size", "normalization", "crop",
    "scale_jitter", "expansion", "epochs", "early_stop_patience", "augmentation", "augmentation_strength", "copy_paste",
    "ema_decay", "precision",
}  # fmt: skip
"""What has an effect in the default configuration."""


@pytest.mark.parametrize(
    ("fields", "more", "less"),
    [
        ({}, set(), set()),
        ({"architecture": "fpn", "encoder": "resnet18"}, ENCODER_FIELDS, set()),
        (
            {**ENCODER, "architecture": "encoder_unet"},
            ENCODER_FIELDS | {"encoder_depth", "decoder_width", "upsampling"},
            set(),
        ),
        ({**ENCODER, "architecture": "upsampling_decoder"}, ENCODER_FIELDS | {"decoder_width"}, set()),
        ({**ENCODER, "architecture": "deconv_decoder"}, ENCODER_FIELDS, set()),
        ({"architecture": "conv_stack"}, {"depth", "width"}, set()),
        ({"architecture": "encoder_decoder"}, OPTIONS, set()),
        ({"architecture": "encoder_decoder", "dropout": 0.1}, OPTIONS | {"dropout_places"}, set()),
        (  # it gets the whole config
            {"architecture": "own:net"},
            ENCODER_FIELDS | OPTIONS | {"encoder_depth", "decoder_width"},
            set(),
        ),
        ({"optimizer": "sgd"}, {"momentum", "nesterov"}, set()),
        ({"optimizer": "sgd", "momentum": 0.0}, {"momentum"}, set()),
        ({"optimizer": "rmsprop"}, {"momentum"}, set()),
        ({"optimizer": "adamw"}, set(), set()),
        ({"schedule": "time_decay"}, {"lr_decay"}, set()),
        ({"schedule": "exponential"}, {"lr_gamma", "lr_hold_epochs"}, set()),
        ({"schedule": "step"}, {"lr_gamma", "lr_step_epochs"}, set()),
        ({"schedule": "poly"}, {"poly_power"}, set()),
        (
            {"schedule": "plateau"},
            {"lr_gamma", "plateau_metric", "plateau_patience", "plateau_threshold"},
            set(),
        ),
        ({"schedule": "cosine"}, set(), set()),
        ({"loss": "focal"}, {"focal_gamma"}, set()),
        ({"loss": "0.5*dice + focal"}, {"focal_gamma"}, set()),
        ({"loss": "tversky"}, {"tversky_alpha"}, {"hard_pixels"}),
        ({"loss": "dice"}, set(), {"hard_pixels"}),
        ({"loss": "dice", "class_weights": "sample"}, set(), {"hard_pixels", "class_weights"}),
        ({"loss": "dice + hinge", "class_weights": "sample"}, set(), set()),
        ({"loss": "own:loss"}, {"focal_gamma", "tversky_alpha"}, set()),  # it gets the whole config
        ({"weight_decay": 0.1}, {"decay_norms_and_biases"}, set()),
        ({"crop": 0.5}, {"cropping", "tiled_inference"}, set()),
        ({"crop": 0.5, "cropping": "grid"}, {"cropping", "tiled_inference", "tile_overlap"}, set()),
        ({"crop": 0.5, "tiled_inference": True}, {"cropping", "tiled_inference", "tile_overlap"}, set()),
        ({"early_stop_patience": 3}, {"early_stop_delta", "early_stop_metric"}, set()),
        ({"augmentation": "flip"}, set(), {"augmentation_strength"}),
    ],
)
def test_only_what_has_an_effect_governs(fields: dict[str, Any], more: set[str], less: set[str]) -> None:
    """By hand, from each field's own description."""
    assert set(config(**fields).governing()) == (ALWAYS | more) - less


def test_every_field_governs_somewhere() -> None:
    assert set(TrainConfig.model_fields) == {"seed"} | ALWAYS | set(GOVERNS)


# ------------------------------------------------------------------------------------------- losses, weights, windows


@pytest.mark.parametrize(
    ("written", "terms"),
    [
        ("dice", ((1.0, "dice"),)),
        ("cross_entropy + dice", ((1.0, "cross_entropy"), (1.0, "dice"))),
        ("0.5*cross_entropy+2 * lovasz", ((0.5, "cross_entropy"), (2.0, "lovasz"))),
        (".25*hinge + focal", ((0.25, "hinge"), (1.0, "focal"))),
        ("my_losses:build", ((1.0, "my_losses:build"),)),
    ],
)
def test_terms_of_a_loss(written: str, terms: Any) -> None:
    assert loss_terms(config(loss=written).loss) == terms


@pytest.mark.parametrize(
    "written", ["dcie", "dice +", "dice + dice", "0*dice + hinge", "-1*dice", "dice - hinge", "2*own:loss", "", 3]
)
def test_a_loss_that_is_none(written: Any) -> None:
    with pytest.raises(ValidationError, match="loss"):
        config(loss=written)


def test_class_weights_by_hand() -> None:
    assert config(class_weights="1, 2.5,0").class_weights == (1.0, 2.5, 0.0)
    assert config(class_weights=[1, 3]).class_weights == (1.0, 3.0)
    assert config(class_weights="area").class_weights == "area"
    for wrong in ("aera", "1", "1, -2", [1], [0, 0], ["a", 2], True, 3):
        with pytest.raises(ValidationError, match="class_weights must be"):
            config(class_weights=wrong)


def test_a_window_is_a_size_or_a_share() -> None:
    assert config(size="320x240").window is None
    assert config(size="320x240", crop="64x32").window == Size(width=64, height=32)
    assert config(size="320x240", crop=0.8).window == Size(width=256, height=192)
    for wrong in (
        {"crop": "640x480"},
        {"crop": 1.5},
        {"crop": 0},
        {"crop": True},
        {"crop": 0.05},
        {"crop": "8x8"},
        {"cropping": "five"},
        {"tiled_inference": True},
    ):
        with pytest.raises(ValidationError, match="crop"):
            config(size="320x240", **wrong)


def test_an_augmentation_is_a_name_or_a_list() -> None:
    listed = [{"HorizontalFlip": {"p": 0.5}}, {"Rotate": None}]
    assert config(augmentation=listed).augmentation == ({"HorizontalFlip": {"p": 0.5}}, {"Rotate": {}})
    for wrong in ("flipp", ["HorizontalFlip"], [{"A": {}, "B": {}}], 3):
        with pytest.raises(ValidationError, match="augmentation must be"):
            config(augmentation=wrong)


def test_equal_in_effect() -> None:
    """Two configurations that differ in a field without effect, or in the seed, are one to the search."""
    one = config(optimizer="adam", momentum=0.5, encoder="resnet18", lr_decay=0.1, focal_gamma=1.0, seed=1)
    other = config(optimizer="adam", momentum=0.9, finetune_fraction=0.2, seed=2)
    assert one != other
    assert one.governing() == other.governing()
    assert config(optimizer="sgd", momentum=0.5).governing() != config(optimizer="sgd").governing()
    json.dumps(one.governing())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_has_encoder(architecture: str) -> None:
    own = {
        "unet",
        "unet_medium",
        "unet_small",
        "unet_bn",
        "unet_deep",
        "resunet",
        "fcn",
        "conv_stack",
        "encoder_decoder",
    }
    own |= {"conv_deconv", "max_unpooling"}
    assert config(architecture=architecture, encoder="resnet18").has_encoder == (architecture not in own)


def test_importing_the_configuration_imports_nothing_heavy() -> None:
    """The command line validates a file at once: a process of its own tells what came along."""
    code = "import sys, tunesearch.segmentation.config; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not {"torch", "numpy", "albumentations", "timm", "ray", "optuna", "mlflow"} & set(output.split())
