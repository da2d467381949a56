"""The ledger: one Optuna study per search that holds everything known about it. Everything else is a view of it.

A search is a folder ``STORAGE/NAME``:

    ledger.db         the study (SQLite); optuna-dashboard opens it as it is
    experiment.yaml   the frozen search space, every override resolved
    split.json        the frozen train / val / test lists with hashes
    trials/0007/      one trial's checkpoint, best weights, pictures, effective configuration
    driver.lock       held by the process that drives the search

Per trial the study's user attributes hold ``config`` (written with the trial and its parameters in one transaction),
``epoch:0001`` ... (metrics, running best and the decision, in one commit), ``outcome``, ``message`` and ``attempts``.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import re
import shutil
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import filelock
import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from sqlalchemy.exc import SQLAlchemyError

from tunesearch import __version__
from tunesearch.errors import LedgerBusy, LedgerError, Problem, SearchNameError, nearest
from tunesearch.experiment import Experiment
from tunesearch.search.mirror import Mirror
from tunesearch.search.samplers import derived_seed
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.files import write_text
from tunesearch.segmentation.trainer import EpochMetrics

optuna.logging.set_verbosity(optuna.logging.WARNING)

Outcome = Literal[
    "completed", "stopped", "diverged", "out_of_memory", "infeasible", "failed", "lost", "cancelled", "duplicate"
]
"""How a trial ended. ``duplicate``: its configuration equals an earlier one in effect; it was not trained and does not
count. ``lost``: its node or process died more often than it is retried."""

_TOLD: dict[str, TrialState] = {
    "completed": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "diverged": TrialState.PRUNED,
    "out_of_memory": TrialState.PRUNED,
    "infeasible": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "lost": TrialState.FAIL,
    "cancelled": TrialState.FAIL,
    "duplicate": TrialState.FAIL,
}
"""What Optuna is told; out_of_memory and infeasible carry a violated constraint besides."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DUPLICATES_IN_A_ROW = 64
"""How many equal configurations a sampler may suggest before the space counts as exhausted."""


@dataclass
class EpochRecord:
    """One committed epoch: its metrics, the running best of the objective, and whether the trial was stopped there."""

    metrics: EpochMetrics
    best: float
    stopped: bool


@dataclass
class TrialRecord:
    """One trial as the ledger knows it.

    Attributes:
        number: from 0, without gaps in the study.
        parameters: what was sampled; inactive parameters are absent.
        config: the complete TrainConfig.
        epochs: committed epochs by number, from 1.
        outcome: None while the trial is live.
        message: why it ended, for outcomes that need a reason.
        attempts: how often it was started again after its process or node was lost.
        best: best value of the objective so far; None before the first epoch.
        closed: whether its state in the study is final.
    """

    number: int
    parameters: dict[str, Any]
    config: TrainConfig
    epochs: dict[int, EpochRecord] = field(default_factory=dict)
    outcome: Outcome | None = None
    message: str = ""
    attempts: int = 0
    best: float | None = None
    closed: bool = False
    _id: int = -1

    @property
    def best_val_miou(self) -> float | None:
        """Best mean IoU on the validation set over the committed epochs."""
        return max((record.metrics.val_miou for record in self.epochs.values()), default=None)

    def best_epoch(self, metric: str) -> EpochRecord:
        """The first epoch that has the best value; there must be an epoch."""
        records = [record for _, record in sorted(self.epochs.items())]
        return next((record for record in records if getattr(record.metrics, metric) == self.best), records[-1])

    def as_dict(self) -> dict[str, Any]:
        """The row of ``--json``."""
        return {
            "number": self.number,
            "parameters": self.parameters,
            "outcome": self.outcome or "running",
            "epochs": max(self.epochs, default=0),
            "best_val_miou": self.best_val_miou,
            "best_value": self.best,
            "seed": self.config.seed,
            "message": self.message,
        }


def versions() -> dict[str, str]:
    """Of Python, tunesearch and the packages that decide a result."""
    names = (
        "ray",
        "torch",
        "torchvision",
        "optuna",
        "mlflow",
        "albumentations",
        "segmentation-models-pytorch",
        "timm",
        "numpy",
    )
    return {
        "python": platform.python_version(),
        "tunesearch": __version__,
        **{name: importlib.metadata.version(name) for name in names},
    }


