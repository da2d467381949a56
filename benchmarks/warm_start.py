"""What a warm start gains: the best of a search after n trials, cold and started from an earlier search.

Measured: tunesearch's real ledger, sampler (TPE) and ASHA over the shipped space `voc_unet`, one trial at a time,
without Ray. Trials train nothing: their learning curve is a formula of the configuration with noise from the trial's
seed, so that the true score of every configuration is known. All sides of a case have the same seeds, budgets and
scores in the same run:

    cold         nothing is known
    best first   the earlier search's best configurations are tried first, its scores are not told
    scores       and its scores are told to the sampler (where they are not comparable, as in the last two cases,
                 `--warm-start` does not do this: measured here is what would come of it)

Cases: the earlier search was over the same space on the same data; over a space with other choices, ranges and
parameters; with a third of the epochs; on other data, where the best learning rate is higher, other networks are good
and scores are lower.

    python benchmarks/warm_start.py --seeds 12 --json warm_start.json
"""

from __future__ import annotations

import argparse
import hashlib
import math
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, say, table, target, versions, write_json

from tunesearch.engine.asking import Asker
from tunesearch.experiment import Experiment, load_experiment
from tunesearch.ledger.store import Ledger
from tunesearch.ledger.warm_start import WarmStart
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.data.splits import Split, SplitItem
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.strategy.early_stopping import build_stopper
from tunesearch.strategy.warm_start import gather

EPOCHS = 9
NOISE = 0.01
"""Standard deviation of the score of the same configuration over seeds; trainings of VOC have 0.01 to 0.04."""
MARKS = (1, 4, 8, 16, 24)
"""After how many trials the best is looked at."""
SIDES = ("cold", "best first", "scores")

NETWORKS = (
    "unet",
    "unet_medium",
    "unet_small",
    "resunet",
    "encoder_unet",
    "unetplusplus",
    "fpn",
    "pspnet",
    "deeplabv3plus",
)
ENCODERS = ("vgg16", "resnet18", "resnet34", "mobilenet_v2", "efficientnet-b0", "timm-efficientnet-b0")
LOSSES = ("cross_entropy", "focal", "dice", "jaccard", "lovasz", "cross_entropy + dice")


def true_score(config: TrainConfig, data: str) -> float:
    """The mIoU of a configuration without noise, at most about 0.7 (0.5 on the other data): an invention."""
    other = data == "other"
    best_rate = {"sgd": -1.6, "adam": -3.0, "adamw": -3.0, "adamax": -2.6, "nadam": -3.2}[
        config.optimizer
    ] + 0.5 * other
    score = 0.7
    score -= 0.08 * min((math.log10(config.lr) - best_rate) ** 2, 6.0)
    order = NETWORKS if not other else (*NETWORKS[4:], *NETWORKS[:4])
    score -= 0.015 * (len(order) - 1 - order.index(config.architecture))
    if config.has_encoder:
        score -= 0.008 * abs(ENCODERS.index(str(config.encoder)) - (4 if not other else 2))
        if config.encoder_weights == "imagenet":
            score += 0.06 - 0.05 * (config.finetune_fraction - 0.8) ** 2
            score -= 0.02 * abs(math.log10(config.encoder_lr_factor) + 0.5)
    if config.optimizer == "sgd":
        score -= 0.1 * (config.momentum - 0.9) ** 2
    score -= 0.15 * (config.dropout - (0.2 if not other else 0.35)) ** 2
    score -= 0.004 * (math.log10(config.weight_decay) + 4.5) ** 2
    score -= 0.012 * abs(LOSSES.index(config.loss) - (5 if not other else 2))
    score -= {"none": 0.0, "time_decay": -0.01, "cosine": -0.02, "poly": -0.025}[config.schedule]
    if config.schedule == "poly":
        score -= 0.03 * abs(config.poly_power - 1.4)
    score -= {"none": 0.01, "inverse_frequency": 0.02, "median_frequency": 0.0}[config.class_weights]
    score -= 0.05 * (config.augmentation_strength - 0.5) ** 2
    score -= 0.006 * abs(math.log2(config.batch_size) - 4)
    return max(0.02, score if not other else 0.7 * score)


