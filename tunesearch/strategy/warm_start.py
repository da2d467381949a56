"""Trials of earlier searches as a prior for the sampler of a new one, frozen when the new search is made.

A score means the same in another search only where the data, the objective and the training were the same. So a trial
*fits* where some point of the new space means the same training in effect (``TrainConfig.governing``, by which
duplicates are known, too) on the same training and validation images. The point is read off the old trial's complete
configuration, so it makes no difference how the old space was written: what was searched there may be fixed here at
just that value, and the other way round.

Trials that fit are told to the sampler as if they were its own, with the outcome that they had; the best of each search
is trained here first. Of a search none of whose trials fit (other data, other epochs, another size) no score is told,
but its best configurations are trained first (Feurer, Springenberg and Hutter 2015, "Initializing Bayesian
hyperparameter optimization via meta-learning").

``warm_start.json`` in the new search's folder holds all that is used, so that a resume needs nothing of the others.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial
from pydantic import ValidationError

from tunesearch.errors import InputError, Problem
from tunesearch.experiment import Experiment
from tunesearch.ledger.outcomes import STATE, Outcome
from tunesearch.segmentation.config import GOVERNS, TrainConfig
from tunesearch.segmentation.data.layouts import resolve_classes
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.files import sha256
from tunesearch.space import Choice, IntRange, Parameter, Point, Scalar, same, text

if TYPE_CHECKING:
    from tunesearch.ledger.records import TrialRecord
    from tunesearch.ledger.store import Ledger

FILE = "warm_start.json"
HEEDING = ("tpe", "gp")
"""Samplers that heed trials which they did not propose."""
FIRST = 5
"""How many of the best configurations of a search are tried first where its scores mean nothing here."""

_VALUES_TOLD = 4
"""How many different values a reason tells one by one."""


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
        violated = {f"constraints:{self.outcome}": 1.0} if self.outcome in ("out_of_memory", "infeasible") else {}
        return create_trial(
            state=STATE[self.outcome],
            value=self.value,
            params=asked.params,
            distributions=asked.distributions,
            system_attrs=violated,
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


def require_heeding(experiment: Experiment, others: Sequence[Ledger]) -> None:
    """Refuse what a warm start cannot serve.

    Raises:
        InputError: a sampler that would not heed it; a search for another objective.
    """
    sampler = experiment.search.sampler
    if sampler not in HEEDING:
        why = {
            "random": "random draws whatever was tried before",
            "grid": "a grid visits its points whatever was tried before",
            "cmaes": "Optuna's CMA-ES learns from its own generations alone",
        }[sampler]
        hint = f"--sampler {' or '.join(HEEDING)}, or name its best configurations in try_first"
        raise InputError(Problem("--warm-start", f"is not heeded by the sampler {sampler}: {why}", hint=hint))
    problems = []
    for other in others:
        there, here = other.experiment.objective, experiment.objective
        for name in ("metric", "resolution"):
            old, new = getattr(there, name), getattr(here, name)
            if old != new:
                rule = f"must have searched for the same: objective.{name} is {new} here and was {old} there"
                problems.append(Problem(f"--warm-start {other.name}", rule))
    if problems:
        raise InputError(problems)


def gather(experiment: Experiment, split: Split, others: Sequence[Ledger]) -> WarmStart:
    """What of other searches fits a new one, and what does not.

    Args:
        split: the new search's.
        others: open for reading.

    Raises:
        InputError: as :func:`require_heeding`; or nothing can be used at all.
    """
    require_heeding(experiment, others)
    sources: list[Source] = []
    prior: list[Prior] = []
    first: list[Point] = []
    for other in others:
        source, told, tried = _of_search(experiment, split, other)
        sources.append(source)
        prior += told
        first += [point for point in tried if point not in first]
    found = WarmStart(tuple(sources), tuple(prior), tuple(first))
    if others and not prior and not first:
        raise InputError([source.useless() for source in sources])
    return found


# ---------------------------------------------------------------------------------------------------------- one search


def _of_search(experiment: Experiment, split: Split, other: Ledger) -> tuple[Source, list[Prior], list[Point]]:
    """What one search gives: the account, the trials that are told, and the points that are tried first."""
    same_data = _same_data(experiment, split, other)
    reasons: dict[str, list[int]] = {}
    fields: dict[tuple[str, str], list[tuple[int, Any]]] = {}
    """(Field, what it must be here) -> (trial, its value there) of the trials that are left out for it."""
    read: dict[int, tuple[Point, dict[str, tuple[str, Any]]]] = {}
    for record in other.counted():
        if (
            record.outcome is None
            or STATE[record.outcome] is TrialState.FAIL
            or (record.outcome == "completed" and record.best is None)
        ):
            reasons.setdefault(record.outcome or "not ended yet", []).append(record.number)
            continue
        point, outside = _point(experiment, record.config)
        if outside is not None:
            must = f"must be in {experiment.space[outside].domain} here"
            fields.setdefault((outside, must), []).append((record.number, getattr(record.config, outside)))
            continue
        try:
            here = experiment.train_config(point, seed=record.config.seed)
        except InputError as error:
            reasons.setdefault(f"is no training here: {error}", []).append(record.number)
            continue
        read[record.number] = point, _differences(record.config, here)
    fitting = [number for number, (_, differing) in read.items() if same_data and not differing]
    told = [_prior(other.name, other.trials[number], read[number][0]) for number in fitting]
    ranked = [number for number in read if other.trials[number].best is not None]
    ranked.sort(key=lambda number: _rank(other, number))
    if told:
        tried = [number for number in ranked if number in fitting][:1]
    else:  # what all of its trials differ in cannot be helped
        shared = set.intersection(*(set(differing) for _, differing in read.values())) if read else set()
        tried = [number for number in ranked if set(read[number][1]) == shared][:FIRST]
    for number, (_, differing) in read.items():
        if number in fitting:
            continue
        for name, (must, value) in list(differing.items())[:1]:
            fields.setdefault((name, must), []).append((number, value))
        if not differing:
            reasons.setdefault("scored on other data", []).append(number)
    for (name, must), found in fields.items():
        reason = f"{name} {must} and was {_values([value for _, value in found])}"
        reasons.setdefault(reason, []).extend(number for number, _ in found)
    left_out = [LeftOut(reason, tuple(sorted(trials))) for reason, trials in reasons.items()]
    source = Source(
        search=other.name,
        identity=str(other.attribute("identity", "")),
        trials=len(other.counted()),
        fit=len(told),
        tried_first=tuple(tried),
        same_data=same_data,
        left_out=tuple(sorted(left_out, key=lambda one: (-len(one.trials), one.reason))),
    )
    return source, told, [read[number][0] for number in tried]


def _rank(other: Ledger, number: int) -> tuple[bool, float, int]:
    """As ``Ledger.best``: the completed trials by their value, behind them the others."""
    record = other.trials[number]
    return (record.outcome != "completed", -other.larger_is_better(record.best or 0.0), number)


def _same_data(experiment: Experiment, split: Split, other: Ledger) -> bool:
    """Whether a score is measured on the same images and labels, by networks that were trained on the same."""

    def reading(of: Experiment) -> dict[str, Any]:
        names = {"mask_format", "ignore_index", "ignore_colors", "background", "folds", "split_seed"}
        told = of.data.model_dump(mode="json", include=names)
        if of.data.folds is None:
            del told["split_seed"]
        return {**told, "classes": [spec.colors for spec in resolve_classes(of.data)]}  # whatever they are called

    parts = all(split.part_digest(part) == other.split.part_digest(part) for part in ("train", "val"))
    return parts and reading(experiment) == reading(other.experiment)


def _prior(search: str, record: TrialRecord, point: Point) -> Prior:
    assert record.outcome is not None
    return Prior(
        search=search,
        trial=record.number,
        parameters=point,
        outcome=record.outcome,
        value=record.best if record.outcome == "completed" else None,
        curve={epoch: saved.best for epoch, saved in sorted(record.epochs.items())},
    )


# ----------------------------------------------------------------------------------------------------------- one trial


def _point(experiment: Experiment, config: TrainConfig) -> tuple[Point, str | None]:
    """The point of a space that a configuration stands for, and None; or what there is of it, and the field that is
    outside of its range.

    A field that has no effect in that configuration may have any value: where its own is outside, one is drawn, so that
    the sampler sees no preference. So may the seed, whose effect is chance.
    """
    draws = np.random.default_rng(config.seed)
    point: Point = {}
    for parameter in experiment.space:
        if not parameter.is_active(point):
            continue
        found = _read(parameter, config)
        if not found:
            idle = parameter.name == "seed" or (parameter.name in GOVERNS and not GOVERNS[parameter.name](config))
            if not idle:
                return point, parameter.name
            values = parameter.domain.representatives()
            found = [values[int(draws.integers(len(values)))]]
        point[parameter.name] = found[0]
    return point, None


def _read(parameter: Parameter, config: TrainConfig) -> list[Scalar]:
    """The value of a parameter's domain that a configuration has; empty where it has none of them."""
    name, domain, value = parameter.name, parameter.domain, getattr(config, parameter.name)
    if isinstance(domain, Choice):
        return [choice for choice in domain.values if same(choice, value) or _means(config, name, choice)][:1]
    if isinstance(domain, IntRange) and isinstance(value, float) and value.is_integer():
        value = int(value)
    return [value] if domain.contains(value) else []