def check_name(name: str) -> None:
    """Refuse a name that is no single, plain folder name.

    Raises:
        SearchNameError: it is not.
    """
    if not NAME.fullmatch(name):
        raise SearchNameError(
            Problem(
                "--name", "must be letters, digits, '.', '_' and '-', starting with a letter or digit", value=repr(name)
            )
        )


def require_free_name(storage: Path, name: str) -> None:
    """Refuse a name that is no valid name or taken.

    Raises:
        SearchNameError: it is.
    """
    check_name(name)
    if (storage / name).exists():
        hint = f"tunesearch resume {name} continues it; --name gives the new one another name"
        raise SearchNameError(Problem(f"search {name}", f"exists already in {storage}", hint=hint))


def searches(storage: Path) -> list[str]:
    """Names of the searches in a storage folder, oldest first."""
    # experiment.yaml is written once, when the search is made.
    found = sorted(storage.glob("*/experiment.yaml"), key=lambda path: path.stat().st_mtime) if storage.is_dir() else []
    return [path.parent.name for path in found if not path.parent.name.startswith(".")]


def read_experiment(folder: Path) -> Experiment:
    """The frozen experiment of a search's folder."""
    file = folder / "experiment.yaml"
    return Experiment.from_document(YAML(typ="safe").load(file.read_text("utf-8")), where=str(file))


