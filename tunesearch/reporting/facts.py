"""What a search came to, in plain numbers: outcomes, cost, epochs that early stopping saved, the winner in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.store import Ledger
from tunesearch.segmentation.config import TrainConfig
from tunesearch.space import text

MEANINGS = {
    "completed": "trained to its end",
    "stopped": "ended early by the search, as one of the weaker ones",
    "diverged": "its loss was no finite number",
    "out_of_memory": "did not fit, even at the smallest micro-batch",
    "infeasible": "its parts do not go together",
    "failed": "its own error",
    "lost": "its process or node died too often",
    "cancelled": "the time was up, or by hand",
    "running": "has not ended",
}
"""What the outcomes mean, in the order in which they are shown."""


def outcomes(records: Sequence[TrialRecord]) -> dict[str, int]:
    """How many trials ended how; outcomes that did not occur are absent."""
    ends = [record.outcome or "running" for record in records]
    return {name: ends.count(name) for name in MEANINGS if name in ends}


@dataclass(frozen=True)
class Cost:
    """What a search took.

    Attributes:
        wall_seconds: of searching, all sessions together.
        trial_seconds: of training and validation passes, all trials together.
        cpu_hours: those passes, each by the threads of its trial.
        gpu_hours: those passes on a GPU, each by the trial's share of it; 0 without GPUs.
        assumed: trials whose ``effective.json`` is not there, counted with the settings' CPUs (1 if not given).
    """

    wall_seconds: float
    trial_seconds: float
    cpu_hours: float
    gpu_hours: float
    assumed: int


def cost(ledger: Ledger, records: Sequence[TrialRecord]) -> Cost:
    """Add up the passes of every committed epoch; what was trained twice after a crash is counted once."""
    settings = ledger.attribute("settings", {})
    seconds = cpu = gpu = 0.0
    assumed = 0
    for record in records:
        spent = sum(epoch.metrics.train_seconds + epoch.metrics.val_seconds for epoch in record.epochs.values())
        if not spent:
            continue
        built = ledger.effective(record.number)
        assumed += not built
        seconds += spent
        cpu += spent * float(built.get("threads") or settings.get("cpus_per_trial") or 1)
        on_gpu = built.get("device", "cpu") != "cpu" or (not built and bool(settings.get("gpus_per_trial")))
        # Where nobody said how much of a GPU a trial gets, it gets a whole one.
        given = settings.get("gpus_per_trial")
        gpu += spent * float(1.0 if given is None else given) * on_gpu
    return Cost(ledger.seconds(), seconds, cpu / 3600, gpu / 3600, assumed)


@dataclass(frozen=True)
class Savings:
    """Epochs that need not be trained. Of the trials that were completed or stopped by the search: the others would
    have ended as they did whatever decides on early stopping.

    Attributes:
        planned: epochs of these trials, had each been trained to its end.
        trained: epochs that they were trained.
        by_search: left out because the search stopped the trial (ASHA or the median rule).
        by_patience: left out because a trial's own early stopping ended it.
    """

    planned: int
    trained: int
    by_search: int
    by_patience: int

    @property
    def share(self) -> float:
        """Epochs that were left out, of those planned; 0 where none was planned."""
        return (self.by_search + self.by_patience) / self.planned if self.planned else 0.0


def savings(records: Sequence[TrialRecord]) -> Savings:
    """Count the epochs of the trials that were completed or stopped."""
    planned = trained = by_search = by_patience = 0
    for record in records:
        if record.outcome not in ("completed", "stopped"):
            continue
        done = max(record.epochs, default=0)
        planned += record.config.epochs
        trained += done
        if record.outcome == "stopped":
            by_search += record.config.epochs - done
        else:
            by_patience += record.config.epochs - done
    return Savings(planned, trained, by_search, by_patience)


def in_words(config: TrainConfig) -> str:
    """A configuration as one would tell it; what governs nothing here is left out."""
    told = config.governing()
    network = str(config.architecture)
    if "encoder" in told:
        weights = {"imagenet": "with ImageNet weights", "none": "from scratch"}
        network += f" over {config.encoder} {weights.get(str(config.encoder_weights), '')}".rstrip()
        if "finetune_fraction" in told and config.encoder_weights == "imagenet":
            network += f", {100 * config.finetune_fraction:.0f} % of its layers trained"
    parts = [f"{config.optimizer} at a learning rate of {short(config.lr)}"]
    if config.schedule != "none":
        parts.append(f"schedule {config.schedule}")
    parts.append(f"loss {config.loss}")
    if "class_weights" in told and config.class_weights != "none":
        parts.append(f"class weights {text(config.class_weights)}")
    if config.augmentation != "none":
        pipeline = config.augmentation if isinstance(config.augmentation, str) else "of one's own"
        parts.append(f"augmentation {pipeline}")
    parts.append(f"batches of {config.batch_size} images of {config.size.width}x{config.size.height}")
    parts.append(f"at most {config.epochs} epochs")
    return f"{network}; {', '.join(parts)}."


def short(value: Any) -> str:
    """A parameter's value as a table shows it."""
    if isinstance(value, dict) and set(value) == {"width", "height"}:
        return f"{value['width']}x{value['height']}"
    return f"{value:.4g}" if isinstance(value, float) else text(value)


def duration(seconds: float) -> str:
    """``48 s``, ``12 min``, ``3.4 h``, ``2.1 days``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"
