"""Makes what a version of tunesearch leaves behind on disk, with whichever version is installed.

    python make.py NAME.tar.xz

Run it in an environment whose ``tunesearch`` is a checkout of the version; the README beside it says more. It uses the
Python names of 0.1.0 at commit 8060ba5; for another version change those that were renamed since.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

MODEL = '''
"""A network of the user's own. It cannot be built at dropout 0.5 while a file called broken lies beside it, and takes
its time while one called slow does."""
from pathlib import Path
from threading import Event

from torch import nn

HERE = Path(__file__).parent

def small(config, classes):
    if config.dropout == 0.5 and (HERE / "broken").exists():
        raise RuntimeError("broken on purpose")
    first = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()]
    network = nn.Sequential(*first, nn.Dropout2d(config.dropout), nn.Conv2d(6, classes, 1))

    def wait(module, inputs):
        Event().wait(0.4 * (HERE / "slow").exists())

    network.register_forward_pre_hook(wait)
    return network
'''

SPACE = """
name: shapes
data:
  layout: voc
  root: {data}
  test: test
  classes: [background, disc, square, triangle, stripes]
train: {{epochs: 4, size: 32x32, batch_size: 4, depth: 2, width: 4, precision: float32, augmentation: flip}}
search: {{trials: 4, seed: 3}}
scheduler: {{asha: {{grace_epochs: 1, reduction: 2}}}}
parameters:
  architecture: {{choice: [conv_stack, "earlier_model:small"]}}
  dropout: {{choice: [0.0, 0.5]}}
  lr: {{float: [1.0e-3, 1.0e-1], log: true}}
try_first:
  - {{architecture: "earlier_model:small", dropout: 0.5, lr: 0.02}}
"""

TRAINING = """
search: by_hand
trial: 0
config:
  architecture: conv_stack
  depth: 2
  width: 4
  size: 32x32
  epochs: 6
  batch_size: 4
  precision: float32
  augmentation: flip
  dropout: 0.2
  lr: 0.02
  optimizer: sgd
  momentum: 0.8
  ema_decay: 0.9
  schedule: plateau
  plateau_patience: 0
  early_stop_patience: 5
data:
  layout: voc
  root: {data}
  classes: [background, disc, square, triangle, stripes]
