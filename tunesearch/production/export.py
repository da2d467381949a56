"""What a search found as files: a model folder, or the bare configuration that a production training starts from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tunesearch.errors import InputError, Problem
from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.store import Ledger
from tunesearch.production.bundle import FORMATS, Training, require_new, write_bundle
from tunesearch.production.configuration import require_replaceable, write_configuration
from tunesearch.segmentation.user_code import user_code_files
from tunesearch.strategy.confirmation import confirmation
from tunesearch.version import __version__


def configuration(ledger: Ledger, trial: int | None = None) -> dict[str, Any]:
    """Everything that describes one trial of a search, as plain data.

    Args:
        trial: its number; None: see :func:`chosen`.

    Raises:
        InputError: there is no such trial, or none with a score.
    """
    record = chosen(ledger, trial)
    objective = ledger.experiment.objective.metric
    best = record.best_epoch(objective).metrics if record.epochs else None
    built = ledger.effective(record.number) or {}
    return {
        "tunesearch": __version__,
        "search": ledger.name,
        "space": ledger.experiment.name,
        "trial": record.number,
        **({} if record.confirms is None else {"confirms": record.confirms}),
        "outcome": record.outcome or "running",
        "score": {
            "objective": objective,
            "resolution": ledger.experiment.objective.resolution,
            "value": record.best,
            "val_miou": best.val_miou if best else None,
            "epoch": best.epoch if best else None,
            "epochs": max(record.epochs, default=0),
        },
        "trained_with": {name: built[name] for name in ("threads", "precision", "device") if name in built},
        "config": record.config.model_dump(mode="json"),
        "data": {**ledger.experiment.data.model_dump(mode="json"), "digest": ledger.split.digest},
        "versions": ledger.attribute("versions", {}),
    }


def chosen(ledger: Ledger, trial: int | None) -> TrialRecord:
    """The trial of a number; None: the best one, and once that was confirmed the leader's repeat with the best value.

    Raises:
        InputError: there is no such trial, or none with a score.
    """
    if trial is None:
        confirmed = confirmation(ledger)
        if confirmed is not None and confirmed.network is not None:
            return ledger.trials[confirmed.network]
        record = ledger.best()
        if record is None:
            raise InputError(Problem(f"search {ledger.name}", "has no trial with a score yet"))
        return record
    if trial not in ledger.trials:
        numbers = sorted(ledger.trials)
        known = f"trials 0 to {numbers[-1]}" if numbers else "no trials yet"
        raise InputError(Problem("--trial", f"must be a trial of {ledger.name} ({known})", value=str(trial)))
    return ledger.trials[trial]


def export(
    ledger: Ledger,
    output: Path,
    *,
    trial: int | None = None,
    formats: Sequence[str] = FORMATS,
    on_message: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write a trial as a model folder, or only its configuration where ``output`` ends in .yaml or .yml.

    Returns:
        bundle.json, or the configuration as it was written.

    Raises:
        InputError: there is no such trial, or no weights of it; the folder exists.
    """
    if is_configuration(output):
        document = configuration(ledger, trial)
        require_replaceable(output)
        write_configuration(document, output)
        return document
    require_new(output)  # said before anything of the trial is
    return write_bundle(training(ledger, trial), output, formats=formats, on_message=on_message)


def is_configuration(output: Path) -> bool:
    """Whether a path asks for the bare configuration: it ends in .yaml or .yml."""
    return output.suffix in (".yaml", ".yml")


def training(ledger: Ledger, trial: int | None = None) -> Training:
    """A trial as a finished training.

    Raises:
        InputError: there is no such trial, or no weights of it.
    """
    record = chosen(ledger, trial)
    confirmed = confirmation(ledger)
    of = record.number if record.confirms is None else record.confirms
    among = confirmed is not None and any(one.trial == of for one in confirmed.candidates)
    effective = ledger.trial_folder(record.number) / "effective.json"
    return Training(
        name=ledger.name,
        document=configuration(ledger, record.number),
        split=ledger.split,
        weights=weights_of(ledger, record),
        effective=json.loads(effective.read_text("utf-8")),
        curve=tuple(record.epochs[epoch].metrics for epoch in sorted(record.epochs)),
        code=user_code_files(record.config, ledger.experiment.data),
        confirmation=confirmed.as_dict() if confirmed is not None and confirmed.done and among else None,
    )


def weights_of(ledger: Ledger, record: TrialRecord) -> Path:
    """The file of a trial's best weights.

    Raises:
        InputError: the search did not keep them.
    """
    folder = ledger.trial_folder(record.number)
    if (folder / "best.safetensors").is_file():
        return folder / "best.safetensors"
    folds = len(list(folder.glob("fold-*")))
    if folds:
        rule = f"it was trained on {folds} folds, so that there is no one network"
    elif record.outcome == "completed":
        rule = "its weights are not kept"
    else:
        rule = f"it has no weights: it is {record.outcome or 'running'}, and only completed trials keep them"
    file = f"{ledger.name}-{record.number}.yaml"
    hint = f"tunesearch export {ledger.name} --trial {record.number} -o {file}, then tunesearch train {file}"
    raise InputError(Problem(f"trial {record.number} of {ledger.name}", rule, hint=hint))
