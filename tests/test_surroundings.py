"""Full disks and damaged files. Oracles: a real disk that is full, files damaged on purpose, the bytes from before."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import tunesearch
from tunesearch.cli import main
from tunesearch.engine.asking import Asker
from tunesearch.errors import DataError, DiskFull, InputError, WeightsError
from tunesearch.experiment import load_experiment
from tunesearch.ledger.store import Ledger
from tunesearch.segmentation.checkpoint import load_checkpoint, save_checkpoint
from tunesearch.segmentation.config import DataConfig, Size, TrainConfig
from tunesearch.segmentation.data.cache import DecodedPart, decoded, original_masks
from tunesearch.segmentation.data.cache import entry as cache_module
from tunesearch.segmentation.data.splits import Split, freeze_split
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.files import write_atomic, write_text
from tunesearch.segmentation.models import build_model
from tunesearch.segmentation.trainer import Trainer

# ----------------------------------------------------------------------------------------------------------- full disks

Disk = Callable[[str], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Makes a real disk of 2 MiB, a tmpfs, with further mount options."""
    mounted: list[Path] = []

    def mount(options: str = "") -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size=2m{options}", "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("a small disk cannot be mounted here: there is no mount command")
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, *, spare: int = 0) -> Path:
    """A file that takes all room of a disk but ``spare`` bytes."""
    filler = folder / "filler"
    room = os.statvfs(folder)
    with filler.open("wb") as file:
        file.write(bytes(room.f_bavail * room.f_frsize - spare))
    return filler


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def noise(kilobytes: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, kilobytes * 1024, np.uint8)


def as_checkpoint(path: Path, kilobytes: int) -> None:
    save_checkpoint(path, {"model": {"w": torch.from_numpy(noise(kilobytes))}})


def as_weights(path: Path, kilobytes: int) -> None:
    write_atomic(path, lambda temporary: save_file({"w": torch.from_numpy(noise(kilobytes))}, temporary))


def as_text(path: Path, kilobytes: int) -> None:
    write_text(path, "x" * kilobytes * 1024)


def as_picture(path: Path, kilobytes: int) -> None:
    picture = Image.fromarray(noise(kilobytes).reshape(32, -1))
    write_atomic(path, lambda temporary: picture.save(temporary, format="PNG"))


def as_array(path: Path, kilobytes: int) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, noise(kilobytes))

    write_atomic(path, write)


def by_torch_given_a_path(path: Path, kilobytes: int) -> None:
    """Says nothing of the reason: "iostream error"."""
    write_atomic(path, lambda temporary: torch.save({"w": torch.from_numpy(noise(kilobytes))}, temporary))


@pytest.mark.parametrize("spare", [0, 100 * 1024])
@pytest.mark.parametrize(
    "write", [as_checkpoint, as_weights, as_text, as_picture, as_array, by_torch_given_a_path], ids=lambda w: w.__name__
)
def test_a_full_disk_has_one_name_whoever_wrote(disk: Disk, write: Callable[[Path, int], None], spare: int) -> None:
    """The old file stays whole, nothing is left beside it, and with room made it goes on."""
    folder = disk("")
    path = folder / "file"
    write(path, 8)
    before = path.read_bytes()
    filler = fill(folder, spare=spare)
    with pytest.raises(DiskFull) as caught:
        write(path, 600)
    assert str(caught.value).startswith(f"{folder}: the disk is full")
    assert " file could not be written" in str(caught.value)
    assert path.read_bytes() == before
    assert names(folder) == ["file", "filler"]
    filler.unlink()
    write(path, 600)
    assert len(path.read_bytes()) >= 600 * 1024
    assert names(folder) == ["file"]


def test_a_disk_without_room_for_a_name(disk: Disk) -> None:
    """No inode is left, so that there is not even a temporary file."""
    folder = disk(",nr_inodes=8")
    write_text(folder / "file", "old")
    with contextlib.suppress(OSError):
        for number in range(8):
            (folder / str(number)).touch()
    for path in (folder / "file", folder / "deeper" / "file"):
        with pytest.raises(DiskFull):
            write_text(path, "new")
    assert (folder / "file").read_text() == "old"


