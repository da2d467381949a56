"""Where a training ends, its model folder, and where it is until then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesearch.errors import InputError, Problem
from tunesearch.production.bundle import is_bundle, read_bundle
from tunesearch.production.training.job import Job
from tunesearch.production.training.source import Source, curve_of, signed


def unfinished_folder(output: Path) -> Path:
    """The folder of a training that is not finished."""
    return output.with_name(f"{output.name}.training")


def require_free(output: Path) -> None:
    """That a model folder may be written, before hours are spent on it.

    Raises:
        InputError: there is a finished training, or something else.
    """
    if is_bundle(output) and not unfinished_folder(output).exists():
        raise InputError(Problem(str(output), "holds a finished training already", hint="-o gives another folder"))
    require_no_other_files(output)


def require_no_other_files(output: Path) -> None:
    """That there is nothing but a model folder or an empty one.

    Raises:
        InputError: there is something else.
    """
    empty = output.is_dir() and not any(output.iterdir())
    if (output.exists() or output.is_symlink()) and not empty and not is_bundle(output):
        raise InputError(Problem(str(output), "exists and is no model folder", hint="-o gives another folder"))


def finished_result(job: Job, source: Source, output: Path) -> dict[str, Any] | None:
    """The result of a training that was finished before; None: it was not.

    Raises:
        InputError: the folder holds another training.
    """
    if not is_bundle(output) or unfinished_folder(output).exists():
        return None
    bundle = read_bundle(output)
    if bundle.config != job.config or bundle.split.digest != job.trained_split.digest:
        rule = "holds a finished training of another configuration or data set"
        raise InputError(Problem(str(output), rule, hint="-o gives another folder"))
    curve = curve_of(bundle)
    best = max(curve, key=lambda epoch: signed(epoch, source.objective)) if job.on == "train" else curve[-1]
    return {
        "outcome": "completed",
        "output": str(output),
        "weights": str(output / "weights.safetensors"),
        "best": best.as_dict(),
        "epochs": len(curve),
        "reproduced": None,
    }
