"""What is known of a search and of each of its trials. Plain data, no I/O.

A trial that confirms another repeats its configuration with another seed. It is no part of the search: the sampler is
not told its score, early stopping does not see it, and it counts neither as a trial nor as a candidate for the best.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial

from tunesearch.experiment import Experiment
from tunesearch.ledger.outcomes import Outcome
from tunesearch.ledger.requests import Requests
from tunesearch.ledger.warm_start import WarmStart
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.epoch import EpochMetrics


@dataclass
class EpochRecord:
    """One committed epoch: its metrics, the running best of the objective, and whether the trial was stopped there."""

    metrics: EpochMetrics
    best: float
    stopped: bool


@dataclass
class TrialRecord:
    """One trial as the ledger knows it.

    Attributes:
        number: from 0, without gaps in the study.
        parameters: what was sampled; inactive parameters are absent.
        config: the complete TrainConfig.
        epochs: committed epochs by number, from 1.
        outcome: None while the trial is live.
        message: why it ended, for outcomes that need a reason.
        attempts: how often in a row, with no further epoch in between, its process or node was lost.
        best: best value of the objective so far; None before the first epoch.
        closed: whether its state in the study is final.
        retry_of: the trial that this one trains again; None: it is no retry.
        confirms: the trial whose configuration this one repeats with another seed; None: it is a trial of the search.
        asked_at: Unix time at which it was drawn.
        ended_at: Unix time at which it was closed; None while it is live, and for duplicates.
        place: it was the ``place``-th to end, from 1, whatever the clocks say; None as ``ended_at``.
        lost_at: the last committed epoch when its process was lost for the last time; -1: it never was.
        storage_id: Optuna's id of it in its storage, which is not its number; -1: nobody has asked for it yet.
    """

    number: int
    parameters: dict[str, Any]
    config: TrainConfig
    epochs: dict[int, EpochRecord] = field(default_factory=dict)
    outcome: Outcome | None = None
    message: str = ""
    attempts: int = 0
    best: float | None = None
    closed: bool = False
    retry_of: int | None = None
    confirms: int | None = None
    asked_at: float = 0.0
    ended_at: float | None = None
    place: int | None = None
    lost_at: int = -1
    storage_id: int = -1

    @property
    def best_val_miou(self) -> float | None:
        """Best mean IoU on the validation set over the committed epochs."""
        return max((record.metrics.val_miou for record in self.epochs.values()), default=None)

    def best_epoch(self, metric: str) -> EpochRecord:
        """The first epoch that has the best value; there must be an epoch."""
        records = [record for _, record in sorted(self.epochs.items())]
        return next((record for record in records if getattr(record.metrics, metric) == self.best), records[-1])

    def as_dict(self) -> dict[str, Any]:
        """The row of ``--json``."""
        return {
            "number": self.number,
            "parameters": self.parameters,
            "outcome": self.outcome or "running",
            "epochs": max(self.epochs, default=0),
            "best_val_miou": self.best_val_miou,
            "best_value": self.best,
            "seed": self.config.seed,
            "message": self.message,
            **({} if self.retry_of is None else {"retry_of": self.retry_of}),
            **({} if self.confirms is None else {"confirms": self.confirms}),
        }


@dataclass(frozen=True)
class Proposal:
    """A trial as it was drawn, before it is committed.

    Attributes:
        trial: with its number, all its parameters and what the sampler keeps with it.
        config: the complete TrainConfig.
        request: key of the request that it was drawn for; None: the sampler's own.
        answers: whether that request is done with this trial; not for a duplicate whose request leaves something open.
        retry_of, confirms: as of :class:`TrialRecord`.
        twin: the earlier trial that it equals in effect, so that it need not be trained; None: it is new.
    """

    trial: FrozenTrial
    config: TrainConfig
    request: str | None = None
    answers: bool = False
    retry_of: int | None = None
    confirms: int | None = None
    twin: int | None = None


class SearchRecord:
    """What is known of a search.

    Attributes:
        name: of the search.
        identity: told apart from another search of that name.
        experiment: the frozen experiment.
        split: the frozen split.
        warm_start: what the sampler knows from other searches.
        trials: by number, from 0 without gaps.
        requests: what people asked for.
    """

    def __init__(
        self,
        name: str,
        experiment: Experiment,
        split: Split,
        *,
        identity: str = "",
        warm_start: WarmStart | None = None,
        requests: Requests | None = None,
    ) -> None:
        self.name = name
        self.identity = identity
        self.experiment = experiment
        self.split = split
        self.warm_start = warm_start or WarmStart()
        self.trials: dict[int, TrialRecord] = {}
        self.requests = requests or Requests()
        self._sign = 1.0 if experiment.objective.mode == "max" else -1.0
        self._by_effect: dict[str, int] = {}

    def remember(self, record: TrialRecord, request: str | None = None) -> None:
        """Take note of a trial, and of the request that it answers."""
        self.trials[record.number] = record
        if request is not None:
            self.requests.answered[request] = record.number
        if record.outcome != "duplicate" and record.confirms is None:
            self._by_effect.setdefault(self._effect(record.config), record.number)

    # --------------------------------------------------------------------------------------------------------- trials

    def trained(self) -> list[TrialRecord]:
        """All trials but duplicates, by number: those of the search, and those that confirm them."""
        return [self.trials[number] for number in sorted(self.trials) if self.trials[number].outcome != "duplicate"]

    def counted(self) -> list[TrialRecord]:
        """The trials of the search: all but duplicates and those that confirm others, by number."""
        return [record for record in self.trained() if record.confirms is None]

    def confirmations(self) -> list[TrialRecord]:
        """The trials that confirm others, by number."""
        return [record for record in self.trained() if record.confirms is not None]

    def live(self) -> list[TrialRecord]:
        """The trials that have not ended, those that confirm others too."""
        return [record for record in self.trained() if record.outcome is None]

    def completed(self) -> list[TrialRecord]:
        """The completed trials of the search that have a score, the best ones first."""
        found = [record for record in self.counted() if record.outcome == "completed" and record.best is not None]
        return self.ranked(found)

    def ranked(self, records: Iterable[TrialRecord]) -> list[TrialRecord]:
        """Trials by their best value, the best ones first; of equal ones the earlier first."""
        return sorted(records, key=lambda record: (-self.larger_is_better(record.best or 0.0), record.number))

    def best(self) -> TrialRecord | None:
        """The completed trial with the best value; where none was completed, the best of those stopped on the way."""
        scored = [record for record in self.counted() if record.best is not None]
        return next(iter(self.completed() or self.ranked(scored)), None)

    def twin(self, config: TrainConfig) -> int | None:
        """The first trial that trains the same in effect; None: there is none."""
        return self._by_effect.get(self._effect(config))

    def _effect(self, config: TrainConfig) -> str:
        """Equal for configurations that are equal in effect; a seed only counts where it is searched."""
        fields = config.governing()
        if "seed" in self.experiment.space:
            fields["seed"] = config.seed
        return json.dumps(fields, sort_keys=True)

    # --------------------------------------------------------------------------------------------------------- values

    def larger_is_better(self, value: float) -> float:
        """The value with its sign turned if the objective is minimised."""
        return self._sign * value

    def value(self, metrics: EpochMetrics) -> float:
        """An epoch's value of the objective."""
        return float(getattr(metrics, self.experiment.objective.metric))

    def running_best(self, metrics: EpochMetrics, *, number: int) -> float:
        """What a trial's best value would be with this epoch; larger is better."""
        value, best = self._sign * self.value(metrics), self.trials[number].best
        return value if best is None else max(value, self._sign * best)

    # --------------------------------------------------------------------------------------------------- what is wanted

    @property
    def proposals(self) -> int:
        """How many trials the sampler is to propose: as begun with, and what the search was extended by."""
        return self.experiment.search.trials + self.requests.more_trials()

    @property
    def target(self) -> int:
        """How many trials the search is to have: those that are proposed, and every requested point on top."""
        answers = (self.trials[number] for number in self.requests.answered.values())
        tried = sum(1 for record in answers if record.outcome != "duplicate" and record.confirms is None)
        return self.proposals + tried + len(self.requests.points())

    def is_unfinished(self, *, confirming: bool = False) -> bool:
        """Whether trials (``confirming``: those that confirm others) are live or still to be asked for."""
        if self.requests.repeats() or any(trial.confirms is not None or not confirming for trial in self.live()):
            return True
        return not confirming and len(self.counted()) < self.target

    @property
    def looks(self) -> list[dict[str, Any]]:
        """Every evaluation on the test part that was recorded, oldest first."""
        return []
