"""Losses over logits (N, C, H, W) and masks (N, H, W) int64, all deaf to the ignore index.

There are two kinds. Pixel losses are means over the pixels that count, so they know weights per pixel (class weights,
per-sample weights) and hard pixels. Region losses compare the areas of a class in truth and prediction over the whole
batch; they know weights per class. A loss may be a sum of both.

Three calls: ``loss(logits, masks)`` is the mean loss; ``share(masks)`` is the weight that a batch has in a mean over
batches; ``part(logits, masks, whole)`` is what some images of a batch add to the loss of the whole batch. The parts of
a pixel loss add up to exactly what the whole batch would give.

Nothing here waits for the device, and everything is computed in float32 at least, whatever the logits are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunesearch.segmentation.config import TrainConfig, loss_terms
from tunesearch.segmentation.models import import_object

_TINY = 1e-12
"""Least divisor: where nothing counts, a loss is 0 / _TINY = 0 with zero gradients."""
_PARTS = 10**9
"""Hard pixels are counted in integers, of this many parts: float32 cannot tell 0.7 * 10 from a little more than 7."""


class Loss(nn.Module):
    """Base of all losses; as it is, one that counts images."""

    def share(self, masks: Tensor) -> Tensor:
        """The weight that a batch has in a mean over batches, a float32 scalar: here its number of images."""
        return torch.full((), float(len(masks)), device=masks.device)

    def part(self, logits: Tensor, masks: Tensor, whole: Tensor) -> Tensor:
        """What some images of a batch add to the loss of the whole batch, a scalar.

        Args:
            logits: (N, C, H, W), of these images.
            masks: (N, H, W) int64, of these images.
            whole: (M, H, W) int64, the masks of the whole batch.
        """
        value: Tensor = self(logits, masks)
        if len(masks) == len(whole):
            return value
        return value * self.share(masks) / self.share(whole).clamp_min(_TINY)

    def describe(self) -> list[dict[str, Any]]:
        """The terms with their settings, as read from the objects. Plain data."""
        return [{"loss": type(self).__name__}]


# --------------------------------------------------------------------------------------------------------- pixel losses


class PixelLoss(Loss):
    """A mean over the pixels that count: sum of w * l over sum of w.

    w is the pixel's class weight (1 without); with ``sample`` it is its own image's weight, and the sum is divided by
    the number of pixels instead. A class weight of 0 leaves the pixels of the class out.

    With ``hard_pixels`` f below 1 only the ceil(f * n) pixels with the largest w * l of an image with n such pixels
    count (online hard example mining: Shrivastava et al. 2016, there with boxes). The divisor is then the same share,
    ceil(f * n) / n, of each image's weights: the number of kept pixels where there are no class weights, from the masks
    alone, and, like the mean itself, deaf to a factor in all weights.

    Args:
        ignore_index: label that counts nowhere.
        weight: class weights (C,) float32, or None.
        sample: weight each image by its own mask (``weight`` is then None).
        hard_pixels: the share f of each image's pixels that counts, to nine decimals.
    """

    def __init__(
        self, *, ignore_index: int, weight: Tensor | None = None, sample: bool = False, hard_pixels: float = 1.0
    ) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.weight: Tensor | None
        self.register_buffer("weight", weight)
        self.sample = sample
        self.hard_pixels = hard_pixels

    def pixels(self, logits: Tensor, masks: Tensor) -> Tensor:
        """The loss of every pixel, (N, H, W), at least 0, without weights; 0 where ignored.

        Args:
            logits: (N, C, H, W), float32 or float64.
            masks: (N, H, W) int64.
        """
        raise NotImplementedError

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        return self.part(logits, masks, masks)

    def share(self, masks: Tensor) -> Tensor:
        """Sum of the weights of the pixels that count: a float32 scalar."""
        valid = masks != self.ignore_index
        weights = valid if self.weight is None else self._class_weights(masks)
        of_image = weights.sum(dim=(1, 2)).float()
        if self.hard_pixels < 1.0:
            count = valid.sum(dim=(1, 2))
            of_image = of_image * self._kept(count) / count.clamp_min(1)
        return of_image.sum()

    def part(self, logits: Tensor, masks: Tensor, whole: Tensor) -> Tensor:
        losses = self.pixels(_precise(logits), masks)
        if self.weight is not None:
            losses = losses * self._class_weights(masks)
        elif self.sample:
            losses = losses * sample_weights(masks, logits.shape[1], self.ignore_index)
        if self.hard_pixels < 1.0:
            losses = self._hardest(losses, masks != self.ignore_index)
        return losses.sum() / self.share(whole).clamp_min(_TINY)

    def describe(self) -> list[dict[str, Any]]:
        weights = "sample" if self.sample else self.weight.tolist() if self.weight is not None else None
        (term,) = super().describe()
        return [{**term, "class_weights": weights, "hard_pixels": self.hard_pixels}]

    def _class_weights(self, masks: Tensor) -> Tensor:
        """The weight of every pixel, (N, H, W); 0 where ignored."""
        assert self.weight is not None
        valid = masks != self.ignore_index
        # index_select is ten times as fast here as indexing.
        return self.weight.index_select(0, masks.where(valid, 0).flatten()).view_as(masks) * valid

    def _kept(self, count: Tensor) -> Tensor:
        """ceil(f * n) for numbers n of pixels, (N,) int64."""
        parts = max(round(self.hard_pixels * _PARTS), 1)
        return (count * parts + _PARTS - 1).div(_PARTS, rounding_mode="floor")

    def _hardest(self, losses: Tensor, valid: Tensor) -> Tensor:
        """Per image the largest losses, (N, H * W), and 0 in place of the others."""
        kept = self._kept(valid.sum(dim=(1, 2)))
        # Ignored pixels come last: -1 is below every loss.
        ordered = losses.masked_fill(~valid, -1.0).flatten(1).sort(dim=1, descending=True).values
        rank = torch.arange(ordered.shape[1], device=losses.device)
        return ordered.where(rank < kept.unsqueeze(1), 0.0)


class CrossEntropy(PixelLoss):
    """Softmax cross-entropy; with class weights torch's own weighted mean."""

    def pixels(self, logits: Tensor, masks: Tensor) -> Tensor:
        return F.cross_entropy(logits, masks, ignore_index=self.ignore_index, reduction="none")


