"""Tables over the trials of one or several searches, as a report prints them. A view of ledgers; it changes nothing.

A row is a configuration, or a combination of values of chosen fields; its trials are repeats over seeds and searches.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunesearch.errors import InputError, Problem, nearest
from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.store import Ledger
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.epoch import EpochMetrics

SCORES = ("val_miou", "val_miou_no_background", "val_pixel_accuracy", "val_loss")
"""What every row has; the objective stands before them where it is another."""
SEARCH = "search"
"""May stand among the fields: the name of the search."""


@dataclass(frozen=True)
class Spread:
    """A figure over the trials of a row.

    Attributes:
        mean: arithmetic.
        deviation: of the sample (n - 1); None for a single trial.
        smallest: the minimum.
        largest: the maximum.
    """

    mean: float
    deviation: float | None
    smallest: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, min(values), max(values))


@dataclass(frozen=True)
class Row:
    """The trials of one configuration, or of one combination of values.

    Attributes:
        fields: the values that tell this row from others; a field that governs nothing here is absent.
        trials: as ``SEARCH/NUMBER``.
        stopped: how many of them were stopped early by the search.
        scores: every metric of ``Comparison.metrics`` at each trial's best epoch.
        parameters: numbers of the networks, all different ones, ascending; empty where no trial's files are there.
        trained_parameters: those of them that are trained, likewise.
        epoch_seconds: of a training pass: the median over a trial's epochs but the first, then over trials.
        seconds_per_1000_images: of a validation pass, likewise; it predicts at the trained size, and takes the loss and
            scores. None where the number of validation images is not known.
        epochs: numbers of epochs trained, all different ones, ascending.
    """

    fields: dict[str, Any]
    trials: tuple[str, ...]
    stopped: int
    scores: dict[str, Spread]
    parameters: tuple[int, ...]
    trained_parameters: tuple[int, ...]
    epoch_seconds: float
    seconds_per_1000_images: float | None
    epochs: tuple[int, ...]


@dataclass(frozen=True)
class Comparison:
    """A table.

    Attributes:
        objective: the metric that rows are sorted by, the first search's. Each search's own chose its best epochs.
        fields: the columns that tell rows apart; ``search`` may be one.
        metrics: the scores, in the order of columns.
        rows: the best first.
        warnings: what makes rows less comparable, a line each.
    """

    objective: str
    fields: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Trial:
    """A trial with what is known of it beside its record; ``effective`` is what was built, {} where it is not there."""

    ledger: Ledger
    record: TrialRecord
    effective: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.ledger.name}/{self.record.number}"

    @property
    def best(self) -> EpochMetrics:
        return self.record.best_epoch(self.ledger.experiment.objective.metric).metrics

    @property
    def folds(self) -> list[dict[str, int]]:
        """Images of every fold; a training without folds is a single one. Times of an epoch are sums over folds."""
        folds: list[dict[str, int]] = self.effective.get("folds") or [self.effective]
        return folds

    def seconds(self, name: str) -> float:
        """Median over the epochs of a time; the first, which warms up, counts only where it is alone."""
        times = [getattr(saved.metrics, name) for _, saved in sorted(self.record.epochs.items())]
        return float(statistics.median(times[1:] or times))


def compare(
    ledgers: Sequence[Ledger], *, by: Sequence[str] = (), trials: Sequence[int] = (), stopped: bool = False
) -> Comparison:
    """Put the completed trials of searches into one table.

    Args:
        by: fields of TrainConfig, or ``search``: a row per combination of their values. Empty: a row per configuration,
            seeds aside; where searches have other data or another objective, their trials are not put together.
        trials: only these numbers, completed or stopped; for a single search. Empty: all.
        stopped: also trials that the search stopped early.

    Raises:
        InputError: an unknown field or trial; no trial to compare.
    """
    _check_fields(by)
    chosen = _chosen(ledgers, trials) if trials else _ended(ledgers, stopped=stopped)
    found = [_Trial(ledger, record, ledger.effective(record.number)) for ledger, record in chosen]
    first = ledgers[0].experiment.objective
    metrics = SCORES if first.metric in SCORES else (first.metric, *SCORES)
    warnings, apart = _differences(found)

    groups: dict[str, list[_Trial]] = {}
    for trial in found:
        values = _governing(trial)
        keys = by or [name for name in values if name != "seed" and (apart or name != SEARCH)]
        label = {name: values[name] for name in keys if name in values}
        groups.setdefault(json.dumps(label, sort_keys=True), []).append(trial)
    fields = tuple(dict.fromkeys(by)) or _differing(list(groups.values()), search=apart)
    sign = 1.0 if first.mode == "max" else -1.0
    rows = sorted(
        (_row(group, fields, metrics) for group in groups.values()),
        key=lambda row: -sign * row.scores[first.metric].mean,
    )
    return Comparison(first.metric, fields, metrics, tuple(rows), warnings)


# --------------------------------------------------------------------------------------------------------- which trials


def _check_fields(by: Sequence[str]) -> None:
    known = (SEARCH, *TrainConfig.model_fields)
    problems = [
        Problem("--by", "must be a field of the configuration, or search", value=repr(name), hint=nearest(name, known))
        for name in by
        if name not in known
    ]
    if problems:
        raise InputError(problems)


def _ended(ledgers: Sequence[Ledger], *, stopped: bool) -> list[tuple[Ledger, TrialRecord]]:
    outcomes = ("completed", "stopped") if stopped else ("completed",)
    found = [
        (ledger, record)
        for ledger in ledgers
        for record in ledger.counted()
        if record.outcome in outcomes and record.epochs
    ]
    if not found:
        names = ", ".join(ledger.name for ledger in ledgers)
        hint = "" if stopped else "--all takes those that were stopped early, too"
        raise InputError(Problem(f"search {names}", f"has no trial that is {' or '.join(outcomes)}", hint=hint))
    return found


def _chosen(ledgers: Sequence[Ledger], numbers: Sequence[int]) -> list[tuple[Ledger, TrialRecord]]:
    if len(ledgers) > 1:
        raise InputError(Problem("--trials", "needs a single search", value=f"{len(ledgers)} searches"))
    ledger = ledgers[0]
    problems, records = [], []
    for number in dict.fromkeys(numbers):
        record = ledger.trials.get(number)
        if record is None:
            hint = f"its trials are 0 to {max(ledger.trials)}" if ledger.trials else "it has none"
            problems.append(Problem("--trials", f"search {ledger.name} has no trial {number}", hint=hint))
        elif record.outcome not in ("completed", "stopped") or not record.epochs:
            rule = f"trial {number} must be completed or stopped"
            problems.append(Problem("--trials", rule, value=record.outcome or "running"))
        else:
            records.append((ledger, record))
    if problems:
        raise InputError(problems)
    return records


# ----------------------------------------------------------------------------------------------------------------- rows


def _governing(trial: _Trial) -> dict[str, Any]:
    """Every field that has an effect in this trial, the search's name first and the seed last."""
    config = trial.record.config
    return {SEARCH: trial.ledger.name, **config.governing(), "seed": config.seed}


