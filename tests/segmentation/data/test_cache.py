"""The decoded cache. Oracles: arrays resized by hand; a log written by every process that builds."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tunesearch.errors import DataError, DiskFull
from tunesearch.segmentation.config import DataConfig, Size
from tunesearch.segmentation.data.cache import build as build_module
from tunesearch.segmentation.data.cache import decoded, original_masks
from tunesearch.segmentation.data.cache import entry as entry_module
from tunesearch.segmentation.data.resize import resize_image, resize_mask
from tunesearch.segmentation.data.splits import freeze_split
from tunesearch.segmentation.files import cache_folder

SIZE = Size(width=24, height=16)  # four times the fixture's 6x4


def test_arrays(voc_config: DataConfig, cache: Path) -> None:
    part = decoded(voc_config, freeze_split(voc_config), "train", SIZE)
    assert (part.images.shape, part.images.dtype) == ((4, 16, 24, 3), np.uint8)
    assert (part.masks.shape, part.masks.dtype) == ((4, 16, 24), np.uint8)
    assert (part.ids, len(part)) == (tuple("abcd"), 4)
    assert part.images[:, 0, 0, 0].tolist() == [10, 11, 12, 13]
    # Mask of "b": two of six columns are class 1; row 0, column 5 is void. Every pixel is now 4x4.
    expected = np.zeros((4, 6), np.uint8)
    expected[:, :2] = 1
    expected[0, 5] = 255
    assert np.array_equal(part.masks[1], expected.repeat(4, axis=0).repeat(4, axis=1))
    assert part.folder is not None
    assert part.folder.parent == cache / "decoded"


def test_arrays_are_mapped_and_read_only(voc_config: DataConfig) -> None:
    part = decoded(voc_config, freeze_split(voc_config), "val", SIZE)
    assert isinstance(part.images.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        part.masks[0] = 0


def test_an_empty_part_is_empty_arrays(voc_config: DataConfig) -> None:
    assert decoded(voc_config, freeze_split(voc_config), "test", SIZE).images.shape == (0, 16, 24, 3)


def test_masks_stay_aligned_with_images() -> None:
    # An edge between columns 4 and 5 of 9, shrunk to 3: the centre of column 1 lies in column 4, so it is 0.
    # Labels under the upper left corner (INTER_NEAREST) would come from columns 0, 3, 6.
    edge = np.tile(np.array([0, 0, 0, 0, 0, 1, 1, 1, 1], np.uint8), (48, 1)).repeat(16, axis=1)  # 144 wide
    small = resize_mask(edge, Size(width=48, height=16))
    assert small[0].tolist() == edge[0, 1::3].tolist()  # centres of each three columns
    image = np.repeat(edge[:, :, None] * 200, 3, axis=2).astype(np.uint8)
    shrunk = resize_image(image, Size(width=48, height=16))
    assert shrunk[0, :, 0].tolist() == [int(np.round(image[0, i : i + 3, 0].mean())) for i in range(0, 144, 3)]


def test_enlarged_masks_have_no_new_labels() -> None:
    mask = np.array([[0, 7], [255, 3]], np.uint8)
    assert np.array_equal(resize_mask(mask, Size(width=16, height=16)), mask.repeat(8, axis=0).repeat(8, axis=1))


def test_second_call_builds_nothing(voc_config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    split = freeze_split(voc_config)
    first = decoded(voc_config, split, "train", SIZE)
    monkeypatch.setattr(build_module, "_build", None)
    assert np.array_equal(decoded(voc_config, split, "train", SIZE).images, first.images)


def test_key_is_of_content_and_decoding_only(tmp_path: Path, voc: Path, voc_config: DataConfig) -> None:
    split = freeze_split(voc_config)
    entry = decoded(voc_config, split, "train", SIZE).folder
    moved = shutil.copytree(voc, tmp_path / "moved")
    there = voc_config.model_copy(update={"root": moved, "split_seed": 9, "background": None})
    assert decoded(there, freeze_split(there), "train", SIZE).folder == entry
    changes = [
        decoded(voc_config, split, "val", SIZE).folder,
        decoded(voc_config, split, "train", Size(width=16, height=24)).folder,
        decoded(voc_config.model_copy(update={"classes": 3}), split, "train", SIZE).folder,
        decoded(voc_config.model_copy(update={"mask_format": "binary"}), split, "train", SIZE).folder,
    ]
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_text("b\na\nc\nd\n")
    changes.append(decoded(voc_config, freeze_split(voc_config), "train", SIZE).folder)
    assert len({entry, *changes}) == 6


def flip(file: Path, *, at: int) -> None:
    """One bit of the byte ``at``."""
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage", ["torn images", "no masks", "flipped mask", "torn meta", "flipped meta", "strange meta", "other shape"]
)
def test_damaged_entries_are_built_again(voc_config: DataConfig, damage: str) -> None:
    split = freeze_split(voc_config)
    whole = decoded(voc_config, split, "train", SIZE)
    images, masks, folder = np.array(whole.images), np.array(whole.masks), whole.folder
    assert folder is not None
    del whole
    if damage == "torn images":
        with (folder / "images.npy").open("r+b") as stream:
            stream.truncate(1000)
    elif damage == "no masks":
        (folder / "masks.npy").unlink()
    elif damage == "flipped mask":
        flip(folder / "masks.npy", at=-1)
    elif damage == "torn meta":
        (folder / "meta.json").write_text((folder / "meta.json").read_text()[:20])
    elif damage == "flipped meta":
        flip(folder / "meta.json", at=(folder / "meta.json").read_bytes().index(b'"b"') + 1)  # an id: "b" becomes "c"
    elif damage == "strange meta":
        (folder / "meta.json").write_text('{"bytes": [1], "shape": []}')
    else:
        np.save(folder / "masks.npy", masks.reshape(4, 24, 16))
    again = decoded(voc_config, split, "train", SIZE)
    assert np.array_equal(again.images, images)
    assert np.array_equal(again.masks, masks)
    assert again.ids == tuple("abcd")


def test_damaged_original_masks_are_built_again(voc_config: DataConfig) -> None:
    split = freeze_split(voc_config)
    whole = original_masks(voc_config, split, "val")
    before = [np.array(whole[index]) for index in range(2)]
    (labels,) = (cache_folder() / "decoded").glob("*/labels")
    flip(labels, at=5)
    again = original_masks(voc_config, split, "val")
    assert all(np.array_equal(again[index], mask) for index, mask in enumerate(before))


def test_checksums_are_computed_once_per_process(voc_config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the processes that a part is sent to, either: whoever sends it has looked."""
    split = freeze_split(voc_config)
    decoded(voc_config, split, "train", SIZE)
    computed: list[str] = []
    crc32 = entry_module._crc32
    monkeypatch.setattr(entry_module, "_crc32", lambda path: computed.append(path.name) or crc32(path))
    for _ in range(3):
        part = decoded(voc_config, split, "train", SIZE)
    assert computed == ["images.npy", "masks.npy"]
    monkeypatch.setattr(entry_module, "_verified", set())
    pickle.loads(pickle.dumps(part))
    pickle.loads(pickle.dumps(part.subset([1])))
    assert len(computed) == 2


