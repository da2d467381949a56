"""Trainer: one training as an iterator of epochs. It knows no Ray, no Optuna and no MLflow.

Example:

    trainer = Trainer(config, train=..., val=..., classes=21)
    for metrics in trainer.epochs():
        print(metrics.epoch, metrics.val_miou)
    print(trainer.outcome)                          # completed | diverged | out_of_memory
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tunesearch.errors import InputError, Problem, WeightsError
from tunesearch.segmentation.averaging import WeightAverage
from tunesearch.segmentation.checkpoint import load_checkpoint, save_checkpoint
from tunesearch.segmentation.config import VAL_METRICS, TrainConfig
from tunesearch.segmentation.data.cache import DecodedPart, OriginalMasks
from tunesearch.segmentation.data.class_weights import class_weights
from tunesearch.segmentation.data.loader import train_loader, val_loader
from tunesearch.segmentation.data.statistics import mean_and_std
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.files import write_atomic
from tunesearch.segmentation.inference import resized_labels, tiles, window_logits
from tunesearch.segmentation.losses import build_loss
from tunesearch.segmentation.metrics import ConfusionMatrix, Scores, scores
from tunesearch.segmentation.models import build_model
from tunesearch.segmentation.models.weights import read_weights
from tunesearch.segmentation.optimizers import build_optimizer
from tunesearch.segmentation.schedules import lr_factor, stops_early
from tunesearch.segmentation.team import Team, synchronised

CHECKPOINT_FORMAT = 3
"""Raised whenever a checkpoint's content changes."""
TrainerOutcome = Literal["completed", "diverged", "out_of_memory"]
P = ParamSpec("P")
T = TypeVar("T")


_UNKNOWN = Scores(math.nan, math.nan, math.nan, math.nan, ())
"""Of an epoch without a validation."""


