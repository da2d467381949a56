"""The result of an evaluation: a confusion matrix, and every score that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesearch.segmentation.config import ClassSpec
from tunesearch.segmentation.data.images import VOID, Pixels
from tunesearch.segmentation.metrics import Scores, scores


@dataclass(frozen=True)
class Evaluation:
    """What was measured, over all pixels that count.

    Attributes:
        models: names of the models, which predicted together.
        what: the part or the folder that was measured on.
        classes: the C classes.
        background: class left out of the mean without background; None: there is none.
        matrix: int64 (C, C), pixels: rows are the truth, columns the prediction.
        images: (id, mean IoU over the classes of this image's truth and prediction; None: nothing in it counts).
        seen: how many of the images some of the models were trained on.
    """

    models: tuple[str, ...]
    what: str
    classes: tuple[ClassSpec, ...]
    background: int | None
    matrix: NDArray[np.int64]
    images: tuple[tuple[str, float | None], ...]
    seen: int = 0

    @property
    def scores(self) -> Scores:
        """IoU, Dice and accuracy of the whole."""
        return scores(self.matrix, background=self.background)

    def per_class(self) -> list[dict[str, Any]]:
        """``name``, ``iou``, ``dice``, ``accuracy`` (share of its pixels that are right), ``pixels`` of each class.

        None where the class is absent: from the truth for ``accuracy``, from truth and prediction for the others.
        """
        hits, truth, found = np.diag(self.matrix), self.matrix.sum(axis=1), self.matrix.sum(axis=0)

        def share(count: float, of: float) -> float | None:
            return float(count / of) if of else None

        return [
            {
                "name": spec.name,
                "iou": share(hits[c], truth[c] + found[c] - hits[c]),
                "dice": share(2 * hits[c], truth[c] + found[c]),
                "accuracy": share(hits[c], truth[c]),
                "pixels": int(truth[c]),
            }
            for c, spec in enumerate(self.classes)
        ]

    def ranked(self) -> list[str]:
        """The ids of the images in which something counts, the best one first."""
        measured = [(miou, name) for name, miou in self.images if miou is not None]
        return [name for _, name in sorted(measured, key=lambda item: (-item[0], item[1]))]

    def chosen(self, count: int = 3) -> dict[str, list[str]]:
        """Ids of the ``best``, ``median`` and ``worst`` images, each beginning with the most extreme or middle one."""
        order = self.ranked()
        middle = (len(order) - 1) / 2
        central = sorted(order, key=lambda name: abs(order.index(name) - middle))
        return {"best": order[:count], "median": central[:count], "worst": order[::-1][:count]}

    def as_dict(self) -> dict[str, Any]:
        """The JSON of ``evaluate``."""
        whole = self.scores
        accuracies = [row["accuracy"] for row in self.per_class() if row["accuracy"] is not None]
        return {
            "models": list(self.models),
            "on": self.what,
            "images": len(self.images),
            "images_trained_on": self.seen,
            "resolution": "original",
            "miou": whole.miou,
            "miou_no_background": whole.miou_no_background,
            "dice": whole.dice,
            "pixel_accuracy": whole.pixel_accuracy,
            "mean_class_accuracy": float(np.mean(accuracies)) if accuracies else 0.0,
            "classes": self.per_class(),
            "confusion_matrix": self.matrix.tolist(),
            "per_image": [{"id": name, "miou": miou} for name, miou in self.images],
        }


def confusion(truth: Pixels, prediction: Pixels, classes: int) -> NDArray[np.int64]:
    """Counts of pixels int64 (C, C), rows the truth, from two uint8 (H, W); void in the truth counts nowhere."""
    valid = truth != VOID
    cells = truth[valid].astype(np.int64) * classes + prediction[valid]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)