def test_other_faults_keep_their_names_on_a_full_disk(disk: Disk) -> None:
    folder = disk("")
    with pytest.raises(TypeError):  # on one with room
        write_atomic(folder / "file", lambda temporary: temporary.write_text(3))  # type: ignore[arg-type]
    fill(folder, spare=8192)
    with pytest.raises(FileNotFoundError):
        write_atomic(folder / "file", lambda temporary: (folder / "not here" / "file").read_bytes())


@pytest.mark.parametrize("what", ["images", "original masks"])
def test_a_decoded_cache_that_does_not_fit(disk: Disk, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The disk looked large enough before. Nothing half-built stays; with room made it is built."""
    monkeypatch.setattr(cache_module, "_SPARE_BYTES", -(2**40))
    folder = disk("")
    data = DataConfig(layout="sample")
    split = freeze_split(data)
    filler = fill(folder, spare=64 * 1024)

    def build() -> DecodedPart | Any:
        if what == "images":
            return decoded(data, split, "val", Size(width=96, height=96), folder=folder)
        return original_masks(data, split, "train", folder=folder)

    with pytest.raises(DiskFull, match=r"decoded: the disk is full.*TUNESEARCH_CACHE names another folder"):
        build()
    assert [path.suffix for path in (folder / "decoded").iterdir()] == [".lock"]
    filler.unlink()
    assert len(build()) == (24 if what == "images" else 48)


def test_a_training_goes_on_when_room_was_made(
    disk: Disk, tiny_space: Path, monkeypatch: pytest.MonkeyPatch, epoch_metrics: Callable[..., EpochMetrics]
) -> None:
    """Oracle: the curve of a training that had room."""
    monkeypatch.syspath_prepend(tiny_space.parent)
    config = TrainConfig(
        architecture="tiny_model:tiny", epochs=3, size=Size(width=32, height=32), batch_size=4, augmentation="none"
    )
    rng = np.random.default_rng(0)
    part = DecodedPart(
        rng.integers(0, 256, (8, 32, 32, 3), np.uint8), rng.integers(0, 3, (8, 32, 32), np.uint8), tuple("abcdefgh")
    )

    def trainer(folder: Path | None) -> Trainer:
        return Trainer(config, train=part, val=part, classes=3, folder=folder)

    truth = [metrics.val_loss for metrics in trainer(None).epochs()]
    folder = disk("")
    first = trainer(folder).epochs()
    curve = [next(first).val_loss]
    filler = fill(folder)
    with pytest.raises(DiskFull, match=r"(last\.pt|best\.safetensors) could not be written"):
        next(first)
    state = load_checkpoint(folder / "last.pt")
    assert state is not None
    assert state["epoch"] == 1
    filler.unlink()
    curve += [metrics.val_loss for metrics in trainer(folder).epochs()]
    assert curve == truth


# -------------------------------------------------------------------------------------------------------- damaged files


@pytest.fixture
def trained(tiny_space: Path, tmp_path: Path, epoch_metrics: Callable[..., EpochMetrics]) -> Path:
    """The weights of a search's only trial, which was completed; the search is ``a`` in ``runs``."""
    experiment = load_experiment(tiny_space)
    settings = {"code": str(tiny_space.parent)}
    ledger = Ledger.create(tmp_path / "runs", "a", experiment, Split(root=Path("/nowhere"), train=(), val=()), settings)
    record = Asker(ledger).ask()
    assert record is not None
    ledger.commit_epoch(epoch_metrics(1, 0.5), number=0, stopped=False)
    ledger.end(0, "completed")
    folder = ledger.trial_folder(0)
    folder.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tiny_space.parent)
        save_file(build_model(record.config, 5).state_dict(), folder / "best.safetensors")
    ledger.close()
    Image.new("RGB", (40, 30)).save(tmp_path / "picture.png")
    return folder / "best.safetensors"


def damages(whole: bytes) -> dict[str, Callable[[random.Random], bytes]]:
    header = int.from_bytes(whole[:8], "little")

    def in_header(rng: random.Random) -> bytes:
        at = rng.randrange(8 + header)
        return whole[:at] + rng.randbytes(1) + whole[at + 1 :]

    return {
        "truncated": lambda rng: whole[: rng.randrange(len(whole))],
        "empty": lambda rng: b"",
        "damaged header": in_header,
        "a page of a proxy": lambda rng: b"<html>sign in</html>" * 100,
    }


