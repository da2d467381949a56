"""The best of every search and production training that an MLflow knows. A view of MLflow; it changes nothing.

Scores on other data or by another measure are not comparable, so each pair of them has a board of its own. Within one,
entries stand by their validation score. The best trial's score is a lucky maximum; what repeating it over seeds has
shown (``tunesearch confirm``) stands beside it and decides no place: a confirmed mean is lower than an unconfirmed
maximum because it is honest, not because it is worse.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from tunesearch.tracking.recorded_runs import RecordedRun
from tunesearch.tracking.store import without_password
from tunesearch.tracking.tags import MAIN, SAMPLE


@dataclass(frozen=True)
class Confirmed:
    """The best trial's scores over several seeds.

    Attributes:
        trial: its number; another than the search's best where its mean is better.
        mean, deviation: of the objective.
        seeds: how many.
        verdict: in words, whether it differs from the others.
    """

    trial: int
    mean: float
    deviation: float
    seeds: int
    verdict: str


@dataclass(frozen=True)
class Entry:
    """A search or a production training.

    Attributes:
        name: of the search, or of the training's folder.
        kind: ``search`` or ``training``.
        value: its best value of the objective; None: it has no score.
        trial: the trial that has it; of a training the trial that it trains; None: it is not known.
        settings: the main fields of its configuration.
        confirmed: None: it was not repeated over seeds.
        test: measures on the test part, of the confirmed trial, by name (``miou``); empty: it was not looked at.
        status: how the search stands, or the outcome of the training.
        when: Unix seconds of its end, or of its beginning while it runs.
    """

    name: str
    kind: str
    value: float | None
    trial: int | None
    settings: dict[str, str]
    confirmed: Confirmed | None
    test: dict[str, float]
    status: str
    when: float


@dataclass(frozen=True)
class Board:
    """Entries whose scores may be compared, the best first.

    Attributes:
        data: name of the data set's folder, as the latest of them calls it.
        digest: of the split: who is in which part with what content.
        sample: whether it is the built-in sample.
        objective, resolution: the measure.
        entries: those that were asked for.
        more: how many there are besides.
    """

    data: str
    digest: str
    sample: bool
    objective: str
    resolution: str
    entries: tuple[Entry, ...]
    more: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def boards(runs: Iterable[RecordedRun], *, top: int) -> list[Board]:
    """The boards over what MLflow knows, by the name of the data, the sample last.

    Args:
        runs: oldest first.
        top: entries per board.
    """
    groups: dict[tuple[str, str, str], list[RecordedRun]] = {}
    for run in runs:
        measure = (run.tags.get("tunesearch.objective", "val_miou"), run.tags.get("tunesearch.resolution", "network"))
        groups.setdefault((run.tags.get("tunesearch.data_digest", ""), *measure), []).append(run)
    found = []
    for (digest, objective, resolution), members in groups.items():
        sign = 1.0 if objective == "val_loss" else -1.0
        entries = [_entry(run, objective) for run in members]
        entries.sort(key=lambda entry: (entry.value is None, sign * (entry.value or 0.0), entry.when))
        data = without_password(members[-1].tags.get("tunesearch.data", ""))
        found.append(
            Board(
                data=data if data == SAMPLE else PurePosixPath(data).name or "not known",
                digest=digest,
                sample=data == SAMPLE,
                objective=objective,
                resolution=resolution,
                entries=tuple(entries[:top]),
                more=max(0, len(entries) - top),
            )
        )
    return sorted(found, key=lambda board: (board.sample, board.data, board.digest, board.objective, board.resolution))


def _entry(run: RecordedRun, objective: str) -> Entry:
    tags = run.tags
    if run.training:
        settings = {name: run.params[name] for name in MAIN if run.params.get(name) not in (None, "None")}
        status = tags.get("tunesearch.outcome", run.status.lower())
    else:
        settings = json.loads(tags.get("tunesearch.best_settings") or tags.get("tunesearch.best_parameters", "{}"))
        status = "running" if run.status == "RUNNING" else tags.get("tunesearch.status", run.status.lower())
    trial = tags.get("tunesearch.trial" if run.training else "tunesearch.best_trial", "")
    return Entry(
        name=run.name if run.training else tags.get("tunesearch.search", run.name),
        kind="training" if run.training else "search",
        value=run.metrics.get(f"best_{objective}"),
        trial=int(trial) if trial.isdecimal() else None,
        settings={name: str(value) for name, value in settings.items()},
        confirmed=_confirmed(tags),
        test={
            name.removeprefix("tunesearch.test."): float(value)
            for name, value in tags.items()
            if name.startswith("tunesearch.test.")
        },
        status=status,
        when=run.started if status == "running" else run.ended or run.started,
    )


def _confirmed(tags: dict[str, str]) -> Confirmed | None:
    told = {name: tags.get(f"tunesearch.confirmed.{name}") for name in ("trial", "mean", "deviation", "seeds")}
    if any(value is None for value in told.values()):
        return None
    return Confirmed(
        trial=int(told["trial"] or 0),
        mean=float(told["mean"] or 0.0),
        deviation=float(told["deviation"] or 0.0),
        seeds=int(told["seeds"] or 0),
        verdict=tags.get("tunesearch.confirmed.verdict", ""),
    )
