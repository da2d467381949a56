"""Pictures of masks: a mask laid over its image, and labelled panels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tunesearch.segmentation.config import DataConfig
from tunesearch.segmentation.data.images import VOID, Pixels, read_image, read_mask
from tunesearch.segmentation.data.layouts import resolve_classes
from tunesearch.segmentation.data.palette import palette
from tunesearch.segmentation.data.splits import Split

_GAP, _LINE = 6, 16
"""Pixels between pictures, and of a line of text."""


@dataclass(frozen=True)
class PanelRow:
    """One row of a panel: image uint8 (H, W, 3), masks uint8 (H, W) of class indices with 255 as void."""

    title: str
    image: Pixels
    truth: Pixels
    prediction: Pixels | None = None


def overlay(image: Pixels, mask: Pixels, colors: Pixels, *, background: int | None = 0, opacity: float = 0.5) -> Pixels:
    """``image`` (H, W, 3) with ``mask`` (H, W) laid over it in ``colors`` (256, 3).

    Void and the ``background`` class, if there is one, stay clear: tinting most of the picture would only hide it.
    """
    clear = mask == VOID
    if background is not None:
        clear |= mask == background
    strength = np.where(clear, 0.0, opacity)[:, :, None]
    mixed: NDArray[np.float64] = image * (1 - strength) + colors[mask] * strength
    return (mixed + 0.5).astype(np.uint8)


def panel(
    rows: Sequence[PanelRow], colors: Pixels, *, background: int | None = 0, cell_width: int = 200
) -> Image.Image:
    """Rows of image, truth, prediction (if any row has one) and overlay, under the names of the columns.

    The overlay shows the prediction where there is one, else the truth. Every picture is made ``cell_width`` pixels
    wide.
    """
    predicted = any(row.prediction is not None for row in rows)
    titles = ["image", "truth", *(["prediction"] if predicted else []), "overlay"]
    heights = [max(1, round(row.image.shape[0] * cell_width / row.image.shape[1])) for row in rows]
    width = _GAP + len(titles) * (cell_width + _GAP)
    height = _LINE + _GAP + sum(item + _LINE + _GAP for item in heights)
    sheet = Image.new("RGB", (width, height), (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for column, title in enumerate(titles):
        draw.text((_GAP + column * (cell_width + _GAP), _GAP // 2), title, (0, 0, 0), font=font)
    top = _LINE + _GAP
    for row, cell_height in zip(rows, heights, strict=True):
        draw.text((_GAP, top), row.title, (90, 90, 90), font=font)
        shown = row.truth if row.prediction is None else row.prediction
        cells: list[Pixels | None] = [row.image, colors[row.truth]]
        if predicted:
            cells.append(None if row.prediction is None else colors[row.prediction])
        cells.append(overlay(row.image, shown, colors, background=background))
        for column, cell in enumerate(cells):
            if cell is not None:
                how = Image.Resampling.NEAREST if 0 < column < len(cells) - 1 else Image.Resampling.BILINEAR
                picture = Image.fromarray(cell).resize((cell_width, cell_height), how)
                sheet.paste(picture, (_GAP + column * (cell_width + _GAP), top + _LINE))
        top += cell_height + _LINE + _GAP
    return sheet


def sample_picture(data: DataConfig, split: Split, n: int = 8) -> Image.Image:
    """A panel of ``n`` pairs spread evenly over the training part, with the classes' names and colours below.

    Raises:
        DataError: a file cannot be read.
    """
    classes = resolve_classes(data)
    colors = palette(classes)
    pairs = split.pairs("train")
    chosen = [pairs[index * len(pairs) // min(n, len(pairs))] for index in range(min(n, len(pairs)))]
    rows = [PanelRow(pair.id, read_image(pair.image), read_mask(pair.mask, data, classes)) for pair in chosen]
    sheet = panel(rows, colors, background=data.background)
    return _with_legend(sheet, [spec.name for spec in classes], colors)


def _with_legend(sheet: Image.Image, names: Sequence[str], colors: Pixels) -> Image.Image:
    columns = max(1, sheet.width // 130)
    lines = -(-len(names) // columns)
    result = Image.new("RGB", (sheet.width, sheet.height + lines * _LINE + _GAP), (255, 255, 255))
    result.paste(sheet, (0, 0))
    draw, font = ImageDraw.Draw(result), ImageFont.load_default()
    for index, name in enumerate(names):
        x, y = _GAP + index % columns * 130, sheet.height + index // columns * _LINE
        red, green, blue = colors[index].tolist()
        draw.rectangle((x, y + 2, x + 10, y + 12), fill=(red, green, blue), outline=(0, 0, 0))
        draw.text((x + 16, y), name, (0, 0, 0), font=font)
    return result
