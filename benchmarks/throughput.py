"""Training images per second of a real epoch, between the limit above it and the usual loop below it.

Measured: epochs of tunesearch's Trainer: decoded cache, augmentation at strength 0.5, loader, losses, metrics,
checkpoint. Against the limit: the bare forward-backward-step loop on one resident, normalised batch with the same
network, precision, memory format, loss and optimiser. Against the peer: the usual loop, a DataLoader over a Dataset
that opens JPEG and PNG with PIL every time, resizes, augments with the same albumentations pipeline, normalises to
float tensors, and feeds the same training step; with 0 and with 2 workers, of which the faster counts. Targets: at
least 0.85 of the bare step and at least 1.5 times the usual loop.

Case: encoder_unet on mobilenet_v2, 128x128, batch 16, 2 threads. Data: the built-in sample, whose pictures are small
(96x72 to 128x96) and therefore quick to decode, or any set in VOC layout. The sides take turns, A B C D A B C D; a
side's turn is whole epochs until `--seconds` have passed. What an epoch takes beside training is told separately.

    python benchmarks/throughput.py --data ../shared/data/voc2012_subset --json throughput.json
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations
import numpy as np
import torch
from common import machine, say, spread, table, target, versions, write_json
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tunesearch.segmentation.config import DataConfig, Size, TrainConfig
from tunesearch.segmentation.data.augmentation import pipeline
from tunesearch.segmentation.data.cache import decoded
from tunesearch.segmentation.data.layouts import Pair, resolve_classes
from tunesearch.segmentation.data.splits import freeze_split
from tunesearch.segmentation.device import pick_device, pick_precision
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.models import build_model
from tunesearch.segmentation.models.library import IMAGENET_MEAN, IMAGENET_STD
from tunesearch.segmentation.optimizers import build_optimizer
from tunesearch.segmentation.trainer import Trainer

PACKAGES = ("torch", "segmentation-models-pytorch", "albumentations", "opencv-python-headless", "pillow")


class Step:
    """Forward, backward, step: the same for the limit and for the peer, and written without tunesearch's trainer."""

    def __init__(self, config: TrainConfig, classes: int) -> None:
        torch.manual_seed(config.seed)
        model = build_model(config, classes)
        self.device = pick_device()
        self.network = model.network.to(self.device, memory_format=torch.channels_last).train()
        self.optimizer = build_optimizer(model, config)
        self.dtype = pick_precision(config, self.device)
        self.loss = nn.CrossEntropyLoss(ignore_index=255)

    def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
        """Images float32 (N, 3, H, W), normalised; masks int64 (N, H, W)."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            logits = self.network(images)
        loss = self.loss(logits.float(), masks)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def move(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """A batch to where the network is, and as it likes it."""
        moved = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        return moved, masks.to(self.device, non_blocking=True)


class UsualDataset(Dataset[tuple[Tensor, Tensor]]):
    """Opens, decodes, resizes, augments and normalises one pair at a time, as tutorials do."""

    def __init__(self, pairs: list[Pair], config: TrainConfig) -> None:
        self.pairs, self.size = pairs, (config.size.width, config.size.height)
        transforms = pipeline(config)
        normalise = albumentations.Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD)
        self.transform = albumentations.Compose([*(transforms.transforms if transforms else []), normalise])

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pair = self.pairs[index]
        with Image.open(pair.image) as image, Image.open(pair.mask) as mask:
            pixels = np.array(image.convert("RGB").resize(self.size, Image.Resampling.BILINEAR))
            labels = np.array(mask.resize(self.size, Image.Resampling.NEAREST))
        made = self.transform(image=pixels, mask=labels)
        return torch.from_numpy(made["image"].transpose(2, 0, 1).copy()), torch.from_numpy(made["mask"]).long()


def finish(device: torch.device) -> None:
    """Wait for the device, so that a clock can be read."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def bare_side(step: Step, batch: tuple[Tensor, Tensor], steps: int) -> Callable[[], tuple[int, float]]:
    """One call trains ``steps`` times on the same batch; gives images and seconds."""

    def epoch() -> tuple[int, float]:
        start = time.perf_counter()
        for _ in range(steps):
            step(*batch)
        finish(step.device)
        return steps * len(batch[0]), time.perf_counter() - start

    return epoch


def usual_side(step: Step, loader: DataLoader[tuple[Tensor, Tensor]]) -> Callable[[], tuple[int, float]]:
    """One call is one training epoch of the usual loop; gives images and seconds."""

    def epoch() -> tuple[int, float]:
        start = time.perf_counter()
        images, total = 0, torch.zeros((), device=step.device)
        for batch in loader:
            total += step(*step.move(*batch))
            images += len(batch[0])
        float(total)
        return images, time.perf_counter() - start

    return epoch


def trainer_side(
    trainer: Trainer, epochs: Iterator[EpochMetrics], whole: list[tuple[float, float]]
) -> Callable[[], tuple[int, float]]:
    """One call is one epoch of the Trainer; gives the images and seconds of its training pass.

    ``whole`` gets the seconds of its validation and of the whole epoch.
    """

    def epoch() -> tuple[int, float]:
        start = time.perf_counter()
        metrics = next(epochs)
        whole.append((metrics.val_seconds, time.perf_counter() - start))
        return trainer.train_batches.images, metrics.train_seconds

    return epoch


