"""MLflow as a view of the ledger: one parent run per search, one child per trial. Only this module imports MLflow.

A writer thread does all of it, so that neither Ray's loop nor training ever waits for MLflow. It keeps no state that
the ledger does not hold: a trial is told from its record as a whole, and telling it again changes nothing (every time
and place comes from the ledger, and a search's runs are found by its identity). If MLflow cannot be reached the search
goes on; what is missing is sent when it answers again, or later by ``tunesearch sync``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from tunesearch.errors import InputError, Problem, TunesearchError
from tunesearch.search.confirmation import confirmation
from tunesearch.search.ledger import Ledger, TrialRecord
from tunesearch.segmentation.config import DataConfig
from tunesearch.segmentation.epoch import EpochMetrics

PARENT = "parent"
_STATUS = {None: "RUNNING", "failed": "FAILED", "lost": "FAILED", "cancelled": "KILLED"}
"""MLflow's status per outcome; FINISHED for the others."""
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Lets MLflow's page open with metrics and charts rather than with traces of language models."""
TRAININGS = "tunesearch-train"
"""MLflow's experiment of production trainings."""
SAMPLE = "built-in sample"
MAIN = (
    "architecture", "encoder", "encoder_weights", "finetune_fraction", "optimizer", "lr", "schedule", "loss",
    "class_weights", "batch_size", "size", "epochs",
)  # fmt: skip
"""The fields that a configuration is told in short by."""
_BATCH = 900
"""MLflow takes at most 1000 metrics in one call."""
_EXPERIMENTS = 100
"""How many experiments one query asks for."""
_REFUSALS = (400, 409)
"""Status codes that are about what was sent. Any other error may pass, or meets every run."""
_LONGEST_PAUSE = 16.0
"""Seconds between two attempts to reach an MLflow that does not answer."""


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
        said: told, from that thread, when MLflow does not answer or refuses a trial, and when it has caught up.

    Attributes:
        trouble: why MLflow does not have everything, else empty.
    """

    def __init__(
        self,
        ledger: Ledger,
        uri: str,
        *,
        system_metrics: bool = False,
        said: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.ledger = ledger
        self.uri = uri
        self.system_metrics = system_metrics
        self.said = said
        self.trouble = ""
        self._news = threading.Condition()
        self._changed: set[int] = set()
        self._ending: str | None = None
        self._given_up = threading.Event()
        self._moved = 0.0
        self._view: _View | None = None
        self._waiting: dict[int, None] = {}
        self._refused: dict[int, str] = {}
        self._failures = 0
        self._complained = self._had_trouble = False
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)

    @property
    def started(self) -> bool:
        """Whether :meth:`start` was called."""
        return self._thread.ident is not None

    def start(self) -> None:
        """Begin; every trial that the ledger holds already is told first."""
        self._changed.update(record.number for record in self.ledger.trained())
        self._thread.start()

    def changed(self, number: int) -> None:
        """A trial began, went on or ended. Returns at once."""
        with self._news:
            self._changed.add(number)
            self._news.notify()

    def finish(self, status: str, *, patience: float = 30.0) -> bool:
        """Tell the rest and close the parent run; whether MLflow has all of it.

        Args:
            patience: seconds to wait while nothing can be told; then the rest is left to ``tunesearch sync``. Only a
                server can keep silent: a database file that is slow but gives no error is waited for.
        """
        self._moved = time.monotonic()
        with self._news:
            self._ending = status
            self._news.notify()
        local = self.uri.startswith("sqlite:")
        while (left := self._moved + patience - time.monotonic()) > 0 or (local and not self._failures):
            self._thread.join(max(left, 0.1))
            if not self._thread.is_alive():
                break
        if self._thread.is_alive():  # it may hang in a call, and the ledger is about to be closed
            self._given_up.set()
            self.trouble = self.trouble or f"no answer within {patience:.0f} s"
        return not self.trouble

    # ------------------------------------------------------------------------------------------------------- the thread

    def _work(self) -> None:
        pause = 0.0
        while not self._given_up.is_set():
            status = self._collect(pause)
            try:
                self._tell(status)
            except _GivenUp:
                break
            except Exception as error:  # MLflow may raise anything that a network, a database or a server can
                self._lost(error)
                pause = 1.0 if status is not None else min(2.0 ** (self._failures - 1), _LONGEST_PAUSE)
            else:
                self._reached()
                pause = 0.0
                if status is not None:
                    return
        self._drop_view()

    def _collect(self, pause: float) -> str | None:
        """Wait for news, or as long as MLflow is to be left alone; take all there is. Gives the status at the end."""
        if pause and self._ending is not None:
            self._given_up.wait(pause)
        with self._news:
            self._news.wait_for(lambda: self._ending is not None or (not pause and self._changed), pause or None)
            self._waiting.update(dict.fromkeys(sorted(self._changed)))
            self._changed.clear()
            return self._ending

    def _tell(self, status: str | None) -> None:
        """Tell every waiting trial, and the end if it has come.

        Raises:
            Exception: MLflow does not answer. That it refuses one trial does not keep the others waiting.
        """
        if status is not None and self._had_trouble:  # once more from what MLflow has by now
            self._had_trouble = False
            self._drop_view()
            self._waiting.update(dict.fromkeys(self._refused))
        if self._view is None:
            self._view = _View(self.ledger, self.uri, self._heard, system_metrics=self.system_metrics)
            self._waiting.update(dict.fromkeys(self._view.unknown()))
        for number in list(self._waiting):
            del self._waiting[number]
            try:
                self._view.tell(self.ledger.trials[number])
            except Exception as error:
                if not _is_refusal(error):
                    self._waiting[number] = None  # as the last one: the next round begins with another
                    raise
                self._refused[number] = self.trouble = reason(error)
                self._complain(f"refuses trial {number} ({self.trouble}); the search goes on")
            else:
                self._refused.pop(number, None)
            self._moved = time.monotonic()
        if status is not None:
            self._view.finish(status)

    def _heard(self) -> None:
        """MLflow answered."""
        if self._given_up.is_set():
            raise _GivenUp
        if not self._failures:  # one that answers some questions and fails at others gets nowhere
            self._moved = time.monotonic()

    def _drop_view(self) -> None:
        if self._view is not None and self._view.monitor is not None:  # which may wait for MLflow before it ends
            threading.Thread(target=self._view.monitor.finish, daemon=True).start()
        self._view = None

    def _lost(self, error: Exception) -> None:
        self.trouble = reason(error)
        self._had_trouble = True
        self._failures += 1
        self._drop_view()  # the next one asks what MLflow has: it may be another one by then
        if self._failures > 1:  # a single failure may be a connection that was closed meanwhile
            self._complain(f"does not answer ({self.trouble}); the search goes on, what is missing is sent later")

    def _reached(self) -> None:
        self._failures = 0
        self.trouble = next(iter(self._refused.values()), "")
        if self._complained and not self.trouble:
            self._complained = False
            self._say("has everything again")

    def _complain(self, text: str) -> None:
        self._had_trouble = True
        if not self._complained and not self._given_up.is_set():
            self._complained = True
            self._say(text)

    def _say(self, text: str) -> None:
        with contextlib.suppress(Exception):  # what only listens must not end the thread
            self.said(f"MLflow at {without_password(self.uri)} {text}")


def _is_refusal(error: Exception) -> bool:
    """Whether MLflow answered, and took what it was sent for wrong."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.get_http_status_code() in _REFUSALS
    return getattr(getattr(error, "response", None), "status_code", None) in _REFUSALS  # of artifacts


