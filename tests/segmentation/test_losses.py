"""Losses. Oracles: torch.nn.functional, segmentation-models-pytorch, Keras' formula, numbers worked out by hand."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.losses import DiceLoss, JaccardLoss, LovaszLoss, TverskyLoss
from segmentation_models_pytorch.losses._functional import softmax_focal_loss_with_logits
from torch import Tensor

from tunesearch.errors import InputError
from tunesearch.segmentation import config as names
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.losses import (
    LOSSES,
    CrossEntropy,
    Dice,
    Focal,
    Hinge,
    Jaccard,
    Loss,
    Lovasz,
    PixelLoss,
    RegionLoss,
    Sum,
    Tversky,
    build_loss,
)

WEIGHT = torch.tensor([0.25, 1.0, 3.0, 0.75])
REGION_LOSSES = [name for name in names.LOSSES if name not in names.PIXEL_LOSSES]


def make(loss: str, weight: Tensor | None = None, **fields: Any) -> Loss:
    config = TrainConfig.model_validate({"loss": loss, **fields})
    return build_loss(config, ignore_index=255, weight=weight)


def batch(count: int = 5, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Logits (N, C, 6, 7) and masks (N, 6, 7) whose share of void is very different from image to image."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, classes, 6, 7, generator=generator)
    masks = torch.randint(0, classes, (count, 6, 7), generator=generator)
    void = torch.rand(count, 6, 7, generator=generator) < torch.linspace(0.0, 0.95, count).view(-1, 1, 1)
    return logits, masks.masked_fill(void, 255)


def pixel(*logits: float) -> Tensor:
    """(1, C, 1, 1)"""
    return torch.tensor(logits).view(1, -1, 1, 1)


def gradient(loss: Loss, logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient."""
    logits = logits.detach().requires_grad_(True)
    value = loss(logits, masks)
    value.backward()
    assert logits.grad is not None
    return value.detach(), logits.grad


EVERY: list[tuple[str, Tensor | None, dict[str, Any]]] = [
    *((name, None, {}) for name in names.LOSSES),
    *((name, WEIGHT, {}) for name in names.LOSSES),
    *((name, None, {"class_weights": "sample"}) for name in names.PIXEL_LOSSES),
    *((name, None, {"hard_pixels": 0.3}) for name in names.PIXEL_LOSSES),
    ("cross_entropy", WEIGHT, {"hard_pixels": 0.3}),
    ("focal", None, {"hard_pixels": 0.3, "class_weights": "sample"}),
    ("0.5*cross_entropy + 2*dice", WEIGHT, {}),
    ("focal + 0.1*hinge", None, {"class_weights": "sample", "hard_pixels": 0.5}),
]
"""Every loss with everything that it knows."""
every = pytest.mark.parametrize(
    ("name", "weight", "fields"),
    EVERY,
    ids=["-".join((name, "weight" if weight is not None else "", *map(str, f.values()))) for name, weight, f in EVERY],
)
MEANS_OVER_PIXELS = [case for case in EVERY if "dice" not in case[0] and case[0] not in REGION_LOSSES]


def test_the_names_of_the_configuration_are_those_of_the_table() -> None:
    assert tuple(LOSSES) == names.LOSSES
    for name in names.LOSSES:
        assert isinstance(make(name), PixelLoss if name in names.PIXEL_LOSSES else RegionLoss)


# --------------------------------------------------------------------------------------------------------- pixel losses


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


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_is_the_softmax_focal_of_segmentation_models_pytorch(gamma: float) -> None:
    """It knows no ignore index, so it sees the pixels that count in one row."""
    logits, masks = batch()
    valid = masks != 255
    expected = softmax_focal_loss_with_logits(logits.movedim(1, -1)[valid], masks[valid], gamma=gamma)
    torch.testing.assert_close(Focal(ignore_index=255, gamma=gamma)(logits, masks), expected)


def test_focal_of_one_pixel_by_hand() -> None:
    """p_t = e^1 / (e^1 + e^0) = 0.7310586, so (1 - p_t)^2 * -ln(p_t) = 0.0723295 * 0.3132617 = 0.0226580."""
    masks = torch.zeros(1, 1, 1, dtype=torch.int64)
    assert Focal(ignore_index=255, gamma=2.0)(pixel(1, 0), masks).item() == pytest.approx(0.0226580, abs=1e-7)


