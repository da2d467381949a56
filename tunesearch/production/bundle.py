"""The model folder: one trained network with everything that is needed to use, audit and train it again.

    DIR/bundle.json          what it is: origin, score, classes, preprocessing, versions, programs; a hash of every file
    DIR/config.yaml          the configuration, as ``tunesearch export FILE.yaml`` writes it, without the data's root
    DIR/effective.json       the configuration as read back from the built objects
    DIR/split.json           ids and hashes of the training, validation and test images
    DIR/metrics.json         every epoch's metrics, IoU per class among them
    DIR/weights.safetensors  the weights of the best epoch
    DIR/model.pt2            the network as a program that needs torch alone
    DIR/model.onnx           the same for ONNX runtimes
    DIR/README.md            the model card
    DIR/code/                the user's own modules, where architecture, loss or layout is ``module:function``

A folder holds nothing of the machine that wrote it, and nothing in it is a pickle of ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import json
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from modulefinder import ModuleFinder
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from tunesearch.errors import InputError, Problem, WeightsError
from tunesearch.production.card import card
from tunesearch.production.configuration import read_configuration, write_configuration
from tunesearch.production.programs import write_programs
from tunesearch.segmentation.config import IMPORT_PATH, ClassSpec, DataConfig, Size, TrainConfig
from tunesearch.segmentation.data.layouts import resolve_classes
from tunesearch.segmentation.data.palette import palette
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.files import disk_full, is_disk_full, sync
from tunesearch.segmentation.models import SegmentationModel, build_model
from tunesearch.segmentation.models.weights import read_weights
from tunesearch.segmentation.user_code import find_user_code
from tunesearch.version import __version__

FORMAT = 1
"""Raised whenever a bundle's content changes."""
FORMATS = ("torch", "onnx")
"""The programs that a bundle may have."""
_NEEDED = ("config.yaml", "effective.json", "split.json", "metrics.json", "weights.safetensors")


@dataclass(frozen=True)
class Training:
    """One finished training, as a bundle is made of it.

    Attributes:
        name: what the bundle is called: the search's or the training's name.
        document: ``production.export.configuration`` of it; its data root is left out of the bundle.
        split: the data, whose root is left out too.
        weights: file of the best epoch's weights (safetensors).
        effective: ``Trainer.effective()``.
        curve: the metrics of every epoch.
        code: the user's own modules: see :func:`own_code`.
        confirmation: how the score was confirmed; None: it was not.
    """

    name: str
    document: dict[str, Any]
    split: Split
    weights: Path
    effective: dict[str, Any]
    curve: tuple[EpochMetrics, ...]
    code: tuple[Path, ...] = ()
    confirmation: dict[str, Any] | None = None


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
        with own_modules(self.code):
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


# ------------------------------------------------------------------------------------------------------------- writing


