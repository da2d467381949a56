"""The public face: what ``import tunesearch`` offers. Oracle: the list below; removing a name breaks users."""

from __future__ import annotations

import subprocess
import sys

import tunesearch

FACE = [
    "DataConfig", "EpochMetrics", "Experiment", "Halted", "InputError", "NoUsableTrial", "Problem", "Progress",
    "SearchResult", "TrainConfig", "Trainer", "TunesearchError", "__version__", "compare", "confirm", "enqueue",
    "ensemble", "evaluate", "export", "extend", "leaderboard", "list_searches", "load", "load_experiment", "predict",
    "report", "resume", "retry", "run", "stop", "sync", "train",
]  # fmt: skip


def test_the_face_is_complete_and_importable() -> None:
    assert sorted(tunesearch.__all__) == sorted(FACE)
    for name in FACE:
        assert getattr(tunesearch, name) is not None
    assert dir(tunesearch) == sorted(FACE)


def test_importing_it_is_instant() -> None:
    """Nothing heavy comes along: told by Python itself."""
    code = "import sys, tunesearch; print(*sys.modules)"
    modules = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not modules & {"torch", "ray", "optuna", "mlflow", "numpy", "pydantic"}
