"""What is trained: a model folder, or an exported configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunesearch.errors import InputError, Problem
from tunesearch.experiment import Objective
from tunesearch.production.bundle import Bundle, read_bundle
from tunesearch.production.configuration import read_configuration
from tunesearch.segmentation.config import DataConfig, TrainConfig
from tunesearch.segmentation.epoch import EpochMetrics


@dataclass(frozen=True)
class Source:
    """What is trained.

    Attributes:
        document: the configuration with what else is known of its origin.
        bundle: the model folder; None: it is a file.
        objective: what the search that it comes from judged trials by.
    """

    path: Path
    config: TrainConfig
    data: DataConfig
    document: dict[str, Any]
    bundle: Bundle | None
    objective: Objective

    @property
    def origin(self) -> dict[str, Any]:
        """The search, space and trial that the configuration comes from, however often it was trained since."""
        earlier = self.document.get("trained_from")
        if isinstance(earlier, dict):
            return earlier
        return {key: self.document[key] for key in ("search", "space", "trial") if key in self.document}

    @property
    def effective(self) -> dict[str, Any]:
        """What of the recorded training's effective configuration is known; empty: nothing."""
        if self.bundle is not None:
            return dict(json.loads((self.bundle.folder / "effective.json").read_text("utf-8")))
        known = self.document.get("trained_with")
        return known if isinstance(known, dict) else {}


def read_source(path: Path) -> Source:
    """Read a model folder or an exported configuration.

    Raises:
        InputError: it is neither, or damaged; fields that do not hold.
    """
    bundle = read_bundle(path) if path.is_dir() else None
    config, data, document = read_configuration(path if bundle is None else path / "config.yaml")
    return Source(path, config, data, document, bundle, _objective(path, document))


def _objective(path: Path, document: dict[str, Any]) -> Objective:
    """The objective that a document tells; the usual one where it tells none."""
    score = document.get("score") or {}
    if not isinstance(score, dict):
        raise InputError(Problem(str(path), "must be a mapping", path="score", value=repr(score)[:80]))
    given = {"metric": "objective", "resolution": "resolution"}
    try:
        return Objective.model_validate({name: score[key] for name, key in given.items() if key in score})
    except ValidationError as error:
        raise InputError(
            [
                Problem(
                    str(path),
                    found["msg"].removeprefix("Value error, "),
                    path=".".join(["score", *(given.get(str(part), str(part)) for part in found["loc"])]),
                    value=repr(found["input"])[:80],
                )
                for found in error.errors()
            ]
        ) from error


def curve_of(bundle: Bundle) -> list[EpochMetrics]:
    """The metrics of every epoch of a model folder's training."""
    content = json.loads((bundle.folder / "metrics.json").read_text("utf-8"))
    return [EpochMetrics.from_dict(epoch) for epoch in content["epochs"]]


def signed(epoch: EpochMetrics, objective: Objective) -> float:
    """An epoch's value of the objective: the larger, the better."""
    value = float(getattr(epoch, objective.metric))
    return -value if objective.mode == "min" else value
