"""Batches of uint8: training batches shuffled and augmented by (seed, epoch, batch), validation batches in order.

The unit of work is a whole batch, described by (epoch, number, items). A worker seeds everything random from (seed,
epoch, number) before it makes one, so a batch is the same whoever makes it: in this process, in one of two workers, or
after a resume in the middle of a training.

What a training item goes through, in this order: it is one window of one showing of an image (``expansion``,
``cropping``); objects are pasted into the image (``copy_paste``); it is scaled (``scale_jitter``); the window is cut
out (``crop``); the window is augmented (``augmentation``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import albumentations
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from tunesearch.errors import InputError
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.data.augmentation import pipeline
from tunesearch.segmentation.data.cache import DecodedPart
from tunesearch.segmentation.data.copy_paste import copy_paste
from tunesearch.segmentation.data.transform_list import reseed, wrong_size
from tunesearch.segmentation.data.windows import ImageAndMask, Place, cut, five, grid, moved, random_place, scaled

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images uint8 (N, 3, H, W) in channels_last memory, RGB; masks uint8 (N, H, W). Both eight times smaller to move than
what a loss wants: the trainer converts them on its device (``masks.long()``)."""

_ORDER, _AUGMENTATION, _WINDOWS = 1, 2, 3
"""First words of the seeds: without them the seeds (seed, epoch) and (seed, epoch, 0) would be the same to NumPy."""


