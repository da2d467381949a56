"""The built-in sample. Oracles: its own description; two writings compared byte by byte."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tunesearch.errors import DataError
from tunesearch.segmentation.config import DataConfig
from tunesearch.segmentation.data.checks import check_data
from tunesearch.segmentation.data.layouts import find_pairs
from tunesearch.segmentation.data.sample import sample_folder, write_sample


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_passes_every_check_without_a_warning(cache: Path) -> None:
    start = time.perf_counter()
    report = check_data(DataConfig(layout="sample"))
    assert time.perf_counter() - start < 20  # about half a second, writing included, on an idle machine
    assert (report.problems, report.warnings) == ((), ())
    assert [report.parts[part].images for part in ("train", "val", "test")] == [48, 24, 0]
    assert sample_folder() == cache / "sample-v1"
    for part in ("train", "val"):
        counts = report.parts[part]
        assert min(counts.images_with) >= counts.images // 4  # no class is rare
        assert 0.5 < counts.pixels[0] / sum(counts.pixels) < 0.9
        assert counts.void > 0
    assert report.parts["train"].smallest >= (96, 72)
    assert report.parts["train"].largest <= (128, 96)


def test_it_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = write_sample(tmp_path / "a"), write_sample(tmp_path / "b")
    assert files(first) == files(second)
    assert len(files(first)) == 72 * 2 + 2 + 1


def test_masks_are_palette_pictures_with_sizes_of_their_images(tmp_path: Path) -> None:
    pairs = find_pairs(DataConfig(layout="sample", root=tmp_path / "sample"))
    assert pairs["train"][0].id == "sample_0001"
    sizes = set()
    for pair in [*pairs["train"], *pairs["val"]]:
        with Image.open(pair.mask) as mask, Image.open(pair.image) as image:
            assert (mask.mode, mask.size, image.mode) == ("P", image.size, "RGB")
            assert set(np.unique(np.asarray(mask))) <= {0, 1, 2, 3, 4, 255}
            sizes.add(mask.size)
    assert len(sizes) > 20


def test_it_is_written_once_and_over_nothing_else(tmp_path: Path) -> None:
    folder = write_sample(tmp_path / "sample")
    (folder / "JPEGImages" / "mine").write_text("")
    write_sample(folder)
    assert (folder / "JPEGImages" / "mine").exists()
    (folder / "SAMPLE").unlink()
    with pytest.raises(DataError, match="into a new or empty folder"):
        write_sample(folder)
    assert (folder / "JPEGImages" / "mine").exists()


def test_a_killed_writer_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    (tmp_path / ".sample.building" / "JPEGImages").mkdir(parents=True)
    assert len(files(write_sample(tmp_path / "sample"))) == 147


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="the sample cannot be written"):
        write_sample(tmp_path / "file" / "sample")
