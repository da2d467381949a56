"""The frozen split. Oracles: hashlib on the files; copies of the data set with one thing changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tunesearch.errors import DataError
from tunesearch.segmentation.config import DataConfig, Folds
from tunesearch.segmentation.data.splits import POOL, Split, folds, freeze_split


def test_items_hold_relative_paths_and_hashes(voc: Path, voc_config: DataConfig) -> None:
    split = freeze_split(voc_config)
    item = split.train[0]
    assert (split.root, item.id, item.image, item.mask) == (voc, "a", "JPEGImages/a.png", "SegmentationClass/a.png")
    assert item.image_sha256 == hashlib.sha256((voc / "JPEGImages" / "a.png").read_bytes()).hexdigest()
    assert item.mask_sha256 == hashlib.sha256((voc / "SegmentationClass" / "a.png").read_bytes()).hexdigest()
    assert [len(split.items(part)) for part in ("train", "val", "test")] == [4, 2, 0]
    assert split.pairs("val")[0].image == voc / "JPEGImages" / "e.png"


def test_saved_and_loaded_it_is_equal(tmp_path: Path, voc_config: DataConfig) -> None:
    split = freeze_split(voc_config)
    path = tmp_path / "new" / "split.json"
    split.save(path)
    assert Split.load(path) == split
    assert Split.load(path).digest == split.digest
    assert [item.name for item in path.parent.iterdir()] == ["split.json"]  # nothing temporary stays
    assert json.loads(path.read_text())["train"][0]["id"] == "a"


def test_digest_is_of_content_and_parts_and_of_no_path(tmp_path: Path, voc: Path, voc_config: DataConfig) -> None:
    split = freeze_split(voc_config)
    moved = shutil.copytree(voc, tmp_path / "moved")
    there = freeze_split(voc_config.model_copy(update={"root": moved}))
    assert there.digest == split.digest == split.moved_to(moved).digest
    assert there == split.moved_to(moved)
    (moved / "ImageSets" / "Segmentation" / "val.txt").write_text("e\n")
    assert freeze_split(there_config := voc_config.model_copy(update={"root": moved})).digest != split.digest
    assert freeze_split(there_config).part_digest("train") == split.part_digest("train")
    shutil.copy(moved / "SegmentationClass" / "b.png", moved / "SegmentationClass" / "a.png")
    assert freeze_split(there_config).part_digest("train") != split.part_digest("train")


def test_order_is_part_of_the_digest(voc_config: DataConfig) -> None:
    split = freeze_split(voc_config)
    assert split.model_copy(update={"train": split.train[::-1]}).digest != split.digest


def test_verify_names_what_changed_and_what_is_gone(voc: Path, voc_config: DataConfig) -> None:
    split = freeze_split(voc_config)
    split.verify()
    (voc / "JPEGImages" / "a.png").unlink()
    with (voc / "SegmentationClass" / "f.png").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(DataError) as caught:
        split.verify()
    gone, changed = map(str, caught.value.problems)
    assert gone.startswith(str(voc / "JPEGImages" / "a.png"))
    assert "No such file" in gone
    assert changed == f"{voc / 'SegmentationClass' / 'f.png'}: the file has changed since the split was frozen"


def test_custom_files_outside_the_root_find_a_common_one(folders: Path) -> None:
    data = DataConfig(layout="folders", root=folders.parent / "cache", images=str(folders / "images"), classes=2)
    data.root.mkdir()
    data = data.model_copy(update={"masks": str(folders / "masks")})
    split = freeze_split(data)
    assert split.root == folders
    assert split.train[0].image.startswith("images/")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version": 2}', b'{"root": "x", "train": [{"id": 1}], "val": []}']
)
def test_files_that_are_no_split(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "split.json").write_bytes(content)
    with pytest.raises(DataError, match=r"split\.json.*is no split"):
        Split.load(tmp_path / "split.json")


def test_missing_split_and_unknown_part(tmp_path: Path, voc_config: DataConfig) -> None:
    with pytest.raises(DataError, match=r"nothing\.json: the split cannot be read: No such file"):
        Split.load(tmp_path / "nothing.json")
    with pytest.raises(DataError, match="a part is one of train, val, test, but got 'root'"):
        freeze_split(voc_config).items("root")


# ---------------------------------------------------------------------------------------------------------------- folds


def test_k_fold_validates_every_image_once(voc_config: DataConfig) -> None:
    """Six images of train and val in four folds: two of one image and two of two, all of them once, in some order."""
    data = voc_config.model_copy(update={"folds": Folds(k_fold=4)})
    found = folds(data, freeze_split(data))
    assert sorted(row for _, val in found for row in val) == [0, 1, 2, 3, 4, 5]
    assert sorted(len(val) for _, val in found) == [1, 1, 2, 2]
    for train, val in found:
        assert sorted(train + val) == [0, 1, 2, 3, 4, 5]


def test_monte_carlo_draws_anew_each_time(voc_config: DataConfig) -> None:
    """A third of six images is two; 15 pairs are possible, so five draws are hardly ever all the same."""
    data = voc_config.model_copy(update={"folds": Folds(monte_carlo=5, val=1 / 3)})
    found = folds(data, freeze_split(data))
    assert [len(val) for _, val in found] == [2] * 5
    assert all(sorted(train + val) == [0, 1, 2, 3, 4, 5] for train, val in found)
    assert len({tuple(val) for _, val in found}) > 1


def test_folds_depend_on_the_seed_and_the_ids_alone(tmp_path: Path, voc: Path, voc_config: DataConfig) -> None:
    data = voc_config.model_copy(update={"folds": Folds(k_fold=3)})
    moved = data.model_copy(update={"root": shutil.copytree(voc, tmp_path / "moved")})
    assert folds(data, freeze_split(data)) == folds(moved, freeze_split(moved))
    seeds = [data.model_copy(update={"split_seed": seed}) for seed in range(5)]
    assert len({str(folds(other, freeze_split(other))) for other in seeds}) > 1
    assert folds(voc_config, freeze_split(voc_config)) == []


@pytest.mark.parametrize("wanted", [Folds(k_fold=7), Folds(monte_carlo=2, val=0.99)])
def test_too_few_images_for_folds(voc_config: DataConfig, wanted: Folds) -> None:
    data = voc_config.model_copy(update={"folds": wanted})
    with pytest.raises(DataError, match="train and val have 6 together"):
        folds(data, freeze_split(data))


def test_the_pool_is_both_parts(voc_config: DataConfig) -> None:
    split = freeze_split(voc_config)
    assert [item.id for item in split.items(POOL)] == ["a", "b", "c", "d", "e", "f"]