def test_entries_of_another_format_stay_unused(voc_config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    split = freeze_split(voc_config)
    with monkeypatch.context() as earlier:
        earlier.setattr(build_module, "FORMAT", build_module.FORMAT - 1)
        before = decoded(voc_config, split, "train", SIZE).folder
    now = decoded(voc_config, split, "train", SIZE).folder
    assert before is not None
    assert now is not None
    assert now != before
    assert now.parent == before.parent
    assert before.is_dir()  # nothing is cleaned up


def test_leftovers_of_a_killed_builder_do_no_harm(voc_config: DataConfig) -> None:
    split = freeze_split(voc_config)
    folder = decoded(voc_config, split, "train", SIZE).folder
    assert folder is not None
    folder.rename(folder.with_name(f"{folder.name}.building"))
    assert decoded(voc_config, split, "train", SIZE).folder == folder
    assert not folder.with_name(f"{folder.name}.building").exists()


BUILDER = """
import sys, time
from pathlib import Path
from typing import Any
from tunesearch.segmentation.config import DataConfig, Size
from tunesearch.segmentation.data.cache import build as cache
from tunesearch.segmentation.data.splits import freeze_split

root, log = Path(sys.argv[1]), Path(sys.argv[2])
build = cache._build

def slow_build(*arguments):
    with log.open("a") as stream:
        stream.write("built\\n")
    time.sleep(1)
    build(*arguments)

cache._build = slow_build
config = DataConfig(root=root, classes=2)
part = cache.decoded(config, freeze_split(config), "train", Size(width=24, height=16))
print(int(part.images.sum()), int(part.masks.sum()))
"""


def test_two_processes_build_once(voc: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", BUILDER, str(voc), str(log)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert log.read_text() == "built\n"
    assert outputs[0] == outputs[1] != ""


def test_pickled_it_is_a_path_not_a_copy(voc_config: DataConfig) -> None:
    part = decoded(voc_config, freeze_split(voc_config), "train", Size(width=512, height=512))
    content = pickle.dumps(part)
    assert len(content) < 1000
    assert np.array_equal(pickle.loads(content).images, part.images)


def test_files_changed_since_the_split_are_refused(voc: Path, voc_config: DataConfig, cache: Path) -> None:
    split = freeze_split(voc_config)
    Image.new("RGB", (6, 4)).save(voc / "JPEGImages" / "a.png")
    (voc / "SegmentationClass" / "c.png").unlink()
    with pytest.raises(DataError) as caught:
        decoded(voc_config, split, "train", SIZE)
    assert [str(problem) for problem in caught.value.problems] == [
        f"{voc / 'JPEGImages' / 'a.png'}: the file has changed since the split was frozen",
        f"{voc / 'SegmentationClass' / 'c.png'}: the file cannot be read: No such file or directory",
    ]
    assert [path.suffix for path in (cache / "decoded").iterdir()] == [".lock"]  # nothing half-written stays


def test_too_little_disk(voc_config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 2**20))
    with pytest.raises(DiskFull, match=r"4 images at 24x16 needs 64 MiB of free disk, but got 1 MiB.*TUNESEARCH_CACHE"):
        decoded(voc_config, freeze_split(voc_config), "train", SIZE)


def test_a_folder_that_cannot_be_written(voc_config: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"the cache cannot be written: .*TUNESEARCH_CACHE"):
        decoded(voc_config, freeze_split(voc_config), "train", SIZE, folder=tmp_path / "file")


# ----------------------------------------------------------------------------------------------- rows, original masks


def test_rows_share_the_whole_parts_arrays(voc_config: DataConfig) -> None:
    """Oracle: NumPy's own indexing of the whole arrays."""
    whole = decoded(voc_config, freeze_split(voc_config), "train+val", SIZE)
    part = whole.subset([4, 0, 5])
    assert part.ids == ("e", "a", "f")
    assert len(part) == len(part.images) == 3
    assert part.images.shape == (3, 16, 24, 3)
    assert np.array_equal(part.images[1], whole.images[0])
    assert np.array_equal(part.images[[0, 2]], np.asarray(whole.images)[[4, 5]])
    assert np.array_equal(np.stack(list(part.masks)), np.asarray(whole.masks)[[4, 0, 5]])
    assert np.shares_memory(part.images[0], whole.images)
    other = pickle.loads(pickle.dumps(part))  # as it goes to a worker: the entry's name and the rows
    assert other.ids == part.ids
    assert np.array_equal(np.stack(list(other.images)), np.stack(list(part.images)))
    assert len(pickle.dumps(part)) < 1000


def test_original_masks_are_as_in_the_files(folders: Path, save: Any) -> None:
    """Masks of several sizes, 255 and all; oracle: the files' arrays. Built once, then found."""
    shapes = [(7, 5), (1, 9), (12, 3)]
    truth = []
    for number, shape in enumerate(shapes):
        mask = (np.arange(shape[0] * shape[1]) % 3).astype(np.uint8).reshape(shape)
        mask[0, 0] = 255
        truth.append(mask)
        save(folders / "images" / f"{number}.png", np.zeros((*shape, 3), np.uint8))
        save(folders / "masks" / f"{number}.png", mask)
    data = DataConfig(layout="folders", root=folders, classes=3, val=0.3)
    split = freeze_split(data)
    masks = original_masks(data, split, "train+val")
    assert len(masks) == 10
    by_id = {item.id: index for index, item in enumerate(split.items("train+val"))}
    for number in range(3):
        assert np.array_equal(masks[by_id[str(number)]], truth[number])
    taken = masks.subset([by_id["2"], by_id["0"]])
    assert len(taken) == 2
    assert np.array_equal(taken[1], truth[0])
    again = original_masks(data, split, "train+val")
    assert again.labels.base is not None
    assert np.array_equal(again[by_id["1"]], truth[1])
