"""What MLflow's model registry holds of a bundle: this file, as code, beside the bundle's files.

It needs torch and numpy, and neither tunesearch nor Ray. A picture is made as large as the network's images, seen whole
or in windows, and the scores are resized back before the best class is chosen, as ``tunesearch predict`` does it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_SCORES = 2**26
"""Scores of one picture that are resized at once: 256 MiB."""


class RegisteredModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Pictures uint8 (N, H, W, 3) in RGB -> masks uint8 (N, H, W) of class indices."""

    def load_context(self, context: Any) -> None:
        """Read the program and what it must be given."""
        folder = Path(context.artifacts["bundle"])
        self.preprocessing = json.loads((folder / "bundle.json").read_text("utf-8"))["preprocessing"]
        self.program = torch.export.load(folder / "model.pt2").module()

    # Without type hints, which MLflow would take for a schema, and does not understand.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """The masks of pictures."""
        return np.stack([self._mask(np.asarray(image, np.uint8)) for image in model_input])

    @torch.no_grad()
    def _mask(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        size, tiles = self.preprocessing["size"], self.preprocessing["tiles"]
        small = resized(torch.from_numpy(image.copy()).permute(2, 0, 1)[None], (size["height"], size["width"]))
        scores = self.program(small) if tiles is None else self._blended(small, tiles["window"], tiles["overlap"])
        return labels(scores[0], (image.shape[0], image.shape[1])).numpy()

    def _blended(self, images: Tensor, window: dict[str, int], overlap: float) -> Tensor:
        """Scores of (1, 3, H, W) in overlapping windows, which count most at their centres."""
        height, width = images.shape[-2:]
        side = (min(window["height"], height), min(window["width"], width))
        rows, columns = starts(height, side[0], overlap), starts(width, side[1], overlap)
        down, right = weights(height, side[0], rows), weights(width, side[1], columns)
        result: Tensor | None = None
        for i, top in enumerate(rows):
            for j, left in enumerate(columns):
                scores = self.program(images[:, :, top : top + side[0], left : left + side[1]].contiguous())
                if result is None:
                    result = scores.new_zeros(1, scores.shape[1], height, width)
                place = result[:, :, top : top + side[0], left : left + side[1]]
                place += down[i][:, None] * right[j] * scores
        assert result is not None
        return result


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 (N, C, H, W) stretched to (height, width): by area where neither side grows, else bilinear.

    Equals OpenCV's INTER_AREA and INTER_LINEAR but for how they round: by at most 1 of 255.
    """
    height, width = images.shape[-2:]
    if size[0] <= height and size[1] <= width:
        result = shares(height, size[0]) @ images.double() @ shares(width, size[1]).T
    else:
        result = F.interpolate(images.double(), size, mode="bilinear", align_corners=False)
    return result.round().clamp(0, 255).to(torch.uint8)


def shares(length: int, shorter: int) -> Tensor:
    """Which share of each of ``shorter`` stretches of a side every one of its ``length`` pixels is: rows sum to 1."""
    edges = torch.arange(shorter + 1, dtype=torch.float64)[:, None] * length / shorter
    pixels = torch.arange(length, dtype=torch.float64)
    return (edges[1:].minimum(pixels + 1) - edges[:-1].maximum(pixels)).clamp(min=0) * shorter / length


def labels(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores (C, h, w) -> the best class at (height, width), uint8; a few classes at a time."""
    best = torch.full(size, -torch.inf)
    result = torch.zeros(size, dtype=torch.uint8)
    step = max(1, _SCORES // (size[0] * size[1]))
    for first in range(0, len(scores), step):
        part = F.interpolate(scores[None, first : first + step], size, mode="bilinear", align_corners=False)[0]
        value, index = part.max(dim=0)
        better = value > best
        best, result = torch.where(better, value, best), torch.where(better, (index + first).to(torch.uint8), result)
    return result


def starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin on a side, the last one flush with its end; neighbours share at least ``overlap`` of one."""
    step = max(window - math.ceil(round(overlap * window, 6)), 1)
    return [*range(0, length - window, step), length - window]


def weights(length: int, window: int, places: list[int]) -> Tensor:
    """Weights (windows, window) of windows along a side: raised cosines that sum to 1 at each of its pixels."""
    raised = np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2
    total = np.zeros(length)
    for place in places:
        total[place : place + window] += raised
    return torch.from_numpy(np.stack([raised / total[place : place + window] for place in places])).float()


mlflow.models.set_model(RegisteredModel())
