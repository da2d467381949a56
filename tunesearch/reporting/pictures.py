"""Pictures that a page holds itself: compact data URIs of images, masks and overlays."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tunesearch.production.evaluation.result import Evaluation
from tunesearch.production.prediction.predictor import Predictor
from tunesearch.segmentation.config import DataConfig
from tunesearch.segmentation.data.images import Pixels, read_image, read_mask
from tunesearch.segmentation.data.layouts import Pair
from tunesearch.segmentation.data.overlay import overlay
from tunesearch.segmentation.data.palette import palette

LONGEST = 1200
"""Pixels of a picture's longer side, above which it is shown smaller: three photographs must not make 50 MB."""


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
class ShownImage:
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


def shown_images(
    evaluation: Evaluation, predictor: Predictor, pairs: Sequence[Pair], data: DataConfig
) -> tuple[ShownImage, ...]:
    """The best, the median and the worst image of an evaluation, each once however few there are.

    Raises:
        DataError: a file cannot be read.
    """
    places, mious, colors = {pair.id: pair for pair in pairs}, dict(evaluation.images), palette(predictor.classes)
    shown: dict[str, ShownImage] = {}
    for kind, ids in evaluation.chosen(1).items():
        if not ids or ids[0] in shown:
            continue
        pair = places[ids[0]]
        image, truth = read_image(pair.image), read_mask(pair.mask, data, predictor.classes)
        predicted = predictor.mask(image)
        shown[pair.id] = ShownImage(
            title=f"the {kind}",
            id=pair.id,
            miou=float(mious[pair.id] or 0.0),
            size=(image.shape[1], image.shape[0]),
            image=picture_uri(image),
            truth=mask_uri(truth, colors),
            prediction=mask_uri(predicted, colors),
            overlay=picture_uri(overlay(image, predicted, colors, background=data.background)),
        )
    return tuple(shown.values())
