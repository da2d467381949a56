"""The confirmed trial on the test part, which was set aside when the search began: looked at once, on the record."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from tunesearch.ledger.store import Ledger
from tunesearch.production.evaluation.evaluate import evaluate
from tunesearch.production.model import open_trial
from tunesearch.strategy.confirmation import Confirmation

MEASURED = ("miou", "miou_no_background", "dice", "pixel_accuracy")


def evaluate_test(
    ledger: Ledger, confirmed: Confirmation, *, on_message: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Evaluate every repeat of the leader on the test part at the images' own size, and record that it was looked at.

    Returns:
        Per measure its ``values`` (one per seed), mean and deviation; ``iou`` per class, the mean over seeds.
    """
    assert confirmed.leader is not None
    leader = confirmed.candidate(confirmed.leader)
    ledger.split.verify()
    pairs = ledger.split.pairs("test")
    found = []
    for number, seed in zip(leader.trials, leader.seeds, strict=True):
        model = open_trial(ledger, ledger.trials[number])
        found.append(evaluate(model, pairs, ledger.experiment.data))
        miou = found[-1].scores.miou
        on_message(f"test part, trial {leader.trial}, seed {seed}: mIoU {miou:.4f} on {len(pairs)} images")
    result: dict[str, Any] = {"images": len(pairs), "resolution": "original"}
    for name in MEASURED:
        values = [float(getattr(one.scores, name)) for one in found]
        deviation = statistics.stdev(values) if len(values) > 1 else None
        result[name] = {"values": values, "mean": statistics.fmean(values), "deviation": deviation}
    per_class = zip(*(one.scores.iou for one in found), strict=True)
    result["iou"] = {
        spec.name: (statistics.fmean(there) if (there := [v for v in values if v is not None]) else None)
        for spec, values in zip(found[0].classes, per_class, strict=True)
    }
    ledger.record_look(by="confirm", trials=leader.trials, result=result)
    return result
