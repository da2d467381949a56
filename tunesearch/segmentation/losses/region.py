"""Region losses: they compare the areas of a class in truth and prediction over the whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tunesearch.segmentation.losses.base import TINY, Loss, precise


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
        chance = precise(logits).softmax(dim=1) * valid
        counts = truth.any(dim=3).any(dim=2).any(dim=0).to(chance.dtype)
        if self.weight is not None:
            counts = counts * self.weight
        return (self.regions(chance, truth) * counts).sum() / counts.sum().clamp_min(TINY)

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
