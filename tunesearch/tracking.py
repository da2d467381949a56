"""MLflow as a view of the ledger: one parent run per search, one child per trial. Only this module imports MLflow.

A writer thread does all of it, so that neither Ray's loop nor training ever waits for MLflow. It keeps no state that
the ledger does not hold: a trial is told from its record as a whole, and telling it again changes nothing (points carry
the ledger's timestamps, and run ids are kept in the ledger before the first log). If MLflow cannot be reached the
search goes on; what is missing is sent when it answers again, or later by ``tunesearch sync``.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesearch.search.ledger import Ledger, TrialRecord
from tunesearch.segmentation.trainer import EpochMetrics

PARENT = "parent"
_STATUS = {None: "RUNNING", "failed": "FAILED", "lost": "FAILED", "cancelled": "KILLED"}
"""MLflow's status per outcome; FINISHED for the others."""
_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Lets MLflow's page open with metrics and charts rather than with traces of language models."""
_BATCH = 900
"""MLflow takes at most 1000 metrics in one call."""


def default_uri(storage: Path) -> str:
    """SQLite in the storage folder, by absolute path."""
    return f"sqlite:///{storage.resolve()}/mlflow.db"


def artifact_folder(storage: Path) -> str:
    """Where artifacts go beside a local database."""
    return (storage.resolve() / "mlartifacts").as_uri()


class Tracker:
    """Tells MLflow about a search from a thread of its own.

    Args:
        ledger: the search.
        uri: MLflow's tracking URI.
        system_metrics: log this machine's load to the parent run while the search goes on.

    Attributes:
        trouble: the last error of MLflow while it cannot be reached, else empty.
    """

    def __init__(self, ledger: Ledger, uri: str, *, system_metrics: bool = False) -> None:
        self.ledger = ledger
        self.uri = uri
        self.system_metrics = system_metrics
        self.trouble = ""
        self._queue: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._view: _View | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)

    def start(self) -> None:
        """Begin; every trial that the ledger holds already is told first."""
        for record in self.ledger.counted():
            self._queue.put(record.number)
        self._thread.start()

    def changed(self, number: int) -> None:
        """A trial began, went on or ended. Returns at once."""
        self._queue.put(number)

    def finish(self, status: str, *, patience: float = 30.0) -> bool:
        """Tell the rest and close the parent run; whether all of it was told within ``patience`` seconds of trouble."""
        self._ending = (status, patience)
        self._queue.put(None)
        self._thread.join()
        return not self.trouble

    # ------------------------------------------------------------------------------------------------------- the thread

    def _work(self) -> None:
        waiting: set[int] = set()
        ending = False
        given_up_at: float | None = None
        while not ending or waiting:
            if not ending:
                ending = self._collect(waiting)
            try:
                if self._view is None:
                    self._view = _View(self.ledger, self.uri, system_metrics=self.system_metrics)
                while waiting:
                    self._view.tell(self.ledger.trials[min(waiting)])
                    waiting.discard(min(waiting))
                self.trouble = ""
            except Exception as error:  # MLflow may raise anything that a network, a database or a server can
                self.trouble = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                if ending:
                    given_up_at = given_up_at or time.monotonic() + self._ending[1]
                    if time.monotonic() > given_up_at:
                        return
                time.sleep(1.0)
        try:
            if self._view is None:
                self._view = _View(self.ledger, self.uri, system_metrics=False)
            self._view.finish(self._ending[0])
        except Exception as error:
            self.trouble = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"

    def _collect(self, waiting: set[int]) -> bool:
        """Wait for news and take all there is; whether the search has ended."""
        ending = False
        try:
            item = self._queue.get(timeout=2.0) if not waiting else self._queue.get_nowait()
            while True:
                if item is None:
                    ending = True
                else:
                    waiting.add(item)
                item = self._queue.get_nowait()
        except queue.Empty:
            return ending


