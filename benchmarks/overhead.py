"""Seconds per trial of a search whose trials do no work: what the machinery around the training costs.

Measured: tunesearch's real `drive()` with its searcher, ASHA, ledger (SQLite) and MLflow (SQLite). Against: plain Ray
Tune used the usual way, a function trainable with OptunaSearch (TPE), ASHAScheduler and Ray's own
MLflowLoggerCallback on SQLite. Both search the shipped space `voc_unet`, run the same numbers of epochs (4 to 9 by
trial number), report the same fake metrics, and import torch and segmentation-models-pytorch where the trials run
(the usual way: in every trial, because each gets a new process). Target: at least 10 times cheaper.

One Ray with 2 CPUs serves all of it. Every measurement is a process of its own, A B A B, so that none inherits
another's environment or warm caches. Its clock runs from the search's start to its end, the last MLflow write
included; importing the driver's libraries and connecting to Ray come before, and MLflow's database is made before
(its migrations cost both sides the same few seconds once). Afterwards both MLflow databases are read: each must hold
every trial and every epoch.

    python benchmarks/overhead.py --repeats 3 --json overhead.json
"""

from __future__ import annotations

import argparse
import cProfile
import json
import logging
import os
import pstats
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from common import machine, say, spread, table, target, versions, write_json
from ray import tune

SIDES = {
    "tunesearch": "tunesearch: drive(), ledger, Tracker",
    "ray": "Ray Tune + OptunaSearch + ASHA + its MLflow callback",
}
MAX_EPOCHS, GRACE_EPOCHS, REDUCTION = 9, 4, 3
CPUS = 2
PACKAGES = ("ray", "optuna", "mlflow", "torch", "segmentation-models-pytorch")

# ------------------------------------------------------------------------------------ what the trials of both sides do


def epochs_of(number: int) -> int:
    """How many epochs trial ``number`` has: 4 to 9, in an order that repeats after six trials."""
    return GRACE_EPOCHS + number * 7 % 6


def fake_metrics(number: int, epoch: int, classes: int) -> dict[str, float]:
    """Scalars of one epoch, from the trial's number alone: some trials are good, and all get better."""
    quality = number * 0.618034 % 1
    miou = round((0.1 + 0.6 * quality) * (1 - 0.7**epoch), 6)
    return {
        "train_loss": 1.5 - miou,
        "val_loss": 1.6 - miou,
        "val_miou": miou,
        "val_miou_no_background": 0.9 * miou,
        "val_dice": min(1.0, 1.2 * miou),
        "val_pixel_accuracy": min(1.0, 0.3 + miou),
        "lr": 1e-3 / epoch,
        "updates": 10.0 * epoch,
        "train_seconds": 1.0,
        "val_seconds": 0.5,
        "images_per_second": 100.0,
        **{f"val_iou_class_{index:02d}": miou * (index + 1) / classes for index in range(classes)},
    }


class FakeTrial(tune.Trainable):
    """Reports as tunesearch's SegmentationTrial does, one step an epoch; its actor is used by many trials."""

    def setup(self, config: dict[str, Any]) -> None:
        import segmentation_models_pytorch  # noqa: F401  # what a real trial pays for, once per process
        import torch  # noqa: F401  # likewise

        self.assignment, self.epoch = config, 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.assignment, self.epoch = new_config, 0
        return True

    def step(self) -> dict[str, Any]:
        number, self.epoch = self.assignment["number"], self.epoch + 1
        values = fake_metrics(number, self.epoch, self.assignment["config"]["benchmark_classes"])
        iou = tuple(values.pop(name) for name in sorted(values) if name.startswith("val_iou_class_"))
        metrics = {**values, "epoch": self.epoch, "val_iou": iou, "finished_at": time.time()}
        outcome = "completed" if self.epoch == epochs_of(number) else None
        report = {"number": number, "metrics": metrics, "outcome": outcome, "message": "", "halt": ""}
        return {"report": json.dumps(report)}