def _means(config: TrainConfig, name: str, choice: Scalar) -> bool:
    """Whether a value as a file writes it (``64x64``) is what a configuration has."""
    try:
        return TrainConfig.model_validate({**config.model_dump(), name: choice}) == config
    except ValidationError:
        return False


def _differences(there: TrainConfig, here: TrainConfig) -> dict[str, tuple[str, Any]]:
    """The fields that make two trainings different in effect: what each must be here, and its value there."""
    old, new = there.governing(), here.governing()
    names = [name for name in TrainConfig.model_fields if name in old or name in new]
    return {
        name: (f"is {_shown(getattr(here, name))} here", getattr(there, name))
        for name in names
        if name not in old or name not in new or old[name] != new[name]
    }


def _values(found: Sequence[Any]) -> str:
    """Some values one by one, many by the smallest and the largest."""
    shown = sorted({_shown(value) for value in found})
    if len(shown) <= _VALUES_TOLD:
        return ", ".join(shown)
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in found):
        return f"{_shown(min(found))} .. {_shown(max(found))}"
    return ", ".join(shown[:_VALUES_TOLD]) + ", ..."


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else text(value)


def numbers(trials: Sequence[int]) -> str:
    """``0-3, 7, 9-10``."""
    runs: list[list[int]] = []
    for number in trials:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