class _View:
    """The runs of one search in one MLflow."""

    def __init__(self, ledger: Ledger, uri: str, *, system_metrics: bool) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow import MlflowClient

        _hush()
        self.ledger = ledger
        self.client = MlflowClient(tracking_uri=uri)
        self.experiment_id = self._experiment(uri)
        self.told: dict[int, int] = {}
        self._prefix = f"mlflow_run:{uri}:"
        self.runs: dict[str, str] = ledger.attributes(self._prefix)
        self._adopt()
        self.parent = self._run(PARENT, ledger.name, self._parent_tags())
        self.client.update_run(self.parent, status="RUNNING")
        self._describe()
        self.monitor = self._monitor() if system_metrics else None

    def _experiment(self, uri: str) -> str:
        name = self.ledger.experiment.name
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        local = uri.startswith("sqlite:")
        location = artifact_folder(self.ledger.folder.parent) if local else None
        return str(self.client.create_experiment(name, artifact_location=location, tags=_KIND))

    def _adopt(self) -> None:
        """Take over runs that were made but not noted before a driver died."""
        known = set(self.runs.values())
        token: str | None = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], f"tags.`tunesearch.search` = '{self.ledger.name}'", page_token=token
            )
            for run in page:
                key = run.data.tags.get("tunesearch.trial")
                if key is not None and run.info.run_id not in known and key not in self.runs:
                    self._keep(key, run.info.run_id)
            token = page.token
            if not token:
                return

    def _keep(self, key: str, run_id: str) -> None:
        self.ledger.set_attribute(self._prefix + key, run_id)
        self.runs[key] = run_id

    def _run(self, key: str, name: str, tags: dict[str, str]) -> str:
        """The run of a key, made if there is none; its id is in the ledger before anything is logged to it."""
        if key not in self.runs:
            started = time.time() if key == PARENT else self._started(int(key))
            run = self.client.create_run(
                self.experiment_id,
                run_name=name,
                start_time=int(started * 1000),
                tags={"tunesearch.search": self.ledger.name, "tunesearch.trial": key, **tags},
            )
            self._keep(key, run.info.run_id)
        return self.runs[key]

    def _started(self, number: int) -> float:
        first = self.ledger.trials[number].epochs.get(1)
        if first is None:
            return time.time()
        return first.metrics.finished_at - first.metrics.train_seconds - first.metrics.val_seconds

    def _parent_tags(self) -> dict[str, str]:
        experiment = self.ledger.experiment
        return {
            "tunesearch.sampler": experiment.search.sampler,
            "tunesearch.objective": experiment.objective.metric,
            "tunesearch.data": "built-in sample" if experiment.data.layout == "sample" else str(experiment.data.root),
            "tunesearch.data_digest": str(self.ledger.attribute("data_digest", "")),
        }

    def _describe(self) -> None:
        for name in ("experiment.yaml", "split.json"):
            self.client.log_artifact(self.parent, str(self.ledger.folder / name))
        self.client.log_dict(self.parent, self.ledger.attribute("versions", {}), "versions.json")

    def _monitor(self) -> Any:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(self.parent, tracking_uri=self.client.tracking_uri)
        monitor.start()
        return monitor

    def tell(self, record: TrialRecord) -> None:
        """Bring a trial's run up to what the ledger holds."""
        from mlflow.entities import Metric, Param, RunTag

        key = str(record.number)
        new = key not in self.runs
        outcome, epochs = record.outcome, dict(record.epochs)  # as they are now: the driver goes on meanwhile
        if outcome == "duplicate":
            return
        tags = {"mlflow.parentRunId": self.parent, "tunesearch.seed": str(record.config.seed)}
        run = self._run(key, f"trial {record.number}", tags)
        params = []
        if new or record.number not in self.told:
            self.told.setdefault(record.number, 0)
            params = [Param(name, _parameter(value)) for name, value in record.config.model_dump(mode="json").items()]
            if outcome is None and not new:  # closed by an interruption, goes on
                self.client.update_run(run, status="RUNNING")
        metrics = [
            Metric(name, value, int(saved.metrics.finished_at * 1000), epoch)
            for epoch, saved in sorted(epochs.items())
            if epoch > self.told[record.number]
            for name, value in self._numbers(saved.metrics, saved.best)
        ]
        run_tags = [RunTag("tunesearch.outcome", outcome or "running")]
        if outcome is not None and record.message:
            run_tags.append(RunTag("tunesearch.message", record.message[:4000]))
        for start in range(0, max(len(metrics), 1), _BATCH):
            self.client.log_batch(
                run, metrics[start : start + _BATCH], params if start == 0 else (), run_tags if start == 0 else ()
            )
        self.told[record.number] = max(epochs, default=self.told[record.number])
        if outcome is None:
            return
        folder = self.ledger.trial_folder(record.number)
        for name in ("predictions.png", "effective.json", "error.txt"):
            if (folder / name).is_file():
                self.client.log_artifact(run, str(folder / name))
        self.client.log_dict(run, record.config.model_dump(mode="json"), "config.json")
        ended = max((saved.metrics.finished_at for saved in epochs.values()), default=time.time())
        self.client.set_terminated(run, status=_STATUS.get(outcome, "FINISHED"), end_time=int(ended * 1000))
        self._tell_best()

    def _numbers(self, metrics: EpochMetrics, best: float) -> Iterator[tuple[str, float]]:
        yield from metrics.numbers().items()
        yield f"best_{self.ledger.experiment.objective.metric}", best
        for index, iou in enumerate(metrics.val_iou):
            if iou is not None:
                yield f"val_iou_class_{index:02d}", iou

    def _tell_best(self) -> None:
        """The best trial's figures, on the parent run. A metric is only sent when it changed."""
        from mlflow.entities import Metric, RunTag

        best = self.ledger.best()
        if best is None or not best.epochs:
            return
        value = f"best_{self.ledger.experiment.objective.metric}"
        counted = self.ledger.counted()
        now = int(max(record.metrics.finished_at for record in best.epochs.values()) * 1000)
        metrics = [Metric(value, float(best.best or 0.0), now, len([r for r in counted if r.outcome]))]
        tags = [RunTag("tunesearch.best_trial", str(best.number))]
        tags += [RunTag(f"tunesearch.best.{name}", str(content)) for name, content in best.parameters.items()]
        self.client.log_batch(self.parent, metrics, (), tags)

    def finish(self, status: str) -> None:
        """Close the parent; children that did not end stay RUNNING only if the search can be resumed."""
        from mlflow.entities import RunTag

        if self.monitor is not None:
            self.monitor.finish()
        counts: dict[str, int] = {}
        for record in self.ledger.counted():
            counts[record.outcome or "running"] = counts.get(record.outcome or "running", 0) + 1
        tags = [RunTag("tunesearch.status", status)]
        tags += [RunTag(f"tunesearch.count.{name}", str(number)) for name, number in counts.items()]
        self.client.log_batch(self.parent, (), (), tags)
        best = self.ledger.best()
        if best is not None:
            self.client.log_dict(
                self.parent, {"trial": best.number, "config": best.config.model_dump(mode="json")}, "best.json"
            )
        ended = {"interrupted": "KILLED", "failed": "FAILED"}.get(status, "FINISHED")
        for record in self.ledger.live():
            if str(record.number) in self.runs:
                self.client.set_terminated(self.runs[str(record.number)], status="KILLED")
        self.client.set_terminated(self.parent, status=ended)


