"""The best configuration as a file that a production training starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tunesearch.errors import InputError, Problem
from tunesearch.search.ledger import Ledger, TrialRecord, versions
from tunesearch.segmentation.files import write_atomic


def configuration(ledger: Ledger, trial: int | None = None) -> dict[str, Any]:
    """Everything that describes one trial of a search, as plain data.

    Args:
        trial: its number; None: the best one.

    Raises:
        InputError: there is no such trial, or none with a score.
    """
    record = chosen(ledger, trial)
    objective = ledger.experiment.objective.metric
    best = record.best_epoch(objective).metrics if record.epochs else None
    return {
        "tunesearch": versions()["tunesearch"],
        "search": ledger.name,
        "space": ledger.experiment.name,
        "trial": record.number,
        "outcome": record.outcome or "running",
        "score": {
            "objective": objective,
            "resolution": ledger.experiment.objective.resolution,
            "value": record.best,
            "val_miou": best.val_miou if best else None,
            "epoch": best.epoch if best else None,
            "epochs": max(record.epochs, default=0),
        },
        "config": record.config.model_dump(mode="json"),
        "data": {**ledger.experiment.data.model_dump(mode="json"), "digest": ledger.split.digest},
        "versions": ledger.attribute("versions", {}),
    }


def chosen(ledger: Ledger, trial: int | None) -> TrialRecord:
    """The trial of a number; None: the best one.

    Raises:
        InputError: there is no such trial, or none with a score.
    """
    if trial is None:
        record = ledger.best()
        if record is None:
            raise InputError(Problem(f"search {ledger.name}", "has no trial with a score yet"))
        return record
    if trial not in ledger.trials:
        numbers = sorted(ledger.trials)
        known = f"trials 0 to {numbers[-1]}" if numbers else "no trials yet"
        raise InputError(Problem("--trial", f"must be a trial of {ledger.name} ({known})", value=str(trial)))
    return ledger.trials[trial]


def export(ledger: Ledger, output: Path, *, trial: int | None = None) -> dict[str, Any]:
    """Write :func:`configuration` to a YAML file; gives what was written."""
    document = configuration(ledger, trial)
    yaml = YAML()
    yaml.default_flow_style = None
    write_atomic(output, lambda path: yaml.dump(document, path))
    return document
