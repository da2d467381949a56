"""Pairing, parts and classes. Oracles: data sets of known names, written by the fixtures; PASCAL VOC's own names."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesearch.errors import DataError
from tunesearch.segmentation.config import ClassSpec, DataConfig
from tunesearch.segmentation.data.layouts import find_pairs, resolve_classes

Save = Callable[[Path, np.ndarray], None]


def ids(data: DataConfig) -> dict[str, list[str]]:
    return {part: [pair.id for pair in pairs] for part, pairs in find_pairs(data).items()}


def message(call: Callable[[], Any]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    return str(caught.value)


def test_voc_lists_are_taken_as_they_are(voc: Path, voc_config: DataConfig) -> None:
    assert ids(voc_config) == {"train": list("abcd"), "val": list("ef"), "test": []}
    pair = find_pairs(voc_config)["train"][0]
    assert pair.image == voc / "JPEGImages" / "a.png"
    assert pair.mask == voc / "SegmentationClass" / "a.png"


def test_voc_test_share_is_taken_from_val(voc: Path) -> None:
    # Half of val's two: one goes to test, one stays, and training keeps its four.
    found = ids(DataConfig(root=voc, classes=2, test=0.5))
    assert found["train"] == list("abcd")
    assert sorted(found["val"] + found["test"]) == ["e", "f"]
    assert len(found["test"]) == 1


def test_voc_val_share_is_taken_from_train(voc: Path) -> None:
    found = ids(DataConfig(root=voc, classes=2, val=0.25, test=0.25))
    assert [len(found[part]) for part in ("train", "val", "test")] == [2, 1, 1]
    assert sorted(name for names in found.values() for name in names) == list("abcd")


def test_voc_list_may_be_a_text_file(voc: Path) -> None:
    (voc / "mine.txt").write_text("\ufeffb\r\n\r\n a \n", encoding="utf-8")  # as some editors write it
    assert ids(DataConfig(root=voc, classes=2, train="mine.txt"))["train"] == ["b", "a"]
    assert ids(DataConfig(root=voc, classes=2, train=str(voc / "mine.txt")))["train"] == ["b", "a"]


def test_folders_shares_leave_the_rest_for_training(folders: Path) -> None:
    found = ids(DataConfig(layout="folders", root=folders, classes=2, val=0.2, test=0.3))
    assert [len(found[part]) for part in ("train", "val", "test")] == [5, 2, 3]
    assert sorted(name for names in found.values() for name in names) == list("0123456789")


def test_folders_default_is_a_fifth_for_validation(folders: Path) -> None:
    found = ids(DataConfig(layout="folders", root=folders, classes=2))
    assert [len(found[part]) for part in ("train", "val", "test")] == [8, 2, 0]


def test_shares_depend_on_the_seed_and_on_nothing_else(folders: Path, tmp_path: Path) -> None:
    config = DataConfig(layout="folders", root=folders, classes=2, test=0.2)
    moved = shutil.copytree(folders, tmp_path / "elsewhere")
    assert ids(config) == ids(config.model_copy(update={"root": moved}))
    assert len({str(ids(config.model_copy(update={"split_seed": seed}))) for seed in range(5)}) > 1


def test_shares_are_stable_across_versions(folders: Path) -> None:
    # Oracle: order by `printf '0:%s' ID | sha256sum`; the first three are the test part, the next two validation.
    order = sorted("0123456789", key=lambda name: hashlib.sha256(f"0:{name}".encode()).hexdigest())
    found = ids(DataConfig(layout="folders", root=folders, classes=2, val=0.2, test=0.3))
    assert found["test"] == sorted(order[:3])
    assert found["val"] == sorted(order[3:5])


def test_an_image_that_is_added_moves_few_others(folders: Path, save: Save) -> None:
    config = DataConfig(layout="folders", root=folders, classes=2, test=0.3)
    before = set(ids(config)["test"])
    save(folders / "images" / "new.png", np.zeros((4, 6, 3), np.uint8))
    save(folders / "masks" / "new.png", np.zeros((4, 6), np.uint8))
    assert len(before & set(ids(config)["test"])) >= 2  # three of eleven again: at most one gave way


def test_wildcards_pair_by_what_they_stand_for(tmp_path: Path, save: Save) -> None:
    for team in ("one", "two"):
        for name in ("x", "y"):
            save(tmp_path / "Training" / team / "Images" / f"{name}.png", np.zeros((2, 2, 3), np.uint8))
            save(tmp_path / "Training" / team / "Masks" / f"{name}.png", np.zeros((2, 2), np.uint8))
    save(tmp_path / "Test" / "one" / "Images" / "z.png", np.zeros((2, 2, 3), np.uint8))
    data = DataConfig(layout="folders", root=tmp_path, images="Training/*/Images", masks="Training/*/Masks", classes=2)
    pairs = [pair for part in find_pairs(data).values() for pair in part]
    assert sorted(pair.id for pair in pairs) == ["one/x", "one/y", "two/x", "two/y"]
    assert all(pair.mask == pair.image.parents[1] / "Masks" / pair.image.name for pair in pairs)


def test_mask_suffix_in_one_shared_folder(tmp_path: Path, save: Save) -> None:
    for name in "ab":
        save(tmp_path / "images" / f"{name}.png", np.zeros((2, 2, 3), np.uint8))
        save(tmp_path / "images" / f"{name}_mask.png", np.zeros((2, 2), np.uint8))
    data = DataConfig(layout="folders", root=tmp_path, masks="images", mask_suffix="_mask", val=0.5, classes=2)
    pairs = [pair for part in find_pairs(data).values() for pair in part]
    assert sorted((pair.id, pair.mask.name) for pair in pairs) == [("a", "a_mask.png"), ("b", "b_mask.png")]


@pytest.mark.parametrize(
    ("image", "mask", "hint"),
    [
        ("", "_label", "data.mask_suffix=_label may be missing"),
        ("_rgb", "_label", "partners have the same name"),
    ],
)
def test_names_that_never_match_are_one_problem(tmp_path: Path, save: Save, image: str, mask: str, hint: str) -> None:
    for name in ("1", "10", "100"):
        save(tmp_path / "images" / f"{name}{image}.png", np.zeros((2, 2, 3), np.uint8))
        save(tmp_path / "masks" / f"{name}{mask}.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(DataError) as caught:
        find_pairs(DataConfig(layout="folders", root=tmp_path, classes=2))
    [problem] = caught.value.problems
    assert re.search(rf"but got 10*{image} there and 10*{mask} here \({re.escape(hint)}\)$", str(problem))


def test_folders_lists_take_ids_or_stems(folders: Path) -> None:
    (folders / "tr.txt").write_text("0\n1\n")
    (folders / "va.txt").write_text("2\n")
    data = DataConfig(layout="folders", root=folders, classes=2, train="tr.txt", val="va.txt", test=0.5)
    found = ids(data)
    assert (found["train"], found["val"], len(found["test"])) == (["0", "1"], ["2"], 4)  # half of the unlisted seven


CUSTOM = """
from tunesearch.segmentation.data.layouts import Pair, find_pairs
def good(data):
    pairs = find_pairs(data.model_copy(update={"layout": "voc"}))
    return {"train": pairs["train"], "val": pairs["val"]}
