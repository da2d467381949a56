"""Metrics. Oracles: a confusion matrix worked out by hand, and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassJaccardIndex,
)

from tunesearch.segmentation.metrics import ConfusionMatrix, scores


def test_confusion_matrix_by_hand() -> None:
    """Truth 0 0 0 1 / 1 v v 1 and prediction 0 0 1 1 / 0 2 0 1 (v: void): rows are truth, columns prediction.

    Of the three 0s two are right and one is taken for 1; of the three 1s two are right and one is taken for 0; what
    stands on void counts nowhere, not even its 2.
    """
    truth = torch.tensor([[[0, 0, 0, 1], [1, 255, 255, 1]]])
    prediction = torch.tensor([[[0, 0, 1, 1], [0, 2, 0, 1]]])
    confusion = ConfusionMatrix(3, ignore_index=255)
    confusion.add(truth, prediction)
    assert confusion.numpy().tolist() == [[2, 1, 0], [1, 2, 0], [0, 0, 0]]


def test_scores_by_hand() -> None:
    """Class 2 is absent from truth and prediction, so it does not count; class 3 is in the truth, never predicted.

    Hits, row, column: class 0 has 2, 3, 3, class 1 5, 5, 6, class 3 0, 1, 0. So the unions (row + column - hits)
    are 4, 6, 1; Dice is 2 * hits / (row + column): 4/6, 10/11, 0; right are 7 of 9.
    """
    matrix = np.array([[2, 1, 0, 0], [0, 5, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]], np.int64)
    result = scores(matrix, background=0)
    assert result.iou == pytest.approx((2 / 4, 5 / 6, None, 0.0))
    assert result.miou == pytest.approx((2 / 4 + 5 / 6 + 0) / 3)
    assert result.miou_no_background == pytest.approx((5 / 6 + 0) / 2)
    assert result.dice == pytest.approx((4 / 6 + 10 / 11 + 0) / 3)
    assert result.pixel_accuracy == pytest.approx(7 / 9)


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    """One pixel of truth 0, taken for 1: both IoUs are 0, class 2 is absent."""
    result = scores(np.array([[0, 1, 0], [0, 0, 0], [0, 0, 0]], np.int64), background=0)
    assert result.iou == (0.0, 0.0, None)
    assert (result.miou, result.dice, result.pixel_accuracy) == (0.0, 0.0, 0.0)


def test_no_background() -> None:
    matrix = np.array([[1, 0], [1, 2]], np.int64)  # IoU 1/2 and 2/3
    assert scores(matrix, background=None).miou_no_background == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert scores(matrix, background=1).miou_no_background == pytest.approx(1 / 2)


def test_nothing_that_counts_is_zero_and_no_warning() -> None:
    result = scores(np.zeros((3, 3), np.int64), background=0)
    assert (result.miou, result.miou_no_background, result.dice, result.pixel_accuracy) == (0.0, 0.0, 0.0, 0.0)
    assert result.iou == (None, None, None)
    only_background = scores(np.diag([5, 0, 0]).astype(np.int64), background=0)
    assert (only_background.miou, only_background.miou_no_background) == (1.0, 0.0)


def random_batches(classes: int, absent: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    batches = []
    for count in (4, 4, 1):
        truth = torch.randint(0, classes, (count, 9, 11), generator=generator)
        guess = torch.randint(0, classes, (count, 9, 11), generator=generator)
        prediction = torch.where(torch.rand(truth.shape, generator=generator) < 0.6, truth, guess)
        for label in absent:
            truth[truth == label] = 0
            prediction[prediction == label] = 0
        truth[torch.rand(truth.shape, generator=generator) < 0.15] = 255
        batches.append((truth, prediction))
    return batches


@pytest.mark.parametrize("absent", [(), (2, 5)])
def test_against_torchmetrics(absent: tuple[int, ...]) -> None:
    """torchmetrics' values per class, averaged over the classes that occur; batches of different sizes."""
    classes = 7
    confusion = ConfusionMatrix(classes, ignore_index=255)
    jaccard = MulticlassJaccardIndex(classes, average=None, ignore_index=255)
    f1 = MulticlassF1Score(classes, average=None, ignore_index=255)
    accuracy = MulticlassAccuracy(classes, average="micro", ignore_index=255)
    matrix = MulticlassConfusionMatrix(classes, ignore_index=255)
    for truth, prediction in random_batches(classes, absent):
        confusion.add(truth, prediction)
        for metric in (jaccard, f1, accuracy, matrix):
            metric.update(prediction, truth)
    assert confusion.numpy().tolist() == matrix.compute().tolist()
    result = scores(confusion.numpy(), background=0)
    there = [label for label in range(classes) if label not in absent]
    assert result.miou == pytest.approx(jaccard.compute()[there].mean().item(), abs=1e-6)
    assert result.miou_no_background == pytest.approx(jaccard.compute()[there[1:]].mean().item(), abs=1e-6)
    assert result.dice == pytest.approx(f1.compute()[there].mean().item(), abs=1e-6)
    assert result.pixel_accuracy == pytest.approx(accuracy.compute().item(), abs=1e-6)
    assert [result.iou[label] for label in absent] == [None] * len(absent)
    assert [result.iou[label] for label in there] == pytest.approx(jaccard.compute()[there].tolist(), abs=1e-6)


def test_uint8_and_int32_labels_are_counted_alike() -> None:
    """Masks come as uint8: 20 * 21 + 20 = 440 would overflow it."""
    truth = torch.full((1, 4, 4), 20, dtype=torch.uint8)
    confusion = ConfusionMatrix(21, ignore_index=255)
    confusion.add(truth, truth.to(torch.int32))
    assert confusion.numpy()[20, 20] == 16
    assert confusion.numpy().sum() == 16
