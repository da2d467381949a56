"""Model folders. Oracles: the network that was trained; hashlib; the folder before it was damaged."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import socket
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tunesearch
from tunesearch.errors import InputError, WeightsError
from tunesearch.production.bundle import Training, read_bundle, write_bundle, writing
from tunesearch.production.bundle.description import without_places
from tunesearch.production.bundle.hashes import content_hash

pytestmark = pytest.mark.slow


def test_it_has_what_it_says_and_is_read_back(shapes: Training, shapes_bundle: Path) -> None:
    """Every hash is that of ``hashlib``; the network has the trained weights; configuration and classes are there."""
    content = json.loads((shapes_bundle / "bundle.json").read_text())
    there = {path.relative_to(shapes_bundle).as_posix() for path in shapes_bundle.rglob("*") if path.is_file()}
    assert there == {*content["files"], "bundle.json"}
    for name, digest in content["files"].items():
        assert hashlib.sha256((shapes_bundle / name).read_bytes()).hexdigest() == digest
    read = read_bundle(shapes_bundle)
    assert read.name == "shapes"
    assert read.config.model_dump(mode="json") == shapes.document["config"]
    assert read.data.root is None
    assert [spec.name for spec in read.classes] == ["background", "disc", "square", "triangle", "stripes"]
    assert content["classes"][1] == {"name": "disc", "color": [128, 0, 0]}  # VOC's second colour
    assert read.split.digest == shapes.split.digest
    assert read.split.root == Path()
    network = read.network()
    assert not network.training
    trained = load_file(shapes.weights)
    assert set(network.state_dict()) == set(trained)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in network.state_dict().items())
    metrics = json.loads((shapes_bundle / "metrics.json").read_text())
    assert metrics["outcome"] == "completed"
    assert [epoch["val_miou"] for epoch in metrics["epochs"]] == [epoch.val_miou for epoch in shapes.curve]


def test_nothing_in_it_is_of_this_machine(shapes: Training, shapes_bundle: Path) -> None:
    """Neither in a file nor inside the program's archive: no folder of the data, the training, the code or Python."""
    contents = {path.name: path.read_bytes() for path in shapes_bundle.rglob("*") if path.is_file()}
    with zipfile.ZipFile(shapes_bundle / "model.pt2") as archive:
        contents |= {name: archive.read(name) for name in archive.namelist()}
    places = [
        shapes.split.root,
        shapes.weights.parent,
        Path(tunesearch.__file__).parents[1],
        sys.prefix,
        Path.home(),
    ]
    words = [str(place) for place in places] + ([socket.gethostname()] if len(socket.gethostname()) > 4 else [])
    found = [(name, word) for name, content in contents.items() for word in words if word.encode() in content]
    assert found == []


def test_a_folder_that_exists_is_refused_and_left_alone(shapes: Training, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        write_bundle(shapes, tmp_path / "mine")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "file"]


