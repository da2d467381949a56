"""A search as its ledger tells it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.store import Ledger
from tunesearch.ledger.warm_start import Source
from tunesearch.segmentation.data.layouts import resolve_classes
from tunesearch.strategy import confirmation
from tunesearch.strategy.confirmation import Confirmation


@dataclass(frozen=True)
class SearchResult:
    """A search as its ledger tells it.

    Attributes:
        name: of the search.
        status: running, completed, exhausted (no further configuration), time_budget, interrupted, failed (an
            unexpected fault of the driver, or its first trials all failed alike) or damaged (its files cannot be read).
        objective: the metric that was searched for.
        trials: those that count, by number.
        best: the best completed trial (of the unfinished ones where none was completed); None: no trial has a score.
        classes: their names, in the order of their indices.
        sample: whether the data were the built-in sample.
        duplicates: suggestions that equalled an earlier trial and were not trained.
        seconds: of searching, all sessions together.
        warm_start: what other searches gave the sampler; empty: nothing did.
        confirmation: what repeating the best trials over seeds has shown; None: nobody has asked for it.
    """

    name: str
    status: str
    objective: str
    trials: tuple[TrialRecord, ...]
    best: TrialRecord | None
    classes: tuple[str, ...]
    sample: bool
    duplicates: int
    seconds: float
    warm_start: tuple[Source, ...] = ()
    confirmation: Confirmation | None = None

    def class_iou(self) -> dict[str, float | None]:
        """IoU per class at the best trial's best epoch; None for a class absent from truth and prediction."""
        if self.best is None or not self.best.epochs:
            return {}
        return dict(zip(self.classes, self.best.best_epoch(self.objective).metrics.val_iou, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """The JSON of ``run`` and ``show``."""
        best = None
        if self.best is not None:
            best = {
                **self.best.as_dict(),
                "iou": self.class_iou(),
                "config": self.best.config.model_dump(mode="json"),
            }
        return {
            "name": self.name,
            "status": self.status,
            "objective": self.objective,
            "data": "built-in sample" if self.sample else "user",
            "seconds": round(self.seconds, 3),
            "duplicates": self.duplicates,
            "warm_start": [asdict(source) for source in self.warm_start],
            "confirmation": None if self.confirmation is None else self.confirmation.as_dict(),
            "best": best,
            "trials": [record.as_dict() for record in self.trials],
        }


def result_of(ledger: Ledger, status: str) -> SearchResult:
    counted = ledger.counted()
    return SearchResult(
        name=ledger.name,
        status=status,
        objective=ledger.experiment.objective.metric,
        trials=tuple(counted),
        best=ledger.best(),
        classes=tuple(spec.name for spec in resolve_classes(ledger.experiment.data)),
        sample=ledger.experiment.data.layout == "sample",
        duplicates=len(ledger.trials) - len(ledger.trained()),
        seconds=ledger.seconds(),
        warm_start=ledger.warm_start.sources,
        confirmation=confirmation.confirmation(ledger),
    )


def status_of(ledger: Ledger) -> str:
    return "running" if ledger.driven else status_kept(ledger)


def status_kept(ledger: Ledger) -> str:
    """The search's status as it stands where nobody drives it."""
    status = str(ledger.attribute("status", "interrupted"))
    return "interrupted" if status == "running" else status  # its driver died
