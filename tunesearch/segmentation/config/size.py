"""Sizes in pixels: of images, and of the windows that are cut out of them."""

from __future__ import annotations

import contextlib
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class Size(BaseModel):
    """Width and height in pixels. Written ``256x192`` (width first) or ``{width: 256, height: 192}``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(ge=16, le=8192)
    height: int = Field(ge=16, le=8192)

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if isinstance(value, str):
            match = re.fullmatch(r"\s*(\d+)\s*[xX]\s*(\d+)\s*", value)
            if not match:
                raise ValueError("size must be WIDTHxHEIGHT in pixels, such as 256x192")
            return {"width": int(match[1]), "height": int(match[2])}
        return value

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def read_crop(value: Any) -> Any:
    """A Size, a share or None."""
    if value is None or isinstance(value, Size):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
        return float(value)
    if isinstance(value, str | dict):
        with contextlib.suppress(ValidationError):
            return Size.model_validate(value)
    raise ValueError("crop must be WIDTHxHEIGHT of at least 16x16, a share of the size above 0 and up to 1, or null")
