"""What MLflow is told of a search's trials: their metrics and tags, when they ended, and which was the best then."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.store import Ledger
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.strategy.confirmation import Confirmation
from tunesearch.tracking.tags import MAIN, parameter


def end_of(record: TrialRecord) -> float:
    """When a trial ended, or was last heard of. Never before it began, whatever the clocks of the machines say."""
    finished = [saved.metrics.finished_at for saved in dict(record.epochs).values()]
    return max([record.asked_at, record.ended_at or 0.0, *finished])


def bests(ledger: Ledger) -> list[TrialRecord]:
    """The trials that were the best when they ended, in the order of their ends; the last one is the best of all."""
    found: list[TrialRecord] = []
    highest: tuple[bool, float, int] | None = None
    ended = [record for record in ledger.counted() if record.outcome is not None and record.place is not None]
    for record in sorted(ended, key=lambda record: record.place or 0):
        if record.best is None:
            continue
        rank = (record.outcome == "completed", ledger.larger_is_better(record.best), -record.number)  # as Ledger.best
        if highest is None or rank > highest:
            highest = rank
            found.append(record)
    return found


def epoch_metrics(metrics: EpochMetrics, best: float, objective: str) -> Iterator[tuple[str, float]]:
    """The metrics of an epoch by name, with the best value of the objective so far."""
    yield from metrics.numbers().items()
    yield f"best_{objective}", best
    for index, iou in enumerate(metrics.val_iou):
        if iou is not None:
            yield f"val_iou_class_{index:02d}", iou


def best_metrics(record: TrialRecord, objective: str) -> dict[str, float]:
    """The metrics of a search's best trial, as its parent run has them."""
    # A section of their own, behind the curves of the trials on MLflow's page.
    at_best = {
        f"search_best/{name}": value
        for name, value in record.best_epoch(objective).metrics.numbers().items()
        if name.startswith("val_") and name != "val_seconds"
    }
    return {f"best_{objective}": float(record.best or 0.0), **at_best}


def best_tags(record: TrialRecord) -> dict[str, str]:
    """The tags that tell a search's best trial, on its parent run."""
    fields = record.config.governing()
    settings = {name: parameter(fields[name]) for name in MAIN if fields.get(name) is not None}
    return {
        "tunesearch.best_trial": str(record.number),
        "tunesearch.best_parameters": json.dumps(record.parameters),
        "tunesearch.best_settings": json.dumps(settings),
    }


def trial_tags(record: TrialRecord, parent: str) -> dict[str, str]:
    """The tags of a trial's run, as far as they are known when it begins."""
    tags = {"mlflow.parentRunId": parent, "tunesearch.seed": str(record.config.seed)}
    if record.confirms is not None:
        tags["tunesearch.confirms"] = str(record.confirms)
    return tags


def outcome_tags(record: TrialRecord, outcome: str | None) -> dict[str, str]:
    """The tags that tell how a trial stands or ended."""
    tags = {"tunesearch.outcome": outcome or "running"}
    if record.retry_of is not None:
        tags["tunesearch.retry_of"] = str(record.retry_of)
    if outcome is not None and record.message:
        tags["tunesearch.message"] = record.message[:4000]
    return tags


def confirmation_summary(confirmed: Confirmation, leader: int) -> tuple[dict[str, str], dict[str, float]]:
    """What repeating the best trials has shown: tags to read, and metrics to sort by."""
    one = confirmed.candidate(leader)
    assert one.mean is not None
    assert one.deviation is not None
    tags = {
        "tunesearch.confirmed.trial": str(one.trial),
        "tunesearch.confirmed.winner": "yes" if confirmed.winner is not None else "no difference shown",
        "tunesearch.confirmed.mean": f"{one.mean:.6f}",
        "tunesearch.confirmed.deviation": f"{one.deviation:.6f}",
        "tunesearch.confirmed.seeds": str(len(one.values)),
        "tunesearch.confirmed.verdict": confirmed.verdict[:4000],
    }
    metrics = {f"confirmed/{confirmed.objective}": one.mean}
    for name, measure in (confirmed.test or {}).items():
        if isinstance(measure, dict) and "mean" in measure:
            tags[f"tunesearch.test.{name}"] = f"{measure['mean']:.6f}"
            metrics[f"test/{name}"] = measure["mean"]
    return tags, metrics
