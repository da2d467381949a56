"""TrainConfig and DataConfig as plain data. Oracles: pydantic's rules by hand; a process without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from tunesearch.segmentation import config as names
from tunesearch.segmentation.config import ARCHITECTURES, DataConfig, Size, TrainConfig

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
        ("architecture", "unett", "architecture must be one of unet, unet_medium, unet_small, encoder_unet"),
        ("architecture", 3, "architecture must be one of"),
        ("architecture", "my.module:", "or an import path 'module:function'"),
        ("loss", "hinge", "loss must be one of cross_entropy, dice, focal or an import path"),
        ("optimizer", "adagrad", "'adam', 'adamw', 'sgd'"),
        ("schedule", "linear", "'none', 'time_decay' or 'cosine'"),
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


@pytest.mark.parametrize("architecture", ["pspnet", "deeplabv3plus"])
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
    assert get_args(fields["class_weights"].annotation) == names.CLASS_WEIGHTS
    assert get_args(fields["schedule"].annotation) == names.SCHEDULES
    assert get_args(fields["optimizer"].annotation) == names.OPTIMIZERS


# --------------------------------------------------------------------------------------------------------- governing()

ALWAYS = set(TrainConfig.model_fields) - {
    "seed", "encoder", "encoder_weights", "finetune_fraction", "momentum", "lr_decay", "focal_gamma",
    "decay_norms_and_biases",
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "more"),
    [
        ({}, set()),
        (ENCODER, {"encoder", "encoder_weights", "finetune_fraction"}),
        ({"architecture": "own:net"}, {"encoder", "encoder_weights", "finetune_fraction"}),  # it gets the whole config
        ({"optimizer": "sgd"}, {"momentum"}),
        ({"optimizer": "rmsprop"}, {"momentum"}),
        ({"optimizer": "adamw"}, set()),
        ({"schedule": "time_decay"}, {"lr_decay"}),
        ({"schedule": "cosine"}, set()),
        ({"loss": "focal"}, {"focal_gamma"}),
        ({"loss": "dice"}, set()),
        ({"loss": "own:loss"}, {"focal_gamma"}),  # it gets the whole config
        ({"weight_decay": 0.1}, {"decay_norms_and_biases"}),
    ],
)
def test_only_what_has_an_effect_governs(fields: dict[str, Any], more: set[str]) -> None:
    """By hand, from each field's own description."""
    assert set(config(**fields).governing()) == ALWAYS | more


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
    assert config(architecture=architecture, encoder="resnet18").has_encoder == (architecture[:4] != "unet")


def test_importing_the_configuration_imports_nothing_heavy() -> None:
    """The command line validates a file at once: a process of its own tells what came along."""
    code = "import sys, tunesearch.segmentation.config; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not {"torch", "numpy", "albumentations", "timm", "ray", "optuna", "mlflow"} & set(output.split())
