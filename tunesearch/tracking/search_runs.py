"""The runs of one search in MLflow: a parent, and a child per trial, each logged from its record as a whole.

Logging a record again changes nothing: every time and place comes from the ledger, and a search's runs are found by its
identity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.store import Ledger
from tunesearch.strategy.confirmation import confirmation
from tunesearch.tracking.store import experiment_id, pages, prepare, prepare_database, without_password
from tunesearch.tracking.tags import PARENT, measured_on, parameter
from tunesearch.tracking.trials import (
    best_metrics,
    best_tags,
    bests,
    confirmation_summary,
    end_of,
    epoch_metrics,
    outcome_tags,
    trial_tags,
)

_STATUS = {None: "RUNNING", "failed": "FAILED", "lost": "FAILED", "cancelled": "KILLED"}
"""MLflow's status per outcome; FINISHED for the others."""
_BATCH = 900
"""MLflow takes at most 1000 metrics in one call."""
_NOTHING: Mapping[str, str] = {}


class _Client:
    """MLflow's client; ``on_answer`` is called after every answer."""

    def __init__(self, uri: str, on_answer: Callable[[], None]) -> None:
        from mlflow import MlflowClient

        prepare_database(uri)
        self._client, self._on_answer = MlflowClient(tracking_uri=uri), on_answer

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*values: Any, **named: Any) -> Any:
            answer = getattr(self._client, name)(*values, **named)
            self._on_answer()
            return answer

        return call


