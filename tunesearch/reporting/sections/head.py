"""The head of the page: status, warnings, the verdict on the best trial, and cards with what the search took."""

from __future__ import annotations

from tunesearch.ledger.records import TrialRecord
from tunesearch.reporting.facts import cost, duration, in_words, outcomes, savings
from tunesearch.reporting.items import Item
from tunesearch.reporting.reported import ReportedSearch
from tunesearch.segmentation.data.layouts import PARTS
from tunesearch.strategy.confirmation import Confirmation

_STATUS = {
    "completed": "completed",
    "exhausted": "completed: the space has no further configuration",
    "time_budget": "ended with its time budget",
}


def status_text(status: str) -> str:
    """How the search stands, in words."""
    return _STATUS.get(status, status)


def warnings(search: ReportedSearch) -> list[str]:
    """What a reader must know before all else."""
    found = []
    if search.ledger.experiment.data.layout == "sample":
        found.append("The data are the built-in SAMPLE of generated scenes: scores say nothing about real pictures.")
    if search.status == "running":
        found.append("The search is still running: this is how it stands now, and the winner may change.")
    elif search.status in ("interrupted", "failed"):
        found.append(
            f"The search is not finished ({search.status}): tunesearch resume {search.ledger.name} goes on with it."
        )
    if not search.records:
        found.append("No trial has begun, so there is little to report.")
    return found


def name_of_best(search: ReportedSearch) -> str:
    """What the best trial may be called."""
    return "The winner" if search.confirmed and search.confirmed.winner is not None else "The best trial"


def headline(search: ReportedSearch) -> Item | None:
    """The best trial with the verdict on it; None: no trial has a score."""
    winner, found = search.winner, search.confirmed
    if winner is None or winner.best is None:
        return None
    told = {"trial": winner.number, "words": in_words(winner.config)}
    if found is None or found.leader is None:
        return told | _unconfirmed(search, winner)
    return told | _confirmed(search, winner, found)


def _unconfirmed(search: ReportedSearch, winner: TrialRecord) -> Item:
    unfinished = "" if winner.outcome == "completed" else f" (it is {winner.outcome or 'running'}, not completed)"
    verdict = (
        "Not confirmed: the best of many single trainings is partly luck, and its score too high on average. "
        "Repeat the best trials over several seeds before relying on it:"
    )
    if search.confirmed is not None:
        reason = search.confirmed.verdict
        verdict = f"Not confirmed yet: {reason}. Until then the best of many trainings is partly luck:"
    return {
        "state": "open",
        "badge": "NOT CONFIRMED",
        "score": f"{winner.best:.4f}",
        "what": f"{search.metric}, one training{unfinished}",
        "verdict": verdict,
        "command": f"tunesearch confirm {search.ledger.name}",
        "title": "Best in the search",
    }


def _confirmed(search: ReportedSearch, winner: TrialRecord, found: Confirmation) -> Item:
    assert found.leader is not None
    one = found.candidate(found.leader)
    assert one.mean is not None
    state, badge = "open", "NO DIFFERENCE SHOWN"
    if found.winner is not None:
        state, badge = "confirmed", "CONFIRMED"
    elif not found.done:
        badge = "NOT CONFIRMED YET"
    elif len(found.candidates) == 1:
        state, badge = "confirmed", "REPEATED, NOT COMPARED"
    what = f"mean {search.metric} over {len(one.values)} seeds"
    if one.deviation is not None:
        what += f", deviation {one.deviation:.4f}"
    return {
        "state": state,
        "badge": badge,
        "score": f"{one.mean:.4f}",
        "what": f"{what}; {winner.best:.4f} in the search",
        "verdict": sentence(found.verdict),
        "command": "" if found.done else f"tunesearch confirm {search.ledger.name}",
        "title": "The winner" if found.winner is not None else "Leading by its mean",
    }


def sentence(verdict: str) -> str:
    """A verdict with a capital letter and a full stop."""
    return f"{verdict[:1].upper()}{verdict[1:]}."


def cards(search: ReportedSearch) -> list[Item]:
    """Trials, times, epochs saved and data, a card each with ``title``, ``value`` and ``more``."""
    ledger, split = search.ledger, search.ledger.split
    spent = cost(ledger, ledger.trained())
    saved = savings(search.records)
    repeats = len(ledger.confirmations())
    confirming = ledger.seconds("confirm_seconds")
    ends = ", ".join(f"{number} {name}" for name, number in outcomes(search.records).items())
    found = [
        ("Trials", str(len(search.records)), ends + (f"; {repeats} repeats" if repeats else "")),
        (
            "Wall time",
            duration(spent.wall_seconds + confirming),
            f"of it {duration(confirming)} to confirm" if confirming else "all sessions together",
        ),
        (
            "CPU-hours",
            f"{spent.cpu_hours:.3g}",
            "training and validation passes by threads"
            + (f"; {spent.assumed} trials by the settings' CPUs" if spent.assumed else ""),
        ),
        ("GPU-hours", f"{spent.gpu_hours:.3g}", "the same, on a GPU"),
    ]
    if saved.planned:
        share, left = f"{100 * saved.share:.0f} %", saved.planned - saved.trained
        found.append(("Epochs saved", share, f"{left} of {saved.planned} by early stopping"))
    parts = ", ".join(f"{len(split.items(part))} {part}" for part in PARTS)
    found.append(("Data", search.data_name, f"{parts}; hash {split.digest[:12]}"))
    return [{"title": title, "value": value, "more": more} for title, value, more in found]
