"""The model folder that a finished training ends in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tunesearch.ledger.versions import versions
from tunesearch.production.bundle import Training, write_bundle
from tunesearch.production.training.job import Job
from tunesearch.production.training.source import Source
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.user_code import user_code_files
from tunesearch.version import __version__


def write_model_folder(
    job: Job,
    source: Source,
    output: Path,
    *,
    name: str,
    effective: dict[str, Any],
    best: EpochMetrics,
    curve: Sequence[EpochMetrics],
    formats: Sequence[str],
    on_message: Callable[[str], None],
) -> None:
    """Write the model folder of a finished training; an empty folder in its place is taken away first.

    Args:
        effective: ``Trainer.effective()``.
        best: the epoch whose weights are kept.
        curve: the metrics of every epoch.
    """
    if output.is_dir() and not any(output.iterdir()):
        output.rmdir()
    with job.user_code():
        training = Training(
            name=name,
            document=_document(job, source, best, epochs=len(curve)),
            split=job.trained_split,
            weights=job.folder / "best.safetensors",
            effective=effective,
            curve=tuple(curve),
            code=user_code_files(job.config, job.data),
        )
        write_bundle(training, output, formats=formats, on_message=on_message)


def _document(job: Job, source: Source, best: EpochMetrics, *, epochs: int) -> dict[str, Any]:
    """The new model's config.yaml."""
    objective, validated = source.objective, job.on == "train"
    return {
        "trained_from": source.origin,  # not search and trial: it is not that trial's network
        "tunesearch": __version__,
        "outcome": "completed",
        "on": job.on,
        "score": {
            "objective": objective.metric,
            "resolution": objective.resolution,
            "value": float(getattr(best, objective.metric)) if validated else None,
            "val_miou": best.val_miou if validated else None,
            "epoch": best.epoch,
            "epochs": epochs,
        },
        "config": job.config.model_dump(mode="json"),
        "data": {**job.data.model_dump(mode="json"), "digest": job.trained_split.digest},
        "versions": versions(),
    }
