"""What to try next: a repeat or a point that a person asked for, else what the sampler proposes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from tunesearch.ledger.records import Proposal, SearchRecord
from tunesearch.ledger.requests import PendingPoint
from tunesearch.strategy.samplers import build_sampler, derived_seed
from tunesearch.strategy.study import MemoryStudy

DUPLICATES_IN_A_ROW = 64
"""How many equal configurations a sampler may suggest before the space counts as exhausted."""


class Proposer:
    """Draws trials against all that is known of a search. Seeded by the search and a trial's number alone, so that a
    resumed search goes on with the same trials.

    Args:
        record: of the search; every proposal must have been added to it before the next one is drawn.
        trials: those that the record has so far, as Optuna keeps them.

    Attributes:
        study: what samplers see.
    """

    def __init__(self, record: SearchRecord, trials: Iterable[FrozenTrial] = ()) -> None:
        self.record = record
        trials = list(trials)
        self.study = MemoryStudy(record.experiment, record.warm_start, trials)
        self._proposed = sum(1 for trial in trials if "wish" not in trial.user_attrs)
        """How many trials nobody requested: the place in the grid and in ``try_first``."""
        self._grid: list[dict[str, Any]] | None = None
        self._duplicates = 0
        """How many proposals in a row were duplicates of earlier trials."""
        self._for_request = False
        """Whether the last of them was drawn for a request."""

    def propose(self) -> Proposal | None:
        """The next trial of the search; None when it has no further one.

        A point that a person asked for comes first, and is done with its first trial that is no duplicate; a full
        point, which can be drawn only once, with any. A retry is trained again whatever it equals.
        """
        proposal = self._propose()
        duplicate = proposal is not None and proposal.twin is not None
        self._duplicates = self._duplicates + 1 if duplicate else 0
        self._for_request = proposal is not None and duplicate and proposal.request is not None
        return proposal

    def _propose(self) -> Proposal | None:
        experiment, sampler = self.record.experiment, self.record.experiment.search.sampler
        request = next(iter(self.record.requests.points()), None)
        if self._for_request and request is None and len(self.record.counted()) >= self.record.target:
            return None  # the requested point was a duplicate, and nothing else is wanted
        if self._duplicates >= DUPLICATES_IN_A_ROW and sampler != "grid":
            return None
        point = self._next_point() if request is None else request.parameters
        if point is None and sampler == "grid":
            return None
        trial = self._draw(point)
        if request is None:
            self._proposed += 1
        elif request.retry_of is not None:
            config = experiment.train_config(trial.params, seed=self.record.trials[request.retry_of].config.seed)
            return Proposal(trial, config, request.key, answers=True, retry_of=request.retry_of)
        config = experiment.train_config(trial.params, seed=derived_seed(experiment.search.seed, trial.number, 1))
        twin = self.record.twin(config)
        answers = request is not None and (twin is None or self._is_last_try(request))
        return Proposal(trial, config, request.key if request else None, answers=answers, twin=twin)

    def repeat(self) -> Proposal | None:
        """The next trial that confirms another; None when all have begun."""
        wanted = next(iter(self.record.requests.repeats()), None)
        if wanted is None:
            return None
        first = self.record.trials[wanted.confirms]
        config = first.config.model_copy(update={"seed": wanted.seed})
        return Proposal(self._draw(first.parameters), config, wanted.key, answers=True, confirms=wanted.confirms)

    def _draw(self, point: Mapping[str, Any] | None) -> FrozenTrial:
        self.study.update(self.record.trials)
        return self.study.draw(self._sampler(), point)

    def _sampler(self) -> BaseSampler:
        search = self.record.experiment.search
        number, warm = len(self.study), self.record.warm_start.seed
        return build_sampler(search.sampler, search_seed=search.seed, number=number, warm_start=warm)

    def _is_last_try(self, request: PendingPoint) -> bool:
        full = self.record.experiment.space.contains(request.parameters)
        return full or self._duplicates == DUPLICATES_IN_A_ROW - 1

    def _next_point(self) -> dict[str, Any] | None:
        """What the grid or ``try_first`` says; None: it is the sampler's turn, or the grid has no further point."""
        experiment, place = self.record.experiment, self._proposed
        if experiment.search.sampler == "grid":
            points = self._grid_points()
            return points[place] if place < len(points) else None
        return dict(experiment.try_first[place]) if place < len(experiment.try_first) else None

    def _grid_points(self) -> list[dict[str, Any]]:
        """All points, in a seeded order that spreads over the grid."""
        if self._grid is None:
            points = list(self.record.experiment.space.grid())
            order = np.random.default_rng(self.record.experiment.search.seed).permutation(len(points))
            self._grid = [points[index] for index in order]
        return self._grid
