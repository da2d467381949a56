"""The section on the best trial's network: its training, its scores per class, and pictures of what it predicts."""

from __future__ import annotations

from collections.abc import Sequence

from tunesearch.errors import TunesearchError
from tunesearch.ledger.records import TrialRecord
from tunesearch.production.evaluation.evaluate import evaluate
from tunesearch.production.evaluation.pairs import frozen_pairs
from tunesearch.production.evaluation.result import Evaluation
from tunesearch.production.model import open_trial
from tunesearch.production.prediction.predictor import Predictor
from tunesearch.reporting.figures import curves, scores
from tunesearch.reporting.items import Item, figure_items, text_item
from tunesearch.reporting.pictures import ShownImage, file_uri, shown_images
from tunesearch.reporting.reported import ReportedSearch, first_line
from tunesearch.segmentation.config import ClassSpec
from tunesearch.segmentation.data.palette import palette

_RESOLUTIONS = {"original": "the masks' original size", "network": "the size that the network sees"}


def best_section(search: ReportedSearch) -> list[Item]:
    """What is known of the network that export hands over."""
    trial = search.network
    if trial is None or not trial.epochs:
        return [text_item("No trial has a score yet.")]
    best = trial.best_epoch(search.metric).metrics
    items = []
    if trial.confirms is not None:
        items.append(
            text_item(
                f"Shown is trial {trial.number}, the repeat of trial {trial.confirms} with the best "
                f"{search.metric} of its seeds: the network that export hands over."
            )
        )
    items += figure_items(curves.winner_curve(trial.epochs, search.metric))
    source = f"At its best epoch ({best.epoch}), at {_RESOLUTIONS[search.ledger.experiment.objective.resolution]}."
    if best.folds:
        source += f" The mean over {len(best.folds)} folds."
    names = [spec.name for spec in search.classes] or [f"class {index}" for index in range(len(best.val_iou))]
    if len(names) == len(best.val_iou):
        background = search.ledger.experiment.data.background
        items += figure_items(scores.class_iou(names, best.val_iou, background, source))
    measured = _measure(search, trial)
    if measured is None:
        return items + _without_evaluation(search, trial)
    return items + _validation(search, names, *measured)


def _without_evaluation(search: ReportedSearch, trial: TrialRecord) -> list[Item]:
    """Why it could not be measured, and the picture that the search kept."""
    items = [text_item(f"No confusion matrix: {search.missing[-1]}.", "note")]
    uri = file_uri(search.ledger.trial_folder(trial.number) / "predictions.png")
    if uri is not None:
        text = "validation images as the search kept them: image, truth, prediction and overlay"
        items.append({"kind": "picture", "title": "Predictions", "text": text, "uri": uri})
    return items


def _validation(
    search: ReportedSearch, names: Sequence[str], evaluation: Evaluation, shown: tuple[ShownImage, ...]
) -> list[Item]:
    """The confusion matrix, the scores of the whole, and pictures."""
    whole = evaluation.scores
    return [
        *figure_items(scores.confusion(names, evaluation.matrix)),
        text_item(
            f"Over the {len(evaluation.images)} validation images at their own size: mIoU {whole.miou:.4f} "
            f"({whole.miou_no_background:.4f} without background), Dice {whole.dice:.4f}, pixel accuracy "
            f"{whole.pixel_accuracy:.4f}. At another size than it was searched at, scores differ a little.",
        ),
        {
            "kind": "shown",
            "help": "Ranked by each image's own mIoU; a class in neither truth nor prediction does not count. "
            "The overlay leaves the background clear.",
            "legend": _legend(search.classes),
            "shown": shown,
        },
    ]


def _legend(classes: Sequence[ClassSpec]) -> list[dict[str, str]]:
    colors = palette(classes)
    names = {index: spec.name for index, spec in enumerate(classes)} | {255: "void (not scored)"}
    return [{"name": name, "color": "#" + bytes(colors[index].tolist()).hex()} for index, name in names.items()]


def _measure(search: ReportedSearch, trial: TrialRecord) -> tuple[Evaluation, tuple[ShownImage, ...]] | None:
    """The network on the validation part; None: it cannot be had, and ``missing`` says why."""

    def on_progress(done: int, total: int) -> None:
        if done % 200 == 0:
            search.on_message(f"{done} of {total} images")

    try:
        model = open_trial(search.ledger, trial)
        pairs, data = frozen_pairs(model, "val")
        search.on_message(f"trial {trial.number} on {len(pairs)} validation images")
        evaluation = evaluate(model, pairs, data, what="val", on_progress=on_progress)
        return evaluation, shown_images(evaluation, Predictor([model]), pairs, data)
    except (TunesearchError, OSError) as error:
        search.missing.append(f"the best trial's predictions: {first_line(error)}")
    except Exception as error:  # a network of the user's own may raise anything
        search.missing.append(f"the best trial's predictions: {type(error).__name__}: {error}")
    return None