def test_it_appears_whole_or_not_at_all(shapes: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the last step but one leaves nothing; weights of another network leave nothing."""

    def fail(*_: Any) -> str:
        raise RuntimeError("on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(writing, "card", fail)
        with pytest.raises(RuntimeError, match="on purpose"):
            write_bundle(shapes, tmp_path / "out" / "model", formats=())
    assert list((tmp_path / "out").iterdir()) == []
    weights = tmp_path / "other.safetensors"
    save_file({"network.weight": torch.zeros(3)}, weights)
    with pytest.raises(WeightsError, match="must hold the weights"):
        write_bundle(dataclasses.replace(shapes, weights=weights), tmp_path / "out" / "model", formats=())
    assert list((tmp_path / "out").iterdir()) == []


def _flip(name: str) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return damage


def _rewrite(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """Change bundle.json by someone who knows how its own hash is made."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / "bundle.json").read_text())
        change(content)
        content["sha256"] = content_hash(content)
        (folder / "bundle.json").write_text(json.dumps(content))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *((_flip(name), f"{name}: is damaged or was changed") for name in (
            "weights.safetensors", "model.pt2", "model.onnx", "README.md", "split.json", "config.yaml",
        )),
        (lambda folder: (folder / "metrics.json").unlink(), r"metrics\.json: this file .* is missing"),
        (lambda folder: (folder / "bundle.json").unlink(), "is no model folder"),
        (lambda folder: (folder / "bundle.json").write_text("{"), "must be JSON"),
        (lambda folder: (folder / "bundle.json").write_bytes(b"\xff\xfe"), "must be JSON"),
        (lambda folder: (folder / "bundle.json").write_text("[]"), "is no description of a model folder"),
        (lambda folder: (folder / "bundle.json").write_text('{"format": 99}'), "format 1, .* but got 99"),
        (lambda folder: (folder / "bundle.json").write_text('{"format": 1}'), "its own hash"),
        (_rewrite(lambda content: content.pop("files")), "must have a name and files"),
        (_rewrite(lambda content: content["files"].pop("weights.safetensors")), "must name this file"),
        (_rewrite(lambda content: content["files"].update({"../secret": "0"})), r"must lie in the folder.*\.\./secret"),
        (_rewrite(lambda content: content["files"].update({"/etc/hosts": "0"})), "must lie in the folder"),
        (_rewrite(lambda content: content["files"].update({"C:\\x": "0"})), "must lie in the folder"),
    ],
)  # fmt: skip
def test_a_damaged_one_is_named(
    damage: Callable[[Path], object], message: str, shapes_bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(shapes_bundle, folder)
    damage(folder)
    with pytest.raises(InputError, match=message):
        read_bundle(folder)


def test_a_changed_score_is_noticed(shapes_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(shapes_bundle, folder)
    text = (folder / "bundle.json").read_text()
    (folder / "bundle.json").write_text(text.replace('"name": "shapes"', '"name": "better"'))
    with pytest.raises(InputError, match="its own hash"):
        read_bundle(folder)


OWN = """
import sys, time  # built into Python: no file of theirs comes along
from torch import nn
from {helper} import WIDTH

def build(config, classes):
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(WIDTH, classes, 1))
"""


def test_the_users_own_code_comes_along_and_each_bundle_uses_its_own(
    train_on_sample: Callable[..., Training], tmp_path: Path
) -> None:
    """Two networks of one module name whose helper beside it differs: read in one process, each has its own widths."""
    bundles = []
    for width in (4, 7):
        code = tmp_path / f"code{width}"
        code.mkdir()
        (code / "own_net.py").write_text(OWN.format(helper="own_helper"))
        (code / "own_helper.py").write_text(f"WIDTH = {width}\n")
        (code / "unrelated.py").write_text("")
        for name in ("own_net", "own_helper"):
            sys.modules.pop(name, None)
        sys.path.insert(0, str(code))
        try:
            training = train_on_sample(tmp_path / f"run{width}", {"architecture": "own_net:build"})
        finally:
            sys.path.remove(str(code))
        assert [path.name for path in training.code] == ["own_helper.py", "own_net.py"]
        write_bundle(training, tmp_path / f"model{width}", formats=())
        bundles.append(read_bundle(tmp_path / f"model{width}"))
        shutil.rmtree(code)
    assert [bundle.network().network[0].out_channels for bundle in bundles] == [4, 7]
    assert [bundle.network().network[0].out_channels for bundle in reversed(bundles)] == [7, 4]
    assert sorted(path.name for path in (tmp_path / "model4" / "code").iterdir()) == ["own_helper.py", "own_net.py"]
    for bundle in bundles:
        read_bundle(bundle.folder)


def test_lists_elsewhere_leave_only_their_name() -> None:
    given = {"layout": "voc", "root": "/data/voc", "train": "/home/me/lists/train.txt", "val": "~/val.txt", "test": 0.2}
    assert without_places(given) == {
        "layout": "voc", "train": "train.txt", "val": "val.txt", "test": 0.2,
    }  # fmt: skip
