"""The runs of one search in one MLflow: a parent, and a child per trial, each told from its record as a whole.

Telling a record again changes nothing: every time and place comes from the ledger, and a search's runs are found by its
identity.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tunesearch.errors import InputError, Problem
from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.store import Ledger
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.strategy.confirmation import confirmation
from tunesearch.tracking.store import (
    KIND,
    artifact_folder,
    is_refusal,
    pages,
    prepare,
    prepare_database,
    reason,
    without_password,
)
from tunesearch.tracking.tags import MAIN, PARENT, measured_on, parameter

_STATUS = {None: "RUNNING", "failed": "FAILED", "lost": "FAILED", "cancelled": "KILLED"}
"""MLflow's status per outcome; FINISHED for the others."""
_BATCH = 900
"""MLflow takes at most 1000 metrics in one call."""


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


class View:
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
        for run in pages(lambda token: self.client.search_runs([self.experiment_id], of_this, page_token=token)):
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
            params = [Param(name, parameter(value)) for name, value in record.config.model_dump(mode="json").items()]
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
        settings = {name: parameter(fields[name]) for name in MAIN if fields.get(name) is not None}
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


def sync(ledger: Ledger, uri: str, *, status: str) -> None:
    """Make MLflow say what the ledger says, from nothing or from anything in between.

    Args:
        status: of the search; a running one is not closed.

    Raises:
        InputError: MLflow cannot be reached, or refuses something; the rest is told.
    """
    refused: Exception | None = None
    try:
        view = View(ledger, uri)
        for record in ledger.trained():
            try:
                view.tell(record)
            except Exception as error:
                if not is_refusal(error):
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