class _GivenUp(BaseException):
    """Nobody waits for MLflow any more: the ledger is closed, or about to be. No error of MLflow's."""


def prepare_database(uri: str) -> None:
    """Make MLflow's SQLite database whole, once, whoever else begins at the same moment or dies in it.

    MLflow makes it in a dozen migrations on the file itself: two processes in one, or one that is killed, leave a wreck
    that every later one fails at. A wreck is moved aside: what is in MLflow is in the ledgers as well.
    """
    if not uri.startswith("sqlite:///"):
        return
    prepare(retries=2)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    file = Path(uri.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f".{file.name}.lock")):
        if file.exists():
            try:
                MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
            except (MlflowException, SQLAlchemyError) as error:
                if not any(said in str(error) for said in ("already exists", "no such table", "no such column")):
                    raise
                file.rename(file.with_name(f"{file.name}.broken-{time.time_ns()}"))
        if not file.exists():
            building = file.with_name(f".{file.name}.new")
            building.unlink(missing_ok=True)
            MlflowClient(tracking_uri=f"sqlite:///{building}").search_experiments(max_results=1)
            building.rename(file)


class _Client:
    """MLflow's client; ``heard`` is called after every answer."""

    def __init__(self, uri: str, heard: Callable[[], None]) -> None:
        from mlflow import MlflowClient

        prepare_database(uri)
        self._client, self._heard = MlflowClient(tracking_uri=uri), heard

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*values: Any, **named: Any) -> Any:
            answer = getattr(self._client, name)(*values, **named)
            self._heard()
            return answer

        return call


