"""One file to one array. Oracles: pixels written by hand; what EXIF and PNG define."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tunesearch.errors import DataError
from tunesearch.segmentation.config import DataConfig
from tunesearch.segmentation.data.images import read_image, read_mask
from tunesearch.segmentation.data.layouts import resolve_classes

RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10


def mask_of(path: Path, **config: Any) -> list[list[int]]:
    data = DataConfig(layout="folders", **config)
    mask = read_mask(path, data, resolve_classes(data))
    assert mask.dtype == np.uint8
    return mask.tolist()


def png(path: Path, *, width: int, rows: list[bytes], bits: int, color: int) -> Path:
    """A PNG written from the specification, for the depths that Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, color, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


def test_rgb(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.uint8
    assert np.array_equal(image, RGB)
    assert image.flags["C_CONTIGUOUS"]


def test_exif_orientation_turns_images_and_masks(tmp_path: Path) -> None:
    # EXIF 6: row 0 of the file is the right side of the picture, that is, to be turned clockwise by 90 degrees.
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.rot90(RGB, -1))
    Image.fromarray(np.array([[0, 1, 2]], np.uint8)).save(tmp_path / "m.png", exif=exif)
    assert mask_of(tmp_path / "m.png", classes=3) == [[0], [1], [2]]


def test_grey_alpha_and_palette_images(tmp_path: Path) -> None:
    Image.fromarray(np.array([[7, 200]], np.uint8)).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").tolist() == [[[7, 7, 7], [200, 200, 200]]]
    Image.fromarray(np.array([[[1, 2, 3, 0], [4, 5, 6, 128]]], np.uint8)).save(tmp_path / "alpha.png")
    assert read_image(tmp_path / "alpha.png").tolist() == [[[1, 2, 3], [4, 5, 6]]]  # dropped, not blended
    picture = Image.fromarray(np.array([[1, 0]], np.uint8))
    picture.putpalette([9, 8, 7, 1, 2, 3])
    picture.save(tmp_path / "palette.png", transparency=b"\x00\x80")
    assert read_image(tmp_path / "palette.png").tolist() == [[[1, 2, 3], [9, 8, 7]]]


def test_16_bit_images_are_scaled_not_clipped(tmp_path: Path) -> None:
    # 65535 = 255 * 257, so dividing by 257 maps the whole range onto 0..255; 1000 / 257 = 3.89.
    Image.fromarray(np.array([[0, 257, 1000, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 1, 4, 255]
    row = struct.pack(">6H", 0, 0x1234, 0xFFFF, 0x8000, 0x00FF, 0x0100)
    path = png(tmp_path / "rgb16.png", width=2, rows=[row], bits=16, color=2)
    assert read_image(path).tolist() == [[[0, 0x12, 255], [128, 0, 1]]]  # the high byte


def test_index_masks(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 255], [2, 2, 0]], np.uint8)
    picture = Image.fromarray(labels)
    picture.save(tmp_path / "grey.png")
    picture.putpalette(list(range(256)) * 3)
    picture.save(tmp_path / "palette.png")
    Image.fromarray(np.repeat(labels[:, :, None], 3, axis=2)).save(tmp_path / "equal.png")
    Image.fromarray(labels.astype(np.uint16)).save(tmp_path / "deep.png")
    for name in ("grey", "palette", "equal", "deep"):
        assert mask_of(tmp_path / f"{name}.png", classes=3) == labels.tolist(), name


def test_another_ignore_index_becomes_255(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1, 2, 9]], np.uint8)).save(tmp_path / "m.png")
    assert mask_of(tmp_path / "m.png", classes=3, ignore_index=9) == [[0, 1, 2, 255]]
    assert mask_of(tmp_path / "m.png", classes=10, ignore_index=0) == [[255, 1, 2, 9]]


@pytest.mark.parametrize(("bits", "row"), [(2, bytes([0b00_01_10_11])), (4, bytes([0x01, 0x23])), (8, bytes(range(4)))])
def test_shallow_grey_pngs_keep_their_labels(tmp_path: Path, bits: int, row: bytes) -> None:
    # Pillow stretches 2 and 4 bits to 0..255 (label 1 becomes 85 or 17); the file says 0 1 2 3.
    path = png(tmp_path / "m.png", width=4, rows=[row], bits=bits, color=0)
    assert mask_of(path, classes=4) == [[0, 1, 2, 3]]


def test_one_bit_masks(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "m.png")
    assert mask_of(tmp_path / "m.png", classes=2) == [[1, 0]]
    assert mask_of(tmp_path / "m.png", mask_format="binary") == [[1, 0]]