def _differing(groups: list[list[_Trial]], *, search: bool) -> tuple[str, ...]:
    """The fields in which the groups differ.

    A field that governs only some of the groups, with one value there, follows from the others; it is named where the
    value is not the default, such as the encoder of the only architecture that has one.
    """
    rows = [_governing(group[0]) for group in groups]
    fields = [SEARCH] if search else []
    for name, info in TrainConfig.model_fields.items():
        values = [json.dumps(row[name], sort_keys=True) for row in rows if name in row and name != "seed"]
        default = json.dumps(info.default, default=str)
        if len(set(values)) > 1 or (0 < len(values) < len(rows) and values[0] != default):
            fields.append(name)
    return tuple(fields)


def _row(group: list[_Trial], fields: tuple[str, ...], metrics: tuple[str, ...]) -> Row:
    values = _governing(group[0])
    per_image = [
        trial.seconds("val_seconds") / sum(fold["val_images"] for fold in trial.folds)
        for trial in group
        if all(fold.get("val_images") for fold in trial.folds)
    ]
    return Row(
        fields={name: values[name] for name in fields if name in values},
        trials=tuple(trial.name for trial in group),
        stopped=sum(trial.record.outcome == "stopped" for trial in group),
        scores={name: Spread.of([getattr(trial.best, name) for trial in group]) for name in metrics},
        parameters=_distinct(trial.effective.get("parameters") for trial in group),
        trained_parameters=_distinct(trial.effective.get("trained_parameters") for trial in group),
        epoch_seconds=statistics.median(trial.seconds("train_seconds") / len(trial.folds) for trial in group),
        seconds_per_1000_images=1000 * statistics.median(per_image) if per_image else None,
        epochs=_distinct(max(trial.record.epochs) for trial in group),
    )


def _distinct(values: Any) -> tuple[int, ...]:
    return tuple(sorted({value for value in values if value is not None}))


# ------------------------------------------------------------------------------------------------- what is not the same


def _differences(trials: list[_Trial]) -> tuple[tuple[str, ...], bool]:
    """Warnings, and whether the searches are so different that equal configurations are not repeats."""
    data: dict[str, str] = {}
    objectives: dict[str, str] = {}
    for trial in trials:
        ledger = trial.ledger
        split, given, objective = ledger.split, ledger.experiment.data, ledger.experiment.objective
        folds = given.folds and (given.folds.model_dump_json(), given.split_seed)
        key = repr((split.digest, folds, given.background, len(trial.best.val_iou)))
        counts = f"{split.root.name}: {len(split.train)} train, {len(split.val)} val"
        data.setdefault(key, f"{ledger.name} ({counts}{', in folds' if folds else ''})")
        told = objective.metric if objective.resolution == "network" else f"{objective.metric} at the original size"
        objectives.setdefault(told, f"{ledger.name} ({told})")
    sizes = sorted({str(trial.record.config.size) for trial in trials})
    devices = sorted({str(trial.effective["device"]) for trial in trials if "device" in trial.effective})
    warnings = [
        f"{what}: {', '.join(which)}"
        for what, which in (
            ("trained and measured on different data", list(data.values())),
            ("different objectives, by which the best epoch is chosen", list(objectives.values())),
            ("different sizes", sizes),
            ("times are of different devices", devices),
        )
        if len(which) > 1
    ]
    return tuple(warnings), len(data) > 1 or len(objectives) > 1