class PlainSpace:
    """The same space for OptunaSearch, with the trial's number and how many classes it invents."""

    def __init__(self, space: Any, classes: int) -> None:
        self.space, self.classes = space, classes

    def __call__(self, trial: Any) -> dict[str, Any]:
        self.space(trial)
        return {"number": trial.number, "classes": self.classes}


def plain_trial(config: dict[str, Any]) -> None:
    """The usual function trainable."""
    import segmentation_models_pytorch  # noqa: F401  # the same price for both sides
    import torch  # noqa: F401  # likewise

    for epoch in range(1, epochs_of(config["number"]) + 1):
        tune.report(fake_metrics(config["number"], epoch, config["classes"]))


# ------------------------------------------------------------------------------------------------ one measured search


def experiment_for(folder: Path, trials: int) -> Any:
    """The shipped space, with the number of trials and of epochs that are measured."""
    from tunesearch.experiment import load_experiment

    changes = [f"search.trials={trials}", f"train.epochs={MAX_EPOCHS}", "try_first=[]"]
    changes.append(f"scheduler.asha={{grace_epochs: {GRACE_EPOCHS}, reduction: {REDUCTION}}}")
    return load_experiment("voc_unet", overrides=changes, data_root=folder)


def search_with_tunesearch(folder: Path, *, trials: int, classes: int, mlflow: bool, profile: bool) -> dict[str, Any]:
    """As `tunesearch.run` does it after the preflight: ledger, tracker, drive, finish."""
    from tunesearch.engine import hooks, run, trial  # noqa: F401  # what drive() imports
    from tunesearch.engine.callback import SearchCallback
    from tunesearch.engine.options import SearchOptions
    from tunesearch.ledger.store import Ledger
    from tunesearch.segmentation.data.splits import Split
    from tunesearch.tracking.store import default_uri
    from tunesearch.tracking.tracker import Tracker

    class ClassyFakeTrial(FakeTrial):
        """Knows how many classes to invent: drive()'s assignment has no room for it."""

        def setup(self, config: dict[str, Any]) -> None:
            super().setup({**config, "config": {"benchmark_classes": classes}})

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return super().reset_config({**new_config, "config": {"benchmark_classes": classes}})

    class Following(SearchCallback):
        """MLflow follows, if it is to."""

        def on_trial_change(self, number: int) -> None:
            if tracker is not None:
                tracker.changed(number)

    experiment = experiment_for(folder, trials)
    options = SearchOptions(max_concurrent=CPUS)
    profiler = cProfile.Profile() if profile else None
    start = time.perf_counter()
    if profiler is not None:
        profiler.enable()
    ledger = Ledger.create(folder, "benchmark", experiment, Split(root=folder, train=(), val=()), options.as_dict())
    tracker = Tracker(ledger, default_uri(folder)) if mlflow else None
    if tracker is not None:
        tracker.start()
    status = run.drive(ledger, options, Following(), trainable=ClassyFakeTrial, decode=False)
    searched = time.perf_counter()
    if tracker is not None and not tracker.finish(status):
        raise RuntimeError(f"MLflow: {tracker.trouble}")
    told = time.perf_counter()
    if profiler is not None:
        profiler.disable()
        stats = pstats.Stats(profiler, stream=sys.stderr)
        stats.sort_stats("tottime").print_stats(30)
        stats.sort_stats("cumulative").print_stats("tunesearch|tune_controller|optuna", 60)
    epochs = sum(len(record.epochs) for record in ledger.counted())
    outcomes = [record.outcome for record in ledger.counted()]
    ledger.close()
    return {
        "search_seconds": searched - start,
        "seconds": told - start,
        "trials": len(outcomes),
        "stopped": outcomes.count("stopped"),
        "epochs": epochs,
        "parents": 1,
    }