def _slices(count: int, parts: int) -> list[slice]:
    """``count`` things in so many parts of nearly equal size, as ``torch.tensor_split`` cuts them."""
    sizes = [count // parts + (part < count % parts) for part in range(parts)]
    return [slice(sum(sizes[:part]), sum(sizes[: part + 1])) for part in range(parts)]


class _Rng:
    """A training's own place in torch's global random numbers, so that several may take turns in one process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.keep()

    def keep(self) -> None:
        """Remember where the numbers stand."""
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        self.states: tuple[Tensor, Tensor | None] = torch.get_rng_state(), cuda

    def take(self) -> None:
        """Go on from there."""
        cpu, cuda = self.states
        torch.set_rng_state(cpu)
        if cuda is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(cuda, self.device)


def pick_device(name: str = "auto") -> torch.device:
    """``auto``: CUDA, else Apple's MPS, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def pick_precision(config: TrainConfig, device: torch.device) -> torch.dtype:
    """The autocast type; float32 means no autocast. ``auto`` picks what is fast and safe on the device."""
    if config.precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[config.precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    return torch.float32


class Trainer:
    """One training of one configuration.

    Args:
        config: what to train.
        train: decoded training images and masks at ``config.size``.
        val: decoded validation images and masks; None: nothing is validated, and the last epoch counts as the best.
        classes: number of classes C.
        background: class left out of mean IoU without background; None: there is none.
        ignore_index: label that counts nowhere; the decoded cache holds 255.
        encoder_weights: file or folder of ImageNet weights; None: the library's loader.
        folder: where ``last.pt`` (to resume) and ``best.safetensors`` are kept; None: best weights in memory only.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        workers: processes that prepare batches; 0: this one.
        watch: indices into ``val`` whose best predictions are kept in ``best_predictions``.
        monitor: the field of EpochMetrics that decides which epoch is the best; ``val_loss`` is minimised.
        originals: the masks of ``val`` at the sizes of their files, to measure IoU, Dice and accuracy at; None: these
            are measured at ``config.size``.
        alive: called after every batch.
        team: the processes that train this together; None: this one alone. With several, each takes its share of every
            batch, as a micro-batch of it would be; the first writes the folder, which all must see. ``watch`` is not
            for them, and where the memory does not suffice they raise ``torch.OutOfMemoryError``.

    Raises:
        Infeasible, WeightsError, InputError: as ``build_model``; the augmentation, the class weights; a schedule or
            early stopping that looks at a validation that is not there.

    Attributes:
        outcome: how the training ended, early stopping being a completion; None while it goes on.
        resumed: the metrics of the checkpoint's epoch where one was found; its epoch is not trained again.
        best: the best epoch so far, by ``monitor``.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        train: DecodedPart,
        val: DecodedPart | None,
        classes: int,
        background: int | None = 0,
        ignore_index: int = 255,
        encoder_weights: Path | None = None,
        folder: Path | None = None,
        device: str = "auto",
        workers: int = 0,
        watch: tuple[int, ...] = (),
        monitor: str = "val_miou",
        originals: OriginalMasks | None = None,
        alive: Callable[[], None] = lambda: None,
        team: Team | None = None,
    ) -> None:
        if val is None and (config.schedule == "plateau" or config.early_stop_patience is not None):
            what = "schedule plateau" if config.schedule == "plateau" else "early stopping"
            raise InputError(Problem("train", f"{what} looks at a validation, and there is none"))
        self.config = config
        self.team = team or Team()
        self.alive = alive
        self.monitor = monitor
        self.classes = classes
        self.background = background
        self.ignore_index = ignore_index
        self.folder = folder
        self.watch = watch
        self.device = pick_device(device)
        self.dtype = pick_precision(config, self.device)
        self.channels_last = self.device.type != "mps"

        self.originals = originals

        torch.manual_seed(config.seed)
        model = build_model(config, classes, encoder_weights=encoder_weights).to(self.device)
        if config.normalization == "measured":
            model.normalise_by(*mean_and_std(train.images))
        if self.team.size > 1 and self.device.type == "cuda":
            model = synchronised(model)
        if self.channels_last:
            model = model.to(memory_format=torch.channels_last)
        self.model = model
        self.average = None if config.ema_decay is None else WeightAverage(model, config.ema_decay)
        weight = class_weights(config, train.masks, classes)
        tensor = None if weight is None else torch.from_numpy(weight).to(self.device)
        self.loss = build_loss(config, ignore_index=ignore_index, weight=tensor).to(self.device)
        self.encoder: nn.Module | None = getattr(model.network, "encoder", None) if model.freezing else None
        self.optimizer = build_optimizer(model, config, encoder=self.encoder)
        self.grad_clip = config.grad_clip
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)
        pin = self.device.type == "cuda"
        self.train_batches = train_loader(train, config, background=background, workers=workers, pin_memory=pin)
        self.val_images = 0 if val is None else len(val)
        self.val_batches = None if val is None else val_loader(val, config.batch_size, workers=workers, pin_memory=pin)
        self.total_updates = config.epochs * len(self.train_batches)
        self.micro_batch = min(config.micro_batch or config.batch_size, config.batch_size)
        self.epoch = 0
        self.updates = 0
        self.best: EpochMetrics | None = None
        self.best_predictions: npt.NDArray[np.uint8] | None = None
        self.outcome: TrainerOutcome | None = None
        self.resumed: EpochMetrics | None = None
        self._curve: list[dict[str, float]] = []
        """The VAL_METRICS of every finished epoch, which the plateau and early stopping look at."""
        self._best_weights: dict[str, Tensor] | None = None
        self._rng = _Rng(self.device)
        if folder is not None:
            self._restore(folder / "last.pt")
        self._meet()

    @property
    def scored_model(self) -> nn.Module:
        """What is validated and kept: the moving average of the weights where there is one, else the network itself."""
        return self.model if self.average is None else self.average.model

    # ------------------------------------------------------------------------------------------------------ the loop

    def epochs(self) -> Iterator[EpochMetrics]:
        """Train to the end, one epoch at a time; the checkpoint of an epoch is on disk before its metrics are given.

        Ends early, with :attr:`outcome` set, when the loss is no finite number or the memory does not suffice, and as
        completed when ``early_stop_metric`` has not improved for long enough.
        """
        while self.outcome is None:
            self._rng.take()
            start = time.perf_counter()
            train_loss = self._train_epoch(self.epoch + 1)
            if train_loss is None:
                return
            trained = time.perf_counter()
            self._share_statistics()
            val_loss, val, predictions = math.nan, _UNKNOWN, None
            if self.val_batches is not None:
                validated = self._within_memory(self._validate)
                if validated is None:
                    return
                val_loss, matrix, predictions = validated
                if not math.isfinite(val_loss):
                    self.outcome = "diverged"
                    return
                val = scores(matrix, background=self.background)
            self.epoch += 1
            metrics = EpochMetrics(
                epoch=self.epoch,
                train_loss=train_loss,
                val_loss=val_loss,
                val_miou=val.miou,
                val_miou_no_background=val.miou_no_background,
                val_dice=val.dice,
                val_pixel_accuracy=val.pixel_accuracy,
                val_iou=val.iou,
                lr=self._lr(self.updates - 1),
                updates=self.updates,
                train_seconds=trained - start,
                val_seconds=time.perf_counter() - trained,
                images_per_second=self.train_batches.images / (trained - start),
                finished_at=time.time(),
            )
            self._rng.keep()
            self._curve.append({name: float(getattr(metrics, name)) for name in VAL_METRICS})
            if self.best is None or self.val_batches is None or self._score(metrics) > self._score(self.best):
                self.best, self.best_predictions = metrics, predictions
                self._keep_best_weights()
            if self.epoch >= self.config.epochs or self._has_stopped_early():
                self.outcome = "completed"
            self._save(metrics)
            yield metrics

    def _has_stopped_early(self) -> bool:
        return stops_early(self.config, self._values("early_stop_metric"))

    def _values(self, field: str) -> list[float]:
        """The curve of the metric that the configuration's ``field`` names."""
        return [epoch[getattr(self.config, field)] for epoch in self._curve]

    def _score(self, metrics: EpochMetrics) -> float:
        value = float(getattr(metrics, self.monitor))
        return -value if self.monitor == "val_loss" else value

    def _train_epoch(self, epoch: int) -> float | None:
        """Mean training loss of one pass, or None when it ended with an outcome."""
        self.model.train()
        self.team.seed(self.config.seed, epoch)
        total = torch.zeros((), device=self.device)
        weight = torch.zeros((), device=self.device)
        for step, (images, masks) in enumerate(self.train_batches.epoch(epoch), start=1):
            lr = self._lr(self.updates)
            for group in self.optimizer.param_groups:
                group["lr"] = lr * group["factor"]
            updated = self._within_memory(self._update, images, masks)
            if updated is None:
                return None
            loss, share = updated
            self.alive()
            self.updates += 1
            total += loss * share
            weight += share
            # Reading the loss waits for the device, so it is not read at every step.
            if step % 16 == 0 or step == len(self.train_batches):
                whole = self.team.sum(total.clone())
                if not bool(torch.isfinite(whole)):
                    self.outcome = "diverged"
                    return None
        return float(whole / weight.clamp_min(1e-12))

    def _lr(self, t: int) -> float:
        """The learning rate of the update after ``t`` updates, as the parameters outside the encoder have it."""
        first: float = self.optimizer.defaults["lr"]
        return first * lr_factor(self.config, t, self.total_updates, self._values("plateau_metric"))

    def _within_memory(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """``work(...)``, with half the micro-batch as often as memory asks; None, with an outcome, at the floor."""
        if self.team.size > 1:  # the others wait for this member's gradients: all must start anew
            return work(*args, **kwargs)
        while True:
            with contextlib.suppress(torch.OutOfMemoryError):
                return work(*args, **kwargs)
            # Outside the handler: its traceback would keep the failed graph's memory alive.
            if self.micro_batch <= self.config.smallest_batch:
                self.outcome = "out_of_memory"
                return None
            self.micro_batch = max(self.micro_batch // 2, self.config.smallest_batch)
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _update(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """One optimiser update on a batch, in micro-batches; gives its loss (this member's part of it) and its weight
        in the epoch's mean."""
        masks = masks.to(self.device, non_blocking=True).long()
        share = self.loss.share(masks)
        mine, parts, copies = self._shares(len(masks))
        images = images[mine].to(self.device, non_blocking=True)
        total = torch.zeros((), device=self.device)
        for part, truth in zip(images.tensor_split(parts), masks[mine].tensor_split(parts), strict=True):
            with self._autocast():
                logits = self.model(part)
            loss = self.loss.part(logits, truth, masks) / copies
            if loss.requires_grad:
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self.team.sum_gradients(self.model.parameters())
        if self.grad_clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.model)
        return total, share

    def _shares(self, images: int) -> tuple[slice, int, int]:
        """Of a training batch: this member's images, in how many micro-batches, and how many members do the same.

        All members have the same number of micro-batches, because a synchronised norm waits for all of them at each. A
        batch too small to give every member its least is done by all of them whole.
        """
        team, least = self.team, self.config.smallest_batch
        if images < team.size * least:
            mine, smallest, largest, copies = slice(0, images), images, images, team.size
        else:
            mine = _slices(images, team.size)[team.rank]
            smallest, largest, copies = images // team.size, math.ceil(images / team.size), 1
        # Of nearly equal size: no remainder of a single image that a batch norm could not take.
        return mine, max(min(math.ceil(largest / self.micro_batch), smallest // least), 1), copies

    @torch.inference_mode()
    def _validate(self) -> tuple[float, npt.NDArray[np.int64], npt.NDArray[np.uint8] | None]:
        """Validation loss, confusion matrix (C, C), and the watched predictions (len(watch), H, W) uint8."""
        assert self.val_batches is not None
        self.scored_model.eval()
        confusion = ConfusionMatrix(self.classes, ignore_index=self.ignore_index, device=self.device)
        total = torch.zeros((), device=self.device)
        weight = torch.zeros((), device=self.device)
        watched: dict[int, npt.NDArray[np.uint8]] = {}
        first = 0
        for images, masks in self.val_batches:
            masks = masks.to(self.device, non_blocking=True).long()
            share = self.loss.share(masks)
            weight += share
            mine = _slices(len(masks), self.team.size)[self.team.rank]
            images = images[mine].to(self.device, non_blocking=True)
            start, first = first, first + mine.start
            for part, truth in zip(self._micro(images), self._micro(masks[mine]), strict=True):
                with self._autocast():
                    logits = self._logits(part)
                total += self.loss.part(logits, truth, masks) * share
                prediction = logits.argmax(dim=1)  # (N, H, W)
                if self.originals is None:
                    confusion.add(truth, prediction)
                else:
                    self._score_originals(confusion, logits, first)
                for index in self.watch:
                    if first <= index < first + len(truth):
                        watched[index] = prediction[index - first].to(torch.uint8).cpu().numpy()
                first += len(truth)
                self.alive()
            first = start + len(masks)
        self.team.sum(total)
        self.team.sum(confusion.counts)
        pictures = np.stack([watched[index] for index in self.watch]) if self.watch else None
        return float(total / weight.clamp_min(1e-12)), confusion.numpy(), pictures

    def _logits(self, images: Tensor) -> Tensor:
        """As predictions are made: of the whole images, or of overlapping windows."""
        if not self.config.tiled_inference:
            logits: Tensor = self.scored_model(images)
            return logits
        assert self.config.window is not None
        return window_logits(self.scored_model, images, crop=self.config.window, overlap=self.config.tile_overlap)

    def _score_originals(self, confusion: ConfusionMatrix, logits: Tensor, first: int) -> None:
        """Count logits (N, C, H, W) of the validation images from ``first`` on at the sizes of their files."""
        assert self.originals is not None
        for index, one in enumerate(logits, start=first):
            truth = torch.from_numpy(self.originals[index].copy()).to(self.device)  # (H0, W0)
            confusion.add(truth, resized_labels(one, (truth.shape[0], truth.shape[1])))

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)

    def _micro(self, batch: Tensor) -> list[Tensor]:
        """Micro-batches of nearly equal size; none of a batch that is empty."""
        parts = min(math.ceil(len(batch) / self.micro_batch), len(batch) // self.config.smallest_batch)
        return list(batch.tensor_split(max(parts, 1))) if len(batch) else []

    def _meet(self) -> None:
        """Let all members begin with the first one's weights.

        Raises:
            RuntimeError: a member read another checkpoint than the others.
        """
        mine = torch.tensor(float(self.epoch), device=self.device)
        if self.team.sum(mine.clone()) != mine * self.team.size:
            raise RuntimeError(f"{self.folder}: the members of a team must all see the same checkpoint there")
        self.team.spread(self.model.state_dict().values())
        if self.average is not None:
            self.team.spread(self.average.model.state_dict().values())

    def _share_statistics(self) -> None:
        """Give all members the first one's running statistics, as torch's DistributedDataParallel does: norms that are
        not synchronised have each seen their own images."""
        self.team.spread(self.model.buffers())
        if self.average is not None:
            self.team.spread(self.average.model.buffers())

    # ---------------------------------------------------------------------------------------------- checkpoint, weights

    def _save(self, metrics: EpochMetrics) -> None:
        if self.folder is None or self.team.rank:
            return
        state = {
            "format": CHECKPOINT_FORMAT,
            "epoch": self.epoch,
            "updates": self.updates,
            "micro_batch": self.micro_batch,
            "outcome": self.outcome,
            "metrics": asdict(metrics),
            "best": asdict(self.best) if self.best else None,
            "curve": self._curve,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": self._rng.states,
        }
        save_checkpoint(self.folder / "last.pt", state)

    def _restore(self, path: Path) -> None:
        state = load_checkpoint(path)
        if state is None or state.get("format") != CHECKPOINT_FORMAT:
            return  # none, a damaged one, or one of another version of tunesearch: training starts anew
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.updates = state["epoch"], state["updates"]
        self.micro_batch, self.outcome = min(state["micro_batch"], self.micro_batch), state["outcome"]
        self.resumed = EpochMetrics.from_dict(state["metrics"])
        self.best = EpochMetrics.from_dict(state["best"]) if state["best"] else None
        self._curve = state["curve"]
        self._rng.states = state["rng"]
        if self.outcome == "completed" and self.epoch < self.config.epochs and not self._has_stopped_early():
            self.outcome = None  # it was complete at fewer epochs than are asked for now

    def _keep_best_weights(self) -> None:
        if self.team.rank:
            return
        # Clones, because tied weights, which share their memory, are refused by safetensors.
        weights = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in self.scored_model.state_dict().items()
        }
        if self.folder is None:
            self._best_weights = weights
        else:
            write_atomic(self.folder / "best.safetensors", lambda temporary: save_file(weights, temporary))

    def load_best(self) -> None:
        """Put the weights of the best epoch into :attr:`model`.

        Raises:
            WeightsError: their file is damaged or holds another network's.
        """
        if self._best_weights is not None:
            self.model.load_state_dict(self._best_weights)
        elif self.folder is not None and (self.folder / "best.safetensors").is_file():
            path = self.folder / "best.safetensors"
            try:
                self.model.load_state_dict(read_weights(path))
            except RuntimeError as error:
                rule = f"must hold the weights of this network: {' '.join(str(error).split())[:300]}"
                raise WeightsError(Problem(str(path), rule)) from error

    # ----------------------------------------------------------------------------------------------- what was applied

    def effective(self) -> dict[str, Any]:
        """The configuration as read back from the built objects, not from the request. Plain data."""
        model, groups = self.model, self.optimizer.param_groups
        parameters = list(model.parameters())
        freezing = model.freezing
        return {
            "network": type(model.network).__name__,
            "encoder": type(self.encoder).__name__ if self.encoder is not None else None,
            "parameters": sum(p.numel() for p in parameters),
            "trained_parameters": sum(p.numel() for p in parameters if p.requires_grad),
            "encoder_layers": freezing.layers if freezing else None,
            "encoder_layers_trained": freezing.trained if freezing else None,
            "dropout": sorted({m.p for m in model.modules() if isinstance(m, nn.Dropout | nn.Dropout2d)}),
            "normalisation": {
                "mean": [round(v / 255, 6) for v in model.mean.flatten().tolist()],
                "std": [round(v / 255, 6) for v in model.std.flatten().tolist()],
            },
            "optimizer": type(self.optimizer).__name__,
            "optimizer_groups": [
                {
                    "tensors": len(group["params"]),
                    **{
                        k: v
                        for k, v in group.items()
                        if k not in ("params", "lr") and isinstance(v, int | float | tuple)
                    },
                }
                for group in groups
            ],
            "lr_first": self._lr(0),
            "lr_last": self._lr(self.total_updates - 1),
            "total_updates": self.total_updates,
            "plateau": self._reaction("plateau") if self.config.schedule == "plateau" else None,
            "early_stop": self._reaction("early_stop") if self.config.early_stop_patience is not None else None,
            "grad_clip": self.grad_clip,
            "ema_decay": None if self.average is None else self.average.decay,
            "loss": self.loss.describe(),
            "micro_batch": self.micro_batch,
            **self.train_batches.describe(),
            "tiles": None if (places := tiles(self.config)) is None else [list(place) for place in places],
            "val_images": self.val_images,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type,
            "precision": str(self.dtype).removeprefix("torch."),
            "channels_last": self.channels_last,
            "threads": torch.get_num_threads(),
            "processes": self.team.size,
            "seed": torch.initial_seed() % 2**32,
        }

    def _reaction(self, name: str) -> dict[str, Any]:
        """The settings that decide at the end of an epoch, from the configuration that the decision reads."""
        return {key: value for key, value in self.config.governing().items() if key.startswith(name)}

    def rest(self) -> None:
        """End the worker processes; they start again when the next epoch needs them."""
        self.train_batches.close()
        if self.val_batches is not None:
            self.val_batches._iterator = None

    def close(self) -> None:
        """Let go of worker processes and of the device's memory."""
        self.rest()
        del self.model, self.average, self.optimizer, self.loss
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