def turn(epoch: Callable[[], tuple[int, float]], seconds: float) -> float:
    """Images per second over whole epochs, until ``seconds`` have passed."""
    images, spent = 0, 0.0
    while spent < seconds:
        more, took = epoch()
        images, spent = images + more, spent + took
    return images / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="root of a set in VOC layout; default: the built-in sample")
    parser.add_argument("--seconds", type=float, default=8.0, help="of training per side and repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--architecture", default="encoder_unet")
    parser.add_argument("--encoder", default="mobilenet_v2")
    parser.add_argument("--size", default="128x128")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare tunesearch's batches")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = TrainConfig(
        architecture=options.architecture,
        encoder=options.encoder,
        size=Size.model_validate(options.size),
        batch_size=options.batch,
        epochs=100_000,
        augmentation_strength=0.5,
    )
    data = DataConfig(layout="sample") if options.data is None else DataConfig(layout="voc", root=options.data)
    classes = len(resolve_classes(data))
    split = freeze_split(data)

    with tempfile.TemporaryDirectory(prefix="tunesearch-throughput-") as temporary:
        folder = Path(temporary)
        start = time.perf_counter()
        train, val = (decoded(data, split, part, config.size, folder=folder / "cache") for part in ("train", "val"))
        decoding = time.perf_counter() - start
        trainer = Trainer(
            config, train=train, val=val, classes=classes, folder=folder / "trial", workers=options.workers
        )
        (folder / "trial").mkdir()
        effective = trainer.effective()
        facts = {
            "model": f"{config.architecture}, {config.encoder}, {effective['parameters']:,} weights, {classes} classes",
            "size, batch": f"{config.size}, {config.batch_size}",
            "threads": f"{torch.get_num_threads()}; {options.workers} workers prepare tunesearch's batches",
            "precision": f"{effective['precision']}, channels_last, on {effective['device']}; {config.optimizer}",
            "data": f"{'the built-in sample' if options.data is None else options.data}: {len(train)} training and "
            f"{len(val)} validation images, decoded once in {decoding:.1f} s",
            "repeats": f"{options.repeats} of {options.seconds:g} s a side, interleaved",
            "machine": machine(),
            "versions": versions(*PACKAGES),
        }
        say("Training throughput", facts)

        def usual(workers: int) -> Callable[[], tuple[int, float]]:
            loader = DataLoader(
                UsualDataset(split.pairs("train"), config),
                batch_size=config.batch_size,
                shuffle=True,
                num_workers=workers,
                persistent_workers=workers > 0,
                drop_last=len(train) % config.batch_size == 1,  # batch norm cannot take a single image
            )
            return usual_side(Step(config, classes), loader)

        whole: list[tuple[float, float]] = []
        bare = Step(config, classes)
        images, masks = next(iter(DataLoader(UsualDataset(split.pairs("train"), config), config.batch_size)))
        sides = {
            "bare step on one resident batch": bare_side(bare, bare.move(images, masks), len(trainer.train_batches)),
            "tunesearch's Trainer": trainer_side(trainer, trainer.epochs(), whole),
            "usual loop from disk, 0 workers": usual(0),
            "usual loop from disk, 2 workers": usual(2),
        }
        speeds: dict[str, list[float]] = {name: [] for name in sides}
        for epoch in sides.values():
            epoch()  # allocations, worker processes and compiled kernels of the first epoch
        whole.clear()
        for _ in range(options.repeats):
            for name, epoch in sides.items():
                speeds[name].append(turn(epoch, options.seconds))
        trainer.close()

    bare_name, own_name, *usual_names = sides
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    rows = [
        [name, spread(speeds[name], 1), f"{medians[name] / medians[bare_name]:.2f}", f"{1000 / medians[name]:.1f}"]
        for name in sides
    ]
    table(["side", "training images/s: median (range)", "of the bare step", "ms per image"], rows)
    validation, entire = (statistics.median(seconds) for seconds in zip(*whole, strict=True))
    training = trainer.train_batches.images / medians[own_name]
    print(
        f"A whole epoch of the Trainer takes {entire:.2f} s: training {training:.2f} s, validation of {len(val)} "
        f"images {validation:.2f} s ({len(val) / validation:.0f} images/s), checkpoint and best weights "
        f"{max(0.0, entire - training - validation):.2f} s.\n"
    )
    peer = max(medians[name] for name in usual_names)
    share, times = medians[own_name] / medians[bare_name], medians[own_name] / peer
    targets = [
        target("of the bare step", share, ">= 0.85", met=share >= 0.85),
        target("times the usual loop", times, ">= 1.5", met=times >= 1.5),
    ]
    epoch_seconds = {"whole": entire, "training": training, "validation": validation}
    figures: dict[str, Any] = {"facts": facts, "images_per_second": speeds, "epoch_seconds": epoch_seconds}
    write_json(options.json, {**figures, "targets": targets})


if __name__ == "__main__":
    main()