def test_weighted_focal_of_two_pixels_by_hand() -> None:
    """Both pixels have p_t = 1/2: each (1/2)^2 ln 2. Weights 1 and 3, over their sum 4: the mean stays (1/4) ln 2."""
    logits = torch.zeros(1, 2, 1, 2)
    masks = torch.tensor([[[0, 1]]])
    loss = Focal(ignore_index=255, gamma=2.0, weight=torch.tensor([1.0, 3.0]))
    assert loss(logits, masks).item() == pytest.approx(math.log(2) / 4)
    # With p_t = e / (e + 1) for the second pixel: (1 * ln2 / 4 + 3 * 0.0226580) / 4 = 0.0603151.
    logits[0, 1, 0, 1] = 1.0
    assert loss(logits, masks).item() == pytest.approx((math.log(2) / 4 + 3 * 0.0226580) / 4, abs=1e-6)


def test_hinge_by_hand() -> None:
    """Probabilities 1/2, 1/3, 1/6. Truth 0: 1 + 1/3 - 1/2 = 5/6; truth 2: 1 + 1/2 - 1/6 = 4/3; their mean 13/12."""
    logits = pixel(math.log(3), math.log(2), 0.0).expand(1, 3, 1, 3)
    loss = Hinge(ignore_index=255)
    assert loss(logits, torch.tensor([[[0, 2, 255]]])).item() == pytest.approx(13 / 12)
    assert loss(pixel(100, 0, 0), torch.tensor([[[0]]])).item() == 0.0
    assert loss(pixel(100, 0, 0), torch.tensor([[[1]]])).item() == 2.0


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_hinge_is_that_of_keras(weight: Tensor | None) -> None:
    """As documented: maximum(neg - pos + 1, 0), neg = maximum((1 - y_true) * y_pred), pos = sum(y_true * y_pred)."""
    logits, masks = batch()
    valid = masks != 255
    truth, chance = F.one_hot(masks[valid], 4), logits.movedim(1, -1)[valid].softmax(dim=-1)
    positive, negative = (truth * chance).sum(dim=-1), ((1 - truth) * chance).amax(dim=-1)
    each = (negative - positive + 1).clamp_min(0)
    of_pixel = torch.ones_like(each) if weight is None else weight[masks[valid]]
    expected = (each * of_pixel).sum() / of_pixel.sum()
    torch.testing.assert_close(Hinge(ignore_index=255, weight=weight)(logits, masks), expected)


def test_weights_per_sample_by_hand() -> None:
    """Report B. First image: classes 0, 0, 1 (and a void pixel), class 2 absent: counts 2, 1, 1, norm sqrt(6); a pixel
    of class 0 weighs 2 / sqrt(6), one of class 1 weighs 2. Second image: classes 1, 1, 1, 2: counts 1, 3, 1, so they
    weigh 1/3 and 1. At equal logits every pixel loses ln 3; the sum is ln 3 * (4 / sqrt(6) + 2 + 3/3 + 1), over the 7
    pixels that count."""
    masks = torch.tensor([[[0, 0], [1, 255]], [[1, 1], [1, 2]]])
    loss = make("cross_entropy", class_weights="sample")
    expected = math.log(3) * (4 / math.sqrt(6) + 4) / 7
    assert loss(torch.zeros(2, 3, 2, 2), masks).item() == pytest.approx(expected)
    assert loss.batch_weight(masks).item() == 7


def test_a_batch_of_samples_is_the_mean_of_its_images() -> None:
    """The report needed batches of one image: with equally many pixels each, our batch is the mean of those."""
    logits, masks = batch()
    masks = masks.masked_fill(masks == 255, 0)
    loss = make("focal", class_weights="sample")
    ones = [loss(logits[i : i + 1], masks[i : i + 1]) for i in range(len(masks))]
    torch.testing.assert_close(loss(logits, masks), torch.stack(ones).mean())


# ---------------------------------------------------------------------------------------------------------- hard pixels


