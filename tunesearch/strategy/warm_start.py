"""Trials of earlier searches as a prior for the sampler of a new one: what fits, what does not, and why.

A score means the same in another search only where the data, the objective and the training were the same. So a trial
*fits* where some point of the new space means the same training in effect (``TrainConfig.governing``, by which
duplicates are known, too) on the same training and validation images. The point is read off the old trial's complete
configuration, so it makes no difference how the old space was written: what was searched there may be fixed here at
just that value, and the other way round.

Trials that fit are told to the sampler as if they were its own, with the outcome that they had; the best of each search
is trained here first. Of a search none of whose trials fit (other data, other epochs, another size) no score is told,
but its best configurations are trained first (Feurer, Springenberg and Hutter 2015, "Initializing Bayesian
hyperparameter optimization via meta-learning").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.trial import TrialState
from pydantic import ValidationError

from tunesearch.errors import InputError, Problem
from tunesearch.experiment import Experiment
from tunesearch.ledger.outcomes import STATE
from tunesearch.ledger.records import SearchRecord, TrialRecord
from tunesearch.ledger.warm_start import LeftOut, Prior, Source, WarmStart
from tunesearch.segmentation.config import GOVERNS, TrainConfig
from tunesearch.segmentation.data.layouts import resolve_classes
from tunesearch.segmentation.data.splits import Split
from tunesearch.space import Choice, IntRange, Parameter, Point, Scalar, same, text

HEEDING = ("tpe", "gp")
"""Samplers that heed trials which they did not propose."""
FIRST = 5
"""How many of the best configurations of a search are tried first where its scores mean nothing here."""

_VALUES_TOLD = 4
"""How many different values a reason tells one by one."""


def require_heeding(experiment: Experiment, others: Sequence[SearchRecord]) -> None:
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


def gather(experiment: Experiment, split: Split, others: Sequence[SearchRecord]) -> WarmStart:
    """What of other searches fits a new one, and what does not.

    Args:
        split: the new search's.

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


def _of_search(experiment: Experiment, split: Split, other: SearchRecord) -> tuple[Source, list[Prior], list[Point]]:
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
        identity=str(other.identity),
        trials=len(other.counted()),
        fit=len(told),
        tried_first=tuple(tried),
        same_data=same_data,
        left_out=tuple(sorted(left_out, key=lambda one: (-len(one.trials), one.reason))),
    )
    return source, told, [read[number][0] for number in tried]


def _rank(other: SearchRecord, number: int) -> tuple[bool, float, int]:
    """As ``SearchRecord.best``: the completed trials by their value, behind them the others."""
    record = other.trials[number]
    return (record.outcome != "completed", -other.larger_is_better(record.best or 0.0), number)


def _same_data(experiment: Experiment, split: Split, other: SearchRecord) -> bool:
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
