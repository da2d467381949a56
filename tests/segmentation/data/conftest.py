"""Tiny data sets, written file by file, for the tests of the data room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tunesearch.segmentation.config import DataConfig

WritePair = Callable[..., None]


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test touches the user's cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TUNESEARCH_CACHE", str(folder))
    return folder


@pytest.fixture
def save() -> Callable[[Path, np.ndarray], None]:
    """Write an array as a picture, with its folder."""
    return _save


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A data set in VOC layout: images a to f of 6x4 pixels, two classes, train a b c d, val e f."""
    root = tmp_path / "voc"
    for number, name in enumerate("abcdef"):
        _save(root / "JPEGImages" / f"{name}.png", np.full((4, 6, 3), 10 + number, np.uint8))
        mask = np.zeros((4, 6), np.uint8)
        mask[:, : 1 + number % 3] = 1
        mask[0, 5] = 255
        _save(root / "SegmentationClass" / f"{name}.png", mask)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\nc\nd\n")
    (lists / "val.txt").write_text("e\nf\n")
    return root


@pytest.fixture
def voc_config(voc: Path) -> DataConfig:
    return DataConfig(root=voc, classes=2)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Ten pairs in images/ and masks/, named 0 to 9."""
    root = tmp_path / "folders"
    for number in range(10):
        _save(root / "images" / f"{number}.png", np.full((4, 6, 3), 10 + number, np.uint8))
        _save(root / "masks" / f"{number}.png", np.full((4, 6), number % 2, np.uint8))
    return root