def test_hard_pixels_by_hand() -> None:
    """Logits (0, x), truth 0: a pixel loses ln(1 + e^x). First image x = 0, 1, 2 and a void pixel: ceil(0.5 * 3) = 2
    are kept, x = 2 and x = 1. Second image x = -1, 3 and two void: ceil(0.5 * 2) = 1, x = 3. The sum over 3."""
    logits = torch.zeros(2, 2, 1, 4)
    logits[0, 1, 0], logits[1, 1, 0] = torch.tensor([0.0, 1.0, 2.0, 50.0]), torch.tensor([-1.0, 3.0, 50.0, 50.0])
    masks = torch.tensor([[[0, 0, 0, 255]], [[0, 0, 255, 255]]])
    loss = make("cross_entropy", hard_pixels=0.5)
    expected = sum(math.log1p(math.exp(x)) for x in (2, 1, 3)) / 3
    assert loss(logits, masks).item() == pytest.approx(expected)
    assert loss.batch_weight(masks).item() == 3
    _, grad = gradient(loss, logits, masks)
    assert (grad.abs().sum(dim=1) > 0).tolist() == [[[False, True, True, False]], [[False, True, False, False]]]


def test_hard_pixels_choose_by_the_weighted_loss() -> None:
    """Two pixels with p_t = 1/2 of weights 1 and 3, and one with p_t = e / (e + 1) of weight 3: losses ln 2 = 0.693,
    3 ln 2 = 2.079 and 3 * 0.313262 = 0.940. Of three pixels ceil(0.6 * 3) = 2 count: the two of weight 3. The divisor
    is 2/3 of the weights' sum 7."""
    logits, masks = torch.zeros(1, 2, 1, 3), torch.tensor([[[0, 1, 1]]])
    logits[0, 1, 0, 2] = 1.0
    loss = make("cross_entropy", torch.tensor([1.0, 3.0]), hard_pixels=0.6)
    expected = 3 * (math.log(2) + 0.313262) / (7 * 2 / 3)
    assert loss(logits, masks).item() == pytest.approx(expected, rel=1e-6)


def test_a_factor_in_all_weights_changes_nothing() -> None:
    """ "area" is "inverse_frequency" times the number of classes: both must mean the same learning rate."""
    logits, masks = batch()
    for name in names.LOSSES:
        for hard in (1.0, 0.4):
            value = make(name, WEIGHT, hard_pixels=hard)(logits, masks)
            torch.testing.assert_close(make(name, 21 * WEIGHT, hard_pixels=hard)(logits, masks), value)


@pytest.mark.parametrize("fields", [{}, {"class_weights": "sample"}])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_all_pixels_hard_is_the_mean(weight: Tensor | None, fields: dict[str, Any]) -> None:
    """At 1 nothing is sorted; just below 1 every pixel of these small images is still kept."""
    logits, masks = batch()
    weight = None if fields else weight
    value = make("focal", weight, **fields)(logits, masks)
    torch.testing.assert_close(make("focal", weight, hard_pixels=0.999, **fields)(logits, masks), value)


