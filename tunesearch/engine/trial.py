"""A search trial: Ray's class trainable around the Trainer. One step is one epoch; the actor is reused by later trials.

What it returns to the driver is one JSON text under ``report``: the trial's number, the epoch's metrics (none when the
training ended without one) and the outcome (null while it goes on). A trial that cannot go on for a reason that is not
its own, a full disk, says so under ``halt``. Committing and deciding is the driver's work.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from tunesearch.engine.heartbeat import Heartbeat
from tunesearch.engine.nodes import Demands, examine
from tunesearch.errors import DiskFull, Infeasible, UnfitNode
from tunesearch.ledger.folders import read_experiment
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.data.cache import DecodedPart, OriginalMasks, decoded, original_masks
from tunesearch.segmentation.data.layouts import resolve_classes
from tunesearch.segmentation.data.overlay import PanelRow, panel
from tunesearch.segmentation.data.palette import palette
from tunesearch.segmentation.data.splits import POOL, Split, folds
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.files import write_atomic, write_text
from tunesearch.segmentation.folds import FoldedTrainer
from tunesearch.segmentation.trainer import Trainer

EPOCH_LOG = "TUNESEARCH_EPOCH_LOG"
"""Environment variable: a file to which the begin and the end of every trained epoch are appended, for tests that count
epochs independently of the ledger. The end is written once the epoch's checkpoint is on disk."""
WATCHED = 4
"""How many validation images are drawn with their prediction."""


