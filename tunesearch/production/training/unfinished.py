"""What a training that was killed is recognised by and goes on from: ``training.json`` in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tunesearch.errors import InputError, Problem
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.files import write_text


class _Saved(BaseModel):
    """The content of ``training.json``."""

    what: dict[str, Any]
    run_id: str | None
    curve: list[dict[str, Any]]


class UnfinishedTraining:
    """A training on its way.

    Attributes:
        run_id: of its MLflow run; None before there is one.
        curve: the metrics of every epoch so far, as plain data.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "training.json"
        self.run_id: str | None = None
        self.curve: list[dict[str, Any]] = []
        self.what: dict[str, Any] = {}

    @property
    def epochs(self) -> list[EpochMetrics]:
        """The curve as metrics."""
        return [EpochMetrics.from_dict(epoch) for epoch in self.curve]

    def begin(self, what: dict[str, Any]) -> None:
        """Take over an earlier session of the same training, or start a new one.

        Raises:
            InputError: the folder holds another training, or the file is damaged.
        """
        if self.file.is_file():
            hint = f"remove {self.file.parent} to start anew, or give another folder with -o"
            try:
                earlier = _Saved.model_validate_json(self.file.read_bytes())
                self.run_id, self.curve = earlier.run_id, earlier.curve
                _ = self.epochs
            except (ValidationError, TypeError) as error:
                reason = " ".join(str(error).split())[:120]
                raise InputError(Problem(str(self.file), f"is damaged: {reason}", hint=hint)) from error
            if earlier.what != what:
                rule = "holds an unfinished training of another configuration or data set"
                raise InputError(Problem(str(self.file.parent), rule, hint=hint))
        self.what = what
        self.note()

    def start_over(self) -> None:
        """There is no checkpoint: nothing of an earlier session counts."""
        if self.curve:
            self.run_id, self.curve = None, []
            self.note()

    def note(self, *, run_id: str | None = None, metrics: EpochMetrics | None = None) -> None:
        """Keep what is new; an epoch that is told again replaces itself."""
        self.run_id = run_id or self.run_id
        if metrics is not None:
            self.curve = [epoch for epoch in self.curve if epoch["epoch"] < metrics.epoch] + [metrics.as_dict()]
        write_text(self.file, json.dumps({"what": self.what, "run_id": self.run_id, "curve": self.curve}))
