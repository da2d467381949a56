"""Fixtures for all tests."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tunesearch.segmentation.epoch import EpochMetrics

_LONGEST_FIRST = (
    "faults",
    "engine",
    "compatibility",
    "production",
    "tracking",
    "cli",
    "test_",
    "strategy",
    "ledger",
    "segmentation",
)
"""Folders and files of tests, in the order in which several processes take them up."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the tests, file by file, the longest files begin first."""
    if not hasattr(config, "workerinput"):
        return

    def turn(item: pytest.Item) -> int:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        return next((index for index, name in enumerate(_LONGEST_FIRST) if path.startswith(name)), len(_LONGEST_FIRST))

    items.sort(key=turn)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of the real test data: ``$TUNESEARCH_TEST_DATA``, else ``shared`` beside the repository."""
    named = os.environ.get("TUNESEARCH_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared"
    if not (folder / "data" / "voc2012_subset").is_dir():
        pytest.skip("the real test data is not here: TUNESEARCH_TEST_DATA must name the folder that holds data/")
    return folder


TINY_MODEL = '''
"""A network small enough for tests, and ways to go wrong."""
import os, pathlib
import torch
from torch import nn

HERE = pathlib.Path(__file__).parent

def tiny(config, classes):
    first = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*first, nn.Dropout2d(config.dropout), nn.Conv2d(8, classes, 1))

def broken(config, classes):
    raise RuntimeError("this network cannot be built: on purpose")

def dies_once(config, classes):
    """Kills its process when it is first used in a second epoch; the next process goes on."""
    network = tiny(config, classes)
    marker, calls = HERE / "died", {"train": 0}
    def count(module, inputs):
        if module.training:
            calls["train"] += 1
            if calls["train"] > 3 and not marker.exists():
                marker.touch()
                os._exit(1)
    network.register_forward_pre_hook(count)
    return network

def dies_always(config, classes):
    os._exit(1)

def _of_memory_for(images, config, classes):
    network = tiny(config, classes)
    def allocate(module, inputs):
        if len(inputs[0]) > images:
            raise torch.OutOfMemoryError("out of memory: on purpose")
    network.register_forward_pre_hook(allocate)
    return network

def fits_in_fours(config, classes):
    return _of_memory_for(4, config, classes)

def never_fits(config, classes):
    return _of_memory_for(0, config, classes)

def not_a_number(config, ignore_index, weight):
    return lambda logits, masks: logits.sum() * float("nan")

def other_loss(config, ignore_index, weight):
    return nn.CrossEntropyLoss(ignore_index=ignore_index)
'''

TINY_SPACE = """
name: tiny
data: {layout: sample}
train: {architecture: "tiny_model:tiny", epochs: 3, size: 32x32, batch_size: 16, augmentation_strength: 0}
search: {trials: 4, seed: 3}
scheduler: {asha: {grace_epochs: 1, reduction: 2}}
parameters:
  optimizer: {choice: [adam, sgd]}
  momentum: {float: [0.5, 0.95], when: {optimizer: sgd}}
  lr: {float: [1.0e-4, 1.0e-1], log: true}