def curve(config: TrainConfig, data: str) -> list[float]:
    """The mIoU after every epoch: an approach to the true score with noise; slower with small learning rates."""
    random = np.random.default_rng(config.seed)
    end = true_score(config, data) + NOISE * random.standard_normal()
    slowness = 1.0 + 0.5 * max(0.0, -3.0 - math.log10(config.lr))
    wobble = 0.3 * NOISE * random.standard_normal(config.epochs)
    return [
        float(max(0.01, end * (1 - math.exp(-epoch / slowness)) + wobble[epoch - 1]))
        for epoch in range(1, config.epochs + 1)
    ]


def metrics_of(epoch: int, miou: float) -> EpochMetrics:
    """An epoch of which only the objective is known."""
    return EpochMetrics(
        epoch=epoch, train_loss=1.0, val_loss=1.0, val_miou=miou, val_miou_no_background=miou, val_dice=miou,
        val_pixel_accuracy=miou, val_iou=(miou,), lr=0.1, updates=epoch, train_seconds=1.0, val_seconds=1.0,
        images_per_second=1.0, finished_at=1.0,
    )  # fmt: skip


def split_of(data: str) -> Split:
    """A split that is told apart by its content."""
    digest = hashlib.sha256(data.encode()).hexdigest()
    item = SplitItem(id="a", image="a", mask="a", image_sha256=digest, mask_sha256=digest)
    return Split(root=Path("/nowhere"), train=(item,), val=(item,))


def search(ledger: Ledger, data: str) -> list[float]:
    """Drive a search to its end, as the conductor does; gives the true score of what is best after every trial."""
    stopper = build_stopper(ledger.experiment)
    found = []
    asker = Asker(ledger)
    while len(ledger.counted()) < ledger.target and (record := asker.ask()) is not None:
        outcome = "completed"
        for epoch, value in enumerate(curve(record.config, data), 1):
            metrics = metrics_of(epoch, value)
            last = epoch == record.config.epochs
            stops = stopper.stops(record.number, epoch, ledger.running_best(metrics, number=record.number)) and not last
            ledger.commit_epoch(metrics, number=record.number, stopped=stops)
            if stops:
                outcome = "stopped"
                break
        ledger.end(record.number, outcome)  # type: ignore[arg-type]
        best = ledger.best()
        assert best is not None
        found.append(true_score(best.config, data))
    return found


def space(*changes: str, trials: int, seed: int, epochs: int = EPOCHS) -> Experiment:
    """The shipped space with one training length and ASHA that fits it."""
    fixed = [f"search.trials={trials}", f"search.seed={seed}", f"train.epochs={epochs}", "try_first=[]"]
    asha = "scheduler.asha={grace_epochs: 1, reduction: 3}"
    return load_experiment("voc_unet", overrides=[*fixed, asha, *changes], data_root=Path("/nowhere"))


OTHER_SPACE = (
    "parameters.architecture.choice=[encoder_unet, unetplusplus, fpn, pspnet, deeplabv3plus]",
    "parameters.optimizer.choice=[adam, adamw, sgd]",
    "parameters.lr.float=[1.0e-5, 3.0e-2]",
    "parameters.dropout.float=[0.0, 0.5]",
    "parameters.poly_power={float: [0.5, 2.0], when: {schedule: poly}}",
)
"""What case 2 changes; poly_power was at its default, 0.9, before, and matters."""

