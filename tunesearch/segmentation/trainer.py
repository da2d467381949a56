"""Trainer: one training as an iterator of epochs. It knows no Ray, no Optuna and no MLflow.

Example:

    trainer = Trainer(config, train=..., val=..., classes=21)
    for metrics in trainer.epochs():
        print(metrics.epoch, metrics.val_miou)
    print(trainer.outcome)                          # completed | diverged | out_of_memory

Beside it stand validation, micro_batches (memory), state (what a checkpoint holds), best_weights and device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tunesearch.errors import InputError, Problem
from tunesearch.segmentation.averaging import WeightAverage
from tunesearch.segmentation.best_weights import BestWeights
from tunesearch.segmentation.config import VAL_METRICS, TrainConfig
from tunesearch.segmentation.data.cache import DecodedPart, OriginalMasks
from tunesearch.segmentation.data.class_weights import class_weights
from tunesearch.segmentation.data.loader import train_loader, val_loader
from tunesearch.segmentation.data.statistics import mean_and_std
from tunesearch.segmentation.device import autocast, pick_device, pick_precision
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.inference import tiles
from tunesearch.segmentation.losses import Loss, build_loss
from tunesearch.segmentation.metrics import Scores, scores
from tunesearch.segmentation.micro_batches import MicroBatches
from tunesearch.segmentation.models import SegmentationModel, build_model
from tunesearch.segmentation.optimizers import build_optimizer, describe_optimizer
from tunesearch.segmentation.schedules import lr_factor, stops_early
from tunesearch.segmentation.state import Progress, RandomState, TrainerOutcome, TrainingState
from tunesearch.segmentation.team import Team, synchronised
from tunesearch.segmentation.validation import Validated, Validation

T = TypeVar("T")

_UNKNOWN = Scores(math.nan, math.nan, math.nan, math.nan, ())
"""Of an epoch without a validation."""


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
        heartbeat: called after every batch.
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
        heartbeat: Callable[[], None] = lambda: None,
        team: Team | None = None,
    ) -> None:
        if val is None and (config.schedule == "plateau" or config.early_stop_patience is not None):
            what = "schedule plateau" if config.schedule == "plateau" else "early stopping"
            raise InputError(Problem("train", f"{what} looks at a validation, and there is none"))
        self.config, self.folder, self.monitor = config, folder, monitor
        self.background = background
        self.heartbeat = heartbeat
        self.team = team or Team()
        self.device = pick_device(device)
        self.dtype = pick_precision(config, self.device)
        self.channels_last = self.device.type != "mps"

        torch.manual_seed(config.seed)
        self.model = self._build_model(train, classes, encoder_weights)
        self.average = None if config.ema_decay is None else WeightAverage(self.model, config.ema_decay)
        self.loss = self._build_loss(train, classes, ignore_index)
        self.optimizer = build_optimizer(self.model, config, encoder=self.model.encoder)
        self.grad_clip = config.grad_clip
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)
        self.micro_batches = MicroBatches(config, self.team, self.device)

        pin = self.device.type == "cuda"
        self.train_batches = train_loader(train, config, background=background, workers=workers, pin_memory=pin)
        self.total_updates = config.epochs * len(self.train_batches)
        self.val_images = 0 if val is None else len(val)
        self.validation: Validation | None = None
        if val is not None:
            self.validation = Validation(
                val_loader(val, config.batch_size, workers=workers, pin_memory=pin),
                self.loss,
                config,
                classes=classes,
                ignore_index=ignore_index,
                originals=originals,
                watch=watch,
                micro_batches=self.micro_batches,
                team=self.team,
                device=self.device,
                dtype=self.dtype,
                heartbeat=heartbeat,
            )
        self._start()

    def _start(self) -> None:
        """Begin, or go on from the folder's checkpoint."""
        self.progress = Progress()
        self.resumed: EpochMetrics | None = None
        self.best_predictions: npt.NDArray[np.uint8] | None = None
        self.best_weights = BestWeights(self.folder)
        self.state = TrainingState(
            self.model,
            self.average,
            self.optimizer,
            self.scaler,
            RandomState(self.device),
            self.micro_batches,
            self.progress,
        )
        if self.folder is not None:
            self.resumed = self.state.restore(self.folder / "last.pt")
        if self.outcome == "completed" and self.epoch < self.config.epochs and not self._has_stopped_early():
            self.progress.outcome = None  # it was complete at fewer epochs than are asked for now
        self.state.synchronise(self.team, self.folder)

    def _build_model(self, train: DecodedPart, classes: int, encoder_weights: Path | None) -> SegmentationModel:
        model = build_model(self.config, classes, encoder_weights=encoder_weights).to(self.device)
        if self.config.normalization == "measured":
            model.normalise_by(*mean_and_std(train.images))
        if self.team.size > 1 and self.device.type == "cuda":
            model = synchronised(model)
        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    def _build_loss(self, train: DecodedPart, classes: int, ignore_index: int) -> Loss:
        weight = class_weights(self.config, train.masks, classes)
        tensor = None if weight is None else torch.from_numpy(weight).to(self.device)
        return build_loss(self.config, ignore_index=ignore_index, weight=tensor).to(self.device)

    @property
    def epoch(self) -> int:
        """Epochs that are finished."""
        return self.progress.epoch

    @property
    def updates(self) -> int:
        """Optimiser updates so far."""
        return self.progress.updates

    @property
    def outcome(self) -> TrainerOutcome | None:
        """How the training ended; None while it goes on."""
        return self.progress.outcome

    @property
    def best(self) -> EpochMetrics | None:
        """The best epoch so far, by ``monitor``."""
        return self.progress.best

    @property
    def micro_batch(self) -> int:
        """Most images that go through the network at once."""
        return self.micro_batches.size

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
            self.state.random.restore()
            start = time.perf_counter()
            train_loss = self._train_epoch(self.epoch + 1)
            if train_loss is None:
                return
            trained = time.perf_counter()
            self.state.broadcast_statistics(self.team)
            val_loss, val, predictions = math.nan, _UNKNOWN, None
            if self.validation is not None:
                validated = self._within_memory(self._validate)
                if validated is None:
                    return
                val_loss, matrix, predictions = validated
                if not math.isfinite(val_loss):
                    self.progress.outcome = "diverged"
                    return
                val = scores(matrix, background=self.background)
            self.progress.epoch += 1
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
            self.state.random.save()
            self.progress.curve.append({name: float(getattr(metrics, name)) for name in VAL_METRICS})
            if self.best is None or self.validation is None or self._score(metrics) > self._score(self.best):
                self.progress.best, self.best_predictions = metrics, predictions
                if not self.team.rank:
                    self.best_weights.keep(self.scored_model)
            if self.epoch >= self.config.epochs or self._has_stopped_early():
                self.progress.outcome = "completed"
            if self.folder is not None and not self.team.rank:
                self.state.save(self.folder / "last.pt", metrics)
            yield metrics

    def _has_stopped_early(self) -> bool:
        return stops_early(self.config, self._values("early_stop_metric"))

    def _values(self, field: str) -> list[float]:
        """The curve of the metric that the configuration's ``field`` names."""
        return [epoch[getattr(self.config, field)] for epoch in self.progress.curve]

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
            updated = self._within_memory(partial(self._update, images, masks))
            if updated is None:
                return None
            loss, batch_weight = updated
            self.heartbeat()
            self.progress.updates += 1
            total += loss * batch_weight
            weight += batch_weight
            # Reading the loss waits for the device, so it is not read at every step.
            if step % 16 == 0 or step == len(self.train_batches):
                whole = self.team.sum(total.clone())
                if not bool(torch.isfinite(whole)):
                    self.progress.outcome = "diverged"
                    return None
        return float(whole / weight.clamp_min(1e-12))

    def _lr(self, t: int) -> float:
        """The learning rate of the update after ``t`` updates, as the parameters outside the encoder have it."""
        first: float = self.optimizer.defaults["lr"]
        return first * lr_factor(self.config, t, self.total_updates, self._values("plateau_metric"))

    def _update(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """One optimiser update on a batch, in micro-batches; gives its loss (this member's part of it) and its weight
        in the epoch's mean."""
        masks = masks.to(self.device, non_blocking=True).long()
        batch_weight = self.loss.batch_weight(masks)
        mine, parts, copies = self.micro_batches.of_batch(len(masks))
        images = images[mine].to(self.device, non_blocking=True)
        total = torch.zeros((), device=self.device)
        for part, truth in zip(images.tensor_split(parts), masks[mine].tensor_split(parts), strict=True):
            with autocast(self.device, self.dtype):
                logits = self.model(part)
            loss = self.loss.contribution(logits, truth, masks) / copies
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
        return total, batch_weight

    def _within_memory(self, work: Callable[[], T]) -> T | None:
        """``work()``, with smaller micro-batches as often as memory asks; None, with an outcome, where none is left."""
        done = self.micro_batches.within_memory(work, release=partial(self.optimizer.zero_grad, set_to_none=True))
        if done is None:
            self.progress.outcome = "out_of_memory"
        return done

    def _validate(self) -> Validated:
        assert self.validation is not None
        return self.validation.run(self.scored_model)

    # --------------------------------------------------------------------------------------------- after the training

    def load_best(self) -> None:
        """Put the weights of the best epoch into :attr:`model`.

        Raises:
            WeightsError: their file is damaged or holds another network's.
        """
        self.best_weights.load_into(self.model)

    def effective(self) -> dict[str, Any]:
        """The configuration as read back from the built objects, not from the request. Plain data."""
        return {
            **self.model.describe(),
            **describe_optimizer(self.optimizer),
            "lr_first": self._lr(0),
            "lr_last": self._lr(self.total_updates - 1),
            "total_updates": self.total_updates,
            "plateau": self._settings("plateau") if self.config.schedule == "plateau" else None,
            "early_stop": self._settings("early_stop") if self.config.early_stop_patience is not None else None,
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

    def _settings(self, name: str) -> dict[str, Any]:
        """The settings that decide at the end of an epoch, from the configuration that the decision reads."""
        return {key: value for key, value in self.config.governing().items() if key.startswith(name)}

    def stop_workers(self) -> None:
        """End the worker processes; they start again when the next epoch needs them."""
        self.train_batches.stop_workers()
        if self.validation is not None:
            self.validation.batches.stop_workers()

    def close(self) -> None:
        """End the worker processes and free the device's memory. How far the training is can still be read."""
        self.stop_workers()
        del self.model, self.average, self.optimizer, self.loss, self.state, self.validation
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