def search_with_ray(folder: Path, *, trials: int, classes: int, mlflow: bool) -> dict[str, Any]:
    """As the documentation of Ray Tune shows it, with its default loggers and snapshots."""
    import optuna
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    uri = f"sqlite:///{folder.resolve()}/mlflow.db"
    callbacks = [MLflowLoggerCallback(tracking_uri=uri, experiment_name="benchmark")] if mlflow else []
    space = PlainSpace(experiment_for(folder, trials).space, classes)
    start = time.perf_counter()
    tuner = tune.Tuner(
        tune.with_resources(plain_trial, {"CPU": 1}),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(space=space, metric="val_miou", mode="max", seed=0),
            scheduler=ASHAScheduler(
                metric="val_miou",
                mode="max",
                max_t=MAX_EPOCHS,
                grace_period=GRACE_EPOCHS,
                reduction_factor=REDUCTION,
            ),
            num_samples=trials,
            max_concurrent_trials=CPUS,
        ),
        run_config=tune.RunConfig(name="benchmark", storage_path=str(folder / "ray"), verbose=0, callbacks=callbacks),
    )
    results = tuner.fit()
    seconds = time.perf_counter() - start
    if results.num_errors:
        raise RuntimeError(f"trials of plain Ray Tune failed: {results.errors[0]}")
    epochs = [int(result.metrics["training_iteration"]) for result in results]
    stopped = sum(done < epochs_of(result.config["number"]) for done, result in zip(epochs, results, strict=True))
    return {
        "search_seconds": seconds,  # its callback writes while the search waits: nothing is left to write
        "seconds": seconds,
        "trials": len(epochs),
        "stopped": stopped,
        "epochs": sum(epochs),
        "parents": 0,
    }


def in_mlflow(database: Path, parents: int) -> dict[str, int]:
    """What a MLflow database holds, read by SQL and not by the code that wrote it."""
    with sqlite3.connect(database) as connection:

        def count(query: str) -> int:
            return int(connection.execute(query).fetchone()[0])

        return {
            "runs": count("select count(*) from runs") - parents,
            "finished": count("select count(*) from runs where status = 'FINISHED'") - parents,
            "epochs": count("select count(*) from metrics where key = 'val_miou'"),
            "points": count("select count(*) from metrics"),
        }


def measure(options: argparse.Namespace) -> None:
    """One search, in this process; its figures go to ``options.json``."""
    warnings.simplefilter("ignore")
    for name in ("ray", "ray.tune", "mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import mlflow  # noqa: F401  # before the clock starts, for both sides alike
    import segmentation_models_pytorch  # noqa: F401  # the same price for both sides
    import torch  # noqa: F401  # likewise

    ray.init(address=options.address, log_to_driver=False, logging_level=logging.ERROR)
    folder = Path.cwd()
    more = {"trials": options.trials, "classes": options.classes, "mlflow": not options.no_mlflow}
    if options.side == "tunesearch":
        figures = search_with_tunesearch(folder, profile=options.profile, **more)
    else:
        figures = search_with_ray(folder, **more)
    ray.shutdown()
    if not options.no_mlflow:
        figures["mlflow"] = in_mlflow(folder / "mlflow.db", figures.pop("parents"))
    options.json.write_text(json.dumps(figures), encoding="utf-8")


# ------------------------------------------------------------------------------------------------------ all of them


def empty_mlflow(path: Path) -> None:
    """A MLflow database with all its tables and nothing else."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=f"sqlite:///{path.resolve()}").search_experiments()


def run_side(side: str, options: argparse.Namespace, *, address: str, parent: Path, database: Path) -> dict[str, Any]:
    """One measurement in a process and a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix=f"{side}-", dir=parent))
    if not options.no_mlflow:
        shutil.copy(database, folder / "mlflow.db")
    result = folder / "figures.json"
    command = [sys.executable, str(Path(__file__).resolve()), "--side", side, "--address", address]
    command += ["--trials", str(options.trials), "--classes", str(options.classes), "--json", str(result)]
    command += ["--no-mlflow"] * options.no_mlflow + ["--profile"] * (options.profile and side == "tunesearch")
    output = None if options.debug or options.profile else subprocess.PIPE
    done = subprocess.run(command, cwd=folder, stdout=output, stderr=output, text=True, check=False)
    if done.returncode != 0:
        print(done.stdout, done.stderr, file=sys.stderr)
        raise SystemExit(f"{SIDES[side]} ended with {done.returncode}")
    figures: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    shutil.rmtree(folder, ignore_errors=True)
    return figures


