"""The ledger: one Optuna study per search that holds everything known about it. Everything else is a view of it.

Per trial the study's user attributes hold ``config`` (written with the trial and its parameters in one transaction),
``epoch:0001`` ... (metrics, running best and the decision, in one commit), ``asked_at``, ``ended``, ``outcome``,
``message`` and ``attempts``; ``wish`` and ``request``, ``retry_of`` and ``confirms`` where a person asked for it. Such
requests are the study's own attributes ``request:...``: any process may write one, and the driver finds it within
seconds. ``test_look:...`` are the evaluations on the test part.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from ruamel.yaml.error import YAMLError

from tunesearch.errors import LedgerError, Problem, SearchNameError, nearest
from tunesearch.experiment import Experiment
from tunesearch.ledger.database import TROUBLE, Database, reason
from tunesearch.ledger.folders import EXPERIMENT, SPLIT, read_experiment, require_free_name, searches
from tunesearch.ledger.names import check_name
from tunesearch.ledger.outcomes import Outcome, constraints, optuna_state
from tunesearch.ledger.records import EpochRecord, Proposal, SearchRecord, TrialRecord
from tunesearch.ledger.requests import Requests
from tunesearch.ledger.versions import versions
from tunesearch.ledger.warm_start import FILE as WARM_START
from tunesearch.ledger.warm_start import WarmStart
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.files import write_text

optuna.logging.set_verbosity(optuna.logging.WARNING)

_REQUEST, _LOOK, _EPOCH = "request:", "test_look:", "epoch:"
"""What names of attributes begin with."""


class Ledger(SearchRecord):
    """A search's record, open for reading, or for driving when made by :meth:`create` or ``open(drive=True)``.

    Attributes:
        folder: ``STORAGE/NAME``.
        trials: records by number; a driver's commits update them.
    """

    def __init__(self, folder: Path, *, drive: bool) -> None:
        self.folder = folder
        self._seconds: dict[str, float] = {}
        try:
            self._database = Database(folder)
        except (OSError, ValueError, KeyError, ImportError, *TROUBLE) as error:
            raise LedgerError(Problem(str(folder), f"its ledger must answer: {reason(error)}")) from error
        try:
            self._storage = self._database.storage
            self._study = optuna.load_study(study_name=self._database.study, storage=self._storage)
            self._study_id = self._storage.get_study_id_from_name(self._database.study)
            # Before anybody can see that the search is driven, and ask it to end.
            self._earlier_stops = Requests(self.attributes(_REQUEST)).stops_of_search()
            if drive:
                self._database.take()
        except (OSError, ValueError, KeyError, *TROUBLE) as error:
            raise LedgerError(Problem(str(folder), f"its ledger must answer: {reason(error)}")) from error
        try:
            experiment = read_experiment(folder)
            super().__init__(
                folder.name,
                experiment,
                Split.load(folder / SPLIT),
                identity=str(self.attribute("identity", "")),
                warm_start=WarmStart.load(folder, experiment),
            )
            self.refresh()
        except (OSError, YAMLError, ValueError, TypeError, KeyError, *TROUBLE) as error:
            self._database.release()
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise LedgerError(Problem(str(folder), f"must hold a whole search: {why}")) from error

    # -------------------------------------------------------------------------------------------------- open and close

    @classmethod
    def create(
        cls,
        storage: Path,
        name: str,
        experiment: Experiment,
        split: Split,
        options: dict[str, Any],
        *,
        url: str | None = None,
        warm_start: WarmStart | None = None,
    ) -> Ledger:
        """Freeze a new search on disk and drive it. The folder appears whole or not at all.

        Args:
            options: how the search is run (resources, tracking URI, ...), kept for ``resume``.
            url: of a PostgreSQL database, as ``check_url`` gives it; None: SQLite in the search's folder.
            warm_start: what the sampler knows from other searches; None: nothing.

        Raises:
            SearchNameError: the name is taken or no valid name.
        """
        require_free_name(storage, name)
        folder = storage / name
        storage.mkdir(parents=True, exist_ok=True)
        building = storage / f".{name}.new"
        shutil.rmtree(building, ignore_errors=True)
        (building / "trials").mkdir(parents=True)
        write_text(building / EXPERIMENT, experiment.to_yaml())
        split.save(building / SPLIT)
        if warm_start is not None:
            write_text(building / WARM_START, warm_start.dump())
        identity = uuid.uuid4().hex
        if url is not None:  # where other storages may have searches of the same name
            Database.found(building, url, f"{name}-{identity[:8]}")
        database = Database(building, new=True)
        study = optuna.create_study(
            study_name=name if url is None else database.study,
            storage=database.storage,
            direction="maximize" if experiment.objective.mode == "max" else "minimize",
        )
        study.set_user_attr("identity", identity)
        study.set_user_attr("settings", options)
        study.set_user_attr("versions", versions())
        study.set_user_attr("data_digest", split.digest)
        study.set_user_attr("created_at", time.time())
        database.close()
        building.rename(folder)
        return cls(folder, drive=True)

    @classmethod
    def open(cls, storage: Path, name: str, *, drive: bool = False) -> Ledger:
        """An existing search.

        Raises:
            SearchNameError: there is none of that name.
            LedgerBusy: ``drive`` and another process drives it.
        """
        check_name(name)
        if not Database.exists(storage / name) and (storage / name / EXPERIMENT).is_file():
            raise LedgerError(Problem(f"search {name}", f"its ledger is no longer in {storage / name}"))
        if not Database.exists(storage / name):
            raise SearchNameError(
                Problem(f"search {name}", f"does not exist in {storage}", hint=nearest(name, searches(storage)))
            )
        return cls(storage / name, drive=drive)

    def close(self) -> None:
        """Let another process drive this search."""
        self._database.release()
        self._database.close()

    @staticmethod
    def discard(folder: Path) -> None:
        """Remove a search in which nothing began, so that its name is free."""
        with contextlib.suppress(KeyError, *TROUBLE):
            database = Database(folder)
            if database.url is not None:
                optuna.delete_study(study_name=database.study, storage=database.storage)
            database.close()
        shutil.rmtree(folder, ignore_errors=True)

    @property
    def driven(self) -> bool:
        """Whether some process drives this search now."""
        return self._database.driven

    def still_mine(self) -> bool:
        """Whether this process is still the search's driver."""
        return self._database.still_mine()

    def on_wait(self, callback: Callable[[str], None]) -> None:
        """Have a callback told when a write waits for the database."""
        self._database.on_wait = callback

    # ---------------------------------------------------------------------------------------------------------- reading

    def refresh(self) -> None:
        """Read every trial and every request anew."""
        self.poll()
        for trial in sorted(self.optuna_trials(), key=lambda trial: trial.number):
            self.remember(_record(trial), trial.user_attrs.get("request"))

    def poll(self) -> None:
        """Read the requests anew."""
        answered = self.requests.answered
        self.requests = Requests(self.attributes(_REQUEST))
        self.requests.answered = answered

    def optuna_trials(self) -> list[FrozenTrial]:
        """All trials as Optuna keeps them, with what its samplers keep with them."""
        return self._study.get_trials(deepcopy=False)

    def trial_folder(self, number: int) -> Path:
        """Where a trial keeps its files."""
        return self.folder / "trials" / f"{number:04d}"

    def effective(self, number: int) -> dict[str, Any]:
        """A trial's configuration as read back from what was built; empty where its file is not there or damaged."""
        try:
            document = json.loads((self.trial_folder(number) / "effective.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def attribute(self, name: str, default: Any = None) -> Any:
        """Something kept about the whole search, such as ``settings`` or ``versions``."""
        return self._study.user_attrs.get(name, default)

    def attributes(self, prefix: str) -> dict[str, Any]:
        """Everything kept under names that begin with ``prefix``, by the rest of the name."""
        kept = self._study.user_attrs
        return {name.removeprefix(prefix): value for name, value in kept.items() if name.startswith(prefix)}

    def seconds(self, name: str = "seconds") -> float:
        """Of searching (``confirm_seconds``: of confirming), all sessions together; what was known last where the
        database is away."""
        with contextlib.suppress(*TROUBLE):
            self._seconds[name] = float(self.attribute(name, 0.0))
        return self._seconds.get(name, 0.0)

    @property
    def looks(self) -> list[dict[str, Any]]:
        """Every evaluation on the test part that was recorded, oldest first."""
        return [look for _, look in sorted(self.attributes(_LOOK).items())]

    @property
    def is_to_end(self) -> bool:
        """Whether the whole search is wanted to stop, asked since this process opened the ledger."""
        return bool(self.requests.stops_of_search() - self._earlier_stops)

    # ---------------------------------------------------------------------------------- writing, about the whole search

    def set_attribute(self, name: str, value: Any) -> None:
        """Keep something about the whole search (plain data)."""
        self._database.write(self._study.set_user_attr, name, value)

    def note(self, name: str, value: Any) -> None:
        """:meth:`set_attribute` for what may be lost: a database that is away is not waited for."""
        with contextlib.suppress(*TROUBLE):
            self._study.set_user_attr(name, value)

    def request(self, kind: str, **content: Any) -> None:
        """Leave a request for whoever drives the search, now or after the next ``resume``.

        Args:
            kind: see :mod:`tunesearch.ledger.requests`, which also says what belongs to it.
        """
        self.set_attribute(_REQUEST + _ordered_key(), {"kind": kind, **content})

    def withdraw(self, key: str) -> None:
        """Take a request back that nothing has begun for."""
        self.set_attribute(_REQUEST + key, {"kind": "withdrawn"})

    def record_look(self, *, by: str, trials: Sequence[int], result: dict[str, Any]) -> None:
        """Keep that somebody has looked at the test part, and what was seen.

        Args:
            by: the command.
            trials: numbers of those whose networks were evaluated.
            result: plain data.
        """
        look = {"at": time.time(), "by": by, "trials": list(trials), "digest": self.split.part_digest("test"), **result}
        self.set_attribute(_LOOK + _ordered_key(), look)

    # ------------------------------------------------------------------------------------------- writing, about a trial

    def add(self, proposal: Proposal) -> TrialRecord:
        """Commit a new trial with its complete configuration, in one transaction."""
        trial, asked_at = proposal.trial, time.time()
        about: dict[str, Any] = {"wish": proposal.request, "request": proposal.request if proposal.answers else None}
        about |= {"retry_of": proposal.retry_of, "confirms": proposal.confirms}
        trial.user_attrs.update(config=proposal.config.model_dump(mode="json"), asked_at=asked_at)
        trial.user_attrs.update({name: value for name, value in about.items() if value is not None})
        record = TrialRecord(
            trial.number,
            dict(trial.params),
            proposal.config,
            retry_of=proposal.retry_of,
            confirms=proposal.confirms,
            asked_at=asked_at,
        )
        record.storage_id = self._database.write(self._create, trial)
        self.remember(record, proposal.request if proposal.answers else None)
        return record

    def _create(self, trial: FrozenTrial) -> int:
        """Write a whole new trial, once however often it is called; gives its id."""
        trials = self.optuna_trials()
        if len(trials) > trial.number:  # written, but the answer was lost
            return self._id_of(trial.number)
        return int(self._storage.create_new_trial(self._study_id, template_trial=trial))

    def commit_epoch(self, metrics: EpochMetrics, *, number: int, stopped: bool) -> EpochRecord:
        """Write one epoch with the decision on it, before anything acts on it. Writing it again changes nothing."""
        record = self.trials[number]
        if metrics.epoch in record.epochs:
            return record.epochs[metrics.epoch]
        best = self.larger_is_better(self.running_best(metrics, number=number))
        saved = EpochRecord(metrics, best, stopped)
        name = f"{_EPOCH}{metrics.epoch:04d}"
        self._write(self._storage.set_trial_user_attr, record, name, dataclasses.asdict(saved))
        self._write(self._storage.set_trial_intermediate_value, record, metrics.epoch, best)
        record.epochs[metrics.epoch], record.best = saved, best
        return saved

    def end(self, number: int, outcome: Outcome, message: str = "") -> None:
        """Close a trial under its name. Closing it again changes nothing."""
        record = self.trials[number]
        if record.closed:
            return
        if message:
            self._write(self._storage.set_trial_user_attr, record, "message", message)
        if outcome != "duplicate" and record.place is None:
            place, ended_at = 1 + max((other.place or 0 for other in self.trials.values()), default=0), time.time()
            ended = {"place": place, "at": ended_at}
            self._write(self._storage.set_trial_user_attr, record, "ended", ended)
            record.place, record.ended_at = place, ended_at
        self._write(self._storage.set_trial_user_attr, record, "outcome", outcome)
        for name, content in constraints(outcome).items():
            self._write(self._storage.set_trial_system_attr, record, name, content)
        state = optuna_state(outcome, repeat=record.confirms is not None)
        values = None if record.best is None or state is TrialState.FAIL else [record.best]
        self._write(self._storage.set_trial_state_values, record, state, values)
        record.outcome, record.message, record.closed = outcome, message, True

    def add_attempt(self, number: int) -> int:
        """Count that a trial is started again after its process was lost; gives the count."""
        record, epoch = self.trials[number], max(self.trials[number].epochs, default=0)
        record.attempts = record.attempts + 1 if record.lost_at == epoch else 1
        record.lost_at = epoch
        self._write(self._storage.set_trial_user_attr, record, "lost_at", epoch)
        self._write(self._storage.set_trial_user_attr, record, "attempts", record.attempts)
        return record.attempts

    def recover(self) -> list[TrialRecord]:
        """After a death of the driver: finish what was half written. Gives the trials that were live, to go on with."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in running:
            record = self.trials[trial.number]
            for epoch, saved in record.epochs.items():
                if epoch not in trial.intermediate_values:
                    self._write(self._storage.set_trial_intermediate_value, record, epoch, saved.best)
        for trial in running:
            record = self.trials[trial.number]
            alone = record.retry_of is not None or record.confirms is not None
            twin = None if alone else self.twin(record.config)
            last = max(record.epochs, default=0)
            if record.outcome is not None:
                self.end(record.number, record.outcome, record.message)
            elif twin is not None and twin != record.number:
                self.end(record.number, "duplicate", f"equals trial {twin} in effect")
            elif last and record.epochs[last].stopped:
                self.end(record.number, "stopped")
            elif last == record.config.epochs:
                self.end(record.number, "completed")
        return self.live()

    def _write(self, work: Callable[..., object], record: TrialRecord, *values: Any) -> None:
        """Write to a trial. That it is closed already means that an earlier attempt's answer was lost."""
        with contextlib.suppress(UpdateFinishedTrialError):
            self._database.write(self._write_to, work, record, *values)

    def _write_to(self, work: Callable[..., object], record: TrialRecord, *values: Any) -> None:
        if record.storage_id < 0:
            record.storage_id = self._id_of(record.number)
        work(record.storage_id, *values)

    def _id_of(self, number: int) -> int:
        return int(self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number))


def _record(trial: FrozenTrial) -> TrialRecord:
    """A trial as it is read from Optuna's storage."""
    attributes = trial.user_attrs
    # A driver that died between the two writes has not ended the trial.
    ended = attributes.get("ended", {}) if "outcome" in attributes else {}
    record = TrialRecord(
        number=trial.number,
        parameters=dict(trial.params),
        config=TrainConfig.model_validate(attributes["config"]),
        outcome=attributes.get("outcome"),
        message=attributes.get("message", ""),
        attempts=attributes.get("attempts", 0),
        closed=trial.state.is_finished(),
        retry_of=attributes.get("retry_of"),
        confirms=attributes.get("confirms"),
        asked_at=attributes.get("asked_at", 0.0),
        ended_at=ended.get("at"),
        place=ended.get("place"),
        lost_at=attributes.get("lost_at", -1),
    )
    for key in sorted(key for key in attributes if key.startswith(_EPOCH)):
        saved = attributes[key]
        metrics = EpochMetrics.from_dict(saved["metrics"])
        record.epochs[metrics.epoch] = EpochRecord(metrics, saved["best"], saved["stopped"])
        record.best = saved["best"]
    return record


def _ordered_key() -> str:
    """A new key; the clock only orders what one person asks for in a row."""
    return f"{time.time_ns():020d}:{uuid.uuid4().hex[:8]}"
