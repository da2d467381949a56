"""Writing a model folder, which appears whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tunesearch.errors import InputError, Problem
from tunesearch.production.bundle.card import card
from tunesearch.production.bundle.description import Training, describe, input_size, without_places
from tunesearch.production.bundle.hashes import content_hash, file_hash
from tunesearch.production.bundle.programs import write_programs
from tunesearch.production.bundle.reading import load_network
from tunesearch.production.configuration import read_configuration, write_configuration
from tunesearch.segmentation.data.layouts import resolve_classes
from tunesearch.segmentation.files import disk_full, is_disk_full, sync
from tunesearch.segmentation.models import SegmentationModel
from tunesearch.segmentation.models.weights import read_weights
from tunesearch.segmentation.user_code import user_modules

FORMATS = ("torch", "onnx")
"""The programs that a bundle may have."""


def write_bundle(
    training: Training,
    output: Path,
    *,
    formats: Sequence[str] = FORMATS,
    on_message: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write a model folder; it appears whole or not at all.

    Args:
        output: the folder; must not exist.
        formats: the programs to write, of :data:`FORMATS`; what cannot be written is told, and left out.
        on_message: told that it is written, and what is left out and why.

    Returns:
        bundle.json.

    Raises:
        InputError: the folder exists; the weights do not fit; the user's own code cannot be imported.
        DiskFull: there is no room for it.
    """
    require_new(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)  # of one that was killed
    temporary.mkdir(mode=0o700)
    try:
        network = _write_training(training, temporary)
        on_message(f"writing {output}{' and its programs' if formats else ''}")  # which takes up to a minute
        content = describe(training, network)
        content["programs"] = write_programs(
            network, temporary, input_size(training), formats=formats, on_message=on_message
        )
        (temporary / "README.md").write_text(card(content, training.curve), encoding="utf-8")
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        content["files"] = {path.relative_to(temporary).as_posix(): file_hash(path) for path in files}
        content["sha256"] = content_hash(content)
        (temporary / "bundle.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        for path in (*files, temporary / "bundle.json"):
            path.chmod(0o644)
            sync(path)
        temporary.chmod(0o755)
        temporary.rename(output)
        sync(output.parent)
    except Exception as error:
        if is_disk_full(error, output.parent):
            raise disk_full(output.parent, output.name) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return content


def require_new(output: Path) -> None:
    """Refuse to write a model folder over anything.

    Raises:
        InputError: the path exists.
    """
    if output.exists() or output.is_symlink():
        raise InputError(Problem(str(output), "exists already", hint="-o gives another folder"))


def _write_training(training: Training, folder: Path) -> SegmentationModel:
    """All files but the programs, the card and bundle.json; gives the network that they describe."""
    document = {**training.document, "data": without_places(training.document["data"])}
    write_configuration(document, folder / "config.yaml")
    _write_json(folder / "effective.json", training.effective)
    training.split.model_copy(update={"root": Path()}).save(folder / "split.json")
    metrics = {"outcome": document.get("outcome", "completed"), "epochs": [epoch.as_dict() for epoch in training.curve]}
    _write_json(folder / "metrics.json", metrics)
    read_weights(training.weights)  # what is damaged is named by its own place
    shutil.copyfile(training.weights, folder / "weights.safetensors")
    for path in training.code:
        sources = path.rglob("*.py") if path.is_dir() else [path]
        for source in sources:
            target = folder / "code" / source.relative_to(path.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    config, data, _ = read_configuration(folder / "config.yaml")
    with user_modules(folder / "code" if training.code else None):
        return load_network(config, len(resolve_classes(data)), folder / "weights.safetensors")


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
