"""Optimisers. Oracle: torch.optim's class of that name, built by hand, after three updates, bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from tunesearch.segmentation import config as names
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.optimizers import OPTIMIZERS, build_optimizer

BY_HAND: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.03, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.03, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.03, weight_decay=0.1, momentum=0.7),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.03, weight_decay=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.03, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.03, weight_decay=0.1, momentum=0.7),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 2, 2))


def updates(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


def test_the_names_of_the_configuration_are_those_of_the_table() -> None:
    assert tuple(OPTIMIZERS) == names.OPTIMIZERS
    assert get_args(TrainConfig.model_fields["optimizer"].annotation) == names.OPTIMIZERS
    assert set(BY_HAND) == set(names.OPTIMIZERS)


@pytest.mark.parametrize("name", names.OPTIMIZERS)
def test_it_is_torchs(name: str) -> None:
    mine, theirs = network(), network()
    config = TrainConfig.model_validate({"optimizer": name, "lr": 0.03, "weight_decay": 0.1, "momentum": 0.7})
    optimizer, by_hand = build_optimizer(mine, config), BY_HAND[name](theirs.parameters())
    assert type(optimizer) is type(by_hand)
    assert {group["lr"] for group in optimizer.param_groups} == {0.03}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1}
    if name in ("sgd", "rmsprop"):
        assert {group["momentum"] for group in optimizer.param_groups} == {0.7}
    for one, other in zip(updates(mine, optimizer), updates(theirs, by_hand), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("spared", [False, True])
def test_weight_decay_may_spare_norms_and_biases(spared: bool) -> None:
    """By hand: weights of the two convolutions in one group; their biases and the norm's two vectors in the other."""
    model = network()
    config = TrainConfig(weight_decay=0.1, decay_norms_and_biases=not spared)
    optimizer = build_optimizer(model, config)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: decay[id(parameter)] for name, parameter in model.named_parameters()}
    small = 0.0 if spared else 0.1
    assert found == {
        "0.weight": 0.1,
        "0.bias": small,
        "1.weight": small,
        "1.bias": small,
        "2.weight": 0.1,
        "2.bias": small,
    }


def test_frozen_parameters_are_in_no_group() -> None:
    model = network()
    model[0].requires_grad_(False)
    optimizer = build_optimizer(model, TrainConfig())
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in (*model[1].parameters(), *model[2].parameters())}


def test_no_empty_group() -> None:
    """torch accepts one, but it would be told as a group of the training."""
    model = nn.Conv2d(3, 4, 3, bias=False)
    assert len(build_optimizer(model, TrainConfig()).param_groups) == 1


def test_nesterov_is_torchs() -> None:
    mine, theirs = network(), network()
    config = TrainConfig(optimizer="sgd", lr=0.03, momentum=0.7, nesterov=True)
    by_hand = torch.optim.SGD(theirs.parameters(), lr=0.03, momentum=0.7, nesterov=True)
    for one, other in zip(updates(mine, build_optimizer(mine, config)), updates(theirs, by_hand), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    # Without a momentum there is nothing to look ahead with, and torch refuses it: the field governs nothing then.
    still = TrainConfig(optimizer="sgd", momentum=0.0, nesterov=True)
    assert build_optimizer(network(), still).defaults["nesterov"] is False
    assert "nesterov" not in still.governing()


def test_the_encoder_may_have_its_own_learning_rate() -> None:
    """By hand: the first convolution is the encoder; its weight and bias learn at a tenth, the rest as without."""
    model = network()
    config = TrainConfig(lr=0.03, encoder_lr_factor=0.1)
    optimizer = build_optimizer(model, config, encoder=model[0])
    rate = {id(p): (group["lr"], group["factor"]) for group in optimizer.param_groups for p in group["params"]}
    found = {name: rate[id(parameter)] for name, parameter in model.named_parameters()}
    assert found == {
        name: pytest.approx((0.003, 0.1) if name.startswith("0.") else (0.03, 1.0))
        for name, _ in model.named_parameters()
    }
    assert len(build_optimizer(model, TrainConfig(lr=0.03), encoder=model[0]).param_groups) == 2
