"""The ledger: one Optuna study per search that holds everything known about it. Everything else is a view of it.

A search is a folder ``STORAGE/NAME``:

    ledger.db         the study (SQLite); optuna-dashboard opens it as it is. Or ledger.json: where it lies on a server
    experiment.yaml   the frozen search space, every override resolved
    split.json        the frozen train / val / test lists with hashes
    warm_start.json   what the sampler knows from other searches, where it was started with --warm-start
    trials/0007/      one trial's checkpoint, best weights, pictures, effective configuration
    driver.lock       held by the process that drives the search

Per trial the study's user attributes hold ``config`` (written with the trial and its parameters in one transaction),
``epoch:0001`` ... (metrics, running best and the decision, in one commit), ``asked_at``, ``ended``, ``outcome``,
``message`` and ``attempts``; ``wish``, ``request``, ``retry_of`` and ``confirms`` where a person asked for it. Such
requests are the study's own attributes ``request:...``: any process may write one, and the driver finds it within
seconds. One to try a point is done once a trial names it, so none is lost and none is tried twice.

A trial that confirms another repeats its configuration with another seed. It is no part of the search: the sampler is
not told its score, early stopping does not see it, and it counts neither as a trial nor as a candidate for the best.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import platform
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tunesearch import __version__
from tunesearch.errors import LedgerError, Problem, SearchNameError, nearest
from tunesearch.experiment import Experiment
from tunesearch.ledger.database import TROUBLE, Database, reason
from tunesearch.ledger.names import check_name
from tunesearch.ledger.outcomes import STATE, Outcome
from tunesearch.ledger.records import EpochRecord, TrialRecord
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.files import write_text
from tunesearch.strategy.samplers import derived_seed
from tunesearch.strategy.study import Mirror
from tunesearch.strategy.warm_start import FILE as WARM_START
from tunesearch.strategy.warm_start import WarmStart

optuna.logging.set_verbosity(optuna.logging.WARNING)

_DUPLICATES_IN_A_ROW = 64
"""How many equal configurations a sampler may suggest before the space counts as exhausted."""


@dataclass(frozen=True)
class Wish:
    """A point that a person wants to be tried.

    Attributes:
        key: of the request.
        parameters: full or partial; the rest is sampled.
        retry_of: the trial whose configuration is trained again; None: it is a new one.
    """

    key: str
    parameters: dict[str, Any]
    retry_of: int | None = None


@dataclass(frozen=True)
class Repeat:
    """A trial's configuration that is to be trained once more with another seed.

    Attributes:
        key: of the request.
        confirms: the trial's number.
        seed: of the training.
    """

    key: str
    confirms: int
    seed: int


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
        warm_start: what the sampler knows from other searches.
        trials: records by number; a driver's commits update them.
    """

    def __init__(self, folder: Path, *, drive: bool) -> None:
        self.folder = folder
        self._mirror: Mirror | None = None
        self.trials: dict[int, TrialRecord] = {}
        self._keys: dict[str, int] = {}
        self._requests: dict[str, dict[str, Any]] = {}
        self._seconds: dict[str, float] = {}
        self._granted: dict[str, int] = {}
        """The trial of each request to try a point that has one."""
        try:
            self._database = Database(folder)
        except (OSError, ValueError, KeyError, ImportError, *TROUBLE) as error:
            raise LedgerError(Problem(str(folder), f"its ledger must answer: {reason(error)}")) from error
        try:
            self._open()
            self._old_ends = self._ends()  # before anybody can see that the search is driven, and ask it to end
            if drive:
                self._database.take()
        except (OSError, ValueError, KeyError, *TROUBLE) as error:
            raise LedgerError(Problem(str(folder), f"its ledger must answer: {reason(error)}")) from error
        try:
            self.experiment = read_experiment(folder)
            self._sign = 1.0 if self.experiment.objective.mode == "max" else -1.0
            self.split = Split.load(folder / "split.json")
            self.warm_start = WarmStart.load(folder, self.experiment)
            self.refresh()
        except (OSError, YAMLError, ValueError, TypeError, KeyError, *TROUBLE) as error:
            self._database.release()
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise LedgerError(Problem(str(folder), f"must hold a whole search: {why}")) from error

    def _open(self) -> None:
        self._storage = self._database.storage
        self._study = optuna.load_study(study_name=self._database.study, storage=self._storage)
        self._study_id = self._storage.get_study_id_from_name(self._database.study)
        self.poll()

    @property
    def name(self) -> str:
        """The search's name."""
        return self.folder.name

    # -------------------------------------------------------------------------------------------------- open and close

    @classmethod
    def create(
        cls,
        storage: Path,
        name: str,
        experiment: Experiment,
        split: Split,
        settings: dict[str, Any],
        *,
        url: str | None = None,
        warm_start: WarmStart | None = None,
    ) -> Ledger:
        """Freeze a new search on disk and drive it. The folder appears whole or not at all.

        Args:
            settings: how the search is run (resources, tracking URI, ...), kept for ``resume``.
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
        write_text(building / "experiment.yaml", experiment.to_yaml())
        split.save(building / "split.json")
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
        study.set_user_attr("settings", settings)
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
        if not Database.exists(storage / name) and (storage / name / "experiment.yaml").is_file():
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

    def listen(self, said: Callable[[str], None]) -> None:
        """Have it told when a write waits for the database."""
        self._database.said = said

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

    # ---------------------------------------------------------------------------------------------------------- reading

    def refresh(self) -> None:
        """Read every trial and every request anew."""
        self.poll()
        for frozen in sorted(self._study.get_trials(deepcopy=False), key=lambda trial: trial.number):
            self._remember(self._read(frozen), frozen.user_attrs.get("request"))

    def _read(self, frozen: FrozenTrial) -> TrialRecord:
        attributes = frozen.user_attrs
        # A driver that died between the two writes has not ended the trial.
        ended = attributes.get("ended", {}) if "outcome" in attributes else {}
        record = TrialRecord(
            number=frozen.number,
            parameters=dict(frozen.params),
            config=TrainConfig.model_validate(attributes["config"]),
            outcome=attributes.get("outcome"),
            message=attributes.get("message", ""),
            attempts=attributes.get("attempts", 0),
            _lost_at=attributes.get("lost_at", -1),
            closed=frozen.state.is_finished(),
            retry_of=attributes.get("retry_of"),
            confirms=attributes.get("confirms"),
            asked_at=attributes.get("asked_at", 0.0),
            ended_at=ended.get("at"),
            place=ended.get("place"),
            _id=frozen._trial_id,
        )
        for key in sorted(key for key in attributes if key.startswith("epoch:")):
            saved = attributes[key]
            metrics = EpochMetrics.from_dict(saved["metrics"])
            record.epochs[metrics.epoch] = EpochRecord(metrics, saved["best"], saved["stopped"])
            record.best = saved["best"]
        return record

    def _remember(self, record: TrialRecord, wish: str | None = None) -> None:
        self.trials[record.number] = record
        if wish is not None:
            self._granted[wish] = record.number
        if record.outcome != "duplicate" and record.confirms is None:
            self._keys.setdefault(self._key(record.config), record.number)

    def trained(self) -> list[TrialRecord]:
        """All trials but duplicates, by number: those of the search, and those that confirm them."""
        return [self.trials[number] for number in sorted(self.trials) if self.trials[number].outcome != "duplicate"]

    def counted(self) -> list[TrialRecord]:
        """The trials of the search: all but duplicates and those that confirm others, by number."""
        return [record for record in self.trained() if record.confirms is None]

    def confirmations(self) -> list[TrialRecord]:
        """The trials that confirm others, by number."""
        return [record for record in self.trained() if record.confirms is not None]

    def live(self) -> list[TrialRecord]:
        """The trials that have not ended, those that confirm others too."""
        return [record for record in self.trained() if record.outcome is None]

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

    def seconds(self, name: str = "seconds") -> float:
        """Of searching (``confirm_seconds``: of confirming), all sessions together; what was known last where the
        database is away."""
        with contextlib.suppress(*TROUBLE):
            self._seconds[name] = float(self.attribute(name, 0.0))
        return self._seconds.get(name, 0.0)

    def attributes(self, prefix: str) -> dict[str, Any]:
        """Everything kept under names that begin with ``prefix``, by the rest of the name."""
        kept = self._study.user_attrs
        return {name.removeprefix(prefix): value for name, value in kept.items() if name.startswith(prefix)}

    def set_attribute(self, name: str, value: Any) -> None:
        """Keep something about the whole search (plain data)."""
        self._database.write(self._study.set_user_attr, name, value)

    def note(self, name: str, value: Any) -> None:
        """:meth:`set_attribute` for what may be lost: a database that is away is not waited for."""
        with contextlib.suppress(*TROUBLE):
            self._study.set_user_attr(name, value)

    # --------------------------------------------------------------------------------------------------------- requests

    def request(self, kind: str, **content: Any) -> None:
        """Leave a request for whoever drives the search, now or after the next ``resume``.

        Args:
            kind: ``extend`` (``more``: trials), ``try`` (``parameters``, ``retry_of``), ``confirm`` (``trial``,
                ``seed``) or ``stop`` (``trial``; None: the whole search, if it is driven now).
        """
        # The clock only orders what one person asks for in a row.
        self.set_attribute(f"request:{time.time_ns():020d}:{uuid.uuid4().hex[:8]}", {"kind": kind, **content})

    def withdraw(self, key: str) -> None:
        """Take a request back that nothing has begun for."""
        self.set_attribute(f"request:{key}", {"kind": "withdrawn"})

    def poll(self) -> None:
        """Read the requests anew."""
        self._requests = dict(sorted(self.attributes("request:").items()))

    def _of_kind(self, kind: str) -> dict[str, dict[str, Any]]:
        return {key: content for key, content in self._requests.items() if content["kind"] == kind}

    @property
    def is_to_end(self) -> bool:
        """Whether the whole search is wanted to stop, asked since this process opened the ledger."""
        return bool(self._ends() - self._old_ends)

    def _ends(self) -> set[str]:
        return {key for key, content in self._of_kind("stop").items() if content["trial"] is None}

    def is_to_stop(self, number: int) -> bool:
        """Whether a trial is wanted to end."""
        return any(content["trial"] == number for content in self._of_kind("stop").values())

    def wishes(self) -> list[Wish]:
        """Points that are to be tried and have no trial yet, oldest first."""
        return [
            Wish(key, content["parameters"], content.get("retry_of"))
            for key, content in self._of_kind("try").items()
            if key not in self._granted
        ]

    def repeats(self) -> list[Repeat]:
        """Configurations that are to be trained with another seed and have no trial yet, oldest request first."""
        return [
            Repeat(key, content["trial"], content["seed"])
            for key, content in self._of_kind("confirm").items()
            if key not in self._granted
        ]

    @property
    def proposals(self) -> int:
        """How many trials the sampler is to propose: as begun with, and what the search was extended by."""
        return self.experiment.search.trials + sum(int(more["more"]) for more in self._of_kind("extend").values())

    @property
    def target(self) -> int:
        """How many trials the search is to have: those that are proposed, and every wish on top."""
        wished = (self.trials[number] for number in self._granted.values())
        granted = sum(1 for record in wished if record.outcome != "duplicate" and record.confirms is None)
        return self.proposals + granted + len(self.wishes())

    # ---------------------------------------------------------------------------------------------------------- driving

    def recover(self) -> list[TrialRecord]:
        """After a death of the driver: finish what was half written. Gives the trials that were live, to go on with."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for frozen in running:
            record = self.trials[frozen.number]
            for epoch, saved in record.epochs.items():
                if epoch not in frozen.intermediate_values:
                    self._write(self._storage.set_trial_intermediate_value, record, epoch, saved.best)
        for frozen in running:
            record = self.trials[frozen.number]
            alone = record.retry_of is not None or record.confirms is not None
            twin = record.number if alone else self._keys.get(self._key(record.config), record.number)
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

        What a person wished for comes first. A configuration that equals an earlier one in effect is closed as a
        duplicate and another one is asked for, also for a wish that leaves something open; a retry is trained again
        whatever it equals.
        """
        search = self.experiment.search
        duplicates, granting = 0, False
        while True:
            wish = next(iter(self.wishes()), None)
            if granting and wish is None and len(self.counted()) >= self.target:
                return None  # the wish was a duplicate, and nothing else is wanted
            granting = wish is not None
            if duplicates >= _DUPLICATES_IN_A_ROW and search.sampler != "grid":
                return None
            frozen = self._mirrored().draw(wish.parameters if wish else None)
            if frozen is None:
                return None
            number, parameters = frozen.number, dict(frozen.params)
            earlier = self.trials[wish.retry_of] if wish and wish.retry_of is not None else None
            seed = derived_seed(search.seed, number, 1) if earlier is None else earlier.config.seed
            config = self.experiment.train_config(parameters, seed=seed)
            asked_at = time.time()
            frozen.user_attrs.update(config=config.model_dump(mode="json"), asked_at=asked_at)
            twin = None if earlier is not None else self.twin(config)
            granted = wish is not None and (
                twin is None
                or self.experiment.space.contains(wish.parameters)
                or duplicates == _DUPLICATES_IN_A_ROW - 1
            )
            if wish is not None:
                frozen.user_attrs["wish"] = wish.key
            if wish is not None and granted:
                frozen.user_attrs["request"] = wish.key
            if earlier is not None:
                frozen.user_attrs["retry_of"] = earlier.number
            record = TrialRecord(number, parameters, config, asked_at=asked_at)
            record._id = self._database.write(self._create, frozen)
            record.retry_of = None if earlier is None else earlier.number
            self._remember(record, wish.key if wish and granted else None)
            if twin is None:
                return record
            duplicates += 1
            self.end(number, "duplicate", f"equals trial {twin} in effect")

    def repeat(self) -> TrialRecord | None:
        """The next trial that confirms another, committed with its configuration; None when all have begun."""
        wanted = next(iter(self.repeats()), None)
        if wanted is None:
            return None
        first = self.trials[wanted.confirms]
        frozen = self._mirrored().draw(first.parameters)
        assert frozen is not None  # only a grid has an end, and a point of one's own is none of it
        config = first.config.model_copy(update={"seed": wanted.seed})
        asked_at = time.time()
        frozen.user_attrs.update(
            config=config.model_dump(mode="json"),
            asked_at=asked_at,
            wish=wanted.key,
            request=wanted.key,
            confirms=wanted.confirms,
        )
        record = TrialRecord(frozen.number, dict(frozen.params), config, confirms=wanted.confirms, asked_at=asked_at)
        record._id = self._database.write(self._create, frozen)
        self._remember(record, wanted.key)
        return record

    def _create(self, frozen: FrozenTrial) -> int:
        """Write a whole new trial, once however often it is called; gives its id."""
        trials = self._study.get_trials(deepcopy=False)
        if len(trials) > frozen.number:  # written, but the answer was lost
            return int(trials[frozen.number]._trial_id)
        return int(self._storage.create_new_trial(self._study_id, template_trial=frozen))

    def twin(self, config: TrainConfig) -> int | None:
        """The first trial that trains the same in effect; None: there is none."""
        return self._keys.get(self._key(config))

    def _key(self, config: TrainConfig) -> str:
        """Equal for configurations that are equal in effect; a seed only counts where it is searched."""
        fields = config.governing()
        if "seed" in self.experiment.space:
            fields["seed"] = config.seed
        return json.dumps(fields, sort_keys=True)

    def _mirrored(self) -> Mirror:
        if self._mirror is None:
            trials = self._study.get_trials(deepcopy=False)
            self._mirror = Mirror(self.experiment, trials, warm_start=self.warm_start)
        return self._mirror

    def commit_epoch(self, metrics: EpochMetrics, *, number: int, stopped: bool) -> EpochRecord:
        """Write one epoch with the decision on it, before anything acts on it. Writing it again changes nothing."""
        record = self.trials[number]
        if metrics.epoch in record.epochs:
            return record.epochs[metrics.epoch]
        value = getattr(metrics, self.experiment.objective.metric)
        best = value if record.best is None else self._sign * max(self._sign * value, self._sign * record.best)
        saved = EpochRecord(metrics, best, stopped)
        self._write(self._storage.set_trial_user_attr, record, f"epoch:{metrics.epoch:04d}", dataclasses.asdict(saved))
        self._write(self._storage.set_trial_intermediate_value, record, metrics.epoch, best)
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
            self._write(self._storage.set_trial_user_attr, record, "message", message)
        if outcome != "duplicate" and record.place is None:
            place, ended_at = 1 + max((other.place or 0 for other in self.trials.values()), default=0), time.time()
            ended = {"place": place, "at": ended_at}
            self._write(self._storage.set_trial_user_attr, record, "ended", ended)
            record.place, record.ended_at = place, ended_at
        self._write(self._storage.set_trial_user_attr, record, "outcome", outcome)
        # The sampler would take repeats of what is good already for a reason to look nowhere else.
        state = STATE[outcome] if record.confirms is None else TrialState.FAIL
        violated = outcome if outcome in ("out_of_memory", "infeasible") else None
        value = record.best if state is not TrialState.FAIL else None
        for name, content in self._mirrored().end(number, state, value, violated).items():
            if name != "fixed_params":  # written with the trial; whatever else is the sampler's memory
                self._write(self._storage.set_trial_system_attr, record, name, content)
        self._write(self._storage.set_trial_state_values, record, state, None if value is None else [value])
        record.outcome, record.message, record.closed = outcome, message, True

    def add_attempt(self, number: int) -> int:
        """Count that a trial is started again after its process was lost; gives the count."""
        record, epoch = self.trials[number], max(self.trials[number].epochs, default=0)
        record.attempts = record.attempts + 1 if record._lost_at == epoch else 1
        record._lost_at = epoch
        self._write(self._storage.set_trial_user_attr, record, "lost_at", epoch)
        self._write(self._storage.set_trial_user_attr, record, "attempts", record.attempts)
        return record.attempts

    def _write(self, work: Callable[..., object], record: TrialRecord, *values: Any) -> None:
        """Write to a trial. That it is closed already means that an earlier attempt's answer was lost."""
        with contextlib.suppress(UpdateFinishedTrialError):
            self._database.write(work, record._id, *values)

    def still_mine(self) -> bool:
        """Whether this process is still the search's driver."""
        return self._database.still_mine()
