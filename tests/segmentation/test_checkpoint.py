"""Checkpoints on disk. Oracles: files damaged on purpose, a writer that dies, the tensors that were saved."""

from __future__ import annotations

import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from tunesearch.segmentation.checkpoint import load_checkpoint, save_checkpoint
from tunesearch.segmentation.files import write_atomic


def state(seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "epoch": 3,
        "outcome": None,
        "metrics": {"val_miou": 0.25, "val_iou": (None, 0.5)},
        "model": {f"w{number}": torch.randn(20, 20, generator=generator) for number in range(3)},
    }


def same(one: dict[str, Any] | None, other: dict[str, Any]) -> bool:
    if one is None or {**one, "model": None} != {**other, "model": None}:
        return False
    return all(torch.equal(one["model"][name], tensor) for name, tensor in other["model"].items())


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "last.pt"
    save_checkpoint(path, state())
    assert same(load_checkpoint(path), state())
    save_checkpoint(path, state(1))
    assert same(load_checkpoint(path), state(1))
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_none_where_there_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "last.pt") is None
    assert load_checkpoint(tmp_path) is None  # a folder


@pytest.mark.parametrize("moment", ["before writing", "halfway", "before the rename"])
def test_a_writer_that_dies_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, state())
    save = torch.save

    def dying(thing: object, target: BinaryIO) -> None:
        if moment != "before writing":
            save(thing, target)
        if moment == "halfway":
            target.truncate(500)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, state(1))
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]
    assert same(load_checkpoint(path), state())


def test_the_name_appears_only_when_the_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"

    def write(temporary: Path) -> None:
        assert temporary.parent == path.parent  # else the rename would be a copy
        assert not path.exists()
        temporary.write_bytes(b"all of it")

    write_atomic(path, write)
    assert path.read_bytes() == b"all of it"


def damaged(whole: bytes) -> dict[str, Callable[[random.Random], bytes]]:
    def flip(rng: random.Random) -> bytes:
        broken = bytearray(whole)
        broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        return bytes(broken)

    return {
        "flipped bit": flip,
        "truncated": lambda rng: whole[: rng.randrange(len(whole))],
        "zeroed block": lambda rng: (
            (at := rng.randrange(len(whole) - 512)) and (whole[:at] + bytes(512) + whole[at + 512 :])
        ),
        "garbage": lambda rng: rng.randbytes(200),
    }


@pytest.mark.parametrize("kind", ["flipped bit", "truncated", "zeroed block", "garbage"])
def test_damage_is_noticed(tmp_path: Path, kind: str) -> None:
    """None, or, where the damage hit padding, exactly what was saved: never an exception, never other numbers."""
    path = tmp_path / "last.pt"
    save_checkpoint(path, state())
    make = damaged(path.read_bytes())[kind]
    rng = random.Random(0)
    noticed = 0
    for _ in range(150):
        path.write_bytes(make(rng))
        loaded = load_checkpoint(path)
        noticed += loaded is None
        assert loaded is None or same(loaded, state())
    assert noticed > 100


def test_a_whole_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save([1, 2], path)
    assert load_checkpoint(path) is None
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert load_checkpoint(path) is None


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    torch.save({"model": Evil(tmp_path / "executed")}, tmp_path / "last.pt")
    assert load_checkpoint(tmp_path / "last.pt") is None
    assert not (tmp_path / "executed").exists()