class _View:
    """The runs of one search in one MLflow.

    Args:
        heard: called after every answer of MLflow, before anything is made of it.
    """

    def __init__(
        self,
        ledger: Ledger,
        uri: str,
        heard: Callable[[], None] = lambda: None,
        *,
        system_metrics: bool = False,
    ) -> None:
        # No retry: MLflow's would send again what may have arrived, and a run would be made twice.
        prepare(retries=0)
        self.ledger = ledger
        self.identity = str(ledger.attribute("identity"))
        self.created_at = float(ledger.attribute("created_at"))
        self.versions = ledger.attribute("versions", {})
        self.data_digest = str(ledger.attribute("data_digest", ""))
        self.client = _Client(uri, heard)
        self.experiment_id = self._experiment(uri)
        self.told: dict[int, int] = {}
        self._told_best = 0
        self._prefix = f"mlflow_run:{without_password(uri)}:"
        self.runs: dict[str, str] = {}
        self._adopt()
        self._new_parent = PARENT not in self.runs
        self.parent = self._run(PARENT, ledger.name, self.created_at, self._parent_tags())
        self.client.update_run(self.parent, status="RUNNING")
        self._describe()
        self.monitor = self._monitor(uri) if system_metrics else None

    def unknown(self) -> list[int]:
        """Trials that this MLflow does not have, or has under another parent."""
        return [r.number for r in self.ledger.trained() if self._new_parent or str(r.number) not in self.runs]

    def _experiment(self, uri: str) -> str:
        name = self.ledger.experiment.name
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        local = uri.startswith("sqlite:")
        location = artifact_folder(self.ledger.folder.parent) if local else None
        return str(self.client.create_experiment(name, artifact_location=location, tags=KIND))

    def _adopt(self) -> None:
        """Take over the runs that MLflow has of this search, also those that a dying driver had no time to note.

        What MLflow no longer has is made anew. Where it has two, the answer to the first request was lost.
        """
        noted = self.ledger.attributes(self._prefix)
        found: dict[str, list[str]] = {}
        of_this = f"tags.`tunesearch.identity` = '{self.identity}'"
        for run in _pages(lambda token: self.client.search_runs([self.experiment_id], of_this, page_token=token)):
            found.setdefault(run.data.tags["tunesearch.trial"], []).append(run.info.run_id)
        for key, ids in found.items():
            self._keep(key, noted[key] if noted.get(key) in ids else ids[0])
            for twin in ids:
                if twin != self.runs[key]:
                    self.client.delete_run(twin)

    def _keep(self, key: str, run_id: str) -> None:
        if self.runs.get(key) != run_id:
            self.ledger.note(self._prefix + key, run_id)
        self.runs[key] = run_id

    def _run(self, key: str, name: str, started: float, tags: dict[str, str]) -> str:
        """The run of a key, made if there is none; its id is in the ledger before anything is logged to it."""
        if key not in self.runs:
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

    def _parent_tags(self) -> dict[str, str]:
        experiment = self.ledger.experiment
        warm = self.ledger.warm_start.sources
        return {
            **({"tunesearch.warm_start": ", ".join(source.search for source in warm)} if warm else {}),
            "tunesearch.sampler": experiment.search.sampler,
            **measured_on(
                experiment.data,
                self.data_digest,
                objective=experiment.objective.metric,
                resolution=experiment.objective.resolution,
            ),
        }

    def _describe(self) -> None:
        for name in ("experiment.yaml", "split.json"):
            self.client.log_artifact(self.parent, str(self.ledger.folder / name))
        self.client.log_dict(self.parent, self.versions, "versions.json")

    def _monitor(self, uri: str) -> Any:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(self.parent, resume_logging=True, tracking_uri=uri)
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
        title = f"trial {record.number}"
        if record.confirms is not None:
            title, tags["tunesearch.confirms"] = f"confirms trial {record.confirms}", str(record.confirms)
        run = self._run(key, title, record.asked_at, tags)
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
        tags["tunesearch.outcome"] = outcome or "running"
        if record.retry_of is not None:
            tags["tunesearch.retry_of"] = str(record.retry_of)
        if outcome is not None and record.message:
            tags["tunesearch.message"] = record.message[:4000]
        run_tags = [RunTag(name, value) for name, value in tags.items()]
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
        self.client.set_terminated(run, status=_STATUS.get(outcome, "FINISHED"), end_time=int(_end(record) * 1000))
        self._tell_best()

    def _numbers(self, metrics: EpochMetrics, best: float) -> Iterator[tuple[str, float]]:
        yield from metrics.numbers().items()
        yield f"best_{self.ledger.experiment.objective.metric}", best
        for index, iou in enumerate(metrics.val_iou):
            if iou is not None:
                yield f"val_iou_class_{index:02d}", iou

    def _tell_best(self) -> None:
        """The figures of the best trial so far, on the parent run: a point each time that a trial ended as the best."""
        from mlflow.entities import Metric

        objective = self.ledger.experiment.objective.metric
        for record in bests(self.ledger):
            assert record.place is not None
            if record.place <= self._told_best:
                continue
            at = record.best_epoch(objective).metrics
            figures = {f"best_{objective}": float(record.best or 0.0)}
            # A section of their own, behind the curves of the trials on MLflow's page.
            figures |= {
                f"search_best/{name}": value
                for name, value in at.numbers().items()
                if name.startswith("val_") and name != "val_seconds"
            }
            when = int(_end(record) * 1000)
            metrics = [Metric(name, value, when, record.place) for name, value in figures.items()]
            self.client.log_batch(self.parent, metrics, (), self._best_tags(record))
            self._told_best = record.place

    def _best_tags(self, record: TrialRecord) -> list[Any]:
        from mlflow.entities import RunTag

        fields = record.config.governing()
        settings = {name: _parameter(fields[name]) for name in MAIN if fields.get(name) is not None}
        return [
            RunTag("tunesearch.best_trial", str(record.number)),
            RunTag("tunesearch.best_parameters", json.dumps(record.parameters)),
            RunTag("tunesearch.best_settings", json.dumps(settings)),
        ]

    def _tell_confirmation(self) -> None:
        """What repeating the best trials has shown, on the parent run: tags to read, metrics to sort by."""
        from mlflow.entities import Metric, RunTag

        confirmed = confirmation(self.ledger)
        if confirmed is None or confirmed.leader is None:
            return
        leader = confirmed.candidate(confirmed.leader)
        assert leader.mean is not None
        assert leader.deviation is not None
        tags = {
            "tunesearch.confirmed.trial": leader.trial,
            "tunesearch.confirmed.winner": "yes" if confirmed.winner is not None else "no difference shown",
            "tunesearch.confirmed.mean": f"{leader.mean:.6f}",
            "tunesearch.confirmed.deviation": f"{leader.deviation:.6f}",
            "tunesearch.confirmed.seeds": len(leader.values),
            "tunesearch.confirmed.verdict": confirmed.verdict[:4000],
        }
        figures = {f"confirmed/{confirmed.objective}": leader.mean}
        for name, measure in (confirmed.test or {}).items():
            if isinstance(measure, dict) and "mean" in measure:
                tags[f"tunesearch.test.{name}"] = f"{measure['mean']:.6f}"
                figures[f"test/{name}"] = measure["mean"]
        when = int(1000 * max(_end(self.ledger.trials[number]) for number in leader.trials))
        metrics = [Metric(name, value, when, 0) for name, value in figures.items()]
        run_tags = [RunTag(name, str(value)) for name, value in tags.items()]
        self.client.log_batch(self.parent, metrics, (), run_tags)

    def finish(self, status: str) -> None:
        """Close the parent; trials that have not ended are KILLED until the search is resumed."""
        from mlflow.entities import RunTag

        if self.monitor is not None:
            self.monitor.finish()
        self._tell_best()
        counts: dict[str, int] = {}
        for record in self.ledger.counted():
            counts[record.outcome or "running"] = counts.get(record.outcome or "running", 0) + 1
        for name in self.client.get_run(self.parent).data.tags:
            if name.startswith("tunesearch.count.") and name.removeprefix("tunesearch.count.") not in counts:
                self.client.delete_tag(self.parent, name)  # of an earlier session
        tags = [RunTag("tunesearch.status", status)]
        tags += [RunTag(f"tunesearch.count.{name}", str(number)) for name, number in counts.items()]
        best = self.ledger.best()
        if best is not None:
            tags += self._best_tags(best)
            picture = self.ledger.trial_folder(best.number) / "predictions.png"
            if picture.is_file():
                self.client.log_artifact(self.parent, str(picture))
            self.client.log_dict(
                self.parent, {"trial": best.number, "config": best.config.model_dump(mode="json")}, "best.json"
            )
        self.client.log_batch(self.parent, (), (), tags)
        self._tell_confirmation()
        for record in self.ledger.live():
            if str(record.number) in self.runs:
                run = self.runs[str(record.number)]
                self.client.set_terminated(run, status="KILLED", end_time=int(_end(record) * 1000))
        ended = {"interrupted": "KILLED", "failed": "FAILED"}.get(status, "FINISHED")
        end_time = max([self.created_at, *(_end(record) for record in self.ledger.trained())])
        self.client.set_terminated(self.parent, status=ended, end_time=int(1000 * end_time))


