"""MLflow's model registry, on SQLite. Oracle: the project's own prediction; MLflow's own client."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tunesearch.errors import InputError
from tunesearch.production.bundle import Training, read_bundle, write_bundle
from tunesearch.production.model import open_model
from tunesearch.production.prediction.predictor import Predictor
from tunesearch.tracking.registry import check_model_name, register

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # MLflow's own

USE = """
import sys
for name in ("tunesearch", "ray", "optuna", "cv2", "albumentations", "timm", "torchvision"):
    sys.modules[name] = None  # as if it were not installed
import mlflow, numpy
uri, folder, *names = sys.argv[1:]
mlflow.set_tracking_uri(uri)
for name in names:
    model = mlflow.pyfunc.load_model(f"models:/{name}/1")
    print(name, model.metadata.signature)
    numpy.save(f"{folder}/{name}.npy", model.predict(numpy.load(f"{folder}/pictures.npy")))
"""


def _pictures(count: int, height: int, width: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 7, 9, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((width, height))) for image in coarse])


def test_a_version_predicts_without_tunesearch_and_ray(
    shapes_bundle: Path, train_on_sample: Callable[..., Training], tmp_path: Path, mlflow_database: Callable[..., str]
) -> None:
    """Two models, one of which predicts in windows, registered on SQLite and loaded by another process that has
    neither; masks equal those of the project."""
    from mlflow import MlflowClient

    windows = {"crop": "16x24", "tiled_inference": True, "tile_overlap": 0.3}
    (tmp_path / "run").mkdir()
    write_bundle(train_on_sample(tmp_path / "run", windows), tmp_path / "model", formats=("torch",))
    uri = mlflow_database(tmp_path)
    folders = {"whole": shapes_bundle, "tiled": tmp_path / "model"}
    for name, folder in folders.items():
        content = json.loads((folder / "bundle.json").read_text())
        assert register(folder, content, name, uri=uri, storage=tmp_path) == "1"
        assert "MLFLOW_TRACKING_URI" not in os.environ  # where MLflow would leave it for the next search
        version = MlflowClient(tracking_uri=uri).get_model_version(name, "1")
        assert version.tags["tunesearch.search"] == "shapes"
        assert version.tags["tunesearch.trial"] == "3"
        assert version.tags["tunesearch.confirmed"] == "false"
        assert float(version.tags["tunesearch.score"]) == content["score"]["value"]

    pictures = _pictures(2, 61, 83)
    np.save(tmp_path / "pictures.npy", pictures)
    ran = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", USE, uri, str(tmp_path), *folders],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.count("Tensor('uint8', (-1, -1, -1, 3))") == 2
    for name, folder in folders.items():
        model = open_model(folder, storage=tmp_path)
        whole = model.config.model_copy(update={"precision": "float32"})  # as the program computes
        predictor = Predictor([dataclasses.replace(model, config=whole)], device="cpu")
        wanted = np.stack(list(predictor.masks([predictor.prepare(picture) for picture in pictures])))
        found = np.load(tmp_path / f"{name}.npy")
        assert found.dtype == np.uint8
        assert found.shape == (2, 61, 83)
        assert len(np.unique(wanted)) > 1
        assert np.mean(found != wanted) < 0.002  # two ways to round an area's mean
    pickles = [path for path in (tmp_path / "mlartifacts").rglob("*") if path.suffix in (".pkl", ".pickle")]
    assert pickles == []


def test_a_bundle_without_a_torch_program_is_refused(shapes: Training, tmp_path: Path) -> None:
    content = write_bundle(shapes, tmp_path / "model", formats=())
    with pytest.raises(InputError, match="cannot be registered without a torch program"):
        register(tmp_path / "model", content, "shapes", uri=f"sqlite:///{tmp_path}/mlflow.db", storage=tmp_path)
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b", "a\nb", "x" * 257])
def test_a_name_that_mlflow_would_refuse_is_told_first(name: str) -> None:
    with pytest.raises(InputError, match="--register"):
        check_model_name(name)


def test_an_mlflow_that_does_not_answer_leaves_the_bundle(shapes_bundle: Path, tmp_path: Path) -> None:
    content = json.loads((shapes_bundle / "bundle.json").read_text())
    with pytest.raises(InputError, match=r"must be an MLflow that takes the model.*is complete"):
        register(shapes_bundle, content, "shapes", uri="http://127.0.0.1:9", storage=tmp_path)
    read_bundle(shapes_bundle)
