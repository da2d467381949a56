"""Programs of networks. Oracles: the network itself, run by torch as it was trained; the project's own prediction."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tunesearch.production.bundle.programs import write_programs
from tunesearch.production.model import open_model
from tunesearch.production.prediction.predictor import Predictor
from tunesearch.segmentation.config import Size, TrainConfig
from tunesearch.segmentation.data.resize import resize_image
from tunesearch.segmentation.models import SegmentationModel, build_model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # torch.export's own

ALLOWED = (
    "torch", "torchgen", "functorch",
    "numpy", "PIL", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "typing_extensions",
    "fsspec", "nvidia", "triton", "setuptools", "cuda", "pkg_resources", "_distutils_hack", "distutils", "isympy",
)  # fmt: skip
"""What comes with torch, numpy and Pillow. Everything else of the environment is refused."""
ALONE = f"""
import sys, sysconfig
from importlib.machinery import PathFinder
SITE = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
class Allowed:
    @staticmethod
    def find_spec(name, path=None, target=None):
        spec = PathFinder.find_spec(name, path)
        if spec is None or name.partition(".")[0] in {ALLOWED!r}:
            return spec
        places = [spec.origin or "", *(spec.submodule_search_locations or ())]
        refused = any(place.startswith(SITE) for place in places) or name.partition(".")[0] == "tunesearch"
        return None if refused else spec  # as if it were not installed
