"""The study in memory: what samplers read and draw against, equal to the ledger's but for the disk.

A sampler draws one parameter at a time and reads the whole history for it. Against the database that would be a dozen
transactions a trial, and a death between two of them would leave half a trial. Here a trial is drawn as a whole first,
and the ledger then writes it in one transaction.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tunesearch.experiment import Experiment
from tunesearch.strategy.samplers import build_sampler
from tunesearch.strategy.warm_start import WarmStart


class Mirror:
    """An in-memory copy of a search's study.

    Args:
        experiment: what is searched, and with which sampler.
        trials: the ledger's, by number from 0 without gaps.
        warm_start: what the sampler is told of other searches. Their trials stand in front of the study, so that a
            resumed search has them where they were.
    """

    def __init__(
        self, experiment: Experiment, trials: Iterable[FrozenTrial], *, warm_start: WarmStart | None = None
    ) -> None:
        warm_start = warm_start or WarmStart()
        self.experiment = experiment
        self.storage = optuna.storages.InMemoryStorage()
        direction = StudyDirection.MAXIMIZE if experiment.objective.mode == "max" else StudyDirection.MINIMIZE
        self.study = optuna.create_study(direction=direction, storage=self.storage)
        self.ids: list[int] = []
        self.proposed = 0
        """How many trials nobody wished for: the place in the grid and in ``try_first``."""
        self._warm_seed = warm_start.seed
        self._before = len(warm_start.prior)
        self.study.add_trials(warm_start.trials(experiment))
        for trial in trials:
            self.study.add_trial(trial)
            self._note(trial.number)
            self.proposed += "wish" not in trial.user_attrs
        self._grid: list[dict[str, Any]] | None = None

    def _note(self, number: int) -> None:
        study = self.storage.get_study_id_from_name(self.study.study_name)
        self.ids.append(self.storage.get_trial_id_from_study_id_trial_number(study, self._before + number))

    def draw(self, wish: dict[str, Any] | None = None) -> FrozenTrial | None:
        """The next trial with all its parameters; None when a grid has no further point.

        Args:
            wish: a point that a person wants, full or partial; None: it is the sampler's turn.
        """
        number = len(self.ids)
        search = self.experiment.search
        if wish is not None:
            self.study.enqueue_trial(wish)
        elif search.sampler == "grid":
            point = self._grid_point(self.proposed)
            if point is None:
                return None
            self.study.enqueue_trial(point)
        elif self.proposed < len(self.experiment.try_first):
            self.study.enqueue_trial(self.experiment.try_first[self.proposed])
        self.proposed += wish is None
        self.study.sampler = build_sampler(
            search.sampler, search_seed=search.seed, number=number, warm_start=self._warm_seed
        )
        self.experiment.space(self.study.ask())
        self._note(number)
        drawn = copy.copy(self.storage.get_trial(self.ids[number]))
        drawn.number = number
        return drawn

    def report(self, number: int, epoch: int, value: float) -> None:
        """An epoch's running best."""
        self.storage.set_trial_intermediate_value(self.ids[number], epoch, value)

    def end(self, number: int, state: TrialState, value: float | None, violated: str | None) -> dict[str, Any]:
        """Close a trial as Optuna is told; gives the system attributes that the sampler keeps with it."""
        if violated is not None:
            # The attribute that Trial.set_constraint writes; a Trial cannot be had here without drawing anew.
            self.storage.set_trial_system_attr(self.ids[number], f"constraints:{violated}", 1.0)
        self.study.tell(self._before + number, value if state is TrialState.COMPLETE else None, state=state)
        attributes: dict[str, Any] = self.storage.get_trial(self.ids[number]).system_attrs
        return attributes

    def _grid_point(self, number: int) -> dict[str, Any] | None:
        """The grid's ``number``-th point in a seeded order that spreads over the grid; None behind the last."""
        if self._grid is None:
            points = list(self.experiment.space.grid())
            order = np.random.default_rng(self.experiment.search.seed).permutation(len(points))
            self._grid = [points[index] for index in order]
        return self._grid[number] if number < len(self._grid) else None