class SearchRuns:
    """The runs of one search in one MLflow.

    Args:
        on_answer: called after every answer of MLflow, before anything is made of it.
        system_metrics: log this machine's load to the parent run.
    """

    def __init__(
        self,
        ledger: Ledger,
        uri: str,
        on_answer: Callable[[], None] = lambda: None,
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
        self.client = _Client(uri, on_answer)
        self.experiment_id = experiment_id(self.client, ledger.experiment.name, uri=uri, storage=ledger.folder.parent)
        self.logged: dict[int, int] = {}
        self._logged_best = 0
        self._prefix = f"mlflow_run:{without_password(uri)}:"
        self.runs: dict[str, str] = {}
        self._adopt()
        self._new_parent = PARENT not in self.runs
        self.parent = self._run(PARENT, ledger.name, self.created_at, self._parent_tags())
        self.client.update_run(self.parent, status="RUNNING")
        self._describe()
        self.monitor = self._monitor(uri) if system_metrics else None

    def missing(self) -> list[int]:
        """Trials that this MLflow does not have, or has under another parent."""
        return [r.number for r in self.ledger.trained() if self._new_parent or str(r.number) not in self.runs]

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

    def log_trial(self, record: TrialRecord) -> None:
        """Bring a trial's run up to what the ledger holds."""
        outcome, epochs = record.outcome, dict(record.epochs)  # as they are now: the driver goes on meanwhile
        if outcome == "duplicate":
            return
        key, tags = str(record.number), trial_tags(record, self.parent)
        new = key not in self.runs
        title = f"trial {record.number}" if record.confirms is None else f"confirms trial {record.confirms}"
        run = self._run(key, title, record.asked_at, tags)
        params = {}
        if new or record.number not in self.logged:
            self.logged.setdefault(record.number, 0)
            params = {name: parameter(value) for name, value in record.config.model_dump(mode="json").items()}
            if outcome is None and not new:  # closed by an interruption, goes on
                self.client.update_run(run, status="RUNNING")
        objective = self.ledger.experiment.objective.metric
        points = [
            (name, value, saved.metrics.finished_at, epoch)
            for epoch, saved in sorted(epochs.items())
            if epoch > self.logged[record.number]
            for name, value in epoch_metrics(saved.metrics, saved.best, objective)
        ]
        self._log(run, points, params=params, tags=tags | outcome_tags(record, outcome))
        self.logged[record.number] = max(epochs, default=self.logged[record.number])
        if outcome is not None:
            self._close_trial(run, record, outcome)
            self._log_best()

    def _close_trial(self, run: str, record: TrialRecord, outcome: str) -> None:
        folder = self.ledger.trial_folder(record.number)
        for name in ("predictions.png", "effective.json", "error.txt"):
            if (folder / name).is_file():
                self.client.log_artifact(run, str(folder / name))
        self.client.log_dict(run, record.config.model_dump(mode="json"), "config.json")
        self.client.set_terminated(run, status=_STATUS.get(outcome, "FINISHED"), end_time=int(end_of(record) * 1000))

    def _log(
        self,
        run: str,
        points: Sequence[tuple[str, float, float, int]] = (),
        *,
        params: Mapping[str, str] = _NOTHING,
        tags: Mapping[str, str] = _NOTHING,
    ) -> None:
        """Log metrics, each a name, a value, Unix seconds and a step, with parameters and tags."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(name, value, int(when * 1000), step) for name, value, when, step in points]
        first = [Param(*item) for item in params.items()], [RunTag(*item) for item in tags.items()]
        for start in range(0, max(len(metrics), 1), _BATCH):
            self.client.log_batch(run, metrics[start : start + _BATCH], *(first if start == 0 else ((), ())))

    def _log_best(self) -> None:
        """The metrics of the best trial so far, on the parent run: a point each time that a trial ended as the best."""
        objective = self.ledger.experiment.objective.metric
        for record in bests(self.ledger):
            assert record.place is not None
            if record.place <= self._logged_best:
                continue
            metrics, when = best_metrics(record, objective), end_of(record)
            points = [(name, value, when, record.place) for name, value in metrics.items()]
            self._log(self.parent, points, tags=best_tags(record))
            self._logged_best = record.place

    def _log_confirmation(self) -> None:
        """What repeating the best trials has shown, on the parent run."""
        confirmed = confirmation(self.ledger)
        if confirmed is None or confirmed.leader is None:
            return
        tags, metrics = confirmation_summary(confirmed, confirmed.leader)
        repeats = confirmed.candidate(confirmed.leader).trials
        when = max(end_of(self.ledger.trials[number]) for number in repeats)
        self._log(self.parent, [(name, value, when, 0) for name, value in metrics.items()], tags=tags)

    def finish(self, status: str) -> None:
        """Close the parent; trials that have not ended are KILLED until the search is resumed."""
        if self.monitor is not None:
            self.monitor.finish()
        self._log_best()
        counts: dict[str, int] = {}
        for record in self.ledger.counted():
            counts[record.outcome or "running"] = counts.get(record.outcome or "running", 0) + 1
        for name in self.client.get_run(self.parent).data.tags:
            if name.startswith("tunesearch.count.") and name.removeprefix("tunesearch.count.") not in counts:
                self.client.delete_tag(self.parent, name)  # of an earlier session
        tags = {"tunesearch.status": status}
        tags |= {f"tunesearch.count.{name}": str(number) for name, number in counts.items()}
        best = self.ledger.best()
        if best is not None:
            tags |= best_tags(best)
            picture = self.ledger.trial_folder(best.number) / "predictions.png"
            if picture.is_file():
                self.client.log_artifact(self.parent, str(picture))
            self.client.log_dict(
                self.parent, {"trial": best.number, "config": best.config.model_dump(mode="json")}, "best.json"
            )
        self._log(self.parent, tags=tags)
        self._log_confirmation()
        for record in self.ledger.live():
            if str(record.number) in self.runs:
                run = self.runs[str(record.number)]
                self.client.set_terminated(run, status="KILLED", end_time=int(end_of(record) * 1000))
        ended = {"interrupted": "KILLED", "failed": "FAILED"}.get(status, "FINISHED")
        end_time = max([self.created_at, *(end_of(record) for record in self.ledger.trained())])
        self.client.set_terminated(self.parent, status=ended, end_time=int(1000 * end_time))
