"""Named points inside a search at which a test can hold it and kill something. Put on PYTHONPATH by ``harness.py``.

Python imports this at start, in the driver and in Ray's workers alike. It does nothing unless ``$TUNESEARCH_FAULTS``
names a folder; then the functions below are wrapped as their modules are imported. In that folder:

    armed    written by the harness: ``POINT COUNT``, for example ``ledger.end after 3``
    hits     one byte for each time the armed point was reached, by whichever process
    held     written by the process that reached it for the COUNT-th time, with its pid; it waits until the file is gone

Standard library only: nothing is imported earlier than without it.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

FAULTS = "TUNESEARCH_FAULTS"
POINTS = (
    "ledger.ask before", "ledger.ask after",
    "ledger.commit_epoch before", "ledger.commit_epoch inside", "ledger.commit_epoch after",
    "ledger.end before", "ledger.end inside", "ledger.end after",
    "ledger.attribute before", "ledger.attribute after",
    "asha before", "asha after",
    "take before", "take after",
    "checkpoint before", "checkpoint after",
    "tracker.create_run before", "tracker.create_run after",
    "tracker.log_batch before", "tracker.log_batch after",
    "schema inside",
)  # fmt: skip
"""``inside``: between two transactions of one call. ``asha``: a decision at a rung. ``take``: all that the driver does
with a report. ``checkpoint``: before and after the rename of a trial's ``last.pt``, in the worker. ``schema``: a
database is being made, one migration after another; the ledger's has one, MLflow's dozens."""


def reach(point: str) -> None:
    """Say that ``point`` was reached, and wait there if it is the armed one."""
    folder = Path(os.environ[FAULTS])
    try:
        wanted, count = (folder / "armed").read_text().rsplit(" ", 1)
    except (FileNotFoundError, ValueError):
        return
    if wanted != point:
        return
    hits = os.open(folder / "hits", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(hits, b".")
        if os.fstat(hits).st_size < int(count):
            return
    finally:
        os.close(hits)
    try:
        held = os.open(folder / "held", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:  # another process holds already
        return
    os.write(held, str(os.getpid()).encode())
    os.close(held)
    while (folder / "held").exists():
        time.sleep(0.002)


def around(owner: Any, name: str, point: str, when: Callable[..., bool] = lambda *args, **kwargs: True) -> None:
    """Make the calls of a function, or method of a class, points; ``when`` is given a call's arguments."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        here = when(*args, **kwargs)
        if here:
            reach(f"{point} before")
        result = function(*args, **kwargs)
        if here:
            reach(f"{point} after")
        return result

    setattr(owner, name, wrapped)


def inside(owner: Any, name: str, point: str) -> None:
    """Make the beginning of a method the point ``POINT inside``, where it is called on the way through another one."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        reach(f"{point} inside")
        return function(*args, **kwargs)

    setattr(owner, name, wrapped)


def _asking(module: ModuleType) -> None:
    around(module.Asker, "ask", "ledger.ask")  # type: ignore[attr-defined]


def _ledger(module: ModuleType) -> None:
    for name in ("commit_epoch", "end"):
        around(module.Ledger, name, f"ledger.{name}")  # type: ignore[attr-defined]


def _database(module: ModuleType) -> None:
    storage = module.RDBStorage  # type: ignore[attr-defined]
    inside(storage, "set_trial_intermediate_value", "ledger.commit_epoch")
    inside(storage, "set_trial_state_values", "ledger.end")
    around(storage, "set_study_user_attr", "ledger.attribute")


def _asha(module: ModuleType) -> None:
    def at_a_rung(self: Any, number: int, epoch: int, value: float) -> bool:
        return epoch in self.rungs

    around(module.Asha, "stops", "asha", at_a_rung)  # type: ignore[attr-defined]


def _conductor(module: ModuleType) -> None:
    around(module.Conductor, "take", "take")  # type: ignore[attr-defined]


def _files(module: ModuleType) -> None:
    write_atomic = module.write_atomic  # type: ignore[attr-defined]

    @functools.wraps(write_atomic)
    def wrapped(path: Path, write: Callable[[Path], object]) -> None:
        def filled(temporary: Path) -> None:
            write(temporary)
            reach("checkpoint before")

        checkpoint = path.name == "last.pt"
        write_atomic(path, filled if checkpoint else write)
        if checkpoint:
            reach("checkpoint after")

    module.write_atomic = wrapped  # type: ignore[attr-defined]


def _alembic(module: ModuleType) -> None:
    inside(module.HeadMaintainer, "update_to_step", "schema")  # type: ignore[attr-defined]


def _mlflow(module: ModuleType) -> None:
    for name in ("create_run", "log_batch"):
        around(module.MlflowClient, name, f"tracker.{name}")  # type: ignore[attr-defined]


HOOKS: dict[str, Callable[[ModuleType], None]] = {
    "tunesearch.engine.asking": _asking,
    "tunesearch.ledger.store": _ledger,
    "tunesearch.strategy.asha": _asha,
    "tunesearch.engine.conductor": _conductor,
    "tunesearch.segmentation.files": _files,
    "optuna.storages._rdb.storage": _database,
    "mlflow.tracking.client": _mlflow,
    "alembic.runtime.migration": _alembic,
}
"""What is done to a module once it is imported. A name that is no longer there is an error, and the search ends."""


class _Finder:
    """Finds a module of HOOKS as any other finder would, and has its hook run behind its own code."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        if name not in HOOKS:
            return None
        others = (finder for finder in sys.meta_path if finder is not _Finder)
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                HOOKS[name](module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _next_sitecustomize() -> None:
    """Run the one that Python would have found without this folder."""
    here = Path(__file__).resolve().parent
    others = [folder for folder in sys.path if Path(folder or ".").resolve() != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


if __name__ == "sitecustomize":
    _next_sitecustomize()
    if os.environ.get(FAULTS):
        sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