def raises(data): return {}["nothing"]
def returns(data): return [1, 2]
def inner(data): return {"train": 3}
def part(data): return {"train": [], "valid": []}
def files(data): return {"train": [Pair("q", data.root / "q.png", data.root / "q_mask.png")]}
"""


@pytest.fixture
def my_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_layout.py").write_text(CUSTOM)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_layout", raising=False)


@pytest.mark.usefixtures("my_layout")
def test_custom_layout(voc: Path) -> None:
    assert ids(DataConfig(layout="my_layout:good", root=voc, classes=2))["train"] == list("abcd")


@pytest.mark.usefixtures("my_layout")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my_layout:nope", "cannot be imported: AttributeError"),
        ("no_such_module:f", "cannot be imported: ModuleNotFoundError"),
        ("my_layout:raises", "raised KeyError: 'nothing'"),
        ("my_layout:returns", "must return a dict"),
        ("my_layout:inner", "must return a dict"),
        ("my_layout:part", "did you mean 'val'?"),
        ("my_layout:files", "q_mask.png"),
    ],
)
def test_broken_custom_layouts(voc: Path, name: str, expected: str) -> None:
    assert expected in message(lambda: find_pairs(DataConfig(layout=name, root=voc, classes=2)))


def _remove(*names: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        for name in names:
            path = root / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return act


def _lists(**texts: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        for name, text in texts.items():
            (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(text)

    return act


def _rename(old: str, new: str) -> Callable[[Path], None]:
    return lambda root: (root / old).rename(root / new) and None


def _copy(old: str, new: str) -> Callable[[Path], None]:
    return lambda root: shutil.copy(root / old, root / new) and None


@pytest.mark.parametrize(
    ("spoil", "config", "expected"),
    [
        (_remove("JPEGImages"), {}, ["JPEGImages", "needs this folder"]),
        (_rename("SegmentationClass", "SegmentationClas"), {}, ["did you mean 'SegmentationClas'?"]),
        (_remove("JPEGImages", "SegmentationClass"), {}, ["JPEGImages", "SegmentationClass"]),
        (_remove("SegmentationClass/b.png", "JPEGImages/e.png"), {}, ["SegmentationClass/b", "JPEGImages/e"]),
        (_rename("JPEGImages/a.png", "JPEGImages/aa.png"), {}, ["no image", "did you mean 'aa'?"]),
        (_remove("ImageSets/Segmentation/val.txt"), {}, ["val.txt: no such list"]),
        (_lists(), {"train": "trian"}, ["trian", "did you mean 'train'?"]),
        (_lists(train="a\nb\na\n"), {}, ["train.txt:3", "'a' again"]),
        (_lists(val="a\ne\n"), {}, ["'a' must be in one part", "train and val"]),
        (_lists(val="\n"), {}, ["val", "at least one image"]),
        (_lists(val="e\n"), {"test": 0.5}, ["val", "at least one image"]),
        (_copy("JPEGImages/a.png", "JPEGImages/a.jpg"), {}, ["one image 'a'", "a.jpg and a.png"]),
        (_lists(), {"root": None}, ["data: root: must be given"]),
        (_lists(), {"root": Path("no/such/folder")}, ["no/such/folder", "must exist"]),
    ],
)
def test_broken_voc(voc: Path, spoil: Callable[[Path], None], config: dict[str, Any], expected: list[str]) -> None:
    spoil(voc)
    text = message(lambda: find_pairs(DataConfig(**{"root": voc, "classes": 2, **config})))
    assert [part for part in expected if part not in text] == [], text


def test_list_that_is_no_text(voc: Path) -> None:
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_bytes(b"\xff\xfe\x00a")
    assert "val.txt: the list cannot be read" in message(lambda: find_pairs(DataConfig(root=voc, classes=2)))


@pytest.mark.parametrize(
    ("spoil", "config", "expected"),
    [
        (_remove("masks/3.png"), {}, ["masks/3", "no mask", "it belongs to"]),
        (_remove("images/3.png"), {}, ["masks/3.png", "there is no image '3'"]),
        (_remove("masks"), {}, ["masks", "no such mask folder"]),
        (_remove(), {"images": "image"}, ["image", "did you mean 'images'?"]),
        (_remove(), {"images": "*/x", "masks": "masks"}, ["as many wildcards"]),
        (_remove(), {"images": "**/i*", "masks": "**/m*"}, ["'**' is not possible"]),
        (_remove(), {"images": "/a/*", "masks": "/b/*"}, ["relative to root"]),
        (_remove(), {"masks": "images"}, ["mask_suffix", "share a folder"]),
        (_remove(), {"train": "tr.txt"}, ["val", "where train is a list"]),
        (_remove(), {"val": "va.txt"}, ["va.txt", "no such list"]),
        (lambda root: (root / "va.txt").write_text("1\n77\n"), {"val": "va.txt"}, ["va.txt", "no image '77'"]),
        (_rename("masks/3.png", "masks/3.jpg"), {}, ["3.jpg", "lossless"]),
        (_remove(), {"mask_suffix": "_m"}, ["masks/0_m", "masks/9_m"]),
        (_remove(), {"val": 0.5, "test": 0.5}, ["train", "at least one image"]),
    ],
)
def test_broken_folders(
    folders: Path, spoil: Callable[[Path], Any], config: dict[str, Any], expected: list[str]
) -> None:
    spoil(folders)
    data = DataConfig(**{"layout": "folders", "root": folders, "classes": 2, **config})
    text = message(lambda: find_pairs(data))
    assert [part for part in expected if part not in text] == [], text


def test_every_problem_at_once(voc: Path) -> None:
    _remove("SegmentationClass/a.png", "SegmentationClass/c.png", "JPEGImages/f.png")(voc)
    with pytest.raises(DataError) as caught:
        find_pairs(DataConfig(root=voc, classes=2, test="tset"))
    assert len(caught.value.problems) == 4


def test_classes() -> None:
    names = [spec.name for spec in resolve_classes(DataConfig())]
    # The order of the PASCAL VOC development kit.
    assert (len(names), names[0], names[8], names[15], names[20]) == (21, "background", "cat", "person", "tvmonitor")
    assert resolve_classes(DataConfig(layout="sample"))[0].name == "background"
    assert resolve_classes(DataConfig(layout="folders", classes=2)) == (
        ClassSpec(name="class_0"),
        ClassSpec(name="class_1"),
    )
    assert [spec.name for spec in resolve_classes(DataConfig(layout="folders", classes=("a", "b")))] == ["a", "b"]
    binary = resolve_classes(DataConfig(layout="folders", mask_format="binary"))
    assert [spec.name for spec in binary] == ["background", "foreground"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"layout": "folders"}, "classes: must be given"),
        ({"layout": "voc", "mask_format": "color"}, "classes: must be given"),
        ({"classes": 1}, "2 to 255 classes"),
        ({"classes": 256}, "2 to 255 classes"),
        ({"classes": ("a", "b", "a")}, "'a' twice"),
        ({"classes": 3, "mask_format": "binary"}, "exactly 2 classes"),
        ({"classes": 3, "background": 3}, "background: must be the index of one of the 3"),
        ({"classes": ("a", "b"), "mask_format": "color"}, "class 'b' needs a color"),
        (
            {"classes": [{"name": n, "colors": [[1, 2, 3]]} for n in "ab"], "mask_format": "color"},
            "[1, 2, 3] is 'a' and 'b'",
        ),
    ],
)
def test_broken_classes(config: dict[str, Any], expected: str) -> None:
    assert expected in message(lambda: resolve_classes(DataConfig(**config)))


def test_layouts_import_nothing_heavy() -> None:
    # Oracle: the design. Validation on the command line must stay instant.
    code = (
        "import sys, tunesearch.segmentation.data.checks, tunesearch.segmentation.data.sample;"
        "print([m for m in ('torch', 'albumentations', 'cv2') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.data
def test_voc_subset_has_its_published_size(test_data: Path) -> None:
    # Oracle: the README of the subset: 457 train, 462 val.
    found = find_pairs(DataConfig(root=test_data / "data" / "voc2012_subset"))
    assert [len(found[part]) for part in ("train", "val", "test")] == [457, 462, 0]
