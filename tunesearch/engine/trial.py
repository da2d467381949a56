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
from tunesearch.engine.training import Training, build_training
from tunesearch.errors import DiskFull, Infeasible, UnfitNode
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.user_code import find_user_code

EPOCH_LOG = "TUNESEARCH_EPOCH_LOG"
"""Environment variable: a file to which the begin and the end of every trained epoch are appended, for tests that count
epochs independently of the ledger. The end is written once the epoch's checkpoint is on disk."""


class SegmentationTrial(tune.Trainable):  # type: ignore[misc]  # Ray's classes are untyped
    """Trains the configuration it is given; :func:`tunesearch.engine.run.drive` says what that holds."""

    def setup(self, config: dict[str, Any]) -> None:
        """Only remember: a fault here could not be told from one of Ray, so the first step builds everything."""
        self.assignment = config
        self.training: Training | None = None
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
        if self.training is None:
            heartbeat = Heartbeat(Path(self.assignment["folder"]), ray.get_runtime_context().get_node_id())
            with heartbeat.throughout():
                self.training = self._build(heartbeat)
            self.epochs = self.training.trainer.epochs()
            if self.training.trainer.resumed is not None:
                return self._report(self.training.trainer.resumed, self.training.trainer.outcome)
        assert self.epochs is not None
        self._log("begin", self.training.trainer.epoch + 1)
        metrics = next(self.epochs, None)
        if metrics is not None:
            self._log("end", metrics.epoch)
            if self.training.trainer.best is metrics:
                self.training.draw()
        return self._report(metrics, self.training.trainer.outcome)

    def cleanup(self) -> None:
        """Free what the last trial held."""
        self._close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the trainer keeps its own checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: the trainer finds its own checkpoint."""

    # ---------------------------------------------------------------------------------------------------------- inside

    def _build(self, heartbeat: Heartbeat) -> Training:
        _require_fit_node(self.assignment["demands"])  # before anything is written: storage may not be mounted here
        find_user_code(self.assignment["code"])
        torch.set_num_threads(max(1, int(self.assignment["cpus"])))
        return build_training(self.assignment, heartbeat=heartbeat.beat, reading=self._blaming_node)

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

    def _close(self) -> None:
        if self.training is not None:
            self.training.trainer.close()
        self.training = self.epochs = None
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
