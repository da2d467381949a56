"""``extend``, ``enqueue``, ``retry`` and ``stop``: what a search is asked, whether or not it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesearch.api.places import opened
from tunesearch.errors import InputError
from tunesearch.experiment.document import read_overrides
from tunesearch.ledger import steering


def extend(name: str, more: int, *, storage: str | Path | None = None) -> tuple[int, bool]:
    """Give a search further trials; gives how many there are to be, and whether a driver takes them up now.

    Without one, :func:`resume` takes them up. So with :func:`enqueue` and :func:`retry`.

    Raises:
        InputError: no such search, or a grid without further points.
    """
    with opened(name, storage) as ledger:
        return steering.extend(ledger, more), ledger.driven


def enqueue(name: str, point: Mapping[str, Any] | Sequence[str], *, storage: str | Path | None = None) -> bool:
    """Have a search try a point, on top of its trials; gives whether a driver takes it up now.

    Args:
        point: full or partial, as a mapping or as ``NAME=VALUE`` texts; the rest is sampled.

    Raises:
        InputError: no such search; every way in which the point does not fit its space.
    """
    if not isinstance(point, Mapping):
        changes, problems = read_overrides(point, flag="enqueue", example="lr=0.01")
        if problems:
            raise InputError(problems)
        point = steering.as_point(changes)
    with opened(name, storage) as ledger:
        steering.enqueue(ledger, point)
        return ledger.driven


def retry(
    name: str, *, failed: bool = False, trials: Sequence[int] = (), storage: str | Path | None = None
) -> tuple[list[int], bool]:
    """Have trials trained again; gives their numbers, and whether a driver takes them up now.

    Args:
        failed: every trial that failed or was lost.
        trials: numbers of others.

    Raises:
        InputError: no such search or trial, or one that cannot end otherwise.
    """
    with opened(name, storage) as ledger:
        return steering.retry(ledger, failed=failed, trials=trials), ledger.driven


def stop(name: str, *, trial: int | None = None, storage: str | Path | None = None) -> None:
    """Have a trial ended at its next epoch, or (None) the whole search stopped with its state saved.

    Raises:
        InputError: no such search or trial, or it does not run.
    """
    with opened(name, storage) as ledger:
        steering.stop(ledger, trial)