"""

PARTS = {"train": 10, "val": 4, "test": 3}
LIBRARIES = ("ray", "torch", "optuna", "mlflow", "albumentations", "numpy", "pillow", "opencv-python-headless")


class Silence:
    """Progress that nobody looks at."""

    def note(self, text: str) -> None:
        print(f"  {text}", flush=True)

    def checked(self, report: Any) -> None:
        pass

    def started(self, ledger: Any, resources: Any) -> None:
        pass

    def changed(self, number: int) -> None:
        pass

    def ended(self) -> None:
        pass


class Death(Silence):
    """Kills this process as soon as so many trials have ended and so many more are somewhere between two epochs. The
    first failure mends what was broken."""

    def __init__(self, broken: Path, *, ended: int, live: int) -> None:
        self.broken = broken
        self.least = (ended, live)

    def started(self, ledger: Any, resources: Any) -> None:
        self.ledger = ledger

    def changed(self, number: int) -> None:
        trials = self.ledger.trials.values()
        if any(trial.outcome == "failed" for trial in trials):
            self.broken.unlink(missing_ok=True)
        ended = sum(trial.outcome is not None for trial in trials)
        live = sum(trial.outcome is None and 0 < len(trial.epochs) < trial.config.epochs for trial in trials)
        if ended >= self.least[0] and live >= self.least[1]:
            os.kill(os.getpid(), signal.SIGKILL)


class PowerCutError(Exception):
    """Ends a training between two epochs."""


def make_data(folder: Path) -> None:
    """Pictures of 40x30 in VOC layout, after the product's own sample; few colours, so that they are small files."""
    from PIL import Image

    from tunesearch.segmentation.data.sample import write_sample

    sample = write_sample(folder.parent / "sample")
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    first = 1
    for part, count in PARTS.items():
        names = [f"sample_{number:04d}" for number in range(first, first + count)]
        first += count
        (folder / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            with Image.open(sample / "JPEGImages" / f"{name}.png") as image:
                small = image.resize((40, 30), Image.Resampling.BOX).point(lambda value: value & 0xE0)
                small.save(folder / "JPEGImages" / f"{name}.png", optimize=True)
            with Image.open(sample / "SegmentationClass" / f"{name}.png") as mask:
                mask.resize((40, 30), Image.Resampling.NEAREST).save(folder / "SegmentationClass" / f"{name}.png")
    shutil.rmtree(sample)


def die_searching(root: Path, name: str, *, ended: int, live: int, flags: dict[str, Any]) -> None:
    """A search whose process is killed in the middle: in a process of its own."""
    print(f"{name}: until it is killed", flush=True)
    call = [sys.executable, __file__, "--die", str(root), name, json.dumps({"ended": ended, "live": live, **flags})]
    code = subprocess.run(call, check=False).returncode
    if code != -signal.SIGKILL:
        raise SystemExit(f"the search {name} ended with {code} before it was killed")


def make(root: Path) -> None:
    """Everything that is left behind, in ``root``."""
    import tunesearch

    data, runs, space, broken = root / "data", root / "runs", root / "space" / "space.yaml", root / "space" / "broken"
    space.parent.mkdir(parents=True)
    make_data(data)
    (space.parent / "earlier_model.py").write_text(MODEL)
    space.write_text(SPACE.format(data=data))
    usual: dict[str, Any] = {"storage": runs, "local": True, "cpus_per_trial": 1, "progress": Silence()}

    print("before: what the others are warm-started from")
    tunesearch.run(space, name="before", max_concurrent=1, trials=3, **usual)

    print("finished: warm start, a failure, a point of one's own, a retry, more trials, a confirmation")
    broken.touch()
    tunesearch.run(space, name="finished", max_concurrent=1, warm_start=["before"], **usual)
    broken.unlink()
    tunesearch.enqueue("finished", {"architecture": "conv_stack", "dropout": 0.0, "lr": 0.05}, storage=runs)
    tunesearch.retry("finished", failed=True, storage=runs)
    tunesearch.extend("finished", 1, storage=runs)
    tunesearch.resume("finished", storage=runs)
    tunesearch.confirm("finished", top=2, seeds=2, storage=runs)

    print("model folders: exported and registered, trained again over two seeds, stacked")
    tunesearch.export("finished", root / "model", storage=runs, register="shapes")
    tunesearch.export("finished", root / "best.yaml", storage=runs)
    tunesearch.train(root / "model", output=root / "trained", data=data, seeds=[1, 2], storage=runs)
    seeds = [root / "trained" / f"seed-{seed}" for seed in (1, 2)]
    tunesearch.ensemble(seeds, root / "stack", data=data, storage=runs)

    print("unfinished: a training that is interrupted")
    (root / "training.yaml").write_text(TRAINING.format(data=data))

    def die(metrics: Any) -> None:
        if metrics.epoch == 3:
            raise PowerCutError

    try:
        tunesearch.train(root / "training.yaml", output=root / "unfinished", storage=runs, epoch_done=die)
    except PowerCutError:
        assert (root / "unfinished.training").is_dir()

    slow = broken.with_name("slow")
    broken.touch()
    slow.touch()
    own = ['parameters.architecture.choice=["earlier_model:small"]']
    flags = {"max_concurrent": 2, "trials": 12, "warm_start": ["before"], "overrides": own}
    die_searching(root, "interrupted", ended=3, live=2, flags=flags)
    slow.unlink()
    tunesearch.enqueue("interrupted", {"lr": 0.03}, storage=runs)
    tunesearch.retry("interrupted", failed=True, storage=runs)
    tunesearch.extend("interrupted", 1, storage=runs)
    folds = ["data.folds={k_fold: 2}", "scheduler=none"]
    die_searching(root, "folded", ended=0, live=1, flags={"max_concurrent": 1, "trials": 1, "overrides": folds})


def facts(result: Any) -> dict[str, Any]:
    """A search as ``show --json`` tells it, and every trial's curve."""
    curves = {
        str(record.number): [saved.metrics.as_dict() for _, saved in sorted(record.epochs.items())]
        for record in result.trials
    }
    return {"told": result.as_dict(), "curves": curves}


def look(root: Path) -> dict[str, Any]:
    """What this version itself makes of it without changing anything."""
    import tunesearch

    runs = root / "runs"
    names = [result.name for result in tunesearch.list_searches(storage=runs)]
    return {
        "version": tunesearch.__version__,
        "root": str(root),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "searches": {name: facts(tunesearch.load(name, storage=runs)) for name in names},
        "compare": tunesearch.compare(["finished", "before"], storage=runs).as_dict(),
        "leaderboard": [board.as_dict() for board in tunesearch.leaderboard(storage=runs)],
        "runs": mlflow_runs(runs),
        "model": json.loads((root / "model" / "bundle.json").read_text()),
        "summary": json.loads((root / "trained" / "summary.json").read_text()),
    }


def mlflow_runs(runs: Path) -> dict[str, str]:
    """Run ids by experiment, search, trial and name, of all that MLflow has."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{runs}/mlflow.db")
    found: dict[str, str] = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            tags = run.data.tags
            key = f"{tags.get('tunesearch.search', '')}/{tags.get('tunesearch.trial', '')}/{run.info.run_name}"
            assert f"{experiment.name}/{key}" not in found
            found[f"{experiment.name}/{key}"] = run.info.run_id
    return found


def resume(root: Path, name: str) -> dict[str, Any]:
    """What becomes of an interrupted search, and every (trial, epoch) that is trained for it."""
    import tunesearch

    log = root / f"{name}.log"
    os.environ["TUNESEARCH_EPOCH_LOG"] = str(log)
    result = tunesearch.resume(name, storage=root / "runs", max_concurrent=1, progress=Silence())
    del os.environ["TUNESEARCH_EPOCH_LOG"]
    ends = [line.split() for line in log.read_text().splitlines() if line.startswith("end ")]
    runs = [key for key in mlflow_runs(root / "runs") if key.split("/")[1] == name]
    return {**facts(result), "epochs_trained": [[int(end[1]), int(end[2])] for end in ends], "runs": sorted(runs)}


def go_on(root: Path) -> dict[str, Any]:
    """What comes of it in the hands of this version: what was interrupted goes on, models are used."""
    import tunesearch

    data, runs = root / "data", root / "runs"
    pictures, masks = root / "data" / "JPEGImages", root / "expected"
    stacked = [root / "trained" / f"seed-{seed}" for seed in (1, 2)]
    tunesearch.predict(root / "model", pictures, masks / "model")
    tunesearch.predict("finished", pictures, masks / "finished", storage=runs)
    tunesearch.predict(stacked, pictures, masks / "stack", stack=root / "stack")
    evaluated = {
        name: tunesearch.evaluate(model, part="test", data=data, storage=runs, said=print).as_dict()
        for name, model in {"model": root / "model", "trained": stacked[0], "finished": "finished"}.items()
    }
    report = tunesearch.report("finished", storage=runs)
    resumed = {name: resume(root, name) for name in ("interrupted", "folded")}
    trained = tunesearch.train(root / "training.yaml", output=root / "unfinished", storage=runs)
    curve = json.loads((root / "unfinished" / "metrics.json").read_text())["epochs"]
    return {"evaluated": evaluated, "report": report, "resumed": resumed, "trained": trained, "trained_curve": curve}


def pack(root: Path, archive: Path) -> None:
    """Everything but what is made anew or nobody reads again."""

    def wanted(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        path = Path(info.name)
        unread = "mlartifacts" in path.parts and info.isfile()
        unread |= "predictions.png" in path.name  # 200 KB each, drawn for MLflow
        if {"ray", "__pycache__", "cache"} & set(path.parts) or unread or path.name.endswith((".lock", ".html")):
            return None
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return info

    with tarfile.open(archive, "w:xz") as tar:
        tar.add(root, arcname=".", filter=wanted)


def main() -> None:
    if sys.argv[1] == "--die":
        import tunesearch

        root, name, flags = Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
        death = Death(root / "space" / "broken", ended=flags.pop("ended"), live=flags.pop("live"))
        usual = {"storage": root / "runs", "local": True, "cpus_per_trial": 1, "progress": death}
        tunesearch.run(root / "space" / "space.yaml", name=name, **usual, **flags)
        return
    archive = Path(sys.argv[1]).absolute()
    root = Path(tempfile.mkdtemp(prefix="tunesearch-left-", dir="/tmp"))
    os.environ["TUNESEARCH_CACHE"] = str(root / "cache")
    os.chdir(root)
    make(root)
    left = root.with_name(f"{root.name}-copy")
    shutil.copytree(root, left, symlinks=True)
    expected = {**look(root), **go_on(root)}
    shutil.copytree(root / "expected", left / "expected")
    (left / "expected.json").write_text(json.dumps(expected, indent=1))
    pack(left, archive)
    print(f"{archive}: {archive.stat().st_size} bytes; {root} and {left} can be removed")


if __name__ == "__main__":
    main()
