"""A production training in MLflow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.tracking.store import experiment_id, prepare, prepare_database, reason
from tunesearch.tracking.tags import TRAININGS, parameter


class TrainingRun:
    """One production training in MLflow. What MLflow cannot take is told once and then left out.

    Args:
        tags: with those of :func:`measured_on`, so that its score is compared with what it may be.
        run_id: of an earlier, interrupted session of the same training; None: a new run.

    Attributes:
        trouble: the first error of MLflow, else empty.
    """

    def __init__(
        self,
        uri: str,
        *,
        storage: Path,
        name: str,
        params: dict[str, Any],
        tags: dict[str, str],
        run_id: str | None = None,
    ) -> None:
        self.trouble = ""
        self.run_id = run_id
        self.objective = tags.get("tunesearch.objective", "val_miou")
        self._best: float | None = None
        self._try(lambda: self._open(uri, storage, name, params, tags))

    def _open(self, uri: str, storage: Path, name: str, params: dict[str, Any], tags: dict[str, str]) -> None:
        prepare(retries=2)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        prepare_database(uri)
        self.client = MlflowClient(tracking_uri=uri)
        if self.run_id is not None:
            self.client.update_run(self.run_id, status="RUNNING")
            self._best = self.client.get_run(self.run_id).data.metrics.get(f"best_{self.objective}")
            return
        experiment = experiment_id(self.client, TRAININGS, uri=uri, storage=storage)
        self.run_id = str(self.client.create_run(experiment, run_name=name, tags=tags).info.run_id)
        self.client.log_batch(self.run_id, (), [Param(key, parameter(value)) for key, value in params.items()], ())

    def _try(self, work: Callable[[], object]) -> None:
        if self.trouble:
            return
        try:
            work()
        except Exception as error:  # MLflow may raise anything that a network, a database or a server can
            self.trouble = reason(error)

    def epoch(self, metrics: EpochMetrics) -> None:
        """Log one epoch."""
        self._try(lambda: self._epoch(metrics))

    def _epoch(self, metrics: EpochMetrics) -> None:
        from mlflow.entities import Metric

        when = int(metrics.finished_at * 1000)
        numbers = metrics.numbers()
        if self.objective in numbers:
            choose = min if self.objective == "val_loss" else max
            value = numbers[self.objective]
            self._best = value if self._best is None else choose(value, self._best)
            numbers[f"best_{self.objective}"] = self._best
        points = [Metric(name, value, when, metrics.epoch) for name, value in numbers.items()]
        self.client.log_batch(self.run_id, points, (), ())

    def finish(self, outcome: str, files: list[Path]) -> None:
        """Log the files and close the run."""
        self._try(lambda: self._finish(outcome, files))

    def _finish(self, outcome: str, files: list[Path]) -> None:
        for file in files:
            self.client.log_artifact(self.run_id, str(file))
        self.client.set_tag(self.run_id, "tunesearch.outcome", outcome)
        self.client.set_terminated(self.run_id, status="FINISHED" if outcome == "completed" else "FAILED")