"""


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read from or left in the user's own cache, storage or MLflow."""
    before = {name: os.environ.get(name) for name in ("TUNESEARCH_CACHE", *_OUTSIDE)}
    os.environ["TUNESEARCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    for name in _OUTSIDE:
        os.environ.pop(name, None)
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


_OUTSIDE = ("TUNESEARCH_STORAGE", "TUNESEARCH_LEDGER", "MLFLOW_TRACKING_URI", "RAY_ADDRESS")


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process: (arguments) -> exit code, stdout and stderr."""
    from tunesearch.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def write_tiny_space() -> Callable[[Path], Path]:
    """Writes, into a new folder ``space`` of the given one, what :func:`tiny_space` gives."""

    def write(parent: Path) -> Path:
        folder = parent / "space"
        folder.mkdir()
        (folder / "tiny_model.py").write_text(TINY_MODEL)
        (folder / "tiny.yaml").write_text(TINY_SPACE)
        return folder / "tiny.yaml"

    return write


@pytest.fixture
def tiny_space(tmp_path: Path, write_tiny_space: Callable[[Path], Path]) -> Path:
    """A search-space file of a tiny network of the user's own on the built-in sample, with its module beside it."""
    return write_tiny_space(tmp_path)


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Puts MLflow's database, still empty, where there is none, and gives its URI: ``mlflow.db`` of a storage folder.

    MLflow makes one in dozens of migrations, which take seconds. Here it does so once; all others are copies.
    """
    from tunesearch.tracking.store import prepare_database

    made = tmp_path_factory.mktemp("mlflow") / "mlflow.db"

    def put(folder: Path, name: str = "mlflow.db") -> str:
        if not made.exists():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # MLflow's own, about its dependencies
                prepare_database(f"sqlite:///{made}")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made, folder / name)
        return f"sqlite:///{folder / name}"

    return put


@pytest.fixture
def storage(tmp_path: Path, mlflow_database: Callable[[Path], str]) -> Path:
    """A storage folder, ``runs`` of the test's own, in which there is nothing but MLflow's empty database."""
    mlflow_database(tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def epoch_metrics() -> Callable[..., EpochMetrics]:
    """Makes the metrics of an epoch whose scores are all ``miou``, the validation loss 1 minus it; others by name."""
    from tunesearch.segmentation.epoch import EpochMetrics

    def make(epoch: int, miou: float, **others: Any) -> EpochMetrics:
        usual = {
            "train_loss": 1.0, "val_loss": 1.0 - miou, "val_miou": miou, "val_miou_no_background": miou,
            "val_dice": miou, "val_pixel_accuracy": miou, "val_iou": (miou, None), "lr": 0.1, "updates": epoch,
            "train_seconds": 1.0, "val_seconds": 0.5, "images_per_second": 10.0, "finished_at": 1000.0 + epoch,
        }  # fmt: skip
        return EpochMetrics(epoch=epoch, **(usual | others))

    return make


@pytest.fixture(scope="session")
def own_ray() -> Iterator[Path]:
    """One private Ray of two CPUs for all tests that search in this process; searches use a Ray that is there.

    Gives the file that its trials append their epochs to, for ``epochs_trained``. It is in the environment when Ray
    starts, and so in that of its processes.
    """
    import ray

    folder = tempfile.mkdtemp(prefix="ts-ray-", dir="/tmp")
    log = Path(folder) / "epochs.log"
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESEARCH_EPOCH_LOG", str(log))
        warnings.simplefilter("ignore")
        ray.init(
            address="local",
            num_cpus=2,
            _temp_dir=folder,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    yield log
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def epochs_trained(own_ray: Path) -> Callable[[], list[tuple[int, int]]]:
    """Tells (trial, epoch) of every epoch that trials on ``own_ray`` have finished since it was asked last."""

    def ends() -> list[tuple[int, int]]:
        words = [line.split() for line in own_ray.read_text().splitlines()] if own_ray.exists() else []
        return [(int(number), int(epoch)) for what, number, epoch, *_ in words if what == "end"]

    told = len(ends())

    def ask() -> list[tuple[int, int]]:
        nonlocal told
        found = ends()[told:]
        told += len(found)
        return found

    return ask


class Services:
    """PostgreSQL and MLflow in a folder of their own, brought up by the script that a cluster's head runs.

    PostgreSQL refuses root, so root runs it as ``nobody``, who then may read the environment that Python is in.

    Attributes:
        environment: what the script gets.
        storage: the searches' storage; the databases and secrets are in ``storage/.services``.
    """

    SCRIPT = Path(__file__).parents[1] / "cluster" / "services.sh"

    def __init__(self, folder: Path) -> None:
        self.storage = folder / "runs"
        home = folder / "home"
        home.mkdir()
        ports = []
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                listener = stack.enter_context(socket.socket())
                listener.bind(("127.0.0.1", 0))
                ports.append(str(listener.getsockname()[1]))
        self.environment = {
            "HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TUNESEARCH_STORAGE": str(self.storage),
            "TUNESEARCH_POSTGRES_PORT": ports[0],
            "TUNESEARCH_MLFLOW_PORT": ports[1],
        }
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            for path in (folder, home):
                shutil.chown(path, "nobody")
            capability = "+dac_override"
            self._as_user = [
                "setpriv", "--reuid=nobody", "--clear-groups",
                f"--inh-caps={capability}", f"--ambient-caps={capability}",
            ]  # fmt: skip

    def call(self, *command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command as the services' user, with some variables changed."""
        return subprocess.run(
            [*self._as_user, *map(str, command)],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def script(self, verb: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the script."""
        return self.call(self.SCRIPT, verb, **environment)

    def variables(self) -> dict[str, str]:
        """What a search finds them by: the script's own words, and the home with the passwords."""
        lines = self.script("environment").stdout.splitlines()
        told = dict(line.removeprefix("export ").split("=", 1) for line in lines)
        return {**told, "HOME": self.environment["HOME"]}


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """PostgreSQL and MLflow, running; skipped where there is no PostgreSQL, unless a test run must not skip it."""
    folder = Path(tempfile.mkdtemp(prefix="ts-services-", dir="/tmp"))  # short: sockets lie below it
    running = Services(folder)
    try:
        up = running.script("up")
        if "there is no PostgreSQL server" in up.stderr and not os.environ.get("TUNESEARCH_NEEDS_POSTGRESQL"):
            pytest.skip(up.stderr.strip())
        assert up.returncode == 0, up.stderr
        yield running
    finally:
        down = running.script("down")
        shutil.rmtree(folder, ignore_errors=True)
    assert down.returncode == 0, down.stderr


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Torch's threads only wait for each other where tests share few cores."""
    import torch

    torch.set_num_threads(1)


def _train(folder: Path, changes: dict[str, Any]) -> Any:
    """A short training on the built-in sample, as a bundle is made of it."""
    from tunesearch.production.bundle import Training
    from tunesearch.segmentation.config import DataConfig, TrainConfig
    from tunesearch.segmentation.data.cache import decoded
    from tunesearch.segmentation.data.layouts import resolve_classes
    from tunesearch.segmentation.data.splits import freeze_split
    from tunesearch.segmentation.trainer import Trainer
    from tunesearch.segmentation.user_code import user_code_files

    usual: dict[str, Any] = {"architecture": "encoder_decoder", "depth": 2, "width": 8, "size": "32x32"}
    usual |= {"epochs": 8, "lr": 0.01, "batch_norm": True, "augmentation": "none"}  # enough to know some classes
    config = TrainConfig.model_validate(usual | changes)
    data = DataConfig(layout="sample")
    split = freeze_split(data)
    train, val = (decoded(data, split, part, config.size) for part in ("train", "val"))
    trainer = Trainer(config, train=train, val=val, classes=len(resolve_classes(data)), folder=folder, device="cpu")
    curve = tuple(trainer.epochs())
    best = max(curve, key=lambda metrics: metrics.val_miou)
    document = {
        "search": "shapes", "space": "small", "trial": 3, "outcome": "completed",
        "score": {
            "objective": "val_miou", "resolution": "network", "value": best.val_miou,
            "val_miou": best.val_miou, "epoch": best.epoch, "epochs": len(curve),
        },
        "config": config.model_dump(mode="json"),
        "data": {**data.model_dump(mode="json"), "root": str(folder), "digest": split.digest},
        "versions": {"torch": "2"},
    }  # fmt: skip
    return Training(
        name="shapes",
        document=document,
        split=split,
        weights=folder / "best.safetensors",
        effective=trainer.effective(),
        curve=curve,
        code=user_code_files(config, data),
    )


@pytest.fixture(scope="session")
def train_on_sample() -> Callable[[Path, dict[str, Any]], Any]:
    """Trains some epochs on the built-in sample: (folder, changes of the configuration) -> Training."""
    return _train


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A training of a small network of our own."""
    return _train(tmp_path_factory.mktemp("training"), {})


@pytest.fixture(scope="session")
def shapes_bundle(shapes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle, with both programs. Not to be changed: tests that do take a copy."""
    from tunesearch.production.bundle import write_bundle

    folder = tmp_path_factory.mktemp("bundle") / "model"
    write_bundle(shapes, folder)
    return folder
