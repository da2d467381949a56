"""Production training: all epochs of a model folder or an exported configuration, ending in a model folder.

A training that is not finished has its files beside its output, in ``OUTPUT.training``: the checkpoint, the best
weights so far and ``training.json``, by which it is recognised when it is started again. OUTPUT appears whole, at the
end.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tunesearch.engine.interruption import Interruption
from tunesearch.errors import DataError, InputError, Problem
from tunesearch.experiment import Objective
from tunesearch.ledger.versions import versions
from tunesearch.production.bundle import FORMATS, Bundle, Training, is_bundle, own_code, read_bundle, write_bundle
from tunesearch.production.configuration import read_configuration
from tunesearch.production.job import Job, On, take_part
from tunesearch.production.looks import inherit_looks
from tunesearch.segmentation.config import VAL_METRICS, DataConfig, TrainConfig
from tunesearch.segmentation.data.augmentation import check_augmentation
from tunesearch.segmentation.data.checks import check_data
from tunesearch.segmentation.data.splits import POOL, Split, freeze_split
from tunesearch.segmentation.device import pick_device
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.files import data_root as root_of
from tunesearch.segmentation.files import write_text
from tunesearch.segmentation.team import Team
from tunesearch.tracking.tags import measured_on
from tunesearch.tracking.training import TrainingRun
from tunesearch.version import __version__

_CURVE = ("train_loss", *VAL_METRICS, "val_iou", "lr", "updates")
"""What two equal trainings have in common, epoch by epoch."""
_MACHINE = ("device", "precision", "threads", "processes")
"""What of the effective configuration decides, beside the configuration, on the last digits."""

Said = Callable[[str], None]
EpochDone = Callable[[EpochMetrics], None]


@dataclass(frozen=True)
class Source:
    """What is trained: a model folder, or an exported configuration.

    Attributes:
        document: the configuration with what else is known of its origin.
        bundle: the model folder; None: it is a file.
        objective: what the search that it comes from judged trials by.
    """

    path: Path
    config: TrainConfig
    data: DataConfig
    document: dict[str, Any]
    bundle: Bundle | None
    objective: Objective


@dataclass(frozen=True)
class Outside:
    """What a training is given beside what it trains.

    Attributes:
        workers: processes that train together; 1 without an address: this one.
        address: Ray cluster; None: this machine.
        formats: programs that the model folder gets.
    """

    tracking_uri: str
    storage: Path
    workers: int
    address: str | None
    formats: Sequence[str]
    said: Said
    epoch_done: EpochDone


def read_source(path: Path) -> Source:
    """Read a model folder or an exported configuration.

    Raises:
        InputError: it is neither, or damaged; fields that do not hold.
    """
    bundle = read_bundle(path) if path.is_dir() else None
    config, data, document = read_configuration(path if bundle is None else path / "config.yaml")
    score = document.get("score") or {}
    given = {"metric": "objective", "resolution": "resolution"}
    try:
        if not isinstance(score, dict):
            raise InputError(Problem(str(path), "must be a mapping", path="score", value=repr(score)[:80]))
        values = {name: score[key] for name, key in given.items() if key in score}
        objective = Objective.model_validate(values)
    except ValidationError as error:
        raise InputError(
            [
                Problem(
                    str(path),
                    found["msg"].removeprefix("Value error, "),
                    path=".".join(["score", *(given.get(str(part), str(part)) for part in found["loc"])]),
                    value=repr(found["input"])[:80],
                )
                for found in error.errors()
            ]
        ) from error
    return Source(path, config, data, document, bundle, objective)


def train(
    path: Path,
    *,
    output: Path,
    tracking_uri: str,
    storage: Path,
    data_root: Path | None = None,
    data_as_is: bool = False,
    encoder_weights: Path | None = None,
    epochs: int | None = None,
    seeds: Sequence[int] = (),
    repeats: int = 1,
    on: On = "train",
    workers: int = 1,
    address: str | None = None,
    formats: Sequence[str] = FORMATS,
    said: Said = lambda text: None,
    epoch_done: EpochDone = lambda metrics: None,
) -> dict[str, Any]:
    """Train a model folder or an exported configuration to its last epoch; goes on where a killed one stood.

    Ends in a model folder, ``output``; with several seeds in one for each below it, ``output/seed-N``, and
    ``output/summary.json``. The same goes to MLflow.

    A model folder's frozen files are trained on, each verified by its hash; on a CPU with the number of threads that it
    records, so that the same training gives the same curve.

    Args:
        data_root: of the data set; None: the configuration's.
        data_as_is: split the data set anew as it is now, instead of a model folder's frozen files.
        epochs: instead of the configuration's.
        seeds: train once with each; none: the configuration's.
        repeats: train with so many seeds: the configuration's and those that follow it.
        on: ``train+val`` trains on both, to the last epoch, whose weights are kept; nothing is validated then.
        workers: processes that train together (data parallelism), on GPUs one each, else on CPUs.
        address: Ray cluster where they run; None: this machine.
        formats: programs that the model folder gets.
        said, epoch_done: told what happens.

    Returns:
        ``outcome``, ``output``, ``weights`` (None unless it completed), the metrics of the ``best`` epoch, the number
        of ``epochs``, ``reproduced`` (whether the curve is the recorded one; None: not comparable); with several seeds
        ``outcome``, ``output``, ``metric``, ``mean``, ``deviation`` and ``trainings``.

    Raises:
        InputError: the configuration, the data set or the weights are not as they must be.
        DiskFull, Halted: the surroundings ended it; it goes on when it is started again.
    """
    source = read_source(path)
    if repeats > 1 and seeds:
        raise InputError(Problem("--seeds", "is a number of seeds, and --seed gives them: give one of both"))
    if repeats > 1:
        seeds = [(source.config.seed + step) % 2**32 for step in range(repeats)]
    seeds = list(dict.fromkeys(seeds))
    changes: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
    if on == POOL:
        changes |= _without_validation(source, said)
    config = source.config.model_copy(update=changes)
    data = source.data
    if data_root is not None:
        data = data.model_copy(update={"root": data_root.expanduser().absolute()})
    job = Job(
        config=config,
        data=data,
        split=Split(root=Path(), train=(), val=()),
        on=on,
        objective=source.objective,
        folder=output,
        encoder_weights=None if encoder_weights is None else encoder_weights.absolute(),
        code=source.bundle.code.resolve() if source.bundle is not None and source.bundle.code is not None else None,
        beside=None if source.bundle is not None else path.parent.resolve(),
        threads=_recorded_threads(source),
    )
    if len(seeds) > 1 and is_bundle(output):
        rule = "is a model folder, and several seeds need a folder for theirs"
        raise InputError(Problem(str(output), rule, hint="-o gives another folder"))
    singles = {seed: output / f"seed-{seed}" for seed in seeds} if len(seeds) > 1 else {}
    for folder in singles.values() or [output]:
        _require_free(folder, several=bool(singles))
    with Interruption() as interruption, _threads_kept():
        with job.own_code():
            job = replace(job, split=_split(source, data, data_as_is=data_as_is, said=said))
            check_data(data, split=job.split).raise_if_broken()
            check_augmentation(config)
        outside = Outside(tracking_uri, storage, workers, address, formats, said, epoch_done)
        if not singles:
            if seeds:
                job = replace(job, config=config.model_copy(update={"seed": seeds[0]}))
            return _train_one(job, source, output, output.name, outside, interruption)
        results = []
        for seed, folder in singles.items():
            one = replace(job, config=config.model_copy(update={"seed": seed}))
            said(f"seed {seed}: {folder}")
            result = _finished(one, source, folder)
            if result is None:
                result = _train_one(one, source, folder, f"{output.name}-seed-{seed}", outside, interruption)
            results.append({"seed": seed, **result})
    return _summary(results, source.objective, output)


# ------------------------------------------------------------------------------------------------------ what is trained


def _without_validation(source: Source, said: Said) -> dict[str, Any]:
    """The fields to change where nothing is validated; the schedule stays whole.

    Raises:
        InputError: the schedule looks at the validation.
    """
    if source.config.schedule == "plateau":
        rule = "the schedule plateau looks at the validation, and with train+val there is none"
        raise InputError(Problem("--on", rule, hint="--on train, or another schedule"))
    score = source.document.get("score") or {}
    if score.get("epoch") and score["epoch"] < source.config.epochs:
        best = f" (the best epoch of the search was {score['epoch']} of {source.config.epochs})"
    else:
        best = ""
    said(f"note: on train+val there is no validation: all epochs are trained, and the last one's weights kept{best}")
    if source.config.early_stop_patience is None:
        return {}
    said("note: without a validation no early stopping")
    return {"early_stop_patience": None}


def _split(source: Source, data: DataConfig, *, data_as_is: bool, said: Said) -> Split:
    """The files to train on: a model folder's frozen ones in the data set's folder, or those that are found there.

    Raises:
        DataError: a frozen file is missing or has changed; the data set cannot be read.
    """
    if source.bundle is None or data_as_is:
        split = freeze_split(data)
        if split.digest != source.document["data"].get("digest"):
            said("note: the data set is not the one that the search used (its digest differs)")
        return split
    if data.layout in ("voc", "folders") and root_of(data) is None:
        rule = "must be given: a model folder does not know where the data set lies"
        raise InputError(Problem("--data", rule, hint="tunesearch train MODEL --data ROOT"))
    root = freeze_split(data).root if data.layout == "sample" else root_of(data) or freeze_split(data).root
    split = source.bundle.split.moved_to(root)
    try:
        split.verify()
    except DataError as error:
        hint = "--data-as-is trains on the data set as it is now"
        first = error.problems[0]
        raise DataError([replace(first, hint=hint), *error.problems[1:]]) from error
    return split


def _recorded_threads(source: Source) -> int | None:
    """The number of threads of what was trained on a CPU, where this will be, too."""
    recorded = _recorded(source)
    if pick_device().type != "cpu" or recorded.get("device") != "cpu":
        return None
    threads = recorded.get("threads")
    return threads if isinstance(threads, int) and threads > 0 else None


def _recorded(source: Source) -> dict[str, Any]:
    """What of the recorded training's effective configuration is known; empty: nothing."""
    if source.bundle is not None:
        return dict(json.loads((source.bundle.folder / "effective.json").read_text("utf-8")))
    known = source.document.get("trained_with")
    return known if isinstance(known, dict) else {}


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Leave torch's number of threads as it was."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _work(output: Path) -> Path:
    """The folder of a training that is not finished."""
    return output.with_name(f"{output.name}.training")


