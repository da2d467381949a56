"""Predictor: masks for pictures of any size, each as large as its picture, by one network or by an ensemble."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tunesearch.errors import InputError, Problem
from tunesearch.production.model import Model
from tunesearch.production.prediction.stack import Stack
from tunesearch.segmentation.config import ClassSpec, Size
from tunesearch.segmentation.data.images import Pixels
from tunesearch.segmentation.data.resize import resize_image
from tunesearch.segmentation.device import pick_device, pick_precision
from tunesearch.segmentation.inference import Network, resized_rows, trained_scores, window_bands, with_flips

_LARGEST_SCALE = 16.0
_LARGEST_SIDE = 2**16
"""Pixels, behind ``scale``."""


@dataclass(frozen=True)
class Prepared:
    """A picture as the networks want it.

    Attributes:
        size: (H, W) of the picture itself.
        resized: uint8 (h, w, 3) by what it was resized to.
    """

    size: tuple[int, int]
    resized: dict[str, Pixels]


class Predictor:
    """Masks of pictures, each as large as its picture.

    A picture is resized to the size that a network was trained at, seen whole or in windows as the network was
    validated, and its scores are resized back before the best class is chosen. With ``scale`` it is resized by that
    factor instead and seen in windows of the size that the network was trained at, blended, in bounded memory. Several
    networks: the mean of their class probabilities, or what ``stack`` makes of them.

    Args:
        models: of the same classes, in the same order.
        stack: fitted to these models; None: the mean.
        scale: factor that pictures are resized by to be seen in windows; None: as validated.
        flip: average the probabilities of each network over the picture and its mirror image.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.

    Raises:
        InputError: classes that differ; a stack of other models; a scale beyond reason.

    Attributes:
        classes: of the masks.
        batch: pictures that should be labelled at once.
    """

    def __init__(
        self,
        models: Sequence[Model],
        *,
        stack: Stack | None = None,
        scale: float | None = None,
        flip: bool = False,
        device: str = "auto",
    ) -> None:
        require_same_classes(models)
        if scale is not None and not 0 < scale <= _LARGEST_SCALE:
            rule = f"must be more than 0 and at most {_LARGEST_SCALE:g}"
            raise InputError(Problem("--scale", rule, value=f"{scale:g}"))
        self.classes: tuple[ClassSpec, ...] = models[0].classes
        self.scale = scale
        self.device = pick_device(device)
        self.members = [_Member(model, self.device, flip=flip) for model in models]
        self.batch = 1 if scale is not None else min(member.batch for member in self.members)
        self.stack = None
        if stack is not None:
            self.stack = stack.ordered([model.fingerprint for model in models]).to(self.device)

    def prepare(self, image: Pixels) -> Prepared:
        """A picture uint8 (H, W, 3), resized for every network. Any thread may do this.

        Raises:
            InputError: ``scale`` makes it too large.
        """
        size = (image.shape[0], image.shape[1])
        if self.scale is None:
            sizes = {str(member.model.config.size): member.model.config.size for member in self.members}
            return Prepared(size, {name: resize_image(image, wanted) for name, wanted in sizes.items()})
        if self.scale == 1.0:
            return Prepared(size, {"": image})
        height, width = (max(1, round(self.scale * side)) for side in size)
        if max(height, width) > _LARGEST_SIDE:
            rule = f"must leave pictures at most {_LARGEST_SIDE} pixels wide and high"
            raise InputError(Problem("--scale", rule, value=f"{width}x{height}"))
        return Prepared(size, {"": resize_image(image, Size.model_construct(width=width, height=height))})

    def mask(self, image: Pixels) -> Pixels:
        """The mask uint8 (H, W) of one picture uint8 (H, W, 3)."""
        return next(self.masks([self.prepare(image)]))

    @torch.inference_mode()
    def masks(self, batch: Sequence[Prepared]) -> Iterator[Pixels]:
        """The masks uint8 (H, W) of class indices, in the order of the pictures."""
        for picture in self.bands(batch):
            rows = [self._combined(scores).max(dim=0).indices.to(torch.uint8).cpu() for scores in picture]
            yield np.asarray(torch.cat(rows).numpy(), np.uint8)

    def bands(self, batch: Sequence[Prepared]) -> Iterator[Iterator[list[Tensor]]]:
        """For each picture bands of rows from top to bottom: the scores float32 (C, n, W) of each network.

        Scores are logits or anything else that differs from them by a constant per pixel. Autograd is the caller's.
        """
        if self.scale is None:
            whole = [member.whole(batch) for member in self.members]  # (N, C, h, w) each
            for index, prepared in enumerate(batch):
                scores = [one[index] for one in whole]
                yield _together([resized_rows([one], _size(one), prepared.size) for one in scores])
        else:
            for prepared in batch:
                image = torch.from_numpy(prepared.resized[""]).permute(2, 0, 1).to(self.device)
                streams = [member.windows(image) for member in self.members]
                yield _together([resized_rows(stream, _size(image), prepared.size) for stream in streams])

    def _combined(self, scores: list[Tensor]) -> Tensor:
        if self.stack is not None:
            return self.stack.scores(scores)
        if len(scores) == 1:
            return scores[0]
        total = scores[0].softmax(dim=0)
        for other in scores[1:]:
            total += other.softmax(dim=0)
        return total


class _Member:
    """One network on its device, and how it looks at pictures."""

    def __init__(self, model: Model, device: torch.device, *, flip: bool) -> None:
        self.model = model
        self.device = device
        self.dtype = pick_precision(model.config, device)
        network = model.network.eval().to(device)
        if device.type != "mps":
            network = network.to(memory_format=torch.channels_last)
        self.network: Network = with_flips(self._run) if flip else self._run
        self._module = network
        config = model.config
        self.batch = min(config.micro_batch or config.batch_size, config.batch_size)

    def _run(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            scores: Tensor = self._module(images)
        return scores

    def whole(self, batch: Sequence[Prepared]) -> Tensor:
        """Scores (N, C, h, w) at the size that the network was trained at."""
        config = self.model.config
        images = np.stack([prepared.resized[str(config.size)] for prepared in batch])
        return trained_scores(self.network, torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device), config)

    def windows(self, image: Tensor) -> Iterator[Tensor]:
        """Bands of scores (C, n, w) of an image (3, h, w) of any size."""
        config = self.model.config
        crop = config.window if config.tiled_inference and config.window is not None else config.size
        return window_bands(self.network, image, crop=crop, overlap=config.tile_overlap, batch=self.batch)


def require_same_classes(models: Sequence[Model]) -> None:
    """That several models mean the same by every label.

    Raises:
        InputError: they do not; the first difference is named.
    """
    first = models[0]
    for other in models[1:]:
        if len(other.classes) != len(first.classes):
            rule = f"models that work together need the same classes: {first.name} has {len(first.classes)}"
            raise InputError(Problem(other.name, rule, value=str(len(other.classes))))
        for index, (wanted, found) in enumerate(zip(first.classes, other.classes, strict=True)):
            if wanted.name != found.name:
                rule = (
                    f"models that work together need the same classes: class {index} of {first.name} is {wanted.name!r}"
                )
                raise InputError(Problem(other.name, rule, value=repr(found.name)))


def _together(streams: list[Iterator[Tensor]]) -> Iterator[list[Tensor]]:
    # All give bands of the same rows, because these depend on the picture's width and the classes alone.
    return (list(parts) for parts in zip(*streams, strict=True))


def _size(scores: Tensor) -> tuple[int, int]:
    return scores.shape[-2], scores.shape[-1]
