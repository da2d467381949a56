"""Reading images and masks: Pillow reads; the rules that turn every kind of file into the same array stand here.

Images become RGB uint8: grey is repeated over the channels; a palette is looked up; alpha is dropped, not blended; CMYK
is converted; 16-bit grey is divided by 257, so that 65535 becomes 255 (Pillow itself would clip); of 16-bit RGB Pillow
keeps the high byte. Masks become class indices, uint8, 255 where nothing counts. The EXIF orientation of both is
honoured.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tunesearch.errors import DataError, Problem
from tunesearch.segmentation.config import ClassSpec, DataConfig

VOID = 255
"""In decoded masks: counts nowhere."""

Pixels = NDArray[np.uint8]

_GREY_STEP = {"L;2": 85, "L;4": 17}
"""Pillow stretches grey PNGs of 2 and 4 bits to 0..255 while reading; dividing by this gives the labels back."""


def read_image(path: Path, content: bytes | None = None) -> Pixels:
    """The image as uint8 (H, W, 3), RGB.

    Args:
        path: the file, named in errors.
        content: its bytes, where they have been read already.

    Raises:
        DataError: unreadable, or of a kind that has no meaning as RGB (floating point).
    """
    picture, _ = _open(path, content)
    if picture.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        grey = np.asarray(picture).astype(np.int64)
        if grey.size and not 0 <= grey.min() <= grey.max() <= 65535:
            raise DataError(Problem(str(path), "an image must have 8 or 16 bits per channel"))
        # + 128 rounds to the nearest instead of down.
        return np.repeat(((grey + 128) // 257).astype(np.uint8)[:, :, None], 3, axis=2)
    if picture.mode == "F":
        raise DataError(Problem(str(path), "an image must have 8 or 16 bits per channel", value="floating point"))
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # straight to RGB, Pillow warns
    return np.array(picture.convert("RGB"))


def read_mask(path: Path, data: DataConfig, classes: tuple[ClassSpec, ...], *, content: bytes | None = None) -> Pixels:
    """The mask as uint8 (H, W): class indices, ``VOID`` where nothing counts.

    ``index``: palette indices or grey values (an RGB file whose channels are equal counts as grey);
    ``data.ignore_index`` becomes void. ``color``: every color of every class; ``data.ignore_colors`` become void.
    ``binary``: 0 is class 0, anything else class 1. Alpha is dropped.

    Raises:
        DataError: unreadable, or with labels or colors that belong to no class (all of them named).
    """
    picture, grey_step = _open(path, content)
    if data.mask_format == "color":
        return _from_colors(path, picture, data, classes)
    labels = _labels(path, picture, data) // grey_step
    if data.mask_format == "binary":
        return np.asarray(labels != 0).astype(np.uint8)
    return _from_labels(path, labels, data, len(classes))


_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "TGA", "JPEG2000")
"""What is read. Pillow picks a decoder by content, and for PostScript it would start another program."""


def _open(path: Path, content: bytes | None) -> tuple[Image.Image, int]:
    """The decoded picture, turned as its EXIF orientation says, and the step between neighbouring grey labels."""
    if content is None and path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise DataError(Problem(str(path), "must be a file"))
    Image.init()  # else Pillow only knows the decoders that it has loaded by itself
    try:
        with Image.open(path if content is None else io.BytesIO(content), formats=_FORMATS) as picture:
            raw_mode = picture.tile[0][3] if picture.tile else ""
            picture.load()
            upright = ImageOps.exif_transpose(picture)
        return upright, _GREY_STEP.get(raw_mode if isinstance(raw_mode, str) else "", 1)
    # Pillow's decoders raise whatever a damaged file makes them raise.
    except (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, Image.DecompressionBombError) as error:
        text = str(error) if isinstance(error, OSError) and error.errno else f"{type(error).__name__}: {error}"
        text = text.replace("<_io.BytesIO object at ", "<").split(" <")[0]
        raise DataError(Problem(str(path), f"the file cannot be read as a picture: {text}")) from error


def _labels(path: Path, picture: Image.Image, data: DataConfig) -> NDArray[np.integer]:
    if picture.mode in ("1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N"):
        array = np.asarray(picture)
        return array.astype(np.uint8) if array.dtype == np.bool_ else array
    if picture.mode in ("LA", "PA"):
        return np.asarray(picture)[:, :, 0]
    rgb = np.asarray(picture.convert("RGB"))
    if data.mask_format == "binary":
        return np.asarray(rgb.max(axis=2))
    if (rgb[:, :, :1] == rgb).all():
        return rgb[:, :, 0]
    hint = "mask_format: color"
    raise DataError(
        Problem(str(path), "an index mask must be a palette or grey picture", value=picture.mode, hint=hint)
    )


def _from_labels(path: Path, labels: NDArray[np.integer], data: DataConfig, count: int) -> Pixels:
    if labels.dtype == np.uint8:
        present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    else:
        present = np.unique(labels)
    outside = [int(value) for value in present if not 0 <= value < count and value != data.ignore_index]
    if outside:
        shown = ", ".join(map(str, outside[:8])) + (", ..." if len(outside) > 8 else "")
        hint = f"classes: {max(outside) + 1}, or ignore_index: {outside[0]}" if len(outside) == 1 else ""
        rule = f"labels must be 0 to {count - 1}, or {data.ignore_index} for void"
        raise DataError(Problem(str(path), rule, value=shown, hint=hint))
    mask = labels.astype(np.uint8)
    if data.ignore_index != VOID:
        mask[labels == data.ignore_index] = VOID
    return mask


def _from_colors(path: Path, picture: Image.Image, data: DataConfig, classes: tuple[ClassSpec, ...]) -> Pixels:
    rgb = np.asarray(picture.convert("RGBA").convert("RGB") if picture.mode == "P" else picture.convert("RGB"))
    # One integer per color: comparing those is several times quicker than comparing three channels.
    codes = rgb[:, :, 0].astype(np.int32) << 16 | rgb[:, :, 1].astype(np.int32) << 8 | rgb[:, :, 2]
    mask = np.full(codes.shape, VOID, np.uint8)
    known = np.zeros(codes.shape, np.bool_)
    targets = [(color, index) for index, spec in enumerate(classes) for color in spec.colors]
    targets += [(color, VOID) for color in data.ignore_colors]
    for (red, green, blue), index in targets:
        here = codes == (red << 16 | green << 8 | blue)
        mask[here] = index
        known |= here
    if known.all():
        return mask
    values, counts = np.unique(codes[~known], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    problems = []
    for code, pixels in zip(values[order][:8].tolist(), counts[order][:8].tolist(), strict=True):
        color = (code >> 16, code >> 8 & 255, code & 255)
        near, index = min(targets, key=lambda item: sum((a - b) ** 2 for a, b in zip(item[0], color, strict=True)))
        name = "void" if index == VOID else classes[index].name
        rule = "every color of a mask must belong to a class or to ignore_colors"
        hint = f"nearest: {name} {list(near)}"
        problems.append(Problem(str(path), rule, value=f"{list(color)} in {pixels} pixels", hint=hint))
    if len(values) > len(problems):
        problems.append(Problem(str(path), f"and {len(values) - len(problems)} more colors that belong to no class"))
    raise DataError(problems)
