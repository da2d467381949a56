"""The section on the best trials repeated over seeds, and the leader on the test part."""

from __future__ import annotations

from typing import Any

from tunesearch.reporting.figures import scores
from tunesearch.reporting.items import Item, figure_items, table_item, text_item
from tunesearch.reporting.reported import ReportedSearch
from tunesearch.reporting.sections.head import sentence
from tunesearch.strategy.confirmation import LEVEL, Confirmation

_MEASURES = {
    "miou": "mIoU",
    "miou_no_background": "mIoU without background",
    "dice": "Dice",
    "pixel_accuracy": "pixel accuracy",
}


def confirmation_section(search: ReportedSearch, found: Confirmation) -> list[Item]:
    """The verdict, every seed, the differences between candidates, and the test part."""
    items = [
        text_item(sentence(found.verdict), "lead"),
        text_item(
            f"Intervals are Student's t at {100 * LEVEL:.0f} %; a winner is named only where Welch's t interval of "
            "its difference from every other candidate leaves zero out. The search's own score is no part of a "
            "mean: trials were chosen by it.",
            "help",
        ),
        *figure_items(scores.confirmation(found)),
    ]
    if found.differences:
        rows = [
            [one.trial, f"{one.value:.4f}", f"{one.low:.4f} to {one.high:.4f}", "yes" if one.shown else "no"]
            for one in found.differences
        ]
        head = [f"trial, against trial {found.leader}", "behind by", "interval", "difference shown"]
        items.append(table_item("How far the others are behind", head, rows))
    if found.test is None:
        reason = "" if search.ledger.split.test else ": the search set no test part aside (data.test)"
        return [*items, text_item(f"There is no score on a test part{reason}.")]
    return items + _test_part(found.test, found.leader)


def _test_part(test: dict[str, Any], leader: int | None) -> list[Item]:
    rows = []
    for key, title in _MEASURES.items():
        score = test[key]
        deviation = "" if score["deviation"] is None else f"{score['deviation']:.4f}"
        each = ", ".join(f"{value:.4f}" for value in score["values"])
        rows.append([title, f"{score['mean']:.4f}", deviation, each])
    iou = [[name, "absent" if value is None else f"{value:.4f}"] for name, value in test["iou"].items()]
    return [
        table_item("On the test part, which no trial has seen", ["score", "mean", "deviation", "each seed"], rows),
        text_item(f"Trial {leader}, every seed, on {test.get('images')} images at their original size.", "help"),
        table_item("IoU per class on the test part, mean over the seeds", ["class", "IoU"], iou),
    ]
