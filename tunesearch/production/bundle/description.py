"""What a model folder tells of itself: the finished training that it is made of, and bundle.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesearch.production.bundle.hashes import source_hash
from tunesearch.segmentation.config import DataConfig, Size, TrainConfig
from tunesearch.segmentation.data.layouts import resolve_classes
from tunesearch.segmentation.data.palette import palette
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.models import SegmentationModel
from tunesearch.version import __version__

FORMAT = 1
"""Raised whenever a bundle's content changes."""


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
        code: the user's own modules: see :func:`~tunesearch.segmentation.user_code.user_code_files`.
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


def without_places(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data set without its root; of lists that lie elsewhere only the name (split.json holds what they say)."""
    lists = {
        key: Path(value).name
        for key in ("train", "val", "test")
        if isinstance(value := data.get(key), str) and (Path(value).is_absolute() or value.startswith("~"))
    }
    return {key: value for key, value in {**data, **lists}.items() if key != "root"}


def describe(training: Training, network: SegmentationModel) -> dict[str, Any]:
    """bundle.json without its programs and files."""
    document, effective = training.document, training.effective
    config = TrainConfig.model_validate(document["config"])
    data = DataConfig.model_validate(without_places({k: v for k, v in document["data"].items() if k != "digest"}))
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


def input_size(training: Training) -> Size:
    """What the network sees at once when it predicts: an image, or a window where it goes over images in windows."""
    config = TrainConfig.model_validate(training.document["config"])
    return config.window if config.tiled_inference and config.window is not None else config.size