def test_binary_masks(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1, 128, 255]], np.uint8)).save(tmp_path / "grey.png")
    assert mask_of(tmp_path / "grey.png", mask_format="binary") == [[0, 1, 1, 1]]
    Image.fromarray(np.array([[[0, 0, 0], [0, 0, 9]]], np.uint8)).save(tmp_path / "rgb.png")
    assert mask_of(tmp_path / "rgb.png", mask_format="binary") == [[0, 1]]
    Image.fromarray(np.array([[0, 256, 65535]], np.uint16)).save(tmp_path / "deep.png")
    assert mask_of(tmp_path / "deep.png", mask_format="binary") == [[0, 1, 1]]


COLORS = [
    {"name": "soil", "colors": [[0, 0, 0], [254, 124, 18]]},
    {"name": "crop", "colors": [[255, 255, 255]]},
    {"name": "weed", "colors": [[216, 67, 82]]},
]
COLOR_CONFIG: dict[str, Any] = {"mask_format": "color", "classes": COLORS, "ignore_colors": ((224, 224, 192),)}


def test_color_masks(tmp_path: Path) -> None:
    pixels = [[0, 0, 0], [254, 124, 18], [255, 255, 255], [216, 67, 82], [224, 224, 192]]
    rgb = np.array([pixels], np.uint8)
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    Image.fromarray(np.dstack([rgb, np.full((1, 5), 255, np.uint8)])).save(tmp_path / "rgba.png")
    picture = Image.fromarray(np.array([[0, 1, 2, 3, 4]], np.uint8))
    picture.putpalette(rgb.ravel().tolist())
    picture.save(tmp_path / "palette.png")
    for name in ("rgb", "rgba", "palette"):
        assert mask_of(tmp_path / f"{name}.png", **COLOR_CONFIG) == [[0, 0, 1, 2, 255]], name


def test_unknown_colors_are_named_with_count_and_nearest_class(tmp_path: Path) -> None:
    rgb = np.zeros((4, 4, 3), np.uint8)
    rgb[0, :3] = (216, 67, 80)
    rgb[1, 0] = (250, 250, 250)
    Image.fromarray(rgb).save(tmp_path / "m.png")
    with pytest.raises(DataError) as caught:
        mask_of(tmp_path / "m.png", **COLOR_CONFIG)
    first, second = map(str, caught.value.problems)
    assert str(tmp_path / "m.png") in first
    assert "[216, 67, 80] in 3 pixels (nearest: weed [216, 67, 82])" in first
    assert "[250, 250, 250] in 1 pixels (nearest: crop [255, 255, 255])" in second


def test_many_unknown_colors_are_not_all_listed(tmp_path: Path) -> None:
    rgb = np.zeros((1, 20, 3), np.uint8)
    rgb[0, :, 2] = np.arange(1, 21)
    Image.fromarray(rgb).save(tmp_path / "m.png")
    with pytest.raises(DataError, match="and 12 more colors"):
        mask_of(tmp_path / "m.png", **COLOR_CONFIG)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 3]], np.uint8), "labels must be 0 to 2, or 255 for void, but got 3"),
        (np.array([[9, 3, 200]], np.uint8), "but got 3, 9, 200"),
        (np.array([[0, 300]], np.uint16), "but got 300"),
        (np.array([[[1, 2, 3]]], np.uint8), "must be a palette or grey picture, but got RGB (mask_format: color)"),
    ],
)
def test_wrong_labels_name_the_file_and_the_values(tmp_path: Path, array: np.ndarray, expected: str) -> None:
    Image.fromarray(array).save(tmp_path / "m.png")
    with pytest.raises(DataError) as caught:
        mask_of(tmp_path / "m.png", classes=3)
    assert str(tmp_path / "m.png") in str(caught.value)
    assert expected in str(caught.value)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(whole)
    contents = {
        "empty": b"",
        "text": b"no picture",
        "torn": whole.read_bytes()[:900],
        "header": whole.read_bytes()[:20],
    }
    for name, content in contents.items():
        path = tmp_path / f"{name}.png"
        path.write_bytes(content)
        for read in (lambda path=path: read_image(path), lambda path=path: mask_of(path, classes=2)):
            with pytest.raises(DataError) as caught:
                read()
            text = str(caught.value)
            assert text.startswith(f"{path}: the file cannot be read as a picture")
            assert "BytesIO" not in text
            assert "\n" not in text
    with pytest.raises(DataError, match=r"absent\.png"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_image(tmp_path / "a.png", b"no picture")
    assert "BytesIO" not in str(caught.value)


def test_floating_point_images_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.5]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="8 or 16 bits"):
        read_image(tmp_path / "a.tif")