def measured_on(data: DataConfig, digest: str, *, objective: str, resolution: str) -> dict[str, str]:
    """The tags that tell which scores may be compared: those with the same data and the same measure.

    Args:
        digest: of the split.
    """
    return {
        "tunesearch.objective": objective,
        "tunesearch.resolution": resolution,
        "tunesearch.data": SAMPLE if data.layout == "sample" else without_password(str(data.root)),
        "tunesearch.data_digest": digest,
    }


def _pages(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    """Everything of a listing that MLflow gives in pages; ``ask`` is given the token of each."""
    token: str | None = None
    while True:
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return


def _end(record: TrialRecord) -> float:
    """When a trial ended, or was last heard of. Never before it began, whatever the clocks of the machines say."""
    finished = [saved.metrics.finished_at for saved in dict(record.epochs).values()]
    return max([record.asked_at, record.ended_at or 0.0, *finished])


def bests(ledger: Ledger) -> list[TrialRecord]:
    """The trials that were the best when they ended, in the order of their ends; the last one is the best of all."""
    found: list[TrialRecord] = []
    highest: tuple[bool, float, int] | None = None
    ended = [record for record in ledger.counted() if record.outcome is not None and record.place is not None]
    for record in sorted(ended, key=lambda record: record.place or 0):
        if record.best is None:
            continue
        rank = (record.outcome == "completed", ledger.larger_is_better(record.best), -record.number)  # as Ledger.best
        if highest is None or rank > highest:
            highest = rank
            found.append(record)
    return found


def reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "Caused by " in text:  # the network's own words stand behind a page of others
        cause = text.rpartition("Caused by ")[2].removesuffix(")")
        plain = re.search(r".*: (.+)[\"']\)$", cause)
        return (plain[1] if plain else cause)[:200]
    return f"{type(error).__name__}: {without_password(text)[:200]}"


def without_password(uri: str) -> str:
    """A tracking URI, or a text with some in it, that may be shown."""
    plain = re.sub(r"//[^/\s]*@", "//", uri)
    return re.sub(r"([?&;](?:password|passwd|user|username|token)=)[^&;\s]*", r"\1***", plain)


def prepare(*, retries: int) -> None:
    """Let MLflow's client give up a server that does not answer after seconds, not minutes, and say nothing itself."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(retries))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    import mlflow  # noqa: F401  # it sets the level of its logger when it is imported

    # They announce every step of making a database, and every attempt that failed.
    for name in ("mlflow", "alembic", "mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _parameter(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"width", "height"}:
        return f"{value['width']}x{value['height']}"
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def sync(ledger: Ledger, uri: str, *, status: str) -> None:
    """Make MLflow say what the ledger says, from nothing or from anything in between.

    Args:
        status: of the search; a running one is not closed.

    Raises:
        InputError: MLflow cannot be reached, or refuses something; the rest is told.
    """
    refused: Exception | None = None
    try:
        view = _View(ledger, uri)
        for record in ledger.trained():
            try:
                view.tell(record)
            except Exception as error:
                if not _is_refusal(error):
                    raise
                refused = error
        if status != "running":
            view.finish(status)
        if refused is not None:
            raise refused
    except Exception as error:  # MLflow may raise anything that a network, a database or a server can
        rule = f"must be an MLflow that answers: {reason(error)}"
        raise InputError(Problem("--tracking-uri", rule, value=without_password(uri))) from error


def log_report(ledger: Ledger, uri: str, file: Path) -> str:
    """Keep a report with the parent run of a search; gives why MLflow did not take it, else an empty text."""
    run = ledger.attributes(f"mlflow_run:{without_password(uri)}:").get(PARENT)
    if run is None:
        return f"it does not know the search; tunesearch sync {ledger.name} tells it"
    try:
        prepare(retries=0)
        from mlflow import MlflowClient

        prepare_database(uri)
        MlflowClient(tracking_uri=uri).log_artifact(str(run), str(file))
    except Exception as error:  # MLflow may raise anything that a network, a database or a server can
        return reason(error)
    return ""


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
        experiment = self.client.get_experiment_by_name(TRAININGS)
        if experiment is not None:
            experiment_id = experiment.experiment_id
        else:
            location = artifact_folder(storage) if uri.startswith("sqlite:") else None
            experiment_id = self.client.create_experiment(TRAININGS, artifact_location=location, tags=KIND)
        self.run_id = str(self.client.create_run(experiment_id, run_name=name, tags=tags).info.run_id)
        self.client.log_batch(self.run_id, (), [Param(key, _parameter(value)) for key, value in params.items()], ())

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


@dataclass(frozen=True)
class Known:
    """A search or a production training as MLflow has it.

    Attributes:
        name: of the run.
        training: whether it is a production training.
        tags, metrics, params: of the run; of a metric its last value.
        status: MLflow's.
        started, ended: Unix seconds; ``ended`` None while it runs.
    """

    name: str
    training: bool
    tags: dict[str, str]
    metrics: dict[str, float]
    params: dict[str, str]
    status: str
    started: float
    ended: float | None


def known(uri: str) -> list[Known]:
    """Every search and every production training of an MLflow, oldest first. Nothing is written there.

    Raises:
        InputError: there is no MLflow, or it does not answer.
    """
    where = Problem("--tracking-uri", "", value=without_password(uri))
    if uri.startswith("sqlite:///"):
        _require_database(Path(uri.removeprefix("sqlite:///")), where)
    prepare(retries=2)
    try:
        return sorted(_known(uri), key=lambda run: run.started)
    except TunesearchError:
        raise
    except Exception as error:  # MLflow may raise anything that a network, a database or a server can
        raise InputError(replace(where, rule=f"must be an MLflow that answers: {reason(error)}")) from error


def _require_database(file: Path, where: Problem) -> None:
    """MLflow's client would make the tables in any database that it is pointed at."""
    if not file.is_file():
        raise InputError(replace(where, rule="must be an MLflow that is there: no such file"))
    try:
        with contextlib.closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
            database.execute("SELECT 1 FROM alembic_version, experiments LIMIT 1")
    except sqlite3.Error as error:
        raise InputError(replace(where, rule=f"must be a database of MLflow: {error}")) from error


def _known(uri: str) -> Iterator[Known]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiments = {
        str(experiment.experiment_id): experiment.name == TRAININGS
        for experiment in _pages(lambda token: client.search_experiments(page_token=token))
    }
    for training, filter_string in ((False, f"tags.`tunesearch.trial` = '{PARENT}'"), (True, "")):
        ids = [id for id, is_training in experiments.items() if is_training == training]
        for start in range(0, len(ids), _EXPERIMENTS):
            some = ids[start : start + _EXPERIMENTS]

            def ask(token: str | None, some: list[str] = some, filter_string: str = filter_string) -> Any:
                return client.search_runs(some, filter_string, page_token=token)

            for run in _pages(ask):
                yield Known(
                    name=str(run.info.run_name),
                    training=training,
                    tags=dict(run.data.tags),
                    metrics=dict(run.data.metrics),
                    params=dict(run.data.params),
                    status=str(run.info.status),
                    started=(run.info.start_time or 0) / 1000,
                    ended=run.info.end_time / 1000 if run.info.end_time else None,
                )
