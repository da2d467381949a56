"""The sections of a search-space file, and the models of those that are a few settings each."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tunesearch.errors import nearest
from tunesearch.segmentation.config import TrainConfig

SECTIONS = (
    "name",
    "description",
    "data",
    "train",
    "search",
    "scheduler",
    "objective",
    "parameters",
    "try_first",
    "smoke",
)
SMOKE_SECTIONS = ("train", "search", "scheduler", "objective", "parameters", "try_first")
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
FIELDS = tuple(TrainConfig.model_fields)
"""What may stand under ``train`` and ``parameters``."""
ELSEWHERE = {
    "learning_rate": "lr",
    "model": "architecture",
    "backbone": "encoder",
    "pretrained": "encoder_weights",
    "criterion": "loss",
    "lr_schedule": "schedule",
    "patience": "early_stop_patience",
    "normalisation": "normalization",
    "crop_size": "crop",
    "ohem": "hard_pixels",
}
"""What fields are called elsewhere."""


def field_hint(name: str) -> str:
    """The field that was probably meant."""
    return f"did you mean {ELSEWHERE[name]!r}?" if name in ELSEWHERE else nearest(name, FIELDS)


class SearchSettings(BaseModel):
    """How many trials, and who proposes them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    trials: int = Field(default=32, ge=1)
    """Trials to run."""
    sampler: Literal["tpe", "random", "grid", "gp", "cmaes"] = "tpe"
    """Who proposes configurations: Optuna's samplers."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the sampler and, with the trial's number, of every trial."""


class Asha(BaseModel):
    """Asynchronous successive halving: of those that reach a rung, one in ``reduction`` goes on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    grace_epochs: int = Field(default=4, ge=1)
    """Epochs that every trial gets."""
    reduction: int = Field(default=3, ge=2)
    """One in this many survives a rung; rungs lie at grace_epochs * reduction**k."""


class Median(BaseModel):
    """Stops a trial that is worse than the median of the others at the same epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    grace_epochs: int = Field(default=4, ge=1)
    """Epochs that every trial gets."""
    min_trials: int = Field(default=4, ge=1)
    """Trials that must have reached the epoch before any is stopped."""


SCHEDULERS: dict[str, type[Asha] | type[Median]] = {"asha": Asha, "median": Median}


class Objective(BaseModel):
    """What the search makes large or small."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    metric: Literal["val_miou", "val_miou_no_background", "val_dice", "val_pixel_accuracy", "val_loss"] = "val_miou"
    """Measured on the validation split after every epoch; a trial counts with its best."""
    mode: Literal["max", "min"] = "max"
    """May be left out: min for val_loss, max for the others."""
    resolution: Literal["network", "original"] = "network"
    """Where IoU, Dice and accuracy are measured: on masks of the network's size or, slower, on those of the files, to
    which the predictions are resized."""

    @field_validator("metric", mode="before")
    @classmethod
    def _not_the_test_part(cls, value: Any) -> Any:
        if isinstance(value, str) and value.startswith("test"):
            raise ValueError("the test part is no objective: it is looked at once, at the end, by tunesearch confirm")
        return value

    @model_validator(mode="before")
    @classmethod
    def _natural_mode(cls, value: Any) -> Any:
        if isinstance(value, dict) and "mode" not in value:
            return {**value, "mode": "min" if value.get("metric") == "val_loss" else "max"}
        return value

    @model_validator(mode="after")
    def _right_way(self) -> Objective:
        natural = "min" if self.metric == "val_loss" else "max"
        if self.mode != natural:
            raise ValueError(f"mode must be {natural} for {self.metric}; it may be left out")
        return self