class Focal(PixelLoss):
    """Focal loss for softmax (Lin et al. 2017, eq. 4): cross-entropy times ``(1 - p_t) ** gamma``."""

    def __init__(self, *, gamma: float, **common: Any) -> None:
        super().__init__(**common)
        self.gamma = gamma

    def pixels(self, logits: Tensor, masks: Tensor) -> Tensor:
        negative_log = F.cross_entropy(logits, masks, ignore_index=self.ignore_index, reduction="none")
        # 1 - p_t; the clamp keeps the gradient of the power finite where p_t is 1.
        missing = (-torch.expm1(-negative_log)).clamp_min(1e-8)
        return missing**self.gamma * negative_log

    def describe(self) -> list[dict[str, Any]]:
        (term,) = super().describe()
        return [{**term, "gamma": self.gamma}]


class Hinge(PixelLoss):
    """``max(0, 1 + max of the wrong classes' probabilities - p_t)``: Keras' ``categorical_hinge`` on a softmax.

    It lies between 0 and 2, and is the multi-class hinge of Crammer and Singer (2001) with probabilities for scores.
    """

    def pixels(self, logits: Tensor, masks: Tensor) -> Tensor:
        valid = masks != self.ignore_index
        truth = masks.where(valid, 0).unsqueeze(1)
        chance = logits.softmax(dim=1)
        right = chance.gather(1, truth)
        wrong = chance.scatter(1, truth, 0.0).amax(dim=1, keepdim=True)
        return (1.0 + wrong - right).clamp_min(0.0).squeeze(1).where(valid, 0.0)


def sample_weights(masks: Tensor, classes: int, ignore_index: int) -> Tensor:
    """The weight of every pixel from its own image's mask, (N, H, W) float32; 0 where ignored.

    With n_c the pixels of class c in the image, at least 1, a pixel of class 0 weighs n_0 / sqrt(sum of n_c ** 2) and
    one of class c > 0 weighs n_0 / n_c: ``class_weights.image_weights`` on the device.

    Args:
        masks: (N, H, W) int64.
        classes: number of classes C.
        ignore_index: label that counts nowhere.
    """
    index = masks.where(masks != ignore_index, classes).flatten(1)  # (N, H * W); void is class C
    ones = torch.ones((), dtype=torch.int64, device=masks.device).expand_as(index)
    counted = torch.zeros(len(masks), classes + 1, dtype=torch.int64, device=masks.device).scatter_add(1, index, ones)
    pixels = counted[:, :classes].clamp_min(1).float()
    weights = pixels[:, :1] / pixels
    first = pixels[:, :1] / pixels.norm(dim=1, keepdim=True)
    table = torch.cat([first, weights[:, 1:], torch.zeros_like(first)], dim=1)  # (N, C + 1)
    return table.gather(1, index).view(masks.shape)


