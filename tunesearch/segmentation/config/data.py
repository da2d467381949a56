"""DataConfig: one data set, completely."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tunesearch.segmentation.config.values import named

Color = tuple[
    Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]
]
PartSource = str | Annotated[float, Field(gt=0.0, lt=1.0)]
"""A list (its name in ImageSets/Segmentation, or a text file of names) or a seeded share."""


class ClassSpec(BaseModel):
    """One class: its name and, for colour-coded masks, every colour that stands for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    colors: tuple[Color, ...] = ()


class Folds(BaseModel):
    """Cross-validation over what is training and validation together: seeded k-fold, or repeated seeded draws."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    k_fold: int | None = Field(default=None, ge=2, le=100)
    """Parts, each of which is the validation of one training."""
    monte_carlo: int | None = Field(default=None, ge=2, le=100)
    """Draws of a validation share."""
    val: float = Field(default=0.2, gt=0.0, lt=1.0)
    """For monte_carlo: that share."""

    @model_validator(mode="after")
    def _one_kind(self) -> Folds:
        if (self.k_fold is None) == (self.monte_carlo is None):
            raise ValueError("must be {k_fold: 5} or {monte_carlo: 4, val: 0.2}")
        return self


class DataConfig(BaseModel):
    """Where images and masks lie and how they are read. Paths inside are relative to ``root``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    layout: Annotated[str, named(("voc", "folders", "sample"), "layout")] = "voc"
    """voc: JPEGImages, SegmentationClass, ImageSets/Segmentation. folders: images + masks, paired by name. sample: the
    built-in generated scenes. ``module:function``: your own, see docs/python.md."""
    root: Path | None = None
    """Folder of the data set; ``--data`` overrides it."""
    images: str = "images"
    """folders: the image folder; wildcards allowed (``Training/*/*/Images``)."""
    masks: str = "masks"
    """folders: the mask folder, with the same wildcards."""
    mask_suffix: str = ""
    """folders: what a mask's name has after the image's stem, such as ``_mask``."""
    mask_format: Literal["index", "color", "binary"] = "index"
    """index: palette or grey PNG whose values are classes. color: RGB colours of ``classes``. binary: 0 and not 0."""
    train: str | None = None
    """The training list; null: ``train`` in the voc layout, everything that is left in folders."""
    val: PartSource | None = None
    """The validation list or share; null: ``val`` in the voc layout, a share of 0.2 in folders."""
    test: PartSource | None = None
    """A list, or a seeded share of what is not training; set aside at the start, no trial ever sees it."""
    folds: Folds | None = None
    """``{k_fold: 5}`` or ``{monte_carlo: 4, val: 0.2}``: train every trial on each fold, its score is their mean."""
    split_seed: int = Field(default=0, ge=0)
    """Of the seeded shares and folds."""
    classes: int | tuple[str, ...] | tuple[ClassSpec, ...] | None = None
    """Their number, names, or names with colours; null: the 21 of PASCAL VOC in the voc layout."""
    background: int | None = Field(default=0, ge=0)
    """Class left out of mean IoU without background; null: there is none."""
    ignore_index: int = Field(default=255, ge=0, le=255)
    """Label value that counts nowhere (void)."""
    ignore_colors: tuple[Color, ...] = ()
    """color: colours that mean void."""
