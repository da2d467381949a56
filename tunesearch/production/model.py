"""Model: a trained network with everything that is needed to use it, from a model folder or from a search."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from tunesearch.errors import InputError, Problem, SearchNameError, WeightsError
from tunesearch.production.export import chosen
from tunesearch.search.ledger import Ledger, TrialRecord
from tunesearch.search.preflight import find_own_code
from tunesearch.segmentation.config import ClassSpec, DataConfig, TrainConfig
from tunesearch.segmentation.data.layouts import resolve_classes
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.files import sha256
from tunesearch.segmentation.models import build_model
from tunesearch.segmentation.models.weights import read_weights

BUNDLE_FILE = "bundle.json"
"""What a folder is known as a model folder by."""


@dataclass(frozen=True)
class Model:
    """A trained network and what it was trained on.

    Attributes:
        name: for people: the folder's name, or ``SEARCH/TRIAL``.
        network: uint8 (N, 3, H, W), RGB -> logits (N, C, H, W); on the CPU, in evaluation mode.
        config: what was trained; its ``size`` is what pictures are resized to.
        data: how masks are read; its root is None where it came from a model folder.
        classes: C names with colours, in the order of their indices.
        split: who was trained on, validated on and set aside; None: not known.
        folder: the model folder, or that of the search.
        code: where modules of the user's own are imported from.
        fingerprint: SHA-256 of the file of the weights.
        trial: its number in the search; None: it comes from a model folder.
    """

    name: str
    network: nn.Module
    config: TrainConfig
    data: DataConfig
    classes: tuple[ClassSpec, ...]
    split: Split | None
    folder: Path
    code: Path
    fingerprint: str
    trial: int | None = None


def open_model(source: str | Path, *, storage: Path, trial: int | None = None) -> Model:
    """The model of a model folder, or of a search in the storage.

    A folder with a ``bundle.json`` is a model folder, also where a search has the same name.

    Args:
        source: a model folder, or the name of a search.
        storage: folder of all searches.
        trial: of the search; None: its best one. A model folder has no trials.

    Raises:
        InputError: neither a model folder nor a search; no such trial, no weights kept; own code that is not there.
        WeightsError: the file of the weights is damaged.
    """
    folder = Path(source)
    with contextlib.suppress(RuntimeError):  # ~nobody-of-that-name
        folder = folder.expanduser()
    if (folder / BUNDLE_FILE).is_file():
        if trial is not None:
            raise InputError(Problem("--trial", "is for searches, and this is a model folder", value=str(source)))
        return _from_bundle(folder)
    if folder.name != str(source) or (folder.is_dir() and not (storage / folder.name).is_dir()):
        what = "no such folder" if not folder.is_dir() else f"a folder without {BUNDLE_FILE}"
        is_search = (folder / "experiment.yaml").is_file()
        hint = (
            f"a search is given by its name: {folder.name}" if is_search else "tunesearch export NAME -o DIR makes one"
        )
        raise InputError(Problem(str(source), "must be a model folder or the name of a search", value=what, hint=hint))
    try:
        ledger = Ledger.open(storage, str(source))
    except SearchNameError as error:
        problem = error.problems[0]
        rule = f"{problem.rule}, and no model folder has that path"
        raise SearchNameError(Problem(problem.where, rule, value=problem.value, hint=problem.hint)) from error
    try:
        return open_trial(ledger, chosen(ledger, trial))
    finally:
        ledger.close()


def _from_bundle(folder: Path) -> Model:
    raise InputError(Problem(str(folder), "model folders cannot be read yet"))  # helper A's read_bundle


def open_trial(ledger: Ledger, record: TrialRecord) -> Model:
    """The model of a search's trial, with the weights of its best epoch.

    Raises:
        InputError: no weights kept; own code that is not there.
        WeightsError: the file of the weights is damaged.
    """
    code = str(ledger.attribute("settings", {}).get("code", "."))
    find_own_code(code)
    classes = resolve_classes(ledger.experiment.data)
    network = trained_model(ledger, record, len(classes))
    return Model(
        name=f"{ledger.name}/{record.number}",
        network=network.eval(),
        config=record.config,
        data=ledger.experiment.data,
        classes=classes,
        split=ledger.split,
        folder=ledger.folder,
        code=Path(code),
        fingerprint=sha256(weights_file(ledger, record).read_bytes()),
        trial=record.number,
    )


def weights_file(ledger: Ledger, record: TrialRecord) -> Path:
    """The file of the weights of a trial's best epoch.

    Raises:
        InputError: the search did not keep them.
    """
    weights = ledger.trial_folder(record.number) / "best.safetensors"
    folds = len(list(weights.parent.glob("fold-*")))
    where = f"trial {record.number} of {ledger.name}"
    if not weights.is_file() and folds:
        rule = f"it was trained on {folds} folds, so that there is no one network"
        raise InputError(Problem(where, rule, hint="export and train it"))
    if not weights.is_file():
        hint = "export and train it" if record.outcome == "completed" else "only completed trials keep them"
        raise InputError(Problem(where, "its weights are not kept", hint=hint))
    return weights


def trained_model(ledger: Ledger, record: TrialRecord, classes: int) -> nn.Module:
    """The network of a trial with the weights of its best epoch, on the CPU.

    Raises:
        InputError: the search did not keep them.
        WeightsError: their file is damaged.
    """
    weights = weights_file(ledger, record)
    # The file holds the encoder's weights, too: nothing is to be loaded or downloaded before.
    model = build_model(record.config.model_copy(update={"encoder_weights": "none"}), classes)
    state = read_weights(weights)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        rule = f"must hold the weights of trial {record.number}: {reason}"
        raise WeightsError(Problem(str(weights), rule, hint="export and train it")) from error
    return model