# -------------------------------------------------------------------------------------------------------- region losses


class RegionLoss(Loss):
    """The mean over classes of a loss between two areas, summed over the whole batch.

    A class that is in no mask of the batch does not count. With class weights it is the weighted mean of those that do.

    Args:
        ignore_index: label that counts nowhere.
        weight: class weights (C,) float32, or None.
    """

    def __init__(self, *, ignore_index: int, weight: Tensor | None = None) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.weight: Tensor | None
        self.register_buffer("weight", weight)

    def regions(self, chance: Tensor, truth: Tensor) -> Tensor:
        """The loss of every class, (C,), finite also for one without a pixel.

        Args:
            chance: (N, C, H, W) probabilities, 0 where ignored.
            truth: (N, C, H, W) bool, false where ignored.
        """
        raise NotImplementedError

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        valid = (masks != self.ignore_index).unsqueeze(1)
        labels = torch.arange(logits.shape[1], device=masks.device).view(1, -1, 1, 1)
        truth = (masks.unsqueeze(1) == labels) & valid  # an eighth of what one_hot would need
        chance = _precise(logits).softmax(dim=1) * valid
        counts = truth.any(dim=3).any(dim=2).any(dim=0).to(chance.dtype)
        if self.weight is not None:
            counts = counts * self.weight
        return (self.regions(chance, truth) * counts).sum() / counts.sum().clamp_min(_TINY)

    def describe(self) -> list[dict[str, Any]]:
        (term,) = super().describe()
        return [{**term, "class_weights": self.weight.tolist() if self.weight is not None else None}]