def _require_free(output: Path, *, several: bool) -> None:
    """That the output may be written, before hours are spent on it.

    Raises:
        InputError: there is something else.
    """
    if is_bundle(output) and not _work(output).exists() and not several:
        raise InputError(Problem(str(output), "holds a finished training already", hint="-o gives another folder"))
    empty = output.is_dir() and not any(output.iterdir())
    if (output.exists() or output.is_symlink()) and not empty and not is_bundle(output):
        raise InputError(Problem(str(output), "exists and is no model folder", hint="-o gives another folder"))


def _finished(job: Job, source: Source, output: Path) -> dict[str, Any] | None:
    """The result of a seed that was trained before; None: it was not.

    Raises:
        InputError: the folder holds another training.
    """
    if not is_bundle(output) or _work(output).exists():
        return None
    bundle = read_bundle(output)
    if bundle.config != job.config or bundle.split.digest != _trained_split(job).digest:
        rule = "holds a finished training of another configuration or data set"
        raise InputError(Problem(str(output), rule, hint="-o gives another folder"))
    curve = _curve_of(bundle)
    best = max(curve, key=lambda epoch: _signed(epoch, source.objective)) if job.on == "train" else curve[-1]
    return {
        "outcome": "completed",
        "output": str(output),
        "weights": str(output / "weights.safetensors"),
        "best": best.as_dict(),
        "epochs": len(curve),
        "reproduced": None,
    }


