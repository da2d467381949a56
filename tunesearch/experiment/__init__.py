"""A search-space file -> an Experiment: what is searched, how, on which data. Plain data, no heavy import.

A file is checked as it stands, its ``smoke`` section too, and every problem is raised at once with file and line. Then
``--smoke`` and ``--set`` change it, in this order:

* A new ``choice``, ``int`` or ``float`` replaces a parameter's old domain (``log`` and ``step`` with it) and keeps its
  ``when``. ``--set parameters.lr.float=[...]`` changes that key alone, so ``log`` stays.
* ``train.X`` for a searched X fixes it; ``parameters.X=null`` leaves it at its fixed or default value. What was
  conditional on X is then decided by that value: it goes, or it inherits the condition of X.
* ``parameters.X`` for a fixed X searches it.
* After a narrowing, values of a ``when`` that its parent can no longer take are forgotten, parameters that can never
  be active are dropped, ``try_first`` points that no longer fit are kept aside in ``skipped_points``, and points of
  which everything is now fixed at just that value are left out.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, InstanceOf, ValidationError
from ruamel.yaml import YAML

from tunesearch.errors import InputError, Problem, nearest
from tunesearch.experiment.checking import Checker, with_absolute_root
from tunesearch.experiment.document import Document, read_document, read_overrides
from tunesearch.experiment.schema import experiment_schema
from tunesearch.experiment.sections import SCHEDULERS, Asha, Median, Objective, SearchSettings
from tunesearch.experiment.smoke import smoke_problems, smoked
from tunesearch.experiment.validation import rule_of
from tunesearch.segmentation.config import GOVERNS, DataConfig, TrainConfig
from tunesearch.space import Space

__all__ = [
    "Asha",
    "Experiment",
    "Median",
    "Objective",
    "SearchSettings",
    "experiment_schema",
    "load_experiment",
    "shipped_spaces",
]


class _Watched:
    """Values that note which of them are looked at."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return self.values[name]


class Experiment(BaseModel):
    """One search, completely described."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """Of the search-space file."""
    description: str | None = None
    """What it is for."""
    data: Annotated[DataConfig, AfterValidator(with_absolute_root)] = DataConfig()
    """The data set; its root is absolute."""
    train: dict[str, Any] = {}
    """Fixed TrainConfig fields, as written; the others are searched or at their defaults."""
    search: SearchSettings = SearchSettings()
    """How many trials and which sampler."""
    scheduler: Asha | Median | None = Asha()
    """What stops weak trials early; None: nothing does."""
    objective: Objective = Objective()
    """The score of a trial."""
    parameters: InstanceOf[Space]
    """What is searched."""
    try_first: tuple[dict[str, Any], ...] = ()
    """Full or partial points to try before the sampler takes over; the rest of each is sampled."""
    skipped_points: tuple[tuple[int, str], ...] = ()
    """``try_first`` points that no longer fit after a narrowing: their 0-based place in the list, and why."""

    @property
    def space(self) -> Space:
        """``parameters`` under the name that it is called by: ``experiment.space(trial)``."""
        return self.parameters

    def train_config(self, parameters: Mapping[str, Any], *, seed: int) -> TrainConfig:
        """The training that a point means: fixed fields and the point; a seed in either wins over ``seed``.

        Raises:
            InputError: the fields do not fit, alone or together.
        """
        try:
            return TrainConfig.model_validate({"seed": seed, **self.train, **parameters})
        except ValidationError as error:
            problems = [
                Problem(where="", path=".".join(map(str, found["loc"])), rule=rule_of(found["msg"]))
                for found in error.errors()
            ]
            raise InputError(problems) from None

    def fixed(self, name: str) -> Any:
        """The value of a TrainConfig field that is not searched: as fixed, else its default."""
        return self.train.get(name, TrainConfig.model_fields[name].default)

    def possible(self, name: str) -> list[Any]:
        """Every value that a TrainConfig field of choices can have here: searched, fixed, or its default."""
        if name in self.space:
            return list(self.space[name].domain.representatives())
        return [self.fixed(name)]

    def idle_fields(self) -> list[str]:
        """Fixed fields that have no effect with anything that the space can propose, in the order of the file."""
        return [name for name in self.train if name in GOVERNS and not self._governs(name)]

    def _governs(self, name: str) -> bool:
        """Whether a field has an effect with some point over the fields that decide on that."""
        defaults = {field: info.default for field, info in TrainConfig.model_fields.items()}
        deciding: set[str] = set()
        while True:
            read: set[str] = set()
            for point in self.space.skeletons(deciding) if deciding else [{}]:
                config = _Watched({**defaults, **self.train, **point})
                governs = GOVERNS[name](cast(TrainConfig, config))
                read |= config.read & set(self.space.names)
                if governs and read <= deciding:
                    return True
            if read <= deciding:
                return False
            deciding |= read

    def to_document(self) -> dict[str, Any]:
        """Plain data that ``from_document`` reads back to an equal Experiment; a valid search-space file once
        ``skipped_points`` (only there when points were skipped) is taken out."""
        document: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            document["description"] = self.description
        document["data"] = self.data.model_dump(mode="json")
        document["train"] = copy.deepcopy(self.train)
        document["search"] = self.search.model_dump()
        if self.scheduler is None:
            document["scheduler"] = "none"
        else:
            kind = next(kind for kind, model in SCHEDULERS.items() if isinstance(self.scheduler, model))
            document["scheduler"] = {kind: self.scheduler.model_dump()}
        document["objective"] = self.objective.model_dump()
        document["parameters"] = self.parameters.to_document()
        document["try_first"] = [dict(point) for point in self.try_first]
        if self.skipped_points:
            document["skipped_points"] = [{"index": index, "reason": reason} for index, reason in self.skipped_points]
        return document

    def to_yaml(self) -> str:
        """``to_document`` as YAML, in order: ruamel's safe dumper would sort the parameters."""
        stream = io.StringIO()
        YAML(typ="rt", pure=True).dump(self.to_document(), stream)
        return stream.getvalue()

    @classmethod
    def from_document(cls, document: Mapping[str, Any], *, where: str = "") -> Experiment:
        """Reads what ``to_document`` wrote, checked like a file.

        Args:
            document: plain data.
            where: named in problems, such as the file it came from.

        Raises:
            InputError: every problem at once.
        """
        data = copy.deepcopy(dict(document))
        skipped = data.pop("skipped_points", [])
        fields, problems = Checker(Document(data, {"": where})).check()
        try:
            fields["skipped_points"] = tuple((int(entry["index"]), str(entry["reason"])) for entry in skipped)
        except (TypeError, KeyError, ValueError):
            problems.append(Problem(where=where, path="skipped_points", rule="must be a list of {index, reason}"))
        if problems:
            raise InputError(problems)
        return cls(**fields)


