"""Reading a model folder: every file is compared with its hash, and nothing in it is run before it is asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from tunesearch.errors import InputError, Problem, WeightsError
from tunesearch.production.bundle.description import FORMAT
from tunesearch.production.bundle.hashes import content_hash, file_hash
from tunesearch.production.configuration import read_configuration
from tunesearch.segmentation.config import ClassSpec, DataConfig, TrainConfig
from tunesearch.segmentation.data.layouts import resolve_classes
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.models import SegmentationModel, build_model
from tunesearch.segmentation.models.weights import read_weights
from tunesearch.segmentation.user_code import user_modules

_NEEDED = ("config.yaml", "effective.json", "split.json", "metrics.json", "weights.safetensors")


@dataclass(frozen=True)
class Bundle:
    """A model folder that was read, every file as its hash says.

    Attributes:
        folder: where it lies.
        name: of the model.
        config: of its training.
        data: of its data set, without a root.
        classes: in the order of their indices.
        split: the data; its root is ``.``: ``split.moved_to(root)``.
        content: bundle.json.
    """

    folder: Path
    name: str
    config: TrainConfig
    data: DataConfig
    classes: tuple[ClassSpec, ...]
    split: Split
    content: dict[str, Any]

    @property
    def document(self) -> dict[str, Any]:
        """config.yaml as a whole."""
        return read_configuration(self.folder / "config.yaml")[2]

    @property
    def code(self) -> Path | None:
        """Folder of the user's own modules; None: there are none."""
        folder = self.folder / "code"
        return folder if folder.is_dir() else None

    def network(self) -> SegmentationModel:
        """The network with its weights, on the CPU, in evaluation mode. Runs the code of :attr:`code`.

        Raises:
            InputError: the user's own code cannot be imported.
            WeightsError: the weights do not fit the network.
        """
        with user_modules(self.code):
            return load_network(self.config, len(self.classes), self.folder / "weights.safetensors")


def load_network(config: TrainConfig, classes: int, weights: Path) -> SegmentationModel:
    """The network of a configuration with all its weights from a file, on the CPU, in evaluation mode.

    Raises:
        WeightsError: the file is damaged or holds another network's weights.
    """
    # The file holds the encoder's weights, too: nothing is to be loaded or downloaded before.
    model = build_model(config.model_copy(update={"encoder_weights": "none"}), classes)
    try:
        model.load_state_dict(read_weights(weights))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(Problem(str(weights), f"must hold the weights of its configuration: {reason}")) from error
    return model.eval()


def is_bundle(folder: Path) -> bool:
    """Whether a path is that of a model folder."""
    return (folder / "bundle.json").is_file()


def read_bundle(folder: Path) -> Bundle:
    """Read a model folder; every file's hash is checked. Nothing in it is run before :meth:`Bundle.network`.

    Raises:
        InputError: it is no model folder, one of another format, or files are missing or damaged; each is named.
    """
    content = _read_content(folder / "bundle.json")
    problems = []
    for name, digest in content["files"].items():
        path = folder / name
        if not _is_inside(name):
            problems.append(Problem(str(folder / "bundle.json"), "a file must lie in the folder", value=repr(name)))
        elif not path.is_file():
            problems.append(Problem(str(path), "this file of the model folder is missing"))
        elif file_hash(path) != digest:
            problems.append(Problem(str(path), "is damaged or was changed: its content is not what bundle.json says"))
    problems += [
        Problem(str(folder / "bundle.json"), "must name this file", value=name)
        for name in _NEEDED
        if name not in content["files"]
    ]
    if problems:
        raise InputError(problems)
    config, data, _ = read_configuration(folder / "config.yaml")
    return Bundle(
        folder=folder,
        name=str(content["name"]),
        config=config,
        data=data,
        classes=resolve_classes(data),
        split=_read_split(folder / "split.json"),
        content=content,
    )


def _read_content(path: Path) -> dict[str, Any]:
    hint = "tunesearch export NAME -o DIR writes a model folder"
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        rule = f"is no model folder: bundle.json cannot be read ({error.strerror})"
        raise InputError(Problem(str(path.parent), rule, hint=hint)) from error
    except ValueError as error:  # no UTF-8, no JSON
        raise InputError(Problem(str(path), f"must be JSON: {error}", hint=hint)) from error
    if not isinstance(content, dict) or "format" not in content:
        raise InputError(Problem(str(path), "is no description of a model folder", hint=hint))
    if content["format"] != FORMAT:
        rule = f"must be a model folder of format {FORMAT}, which this version of tunesearch reads"
        raise InputError(Problem(str(path), rule, value=repr(content["format"])[:80]))
    if content.get("sha256") != content_hash(content):
        raise InputError(Problem(str(path), "is damaged or was changed: its content is not what its own hash says"))
    files = content.get("files")
    if not isinstance(content.get("name"), str) or not isinstance(files, dict):
        raise InputError(Problem(str(path), "must have a name and files", hint=hint))
    return content


def _read_split(path: Path) -> Split:
    split = Split.load(path)
    items = (item for part in ("train", "val", "test") for item in split.items(part))
    outside = [name for item in items for name in (item.image, item.mask) if not _is_inside(name)]
    if outside:
        raise InputError(Problem(str(path), "an image or mask must lie in the data set's folder", value=outside[0]))
    return split


def _is_inside(name: str) -> bool:
    """Whether a relative path stays below its folder on any system."""
    pure = PurePosixPath(name)
    return not (not name or pure.is_absolute() or PureWindowsPath(name).anchor or "\\" in name or ".." in pure.parts)