def _signed(epoch: EpochMetrics, objective: Objective) -> float:
    value = float(getattr(epoch, objective.metric))
    return -value if objective.mode == "min" else value


def _curve_of(bundle: Bundle) -> list[EpochMetrics]:
    content = json.loads((bundle.folder / "metrics.json").read_text("utf-8"))
    return [EpochMetrics.from_dict(epoch) for epoch in content["epochs"]]


def _trained_split(job: Job) -> Split:
    """The split as the new model has it: of train+val nothing is left that it could be validated on."""
    if job.on == "train":
        return job.split
    return job.split.model_copy(update={"train": job.split.items(POOL), "val": ()})


# -------------------------------------------------------------------------------------------------------- one training


def _train_one(
    job: Job, source: Source, output: Path, name: str, outside: Outside, interruption: Interruption
) -> dict[str, Any]:
    """Train one seed to its end and write its model folder."""
    said, work = outside.said, _work(output.absolute())
    job = replace(job, folder=work)
    what = {"config": job.config.model_dump(mode="json"), "data_digest": job.split.digest, "on": job.on}
    state, fresh = _State(work), not work.exists()
    state.begin(what)
    seen: dict[str, Any] = {}
    run: TrainingRun | None = None

    def tell(kind: str, value: Any) -> None:
        nonlocal run
        if kind == "built":
            seen["effective"] = value["effective"]
            write_text(work / "effective.json", json.dumps(value["effective"], indent=1))
            resumed = value["resumed"]
            if resumed is None:
                state.start_over()
            else:
                said(f"going on after epoch {resumed['epoch']}")
                state.note(metrics=EpochMetrics.from_dict(resumed))
            for text in _differences(source, value["effective"]):
                said(f"note: {text}")
            if run is None:
                run = _tracked(job, source, name, state, outside)
        elif kind == "epoch":
            metrics = EpochMetrics.from_dict(value)
            state.note(metrics=metrics)
            assert run is not None
            run.epoch(metrics)
            outside.epoch_done(metrics)
        else:
            seen.update(value)

    try:
        if outside.workers > 1 or outside.address is not None:
            from tunesearch.production.data_parallel import train_together

            train_together(
                job, outside.workers, tell, address=outside.address or "local", interruption=interruption, said=said
            )
        else:
            take_part(job, Team(), tell)
    except InputError:
        if fresh and not state.curve:  # it was refused before anything was trained
            shutil.rmtree(work, ignore_errors=True)
        raise
    outcome = str(seen["outcome"])
    weights = None
    if outcome == "completed":
        if not is_bundle(output):
            _write(job, source, output, name, state.epochs, seen, outside)
        if source.bundle is not None and source.bundle.split.test == job.split.test:
            inherit_looks(source.bundle.folder, output)  # also where it was killed between the two
        weights = output / "weights.safetensors"
        reproduced = _reproduced(job, source, seen["effective"], state.epochs, said)
    else:
        reproduced = None
        metrics = {"outcome": outcome, "epochs": state.curve}
        write_text(work / "metrics.json", json.dumps(metrics, indent=1))
    holder = output if outcome == "completed" else work
    files = [holder / name for name in ("weights.safetensors", "metrics.json", "effective.json", "config.yaml")]
    if run is not None:
        run.finish(outcome, [file for file in files if file.is_file()])
        if run.trouble:
            said(f"note: MLflow does not have all of it ({run.trouble})")
    if outcome == "completed":
        shutil.rmtree(work, ignore_errors=True)
    return {
        "outcome": outcome,
        "output": str(holder),
        "weights": None if weights is None else str(weights),
        "best": seen["best"],
        "epochs": len(state.curve),
        "reproduced": reproduced,
    }


