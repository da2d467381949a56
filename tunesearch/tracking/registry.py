"""MLflow's model registry: a bundle as a version of a registered model, loadable with ``mlflow.pyfunc`` alone."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tunesearch.errors import InputError, Problem
from tunesearch.tracking.store import experiment_id, prepare, prepare_database, reason, without_password

EXPERIMENT = "tunesearch-models"
"""MLflow's experiment that registered bundles are logged to."""
_CODE = Path(__file__).parent / "pyfunc_model.py"


def check_model_name(name: str) -> None:
    """Refuse what MLflow would refuse as the name of a registered model.

    Raises:
        InputError: it is empty, or has a character that addresses of models are made with.
    """
    if not name.strip() or any(character in name for character in "/:") or not name.isprintable() or len(name) > 256:
        raise InputError(
            Problem("--register", "must be a name without / and :, of 1 to 256 characters", value=repr(name))
        )


def register(folder: Path, content: dict[str, Any], name: str, *, uri: str, storage: Path) -> str:
    """Make a model folder the next version of a registered model.

    The model is a file of code (``pyfunc_model.py``), no pickle, beside the whole folder. Its signature is pictures
    uint8 (-1, -1, -1, 3) to masks uint8 (-1, -1, -1); it needs MLflow, torch and numpy.

    Args:
        folder: a bundle that has a torch program.
        content: its bundle.json.
        uri: MLflow's tracking URI, which is the registry's, too.
        storage: where artifacts go if that is a database on this machine.

    Returns:
        The version.

    Raises:
        InputError: the bundle has no torch program; MLflow does not answer or refuses it.
    """
    check_model_name(name)
    if "file" not in content["programs"].get("torch", {}):
        why = content["programs"].get("torch", {}).get("left_out", "it was not asked for")
        raise InputError(Problem(str(folder), "cannot be registered without a torch program", hint=why))
    try:
        return _register(folder, content, name, uri, storage)
    except InputError:
        raise
    except Exception as error:  # MLflow may raise anything that a network, a database or a server can
        rule = f"must be an MLflow that takes the model: {reason(error)}"
        hint = f"the model folder {folder} is complete"
        raise InputError(Problem("--tracking-uri", rule, value=without_password(uri), hint=hint)) from error


def _register(folder: Path, content: dict[str, Any], name: str, uri: str, storage: Path) -> str:
    prepare(retries=2)
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    prepare_database(uri)
    size = content["preprocessing"]["size"]
    pictures = Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))])
    masks = Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1))])
    origin, score, confirmation = content["origin"], content["score"] or {}, content["confirmation"] or {}
    repeated = origin.get("trial") if origin.get("confirms") is None else origin["confirms"]
    won = confirmation.get("winner") is not None and confirmation["winner"] == repeated
    tags = {
        "tunesearch.search": origin.get("search"),
        "tunesearch.trial": origin.get("trial"),
        "tunesearch.objective": score.get("objective"),
        "tunesearch.score": score.get("value"),
        "tunesearch.confirmed": "true" if won else "false",
        "tunesearch.verdict": confirmation.get("verdict"),
        "tunesearch.data": content["data"]["digest"],
        "tunesearch.bundle": content["sha256"],
    }
    known = {key: str(value) for key, value in tags.items() if value is not None}
    with _at(uri), _quiet():
        client = mlflow.MlflowClient()
        experiment = experiment_id(client, EXPERIMENT, uri=uri, storage=storage)
        with mlflow.start_run(experiment_id=experiment, run_name=f"{name} from {content['name']}", tags=known):
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(_CODE),
                artifacts={"bundle": str(folder)},
                signature=ModelSignature(inputs=pictures, outputs=masks),
                input_example=np.zeros((1, size["height"], size["width"], 3), np.uint8),
                pip_requirements=[f"{package}=={_release(package)}" for package in ("mlflow", "torch", "numpy")],
                registered_model_name=name,
            )
        version = str(logged.registered_model_version)
        for key, value in known.items():
            client.set_model_version_tag(name, version, key, value)
    return version


def _release(package: str) -> str:
    """Its version without the build that one machine has of it."""
    return importlib.metadata.version(package).partition("+")[0]


@contextlib.contextmanager
def _at(uri: str) -> Iterator[None]:
    """MLflow's global tracking address, and afterwards what it was: MLflow also writes it to the environment."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars, and without what MLflow tells and warns about on the way."""
    before = {key: os.environ.get(key) for key in ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "TQDM_DISABLE")}
    os.environ.update(MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false", TQDM_DISABLE="1")
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
