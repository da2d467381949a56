"""Metrics of semantic segmentation from one confusion matrix over the whole validation set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class ConfusionMatrix:
    """Counts of pixels: rows are the truth, columns the prediction.

    Args:
        classes: C.
        ignore_index: label in the truth that counts nowhere.
        device: where the counts (C, C) int64 live.
    """

    def __init__(self, classes: int, *, ignore_index: int, device: torch.device | str = "cpu") -> None:
        self.classes = classes
        self.ignore_index = ignore_index
        self.counts = torch.zeros(classes * classes, dtype=torch.int64, device=device)

    def add(self, truth: Tensor, prediction: Tensor) -> None:
        """Count a batch: two integer tensors of one shape, such as (N, H, W)."""
        valid = truth != self.ignore_index
        cells = truth[valid].long() * self.classes + prediction[valid].long()
        self.counts += torch.bincount(cells, minlength=self.classes**2)

    def numpy(self) -> npt.NDArray[np.int64]:
        """The matrix (C, C) int64."""
        matrix: npt.NDArray[np.int64] = self.counts.view(self.classes, self.classes).cpu().numpy()
        return matrix


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says. All are shares in 0..1; a class absent from truth and prediction does not count.

    Attributes:
        miou: mean over classes of TP / (TP + FP + FN), the Jaccard index.
        miou_no_background: the same without the background class.
        dice: mean over classes of 2 TP / (2 TP + FP + FN), the F1 score.
        pixel_accuracy: share of the pixels that count whose class is right.
        iou: per class; None where the class is absent from both.
    """

    miou: float
    miou_no_background: float
    dice: float
    pixel_accuracy: float
    iou: tuple[float | None, ...]


def scores(matrix: npt.NDArray[np.int64], *, background: int | None) -> Scores:
    """The scores of a confusion matrix (C, C); 0 where nothing at all counts."""
    hits = np.diag(matrix).astype(np.float64)
    both = matrix.sum(axis=0) + matrix.sum(axis=1)  # 2 TP + FP + FN
    union = both - hits
    present = union > 0
    iou = np.divide(hits, union, out=np.zeros_like(hits), where=present)
    dice = np.divide(2 * hits, both, out=np.zeros_like(hits), where=present)
    foreground = present.copy()
    if background is not None:
        foreground[background] = False
    total = matrix.sum()
    return Scores(
        miou=float(iou[present].mean()) if present.any() else 0.0,
        miou_no_background=float(iou[foreground].mean()) if foreground.any() else 0.0,
        dice=float(dice[present].mean()) if present.any() else 0.0,
        pixel_accuracy=float(hits.sum() / total) if total else 0.0,
        iou=tuple(float(value) if there else None for value, there in zip(iou, present, strict=True)),
    )
