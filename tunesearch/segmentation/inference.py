"""Inference: scores and labels of a picture of any size, computed whole or window by window."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tunesearch.segmentation.config import ClassSpec, Size, TrainConfig
from tunesearch.segmentation.data.images import Pixels
from tunesearch.segmentation.data.palette import palette
from tunesearch.segmentation.data.windows import Place, grid, starts
from tunesearch.segmentation.files import write_atomic

Network = Callable[[Tensor], Tensor]
"""Images (N, 3, H, W) -> scores (N, C, H, W)."""

_SCORES = 2**24
"""Scores of one picture that are resized at once: 64 MiB, where all of them may be gigabytes."""


def tiles(config: TrainConfig) -> list[Place] | None:
    """Upper left corners (top, left) of the windows that an image of ``config.size`` is predicted in; None: whole."""
    if not config.tiled_inference or config.window is None:
        return None
    size, crop = config.size, config.window
    return grid((size.height, size.width), (crop.height, crop.width), config.tile_overlap)


def window_logits(model: Network, images: Tensor, *, crop: Size, overlap: float, batch: int | None = None) -> Tensor:
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


def window_bands(model: Network, image: Tensor, *, crop: Size, overlap: float, batch: int) -> Iterator[Tensor]:
    """The scores of :func:`window_logits` for one image of any size, in bands from top to bottom.

    No more is held than the scores of one row of windows, however high the image is.

    Args:
        image: (3, H, W).

    Yields:
        float32 (C, n, W), for n that differ from band to band and add up to H.
    """
    height = image.shape[1]
    window = min(crop.height, height)
    rows = starts(height, window, overlap)
    down = _weights(height, window, rows).to(image.device)
    begun: Tensor | None = None
    for index, (top, following) in enumerate(zip(rows, [*rows[1:], height], strict=True)):
        strip = image[None, :, top : top + window]
        scores = window_logits(model, strip, crop=crop, overlap=overlap, batch=batch)[0] * down[index][:, None]
        if begun is not None:
            scores[:, : begun.shape[1]] += begun
        yield scores[:, : following - top]
        begun = scores[:, following - top :]


def resized_rows(bands: Iterable[Tensor], source: tuple[int, int], size: tuple[int, int]) -> Iterator[Tensor]:
    """Scores resized as ``F.interpolate(..., mode="bilinear")`` does it, from bands of rows to bands of rows.

    Args:
        bands: (C, n, w) of any n, which together are the h rows of ``source``.
        source: (h, w).
        size: (H, W).

    Yields:
        float32 (C, n, W), from top to bottom, of no more than 64 MiB unless a single row has more.
    """
    stream = iter(bands)
    held, first = next(stream).float(), 0  # rows of the source, from ``first`` on
    place = ((torch.arange(size[0], dtype=torch.float64) + 0.5) * (source[0] / size[0]) - 0.5).clamp_min(0)
    above = place.long()
    below = (above + 1).clamp_max(source[0] - 1)
    share = (place - above).float()
    step = max(1, _SCORES // (len(held) * size[1]))
    for top in range(0, size[0], step):
        part = slice(top, top + step)
        while first + held.shape[1] <= int(below[part][-1]):
            past = min(int(above[top]) - first, held.shape[1])
            held, first = torch.cat([held[:, past:], next(stream).float()], dim=1), first + past
        upper, lower = ((rows[part] - first).to(held.device) for rows in (above, below))
        mixed = torch.lerp(held[:, upper], held[:, lower], share[part, None].to(held.device))
        yield F.interpolate(mixed[None], size=(mixed.shape[1], size[1]), mode="bilinear", align_corners=False)[0]


def resized_labels(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """The labels of one image at its own size: scores resized bilinearly, then the best class.

    One image, and not a batch: originals differ in size, and are often many times larger than what the network sees.

    Args:
        scores: (C, h, w).
        size: (height, width).

    Returns:
        uint8 (height, width), on the scores' device.
    """
    source = (scores.shape[1], scores.shape[2])
    return torch.cat([rows.max(dim=0).indices.to(torch.uint8) for rows in resized_rows([scores], source, size)])


def trained_scores(model: Network, images: Tensor, config: TrainConfig) -> Tensor:
    """The network's scores as validation makes them: of whole images, or of windows where ``config`` says so.

    Args:
        images: (N, 3, H, W) of ``config.size``.

    Returns:
        (N, C, H, W).
    """
    if not config.tiled_inference or config.window is None:
        return model(images)
    batch = min(config.micro_batch or config.batch_size, config.batch_size)
    return window_logits(model, images, crop=config.window, overlap=config.tile_overlap, batch=batch)


def with_flips(model: Network) -> Network:
    """The network's probabilities averaged over an image and its mirror image, as logarithms."""

    def both(images: Tensor) -> Tensor:
        straight = F.log_softmax(model(images).float(), dim=1)
        mirrored = F.log_softmax(model(images.flip(-1)).float(), dim=1).flip(-1)
        return torch.logaddexp(straight, mirrored) - math.log(2)

    return both


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
