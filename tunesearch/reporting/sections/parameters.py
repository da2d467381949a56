"""The section on the searched parameters."""

from __future__ import annotations

from tunesearch.reporting.figures import parameters
from tunesearch.reporting.importance import importances
from tunesearch.reporting.items import Item, figure_items, text_item
from tunesearch.reporting.reported import ReportedSearch
from tunesearch.reporting.study import build_study


def parameters_section(search: ReportedSearch) -> list[Item]:
    """How much each parameter matters, and how they went together."""
    study = build_study(search.ledger, search.records)
    completed = sum(record.outcome == "completed" and record.best is not None for record in search.records)
    if not completed:
        return [text_item("No trial was completed, so nothing can be said about the parameters.")]
    if completed >= 100:
        search.on_message("measuring how much each parameter matters")
    maximize = search.ledger.experiment.objective.mode == "max"
    return [
        *figure_items(parameters.importance(importances(study), completed)),
        *figure_items(parameters.parallel(study, search.metric, maximize=maximize)),
        *figure_items(parameters.slices(study, search.metric)),
    ]
