"""Production training: with one seed or several, each ending in a model folder.

A training that is not finished has its files beside its output, in ``OUTPUT.training``: the checkpoint, the best
weights so far and ``training.json``, by which it is recognised when it is started again. OUTPUT appears whole, at the
end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesearch.engine.interruption import Interruption
from tunesearch.production.training.one_training import OneTraining
from tunesearch.production.training.output import finished_result, require_free
from tunesearch.production.training.plan import plan_job, with_files
from tunesearch.production.training.seeds import chosen_seeds, seed_folders, summarize
from tunesearch.production.training.setup import TrainingSetup
from tunesearch.production.training.source import read_source
from tunesearch.segmentation.epoch import EpochMetrics


def train(
    path: Path,
    setup: TrainingSetup,
    *,
    on_message: Callable[[str], None] = lambda text: None,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
) -> dict[str, Any]:
    """Train a model folder or an exported configuration to its last epoch; goes on where a killed one stood.

    Ends in a model folder, ``setup.output``; with several seeds in one for each below it, ``seed-N``, and
    ``summary.json``. The same goes to MLflow.

    A model folder's frozen files are trained on, each verified by its hash; on a CPU with the number of threads that it
    records, so that the same training gives the same curve.

    Returns:
        ``outcome``, ``output``, ``weights`` (None unless it completed), the metrics of the ``best`` epoch, the number
        of ``epochs``, ``reproduced`` (whether the curve is the recorded one; None: not comparable); with several seeds
        ``outcome``, ``output``, ``metric``, ``mean``, ``deviation`` and ``trainings``.

    Raises:
        InputError: the configuration, the data set or the weights are not as they must be.
        DiskFull, Halted: the surroundings ended it; it goes on when it is started again.
    """
    source, output = read_source(path), setup.output
    seeds = chosen_seeds(source, setup)
    job = plan_job(source, setup, on_message)
    folders = seed_folders(output, seeds) if len(seeds) > 1 else {}
    if not folders:
        require_free(output)

    with Interruption() as interruption, _threads_kept():
        job = with_files(job, source, data_as_is=setup.data_as_is, on_message=on_message)

        def train_one(seed: int, folder: Path, name: str) -> dict[str, Any]:
            one = replace(job, config=job.config.model_copy(update={"seed": seed}))
            result = finished_result(one, source, folder) if folders else None
            if result is not None:
                return result
            training = OneTraining(
                one, source, folder, name=name, setup=setup, on_message=on_message, on_epoch=on_epoch
            )
            return training.train(interruption)

        if not folders:
            return train_one(seeds[0] if seeds else job.config.seed, output, output.name)
        results = []
        for seed, folder in folders.items():
            on_message(f"seed {seed}: {folder}")
            results.append({"seed": seed, **train_one(seed, folder, f"{output.name}-seed-{seed}")})
    return summarize(results, source.objective, output)


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Leave torch's number of threads as it was."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
