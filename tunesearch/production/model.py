"""A trained network with everything that is needed to use it, from a model folder or from a search."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from tunesearch.errors import InputError, Problem, SearchNameError
from tunesearch.ledger.names import NAME
from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.store import Ledger
from tunesearch.production.bundle import Bundle, is_bundle, load_network, read_bundle
from tunesearch.production.bundle.hashes import file_hash
from tunesearch.production.export import chosen, weights_of
from tunesearch.segmentation.config import ClassSpec, DataConfig, TrainConfig
from tunesearch.segmentation.data.layouts import resolve_classes
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.user_code import find_user_code


@dataclass(frozen=True)
class Model:
    """A trained network and what it was trained on.

    Attributes:
        name: for people: the model folder, or ``SEARCH/TRIAL``.
        network: uint8 (N, 3, H, W), RGB -> logits (N, C, H, W); on the CPU, in evaluation mode.
        config: what was trained; its ``size`` is what pictures are resized to.
        data: how masks are read; without a root where it came from a model folder.
        classes: C names with colours, in the order of their indices.
        split: who was trained on, validated on and set aside; its root is ``.`` where it came from a model folder.
        folder: the model folder, or that of the search.
        fingerprint: SHA-256 of the file of the weights.
        trial: its number in the search; None: it comes from a model folder.
    """

    name: str
    network: nn.Module
    config: TrainConfig
    data: DataConfig
    classes: tuple[ClassSpec, ...]
    split: Split
    folder: Path
    fingerprint: str
    trial: int | None = None


def open_model(source: str | Path, *, storage: Path, trial: int | None = None) -> Model:
    """The model of a model folder, or of a search in the storage.

    A folder with a ``bundle.json`` is a model folder, also where a search has the same name.

    Args:
        source: a model folder, or the name of a search.
        storage: folder of all searches.
        trial: of the search; None: see :func:`~tunesearch.production.export.chosen`. A model folder has no trials.

    Raises:
        InputError: neither a model folder nor a search; no such trial, no weights kept; own code that is not there.
        WeightsError: the file of the weights is damaged.
    """
    folder = Path(source)
    with contextlib.suppress(RuntimeError):  # ~nobody-of-that-name
        folder = folder.expanduser()
    if is_bundle(folder):
        if trial is not None:
            raise InputError(Problem("--trial", "is for searches, and this is a model folder", value=str(source)))
        return _from_bundle(read_bundle(folder))
    if not NAME.fullmatch(str(source)) or (folder.is_dir() and not (storage / str(source)).is_dir()):
        what = "a file" if folder.exists() else "no such folder"
        what = "a folder without bundle.json" if folder.is_dir() else what
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


def open_trial(ledger: Ledger, record: TrialRecord) -> Model:
    """The network of a trial at its best epoch.

    Raises:
        InputError: the search did not keep its weights; own code that is not there.
        WeightsError: the file of the weights is damaged.
    """
    find_user_code(str(ledger.attribute("settings", {}).get("code", ".")))
    weights = weights_of(ledger, record)
    classes = resolve_classes(ledger.experiment.data)
    return Model(
        name=f"{ledger.name}/{record.number}",
        network=load_network(record.config, len(classes), weights),
        config=record.config,
        data=ledger.experiment.data,
        classes=classes,
        split=ledger.split,
        folder=ledger.folder,
        fingerprint=file_hash(weights),
        trial=record.number,
    )


def _from_bundle(bundle: Bundle) -> Model:
    return Model(
        name=str(bundle.folder),
        network=bundle.network(),
        config=bundle.config,
        data=bundle.data,
        classes=bundle.classes,
        split=bundle.split,
        folder=bundle.folder,
        fingerprint=bundle.content["files"]["weights.safetensors"],
    )