sys.meta_path = [finder for finder in sys.meta_path if finder.__module__.startswith("_frozen")]
sys.meta_path[sys.meta_path.index(PathFinder)] = Allowed
for name in ("tunesearch", "ray", "onnx", "timm", "cv2", "mlflow"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{{name}} is there")
"""


def _alone(code: str, folder: Path) -> None:
    """Run a script in ``folder`` by a Python that has torch, numpy and Pillow only."""
    ran = subprocess.run(
        [sys.executable, "-I", "-c", f"{ALONE}\nimport os\nos.chdir({str(folder)!r})\n{code}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]


def _model(**fields: Any) -> SegmentationModel:
    """A network with random weights and norms that do something."""
    torch.manual_seed(0)
    model = build_model(TrainConfig.model_validate(fields), 5).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def _images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("fields", "lowest"),
    [
        ({"architecture": "encoder_decoder", "depth": 2, "width": 8}, 5),
        ({"architecture": "conv_stack", "depth": 2, "width": 4}, 2),
        ({"architecture": "fpn", "encoder": "resnet18"}, 33),
    ],
)
def test_a_program_takes_any_size_and_computes_the_networks_logits(
    fields: dict[str, Any], lowest: int, tmp_path: Path
) -> None:
    """A network of ours with padding, one without, and one of the library, at sizes that neither was exported with."""
    import onnxruntime

    model = _model(**fields)
    told = write_programs(model, tmp_path, Size(width=64, height=48), formats=("torch", "onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    program = torch.export.load(tmp_path / "model.pt2").module()
    assert told["torch"]["height"][0] == told["torch"]["width"][0] == lowest
    assert told["onnx"]["largest_difference"] <= told["onnx"]["tolerance"]
    assert told["torch"]["checked"][0] == [48, 64]
    for shape in ((1, 3, lowest, lowest), (3, 3, 50, 71), (2, 3, 64, 96)):
        images = _images(*shape)
        with torch.no_grad():
            wanted = model(images)
            assert torch.allclose(program(images), wanted, atol=1e-4)
        (found,) = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)


def test_a_program_moves_to_another_device_as_the_card_says(shapes_bundle: Path) -> None:
    """To torch's meta device, which takes no tensor of another; a GPU is not needed for that."""
    from torch.export.passes import move_to_device_pass

    moved = move_to_device_pass(torch.export.load(shapes_bundle / "model.pt2"), "meta").module()
    with torch.no_grad():
        logits = moved(torch.zeros(3, 3, 50, 71, dtype=torch.uint8, device="meta"))
    assert (logits.shape, logits.device.type) == ((3, 5, 50, 71), "meta")


def test_one_that_is_decided_by_its_features_size_is_exported_at_its_own(tmp_path: Path) -> None:
    """PAN at 32x32 is padded to 128 pixels inside: any number of images, of this size alone."""
    model = _model(architecture="pan", encoder="resnet18")
    told = write_programs(model, tmp_path, Size(width=32, height=32), formats=("torch",))
    assert (told["torch"]["height"], told["torch"]["width"]) == (32, 32)
    images = _images(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(torch.export.load(tmp_path / "model.pt2").module()(images), model(images), atol=1e-4)


class _Wilful(nn.Module):
    """Decides by what it sees, which no program can."""

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(1, 2, 1, 1)[:, :5] * (1 if float(x.sum()) > 0 else 2)


def test_what_cannot_be_a_program_is_left_out_and_told(tmp_path: Path) -> None:
    model = SegmentationModel(_Wilful(), mean=(0.5,) * 3, std=(0.5,) * 3).eval()
    said: list[str] = []
    told = write_programs(model, tmp_path, Size(width=32, height=32), formats=("torch", "onnx"), on_message=said.append)
    assert "torch.export cannot follow the network" in told["torch"]["left_out"]
    assert len(said) == 2
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_onnx_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)  # how Python marks a module that is not there
    model = _model(architecture="conv_stack", depth=2, width=4)
    told = write_programs(model, tmp_path, Size(width=32, height=32), formats=("torch", "onnx"))
    assert "tunesearch[onnx]" in told["onnx"]["left_out"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]


def test_the_cards_lines_make_a_mask_where_only_torch_is_installed(shapes_bundle: Path, tmp_path: Path) -> None:
    """The lines are taken from the card and run by a Python without tunesearch; the mask is that of the project."""
    (code,) = re.findall(r"```python\n(.*?)```", (shapes_bundle / "README.md").read_text(), re.DOTALL)
    rng = np.random.default_rng(0)
    picture = np.asarray(Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((90, 70)))
    Image.fromarray(picture).save(tmp_path / "picture.jpg", format="PNG")
    (tmp_path / "model.pt2").write_bytes((shapes_bundle / "model.pt2").read_bytes())
    _alone(code, tmp_path)
    found = np.asarray(Image.open(tmp_path / "mask.png"))
    model = open_model(shapes_bundle, storage=tmp_path)
    whole = model.config.model_copy(update={"precision": "float32"})  # as the program computes
    predictor = Predictor([dataclasses.replace(model, config=whole)], device="cpu")
    [wanted] = predictor.masks([predictor.prepare(picture)])
    assert found.shape == wanted.shape == (70, 90)
    assert len(np.unique(wanted)) > 1
    assert np.mean(found != wanted) < 0.002  # two ways to round an area's mean


def test_the_registered_models_resizing_is_opencvs() -> None:
    """Within 1 of 255 of cv2.resize, at shrinking, growing and mixed sizes."""
    from tunesearch.tracking import pyfunc_model

    rng = np.random.default_rng(0)
    for height, width in ((64, 48), (100, 77), (200, 31), (1, 90), (33, 500), (32, 32), (16, 16)):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        wanted = resize_image(image, Size(width=40, height=32))
        found = pyfunc_model.resized(torch.from_numpy(image).permute(2, 0, 1)[None], (32, 40))[0].permute(1, 2, 0)
        assert np.abs(found.numpy().astype(int) - wanted).max() <= 1, (height, width)


def test_bundle_json_tells_how_far_the_programs_are_off(shapes_bundle: Path) -> None:
    programs = json.loads((shapes_bundle / "bundle.json").read_text())["programs"]
    for program in programs.values():
        assert program["largest_difference"] <= program["tolerance"] < 0.01
        assert program["checked"] == [[32, 32], [15, 45]]
