"""An evaluation as files: its metrics, the confusion matrix, and the best, median and worst images as pictures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunesearch.production.evaluation.result import Evaluation
from tunesearch.production.model import Model
from tunesearch.production.prediction.predictor import Predictor
from tunesearch.segmentation.config import DataConfig, Size
from tunesearch.segmentation.data.images import read_image, read_mask
from tunesearch.segmentation.data.layouts import Pair
from tunesearch.segmentation.data.overlay import PanelRow, panel
from tunesearch.segmentation.data.palette import palette
from tunesearch.segmentation.data.resize import resize_image, resize_mask
from tunesearch.segmentation.files import write_atomic, write_text

_SHOWN = 400
"""Width in pixels of the pictures in a panel."""
_NUMBERED = 24
"""Classes up to which the picture of a confusion matrix has its numbers written in."""


def write_evaluation(
    evaluation: Evaluation,
    folder: Path,
    *,
    models: Sequence[Model],
    pairs: Sequence[Pair],
    data: DataConfig,
    **how: Any,
) -> list[Path]:
    """Write ``metrics.json``, ``confusion.csv``, ``confusion.png``, ``best.png``, ``median.png`` and ``worst.png``.

    Args:
        models, pairs, data, how: what the evaluation was made with; the few pictures that are shown are predicted anew.
    """
    names = [spec.name for spec in evaluation.classes]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["truth \\ prediction", *names])
    writer.writerows([name, *row] for name, row in zip(names, evaluation.matrix.tolist(), strict=True))
    write_text(folder / "metrics.json", json.dumps(evaluation.as_dict(), indent=1) + "\n")
    write_text(folder / "confusion.csv", table.getvalue())
    write_atomic(folder / "confusion.png", lambda path: _draw_confusion(evaluation, path))
    written = [folder / name for name in ("metrics.json", "confusion.csv", "confusion.png")]
    predictor = Predictor(models, **how)
    for name, rows in panels(evaluation, predictor, pairs, data).items():
        sheet = panel(rows, palette(predictor.classes), background=data.background)
        write_atomic(folder / f"{name}.png", lambda path, sheet=sheet: sheet.save(path, format="PNG"))  # type: ignore[misc]
        written.append(folder / f"{name}.png")
    return written


def panels(
    evaluation: Evaluation, predictor: Predictor, pairs: Sequence[Pair], data: DataConfig, *, count: int = 3
) -> dict[str, list[PanelRow]]:
    """Image, truth and prediction of the ``best``, ``median`` and ``worst`` images, made small enough to be shown."""
    places, mious = {pair.id: pair for pair in pairs}, dict(evaluation.images)

    def row(name: str) -> PanelRow:
        image, truth = read_image(places[name].image), read_mask(places[name].mask, data, predictor.classes)
        prediction = predictor.mask(image)
        factor = min(1.0, _SHOWN / image.shape[1])
        height, width = (max(1, round(side * factor)) for side in truth.shape)
        size = Size.model_construct(width=width, height=height)
        title = f"{name}: mean IoU {mious[name]:.3f}"
        return PanelRow(title, resize_image(image, size), resize_mask(truth, size), resize_mask(prediction, size))

    return {kind: [row(name) for name in names] for kind, names in evaluation.chosen(count).items() if names}


def _draw_confusion(evaluation: Evaluation, path: Path) -> None:
    """Shares of each class's pixels by what they were taken for."""
    from matplotlib.figure import Figure

    names = [spec.name for spec in evaluation.classes]
    count = len(names)
    truth = evaluation.matrix.sum(axis=1, keepdims=True)
    shares = np.divide(evaluation.matrix, truth, out=np.zeros(evaluation.matrix.shape), where=truth > 0)
    side = 2.5 + 0.45 * min(count, 60)
    figure = Figure(figsize=(side, side), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(count), names, rotation=90)
    axes.set_yticks(range(count), names)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    for i, j in np.ndindex(count, count) if count <= _NUMBERED else ():
        if shares[i, j] >= 0.005:
            color = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, f"{shares[i, j]:.2f}", ha="center", va="center", fontsize=7, color=color)
    figure.savefig(path, format="png")