class SegmentationTrial(tune.Trainable):  # type: ignore[misc]  # Ray's classes are untyped
    """Trains the configuration it is given; :func:`tunesearch.engine.run.drive` says what that holds."""

    def setup(self, config: dict[str, Any]) -> None:
        """Only remember: a fault here could not be told from one of Ray, so the first step builds everything."""
        self.assignment = config
        self.trainer: Trainer | FoldedTrainer | None = None
        self.epochs: Iterator[EpochMetrics] | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take over the next trial."""
        self._close()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch; a resumed trial first reports its checkpoint's epoch again."""
        try:
            return self._epoch()
        except Infeasible as error:
            return self._report(None, "infeasible", str(error))
        except torch.OutOfMemoryError as error:  # the network alone does not fit; the trainer handles the rest
            return self._report(None, "out_of_memory", str(error).splitlines()[0])
        except DiskFull as error:
            return self._report(None, None, halt=str(error))

    def _epoch(self) -> dict[str, Any]:
        if self.trainer is None:
            heartbeat = Heartbeat(Path(self.assignment["folder"]), ray.get_runtime_context().get_node_id())
            with heartbeat.throughout():
                self.trainer = self._build(heartbeat)
            self.epochs = self.trainer.epochs()
            if self.trainer.resumed is not None:
                return self._report(self.trainer.resumed, self.trainer.outcome)
        assert self.epochs is not None
        self._log("begin", self.trainer.epoch + 1)
        metrics = next(self.epochs, None)
        if metrics is not None:
            self._log("end", metrics.epoch)
            if self.trainer.best is metrics:
                self._draw()
        return self._report(metrics, self.trainer.outcome)

    def cleanup(self) -> None:
        """Free what the last trial held."""
        self._close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the trainer keeps its own checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: the trainer finds its own checkpoint."""

    # ---------------------------------------------------------------------------------------------------------- inside

    def _build(self, heartbeat: Heartbeat) -> Trainer | FoldedTrainer:
        assignment = self.assignment
        _require_fit_node(assignment["demands"])  # before anything is written: the storage may not be mounted here
        self.folder = Path(assignment["folder"])
        self.folder.mkdir(parents=True, exist_ok=True)
        search = Path(assignment["search"])
        if assignment["code"] not in sys.path:  # a user's own model lies beside the search space
            sys.path.append(assignment["code"])
        torch.set_num_threads(max(1, int(assignment["cpus"])))
        experiment = read_experiment(search)
        split = Split.load(search / "split.json")
        config = TrainConfig.model_validate(assignment["config"])
        self.classes = resolve_classes(experiment.data)
        original = experiment.objective.resolution == "original"
        weights = assignment["encoder_weights"]

        def trainer_of(train: DecodedPart, val: DecodedPart, masks: OriginalMasks | None, folder: Path) -> Trainer:
            return Trainer(
                config,
                train=train,
                val=val,
                classes=len(self.classes),
                background=experiment.data.background,
                encoder_weights=Path(weights) if weights else None,
                folder=folder,
                workers=assignment["workers"],
                watch=_watched(val),
                monitor=experiment.objective.metric,
                originals=masks,
                heartbeat=heartbeat.beat,
            )

        trainer: Trainer | FoldedTrainer
        if experiment.data.folds is None:
            with self._blaming_node():
                train, self.val = (decoded(experiment.data, split, part, config.size) for part in ("train", "val"))
            masks = original_masks(experiment.data, split, "val") if original else None
            trainer = trainer_of(train, self.val, masks, self.folder)
        else:
            with self._blaming_node():
                pool = decoded(experiment.data, split, POOL, config.size)
            masks = original_masks(experiment.data, split, POOL) if original else None
            rows = folds(experiment.data, split)
            self.val = pool.subset(rows[0][1])  # the pictures are the first fold's

            def of_folds() -> FoldedTrainer:
                trainers = []
                for fold, (train_rows, val_rows) in enumerate(rows):
                    folder = self.folder / f"fold-{fold}"
                    folder.mkdir(exist_ok=True)
                    truth = masks.subset(val_rows) if masks is not None else None
                    trainers.append(trainer_of(pool.subset(train_rows), pool.subset(val_rows), truth, folder))
                return FoldedTrainer(trainers, folder=self.folder)

            trainer = of_folds()
            if trainer.inconsistent:
                trainer.close()
                for lost in (*self.folder.glob("fold-*/last.pt"), self.folder / "folds.json"):
                    lost.unlink(missing_ok=True)
                trainer = of_folds()
        self.watch = _watched(self.val)
        write_text(self.folder / "effective.json", json.dumps(trainer.effective(), indent=1))
        return trainer

    @contextlib.contextmanager
    def _blaming_node(self) -> Iterator[None]:
        """On a cluster a full disk under the decoded cache is one node's, and no reason for the search to stop."""
        try:
            yield
        except DiskFull as error:
            if self.assignment["demands"] is None:
                raise
            raise UnfitNode(str(error), ray.get_runtime_context().get_node_id()) from error

    def _report(
        self, metrics: EpochMetrics | None, outcome: str | None, message: str = "", *, halt: str = ""
    ) -> dict[str, Any]:
        report = {
            "number": self.assignment["number"],
            "metrics": None if metrics is None else asdict(metrics),
            "outcome": outcome,
            "message": message,
            "halt": halt,
        }
        return {"report": json.dumps(report)}

    def _log(self, what: str, epoch: int) -> None:
        log = os.environ.get(EPOCH_LOG)
        if log:
            with Path(log).open("a") as file:
                file.write(f"{what} {self.assignment['number']} {epoch} {os.getpid()} {time.time():.3f}\n")

    def _draw(self) -> None:
        """Image, truth, prediction and overlay of the watched images, as they are at the best epoch so far."""
        assert self.trainer is not None
        predictions = self.trainer.best_predictions
        if predictions is None:
            return
        rows = [
            PanelRow(self.val.ids[index], self.val.images[index], self.val.masks[index], prediction)
            for index, prediction in zip(self.watch, predictions, strict=True)
        ]
        picture = panel(rows, palette(self.classes))
        write_atomic(self.folder / "predictions.png", lambda path: picture.save(path, format="PNG"))

    def _close(self) -> None:
        if self.trainer is not None:
            self.trainer.close()
        self.trainer = self.epochs = None
        gc.collect()  # what a trial leaks on a GPU, the next one on this actor has not


_examined: set[str] = set()
"""The nonces of the sessions that have found this process's node fit."""


def _require_fit_node(demands: dict[str, Any] | None) -> None:
    """Examine a node that may have joined after the search began, once per process.

    Raises:
        UnfitNode: with everything that is wrong; the trial is started again elsewhere.
    """
    if demands is None or demands["nonce"] in _examined:
        return
    problems = examine(Demands(**demands))
    if problems:
        raise UnfitNode("; ".join(map(str, problems)), ray.get_runtime_context().get_node_id())
    _examined.add(demands["nonce"])


def _watched(val: DecodedPart) -> tuple[int, ...]:
    """Fixed validation images, spread over the set: the same in every trial of a search."""
    count = min(WATCHED, len(val.ids))
    return tuple(round((index + 0.5) * len(val.ids) / count - 0.5) for index in range(count))
