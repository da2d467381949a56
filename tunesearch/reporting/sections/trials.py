"""The section on the search: every trial's score, the learning curves, and how the trials ended."""

from __future__ import annotations

from collections.abc import Sequence

from tunesearch.ledger.records import TrialRecord
from tunesearch.reporting.facts import outcomes, savings
from tunesearch.reporting.figures import curves, trials
from tunesearch.reporting.items import FINDINGS, Item, figure_items, list_item, text_item
from tunesearch.reporting.reported import ReportedSearch
from tunesearch.reporting.study import build_study

_NOT_WELL = ("failed", "infeasible", "lost", "out_of_memory", "diverged")


def trials_section(search: ReportedSearch) -> list[Item]:
    """What was tried, and what early stopping saved."""
    ledger, records = search.ledger, search.records
    if not records:
        return [text_item("No trial has begun.")]
    saved = savings(records)
    items = figure_items(trials.history(ledger, records, build_study(ledger, records)))
    items += figure_items(curves.learning_curves(ledger, records, search.winner))
    if saved.planned:
        patience = f", {saved.by_patience} by the trials' own patience" if saved.by_patience else ""
        items.append(
            text_item(
                f"Early stopping saved {saved.planned - saved.trained} of {saved.planned} epochs "
                f"({100 * saved.share:.1f} %): {saved.by_search} by the search{patience}. Counted over the trials "
                "that were completed or stopped, against training each of them to its last epoch; the others would "
                "have ended as they did anyway."
            )
        )
    items += figure_items(trials.outcome_counts(outcomes(records)))
    duplicates = sum(record.outcome == "duplicate" for record in ledger.trials.values())
    if duplicates:
        items.append(
            text_item(f"{duplicates} suggestions equalled an earlier trial in effect and were not trained again.")
        )
    reasons = _reasons(records)
    return items + ([list_item("Why trials did not end well", reasons)] if reasons else [])


def _reasons(records: Sequence[TrialRecord]) -> list[str]:
    """The messages of trials that did not end well, each once with its trials."""
    found: dict[str, list[str]] = {}
    for record in records:
        if record.message and record.outcome in _NOT_WELL:
            found.setdefault(f"{record.outcome}: {record.message[:300]}", []).append(str(record.number))
    return [f"{reason} (trial {', '.join(numbers[:20])})" for reason, numbers in list(found.items())[:FINDINGS]]