def _tracked(job: Job, source: Source, name: str, state: _State, outside: Outside) -> TrainingRun:
    """The training's run in MLflow: an earlier session's, or a new one."""
    tags = {"tunesearch.on": str(job.on)}
    origin = _origin(source)
    tags |= {f"tunesearch.{key}": str(origin.get(key, "")) for key in ("search", "trial")}
    objective = source.objective
    tags |= measured_on(job.data, job.split.digest, objective=objective.metric, resolution=objective.resolution)
    run = TrainingRun(
        outside.tracking_uri,
        storage=outside.storage,
        name=name,
        params=job.config.model_dump(mode="json"),
        tags=tags,
        run_id=state.run_id,
    )
    state.note(run_id=run.run_id)
    return run


def _origin(source: Source) -> dict[str, Any]:
    """The search, space and trial that a configuration comes from, however often it was trained since."""
    earlier = source.document.get("trained_from")
    if isinstance(earlier, dict):
        return earlier
    return {key: source.document[key] for key in ("search", "space", "trial") if key in source.document}


def _write(
    job: Job,
    source: Source,
    output: Path,
    name: str,
    curve: Sequence[EpochMetrics],
    seen: dict[str, Any],
    outside: Outside,
) -> None:
    """The model folder of a finished training."""
    if output.is_dir() and not any(output.iterdir()):
        output.rmdir()
    split, objective, best = _trained_split(job), source.objective, EpochMetrics.from_dict(seen["best"])
    validated = job.on == "train"
    document: dict[str, Any] = {
        "trained_from": _origin(source),  # not search and trial: it is not that trial's network
        "tunesearch": __version__,
        "outcome": "completed",
        "on": job.on,
        "score": {
            "objective": objective.metric,
            "resolution": objective.resolution,
            "value": float(getattr(best, objective.metric)) if validated else None,
            "val_miou": best.val_miou if validated else None,
            "epoch": best.epoch,
            "epochs": len(curve),
        },
        "config": job.config.model_dump(mode="json"),
        "data": {**job.data.model_dump(mode="json"), "digest": split.digest},
        "versions": versions(),
    }
    with job.own_code():
        training = Training(
            name=name,
            document=document,
            split=split,
            weights=job.folder / "best.safetensors",
            effective=seen["effective"],
            curve=tuple(curve),
            code=own_code(job.config, job.data),
        )
        write_bundle(training, output, formats=outside.formats, said=outside.said)


