"""Whether a training gave the recorded curve again, and why it may not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tunesearch.production.training.job import Job
from tunesearch.production.training.source import Source, curve_of, signed
from tunesearch.segmentation.config import VAL_METRICS
from tunesearch.segmentation.epoch import EpochMetrics

_CURVE = ("train_loss", *VAL_METRICS, "val_iou", "lr", "updates")
"""What two equal trainings have in common, epoch by epoch."""
_MACHINE = ("device", "precision", "threads", "processes")
"""What of the effective configuration decides, beside the configuration, on the last digits."""


def differences(source: Source, effective: dict[str, Any]) -> list[str]:
    """Why the last digits of the curve may not be the recorded ones."""
    recorded = source.effective
    if not recorded:
        return []
    now = {key: effective.get(key) for key in _MACHINE}
    then = {key: recorded.get(key, 1 if key == "processes" else None) for key in _MACHINE}
    if now["device"] != "cpu" and then["device"] != "cpu":
        now.pop("threads")
    differing = [f"{key} {now[key]}, recorded {then[key]}" for key in now if now[key] != then[key]]
    return [f"the curve may differ from the recorded one: {'; '.join(differing)}"] if differing else []


def reproduced(
    job: Job, source: Source, curve: Sequence[EpochMetrics], on_message: Callable[[str], None]
) -> bool | None:
    """Whether the curve is the recorded one, as far as that goes; None where something else was trained."""
    bundle = source.bundle
    digest = source.document["data"].get("digest") if bundle is None else bundle.split.digest
    if source.config != job.config or digest != job.split.digest or job.on != "train":
        return None
    if bundle is None:
        return _same_score(source, curve, on_message)
    recorded = curve_of(bundle)
    if len(curve) != len(recorded):
        on_message(f"the curve differs from the recorded one: {len(curve)} epochs, recorded {len(recorded)}")
        return False
    for now, then in zip(curve, recorded, strict=True):
        for name in _CURVE:
            if getattr(now, name) != getattr(then, name):
                on_message(
                    f"the curve differs from the recorded one, for the first time in epoch {now.epoch}: "
                    f"{name} {getattr(now, name)}, recorded {getattr(then, name)}"
                )
                return False
    on_message("the curve is the recorded one, to the last digit")
    return True


def _same_score(source: Source, curve: Sequence[EpochMetrics], on_message: Callable[[str], None]) -> bool | None:
    """The same by the best value alone, which is all that a bare configuration records."""
    recorded = (source.document.get("score") or {}).get("value")
    if recorded is None or len(curve) != source.document["score"].get("epochs"):  # that trial was stopped on the way
        return None
    best = max(curve, key=lambda epoch: signed(epoch, source.objective))
    value, name = float(getattr(best, source.objective.metric)), source.objective.metric
    same = bool(value == recorded)
    end = "is the recorded one, to the last digit" if same else f"differs from the recorded one, {recorded}"
    on_message(f"{name} {value} {end}")
    return same