def write_bundle(
    training: Training,
    output: Path,
    *,
    formats: Sequence[str] = FORMATS,
    said: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write a model folder; it appears whole or not at all.

    Args:
        output: the folder; must not exist.
        formats: the programs to write, of :data:`FORMATS`; what cannot be written is told, and left out.
        said: told that it is written, and what is left out and why.

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
        said(f"writing {output}{' and its programs' if formats else ''}")  # which takes up to a minute
        content = _describe(training, network)
        content["programs"] = write_programs(network, temporary, _seen(training), formats=formats, said=said)
        (temporary / "README.md").write_text(card(content, training.curve), encoding="utf-8")
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        content["files"] = {path.relative_to(temporary).as_posix(): file_hash(path) for path in files}
        content["sha256"] = _own_hash(content)
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
    document = {**training.document, "data": _without_places(training.document["data"])}
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
    with own_modules(folder / "code" if training.code else None):
        return load_network(config, len(resolve_classes(data)), folder / "weights.safetensors")


def _without_places(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data set without its root; of lists that lie elsewhere only the name (split.json holds what they say)."""
    lists = {
        key: Path(value).name
        for key in ("train", "val", "test")
        if isinstance(value := data.get(key), str) and (Path(value).is_absolute() or value.startswith("~"))
    }
    return {key: value for key, value in {**data, **lists}.items() if key != "root"}


def _describe(training: Training, network: SegmentationModel) -> dict[str, Any]:
    """bundle.json without its programs and files."""
    document, effective = training.document, training.effective
    config = TrainConfig.model_validate(document["config"])
    data = DataConfig.model_validate(_without_places({k: v for k, v in document["data"].items() if k != "digest"}))
    classes = resolve_classes(data)
    colors = palette(classes)
    window = config.window if config.tiled_inference else None
    return {
        "format": FORMAT,
        "name": training.name,
        "origin": {key: document.get(key) for key in ("search", "space", "trial", "confirms", "outcome")},
        "on": document.get("on", "train"),
        "score": document.get("score"),
        "confirmation": training.confirmation,
        "classes": [
            {"name": spec.name, "color": [int(value) for value in colors[index]]} for index, spec in enumerate(classes)
        ],
        "data": {
            "digest": training.split.digest,
            **{part: len(training.split.items(part)) for part in ("train", "val", "test")},
        },
        "preprocessing": {
            "size": config.size.model_dump(),
            "resize": "by area where neither side grows, else bilinear (OpenCV's INTER_AREA and INTER_LINEAR)",
            "color": "RGB",
            "dtype": "uint8, 0 to 255; the program normalises it itself",
            "mean": [round(value / 255, 6) for value in network.mean.flatten().tolist()],
            "std": [round(value / 255, 6) for value in network.std.flatten().tolist()],
            "tiles": None if window is None else {"window": window.model_dump(), "overlap": config.tile_overlap},
        },
        "network": {
            **{key: effective.get(key) for key in ("network", "encoder", "parameters", "trained_parameters")},
            "pretrained": config.encoder if config.governing().get("encoder_weights") == "imagenet" else None,
        },
        "seed": config.seed,
        **{key: effective.get(key) for key in ("threads", "precision", "device")},
        "code": {"tunesearch": __version__, "sha256": source_hash()},
        "own_code": sorted(path.name for path in training.code),
        "versions": document.get("versions", {}),
    }


def _seen(training: Training) -> Size:
    """What the network sees at once when it predicts: a window where it goes over images in windows."""
    config = TrainConfig.model_validate(training.document["config"])
    return config.window if config.tiled_inference and config.window is not None else config.size


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def source_hash() -> str:
    """SHA-256 (hex) over the names and contents of all modules of tunesearch, whatever folder they are installed in."""
    package = Path(__file__).parents[1]
    total = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        total.update(f"{path.relative_to(package).as_posix()}\0{file_hash(path)}\n".encode())
    return total.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file, which need not fit into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own_hash(content: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of bundle.json's content, but for the hash itself and for how it is laid out."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------------------- reading


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
    if content.get("sha256") != _own_hash(content):
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


# -------------------------------------------------------------------------------------------------- the user's own code


def own_code(config: TrainConfig, data: DataConfig) -> tuple[Path, ...]:
    """The user's own modules behind ``module:function`` in a configuration, and the modules beside them they import.

    They must be importable here (:func:`tunesearch.engine.preflight.find_user_code`). What is installed with Python or
    into its environment is not the user's own.

    Returns:
        Files, and folders for packages: the parents of all are on Python's path.

    Raises:
        InputError: a module is not there.
    """
    found: dict[str, Path] = {}
    for what, value in (("architecture", config.architecture), ("loss", config.loss), ("layout", data.layout)):
        if not IMPORT_PATH.match(value):
            continue
        module = value.partition(":")[0]
        home = _home(module.partition(".")[0])
        if home is None:
            rule = "must be importable as module:attribute"
            raise InputError(Problem(what, rule, value=value, hint="put the module beside the file that names it"))
        if any(home.is_relative_to(sysconfig.get_path(key)) for key in ("stdlib", "purelib", "platlib")):
            continue
        finder = ModuleFinder(path=[str(home)])  # follows the import statements, and runs nothing
        finder.import_hook(module)
        for name in sorted({name.partition(".")[0] for name in finder.modules} - {"tunesearch"}):
            path = home / name
            found[name] = path if path.is_dir() else path.with_suffix(".py")
    return tuple(found[name] for name in sorted(found))


def _home(name: str) -> Path | None:
    """The folder on Python's path that a top-level module or package is imported from; None: it is not there."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve().parent
    return Path(spec.origin).resolve().parent if spec.origin and spec.origin.endswith(".py") else None


@contextlib.contextmanager
def own_modules(folder: Path | None) -> Iterator[None]:
    """Import modules from a bundle's code/ first, whatever other modules of their names this process knows.

    Two bundles may have modules of one name. What is imported later, by code that imports when it runs, is found too.
    """
    if folder is None:
        yield
        return
    place = str(folder.resolve())
    names = {path.stem for path in folder.iterdir()}
    earlier = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in names}
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a model folder stays as it was written
    importlib.invalidate_caches()
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)
        sys.dont_write_bytecode = writes
        if earlier:
            for name in [name for name in sys.modules if name.partition(".")[0] in names]:
                del sys.modules[name]
            sys.modules.update(earlier)
        find_user_code(place)
