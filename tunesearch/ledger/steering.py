"""Asking something of a search while it runs, or before it is resumed: more trials, a point, a retry, repeats, an end.

Each is checked here and left in the ledger, where the driver finds it; see ``Ledger.request``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesearch.errors import InputError, Problem, nearest
from tunesearch.ledger.store import Ledger
from tunesearch.space import Scalar, text

RETRIED = ("failed", "lost")
"""What ``retry --failed`` trains again."""
_DECIDED = ("completed", "diverged", "out_of_memory", "infeasible")
"""Outcomes of a repeat that say something about its configuration; after any other it is trained again."""
_NOT_AGAIN = {
    "completed": "it was completed",
    "stopped": "early stopping ended it, as it would again",
    "infeasible": "its parts do not go together",
    "duplicate": "it equals an earlier trial",
}


def extend(ledger: Ledger, more: int) -> int:
    """Ask for further trials; gives how many there are to be.

    Raises:
        InputError: a search over a grid, which has no further points; one that is exhausted.
    """
    experiment = ledger.experiment
    if ledger.attribute("status") == "exhausted":
        hint = "enqueue tries a point of your own"
        raise InputError(Problem("--trials", "the sampler has no further configuration to propose", hint=hint))
    if experiment.search.sampler == "grid" and ledger.proposals + more > (points := experiment.space.grid_size()):
        hint = "enqueue tries a point of your own"
        raise InputError(Problem("--trials", f"a grid of {points} points has no more than that", hint=hint))
    ledger.request("extend", more=more)
    ledger.poll()
    return ledger.target


def enqueue(ledger: Ledger, point: Mapping[str, Scalar]) -> None:
    """Ask for a trial of a full or partial point; the rest is sampled.

    Raises:
        InputError: every way in which the point does not fit the space; it equals an earlier trial.
    """
    experiment = ledger.experiment
    if not point:
        raise InputError(Problem("enqueue", "needs at least one parameter", hint=nearest("", experiment.space.names)))
    problems = []
    for problem in experiment.space.problems(point):
        rule, hint = problem.rule, problem.hint
        if problem.path in experiment.train:
            rule, hint = f"is fixed at {text(experiment.train[problem.path])}, not searched", "leave it out"
        problems.append(Problem(f"enqueue {problem.path}", rule, value=problem.value, hint=hint))
    if problems:
        raise InputError(problems)
    if experiment.space.contains(point):
        twin = ledger.twin(experiment.train_config(point, seed=0))
        if twin is not None:
            hint = f"tunesearch show {ledger.name} tells how it went"
            raise InputError(Problem("enqueue", f"this point equals trial {twin} in effect", hint=hint))
    if any(pending.parameters == dict(point) for pending in ledger.requests.points()):
        raise InputError(Problem("enqueue", "this point is waiting already"))
    ledger.request("try", parameters=dict(point), retry_of=None)


def retry(ledger: Ledger, *, failed: bool, trials: Sequence[int]) -> list[int]:
    """Ask for trials to be trained again, as they were configured; gives their numbers.

    A trial whose retry is waiting, running or did not fail is not retried once more.

    Raises:
        InputError: a number that is no trial's, or one of a trial that cannot end otherwise.
    """
    problems = []
    for number in trials:
        record = ledger.trials.get(number)
        if record is None:
            last = max(ledger.trials, default=-1)
            problems.append(Problem("--trial", f"must be a trial, 0 to {last}", value=str(number)))
        elif record.confirms is not None:
            hint = f"tunesearch confirm {ledger.name} trains what is missing"
            problems.append(Problem("--trial", f"{number} confirms trial {record.confirms}", hint=hint))
        elif record.outcome is None:
            problems.append(Problem("--trial", "must have ended", value=f"{number}, which goes on"))
        elif record.outcome in _NOT_AGAIN:
            problems.append(Problem("--trial", f"{number} is not trained again: {_NOT_AGAIN[record.outcome]}"))
    if problems:
        raise InputError(problems)
    wanted = set(trials)
    if failed:
        wanted |= {record.number for record in ledger.counted() if record.outcome in RETRIED}
    wanted -= {record.retry_of for record in ledger.counted() if record.retry_of is not None}
    wanted -= {pending.retry_of for pending in ledger.requests.points() if pending.retry_of is not None}
    for number in sorted(wanted):
        ledger.request("try", parameters=ledger.trials[number].parameters, retry_of=number)
    return sorted(wanted)


def request_repeats(ledger: Ledger, wanted: Sequence[tuple[int, int]]) -> int:
    """Ask for the repeats (trial, seed) that have not been decided and are not on their way; gives how many that are.

    What was asked for earlier, is not wanted now and has not begun is taken back: who asked for too much can ask again.
    """
    for repeat in ledger.requests.repeats():
        if (repeat.confirms, repeat.seed) not in wanted:
            ledger.withdraw(repeat.key)
    ledger.poll()
    known = {
        (record.confirms, record.config.seed)
        for record in ledger.confirmations()
        if record.outcome is None or record.outcome in _DECIDED
    }
    known |= {(repeat.confirms, repeat.seed) for repeat in ledger.requests.repeats()}
    missing = [pair for pair in wanted if pair not in known]
    for trial, seed in missing:
        ledger.request("confirm", trial=trial, seed=seed)
    ledger.poll()
    return len(missing)


def stop(ledger: Ledger, trial: int | None) -> None:
    """Ask for a trial to end at its next epoch, or for the whole search to stop with its state saved.

    Raises:
        InputError: nobody drives the search; there is no such trial, or it has ended.
    """
    if trial is None:
        if not ledger.driven:
            hint = f"tunesearch resume {ledger.name} goes on with it"
            raise InputError(Problem(f"search {ledger.name}", "is not running", hint=hint))
    else:
        record = ledger.trials.get(trial)
        if record is None:
            last = max(ledger.trials, default=-1)
            raise InputError(Problem("--trial", f"must be a trial, 0 to {last}", value=str(trial)))
        if record.outcome is not None:
            raise InputError(Problem("--trial", "must not have ended", value=f"{trial}, which is {record.outcome}"))
    ledger.request("stop", trial=trial)


def as_point(changes: Sequence[tuple[str, Any]]) -> dict[str, Scalar]:
    """``NAME=VALUE`` pairs as a point.

    Raises:
        InputError: a name given twice, a value that is no scalar.
    """
    problems = []
    point: dict[str, Scalar] = {}
    for name, value in changes:
        if name in point:
            problems.append(Problem(f"enqueue {name}", "is given twice"))
        elif isinstance(value, dict | list):
            problems.append(Problem(f"enqueue {name}", "must be one value", value=text(value)))
        point[name] = value
    if problems:
        raise InputError(problems)
    return point