class Tversky(RegionLoss):
    """1 minus the Tversky index TP / (TP + alpha * FP + beta * FN) of soft areas (Salehi et al. 2017).

    Args:
        alpha: weight of false positives.
        beta: weight of false negatives; None: 1 - alpha.
    """

    def __init__(self, *, alpha: float, beta: float | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.alpha = alpha
        self.beta = 1.0 - alpha if beta is None else beta

    def regions(self, chance: Tensor, truth: Tensor) -> Tensor:
        overlap = chance.where(truth, 0.0).sum(dim=(0, 2, 3))
        predicted = chance.sum(dim=(0, 2, 3))
        true = truth.sum(dim=(0, 2, 3))
        # TP + alpha * FP + beta * FN with FP = |P| - TP and FN = |G| - TP
        union = (1.0 - self.alpha - self.beta) * overlap + self.alpha * predicted + self.beta * true
        return 1.0 - overlap / union.clamp_min(1e-7)

    def describe(self) -> list[dict[str, Any]]:
        (term,) = super().describe()
        return [{**term, "alpha": self.alpha, "beta": self.beta}]


class Dice(Tversky):
    """Soft Dice loss ``1 - 2 |P G| / (|P| + |G|)`` (Milletari et al. 2016 without squares)."""

    def __init__(self, **common: Any) -> None:
        super().__init__(alpha=0.5, beta=0.5, **common)


class Jaccard(Tversky):
    """Soft Jaccard (IoU) loss ``1 - |P G| / (|P| + |G| - |P G|)`` (Rahman and Wang 2016)."""

    def __init__(self, **common: Any) -> None:
        super().__init__(alpha=1.0, beta=1.0, **common)


class Lovasz(RegionLoss):
    """Lovasz-softmax (Berman et al. 2018) over the classes that are present, of the whole batch at once.

    The pixels are put in the order of their errors; each error is multiplied by how much the Jaccard index falls when
    its pixel is added to the wrong ones. Ignored pixels have no error, so they come last and add nothing.
    """

    def regions(self, chance: Tensor, truth: Tensor) -> Tensor:
        chance, truth = chance.transpose(0, 1).flatten(1), truth.transpose(0, 1).flatten(1)  # (C, N * H * W)
        errors, order = (1.0 - chance).where(truth, chance).sort(dim=1, descending=True)
        hit = truth.gather(1, order)
        found = hit.cumsum(dim=1, dtype=torch.int32)  # pixels of the class so far; float32 cannot count beyond 2 ** 24
        total = found[:, -1:]
        place = torch.arange(1, found.shape[1] + 1, dtype=torch.int32, device=found.device)
        union = (total + place - found).to(errors.dtype)  # with the pixels of other classes so far
        # The Jaccard index is (total - found) / union. By how much each pixel lets it fall is written out: as the
        # difference of two neighbours, which are nearly equal, it would lose its digits in float32.
        fall = ((total - found) / (union - 1.0).clamp_min(1.0)).masked_fill(hit, 1.0) / union
        return (errors * fall).sum(dim=1)


# ----------------------------------------------------------------------------------------------------- sums, own losses


class Sum(Loss):
    """A weighted sum of losses. In a mean over batches it counts pixels where all its terms do, else images."""

    def __init__(self, terms: Sequence[tuple[float, Loss]]) -> None:
        super().__init__()
        self.weights = [weight for weight, _ in terms]
        self.terms = nn.ModuleList(loss for _, loss in terms)

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        return self.part(logits, masks, masks)

    def share(self, masks: Tensor) -> Tensor:
        """Of pixel losses that share their weights, their share; else the number of images."""
        if all(isinstance(term, PixelLoss) for term in self.terms):
            return self._loss(0).share(masks)
        return super().share(masks)

    def part(self, logits: Tensor, masks: Tensor, whole: Tensor) -> Tensor:
        values = [weight * self._loss(i).part(logits, masks, whole) for i, weight in enumerate(self.weights)]
        return torch.stack(values).sum()

    def describe(self) -> list[dict[str, Any]]:
        return [
            {**term, "weight": weight} for i, weight in enumerate(self.weights) for term in self._loss(i).describe()
        ]

    def _loss(self, index: int) -> Loss:
        term = self.terms[index]
        assert isinstance(term, Loss)
        return term


class OwnLoss(Loss):
    """A user's own loss, ``(logits, masks) -> scalar``; micro-batches are averaged by their number of images."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        value: Tensor = self.loss(logits, masks)
        return value

    def describe(self) -> list[dict[str, Any]]:
        named = self.loss if hasattr(self.loss, "__qualname__") else type(self.loss)
        return [{"loss": f"{named.__module__}:{named.__qualname__}"}]


def _precise(logits: Tensor) -> Tensor:
    """In float32 at least: half precision can neither sum many pixels nor tell a probability from 1."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _pixel(config: TrainConfig, ignore_index: int, weight: Tensor | None) -> dict[str, Any]:
    sample = config.class_weights == "sample"
    return {"ignore_index": ignore_index, "weight": weight, "sample": sample, "hard_pixels": config.hard_pixels}


LOSSES: dict[str, Callable[[TrainConfig, int, Tensor | None], Loss]] = {
    "cross_entropy": lambda config, ignore, weight: CrossEntropy(**_pixel(config, ignore, weight)),
    "focal": lambda config, ignore, weight: Focal(gamma=config.focal_gamma, **_pixel(config, ignore, weight)),
    "hinge": lambda config, ignore, weight: Hinge(**_pixel(config, ignore, weight)),
    "dice": lambda _, ignore, weight: Dice(ignore_index=ignore, weight=weight),
    "jaccard": lambda _, ignore, weight: Jaccard(ignore_index=ignore, weight=weight),
    "tversky": lambda config, ignore, weight: Tversky(alpha=config.tversky_alpha, ignore_index=ignore, weight=weight),
    "lovasz": lambda _, ignore, weight: Lovasz(ignore_index=ignore, weight=weight),
}


def build_loss(config: TrainConfig, *, ignore_index: int, weight: Tensor | None) -> Loss:
    """The loss of a configuration.

    Args:
        weight: class weights (C,) float32, or None. Weights per sample are read from the configuration.

    Raises:
        InputError: the user's own loss cannot be imported.
    """
    terms = loss_terms(config.loss)
    if terms[0][1] not in LOSSES:
        return OwnLoss(import_object(config.loss, "loss")(config, ignore_index, weight))
    built = [(factor, LOSSES[name](config, ignore_index, weight)) for factor, name in terms]
    return built[0][1] if len(built) == 1 and built[0][0] == 1.0 else Sum(built)