class Ledger:
    """A search's record, open for reading, or for driving when made by :meth:`create` or ``open(drive=True)``.

    Attributes:
        folder: ``STORAGE/NAME``.
        experiment: the frozen experiment.
        split: the frozen split.
        trials: records by number; a driver's commits update them.
    """

    def __init__(self, folder: Path, *, drive: bool) -> None:
        self.folder = folder
        self._lock = filelock.FileLock(folder / "driver.lock")
        if drive:
            try:
                self._lock.acquire(timeout=2)  # a glance of ``driven`` holds it for a moment
            except filelock.Timeout:
                raise LedgerBusy(Problem(f"search {self.name}", "another process is driving it")) from None
        self._mirror: Mirror | None = None
        self.trials: dict[int, TrialRecord] = {}
        self._keys: dict[str, int] = {}
        try:
            self.experiment = read_experiment(folder)
            self._sign = 1.0 if self.experiment.objective.mode == "max" else -1.0
            self.split = Split.load(folder / "split.json")
            self._storage = _storage(folder)
            self._study = optuna.load_study(study_name=self.name, storage=self._storage)
            self._study_id = self._storage.get_study_id_from_name(self.name)
            self.refresh()
        except (OSError, YAMLError, SQLAlchemyError, StorageInternalError, ValueError, TypeError, KeyError) as error:
            self._lock.release()
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise LedgerError(Problem(str(folder), f"must hold a whole search: {reason}")) from error

    @property
    def name(self) -> str:
        """The search's name."""
        return self.folder.name

    # -------------------------------------------------------------------------------------------------- open and close

    @classmethod
    def create(cls, storage: Path, name: str, experiment: Experiment, split: Split, settings: dict[str, Any]) -> Ledger:
        """Freeze a new search on disk and drive it. The folder appears whole or not at all.

        Args:
            settings: how the search is run (resources, tracking URI, ...), kept for ``resume``.

        Raises:
            SearchNameError: the name is taken or no valid name.
        """
        require_free_name(storage, name)
        folder = storage / name
        storage.mkdir(parents=True, exist_ok=True)
        building = storage / f".{name}.new"
        shutil.rmtree(building, ignore_errors=True)
        (building / "trials").mkdir(parents=True)
        write_text(building / "experiment.yaml", experiment.to_yaml())
        split.save(building / "split.json")
        study = optuna.create_study(
            study_name=name,
            storage=_storage(building),
            direction="maximize" if experiment.objective.mode == "max" else "minimize",
        )
        study.set_user_attr("identity", uuid.uuid4().hex)
        study.set_user_attr("settings", settings)
        study.set_user_attr("versions", versions())
        study.set_user_attr("data_digest", split.digest)
        study.set_user_attr("created_at", time.time())
        study._storage.remove_session()
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
        if not (storage / name / "ledger.db").is_file():
            raise SearchNameError(
                Problem(f"search {name}", f"does not exist in {storage}", hint=nearest(name, searches(storage)))
            )
        return cls(storage / name, drive=drive)

    def close(self) -> None:
        """Let another process drive this search."""
        self._storage.remove_session()
        self._lock.release()

    @property
    def driven(self) -> bool:
        """Whether some process drives this search now."""
        if self._lock.is_locked:
            return True
        try:
            with filelock.FileLock(self.folder / "driver.lock", timeout=0):
                return False
        except filelock.Timeout:
            return True
        except OSError:  # a folder that cannot be written has no driver that can be seen from here
            return False

    # ---------------------------------------------------------------------------------------------------------- reading

    def refresh(self) -> None:
        """Read every trial anew."""
        for frozen in sorted(self._study.get_trials(deepcopy=False), key=lambda trial: trial.number):
            self._remember(self._read(frozen))

    def _read(self, frozen: FrozenTrial) -> TrialRecord:
        attributes = frozen.user_attrs
        record = TrialRecord(
            number=frozen.number,
            parameters=dict(frozen.params),
            config=TrainConfig.model_validate(attributes["config"]),
            outcome=attributes.get("outcome"),
            message=attributes.get("message", ""),
            attempts=attributes.get("attempts", 0),
            closed=frozen.state.is_finished(),
            _id=frozen._trial_id,
        )
        for key in sorted(key for key in attributes if key.startswith("epoch:")):
            saved = attributes[key]
            metrics = EpochMetrics.from_dict(saved["metrics"])
            record.epochs[metrics.epoch] = EpochRecord(metrics, saved["best"], saved["stopped"])
            record.best = saved["best"]
        return record

    def _remember(self, record: TrialRecord) -> None:
        self.trials[record.number] = record
        if record.outcome != "duplicate":
            self._keys.setdefault(self._key(record.config), record.number)

    def counted(self) -> list[TrialRecord]:
        """The trials that count: all but duplicates, by number."""
        return [self.trials[number] for number in sorted(self.trials) if self.trials[number].outcome != "duplicate"]

    def live(self) -> list[TrialRecord]:
        """The trials that have not ended."""
        return [record for record in self.counted() if record.outcome is None]

    def best(self) -> TrialRecord | None:
        """The completed trial with the best value; where none was completed, the best of those stopped on the way."""
        scored = [record for record in self.counted() if record.best is not None]
        finished = [record for record in scored if record.outcome == "completed"]
        return max(
            finished or scored, key=lambda record: (self._sign * (record.best or 0.0), -record.number), default=None
        )

    def larger_is_better(self, value: float) -> float:
        """The value with its sign turned if the objective is minimised."""
        return self._sign * value

    def trial_folder(self, number: int) -> Path:
        """Where a trial keeps its files."""
        return self.folder / "trials" / f"{number:04d}"

    def attribute(self, name: str, default: Any = None) -> Any:
        """Something kept about the whole search, such as ``settings`` or ``versions``."""
        return self._study.user_attrs.get(name, default)

    def attributes(self, prefix: str) -> dict[str, Any]:
        """Everything kept under names that begin with ``prefix``, by the rest of the name."""
        kept = self._study.user_attrs
        return {name.removeprefix(prefix): value for name, value in kept.items() if name.startswith(prefix)}

    def set_attribute(self, name: str, value: Any) -> None:
        """Keep something about the whole search (plain data)."""
        self._study.set_user_attr(name, value)

    # ---------------------------------------------------------------------------------------------------------- driving

    def recover(self) -> list[TrialRecord]:
        """After a death of the driver: finish what was half written. Gives the trials that were live, to go on with."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for frozen in running:
            record = self.trials[frozen.number]
            for epoch, saved in record.epochs.items():
                if epoch not in frozen.intermediate_values:
                    self._storage.set_trial_intermediate_value(record._id, epoch, saved.best)
        for frozen in running:
            record = self.trials[frozen.number]
            twin = self._keys.get(self._key(record.config), record.number)
            last = max(record.epochs, default=0)
            if record.outcome is not None:
                self.end(record.number, record.outcome, record.message)
            elif twin != record.number:
                self.end(record.number, "duplicate", f"equals trial {twin} in effect")
            elif last and record.epochs[last].stopped:
                self.end(record.number, "stopped")
            elif last == record.config.epochs:
                self.end(record.number, "completed")
        return self.live()

    def ask(self) -> TrialRecord | None:
        """A new trial, committed with its complete configuration; None when the space is exhausted.

        A configuration that equals an earlier one in effect is closed as a duplicate and another one is asked for.
        """
        search = self.experiment.search
        duplicates = 0
        while search.sampler == "grid" or duplicates < _DUPLICATES_IN_A_ROW:
            frozen = self._mirrored().draw()
            if frozen is None:
                return None
            number, parameters = frozen.number, dict(frozen.params)
            config = self.experiment.train_config(parameters, seed=derived_seed(search.seed, number, 1))
            frozen.user_attrs["config"] = config.model_dump(mode="json")
            identity = self._storage.create_new_trial(self._study_id, template_trial=frozen)
            record = TrialRecord(number, parameters, config, _id=identity)
            twin = self._keys.get(self._key(config))
            self._remember(record)
            if twin is None:
                return record
            duplicates += 1
            self.end(number, "duplicate", f"equals trial {twin} in effect")
        return None

    def _key(self, config: TrainConfig) -> str:
        """Equal for configurations that are equal in effect; a seed only counts where it is searched."""
        fields = config.governing()
        if "seed" in self.experiment.space:
            fields["seed"] = config.seed
        return json.dumps(fields, sort_keys=True)

    def _mirrored(self) -> Mirror:
        if self._mirror is None:
            self._mirror = Mirror(self.experiment, self._study.get_trials(deepcopy=False))
        return self._mirror

    def commit_epoch(self, metrics: EpochMetrics, *, number: int, stopped: bool) -> EpochRecord:
        """Write one epoch with the decision on it, before anything acts on it. Writing it again changes nothing."""
        record = self.trials[number]
        if metrics.epoch in record.epochs:
            return record.epochs[metrics.epoch]
        value = getattr(metrics, self.experiment.objective.metric)
        best = value if record.best is None else self._sign * max(self._sign * value, self._sign * record.best)
        saved = EpochRecord(metrics, best, stopped)
        self._storage.set_trial_user_attr(record._id, f"epoch:{metrics.epoch:04d}", dataclasses.asdict(saved))
        self._storage.set_trial_intermediate_value(record._id, metrics.epoch, best)
        self._mirrored().report(number, metrics.epoch, best)
        record.epochs[metrics.epoch], record.best = saved, best
        return saved

    def running_best(self, metrics: EpochMetrics, *, number: int) -> float:
        """What the running best would be with this epoch; larger is better."""
        value = self._sign * float(getattr(metrics, self.experiment.objective.metric))
        best = self.trials[number].best
        return value if best is None else max(value, self._sign * best)

    def end(self, number: int, outcome: Outcome, message: str = "") -> None:
        """Close a trial under its name and tell the sampler. Closing it again changes nothing."""
        record = self.trials[number]
        if record.closed:
            return
        if message:
            self._storage.set_trial_user_attr(record._id, "message", message)
        self._storage.set_trial_user_attr(record._id, "outcome", outcome)
        state = _TOLD[outcome]
        violated = outcome if outcome in ("out_of_memory", "infeasible") else None
        value = record.best if state is not TrialState.FAIL else None
        for name, content in self._mirrored().end(number, state, value, violated).items():
            if name != "fixed_params":  # written with the trial; whatever else is the sampler's memory
                self._storage.set_trial_system_attr(record._id, name, content)
        self._storage.set_trial_state_values(record._id, state, None if value is None else [value])
        record.outcome, record.message, record.closed = outcome, message, True

    def add_attempt(self, number: int) -> int:
        """Count that a trial is started again after its process was lost; gives the count."""
        record = self.trials[number]
        record.attempts += 1
        self._storage.set_trial_user_attr(record._id, "attempts", record.attempts)
        return record.attempts


def _storage(folder: Path) -> RDBStorage:
    # The timeout is SQLite's: a writer waits for another instead of raising "database is locked".
    return RDBStorage(f"sqlite:///{folder.resolve()}/ledger.db", engine_kwargs={"connect_args": {"timeout": 60}})
