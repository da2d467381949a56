"""What a search knows of earlier searches before its first trial, frozen in ``warm_start.json`` in its folder.

What fits is decided once, when the search is made (:mod:`tunesearch.strategy.warm_start`), so that a resume needs
nothing of the other searches.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import FixedTrial, FrozenTrial, create_trial

from tunesearch.errors import Problem
from tunesearch.experiment import Experiment
from tunesearch.ledger.outcomes import STATE, Outcome, constraints
from tunesearch.segmentation.files import sha256
from tunesearch.space import Point

FILE = "warm_start.json"


@dataclass(frozen=True)
class Prior:
    """A trial of another search, as a point of this space.

    Attributes:
        search, trial: where it comes from.
        parameters: the point, complete.
        outcome: how it ended.
        value: its best value of the objective; None unless it was completed.
        curve: epoch -> running best of the objective.
    """

    search: str
    trial: int
    parameters: Point
    outcome: Outcome
    value: float | None
    curve: dict[int, float]

    def frozen(self, experiment: Experiment) -> FrozenTrial:
        """The trial for Optuna, with the distributions of this space: samplers leave out what has others."""
        asked = FixedTrial(dict(self.parameters))
        experiment.space(asked)
        return create_trial(
            state=STATE[self.outcome],
            value=self.value,
            params=asked.params,
            distributions=asked.distributions,
            system_attrs=constraints(self.outcome),
            intermediate_values=dict(self.curve),
        )


@dataclass(frozen=True)
class LeftOut:
    """Trials of another search that are not used, and why."""

    reason: str
    trials: tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """What another search gave.

    Attributes:
        search: its name.
        identity: told apart from another search of that name.
        trials: how many it has.
        fit: how many of them are told to the sampler.
        tried_first: numbers of those whose configurations are trained here before the sampler takes over.
        same_data: whether it was scored on the same images.
        left_out: the others, by reason.
    """

    search: str
    identity: str
    trials: int
    fit: int
    tried_first: tuple[int, ...]
    same_data: bool
    left_out: tuple[LeftOut, ...]

    def __str__(self) -> str:
        """One line."""
        first = ", ".join(map(str, self.tried_first))
        if self.fit:
            tried = f"; the best of them, trial {first}, is tried first" if first else ""
            return f"{self.search}: {self.fit} of {self.trials} trials fit{tried}"
        why = "" if self.same_data else ", it was scored on OTHER DATA"
        tried = f"; its scores are not used, its best configurations are tried first (trials {first})" if first else ""
        return f"{self.search}: 0 of {self.trials} trials fit{why}{tried}"

    def lines(self) -> list[str]:
        """That line and, indented, what is left out and why."""
        rows = [f"  {len(one.trials)} not told: {one.reason} (trials {numbers(one.trials)})" for one in self.left_out]
        return [f"warm start from {self}", *rows]

    def useless(self) -> Problem:
        """That nothing of it can be used, and why."""
        why = "; ".join(f"{one.reason} ({len(one.trials)} trials)" for one in self.left_out) or "it has no trials"
        return Problem(f"--warm-start {self.search}", f"must have trials that can be used here: {why}")


@dataclass(frozen=True)
class WarmStart:
    """What a search knows before its first trial.

    Attributes:
        sources: the searches that it comes from.
        prior: the trials that the sampler is told.
        first: points that are trained before the sampler takes over, the best ones first.
    """

    sources: tuple[Source, ...] = ()
    prior: tuple[Prior, ...] = ()
    first: tuple[Point, ...] = ()

    def __str__(self) -> str:
        """What is used and what is not, as a block of lines."""
        return "\n".join(line for source in self.sources for line in source.lines())

    @property
    def seed(self) -> int:
        """32 bits that differ from those of another warm start; 0 where there is none."""
        if not self.prior and not self.first:
            return 0
        content = json.dumps([[dataclasses.asdict(one) for one in self.prior], list(self.first)], sort_keys=True)
        return int(sha256(content.encode())[:8], 16)

    def tried_first(self, experiment: Experiment) -> Experiment:
        """The experiment with ``first`` behind what its file wants to be tried first."""
        return experiment.model_copy(update={"try_first": (*experiment.try_first, *self.first)})

    def trials(self, experiment: Experiment) -> list[FrozenTrial]:
        """For Optuna's study; one that is wrong for this space raises ValueError."""
        return [prior.frozen(experiment) for prior in self.prior]

    def dump(self) -> str:
        """JSON that :meth:`load` reads back."""
        return json.dumps({"version": 1, **dataclasses.asdict(self)}, indent=1) + "\n"

    @classmethod
    def load(cls, folder: Path, experiment: Experiment) -> WarmStart:
        """What a search's folder holds; a search without a warm start has an empty one.

        Raises:
            ValueError: the file is damaged, or is none of this space.
        """
        file = folder / FILE
        if not file.is_file():
            return cls()
        try:
            document = json.loads(file.read_text("utf-8"))
            if document["version"] != 1:
                raise ValueError("is of another version of tunesearch")
            sources = [
                Source(
                    **{
                        **source,
                        "tried_first": tuple(source["tried_first"]),
                        "left_out": tuple(LeftOut(one["reason"], tuple(one["trials"])) for one in source["left_out"]),
                    }
                )
                for source in document["sources"]
            ]
            prior = [
                Prior(**{**one, "curve": {int(epoch): float(value) for epoch, value in one["curve"].items()}})
                for one in document["prior"]
            ]
            found = cls(tuple(sources), tuple(prior), tuple(document["first"]))
            if not all(experiment.space.contains(one.parameters) for one in prior):
                raise ValueError("holds a point that is none of this search's space")
            found.trials(experiment)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            why = str(error) if type(error) is ValueError else f"must be whole: {type(error).__name__} {error}"
            raise ValueError(f"{FILE} {why}") from error
        return found


def numbers(trials: Sequence[int]) -> str:
    """``0-3, 7, 9-10``."""
    runs: list[list[int]] = []
    for number in trials:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