def shipped_spaces() -> dict[str, Path]:
    """Name -> file of the search spaces that come with tunesearch."""
    package = Path(__file__).parents[1]
    folder = package / "search_spaces"
    if not folder.is_dir():  # a checkout or an editable install: the files stand beside the package
        folder = package.parent / "search_spaces"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_experiment(
    space: str | Path, *, overrides: Sequence[str] = (), smoke: bool = False, data_root: Path | None = None
) -> Experiment:
    """Reads a search-space file and changes it as asked.

    Args:
        space: name of a shipped space, or path of a YAML file.
        overrides: ``PATH=YAML`` as given to ``--set``, applied last, in order.
        smoke: make it small: the built-in sample data, the file's ``smoke`` section, and where that says nothing at
            most 4 epochs of 64x64 pixels and 8 trials; encoders start from scratch, so that nothing is downloaded.
        data_root: replaces ``data.root``.

    Raises:
        InputError: every problem of the file and of the overrides at once.
    """
    path = _find(space)
    changes, problems = read_overrides(overrides)
    if smoke and data_root is not None:
        rule, hint = "a smoke run brings its own data", "use --set data.layout=... and --set data.root=..."
        problems.insert(0, Problem(where="--data", rule=rule, hint=hint))
    in_file, document, small = _read_file(path, problems)

    changed = (small if smoke else document).copy()
    for dotted, value in changes:
        problems += changed.change(dotted.split("."), value, where=f"--set {dotted}")
    if data_root is not None:
        problems += changed.change(["data", "root"], str(data_root), where="--data")
    points = [*document.points(), *small.points()]
    fields, found = Checker(changed, file=in_file if smoke or changes else None, points=points).check()
    # `--set train.epoch` says the path already.
    problems += [
        replace(problem, path="") if problem.where == f"--set {problem.path}" else problem for problem in found
    ]
    if problems:
        raise InputError(problems)
    return Experiment(**fields)


def load_flagged(
    space: str | Path,
    *,
    trials: int | None = None,
    epochs: int | None = None,
    size: str | None = None,
    sampler: str | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    smoke: bool = False,
    data: str | Path | None = None,
) -> Experiment:
    """:func:`load_experiment` with the flags of ``tunesearch run`` that change the file.

    Raises:
        InputError: every problem at once, in the words that the user wrote.
    """
    flags = {
        "search.trials": ("--trials", trials),
        "train.epochs": ("--epochs", epochs),
        "train.size": ("--size", size),
        "search.sampler": ("--sampler", sampler),
        "search.seed": ("--seed", seed),
    }
    changes = [f"{path}={json.dumps(value)}" for path, (_, value) in flags.items() if value is not None]
    root = Path(data) if data is not None else None
    try:
        return load_experiment(space, overrides=[*changes, *overrides], smoke=smoke, data_root=root)
    except InputError as error:
        said = {f"--set {path}": flag for path, (flag, value) in flags.items() if value is not None}
        raise InputError([replace(p, where=said.get(p.where, p.where)) for p in error.problems]) from None


def _read_file(path: Path, option_problems: Sequence[Problem]) -> tuple[Space, Document, Document]:
    """The file as it stands: the space, the raw document, and that document with its smoke section applied.

    Raises:
        InputError: every problem of the file, and ``option_problems`` with them.
    """
    try:
        document, problems = read_document(path)
    except InputError as error:
        raise InputError([*error.problems, *option_problems]) from None
    fields, found = Checker(document).check()
    problems += found + smoke_problems(document)
    if not problems:
        space, small = fields["parameters"], smoked(document)
        for problem in Checker(small, file=space, points=document.points()).check()[1]:
            source = f"smoke.{problem.path}"
            problems.append(replace(problem, path=source) if source in document.marks else problem)
        if not problems:
            return space, document, small
    raise InputError([*problems, *option_problems])


def _find(space: str | Path) -> Path:
    """The file that ``space`` means. Raises InputError where it is neither a shipped name nor a file."""
    shipped = shipped_spaces()
    if isinstance(space, str) and space in shipped:
        return shipped[space]
    path = Path(space)
    if path.is_file():
        return path
    if isinstance(space, str) and path.name == space and path.suffix not in (".yaml", ".yml"):
        rule = f"no search space is called {space!r}"
        raise InputError(Problem(where="", rule=rule, hint=nearest(space, shipped)))
    raise InputError(Problem(where=str(space), rule="is a folder, not a file" if path.is_dir() else "no such file"))
