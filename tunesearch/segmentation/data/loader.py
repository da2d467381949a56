"""Batches of uint8: training batches shuffled and augmented by (seed, epoch, batch), validation batches in order.

The unit of work is a whole batch, described by (epoch, number, indices). A worker seeds the augmentation from (seed,
epoch, number) before it makes one, so a batch is the same whoever makes it: in this process, in one of two workers, or
after a resume in the middle of a training.
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

from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.data.augmentation import augmentation
from tunesearch.segmentation.data.cache import DecodedPart

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images uint8 (N, 3, H, W) in channels_last memory, RGB; masks uint8 (N, H, W). Both eight times smaller to move than
what a loss wants: the trainer converts them on its device (``masks.long()``)."""

_ORDER, _AUGMENTATION = 1, 2
"""First words of the seeds: without them the seeds (seed, epoch) and (seed, epoch, 0) would be the same to NumPy."""


class TrainLoader:
    """Batches of a training, epoch by epoch. Epochs may be asked for in any order and left unfinished.

    Every epoch shows every image once, in its own order. The last batch is smaller where the batch size does not divide
    the number of images; if it had a single image, and there are other batches, it is left out, because batch norm
    cannot normalise one value per channel.
    """

    def __init__(self, part: DecodedPart, config: TrainConfig, *, workers: int, pin_memory: bool) -> None:
        self._plan = _Plan(len(part), config.batch_size, config.seed)
        batches = _Batches(part, config)
        self.augmentation = batches.transform
        self.batch_size = config.batch_size
        self._loader = _torch_loader(batches, self._plan, workers=workers, pin_memory=pin_memory)

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._plan)

    @property
    def images(self) -> int:
        """Images per epoch."""
        return self._plan.images

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of epoch ``number`` (0 or above): always the same ones for the same number."""
        self._plan.epoch = number
        yield from self._loader

    def close(self) -> None:
        """End the workers; they start again when they are needed."""
        self._loader._iterator = None


def train_loader(part: DecodedPart, config: TrainConfig, *, workers: int = 0, pin_memory: bool = False) -> TrainLoader:
    """Batches of ``part``, shuffled and augmented as ``config`` says (batch_size, augmentation_strength, seed).

    Args:
        part: at the size that is trained on.
        config: what is trained.
        workers: processes that make batches, kept over the epochs; 0: this one does. Never changes the result.
        pin_memory: put batches into page-locked memory, for a copy to CUDA that does not wait.
    """
    return TrainLoader(part, config, workers=workers, pin_memory=pin_memory)


def val_loader(part: DecodedPart, batch_size: int, *, workers: int = 0, pin_memory: bool = False) -> DataLoader[Batch]:
    """Batches of ``part`` in its own order, whole and not augmented; ``len`` gives their number."""
    chunks = [
        (0, number, range(start, min(start + batch_size, len(part))))
        for number, start in enumerate(range(0, len(part), batch_size))
    ]
    return _torch_loader(_Batches(part, None), chunks, workers=workers, pin_memory=pin_memory)


Item = tuple[int, int, Sequence[int]]
"""Epoch, number of the batch in it, and the images that are in it."""


class _Plan:
    """Which images make which batch of ``epoch``. Lives in the process that asks; workers only see its items."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.epoch = 0
        # The last batch must not be a single image; if it is the only batch, or all are single, there is no choice.
        lonely = count % batch_size == 1 and 1 < batch_size < count
        self.images = count - 1 if lonely else count

    def __len__(self) -> int:
        return -(-self.images // self.batch_size)

    def __iter__(self) -> Iterator[Item]:
        epoch = self.epoch
        order = np.random.default_rng([_ORDER, self.seed, epoch]).permutation(self.count)[: self.images]
        for number in range(len(self)):
            yield epoch, number, order[number * self.batch_size : (number + 1) * self.batch_size].tolist()


class _Batches(Dataset[Batch]):
    """Makes a batch from its description."""

    def __init__(self, part: DecodedPart, config: TrainConfig | None) -> None:
        self.part = part
        self.config = config
        self.transform: albumentations.Compose | None = augmentation(config.augmentation_strength) if config else None

    def __getitem__(self, item: Item) -> Batch:
        epoch, number, indices = item
        # Plain views of the maps: indexing a memmap costs several times as much.
        all_images, all_masks = np.asarray(self.part.images), np.asarray(self.part.masks)
        if self.transform is None or self.config is None:
            images, masks = all_images[list(indices)], all_masks[list(indices)]
            return _tensors(images, masks)
        seed = np.random.SeedSequence([_AUGMENTATION, self.config.seed, epoch, number]).generate_state(1)
        self.transform.set_random_seed(int(seed[0]))
        images = np.empty((len(indices), *all_images.shape[1:]), np.uint8)
        masks = np.empty((len(indices), *all_masks.shape[1:]), np.uint8)
        for place, index in enumerate(indices):
            result = self.transform(image=all_images[index], mask=all_masks[index])
            images[place], masks[place] = result["image"], result["mask"]
        return _tensors(images, masks)


def _tensors(images: NDArray[np.uint8], masks: NDArray[np.uint8]) -> Batch:
    # (N, H, W, 3) in memory seen as (N, 3, H, W) is what torch calls channels_last: no copy.
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)


def _torch_loader(dataset: _Batches, plan: Any, *, workers: int, pin_memory: bool) -> DataLoader[Batch]:
    if workers == 0:
        _one_thread(0)
    return DataLoader(
        dataset,
        sampler=plan,
        batch_size=None,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=_one_thread,
        generator=torch.Generator(),  # its own: the global one belongs to initial weights and dropout
    )


def _one_thread(_: int) -> None:
    """Keep OpenCV from starting threads of its own in every worker, where they only get in each other's way."""
    cv2.setNumThreads(0)
