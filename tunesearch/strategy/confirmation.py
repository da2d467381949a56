"""What repeating the best trials over several seeds has shown: the statistics of it, over what is known.

The search's own training of a trial is not among its repeats: it was chosen because it was good, so it is biased. A
trial's interval is Student's t interval of the mean over seeds. Two trials differ where Welch's t interval of the
difference of their means leaves zero out (Welch 1947). A winner must differ from every other candidate: an
intersection-union test, whose risk of naming a wrong one is highest with two equal trials, 1 - ``LEVEL``, and needs no
correction for the number of comparisons. Five seeds are few, so intervals are wide.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy import stats

from tunesearch.ledger.records import SearchRecord

LEVEL = 0.95
"""Of every interval."""


@dataclass(frozen=True)
class Candidate:
    """One of the best trials and its repeats.

    Attributes:
        trial: its number.
        searched: its score in the search.
        parameters: what was sampled.
        seeds, values, trials: of each completed repeat: seed, best value of the objective, number of its trial.
        failures: of each repeat that ended otherwise: its outcome.
        waiting: repeats that have not ended.
        mean: of ``values``; None where there are none.
        deviation: the sample's standard deviation (n - 1); None with fewer than two values.
        low, high: Student's t interval of the mean at ``LEVEL``; None with fewer than two values.
    """

    trial: int
    searched: float
    parameters: dict[str, Any]
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    trials: tuple[int, ...]
    failures: tuple[str, ...]
    waiting: int
    mean: float | None
    deviation: float | None
    low: float | None
    high: float | None

    @property
    def complete(self) -> bool:
        """Whether every repeat was completed, and there are two at least."""
        return not self.waiting and not self.failures and len(self.values) > 1


@dataclass(frozen=True)
class Difference:
    """How far another trial is behind the leader.

    Attributes:
        trial: the other's number.
        value: the leader's mean minus its mean; the other way round where the objective is minimised. Never negative.
        low, high: Welch's t interval of it at ``LEVEL``.
    """

    trial: int
    value: float
    low: float
    high: float

    @property
    def shown(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0


@dataclass(frozen=True)
class Confirmation:
    """The best trials of a search, repeated.

    Attributes:
        objective: the metric.
        candidates: the best mean first; those whose repeats were not all completed behind.
        differences: of every other complete candidate from the leader.
        leader: the trial with the best mean of those that are complete; None: there is none yet.
        winner: the leader, where it differs from every other candidate; None: no difference shown.
        network: the number of the leader's repeat with the best value, whose network is handed over; None: not done.
        verdict: the same in words.
        done: whether no repeat is left to be trained.
        test: the evaluation of the leader on the test part, as it was recorded; None: there was none.
        looks: how often anybody has looked at the test part.
    """

    objective: str
    candidates: tuple[Candidate, ...]
    differences: tuple[Difference, ...]
    leader: int | None
    winner: int | None
    network: int | None
    verdict: str
    done: bool
    test: dict[str, Any] | None
    looks: int

    def candidate(self, trial: int) -> Candidate:
        """The candidate of a trial."""
        return next(one for one in self.candidates if one.trial == trial)

    @property
    def flags(self) -> str:
        """What ``tunesearch confirm`` is to be given to go on with it."""
        seeds = max(len(one.values) + len(one.failures) + one.waiting for one in self.candidates)
        return f"--top {len(self.candidates)} --seeds {seeds}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"level": LEVEL, **asdict(self)}


def confirmation(search: SearchRecord) -> Confirmation | None:
    """What the repeats of a search have shown so far; None: nothing was asked to be repeated."""
    begun = {trial.confirms for trial in search.confirmations() if trial.confirms is not None}
    asked = begun | {repeat.confirms for repeat in search.requests.repeats()}
    if not asked:
        return None
    found = [_candidate(search, number) for number in sorted(asked)]

    def rank(candidate: Candidate) -> tuple[bool, float, int]:
        mean = -math.inf if candidate.mean is None else search.larger_is_better(candidate.mean)
        return (not candidate.complete, -mean, candidate.trial)

    candidates = tuple(sorted(found, key=rank))
    complete = [candidate for candidate in candidates if candidate.complete]
    done = not any(candidate.waiting for candidate in candidates)
    leader = complete[0] if complete else None
    differences: tuple[Difference, ...] = ()
    if leader is not None:
        sign = search.larger_is_better(1.0)
        differences = tuple(_difference(leader, other, sign=sign) for other in complete[1:])
    network = None
    if done and leader is not None:
        repeats = zip(leader.values, leader.trials, strict=True)
        network = max(repeats, key=lambda one: (search.larger_is_better(one[0]), -one[1]))[1]
    won = done and len(complete) == len(candidates) > 1 and all(one.shown for one in differences)
    return Confirmation(
        objective=search.experiment.objective.metric,
        candidates=candidates,
        differences=differences,
        leader=None if leader is None else leader.trial,
        winner=leader.trial if leader is not None and won else None,
        network=network,
        verdict=_verdict(candidates, leader, differences, done=done, won=won),
        done=done,
        test=_test_of(search, leader),
        looks=len(search.looks),
    )


def plan(search: SearchRecord, *, top: int, seeds: int) -> list[tuple[int, int]]:
    """The repeats (trial, seed) that are wanted: the ``top`` completed trials, each with ``seeds`` seeds from 1 on.

    All trials get the same seeds; one that a trial was searched with is left out for all.
    """
    best = search.completed()[:top]
    used = {record.config.seed for record in best}
    numbers = [seed for seed in range(1, seeds + len(used) + 1) if seed not in used][:seeds]
    return [(record.number, seed) for seed in numbers for record in best]


def _candidate(search: SearchRecord, number: int) -> Candidate:
    record = search.trials[number]
    repeats = [repeat for repeat in search.confirmations() if repeat.confirms == number]
    completed = sorted(
        (repeat for repeat in repeats if repeat.outcome == "completed" and repeat.best is not None),
        key=lambda repeat: repeat.config.seed,
    )
    ended = {repeat.config.seed for repeat in completed}
    # One that failed and was trained again with the same seed is settled by that.
    failed = {
        repeat.config.seed: str(repeat.outcome)
        for repeat in repeats
        if repeat.outcome is not None and repeat.config.seed not in ended
    }
    waiting = {repeat.config.seed for repeat in repeats if repeat.outcome is None}
    waiting |= {one.seed for one in search.requests.repeats() if one.confirms == number}
    values = tuple(float(repeat.best) for repeat in completed if repeat.best is not None)
    mean = statistics.fmean(values) if values else None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    half = None
    if deviation is not None:
        half = deviation / math.sqrt(len(values)) * float(stats.t.ppf(0.5 + LEVEL / 2, len(values) - 1))
    return Candidate(
        trial=number,
        searched=float(record.best or 0.0),
        parameters=record.parameters,
        seeds=tuple(repeat.config.seed for repeat in completed),
        values=values,
        trials=tuple(repeat.number for repeat in completed),
        failures=tuple(outcome for seed, outcome in sorted(failed.items()) if seed not in waiting),
        waiting=len(waiting),
        mean=mean,
        deviation=deviation,
        low=None if mean is None or half is None else mean - half,
        high=None if mean is None or half is None else mean + half,
    )


def _difference(leader: Candidate, other: Candidate, *, sign: float) -> Difference:
    """Of two complete candidates; a deviation of zero in both leaves no doubt, and no interval either."""
    assert leader.mean is not None
    assert other.mean is not None
    value = sign * (leader.mean - other.mean)
    if not leader.deviation and not other.deviation:
        return Difference(other.trial, value, value, value)
    test = stats.ttest_ind([sign * v for v in leader.values], [sign * v for v in other.values], equal_var=False)
    interval = test.confidence_interval(LEVEL)
    return Difference(other.trial, value, float(interval.low), float(interval.high))


def _verdict(
    candidates: Sequence[Candidate],
    leader: Candidate | None,
    differences: Sequence[Difference],
    *,
    done: bool,
    won: bool,
) -> str:
    if not done:
        return f"{sum(candidate.waiting for candidate in candidates)} trainings are still to be done"
    if leader is None:
        return "no trial completed two repeats, so nothing can be said"
    assert leader.mean is not None
    assert leader.deviation is not None
    score = f"{leader.mean:.4f} ± {leader.deviation:.4f} over {len(leader.values)} seeds"
    unsure = [candidate for candidate in candidates if not candidate.complete]
    broken = ", ".join(f"trial {one.trial} ({', '.join(one.failures) or 'too few seeds'})" for one in unsure)
    if won:
        nearest = min(differences, key=lambda one: one.value)
        return (
            f"trial {leader.trial} wins: {score}; trial {nearest.trial}, the next, is behind by {nearest.value:.4f} "
            f"({100 * LEVEL:.0f} % interval {nearest.low:.4f} to {nearest.high:.4f})"
        )
    close = [one for one in differences if not one.shown]
    if close:
        others = ", ".join(f"trial {one.trial} ({one.value:.4f}, {one.low:.4f} to {one.high:.4f})" for one in close)
        text = f"no difference shown between trial {leader.trial} ({score}), which leads by its mean, and {others}"
    elif not differences and not unsure:
        text = f"trial {leader.trial}: {score}; nothing to compare it with"
    else:
        text = f"trial {leader.trial} leads: {score}"
    return text + (f"; not every repeat was completed: {broken}" if broken else "")


def _test_of(search: SearchRecord, leader: Candidate | None) -> dict[str, Any] | None:
    if leader is None:
        return None
    found = [look for look in search.looks if look["by"] == "confirm" and set(look["trials"]) <= set(leader.trials)]
    return found[-1] if found else None