# ------------------------------------------------------------------------------------------------ against the recorded


def _differences(source: Source, effective: dict[str, Any]) -> list[str]:
    """Why the last digits of the curve may not be the recorded ones."""
    recorded = _recorded(source)
    if not recorded:
        return []
    now = {key: effective.get(key) for key in _MACHINE}
    then = {key: recorded.get(key, 1 if key == "processes" else None) for key in _MACHINE}
    if now["device"] != "cpu" and then["device"] != "cpu":
        now.pop("threads")
    differing = [f"{key} {now[key]}, recorded {then[key]}" for key in now if now[key] != then[key]]
    return [f"the curve may differ from the recorded one: {'; '.join(differing)}"] if differing else []


def _reproduced(
    job: Job, source: Source, effective: dict[str, Any], curve: Sequence[EpochMetrics], said: Said
) -> bool | None:
    """Whether the curve is the recorded one, as far as that goes; None where something else was trained."""
    bundle = source.bundle
    digest = source.document["data"].get("digest") if bundle is None else bundle.split.digest
    if source.config != job.config or digest != job.split.digest or job.on != "train":
        return None
    if bundle is None:
        return _same_score(source, curve, said)
    recorded = _curve_of(bundle)
    if len(curve) != len(recorded):
        said(f"the curve differs from the recorded one: {len(curve)} epochs, recorded {len(recorded)}")
        return False
    for now, then in zip(curve, recorded, strict=True):
        for name in _CURVE:
            if getattr(now, name) != getattr(then, name):
                said(
                    f"the curve differs from the recorded one, for the first time in epoch {now.epoch}: "
                    f"{name} {getattr(now, name)}, recorded {getattr(then, name)}"
                )
                return False
    said("the curve is the recorded one, to the last digit")
    return True