CASES: dict[str, dict[str, Any]] = {
    "same space": {},
    "changed space": {"changes": OTHER_SPACE},
    "a third of the epochs before": {"epochs_before": EPOCHS // 3},
    "other data before": {"data_before": "other"},
}


def starts(experiment: Experiment, earlier: Ledger) -> dict[str, WarmStart | None]:
    """What each side begins with."""
    warm = gather(experiment, split_of("here"), [earlier])
    told = warm
    if not warm.prior:  # what --warm-start refuses to do: tell scores that are not comparable
        alike = experiment.model_copy(
            update={"train": {**experiment.train, "epochs": earlier.experiment.train["epochs"]}}
        )
        told = gather(alike, earlier.split, [earlier])
    return {"cold": None, "best first": WarmStart((), (), warm.first), "scores": WarmStart((), told.prior, warm.first)}


def measure(seed: int, options: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """All sides of all cases for one seed."""
    earlier: dict[tuple[str, int], tuple[Ledger, float]] = {}
    figures: dict[str, dict[str, Any]] = {}
    for case, what in CASES.items():
        data, epochs = what.get("data_before", "here"), what.get("epochs_before", EPOCHS)
        if (data, epochs) not in earlier:
            before = space(trials=options.earlier, seed=1000 + seed, epochs=epochs)
            ledger = Ledger.create(folder, f"{data}-{epochs}", before, split_of(data), {})
            earlier[data, epochs] = ledger, search(ledger, data)[-1]
        experiment = space(*what.get("changes", ()), trials=options.trials, seed=seed)
        of_case = figures[case] = {"earlier": earlier[data, epochs][1]}
        for side, warm in starts(experiment, earlier[data, epochs][0]).items():
            begun = warm.tried_first(experiment) if warm else experiment
            name = f"{case}-{side}".replace(" ", "-")
            ledger = Ledger.create(folder, name, begun, split_of("here"), {}, warm_start=warm)
            of_case[side] = search(ledger, "here")
            of_case[f"{side}: told"] = len(warm.prior) if warm else 0
            ledger.close()
    for ledger, _ in earlier.values():
        ledger.close()
    return figures


def row(case: str, side: str, runs: Sequence[dict[str, Any]], trials: int) -> list[str]:
    """One line of the table: medians over seeds, and in how many seeds this side is ahead of the cold one."""
    marks = [mark for mark in MARKS if mark <= trials]
    told = f"{statistics.median(run[f'{side}: told'] for run in runs):.0f}"
    values = [f"{statistics.median(run[side][mark - 1] for run in runs):.3f}" for mark in marks]
    if side == "cold":
        return [case, side, told, *values, "-", "-"]
    ahead = []
    for mark in (8, trials):
        pairs = [(run[side][mark - 1], run["cold"][mark - 1]) for run in runs]
        ahead.append(f"{sum(a > b for a, b in pairs)} of {len(pairs)}")
    return [case, side, told, *values, *ahead]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--trials", type=int, default=24, help="of every measured search")
    parser.add_argument("--earlier", type=int, default=64, help="trials of the search that is started from")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts = {
        "machine": machine(),
        "versions": versions("optuna", "numpy"),
        "case": f"voc_unet, TPE, ASHA, {EPOCHS} epochs; {options.trials} trials after {options.earlier}",
        "seeds": options.seeds,
        "noise": f"standard deviation {NOISE} over seeds",
    }
    say("Warm start: the true mIoU of what a search names best, after n trials (median over seeds)", facts)
    runs: dict[str, list[dict[str, Any]]] = {case: [] for case in CASES}
    temporary = Path(tempfile.mkdtemp(prefix="tunesearch-warm-"))
    try:
        for seed in range(options.seeds):
            for case, found in measure(seed, options, temporary / str(seed)).items():
                runs[case].append(found)
                last = {side: round(found[side][-1], 3) for side in SIDES}
                print(f"  seed {seed}, {case}: {last}", file=sys.stderr, flush=True)
            shutil.rmtree(temporary / str(seed))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    marks = [f"after {mark}" for mark in MARKS if mark <= options.trials]
    header = ["earlier search", "side", "scores told", *marks, "ahead of cold: after 8", f"after {options.trials}"]
    table(header, [row(case, side, found, options.trials) for case, found in runs.items() for side in SIDES])
    targets = []
    for case, found in runs.items():
        side = "scores" if case in ("same space", "changed space") else "best first"
        gain = statistics.median(run[side][-1] - run["cold"][-1] for run in found)
        targets.append(target(f"{case}: median gain of --warm-start over cold", gain, "> 0", met=gain > 0))
    write_json(options.json, {"facts": facts, "runs": runs, "targets": targets})


if __name__ == "__main__":
    main()
