"""ImageNet weights. Oracles: the tensors in the real files; files broken on purpose."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tunesearch.errors import WeightsError
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.models import build_model
from tunesearch.segmentation.models.library import bare_encoder
from tunesearch.segmentation.models.weights import check_weights, load_encoder, read_weights, weights_file

REAL = ("mobilenet_v2", "timm-tf_efficientnet_lite0")


def holder(encoder: str) -> nn.Module:
    module = nn.Module()
    module.encoder = bare_encoder(encoder)
    return module


def real(test_data: Path, encoder: str) -> dict[str, Tensor]:
    """The file's tensors, read by torch alone."""
    state: dict[str, Tensor] = torch.load(
        test_data / "weights" / f"{encoder}.pth", map_location="cpu", weights_only=True
    )
    return state


def assert_loaded(encoder: nn.Module, state: dict[str, Tensor]) -> None:
    """Every parameter and every statistic of the encoder is the file's."""
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.data
@pytest.mark.parametrize("encoder", REAL)
@pytest.mark.parametrize("form", ["file", "folder", "safetensors"])
def test_real_weights_load(test_data: Path, tmp_path: Path, encoder: str, form: str) -> None:
    state = real(test_data, encoder)
    source = test_data / "weights"
    if form == "file":
        source = source / f"{encoder}.pth"
    if form == "safetensors":
        source = tmp_path
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / f"{encoder}.safetensors")
    module = holder(encoder)
    load_encoder(module, encoder, source=source)
    assert_loaded(module.encoder, state)


@pytest.mark.data
def test_build_model_loads_them_below_any_decoder(test_data: Path) -> None:
    for architecture in ("fpn", "deeplabv3plus"):
        config = TrainConfig(architecture=architecture, encoder="mobilenet_v2", encoder_weights="imagenet")
        model = build_model(config, 3, encoder_weights=test_data / "weights")
        assert_loaded(model.network.encoder, real(test_data, "mobilenet_v2"))


@pytest.mark.data
@pytest.mark.parametrize("form", ["pth", "safetensors"])
@pytest.mark.parametrize("damage", ["other encoder", "missing tensor", "wrong shape"])
def test_weights_that_do_not_fit(test_data: Path, tmp_path: Path, damage: str, form: str) -> None:
    encoder, other = REAL
    state = {name: tensor.contiguous() for name, tensor in real(test_data, encoder).items()}
    name = "features.0.0.weight"
    if damage == "other encoder":
        state = {name: tensor.contiguous() for name, tensor in real(test_data, other).items()}
    elif damage == "missing tensor":
        del state[name]
    else:
        state[name] = state[name][:, :1].clone()
    path = tmp_path / f"{encoder}.{form}"
    if form == "pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    with pytest.raises(WeightsError, match=f"must fit the encoder {encoder}") as caught:
        load_encoder(holder(encoder), encoder, source=tmp_path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600  # one line, not a list of every tensor
    assert "\n" not in str(caught.value)


def test_missing_file_or_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="must be an existing file or folder") as caught:
        weights_file("mobilenet_v2", tmp_path / "nowhere")
    assert "--encoder-weights" in str(caught.value)
    assert str(tmp_path / "nowhere") in str(caught.value)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"must hold mobilenet_v2.safetensors or mobilenet_v2.pth, but got no weight"
    ):
        weights_file("mobilenet_v2", tmp_path)


def test_folder_without_the_encoder_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "mobilenet_v3.pth").touch()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(WeightsError, match=r"did you mean 'mobilenet_v3.pth'\?") as caught:
        weights_file("mobilenet_v2", tmp_path)
    assert "notes.txt" not in str(caught.value)


def test_safetensors_come_first(tmp_path: Path) -> None:
    for suffix in ("pth", "safetensors"):
        (tmp_path / f"resnet18.{suffix}").touch()
    assert weights_file("resnet18", tmp_path) == tmp_path / "resnet18.safetensors"


def old_format(path: Path) -> bytes:
    """A state dict as torch wrote it before 1.6: many published weights still are."""
    torch.save({"w": torch.randn(20, 20)}, path, _use_new_zipfile_serialization=False)
    return path.read_bytes()


