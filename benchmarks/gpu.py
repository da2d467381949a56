"""On a CUDA GPU: throughput against the bare step, peak memory, out-of-memory recovery, trials sharing the GPU.

1. Throughput: for every architecture that can be imported, the bare forward-backward-step loop on one resident batch
   (the limit) in float32 and bfloat16, each contiguous and channels_last, and epochs of the Trainer at its own choice
   of both, with the decoded set in memory. Peak memory is told for each. Target: the Trainer reaches 0.85 of its bare
   step.
2. Out of memory: the process may use about half of the memory that the full batch needs; the Trainer must halve its
   micro-batch until it fits, keep the effective batch, and complete.
3. Sharing: 1, 2 and 4 processes train the same configuration on the one GPU; images per second together and of each.

Needs torch and what tunesearch.segmentation imports; neither Ray nor MLflow. Without segmentation-models-pytorch and
timm only the project's own U-Nets are measured. Without CUDA it says so and ends; `--device cpu` runs what a CPU can,
to try the code.

    python benchmarks/gpu.py --json gpu.json
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import multiprocessing
import os
import statistics
import sys
import time
import types
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also where the package is not installed

import numpy as np
import torch
from common import machine, say, spread, table, target, write_json
from torch import nn


def stand_in_for_missing_libraries() -> bool:
    """Whether segmentation-models-pytorch and timm are there; else empty modules, for the own U-Nets to be imported."""
    names = ("segmentation_models_pytorch", "timm")
    if all(importlib.util.find_spec(name) for name in names):
        return True
    encoders: Any = types.ModuleType("segmentation_models_pytorch.encoders")
    encoders.encoders, encoders.get_encoder = {}, None
    sys.modules.update({name: types.ModuleType(name) for name in names})
    sys.modules[encoders.__name__] = encoders
    return False


HAS_LIBRARY = stand_in_for_missing_libraries()

# Behind the stand-in, which must be in place before these import the libraries (hence E402).
# E402: they are found by the path above.
from tunesearch.segmentation.config import ARCHITECTURES, ENCODER_ARCHITECTURES, Size, TrainConfig  # noqa: E402
from tunesearch.segmentation.data.cache import DecodedPart  # noqa: E402
from tunesearch.segmentation.models import build_model  # noqa: E402
from tunesearch.segmentation.optimizers import build_optimizer  # noqa: E402
from tunesearch.segmentation.trainer import Trainer  # noqa: E402

CLASSES = 21
MIB = 2**20


def random_part(count: int, size: Size) -> DecodedPart:
    """Images of noise and masks of blocks, as the decoded cache would give them."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, size.height, size.width, 3), np.uint8)
    blocks = rng.integers(0, CLASSES, (count, -(-size.height // 16), -(-size.width // 16)), np.uint8)
    masks = blocks.repeat(16, axis=1).repeat(16, axis=2)[:, : size.height, : size.width].copy()
    return DecodedPart(images, masks, tuple(map(str, range(count))))


def settle(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def start_peak(device: torch.device) -> None:
    """Forget what was allocated before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> float:
    """The most MiB that were allocated since ``start_peak``; 0 where that is not known."""
    return torch.cuda.max_memory_allocated(device) / MIB if device.type == "cuda" else 0.0


class BareStep:
    """Forward, backward, step on one resident batch, written without the trainer."""

    def __init__(self, config: TrainConfig, device: torch.device, dtype: torch.dtype, *, channels_last: bool) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        layout = torch.channels_last if channels_last else torch.contiguous_format
        model = build_model(config, CLASSES).to(device, memory_format=layout).train()
        self.network, self.optimizer = model.network, build_optimizer(model, config)
        self.loss = nn.CrossEntropyLoss(ignore_index=255)
        shape = (config.batch_size, 3, config.size.height, config.size.width)
        self.images = torch.randn(shape, device=device).to(memory_format=layout)
        self.masks = torch.randint(0, CLASSES, (shape[0], *shape[2:]), device=device)

    def images_per_second(self, seconds: float) -> float:
        """Over at least ``seconds``, and at least two steps."""
        settle(self.device)
        start, steps = time.perf_counter(), 0
        while steps < 2 or time.perf_counter() - start < seconds:
            for _ in range(5 if self.device.type == "cuda" else 1):  # the queue of the device never runs dry
                with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32):
                    logits = self.network(self.images)
                self.loss(logits.float(), self.masks).backward()
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                steps += 1
            settle(self.device)
        return steps * self.config.batch_size / (time.perf_counter() - start)


def trainer_for(config: TrainConfig, device: torch.device, *, images: int, workers: int) -> Trainer:
    """A Trainer on a set of noise that lies in memory."""
    val = random_part(config.batch_size, config.size)
    train = random_part(images, config.size)
    return Trainer(config, train=train, val=val, classes=CLASSES, device=device.type, workers=workers)


def trained_images_per_second(trainer: Trainer, seconds: float) -> float:
    """Over the training passes of whole epochs, the first (warm-up) left out, until ``seconds`` have passed."""
    epochs = trainer.epochs()
    next(epochs)
    images, spent = 0, 0.0
    while spent < seconds:
        metrics = next(epochs)
        images, spent = images + trainer.train_batches.images, spent + metrics.train_seconds
    return images / spent


def configuration(architecture: str, options: argparse.Namespace, **fields: Any) -> TrainConfig:
    """What is trained, but for the architecture the same everywhere."""
    encoder = options.encoder if architecture in ENCODER_ARCHITECTURES else None
    more = {"batch_size": options.batch, "size": options.size, "epochs": 100_000, **fields}
    return TrainConfig.model_validate({"architecture": architecture, "encoder": encoder, **more})


def measure_throughput(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Part 1; gives the targets."""
    targets = []
    rows: list[list[Any]] = []
    for architecture in options.architectures:
        if architecture in ENCODER_ARCHITECTURES and not HAS_LIBRARY:
            rows.append([architecture, "not measured: segmentation-models-pytorch or timm is missing", "", "", "", ""])
            continue
        config = configuration(architecture, options)
        bare: dict[tuple[torch.dtype, bool], float] = {}
        for dtype in (torch.float32, torch.bfloat16):
            for channels_last in (False, True):
                start_peak(device)
                step = BareStep(config, device, dtype, channels_last=channels_last)
                step.images_per_second(0.0)
                speeds = [step.images_per_second(options.seconds) for _ in range(options.repeats)]
                bare[dtype, channels_last] = statistics.median(speeds)
                layout = "channels_last" if channels_last else "contiguous"
                kind = [architecture, "bare step", str(dtype).removeprefix("torch."), layout]
                rows.append([*kind, spread(speeds, 0), f"{peak(device):.0f}"])
                del step
        start_peak(device)
        trainer = trainer_for(config, device, images=options.images, workers=options.workers)
        partner = BareStep(config, device, trainer.dtype, channels_last=trainer.channels_last)
        limit, own = [], []
        for _ in range(options.repeats):
            limit.append(partner.images_per_second(options.seconds))
            own.append(trained_images_per_second(trainer, options.seconds))
        kind = ["Trainer", str(trainer.dtype).removeprefix("torch."), "channels_last" if trainer.channels_last else ""]
        rows.append([architecture, *kind, spread(own, 0), f"{peak(device):.0f}"])
        share = statistics.median(own) / statistics.median(limit)
        targets.append((architecture, share))
        trainer.close()
        del trainer, partner
    header = ["architecture", "side", "precision", "layout", "images/s: median (range)", "peak MiB"]
    table(header, rows)
    return [
        target(f"{architecture}: Trainer of its bare step", share, ">= 0.85", met=share >= 0.85)
        for architecture, share in targets
    ]


def measure_recovery(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Part 2, with a real out-of-memory error of CUDA; gives the targets."""
    config = configuration("unet_small", options, epochs=2, precision="float32", augmentation_strength=0.0)
    images = 2 * config.batch_size

    def train() -> tuple[Trainer, list[float], float]:
        start_peak(device)
        trainer = trainer_for(config, device, images=images, workers=0)
        losses = [metrics.train_loss for metrics in trainer.epochs()]
        return trainer, losses, peak(device)

    free, free_losses, needed = train()
    free.close()
    del free
    start_peak(device)
    reserved = torch.cuda.memory_reserved(device)
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((reserved + needed * MIB / 2) / total, device)
    try:
        bound, losses, used = train()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    rows: list[list[Any]] = [
        ["all it wants", config.batch_size, f"{needed:.0f}", "completed", *(f"{loss:.4f}" for loss in free_losses)],
        ["half of that", bound.micro_batch, f"{used:.0f}", bound.outcome, *(f"{loss:.4f}" for loss in losses)],
    ]
    bound.close()
    table(["memory", "micro-batch", "peak MiB", "outcome", "loss of epoch 1", "loss of epoch 2"], rows)
    met = rows[1][3] == "completed" and rows[1][1] < config.batch_size
    return [target("micro-batch after a real out-of-memory", rows[1][1], f"< {config.batch_size}, completed", met=met)]


def share_of_gpu(
    config: TrainConfig, device: str, images: int, workers: int, seconds: float, barrier: Any, answers: Any
) -> None:
    """One of several processes on the GPU."""
    trainer = trainer_for(config, torch.device(device), images=images, workers=workers)
    trained_images_per_second(trainer, 0.01)
    barrier.wait()
    answers.put((trained_images_per_second(trainer, seconds), peak(trainer.device)))
    barrier.wait()  # nobody measures on a GPU that others have left
    trainer.close()


def measure_sharing(options: argparse.Namespace, device: torch.device) -> dict[int, list[float]]:
    """Part 3; gives images per second of each process by how many there were."""
    context = multiprocessing.get_context("spawn")
    config = configuration(options.shared, options)
    speeds: dict[int, list[float]] = {}
    rows = []
    for count in options.processes:
        barrier, answers = context.Barrier(count), context.Queue()
        arguments = (config, device.type, options.images, options.workers, options.seconds, barrier, answers)
        crew = [context.Process(target=share_of_gpu, args=arguments) for _ in range(count)]
        for process in crew:
            process.start()
        found = [answers.get(timeout=600) for _ in crew]
        for process in crew:
            process.join()
        speeds[count] = [speed for speed, _ in found]
        largest = f"{max(used for _, used in found):.0f}"
        rows.append([count, f"{sum(speeds[count]):.0f}", spread(speeds[count], 0), largest])
    print(f"Trials of {config.architecture} on one device:\n")
    table(["processes", "images/s together", "each: median (range)", "peak MiB of one"], rows)
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--encoder", default="mobilenet_v2")
    parser.add_argument("--shared", choices=ARCHITECTURES, default="unet_small", help="what the sharing trials train")
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--images", type=int, default=512, help="of noise, in an epoch")
    parser.add_argument("--workers", type=int, default=max(0, (os.cpu_count() or 1) // 4), help="of each Trainer")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", nargs="+", type=int, choices=(1, 2, 3), default=[1, 2, 3])
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA GPU here: nothing measured (--device cpu tries the code)")
        return
    device = torch.device(options.device)
    facts = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU, only to try the code",
        "size, batch": f"{options.size}, {options.batch}; {options.images} images, {options.workers} workers",
        "repeats": f"{options.repeats} of {options.seconds:g} s",
        "machine": machine(),
        "torch": torch.__version__,
    }
    say("Training on a GPU", facts)
    figures: dict[str, Any] = {"facts": facts, "targets": []}
    if 1 in options.parts:
        figures["targets"] += measure_throughput(options, device)
    if 2 in options.parts and device.type == "cuda":
        figures["targets"] += measure_recovery(options, device)
    elif 2 in options.parts:
        print("out of memory: not measured, a CPU has no such error to recover from\n")
    if 3 in options.parts:
        figures["sharing_images_per_second"] = measure_sharing(options, device)
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
