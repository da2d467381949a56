"""check_data. Oracles: data sets spoilt in known ways; published counts of the two real ones."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tunesearch.errors import DataError
from tunesearch.segmentation.config import DataConfig
from tunesearch.segmentation.data.checks import check_data
from tunesearch.segmentation.data.splits import freeze_split

Save = Callable[[Path, np.ndarray], None]


def test_counts_of_a_good_data_set(voc_config: DataConfig) -> None:
    # By hand: 4 images of 24 pixels, one of each void; class 1 takes 1, 2, 3, 1 columns of 4 pixels.
    report = check_data(voc_config)
    report.raise_if_broken()
    train = report.parts["train"]
    assert (train.images, train.pixels, train.void) == (4, (4 * 23 - 28, 28), 4)
    assert (train.images_with, train.smallest, train.largest) == ((4, 4), (6, 4), (6, 4))
    assert report.parts["test"].images == 0
    assert report.warnings == ()


def test_class_weights_of_the_training_part(voc_config: DataConfig) -> None:
    """By hand: a, b, c, d have 23 labelled pixels each, 4, 8, 12, 4 of class 1; in all 64 and 28 of 92. Both classes
    are in every image, so the median of 64/92 and 28/92 is 1/2. Per image w = (c0 / norm, c0 / c1)."""
    ones = np.array([4, 8, 12, 4])
    zeros = 23 - ones
    assert check_data(voc_config).class_weights == {
        "inverse_frequency": pytest.approx((92 / 128, 92 / 56)),
        "median_frequency": pytest.approx((46 / 64, 46 / 28)),
        "area": pytest.approx((92 / 64, 92 / 28)),
        "image_mean": pytest.approx(((zeros / np.hypot(zeros, ones)).mean(), (zeros / ones).mean())),
    }


def test_everything_wrong_is_said_at_once(voc: Path, voc_config: DataConfig, save: Save) -> None:
    images, masks = voc / "JPEGImages", voc / "SegmentationClass"
    (masks / "a.png").unlink()
    (images / "b.png").write_bytes(b"no picture")
    save(masks / "c.png", np.zeros((5, 6), np.uint8))
    save(masks / "d.png", np.full((4, 6), 7, np.uint8))
    shutil.copy(images / "d.png", images / "e.png")
    report = check_data(voc_config)
    texts = [str(problem) for problem in report.problems]
    expected = [
        f"{masks / 'a'}: there is no mask of this name",
        f"{images / 'b.png'}: the file cannot be read as a picture",
        f"{masks / 'c.png'}: the mask must be as large as its image c.png, 6x4, but got 6x5",
        f"{masks / 'd.png'}: labels must be 0 to 1, or 255 for void, but got 7",
        f"{images / 'e.png'}: the same image must not be in two parts: it is in val, and in train as",
    ]
    assert len(texts) == len(expected)
    for text, start in zip(texts, expected, strict=True):
        assert text.startswith(start), text
    with pytest.raises(DataError) as caught:
        report.raise_if_broken()
    assert caught.value.problems == report.problems


def test_leaks_are_found_by_pixels_not_by_bytes(voc: Path, voc_config: DataConfig) -> None:
    Image.open(voc / "JPEGImages" / "a.png").save(voc / "JPEGImages" / "f.png", compress_level=0)
    assert "the same image must not be in two parts" in str(check_data(voc_config).problems[0])


def test_swapped_sides_hint_at_exif(voc: Path, voc_config: DataConfig, save: Save) -> None:
    save(voc / "SegmentationClass" / "a.png", np.zeros((6, 4), np.uint8))
    (problem,) = check_data(voc_config).problems
    assert "EXIF" in str(problem)


def test_warnings_do_not_stop_a_run(voc: Path, voc_config: DataConfig, save: Save) -> None:
    masks = voc / "SegmentationClass"
    save(masks / "a.png", np.full((4, 6), 255, np.uint8))
    save(masks / "e.png", np.zeros((4, 6), np.uint8))
    save(masks / "f.png", np.zeros((4, 6), np.uint8))
    shutil.copy(voc / "JPEGImages" / "a.png", voc / "JPEGImages" / "b.png")
    report = check_data(voc_config)
    report.raise_if_broken()
    assert sorted(report.warnings) == sorted(
        [
            f"{masks / 'a.png'}: the mask is void everywhere",
            f"{masks / 'e.png'}: the mask has nothing but background",
            f"{masks / 'f.png'}: the mask has nothing but background",
            f"{voc / 'JPEGImages' / 'b.png'}: the same image is in train already, as {voc / 'JPEGImages' / 'a.png'}",
            "val: no pixel of class_1",
        ]
    )


def test_a_frozen_split_is_compared_with_the_files(voc: Path, voc_config: DataConfig, save: Save) -> None:
    split = freeze_split(voc_config)
    assert check_data(voc_config, split=split) == check_data(voc_config)
    save(voc / "JPEGImages" / "a.png", np.full((4, 6, 3), 99, np.uint8))
    (voc / "JPEGImages" / "e.png").unlink()
    texts = [str(problem) for problem in check_data(voc_config, split=split).problems]
    assert texts == [
        f"{voc / 'JPEGImages' / 'a.png'}: the file has changed since the split was frozen",
        f"{voc / 'JPEGImages' / 'e.png'}: the file cannot be read: No such file or directory",
    ]


@pytest.mark.parametrize("part", ["train", "val"])
def test_empty_parts(voc: Path, voc_config: DataConfig, part: str) -> None:
    (voc / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("")
    assert f"{part}: the {part} part must have at least one image" in str(check_data(voc_config).problems[0])


def test_broken_classes_and_layout_are_said_together(tmp_path: Path) -> None:
    report = check_data(DataConfig(layout="folders", root=tmp_path / "no"))
    assert [problem.path or problem.where for problem in report.problems] == ["classes", str(tmp_path / "no")]
    assert report.class_weights == {}


def test_nothing_labelled_has_no_class_weights(voc: Path, voc_config: DataConfig, save: Save) -> None:
    for name in "abcd":
        save(voc / "SegmentationClass" / f"{name}.png", np.full((4, 6), 255, np.uint8))
    report = check_data(voc_config)
    assert report.class_weights == {}
    assert "train: no pixel of class_0, class_1" in report.warnings


VOC_IMAGES = {  # README of the VOC subset: class -> images in train, in val
    0: (453, 458), 1: (6, 1), 2: (2, 3), 3: (5, 1), 4: (3, 2), 5: (9, 5), 6: (1, 3), 7: (11, 8), 8: (131, 119),
    9: (19, 18), 10: (62, 71), 11: (6, 4), 12: (121, 128), 13: (68, 79), 14: (2, 3), 15: (86, 94), 16: (12, 7),
    17: (63, 57), 18: (18, 20), 19: (1, 4), 20: (9, 6),
}  # fmt: skip
VOC_PERCENT = [
    66.27,
    0.08,
    0.04,
    0.07,
    0.04,
    0.05,
    0.13,
    0.21,
    7.53,
    0.75,
    2.96,
    0.20,
    5.69,
    3.04,
    0.11,
    2.34,
    0.14,
    2.51,
]


@pytest.mark.data
def test_voc_subset_has_its_published_counts_and_is_quick(test_data: Path) -> None:
    start = time.perf_counter()
    report = check_data(DataConfig(root=test_data / "data" / "voc2012_subset"))
    assert time.perf_counter() - start < 30  # about 1 s on two idle cores
    report.raise_if_broken()
    train, val = report.parts["train"], report.parts["val"]
    assert (train.images, val.images) == (457, 462)
    assert dict(enumerate(zip(train.images_with, val.images_with, strict=True))) == VOC_IMAGES
    total = sum(train.pixels) + sum(val.pixels) + train.void + val.void
    shares = [100 * (a + b) / total for a, b in zip(train.pixels, val.pixels, strict=True)]
    assert shares[: len(VOC_PERCENT)] == pytest.approx(VOC_PERCENT, abs=0.006)
    assert 100 * (train.void + val.void) / total == pytest.approx(5.97, abs=0.006)
    assert max(train.largest) == 320


@pytest.mark.data
def test_acre_has_its_published_pixel_shares(test_data: Path) -> None:
    # README: 86.57 + 0.03 % background, 8.51 % crop, 4.90 % weed at 2048x1536; these are resized by NEAREST.
    classes = [
        {"name": "background", "colors": [[0, 0, 0], [254, 124, 18]]},
        {"name": "crop", "colors": [[255, 255, 255]]},
        {"name": "weed", "colors": [[216, 67, 82]]},
    ]
    config = {
        "layout": "folders",
        "root": test_data / "data" / "acre_bipbip_mais",
        "images": "Training/*/*/Images",
        "masks": "Training/*/*/Masks",
        "mask_format": "color",
    }
    report = check_data(DataConfig.model_validate({**config, "classes": classes}))
    report.raise_if_broken()
    assert [report.parts[part].images for part in ("train", "val", "test")] == [72, 18, 0]
    pixels = np.sum([report.parts[part].pixels for part in ("train", "val")], axis=0)
    assert (100 * pixels / pixels.sum()).tolist() == pytest.approx([86.60, 8.51, 4.90], abs=0.02)
    assert pixels.sum() == 90 * 640 * 480

    # Without the second background color: exactly the 26 masks that the README counts.
    classes[0]["colors"] = [[0, 0, 0]]
    broken = check_data(DataConfig.model_validate({**config, "classes": classes}))
    assert len({problem.where for problem in broken.problems}) == 26
    assert all("[254, 124, 18]" in problem.value for problem in broken.problems)
