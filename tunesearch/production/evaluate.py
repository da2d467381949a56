"""Evaluation: how good a model is on labelled pictures, at the size of each picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesearch.errors import DataError, InputError, Problem
from tunesearch.production.labeller import Labeller, Prepared, ahead
from tunesearch.production.model import Model
from tunesearch.production.stack import Stack
from tunesearch.segmentation.config import ClassSpec, DataConfig, Size
from tunesearch.segmentation.data.images import VOID, Pixels, read_image, read_mask
from tunesearch.segmentation.data.layouts import PARTS, Pair, every_pair, find_pairs, resolve_classes
from tunesearch.segmentation.data.overlay import PanelRow, panel
from tunesearch.segmentation.data.palette import palette
from tunesearch.segmentation.data.resize import resize_image, resize_mask
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.files import sha256, write_atomic, write_text
from tunesearch.segmentation.metrics import Scores, scores

_SHOWN = 400
"""Width in pixels of the pictures in a panel."""
_NUMBERED = 24
"""Classes up to which the picture of a confusion matrix has its numbers written in."""


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


def evaluate(
    models: Model | Sequence[Model],
    pairs: Sequence[Pair],
    data: DataConfig,
    *,
    what: str = "",
    stack: Stack | None = None,
    scale: float | None = None,
    flip: bool = False,
    device: str = "auto",
    said: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Predict every image at its own size and compare it with its mask.

    Args:
        models: one, or several that predict together.
        data: how the masks are read.
        what: a name for ``pairs``.
        stack, scale, flip, device: as of :class:`~tunesearch.production.labeller.Labeller`.
        said: told how many of how many images are done.

    Raises:
        InputError: nothing to measure on; models that do not go together.
        DataError: every file that cannot be read, labels of no class, masks of another size than their image.
    """
    models = [models] if isinstance(models, Model) else list(models)
    if not pairs:
        raise InputError(Problem(what or "evaluate", "there must be at least one image with a mask"))
    labeller = Labeller(models, stack=stack, scale=scale, flip=flip, device=device)
    count = len(labeller.classes)
    total: NDArray[np.int64] = np.zeros((count, count), np.int64)
    images: list[tuple[str, float | None]] = []
    problems: list[Problem] = []
    waiting: list[tuple[Pair, Prepared, Pixels]] = []

    def read(pair: Pair) -> tuple[Prepared, Pixels] | list[Problem]:
        try:
            image, mask = read_image(pair.image), read_mask(pair.mask, data, labeller.classes)
        except DataError as error:
            return list(error.problems)
        if mask.shape != image.shape[:2]:
            rule = f"the mask must be as large as its image, {image.shape[1]}x{image.shape[0]}"
            return [Problem(str(pair.mask), rule, value=f"{mask.shape[1]}x{mask.shape[0]}")]
        return labeller.prepare(image), mask

    def count_waiting() -> None:
        found = labeller.masks([prepared for _, prepared, _ in waiting])
        for (pair, _, truth), prediction in zip(waiting, found, strict=True):
            matrix = confusion(truth, prediction, count)
            total[...] += matrix
            images.append((pair.id, scores(matrix, background=data.background).miou if matrix.any() else None))
            said(len(images), len(pairs))
        waiting.clear()

    for pair, found in ahead(read, pairs):
        if isinstance(found, list):
            problems += found
        elif not problems:  # what is broken makes the rest useless, but for other problems
            waiting.append((pair, *found))
            if len(waiting) >= labeller.batch:
                count_waiting()
    if problems:
        raise DataError(problems)
    if waiting:
        count_waiting()
    return Evaluation(
        models=tuple(model.name for model in models),
        what=what,
        classes=labeller.classes,
        background=data.background,
        matrix=total,
        images=tuple(images),
        seen=trained_on(models, pairs),
    )


def confusion(truth: Pixels, prediction: Pixels, classes: int) -> NDArray[np.int64]:
    """Counts of pixels int64 (C, C), rows the truth, from two uint8 (H, W); void in the truth counts nowhere."""
    valid = truth != VOID
    cells = truth[valid].astype(np.int64) * classes + prediction[valid]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


# -------------------------------------------------------------------------------------------------- what is measured on