def _same_score(source: Source, curve: Sequence[EpochMetrics], said: Said) -> bool | None:
    """The same by the best value alone, which is all that a bare configuration records."""
    recorded = (source.document.get("score") or {}).get("value")
    if recorded is None or len(curve) != source.document["score"].get("epochs"):  # that trial was stopped on the way
        return None
    best = max(curve, key=lambda epoch: _signed(epoch, source.objective))
    value, name = float(getattr(best, source.objective.metric)), source.objective.metric
    same = bool(value == recorded)
    end = "is the recorded one, to the last digit" if same else f"differs from the recorded one, {recorded}"
    said(f"{name} {value} {end}")
    return same


# ------------------------------------------------------------------------------------------------------- several seeds


def _summary(results: Sequence[dict[str, Any]], objective: Objective, output: Path) -> dict[str, Any]:
    """Mean and sample deviation over the seeds; also written to ``summary.json``."""
    found = [result["best"][objective.metric] for result in results if result["weights"]]
    values = [value for value in found if value is not None]
    outcomes = {result["outcome"] for result in results}
    summary: dict[str, Any] = {
        "outcome": "completed" if outcomes == {"completed"} else next(iter(outcomes - {"completed"})),
        "output": str(output),
        "metric": objective.metric,
        "mean": statistics.fmean(values) if values else None,
        "deviation": statistics.stdev(values) if len(values) > 1 else None,
        "trainings": list(results),
    }
    write_text(output / "summary.json", json.dumps(summary, indent=1) + "\n")
    return summary


# ------------------------------------------------------------------------------------------------- what is not finished


class _Saved(BaseModel):
    """The content of ``training.json``."""

    what: dict[str, Any]
    run_id: str | None
    curve: list[dict[str, Any]]


class _State:
    """What a training that was killed is recognised by and goes on from: ``training.json`` in its folder.

    Attributes:
        run_id: of its MLflow run; None before there is one.
        curve: the metrics of every epoch so far, as plain data.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "training.json"
        self.run_id: str | None = None
        self.curve: list[dict[str, Any]] = []
        self.what: dict[str, Any] = {}

    @property
    def epochs(self) -> list[EpochMetrics]:
        """The curve as metrics."""
        return [EpochMetrics.from_dict(epoch) for epoch in self.curve]

    def begin(self, what: dict[str, Any]) -> None:
        """Take over an earlier session of the same training, or start a new one.

        Raises:
            InputError: the folder holds another training, or the file is damaged.
        """
        if self.file.is_file():
            hint = f"remove {self.file.parent} to start anew, or give another folder with -o"
            try:
                earlier = _Saved.model_validate_json(self.file.read_bytes())
                self.run_id, self.curve = earlier.run_id, earlier.curve
                _ = self.epochs
            except (ValidationError, TypeError) as error:
                reason = " ".join(str(error).split())[:120]
                raise InputError(Problem(str(self.file), f"is damaged: {reason}", hint=hint)) from error
            if earlier.what != what:
                rule = "holds an unfinished training of another configuration or data set"
                raise InputError(Problem(str(self.file.parent), rule, hint=hint))
        self.what = what
        self.note()

    def start_over(self) -> None:
        """There is no checkpoint: nothing of an earlier session counts."""
        if self.curve:
            self.run_id, self.curve = None, []
            self.note()

    def note(self, *, run_id: str | None = None, metrics: EpochMetrics | None = None) -> None:
        """Keep what is new; an epoch that is told again replaces itself."""
        self.run_id = run_id or self.run_id
        if metrics is not None:
            self.curve = [epoch for epoch in self.curve if epoch["epoch"] < metrics.epoch] + [metrics.as_dict()]
        write_text(self.file, json.dumps({"what": self.what, "run_id": self.run_id, "curve": self.curve}))
