"""From a network and a picture of any size to a mask of the same size: whole or window by window."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from tunesearch.segmentation.config import ClassSpec, Size, TrainConfig
from tunesearch.segmentation.data.cache import resize_image
from tunesearch.segmentation.data.images import Pixels
from tunesearch.segmentation.data.palette import palette
from tunesearch.segmentation.data.windows import Place, grid, starts
from tunesearch.segmentation.files import write_atomic

_SCORES = 2**26
"""Scores of one picture that are resized at once: 256 MiB."""


def tiles(config: TrainConfig) -> list[Place] | None:
    """Upper left corners (top, left) of the windows that an image of ``config.size`` is predicted in; None: whole."""
    if not config.tiled_inference or config.window is None:
        return None
    size, crop = config.size, config.window
    return grid((size.height, size.width), (crop.height, crop.width), config.tile_overlap)


def window_logits(model: nn.Module, images: Tensor, *, crop: Size, overlap: float, batch: int | None = None) -> Tensor:
    """The network's scores for whole images, computed in overlapping windows that are blended.

    A window counts most at its centre and hardly at its edge, where the network saw only half of the surroundings: by
    a raised cosine in each direction, never 0. At every pixel the weights of its windows sum to 1. The mode of the
    model, autocast and gradients are the caller's.

    Args:
        model: (n, 3, h, w) -> (n, C, h, w), for any n.
        images: (N, 3, H, W), of whatever type the model takes.
        crop: size of the windows; a side that is longer than the image's becomes as long as that.
        overlap: the least share of a window that it has in common with the next, 0 to below 1.
        batch: windows that the model is given at once; None: N.

    Returns:
        float32 (N, C, H, W).
    """
    count, _, height, width = images.shape
    window = (min(crop.height, height), min(crop.width, width))
    rows, columns = starts(height, window[0], overlap), starts(width, window[1], overlap)
    down = _weights(height, window[0], rows).to(images.device)  # (windows, window height)
    right = _weights(width, window[1], columns).to(images.device)
    places = [(n, i, j) for n in range(count) for i in range(len(rows)) for j in range(len(columns))]
    result = torch.zeros(count, 0, height, width, device=images.device)
    for first in range(0, len(places), batch or count):
        chosen = places[first : first + (batch or count)]
        parts = [images[n, :, rows[i] :, columns[j] :][:, : window[0], : window[1]] for n, i, j in chosen]
        scores = model(torch.stack(parts)).float()
        if first == 0:
            result = scores.new_zeros(count, scores.shape[1], height, width)
        for (n, i, j), score in zip(chosen, scores, strict=True):
            place = result[n, :, rows[i] :, columns[j] :][:, : window[0], : window[1]]
            place += down[i][:, None] * right[j] * score
    return result


def _weights(length: int, window: int, places: Sequence[int]) -> Tensor:
    """Weights of windows along one side, float32 (windows, window), which sum to 1 at each of ``length`` pixels."""
    raised = np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2  # half a pixel inside the zeros at both ends
    total: NDArray[np.float64] = np.zeros(length)
    for place in places:
        total[place : place + window] += raised
    return torch.from_numpy(np.stack([raised / total[place : place + window] for place in places])).float()


def resized_labels(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """The labels of one image at its own size: scores resized bilinearly, then the best class.

    One image, and not a batch: originals differ in size, and are often many times larger than what the network sees.

    Args:
        scores: (C, h, w).
        size: (height, width).

    Returns:
        uint8 (height, width), on the scores' device.
    """
    best = torch.full(size, -torch.inf, device=scores.device)
    labels = torch.zeros(size, dtype=torch.uint8, device=scores.device)
    step = max(1, _SCORES // (size[0] * size[1]))
    for first in range(0, len(scores), step):  # all classes of a large picture at once may be gigabytes
        part = scores[None, first : first + step].float()
        value, index = F.interpolate(part, size=size, mode="bilinear", align_corners=False)[0].max(dim=0)
        better = value > best
        best = torch.where(better, value, best)
        labels = torch.where(better, (index + first).to(torch.uint8), labels)
    return labels


@torch.inference_mode()
def predict(model: nn.Module, image: Pixels, config: TrainConfig, device: torch.device | str) -> Pixels:
    """The mask of one picture, as large as the picture.

    The picture is resized to ``config.size`` as training pictures were, seen whole or in windows as the configuration
    says, and its scores are resized back before the best class is chosen. Autocast is the caller's.

    Args:
        model: on ``device``; left in evaluation mode.
        image: uint8 (H, W, 3), RGB, of any size.

    Returns:
        uint8 (H, W): class indices.
    """
    model.eval()
    small = torch.from_numpy(resize_image(image, config.size)).permute(2, 0, 1)[None].to(device)
    if config.tiled_inference and config.window is not None:
        batch = min(config.micro_batch or config.batch_size, config.batch_size)
        scores = window_logits(model, small, crop=config.window, overlap=config.tile_overlap, batch=batch)
    else:
        scores = model(small)
    labels = resized_labels(scores[0], (image.shape[0], image.shape[1]))
    return np.asarray(labels.cpu().numpy(), np.uint8)


def save_mask(path: Path, mask: Pixels, classes: Sequence[ClassSpec]) -> None:
    """Write a mask uint8 (H, W) as a PNG: in RGB where every class has a colour, the first of its own; else by index.

    A mask by index has the palette of its data set, so that any viewer shows it in colours. The file is written whole
    or not at all.
    """
    colors = palette(classes)
    if all(spec.colors for spec in classes):
        picture = Image.fromarray(colors[mask])
    else:
        picture = Image.fromarray(mask)
        picture.putpalette(colors.tobytes())  # makes it mode P
    write_atomic(path, lambda temporary: picture.save(temporary, format="PNG"))
