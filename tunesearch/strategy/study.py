"""The study in memory: what samplers read and draw against, equal to the ledger's but for the disk.

A sampler draws one parameter at a time and reads the whole history for it. Against the database that would be a dozen
transactions a trial, and a death between two of them would leave half a trial. Here a trial is drawn as a whole first,
and the ledger then writes it in one transaction.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tunesearch.experiment import Experiment
from tunesearch.ledger.outcomes import constraints, optuna_state
from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.warm_start import WarmStart


class MemoryStudy:
    """An in-memory copy of a search's study, brought up to date from the records before a trial is drawn.

    Args:
        experiment: what is searched.
        warm_start: what the sampler is told of other searches. Their trials stand in front of the study, so that a
            resumed search has them where they were.
        trials: the ledger's, by number from 0 without gaps, with what samplers keep with them.
    """

    def __init__(self, experiment: Experiment, warm_start: WarmStart, trials: Iterable[FrozenTrial]) -> None:
        self.experiment = experiment
        self.storage = optuna.storages.InMemoryStorage()
        direction = StudyDirection.MAXIMIZE if experiment.objective.mode == "max" else StudyDirection.MINIMIZE
        self.study = optuna.create_study(direction=direction, storage=self.storage)
        self._study_id = self.storage.get_study_id_from_name(self.study.study_name)
        self._ids: list[int] = []
        self._running: dict[int, set[int]] = {}
        """Trials that have not ended here, and their epochs that are known here."""
        self._before = len(warm_start.prior)
        self.study.add_trials(warm_start.trials(experiment))
        for trial in trials:
            self.study.add_trial(trial)
            self._take_note(trial.number, trial)

    def __len__(self) -> int:
        """How many trials of the search it has."""
        return len(self._ids)

    def update(self, records: Mapping[int, TrialRecord]) -> None:
        """Tell it what happened since: epochs with their running best, and endings."""
        for number, known in list(self._running.items()):
            record = records[number]
            for epoch in sorted(record.epochs.keys() - known):
                self.storage.set_trial_intermediate_value(self._ids[number], epoch, record.epochs[epoch].best)
                known.add(epoch)
            if record.closed:
                self._end(record)

    def draw(self, sampler: BaseSampler, point: Mapping[str, Any] | None = None) -> FrozenTrial:
        """The next trial with all its parameters.

        Args:
            point: values, full or partial, that it must have; None: it is the sampler's turn.
        """
        number = len(self)
        if point is not None:
            self.study.enqueue_trial(dict(point))
        self.study.sampler = sampler
        self.experiment.space(self.study.ask())
        trial = self.storage.get_trial(self._id_of(number))
        self._take_note(number, trial)
        drawn = copy.copy(trial)
        drawn.number = number
        return drawn

    def _end(self, record: TrialRecord) -> None:
        assert record.outcome is not None
        for name, content in constraints(record.outcome).items():
            self.storage.set_trial_system_attr(self._ids[record.number], name, content)
        state = optuna_state(record.outcome, repeat=record.confirms is not None)
        self.study.tell(
            self._before + record.number, record.best if state is TrialState.COMPLETE else None, state=state
        )
        del self._running[record.number]

    def _take_note(self, number: int, trial: FrozenTrial) -> None:
        self._ids.append(self._id_of(number))
        if not trial.state.is_finished():
            self._running[number] = set(trial.intermediate_values)

    def _id_of(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._study_id, self._before + number)