@pytest.mark.parametrize("content", ["empty", "text", "half of a zip", "parts of the old format", "random"])
def test_corrupt_pth(tmp_path: Path, content: str) -> None:
    """Truncation at many places: the unpickler stumbles in many ways (IndexError, struct.error, an empty EOFError)."""
    path = tmp_path / "resnet18.pth"
    torch.save({"w": torch.randn(20, 20)}, path)
    whole = path.read_bytes()
    old = old_format(tmp_path / "old.bin")
    samples = {
        "empty": [b""],
        "text": [b"<!DOCTYPE html><html>404</html>", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"],
        "half of a zip": [whole[: len(whole) // 2], whole[:100]],
        "parts of the old format": [old[:end] for end in range(1, len(old), 7)],
        "random": [bytes(torch.randint(0, 256, (60,), generator=torch.Generator().manual_seed(n))) for n in range(20)],
    }
    for sample in samples[content]:
        path.write_bytes(sample)
        with pytest.raises(WeightsError, match=r"must be a readable weight file: \S") as caught:
            read_weights(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 64, (8).to_bytes(8, "little") + b'{"w":{}}'])
def test_corrupt_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "resnet18.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="must be a readable weight file") as caught:
        read_weights(path)
    assert str(path) in str(caught.value)


class Evil:
    """What a poisoned weight file looks like: unpickling it calls a function."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    path = tmp_path / "resnet18.pth"
    for number, write in enumerate((torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing, protocol=2)))):
        write({"w": Evil(mark)}, path)
        with pytest.raises(WeightsError, match="must be a readable weight file"):
            read_weights(path)
        assert not mark.exists(), number
    pickle.loads(path.read_bytes())  # the bait is real
    assert mark.exists()


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.zeros(2)], torch.zeros(2), {"model": {"w": torch.zeros(2)}}])
def test_a_file_of_something_else(tmp_path: Path, content: object) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match="must hold a state dict: names to tensors") as caught:
        read_weights(path)
    assert str(path) in str(caught.value)


def test_timms_checkpoints_load_into_tu_encoders(tmp_path: Path) -> None:
    """Oracle: timm's own classifier of the same name, whose head is left out."""
    name = "mobilenetv3_small_050"
    state = timm.create_model(name, pretrained=False).state_dict()
    torch.save(state, tmp_path / f"tu-{name}.pth")
    module = holder(f"tu-{name}")
    load_encoder(module, f"tu-{name}", source=tmp_path)
    loaded = module.encoder.model.state_dict()
    assert len(loaded) > 100
    by_name = {key.replace(".", "_"): tensor for key, tensor in state.items()}
    for key, tensor in loaded.items():
        assert torch.equal(tensor, by_name[key.replace(".", "_")]), key
    shutil.copy(tmp_path / f"tu-{name}.pth", tmp_path / "tu-mobilenetv3_small_100.pth")
    with pytest.raises(WeightsError, match="must fit the encoder tu-mobilenetv3_small_100"):
        load_encoder(holder("tu-mobilenetv3_small_100"), "tu-mobilenetv3_small_100", source=tmp_path)


def test_a_download_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the library raises, also an error without a text."""

    errors = [URLError("no route to host"), TimeoutError()]

    def offline(*args: object, **kwargs: object) -> nn.Module:
        raise errors[0]

    module = holder("resnet18")
    monkeypatch.setattr("segmentation_models_pytorch.encoders.get_encoder", offline)
    for reason in ("no route to host", "TimeoutError"):
        with pytest.raises(WeightsError, match=reason) as caught:
            load_encoder(module, "resnet18", source=None)
        assert "give --encoder-weights FOLDER with resnet18.pth" in str(caught.value)
        errors.pop(0)


def test_the_librarys_own_loader_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its arguments are the library's documented ones for ImageNet weights; what it gives is what is loaded."""
    module, given = holder("resnet18"), bare_encoder("resnet18")
    calls = []

    def get_encoder(name: str, **fields: object) -> nn.Module:
        calls.append((name, fields))
        return given

    monkeypatch.setattr("segmentation_models_pytorch.encoders.get_encoder", get_encoder)
    load_encoder(module, "resnet18", source=None)
    assert calls == [("resnet18", {"weights": "imagenet"})]
    assert_loaded(module.encoder, given.state_dict())


@pytest.mark.data
def test_check_weights_tells_every_problem(test_data: Path, tmp_path: Path) -> None:
    """Of five encoders one is fine: four problems, in order, each naming its own."""
    shutil.copy(test_data / "weights" / "mobilenet_v2.pth", tmp_path)
    shutil.copy(test_data / "weights" / "mobilenet_v2.pth", tmp_path / "resnet18.pth")
    (tmp_path / "vgg11.pth").write_bytes(b"")
    encoders = ["mobilenet_v2", "resnet18", "vgg11", "densenet121", "resnet19"]
    with pytest.raises(WeightsError) as caught:
        check_weights(encoders, source=tmp_path)
    problems = [str(problem) for problem in caught.value.problems]
    assert len(problems) == 4
    for name, rule, problem in zip(
        ("resnet18.pth", "vgg11.pth", "densenet121.pth", "resnet19"),
        ("must fit the encoder resnet18", "must be a readable weight file", "must hold densenet121", "did you mean"),
        problems,
        strict=True,
    ):
        assert name in problem
        assert rule in problem


@pytest.mark.data
def test_check_weights_is_silent_when_all_is_well(test_data: Path) -> None:
    check_weights(list(REAL), source=test_data / "weights")