@pytest.mark.parametrize("share", [0.07, 0.1, 0.25, 0.3, 0.7, 0.9, 1e-9])
def test_the_number_of_hard_pixels_is_rounded_up_exactly(share: float) -> None:
    """Oracle: fractions of whole numbers. In float32 0.7 * 10 is above 7, and a pixel too many would be kept."""
    loss = CrossEntropy(ignore_index=255, hard_pixels=share)
    counts = torch.tensor([0, 1, 3, 10, 100, 1000, 4096, 16_777_217])
    nanos = round(share * 10**9)
    assert loss._kept(counts).tolist() == [-(-n * nanos // 10**9) for n in counts.tolist()]


# -------------------------------------------------------------------------------------------------------- region losses

SMP: dict[str, Callable[[], Any]] = {
    "dice": lambda: DiceLoss("multiclass", ignore_index=255),
    "jaccard": lambda: JaccardLoss("multiclass", ignore_index=255),
    "tversky": lambda: TverskyLoss("multiclass", ignore_index=255, alpha=0.3, beta=0.7),
    "lovasz": lambda: LovaszLoss("multiclass", ignore_index=255),
}


@pytest.mark.parametrize("name", REGION_LOSSES)
@pytest.mark.parametrize("absent", [False, True])
def test_region_losses_are_those_of_segmentation_models_pytorch(name: str, absent: bool) -> None:
    """Values and gradients. Its Dice, Jaccard and Tversky put 0 for an absent class into the mean; here, as in its
    Lovasz, only what is there counts."""
    logits, masks = batch()
    if absent:
        masks = masks.masked_fill(masks == 3, 0)
    theirs = SMP[name]()
    value, grad = gradient(make(name, tversky_alpha=0.3), logits, masks)
    expected, expected_grad = gradient(theirs, logits, masks)
    factor = 4 / 3 if absent and name != "lovasz" else 1.0
    torch.testing.assert_close(value, expected * factor, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad, expected_grad * factor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky"])
def test_class_weights_are_those_of_segmentation_models_pytorch(name: str) -> None:
    """Where no class is absent, both are the weighted mean."""
    logits, masks = batch()
    theirs = SMP[name]()
    theirs.class_weights = WEIGHT
    expected = theirs(logits, masks)
    torch.testing.assert_close(make(name, WEIGHT, tversky_alpha=0.3)(logits, masks), expected, rtol=1e-5, atol=1e-6)


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


def test_jaccard_and_tversky_by_hand() -> None:
    """The same p = (1, 0), (1/2, 1/2). Class 0: TP 1, FP 1/2, FN 0; class 1: TP 1/2, FP 0, FN 1/2. Jaccard: 1 - 1/1.5 =
    1/3 and 1 - 0.5/1 = 1/2, mean 5/12. Tversky with alpha 0.2: 1 - 1/1.1 = 1/11 and 1 - 0.5/0.9 = 4/9."""
    masks = torch.tensor([[[0, 1]]])
    sure = torch.zeros(1, 2, 1, 2)
    sure[0, 0, 0, 0] = 100.0
    assert Jaccard(ignore_index=255)(sure, masks).item() == pytest.approx(5 / 12)
    assert Tversky(ignore_index=255, alpha=0.2)(sure, masks).item() == pytest.approx((1 / 11 + 4 / 9) / 2)


def test_tversky_of_a_half_is_dice() -> None:
    """Salehi et al. 2017, section 3."""
    logits, masks = batch()
    expected = Dice(ignore_index=255, weight=WEIGHT)(logits, masks)
    torch.testing.assert_close(Tversky(ignore_index=255, alpha=0.5, weight=WEIGHT)(logits, masks), expected)


def test_lovasz_of_sure_predictions_is_one_minus_iou() -> None:
    """Berman et al. 2018: the extension equals the Jaccard loss at its corners. Truth 0 0 0 1 1 2, prediction 0 0 1 1 2
    2: IoU 2/3, 1/3, 1/2. Weights 1, 2, 5 make (1/3 + 4/3 + 5/2) / 8 = 25/48."""
    masks = torch.tensor([[[0, 0, 0, 1, 1, 2, 255]]])
    logits = 1000.0 * F.one_hot(torch.tensor([[[0, 0, 1, 1, 2, 2, 0]]]), 3).movedim(-1, 1)
    assert Lovasz(ignore_index=255)(logits, masks).item() == pytest.approx(1 - (2 / 3 + 1 / 3 + 1 / 2) / 3)
    weighted = Lovasz(ignore_index=255, weight=torch.tensor([1.0, 2.0, 5.0]))
    assert weighted(logits, masks).item() == pytest.approx(25 / 48)


def test_lovasz_keeps_its_digits_in_many_pixels() -> None:
    """Oracle: itself in float64. Differences of neighbouring Jaccard indices in float32 would be off by per cents."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(1, 3, 256, 256, generator=generator)
    masks = torch.randint(0, 3, (1, 256, 256), generator=generator)
    loss = Lovasz(ignore_index=255)
    _, grad = gradient(loss, logits, masks)
    _, exact = gradient(loss, logits.double(), masks)
    assert ((grad - exact).abs().max() / exact.abs().max()).item() < 1e-4
    _, theirs = gradient(LovaszLoss("multiclass"), logits, masks)
    assert ((theirs - exact).abs().max() / exact.abs().max()).item() > 1e-3


# ------------------------------------------------------------------------------------------------ what holds for all


@every
def test_all_void_is_zero_with_zero_gradient(name: str, weight: Tensor | None, fields: dict[str, Any]) -> None:
    logits, masks = batch()
    value, grad = gradient(make(name, weight, **fields), logits, torch.full_like(masks, 255))
    assert value.item() == 0.0
    assert torch.equal(grad, torch.zeros_like(logits))


@every
def test_ignored_pixels_have_exactly_no_gradient_and_no_say(
    name: str, weight: Tensor | None, fields: dict[str, Any]
) -> None:
    logits, masks = batch()
    loss = make(name, weight, **fields)
    value, grad = gradient(loss, logits, masks)
    size = grad.abs().sum(dim=1)  # (N, H, W)
    assert (size[masks == 255] == 0).all()
    if "hard_pixels" not in fields:
        assert (size[masks != 255] > 0).all()
    other = logits + 50 * (masks == 255).unsqueeze(1) * torch.randn(logits.shape)
    torch.testing.assert_close(loss(other, masks), value)


@pytest.mark.parametrize("name", names.LOSSES)
def test_another_ignore_index_may_be_a_class(name: str) -> None:
    """Class 2 is ignored. Oracle: the same pixels under 255, with class 2 left out of the mean."""
    logits, masks = batch()
    masks = masks.masked_fill(masks == 255, 2)
    loss = build_loss(TrainConfig(loss=name), ignore_index=2, weight=WEIGHT)
    torch.testing.assert_close(loss(logits, masks), make(name, WEIGHT)(logits, masks.masked_fill(masks == 2, 255)))


@every
@pytest.mark.parametrize("scale", [1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_saturated_logits_are_finite(
    name: str, weight: Tensor | None, fields: dict[str, Any], scale: float, dtype: torch.dtype
) -> None:
    """Sure and right, or sure and wrong: where a probability is exactly 0 or 1 no derivative may be NaN."""
    masks = batch()[1]
    logits = scale * F.one_hot(masks.where(masks != 255, 0), 4).movedim(-1, 1).to(dtype)
    value, grad = gradient(make(name, weight, focal_gamma=0.5, **fields), logits, masks)
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert torch.isfinite(grad).all()
    if scale > 0:
        assert value.item() == pytest.approx(0.0, abs=1e-6)


@every
@pytest.mark.parametrize("label", [0, 2])
def test_one_class_alone_is_finite(name: str, weight: Tensor | None, fields: dict[str, Any], label: int) -> None:
    logits, masks = batch()
    value, grad = gradient(make(name, weight, **fields), logits, torch.full_like(masks, label))
    assert torch.isfinite(value)
    assert value > 0
    assert torch.isfinite(grad).all()
    assert grad.abs().max() > 0


@pytest.mark.parametrize("name", names.LOSSES)
@pytest.mark.parametrize("hard", [1.0, 0.5])
def test_a_class_of_weight_zero_is_left_out(name: str, hard: float) -> None:
    """Where nothing else is there, the loss is 0 with zero gradients: a class that the training never saw."""
    logits, masks = batch()
    loss = make(name, torch.tensor([0.0, 1.0, 1.0, 1.0]), hard_pixels=hard)
    value, grad = gradient(loss, logits, torch.zeros_like(masks))
    assert value.item() == 0.0
    assert torch.equal(grad, torch.zeros_like(logits))
    if name in names.PIXEL_LOSSES and hard == 1.0:
        expected = make(name)(logits, masks.masked_fill(masks == 0, 255))
        torch.testing.assert_close(loss(logits, masks), expected)


@pytest.mark.parametrize("name", names.LOSSES)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_reduced_in_float32(name: str, half: torch.dtype) -> None:
    """A sum of 90,000 pixels overflows float16: the loss must be computed above it. Oracle: the float32 result."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 4, 300, 300, generator=generator).to(half)
    masks = torch.randint(0, 4, (1, 300, 300), generator=generator)
    loss = make(name)
    torch.testing.assert_close(loss(logits, masks), loss(logits.float(), masks))
    assert loss(logits, masks).dtype == torch.float32


@every
def test_gradients_are_those_of_finite_differences(name: str, weight: Tensor | None, fields: dict[str, Any]) -> None:
    """torch.autograd.gradcheck. Hinge, Lovasz and hard pixels have kinks; these random logits are not near one."""
    logits, masks = batch(2)
    logits, masks = logits[:, :, :3, :3].double().requires_grad_(True), masks[:, :3, :3]
    loss = make(name, None if weight is None else weight.double(), **fields)
    assert torch.autograd.gradcheck(lambda x: loss(x, masks), (logits,))


@every
def test_nothing_waits_for_the_device(name: str, weight: Tensor | None, fields: dict[str, Any]) -> None:
    """On the meta device there are no values: whatever would read one (a size that depends on data, .item()) raises."""
    meta = torch.device("meta")
    loss = make(name, weight, **fields).to(meta)
    logits = torch.zeros(4, 4, 6, 7, device=meta, dtype=torch.bfloat16, requires_grad=True)
    masks = torch.zeros(4, 6, 7, device=meta, dtype=torch.int64)
    loss.contribution(logits[:2], masks[:2], masks).backward()
    loss(logits, masks).backward()
    assert loss.batch_weight(masks).shape == ()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


# ------------------------------------------------------------------------------------------ micro-batches, shares, sums


@pytest.mark.parametrize(("name", "weight", "fields"), MEANS_OVER_PIXELS)
def test_micro_batches_add_up_to_the_whole(name: str, weight: Tensor | None, fields: dict[str, Any]) -> None:
    """The void is spread unevenly (0 to 95 % of an image), so a plain mean over the parts would be another number."""
    loss = make(name, weight, **fields)
    logits, masks = batch()
    whole, grad = gradient(loss, logits, masks)
    parts = list(zip(logits.split(2), masks.split(2), strict=True))
    torch.testing.assert_close(torch.stack([loss.contribution(*part, masks) for part in parts]).sum(), whole)
    assert not torch.isclose(torch.stack([loss(*part) for part in parts]).mean(), whole, rtol=1e-3)
    # The same with shares, as a mean over batches is taken; and the gradients.
    weighted = torch.stack([loss(*part) * loss.batch_weight(part[1]) for part in parts]).sum()
    torch.testing.assert_close(weighted / loss.batch_weight(masks), whole)
    some = logits.clone().requires_grad_(True)
    for chosen, truth in zip(some.split(2), masks.split(2), strict=True):
        loss.contribution(chosen, truth, masks).backward()
    torch.testing.assert_close(some.grad, grad)


@every
def test_the_only_part_is_the_whole_to_the_last_bit(name: str, weight: Tensor | None, fields: dict[str, Any]) -> None:
    loss = make(name, weight, **fields)
    logits, masks = batch()
    assert torch.equal(loss.contribution(logits, masks, masks.clone()), loss(logits, masks))


@pytest.mark.parametrize("name", REGION_LOSSES)
def test_parts_of_region_losses_count_images(name: str) -> None:
    loss = make(name, WEIGHT)
    logits, masks = batch()
    expected = (2 * loss(logits[:2], masks[:2]) + 3 * loss(logits[2:], masks[2:])) / 5
    parts = loss.contribution(logits[:2], masks[:2], masks) + loss.contribution(logits[2:], masks[2:], masks)
    torch.testing.assert_close(parts, expected)


def test_share_by_hand() -> None:
    """Labels 0, 2, 2, void: three pixels count; with weights 0.25 and 3 they weigh 6.25. Half of the pixels is two, and
    2/3 of the weights. Dice counts images."""
    masks = torch.tensor([[[0, 2], [2, 255]]])
    assert CrossEntropy(ignore_index=255).batch_weight(masks).item() == 3
    assert Focal(ignore_index=255, gamma=2.0, weight=WEIGHT).batch_weight(masks).item() == 6.25
    assert CrossEntropy(ignore_index=255, hard_pixels=0.5).batch_weight(masks).item() == 2
    assert Hinge(ignore_index=255, weight=WEIGHT, hard_pixels=0.5).batch_weight(masks).item() == pytest.approx(
        6.25 * 2 / 3
    )
    assert Dice(ignore_index=255).batch_weight(masks).item() == 1


def test_a_sum_is_the_sum_of_its_terms() -> None:
    logits, masks = batch()
    loss = make("0.5*cross_entropy + dice + 2*lovasz", WEIGHT)
    terms = (CrossEntropy, Dice, Lovasz)
    one, two, three = (kind(ignore_index=255, weight=WEIGHT) for kind in terms)
    expected = 0.5 * one(logits, masks) + two(logits, masks) + 2 * three(logits, masks)
    torch.testing.assert_close(loss(logits, masks), expected)
    part = logits[:2], masks[:2], masks
    expected = 0.5 * one.contribution(*part) + two.contribution(*part) + 2 * three.contribution(*part)
    torch.testing.assert_close(loss.contribution(*part), expected)


def test_a_sum_counts_pixels_only_where_all_its_terms_do() -> None:
    masks = batch()[1]
    valid = (masks != 255).sum().item()
    assert make("focal + 2*hinge").batch_weight(masks).item() == valid
    assert make("focal + 2*hinge", class_weights="sample").batch_weight(masks).item() == valid
    assert make("focal + dice").batch_weight(masks).item() == len(masks)


# ------------------------------------------------------------------------------------------------------------- building


def test_build_loss_passes_the_configuration_on() -> None:
    focal = build_loss(TrainConfig(loss="focal", focal_gamma=3.5, hard_pixels=0.2), ignore_index=9, weight=WEIGHT)
    assert isinstance(focal, Focal)
    assert (focal.gamma, focal.ignore_index, focal.hard_pixels, focal.sample) == (3.5, 9, 0.2, False)
    assert torch.equal(focal.weight, WEIGHT)
    tversky = make("tversky", tversky_alpha=0.1)
    assert isinstance(tversky, Tversky)
    assert (tversky.alpha, tversky.beta) == (0.1, 0.9)
    sample = make("hinge", class_weights="sample")
    assert isinstance(sample, Hinge)
    assert sample.sample
    assert type(make("cross_entropy")) is CrossEntropy
    assert type(make("1.0*jaccard")) is Jaccard
    assert type(make("2*jaccard")) is Sum


@pytest.mark.parametrize("name", REGION_LOSSES)
def test_region_losses_heed_neither_samples_nor_hard_pixels(name: str) -> None:
    """As the configuration says of what governs."""
    logits, masks = batch()
    other = make(name, class_weights="sample", hard_pixels=0.1)
    assert torch.equal(other(logits, masks), make(name)(logits, masks))


def test_a_loss_describes_itself() -> None:
    weight = torch.tensor([1.0, 2.0])
    assert make("cross_entropy").describe() == [{"loss": "CrossEntropy", "class_weights": None, "hard_pixels": 1.0}]
    assert make("0.5*focal + tversky", weight, hard_pixels=0.5, tversky_alpha=0.25).describe() == [
        {"loss": "Focal", "class_weights": [1.0, 2.0], "hard_pixels": 0.5, "gamma": 2.0, "weight": 0.5},
        {"loss": "Tversky", "class_weights": [1.0, 2.0], "alpha": 0.25, "beta": 0.75, "weight": 1.0},
    ]
    assert make("hinge", class_weights="sample").describe()[0]["class_weights"] == "sample"


def test_the_weights_go_to_the_device_with_every_term() -> None:
    loss = make("focal + dice", WEIGHT).to("meta")
    assert {buffer.device.type for buffer in loss.buffers()} == {"meta"}
    assert len(list(loss.buffers())) == 2


def test_a_user_s_own_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the configuration, the ignore index and the weights; its micro-batches are averaged by images."""
    source = """
        import torch.nn.functional as F

        def build(config, ignore_index, class_weights):
            assert (config.focal_gamma, ignore_index, class_weights.tolist()) == (1.5, 9, [1.0, 2.0])
            return squares

        def squares(logits, masks):
            return (logits ** 2).mean()
    """
    (tmp_path / "own_test_loss.py").write_text("\n".join(line[8:] for line in source.splitlines()))
    monkeypatch.syspath_prepend(str(tmp_path))
    config = TrainConfig(loss="own_test_loss:build", focal_gamma=1.5)
    loss = build_loss(config, ignore_index=9, weight=torch.tensor([1.0, 2.0]))
    monkeypatch.delitem(sys.modules, "own_test_loss")
    logits, masks = torch.arange(6.0).view(3, 2, 1, 1), torch.zeros(3, 1, 1, dtype=torch.int64)
    assert loss(logits, masks).item() == pytest.approx(55 / 6)
    assert loss.batch_weight(masks).item() == 3
    parts = loss.contribution(logits[:1], masks[:1], masks) + loss.contribution(logits[1:], masks[1:], masks)
    assert parts.item() == pytest.approx(55 / 6)
    assert loss.describe() == [{"loss": "own_test_loss:squares"}]
    with pytest.raises(InputError, match="must be importable as module:attribute"):
        build_loss(TrainConfig(loss="own_test_loss:nothing"), ignore_index=9, weight=None)