def _hush() -> None:
    """MLflow and alembic announce every step of making a database; MLflow sets its level anew when it is imported."""
    for name in ("mlflow", "alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _parameter(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"width", "height"}:
        return f"{value['width']}x{value['height']}"
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def sync(ledger: Ledger, uri: str) -> None:
    """Make MLflow say what the ledger says, from nothing or from anything in between.

    Raises:
        Exception: whatever MLflow raises when it cannot be reached.
    """
    view = _View(ledger, uri, system_metrics=False)
    for record in ledger.counted():
        view.tell(record)
    view.finish(str(ledger.attribute("status", "interrupted")))


class TrainingRun:
    """One production training in MLflow."""

    def __init__(self, uri: str, *, storage: Path, name: str, params: dict[str, Any], tags: dict[str, str]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        _hush()

        self.client = MlflowClient(tracking_uri=uri)
        experiment = self.client.get_experiment_by_name("tunesearch-train")
        if experiment is not None:
            experiment_id = experiment.experiment_id
        else:
            location = artifact_folder(storage) if uri.startswith("sqlite:") else None
            experiment_id = self.client.create_experiment("tunesearch-train", artifact_location=location, tags=_KIND)
        self.run_id = self.client.create_run(experiment_id, run_name=name, tags=tags).info.run_id
        self.client.log_batch(self.run_id, (), [Param(key, _parameter(value)) for key, value in params.items()], ())

    def epoch(self, metrics: EpochMetrics) -> None:
        """Log one epoch."""
        from mlflow.entities import Metric

        when = int(metrics.finished_at * 1000)
        points = [Metric(name, value, when, metrics.epoch) for name, value in metrics.numbers().items()]
        self.client.log_batch(self.run_id, points, (), ())

    def finish(self, outcome: str, files: list[Path]) -> None:
        """Log the files and close the run."""
        for file in files:
            self.client.log_artifact(self.run_id, str(file))
        self.client.set_tag(self.run_id, "tunesearch.outcome", outcome)
        self.client.set_terminated(self.run_id, status="FINISHED" if outcome == "completed" else "FAILED")
