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
import re
import threading
import time
from collections.abc import Callable, Iterator
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

    @property
    def started(self) -> bool:
        """Whether :meth:`start` was called."""
        return self._thread.ident is not None

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
                self._tell(self._view, waiting)
            except Exception as error:  # MLflow may raise anything that a network, a database or a server can
                self.trouble = _reason(error)
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
            self.trouble = _reason(error)

    def _tell(self, view: _View, waiting: set[int]) -> None:
        """Tell every waiting trial; one that MLflow refuses does not keep the others waiting."""
        refused: Exception | None = None
        for number in sorted(waiting):
            try:
                view.tell(self.ledger.trials[number])
                waiting.discard(number)
            except Exception as error:
                refused = error
        if refused is not None:
            raise refused
        self.trouble = ""

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
        self.identity = str(ledger.attribute("identity"))
        self.client = MlflowClient(tracking_uri=uri)
        self.experiment_id = self._experiment(uri)
        self.told: dict[int, int] = {}
        self._prefix = f"mlflow_run:{without_password(uri)}:"
        self.runs: dict[str, str] = {}
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
        """Take over the runs that MLflow has of this search, also those that a dying driver had no time to note.

        What MLflow no longer has is made anew.
        """
        noted = self.ledger.attributes(self._prefix)
        found: dict[str, list[str]] = {}
        token: str | None = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], f"tags.`tunesearch.identity` = '{self.identity}'", page_token=token
            )
            for run in page:
                found.setdefault(run.data.tags["tunesearch.trial"], []).append(run.info.run_id)
            token = page.token
            if not token:
                break
        for key, ids in found.items():
            self._keep(key, noted[key] if noted.get(key) in ids else ids[0])

    def _keep(self, key: str, run_id: str) -> None:
        if self.runs.get(key) != run_id:
            self.ledger.set_attribute(self._prefix + key, run_id)
        self.runs[key] = run_id

    def _run(self, key: str, name: str, tags: dict[str, str]) -> str:
        """The run of a key, made if there is none; its id is in the ledger before anything is logged to it."""
        if key not in self.runs:
            started = float(self.ledger.attribute("created_at")) if key == PARENT else self._started(int(key))
            run = self.client.create_run(
                self.experiment_id,
                run_name=name,
                start_time=int(started * 1000),
                tags={
                    "tunesearch.search": self.ledger.name,
                    "tunesearch.identity": self.identity,  # a name may be given again after a folder was removed
                    "tunesearch.trial": key,
                    **tags,
                },
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
        objective = self.ledger.experiment.objective.metric
        last = max(best.epochs)
        at = best.best_epoch(objective).metrics
        when = int(best.epochs[last].metrics.finished_at * 1000)
        step = len([record for record in self.ledger.counted() if record.outcome])
        metrics = [Metric(f"best_{objective}", float(best.best or 0.0), when, step)]
        figures = {
            name: value for name, value in at.numbers().items() if name.startswith("val_") and name != "val_seconds"
        }
        # A section of their own, behind the curves of the trials on MLflow's page.
        metrics += [Metric(f"search_best/{name}", value, when, step) for name, value in figures.items()]
        tags = [
            RunTag("tunesearch.best_trial", str(best.number)),
            RunTag("tunesearch.best_parameters", json.dumps(best.parameters)),
        ]
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
            picture = self.ledger.trial_folder(best.number) / "predictions.png"
            if picture.is_file():
                self.client.log_artifact(self.parent, str(picture))
            self.client.log_dict(
                self.parent, {"trial": best.number, "config": best.config.model_dump(mode="json")}, "best.json"
            )
        ended = {"interrupted": "KILLED", "failed": "FAILED"}.get(status, "FINISHED")
        for record in self.ledger.live():
            if str(record.number) in self.runs:
                self.client.set_terminated(self.runs[str(record.number)], status="KILLED")
        times = [saved.metrics.finished_at for record in self.ledger.counted() for saved in record.epochs.values()]
        end_time = int(1000 * max([float(self.ledger.attribute("created_at")), *times]))
        self.client.set_terminated(self.parent, status=ended, end_time=end_time)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def without_password(uri: str) -> str:
    """A tracking URI that may be shown."""
    return re.sub(r"//[^/@]*@", "//", uri)


def _hush() -> None:
    """MLflow and alembic announce every step of making a database; MLflow sets its level anew when it is imported."""
    for name in ("mlflow", "alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _parameter(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"width", "height"}:
        return f"{value['width']}x{value['height']}"
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def sync(ledger: Ledger, uri: str, *, status: str) -> None:
    """Make MLflow say what the ledger says, from nothing or from anything in between.

    Args:
        status: of the search; a running one is not closed.

    Raises:
        Exception: whatever MLflow raises when it cannot be reached.
    """
    view = _View(ledger, uri, system_metrics=False)
    for record in ledger.counted():
        view.tell(record)
    if status != "running":
        view.finish(status)


class TrainingRun:
    """One production training in MLflow. What MLflow cannot take is told once and then left out.

    Args:
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
        self._try(lambda: self._open(uri, storage, name, params, tags))

    def _open(self, uri: str, storage: Path, name: str, params: dict[str, Any], tags: dict[str, str]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        _hush()
        self.client = MlflowClient(tracking_uri=uri)
        if self.run_id is not None:
            self.client.update_run(self.run_id, status="RUNNING")
            return
        experiment = self.client.get_experiment_by_name("tunesearch-train")
        if experiment is not None:
            experiment_id = experiment.experiment_id
        else:
            location = artifact_folder(storage) if uri.startswith("sqlite:") else None
            experiment_id = self.client.create_experiment("tunesearch-train", artifact_location=location, tags=_KIND)
        self.run_id = str(self.client.create_run(experiment_id, run_name=name, tags=tags).info.run_id)
        self.client.log_batch(self.run_id, (), [Param(key, _parameter(value)) for key, value in params.items()], ())

    def _try(self, work: Callable[[], object]) -> None:
        if self.trouble:
            return
        try:
            work()
        except Exception as error:  # MLflow may raise anything that a network, a database or a server can
            self.trouble = _reason(error)

    def epoch(self, metrics: EpochMetrics) -> None:
        """Log one epoch."""
        self._try(lambda: self._epoch(metrics))

    def _epoch(self, metrics: EpochMetrics) -> None:
        from mlflow.entities import Metric

        when = int(metrics.finished_at * 1000)
        points = [Metric(name, value, when, metrics.epoch) for name, value in metrics.numbers().items()]
        self.client.log_batch(self.run_id, points, (), ())

    def finish(self, outcome: str, files: list[Path]) -> None:
        """Log the files and close the run."""
        self._try(lambda: self._finish(outcome, files))

    def _finish(self, outcome: str, files: list[Path]) -> None:
        for file in files:
            self.client.log_artifact(self.run_id, str(file))
        self.client.set_tag(self.run_id, "tunesearch.outcome", outcome)
        self.client.set_terminated(self.run_id, status="FINISHED" if outcome == "completed" else "FAILED")
