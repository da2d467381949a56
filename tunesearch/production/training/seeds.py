"""Training with several seeds: which ones, where each is kept, and the summary."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesearch.errors import InputError, Problem
from tunesearch.experiment import Objective
from tunesearch.production.bundle import is_bundle
from tunesearch.production.training.output import require_no_other_files
from tunesearch.production.training.setup import TrainingSetup
from tunesearch.production.training.source import Source
from tunesearch.segmentation.files import write_text


def chosen_seeds(source: Source, setup: TrainingSetup) -> list[int]:
    """The seeds to train with, each once, in the order that they were given in; none: the configuration's.

    Raises:
        InputError: both a number of seeds and seeds are given.
    """
    seeds = list(setup.seeds)
    if setup.repeats > 1:
        if seeds:
            raise InputError(Problem("--seeds", "is a number of seeds, and --seed gives them: give one of both"))
        seeds = [(source.config.seed + step) % 2**32 for step in range(setup.repeats)]
    return list(dict.fromkeys(seeds))


def seed_folders(output: Path, seeds: Sequence[int]) -> dict[int, Path]:
    """The model folder of each of several seeds.

    Raises:
        InputError: the output is a model folder itself, or something else is where one is to be.
    """
    if is_bundle(output):
        rule = "is a model folder, and several seeds need a folder for theirs"
        raise InputError(Problem(str(output), rule, hint="-o gives another folder"))
    folders = {seed: output / f"seed-{seed}" for seed in seeds}
    for folder in folders.values():
        require_no_other_files(folder)
    return folders


def summarize(results: Sequence[dict[str, Any]], objective: Objective, output: Path) -> dict[str, Any]:
    """Mean and sample deviation over the seeds; also written to ``summary.json``."""
    found = [result["best"][objective.metric] for result in results if result["weights"]]
    values = [value for value in found if value is not None]
    outcomes = {result["outcome"] for result in results}
    summary: dict[str, Any] = {
        "outcome": "completed" if outcomes == {"completed"} else next(iter(outcomes - {"completed"})),
        "output": str(output),
        "metric": objective.metric,
        "mean": statistics.fmean(values) if values else None,
        "deviation": statistics.stdev(values) if len(values) > 1 else None,
        "trainings": list(results),
    }
    write_text(output / "summary.json", json.dumps(summary, indent=1) + "\n")
    return summary
