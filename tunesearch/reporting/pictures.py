"""Pictures that a page holds itself: compact data URIs of images, masks and overlays."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from tunesearch.segmentation.config import DataConfig, TrainConfig
from tunesearch.segmentation.data.images import VOID, Pixels, read_image, read_mask
from tunesearch.segmentation.data.layouts import Pair, resolve_classes
from tunesearch.segmentation.data.overlay import overlay
from tunesearch.segmentation.data.palette import palette
from tunesearch.segmentation.inference import predict
from tunesearch.segmentation.metrics import ConfusionMatrix, Scores, scores
from tunesearch.segmentation.trainer import pick_device

LONGEST = 1200
"""Pixels of a picture's longer side, above which it is shown smaller: three photographs must not make a file of 50 MB."""


def picture_uri(image: Pixels) -> str:
    """A picture uint8 (H, W, 3) as WebP."""
    return _uri(Image.fromarray(image), Image.Resampling.LANCZOS, format="WEBP", quality=82)


def mask_uri(mask: Pixels, colors: Pixels) -> str:
    """A mask uint8 (H, W) as PNG, lossless, in ``colors`` (256, 3)."""
    picture = Image.fromarray(mask)
    picture.putpalette(colors.tobytes())
    return _uri(picture, Image.Resampling.NEAREST, format="PNG", optimize=True)


def file_uri(path: Path) -> str | None:
    """A picture file as WebP; None: it is not there, or no picture."""
    try:
        with Image.open(path) as picture:
            return _uri(picture.convert("RGB"), Image.Resampling.LANCZOS, format="WEBP", quality=85)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _uri(picture: Image.Image, how: Image.Resampling, *, format: str, **options: int | bool) -> str:
    factor = LONGEST / max(picture.size)
    if factor < 1:
        picture = picture.resize((max(1, round(picture.width * factor)), max(1, round(picture.height * factor))), how)
    buffer = io.BytesIO()
    picture.save(buffer, format=format, **options)
    return f"data:image/{format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True)
class Shown:
    """One image with everything that is shown of it: data URIs, its own size (width, height) and its mean IoU."""

    title: str
    id: str
    miou: float
    size: tuple[int, int]
    image: str
    truth: str
    prediction: str
    overlay: str

    @property
    def reduced(self) -> bool:
        """Whether it is shown smaller than it is."""
        return max(self.size) > LONGEST


@dataclass(frozen=True)
class Seen:
    """A network on a part of the data, at each image's own size.

    Attributes:
        scores: over all its pixels.
        matrix: int64 (C, C), rows are the truth.
        images: id and mean IoU of each, the best first.
        shown: the best, the median and the worst.
    """

    scores: Scores
    matrix: NDArray[np.int64]
    images: tuple[tuple[str, float], ...]
    shown: tuple[Shown, ...]


def look(
    network: nn.Module,
    config: TrainConfig,
    pairs: Sequence[Pair],
    data: DataConfig,
    *,
    said: Callable[[str], None] = lambda text: None,
) -> Seen:
    """Predict every image once, and the best, the median and the worst once more for their pictures.

    Raises:
        DataError: a file cannot be read.
    """
    import torch

    classes = resolve_classes(data)
    device = pick_device()
    network.to(device)
    total: NDArray[np.int64] = np.zeros((len(classes), len(classes)), np.int64)
    ranked: list[tuple[float, Pair]] = []
    for number, pair in enumerate(pairs, start=1):
        image, truth = read_image(pair.image), read_mask(pair.mask, data, classes)
        counts = ConfusionMatrix(len(classes), ignore_index=VOID)
        counts.add(torch.from_numpy(truth), torch.from_numpy(predict(network, image, config, device)))
        total += counts.numpy()
        ranked.append((scores(counts.numpy(), background=data.background).miou, pair))
        if number % 100 == 0:
            said(f"{number} of {len(pairs)} images")
    ranked.sort(key=lambda item: (-item[0], item[1].id))
    places = {"the best": 0, "the median": len(ranked) // 2, "the worst": len(ranked) - 1}
    shown = []
    for title, place in places.items():
        if place in list(places.values())[: len(shown)]:  # of one or two images
            continue
        miou, pair = ranked[place]
        image, truth = read_image(pair.image), read_mask(pair.mask, data, classes)
        predicted, colors = predict(network, image, config, device), palette(classes)
        shown.append(
            Shown(
                title,
                pair.id,
                miou,
                (image.shape[1], image.shape[0]),
                picture_uri(image),
                mask_uri(truth, colors),
                mask_uri(predicted, colors),
                picture_uri(overlay(image, predicted, colors, background=data.background)),
            )
        )
    return Seen(
        scores(total, background=data.background),
        total,
        tuple((pair.id, miou) for miou, pair in ranked),
        tuple(shown),
    )