@pytest.mark.parametrize("kind", ["truncated", "empty", "damaged header", "a page of a proxy"])
def test_damaged_weights_are_named(trained: Path, tmp_path: Path, kind: str) -> None:
    """A byte of the header may also be one that changes nothing, such as a space behind it."""
    whole = trained.read_bytes()
    damage, rng = damages(whole)[kind], random.Random(0)
    noticed = 0
    for _ in range(20):
        trained.write_bytes(damage(rng))
        try:
            tunesearch.predict("a", tmp_path / "picture.png", tmp_path / "masks", storage=tmp_path / "runs")
        except WeightsError as error:
            noticed += [problem.where for problem in error.problems] == [str(trained)]
    assert noticed == 20 if kind != "damaged header" else noticed > 15


def test_weights_of_another_network_are_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the command line: one message, no traceback, nothing written."""
    save_file({"other": torch.zeros(3)}, trained)
    arguments = ["predict", "a", str(tmp_path / "picture.png"), "-o", str(tmp_path / "masks")]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--storage", str(tmp_path / "runs")])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {trained}: must hold the weights of its configuration: ")
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "masks").exists()


OWN_DATA = """
name: own
data: {layout: folders, root: ROOT, classes: 2, val: 0.25}
train: {architecture: "tiny_model:tiny", epochs: 2, size: 32x32, batch_size: 2}
search: {trials: 3}
parameters: {lr: {float: [1.0e-4, 1.0e-1], log: true}}
"""


@pytest.fixture
def own_data(tiny_space: Path, tmp_path: Path) -> Path:
    """Eight pairs, and a space file beside ``tiny_space`` that names them; gives the data's folder."""
    root = tmp_path / "data"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(8):
        pixels = noise(3).reshape(32, 32, 3)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        Image.fromarray(pixels[..., 0] % 2).save(root / "masks" / f"{number}.png")
    (tiny_space.parent / "own.yaml").write_text(OWN_DATA.replace("ROOT", str(root)))
    return root


def test_an_image_that_was_damaged_between_two_sessions(own_data: Path, tiny_space: Path, tmp_path: Path) -> None:
    """``resume`` names it, and the other that is gone, before anything is trained; mended, the same search goes on."""
    experiment = load_experiment(tiny_space.parent / "own.yaml")
    settings = {"code": str(tiny_space.parent)}
    ledger = Ledger.create(tmp_path / "runs", "a", experiment, freeze_split(experiment.data), settings)
    assert Asker(ledger).ask() is not None
    ledger.close()
    image, mask = own_data / "images" / "3.png", own_data / "masks" / "5.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])
    mask.rename(own_data / "away")
    with pytest.raises(DataError) as caught:
        tunesearch.resume("a", storage=tmp_path / "runs")
    assert sorted((problem.where, problem.rule) for problem in caught.value.problems) == [
        (str(image), "the file has changed since the split was frozen"),
        (str(mask), "the split names this file: No such file or directory"),
    ]
    image.write_bytes(whole)
    (own_data / "away").rename(mask)
    again = Ledger.open(tmp_path / "runs", "a", drive=True)  # nobody drives it, and it is as it was
    again.split.verify()
    assert [record.number for record in again.live()] == [0]
    again.close()


def test_images_that_cannot_be_decoded_are_all_named(own_data: Path, tiny_space: Path, tmp_path: Path) -> None:
    """Damaged before the split was frozen, so that their hashes are right."""
    images = [own_data / "images" / "1.png", own_data / "images" / "6.png"]
    images[0].write_bytes(images[0].read_bytes()[:200])
    images[1].write_bytes(b"no picture")
    data = load_experiment(tiny_space.parent / "own.yaml").data
    with pytest.raises(DataError) as caught:
        decoded(data, freeze_split(data), "train+val", Size(width=32, height=32), folder=tmp_path / "cache")
    assert sorted(problem.where for problem in caught.value.problems) == [str(path) for path in images]
    assert all("cannot be read as a picture" in problem.rule for problem in caught.value.problems)


def test_a_device_or_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    """A pipe stands for /dev/null, which root could rename a file over."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for target in (pipe, tmp_path):
        with pytest.raises(InputError, match="must be a file"):
            write_atomic(target, lambda path: path.write_text("x"))
    assert pipe.is_fifo()
