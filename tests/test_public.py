"""The public face: what ``import tunesearch`` offers. Oracle: the list below; removing a name breaks users."""

from __future__ import annotations

import subprocess
import sys

import tunesearch

FACE = [
    "DataConfig", "EpochMetrics", "Experiment", "Halted", "InputError", "NoUsableTrial", "Problem", "SearchCallback",
    "SearchResult", "TrainConfig", "Trainer", "TunesearchError", "__version__", "compare", "confirm", "enqueue",
    "ensemble", "evaluate", "export", "extend", "leaderboard", "list_searches", "load", "load_experiment", "predict",
    "report", "resume", "retry", "run", "stop", "sync", "train",
]  # fmt: skip


def test_the_face_is_complete_and_importable() -> None:
    assert sorted(tunesearch.__all__) == sorted(FACE)
    for name in FACE:
        assert getattr(tunesearch, name) is not None
    assert dir(tunesearch) == sorted(FACE)


def _imported(code: str) -> set[str]:
    """What Python itself says is imported behind a line of code."""
    code = f"import sys; {code}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_it_is_instant() -> None:
    assert not _imported("import tunesearch") & {"torch", "ray", "optuna", "mlflow", "numpy", "pydantic"}


def test_who_only_looks_or_asks_does_not_wait_for_torch() -> None:
    """``list``, ``show``, ``compare``, ``enqueue`` ... answer in the time that reading the ledger takes."""
    verbs = "load, list_searches, compare, sync, report, extend, enqueue, retry, stop"
    heavy = {"torch", "ray", "mlflow", "albumentations", "segmentation_models_pytorch", "plotly"}
    assert not _imported(f"from tunesearch import {verbs}") & heavy
