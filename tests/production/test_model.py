"""Opening models. Oracles: the weights' own file; the same network from a search and from its exported folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import tunesearch
from tunesearch.errors import InputError
from tunesearch.production.model import open_model
from tunesearch.segmentation.files import sha256

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.export's and ONNX's own


def test_the_best_trial_of_a_search(searched: Path) -> None:
    model = open_model("a", storage=searched)
    weights = searched / "a" / "trials" / "0000" / "best.safetensors"
    assert (model.name, model.trial, model.folder) == ("a/0", 0, searched / "a")
    assert model.fingerprint == sha256(weights.read_bytes())
    assert [spec.name for spec in model.classes] == ["background", "disc", "square", "triangle", "stripes"]
    assert (len(model.split.val), len(model.split.test)) == (18, 6)
    assert not model.network.training
    assert model.network(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 5, 32, 32)


def test_a_model_folder_is_the_same_network(searched: Path, tmp_path: Path) -> None:
    """Also where the user's module is no longer where it was: the folder has its own copy."""
    tunesearch.export("a", tmp_path / "folder", storage=searched)
    one = open_model("a", storage=searched)
    (tmp_path / "space" / "tiny_model.py").unlink()
    other = open_model(tmp_path / "folder", storage=tmp_path / "nowhere")
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(one.network(images), other.network(images))
    assert (other.name, other.trial) == (str(tmp_path / "folder"), None)
    assert other.fingerprint == one.fingerprint
    assert [spec.name for spec in other.classes] == [spec.name for spec in one.classes]
    assert other.split.digest == one.split.digest
    assert other.config == one.config


@pytest.mark.parametrize(
    ("source", "trial", "rule"),
    [
        ("b", None, "search b: does not exist in .*, and no model folder has that path"),
        ("aa", None, r"did you mean 'a'\?"),
        ("a", 9, r"--trial: must be a trial of a \(trials 0 to 1\), but got 9"),
        ("a", 1, "trial 1 of a: it has no weights: it is failed"),
        ("{runs}/a", None, r"a folder without bundle.json \(a search is given by its name: a\)"),
        ("{runs}", None, "must be a model folder or the name of a search, but got a folder without bundle.json"),
        ("{runs}/b", None, "must be a model folder or the name of a search, but got no such folder"),
        ("{runs}/a/experiment.yaml", None, "must be a model folder or the name of a search, but got a file"),
        ("~nobody-at-all/x", None, "must be a model folder or the name of a search"),
        ("", None, "must be a model folder or the name of a search"),
        ("..", None, "must be a model folder or the name of a search"),
    ],
)
def test_what_is_no_model(searched: Path, source: str, trial: int | None, rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        open_model(source.format(runs=searched), storage=searched, trial=trial)


def test_an_exported_configuration_replaces_only_its_like(searched: Path, tmp_path: Path) -> None:
    """A name of a search is easily that of its space, which nobody has a second copy of."""
    space = tmp_path / "a.yaml"
    space.write_text("name: mine\n")
    with pytest.raises(InputError, match=r"a\.yaml: exists and is no exported configuration, so it is not replaced"):
        tunesearch.export("a", space, storage=searched)
    assert space.read_text() == "name: mine\n"
    for _ in range(2):
        tunesearch.export("a", tmp_path / "best.yaml", storage=searched)


def test_damaged_weights_are_named_where_they_lie(searched: Path, tmp_path: Path) -> None:
    weights = searched / "a" / "trials" / "0000" / "best.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match=re.escape(f"{weights}: must be a readable weight file")):
        tunesearch.export("a", tmp_path / "model", storage=searched)
    assert not list(tmp_path.glob("*model*"))


def test_what_is_wrong_with_a_model_folder(searched: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    tunesearch.export("a", folder, storage=searched)
    with pytest.raises(InputError, match="--trial: is for searches"):
        open_model(folder, storage=searched, trial=0)
    weights = folder / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=r"weights\.safetensors: is damaged or was changed"):
        open_model(folder, storage=searched)
    weights.unlink()
    with pytest.raises(InputError, match=r"weights\.safetensors: this file of the model folder is missing"):
        open_model(folder, storage=searched)