class TrainLoader:
    """Batches of a training, epoch by epoch. Epochs may be asked for in any order and left unfinished.

    Every epoch shows every window of every image ``expansion`` times, in its own order. The last batch is smaller where
    the batch size does not divide the number of windows; if it had a single one, and there are other batches, it is
    left out, because batch norm cannot normalise one value per channel.

    Attributes:
        batch_size: windows per batch.
        size: (height, width) of the batches: of the windows, where there are any.
        augmentation: the last of what is done to a window; None: nothing is.
    """

    def __init__(
        self, part: DecodedPart, config: TrainConfig, *, background: int | None = 0, workers: int, pin_memory: bool
    ) -> None:
        batches = _Batches(part, config, background)
        self._plan = _Plan(batches.items, config.batch_size, config.seed)
        self._batches = batches
        self.batch_size = config.batch_size
        self.size = batches.size
        self.augmentation = batches.transform
        self._loader = BatchLoader(batches, self._plan, workers=workers, pin_memory=pin_memory)

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._plan)

    @property
    def images(self) -> int:
        """Images per epoch, each window of each showing counted as one."""
        return self._plan.items

    def describe(self) -> dict[str, Any]:
        """What was built, as plain data.

        ``windows`` are the upper left corners (top, left) of the windows of every image; None: the image is one window,
        or has one anywhere.
        """
        made = self._batches
        return {
            "batch_size": self.batch_size,
            "size": {"width": made.whole[1], "height": made.whole[0]},
            "window": {"width": made.size[1], "height": made.size[0]},
            "windows": None if made.windows is None else [list(place) for place in made.windows],
            "train_images": self.images,
            "scale_jitter": made.scale_jitter,
            "copy_paste": made.copy_paste,
            "augmentation": made.transform.to_dict()["transform"] if made.transform is not None else None,
        }

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of epoch ``number`` (0 or above): always the same ones for the same number."""
        self._plan.epoch = number
        yield from self._loader

    def stop_workers(self) -> None:
        """End the worker processes; they start again when they are needed."""
        self._loader.stop_workers()


def train_loader(
    part: DecodedPart,
    config: TrainConfig,
    *,
    background: int | None = 0,
    workers: int = 0,
    pin_memory: bool = False,
) -> TrainLoader:
    """Batches of ``part``, shuffled, cut and augmented as ``config`` says.

    Args:
        part: at the size that images are resized to.
        config: what is trained.
        background: class that ``copy_paste`` takes for no object; None: there is none.
        workers: processes that make batches, kept over the epochs; 0: this one does. Never changes the result.
        pin_memory: put batches into page-locked memory, for a copy to CUDA that does not wait.

    Raises:
        InputError: a list of transforms of the user's own that cannot be used.
    """
    return TrainLoader(part, config, background=background, workers=workers, pin_memory=pin_memory)


def val_loader(part: DecodedPart, batch_size: int, *, workers: int = 0, pin_memory: bool = False) -> BatchLoader:
    """Batches of ``part`` in its own order, whole and not augmented; ``len`` gives their number."""
    chunks = [
        (0, number, range(start, min(start + batch_size, len(part))))
        for number, start in enumerate(range(0, len(part), batch_size))
    ]
    return BatchLoader(_Whole(part), chunks, workers=workers, pin_memory=pin_memory)


Item = tuple[int, int, Sequence[int]]
"""Epoch, number of the batch in it, and what is in it: images, or windows of showings of images."""


class _Plan:
    """Which items make which batch of ``epoch``. Lives in the process that asks; workers only see its answers."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.epoch = 0
        # The last batch must not be a single image; if it is the only batch, or all are single, there is no choice.
        lonely = count % batch_size == 1 and 1 < batch_size < count
        self.items = count - 1 if lonely else count

    def __len__(self) -> int:
        return -(-self.items // self.batch_size)

    def __iter__(self) -> Iterator[Item]:
        epoch = self.epoch
        order = np.random.default_rng([_ORDER, self.seed, epoch]).permutation(self.count)[: self.items]
        for number in range(len(self)):
            yield epoch, number, order[number * self.batch_size : (number + 1) * self.batch_size].tolist()


class _Whole(Dataset[Batch]):
    """Makes a batch of whole images as they are."""

    def __init__(self, part: DecodedPart) -> None:
        self.part = part

    def __getitem__(self, item: Item) -> Batch:
        chosen = list(item[2])
        return _tensors(self.part.images[chosen], self.part.masks[chosen])


class _Batches(_Whole):
    """Makes a training batch from its description.

    Item number i is window i % w of showing i // w, and showing s is of image s % n, where there are n images with w
    windows each.
    """

    def __init__(self, part: DecodedPart, config: TrainConfig, background: int | None = 0) -> None:
        super().__init__(part)
        self.seed = config.seed
        self.background = background
        self.whole = (int(part.masks.shape[1]), int(part.masks.shape[2]))
        self.size = (config.window.height, config.window.width) if config.window else self.whole
        self.windows: list[Place] | None = None
        if config.crop and config.cropping == "five":
            self.windows = five(self.whole, self.size)
        elif config.crop and config.cropping == "grid":
            self.windows = grid(self.whole, self.size, config.tile_overlap)
        self.per_showing = len(self.windows) if self.windows else 1
        self.items = len(part) * config.expansion * self.per_showing
        self.scale_jitter = config.scale_jitter
        self.copy_paste = config.copy_paste
        self.transform: albumentations.Compose | None = pipeline(config)
        self.cuts = config.crop is not None or config.scale_jitter > 0

    def __getitem__(self, item: Item) -> Batch:
        epoch, number, items = item
        if not (self.transform or self.cuts or self.copy_paste):
            return super().__getitem__((epoch, number, [one % len(self.part) for one in items]))
        rng = np.random.default_rng([_WINDOWS, self.seed, epoch, number])
        if self.transform is not None:
            reseed(self.transform, [_AUGMENTATION, self.seed, epoch, number])
        all_images, all_masks = self.part.images, self.part.masks
        images = np.empty((len(items), *self.size, 3), np.uint8)
        masks = np.empty((len(items), *self.size), np.uint8)
        for place, one in enumerate(items):
            showing, window = divmod(one, self.per_showing)
            index = showing % len(self.part)
            shown = all_images[index], all_masks[index]
            if self.copy_paste and len(self.part) > 1 and rng.random() < self.copy_paste:
                other = (index + 1 + int(rng.integers(len(self.part) - 1))) % len(self.part)
                shown = copy_paste(*shown, all_images[other], all_masks[other], rng, background=self.background)
            if self.cuts:
                shown = self._cut(shown, window, rng)
            if self.transform is not None:
                shown = _augmented(self.transform, shown)
            images[place], masks[place] = shown
        return _tensors(images, masks)

    def _cut(self, shown: ImageAndMask, window: int, rng: np.random.Generator) -> ImageAndMask:
        if self.scale_jitter:
            shown = scaled(*shown, float(rng.uniform(1 - self.scale_jitter, 1 + self.scale_jitter)))
        size = (shown[1].shape[0], shown[1].shape[1])
        if self.windows is None:
            place = random_place(size, self.size, rng)
        else:
            place = moved(self.windows[window], self.whole, size, self.size)
        return cut(*shown, place, self.size)


class BatchLoader:
    """torch's DataLoader over whole batches, in one order or another; iterating gives an epoch.

    Attributes:
        dataset: makes a batch from its description.
    """

    def __init__(self, dataset: _Whole, plan: Any, *, workers: int, pin_memory: bool) -> None:
        self.dataset = dataset
        self._plan = plan
        self._workers = workers
        self._pin_memory = pin_memory
        self._torch: DataLoader[Batch] | None = None
        if workers == 0:
            _one_thread(0)

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        if self._torch is None:
            self._torch = DataLoader(
                self.dataset,
                sampler=self._plan,
                batch_size=None,
                num_workers=self._workers,
                persistent_workers=self._workers > 0,
                pin_memory=self._pin_memory,
                worker_init_fn=_one_thread,
                generator=torch.Generator(),  # its own: the global one belongs to initial weights and dropout
            )
        return iter(self._torch)

    def stop_workers(self) -> None:
        """End the worker processes, which live as long as torch's loader; they start again when they are needed."""
        self._torch = None


def _augmented(transform: albumentations.Compose, shown: ImageAndMask) -> ImageAndMask:
    image, mask = shown
    made = transform(image=image, mask=mask)
    if made["mask"].shape != mask.shape:
        raise InputError(wrong_size(made["mask"], mask))
    return made["image"], made["mask"]


def _tensors(images: NDArray[np.uint8], masks: NDArray[np.uint8]) -> Batch:
    # (N, H, W, 3) in memory seen as (N, 3, H, W) is what torch calls channels_last: no copy.
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)


def _one_thread(_: int) -> None:
    """Keep OpenCV from starting threads of its own in every worker, where they only get in each other's way."""
    cv2.setNumThreads(0)