def frozen_pairs(model: Model, part: str, root: Path | None = None) -> tuple[list[Pair], DataConfig]:
    """The pairs of a part of the split that the model's training froze, every file compared with its hash.

    Args:
        part: train, val or test.
        root: where the data set lies now; None: where it lay then.

    Raises:
        InputError: the model knows no split, the part is empty, nobody says where the data set lies.
        DataError: files that changed or are missing.
    """
    if part not in PARTS:
        raise InputError(Problem("--split", f"must be one of {', '.join(PARTS)}", value=part))
    if not model.split.items(part):
        hint = "data: {test: 0.2} sets some images aside when a search starts" if part == "test" else ""
        raise InputError(Problem("--split", f"must be a part that {model.name} has images in", value=part, hint=hint))
    data, split = model.data, model.split
    if root is not None:
        if not root.is_dir():
            raise InputError(Problem("--data", "must be an existing folder", value=str(root)))
        data, split = data.model_copy(update={"root": root}), split.moved_to(root)
    elif data.layout == "sample":
        from tunesearch.segmentation.data.sample import sample_folder

        find_pairs(data)  # makes it again where the cache was emptied
        split = split.moved_to(data.root or sample_folder())
    elif not split.root.is_absolute():
        hint = "--data ROOT"
        raise InputError(Problem(model.name, "does not know where its data set lies on this machine", hint=hint))
    Split(root=split.root, **{name: split.items(name) if name == part else () for name in PARTS}).verify()
    return split.pairs(part), data


def pairs_below(model: Model, root: Path) -> tuple[list[Pair], DataConfig]:
    """Every pair of a data set that lies as the model's own does, in whatever part it is.

    Raises:
        DataError: missing folders or partners.
    """
    data = model.data.model_copy(update={"root": root})
    if data.layout == "sample":  # it lies as VOC does, and looking for it by its name would make it
        data = data.model_copy(update={"layout": "voc", "classes": model.classes})
    return every_pair(data), data


def pairs_in(model: Model, images: Path, masks: Path, mask_suffix: str | None = None) -> tuple[list[Pair], DataConfig]:
    """The pairs of a folder of images and a folder of masks, by name; masks are read as the model's own.

    Args:
        mask_suffix: what the masks' names end in behind the image's; None: what it was in the model's own data set.

    Raises:
        DataError: missing folders or partners.
    """
    for flag, folder in (("--images", images), ("--masks", masks)):
        if not folder.is_dir():
            raise InputError(Problem(flag, "must be an existing folder", value=str(folder)))
    own = model.data
    if mask_suffix is None:
        mask_suffix = own.mask_suffix if own.layout == "folders" else ""
    if images.resolve() == masks.resolve() and not mask_suffix:
        hint = "--mask-suffix tells them apart by their names"
        raise InputError(Problem("--masks", "must be another folder than --images", value=str(masks), hint=hint))
    data = DataConfig(
        layout="folders",
        root=images,
        images=str(images.absolute()),
        masks=str(masks.absolute()),
        mask_suffix=mask_suffix,
        mask_format=own.mask_format,
        classes=model.classes,
        background=own.background,
        ignore_index=own.ignore_index,
        ignore_colors=own.ignore_colors,
    )
    resolve_classes(data)
    return every_pair(data), data


def holds_test_images(model: Model, pairs: Sequence[Pair]) -> bool:
    """Whether one of the images, by its content, belongs to the test part that the model's search set aside."""
    aside = {item.image_sha256 for item in model.split.test}
    return bool(aside) and any(digest in aside for digest in _digests(pairs))


def holds_own_images(model: Model, pairs: Sequence[Pair]) -> bool:
    """Whether one of the images, by its content, belongs to any part of the model's own split."""
    own = {item.image_sha256 for part in PARTS for item in model.split.items(part)}
    return any(digest in own for digest in _digests(pairs))


def trained_on(models: Sequence[Model], pairs: Sequence[Pair]) -> int:
    """How many of the images, by their content, one of the models was trained on."""
    known = {item.image_sha256 for model in models for item in model.split.train}
    return sum(digest in known for digest in _digests(pairs)) if known else 0


def _digests(pairs: Sequence[Pair]) -> list[str]:
    return [digest for _, digest in ahead(lambda pair: sha256(pair.image.read_bytes()), pairs)]


# -------------------------------------------------------------------------------------------------------------- reports


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
    labeller = Labeller(models, **how)
    for name, rows in panels(evaluation, labeller, pairs, data).items():
        sheet = panel(rows, palette(labeller.classes), background=data.background)
        write_atomic(folder / f"{name}.png", lambda path, sheet=sheet: sheet.save(path, format="PNG"))  # type: ignore[misc]
        written.append(folder / f"{name}.png")
    return written


def panels(
    evaluation: Evaluation, labeller: Labeller, pairs: Sequence[Pair], data: DataConfig, *, count: int = 3
) -> dict[str, list[PanelRow]]:
    """Image, truth and prediction of the ``best``, ``median`` and ``worst`` images, made small enough to be shown."""
    places, mious = {pair.id: pair for pair in pairs}, dict(evaluation.images)

    def row(name: str) -> PanelRow:
        image, truth = read_image(places[name].image), read_mask(places[name].mask, data, labeller.classes)
        prediction = next(labeller.masks([labeller.prepare(image)]))
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
