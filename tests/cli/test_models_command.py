"""``tunesearch models``. Oracles: the tables, counts that report E prints, multiply-adds worked out by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from tunesearch.cli.models import models
from tunesearch.errors import Infeasible, InputError
from tunesearch.segmentation.config import ARCHITECTURES, ENCODER_ARCHITECTURES, TrainConfig
from tunesearch.segmentation.models.summary import summarize


def call(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(models, arguments)


def output(*arguments: str) -> str:
    result = call(*arguments)
    assert result.exception is None, result.exception
    assert result.exit_code == 0
    return result.output


def shown(*arguments: str) -> Any:
    return json.loads(output("show", *arguments, "--json"))


def test_list_names_every_architecture() -> None:
    lines = output("list").splitlines()
    for name in ARCHITECTURES:
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert (line.split()[1] == "yes") == (name in ENCODER_ARCHITECTURES)
    rows = json.loads(output("list", "--json"))
    assert [row["name"] for row in rows] == list(ARCHITECTURES)
    assert [row["name"] for row in rows if row["encoder"]] == list(ENCODER_ARCHITECTURES)
    assert {key for row in rows for key in row} == {"name", "encoder", "what", "source", "options"}


def test_show_tells_report_e_s_summary() -> None:
    """Sizes and counts as its Keras prints them, channels first."""
    summary = shown("fcn")
    assert (summary["parameters"], summary["trained"]) == (34_397_525, 34_397_525)
    assert summary["output"] == [21, 128, 128]
    rows = [(tuple(layer["output"]), layer["parameters"]) for layer in summary["layers"] if layer["kind"] == "Conv2d"]
    assert rows[:3] == [((64, 128, 128), 1792), ((64, 128, 128), 36_928), ((128, 64, 64), 73_856)]
    assert rows[-3:] == [((1024, 8, 8), 25_691_136), ((1024, 8, 8), 1_049_600), ((21, 8, 8), 21_525)]
    text = output("show", "fcn")
    for phrase in ("34,397,525", "21 x 128 x 128", "1024 x 8 x 8", "25,691,136", "MaxPool2d"):
        assert phrase in text


def test_multiply_adds_by_hand() -> None:
    """Per pixel 9 times the channels in and out: 3-4-12 and then the 5 classes."""
    summary = shown("conv_stack", "--set", "depth=2", "--set", "width=4", "--classes", "5", "--size", "48x32")
    assert summary["multiply_adds"] == 48 * 32 * 9 * (3 * 4 + 4 * 12 + 12 * 5)
    assert summary["output"] == [5, 32, 48]
    assert [layer["name"] for layer in summary["layers"]][-1] == "classifier"


def test_frozen_layers_are_not_trained() -> None:
    """ResNet-18 without its classifier has 11,176,512 weights."""
    arguments = ("deconv_decoder", "--encoder", "resnet18", "--set", "finetune_fraction=0")
    summary = shown(*arguments)
    assert summary["parameters"] - summary["trained"] == 11_176_512
    assert "deconv_decoder on resnet18, 21 classes, 128x128 pixels" in output("show", *arguments)


def test_pretrained_weights_are_not_fetched() -> None:
    summary = shown("fpn", "--encoder", "mobilenet_v2", "--set", "encoder_weights=imagenet")
    assert summary["encoder"] == "mobilenet_v2"


def test_an_encoder_that_counts_while_it_is_built() -> None:
    """Mix Transformer draws up its depths with numbers, which the meta device has not."""
    config = TrainConfig(architecture="segformer", encoder="mit_b0")
    assert summarize(config, 21, height=64, width=64).output == (21, 64, 64)


def test_nothing_is_left_behind() -> None:
    """Building on the meta device does not touch the generator that trainings draw from, nor the default device."""
    before = torch.get_rng_state()
    shown("unet")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.zeros(1).device.type == "cpu"


def test_one_s_own_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_network_of_test_models_command.py").write_text(
        "from torch import nn\ndef network(config, classes):\n    return nn.Conv2d(3, classes, 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert shown("own_network_of_test_models_command:network", "--classes", "2")["parameters"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("unet_smal",), "NAME: must be an architecture or module:function, but got 'unet_smal' (did you mean 'unet_"),
        (("fpn",), "architecture 'fpn' needs an encoder"),
        (("fpn", "--encoder", "resnet19"), "--encoder: encoder must be one of"),
        (("fpn", "--encoder", "resnet19"), "did you mean 'resnet18'?"),
        (("unet", "--size", "12"), "--size: size must be WIDTHxHEIGHT in pixels"),
        (("unet", "--set", "dept=3"), "--set dept: unknown key (did you mean 'depth'?)"),
        (("encoder_decoder", "--set", "depth=9"), "--set depth: must be less than or equal to 7, but got 9"),
        (("unet", "--set", "depth"), "--set: must be PATH=VALUE"),
        (("no_such_module_here:network",), "must be importable as module:attribute"),
    ],
)
def test_bad_input_is_told(arguments: tuple[str, ...], message: str) -> None:
    result = call("show", *arguments)
    assert isinstance(result.exception, InputError)
    assert result.exception.exit_code == 2
    assert message in str(result.exception)


def test_all_that_is_wrong_is_told_at_once() -> None:
    result = call("show", "unet", "--size", "12", "--set", "depth=9", "--set", "dept=1")
    assert isinstance(result.exception, InputError)
    assert len(result.exception.problems) == 3


def test_what_does_not_go_together_is_told() -> None:
    result = call("show", "deeplabv3", "--encoder", "vgg16")
    assert isinstance(result.exception, Infeasible)
    assert "deeplabv3 cannot be built on encoder vgg16" in str(result.exception)


@pytest.mark.parametrize("arguments", [[], ["list"], ["show"]])
def test_every_command_has_help(arguments: list[str]) -> None:
    assert "Usage" in output(*arguments, "--help")


def test_listing_loads_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from tunesearch.cli.models import models; "
        "CliRunner().invoke(models, ['list']); print(sorted({'torch', 'timm', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
