"""Production training: the same trainer, all epochs, from an exported configuration."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunesearch.errors import InputError, Problem
from tunesearch.production.configuration import read_configuration
from tunesearch.segmentation.data.augmentation import check_augmentation
from tunesearch.segmentation.data.cache import decoded, original_masks
from tunesearch.segmentation.data.checks import check_data
from tunesearch.segmentation.data.layouts import resolve_classes
from tunesearch.segmentation.data.splits import freeze_split
from tunesearch.segmentation.files import write_text
from tunesearch.segmentation.trainer import EpochMetrics, Trainer
from tunesearch.tracking import TrainingRun, measured_on


def train(
    path: Path,
    *,
    output: Path,
    tracking_uri: str,
    storage: Path,
    data_root: Path | None = None,
    encoder_weights: Path | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    threads: int | None = None,
    said: Callable[[str], None] = lambda text: None,
    epoch_done: Callable[[EpochMetrics], None] = lambda metrics: None,
) -> dict[str, Any]:
    """Train an exported configuration to its last epoch; goes on where a killed one stood.

    Writes ``weights.safetensors`` (of the best epoch), ``metrics.json``, ``effective.json`` and a copy of the
    configuration to ``output``, and the same to MLflow.

    Returns:
        ``outcome``, ``output``, ``weights`` (None unless a best epoch exists) and the best epoch's metrics.

    Raises:
        InputError: the configuration, the data set or the weights are not as they must be.
    """
    import torch

    config, data, document = read_configuration(path)
    changes = {"epochs": epochs, "seed": seed}
    config = config.model_copy(update={key: value for key, value in changes.items() if value is not None})
    if data_root is not None:
        data = data.model_copy(update={"root": data_root.expanduser().absolute()})
    if (output / "weights.safetensors").exists():
        raise InputError(Problem(str(output), "holds a finished training already", hint="-o gives another folder"))
    if str(path.parent.resolve()) not in sys.path:  # for a network or loss of the user's own
        sys.path.append(str(path.parent.resolve()))
    if threads is not None:
        torch.set_num_threads(threads)
    split = freeze_split(data)
    check_data(data, split=split).raise_if_broken()
    if split.digest != document["data"].get("digest"):
        said("note: the data set is not the one that the search used (its digest differs)")
    classes = resolve_classes(data)
    parts = [decoded(data, split, part, config.size) for part in ("train", "val")]
    check_augmentation(config)
    score = document.get("score", {})
    state = _State(output)
    state.begin({"config": config.model_dump(mode="json"), "data_digest": split.digest})
    trainer = Trainer(
        config,
        train=parts[0],
        val=parts[1],
        classes=len(classes),
        background=data.background,
        encoder_weights=encoder_weights,
        folder=output,
        workers=min(8, (os.cpu_count() or 1) - 1) if torch.cuda.is_available() else 0,
        monitor=str(score.get("objective", "val_miou")),
        originals=original_masks(data, split, "val") if score.get("resolution") == "original" else None,
    )
    write_text(output / "effective.json", json.dumps(trainer.effective(), indent=1))
    write_text(output / "config.yaml", path.read_text("utf-8"))
    if trainer.resumed is not None:
        said(f"going on after epoch {trainer.resumed.epoch}")
    run = TrainingRun(
        tracking_uri,
        storage=storage,
        name=output.name,
        params=config.model_dump(mode="json"),
        tags={
            "tunesearch.search": str(document.get("search", "")),
            "tunesearch.trial": str(document.get("trial", "")),
            **measured_on(
                data,
                split.digest,
                objective=str(score.get("objective", "val_miou")),
                resolution=str(score.get("resolution", "network")),
            ),
        },
        run_id=state.run_id if trainer.resumed is not None else None,
    )
    state.note(run_id=run.run_id)
    if trainer.resumed is not None:
        state.note(metrics=trainer.resumed)
    for metrics in trainer.epochs():
        state.note(metrics=metrics)
        run.epoch(metrics)
        epoch_done(metrics)
    outcome = str(trainer.outcome)
    write_text(output / "metrics.json", json.dumps({"outcome": outcome, "epochs": state.curve}, indent=1))
    weights = output / "weights.safetensors"
    if outcome == "completed" and (output / "best.safetensors").is_file():
        (output / "best.safetensors").replace(weights)
        (output / "last.pt").unlink(missing_ok=True)
    files = [output / name for name in ("weights.safetensors", "metrics.json", "effective.json", "config.yaml")]
    run.finish(outcome, [file for file in files if file.is_file()])
    if run.trouble:
        said(f"note: MLflow does not have all of it ({run.trouble})")
    return {
        "outcome": outcome,
        "output": str(output),
        "weights": str(weights) if weights.is_file() else None,
        "best": asdict(trainer.best) if trainer.best else None,
        "epochs": len(state.curve),
    }


class _State:
    """What a training that was killed is recognised by and goes on from: ``training.json`` in its folder.

    Attributes:
        run_id: of its MLflow run; None before there is one.
        curve: the metrics of every epoch so far.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "training.json"
        self.run_id: str | None = None
        self.curve: list[dict[str, Any]] = []
        self.what: dict[str, Any] = {}

    def begin(self, what: dict[str, Any]) -> None:
        """Take over an earlier session of the same training, or start a new one.

        Raises:
            InputError: the folder holds another training.
        """
        if self.file.is_file():
            try:
                earlier = json.loads(self.file.read_text("utf-8"))
            except ValueError:
                earlier = {}
            if earlier.get("what") != what:
                problem = Problem(
                    str(self.file.parent),
                    "holds an unfinished training of another configuration or data set",
                    hint="-o gives another folder",
                )
                raise InputError(problem)
            self.run_id, self.curve = earlier["run_id"], earlier["curve"]
        self.what = what
        self.note()

    def note(self, *, run_id: str | None = None, metrics: EpochMetrics | None = None) -> None:
        """Keep what is new; an epoch that is told again replaces itself."""
        self.run_id = run_id or self.run_id
        if metrics is not None:
            self.curve = [epoch for epoch in self.curve if epoch["epoch"] < metrics.epoch] + [asdict(metrics)]
        write_text(self.file, json.dumps({"what": self.what, "run_id": self.run_id, "curve": self.curve}))