def checked(side: str, figures: dict[str, Any], options: argparse.Namespace) -> None:
    """A side that did less than its trials has won nothing."""
    told = figures.get("mlflow", {"runs": options.trials, "finished": options.trials, "epochs": figures["epochs"]})
    whole = figures["trials"] == told["runs"] == told["finished"] == options.trials
    if not whole or told["epochs"] != figures["epochs"]:
        raise SystemExit(f"{SIDES[side]} did not do or tell everything: {figures}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--classes", type=int, default=5, help="IoU values per epoch, beside 11 other metrics")
    parser.add_argument("--no-mlflow", action="store_true", help="on neither side")
    parser.add_argument("--only", choices=SIDES, help="measure one side")
    parser.add_argument("--profile", action="store_true", help="print where tunesearch's driver thread spends its time")
    parser.add_argument("--debug", action="store_true", help="show what the searches print")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        measure(options)
        return

    facts = {
        "trials": f"{options.trials}, {GRACE_EPOCHS} to {MAX_EPOCHS} epochs of {11 + options.classes} metrics, no work",
        "space": "voc_unet, TPE; ASHA grace 4, reduction 3",
        "Ray": f"{CPUS} CPUs, 1 per trial, {CPUS} trials at once",
        "MLflow": "none" if options.no_mlflow else "SQLite, one database per measurement, made beforehand",
        "repeats": f"{options.repeats}, interleaved",
        "machine": machine(),
        "versions": versions(*PACKAGES),
    }
    say("Cost of a trial that does no work", facts)
    sides = [options.only] if options.only else list(SIDES)
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    # Short, because the path of a Unix socket below it may have 107 characters at most.
    temporary = Path(tempfile.mkdtemp(prefix="ts-bench-", dir="/tmp" if os.name == "posix" else None))
    try:
        if not options.no_mlflow:
            empty_mlflow(temporary / "empty.db")
        ray.init(
            address="local",
            num_cpus=CPUS,
            num_gpus=0,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(temporary / "ray"),
        )
        address = ray.get_runtime_context().gcs_address
        for repeat in range(options.repeats):
            for side in sides:
                figures = run_side(side, options, address=address, parent=temporary, database=temporary / "empty.db")
                checked(side, figures, options)
                runs[side].append(figures)
                print(f"  {repeat + 1}. {side}: {figures}", file=sys.stderr, flush=True)
    finally:
        ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)

    rows = []
    for side, measured in runs.items():
        last = measured[-1]
        told = last.get("mlflow")
        rows.append(
            [
                SIDES[side],
                spread([figures["seconds"] / options.trials for figures in measured], 3),
                spread([figures["search_seconds"] for figures in measured]),
                spread([figures["seconds"] for figures in measured]),
                f"{last['trials']} ({last['stopped']} stopped), {last['epochs']}",
                f"{told['runs']}, {told['epochs']}, {told['points']}" if told else "-",
            ]
        )
    header = ["side", "s per trial: median (range)", "search s", "s until MLflow has all", "trials, epochs"]
    table([*header, "in MLflow: runs, epochs, points"], rows)
    targets = []
    if len(sides) == 2:
        ours, peer = (statistics.median(figures["seconds"] for figures in runs[side]) for side in SIDES)
        targets.append(target("times cheaper than plain Ray Tune", peer / ours, ">= 10", met=peer / ours >= 10))
    write_json(options.json, {"facts": facts, "runs": runs, "targets": targets})


if __name__ == "__main__":
    main()
