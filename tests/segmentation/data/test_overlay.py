"""Pictures of masks. Oracles: PASCAL VOC's published colours; mixtures worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tunesearch.segmentation.config import ClassSpec, DataConfig
from tunesearch.segmentation.data.overlay import PanelRow, overlay, panel, sample_picture
from tunesearch.segmentation.data.palette import palette, voc_colors
from tunesearch.segmentation.data.splits import freeze_split


def test_voc_palette() -> None:
    colors = voc_colors()
    # The development kit's VOClabelcolormap: aeroplane, bicycle, bird, person, tvmonitor, void.
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    for index, color in {**known, 255: (224, 224, 192)}.items():
        assert tuple(colors[index].tolist()) == color
    assert len({tuple(color) for color in colors.tolist()}) == 256


def test_own_colors_come_first() -> None:
    colors = palette((ClassSpec(name="a", colors=((9, 8, 7), (1, 1, 1))), ClassSpec(name="b")))
    assert colors[:2].tolist() == [[9, 8, 7], [128, 0, 0]]
    assert (colors.shape, colors.dtype) == ((256, 3), np.uint8)


def test_overlay_by_hand() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    mask = np.array([[0, 1, 255]], np.uint8)
    # Class 1 is (128, 0, 0): half of each gives (114, 50, 50). Background and void stay.
    assert overlay(image, mask, voc_colors()).tolist() == [[[100] * 3, [114, 50, 50], [100] * 3]]
    tinted = overlay(image, mask, voc_colors(), background=None, opacity=1.0)
    assert tinted.tolist() == [[[0] * 3, [128, 0, 0], [100] * 3]]


def test_panel_has_a_column_for_predictions_only_if_there_are_any() -> None:
    image, mask = np.full((30, 40, 3), 50, np.uint8), np.ones((30, 40), np.uint8)
    without = panel([PanelRow("a", image, mask)] * 2, voc_colors(), cell_width=80)
    having = panel([PanelRow("a", image, mask), PanelRow("b", image, mask, mask)], voc_colors(), cell_width=80)
    # Gaps of 6 around cells of 80x60; a line of 16 above the sheet and above each row.
    assert without.size == (6 + 3 * 86, 22 + 2 * (60 + 16 + 6))
    assert having.size == (6 + 4 * 86, 22 + 2 * (60 + 16 + 6))
    assert without.getpixel((6 + 86 + 40, 22 + 16 + 30)) == (128, 0, 0)  # the middle of the first truth


def test_sample_picture(voc: Path, voc_config: DataConfig) -> None:
    picture = sample_picture(voc_config, freeze_split(voc_config), n=2)
    assert picture.mode == "RGB"
    # Two rows of 6x4 images at 200 pixels each, and one line for two classes.
    assert picture.size == (6 + 3 * 206, 22 + 2 * (133 + 22) + 22)
    assert sample_picture(DataConfig(root=voc, classes=2), freeze_split(voc_config), n=99).height > picture.height
