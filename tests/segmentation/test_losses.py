"""Losses. Oracles: torch.nn.functional, segmentation-models-pytorch, numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor

from tunesearch.segmentation import config as names
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.losses import LOSSES, CrossEntropy, Dice, Focal, Loss, build_loss

WEIGHT = torch.tensor([0.25, 1.0, 3.0, 0.75])
MAKERS: dict[str, Callable[[Tensor | None], Loss]] = {
    "cross_entropy": lambda weight: CrossEntropy(ignore_index=255, weight=weight),
    "dice": lambda weight: Dice(ignore_index=255, weight=weight),
    "focal": lambda weight: Focal(ignore_index=255, gamma=2.0, weight=weight),
}


def batch(count: int = 5, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Logits (N, C, 6, 7) and masks (N, 6, 7) whose share of void is very different from image to image."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, classes, 6, 7, generator=generator)
    masks = torch.randint(0, classes, (count, 6, 7), generator=generator)
    void = torch.rand(count, 6, 7, generator=generator) < torch.linspace(0.0, 0.95, count).view(-1, 1, 1)
    return logits, masks.masked_fill(void, 255)


def test_the_names_of_the_configuration_are_those_of_the_table() -> None:
    assert tuple(LOSSES) == names.LOSSES


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_cross_entropy_is_torchs(weight: Tensor | None) -> None:
    logits, masks = batch()
    expected = F.cross_entropy(logits, masks, weight, ignore_index=255, reduction="mean")
    torch.testing.assert_close(CrossEntropy(ignore_index=255, weight=weight)(logits, masks), expected)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_focal_without_focus_is_cross_entropy(weight: Tensor | None) -> None:
    """Lin et al. 2017: gamma = 0 is cross-entropy."""
    logits, masks = batch()
    expected = F.cross_entropy(logits, masks, weight, ignore_index=255)
    torch.testing.assert_close(Focal(ignore_index=255, gamma=0.0, weight=weight)(logits, masks), expected)


def test_focal_of_one_pixel_by_hand() -> None:
    """p_t = e^1 / (e^1 + e^0) = 0.7310586, so (1 - p_t)^2 * -ln(p_t) = 0.0723295 * 0.3132617 = 0.0226580."""
    logits = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    masks = torch.zeros(1, 1, 1, dtype=torch.int64)
    assert Focal(ignore_index=255, gamma=2.0)(logits, masks).item() == pytest.approx(0.0226580, abs=1e-7)


def test_weighted_focal_of_two_pixels_by_hand() -> None:
    """Both pixels have p_t = 1/2: each (1/2)^2 ln 2. Weights 1 and 3, over their sum 4: the mean stays (1/4) ln 2."""
    logits = torch.zeros(1, 2, 1, 2)
    masks = torch.tensor([[[0, 1]]])
    loss = Focal(ignore_index=255, gamma=2.0, weight=torch.tensor([1.0, 3.0]))
    assert loss(logits, masks).item() == pytest.approx(math.log(2) / 4)
    # With p_t = e / (e + 1) for the second pixel: (1 * ln2 / 4 + 3 * 0.0226580) / 4 = 0.0603151.
    logits[0, 1, 0, 1] = 1.0
    assert loss(logits, masks).item() == pytest.approx((math.log(2) / 4 + 3 * 0.0226580) / 4, abs=1e-6)


def test_dice_is_that_of_segmentation_models_pytorch() -> None:
    logits, masks = batch()
    masks = masks.masked_fill(masks == 3, 0)  # an absent class, which counts in neither
    for truth in (masks, batch()[1]):
        expected = DiceLoss(mode="multiclass", from_logits=True, ignore_index=255)(logits, truth)
        if not (truth == 3).any():
            expected = expected * 4 / 3  # smp puts 0 for an absent class into its mean, here only what is there counts
        torch.testing.assert_close(Dice(ignore_index=255)(logits, truth), expected, rtol=1e-5, atol=1e-6)


def test_weighted_dice_by_hand() -> None:
    """Two pixels, classes 0 and 1, every probability 1/2: per class 1 - 2 * 0.5 / (1 + 1) = 0.5. With the first pixel
    sure of class 0, p = (1, 0), (1/2, 1/2): class 0 has 1 - 2 * 1 / (1.5 + 1) = 0.2, class 1 1 - 2 * 0.5 / (0.5 + 1)
    = 1/3; weights 1 and 3 make (0.2 + 3 / 3) / 4 = 0.3."""
    masks = torch.tensor([[[0, 1]]])
    loss = Dice(ignore_index=255, weight=torch.tensor([1.0, 3.0]))
    assert loss(torch.zeros(1, 2, 1, 2), masks).item() == pytest.approx(0.5)
    sure = torch.zeros(1, 2, 1, 2)
    sure[0, 0, 0, 0] = 100.0
    assert loss(sure, masks).item() == pytest.approx(0.3)


@pytest.mark.parametrize("name", names.LOSSES)
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_all_void_is_zero_with_zero_gradient(name: str, weight: Tensor | None) -> None:
    logits, masks = batch()
    logits.requires_grad_(True)
    loss = MAKERS[name](weight)(logits, torch.full_like(masks, 255))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("name", names.LOSSES)
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_ignored_pixels_have_exactly_no_gradient_and_no_say(name: str, weight: Tensor | None) -> None:
    logits, masks = batch()
    logits.requires_grad_(True)
    loss = MAKERS[name](weight)
    value = loss(logits, masks)
    value.backward()
    assert logits.grad is not None
    size = logits.grad.abs().sum(dim=1)  # (N, H, W)
    assert (size[masks == 255] == 0).all()
    assert (size[masks != 255] > 0).all()
    other = logits.detach() + 50 * (masks == 255).unsqueeze(1) * torch.randn(logits.shape)
    torch.testing.assert_close(loss(other, masks), value.detach())


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_micro_batches_add_up_to_the_whole(name: str, weight: Tensor | None) -> None:
    """The void is spread unevenly (0 to 95 % of an image), so a plain mean over the parts would be another number."""
    loss = MAKERS[name](weight)
    logits, masks = batch()
    whole = loss(logits, masks)
    losses = [(loss(*part), loss.share(part[1])) for part in zip(logits.split(2), masks.split(2), strict=True)]
    parts = sum(value * share for value, share in losses) / loss.share(masks)
    torch.testing.assert_close(torch.as_tensor(parts), whole)
    assert not torch.isclose(sum(value for value, _ in losses) / len(losses), whole, rtol=1e-3)


def test_share_by_hand() -> None:
    """Labels 0, 2, 2, void: three pixels count; with weights 0.25 and 3 they weigh 6.25. Dice counts images."""
    masks = torch.tensor([[[0, 2], [2, 255]]])
    assert CrossEntropy(ignore_index=255).share(masks).item() == 3
    assert Focal(ignore_index=255, gamma=2.0, weight=WEIGHT).share(masks).item() == 6.25
    assert Dice(ignore_index=255).share(masks).item() == 1


@pytest.mark.parametrize("name", names.LOSSES)
def test_half_precision_logits_are_reduced_in_float32(name: str) -> None:
    """A sum of 70,000 pixels overflows float16: the loss must be computed above it. Oracle: the float32 result."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 4, 300, 300, generator=generator).half()
    masks = torch.randint(0, 4, (1, 300, 300), generator=generator)
    loss = MAKERS[name](None)
    torch.testing.assert_close(loss(logits, masks), loss(logits.float(), masks))
    assert loss(logits, masks).dtype == torch.float32


def test_confident_and_right_is_finite() -> None:
    """Where p_t rounds to 1 the power of focal has no usable derivative of its own (0 ** (gamma - 1) for gamma < 1)."""
    logits = torch.tensor([200.0, 0.0]).view(1, 2, 1, 1).requires_grad_(True)
    Focal(ignore_index=255, gamma=0.5)(logits, torch.zeros(1, 1, 1, dtype=torch.int64)).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_build_loss_passes_the_configuration_on() -> None:
    focal = build_loss(TrainConfig(loss="focal", focal_gamma=3.5), ignore_index=9, weight=WEIGHT)
    assert isinstance(focal, Focal)
    assert (focal.gamma, focal.ignore_index) == (3.5, 9)
    assert torch.equal(focal.weight, WEIGHT)
    assert isinstance(build_loss(TrainConfig(), ignore_index=255, weight=None), CrossEntropy)
    assert isinstance(build_loss(TrainConfig(loss="dice"), ignore_index=255, weight=None), Dice)
