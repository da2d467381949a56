"""Batches. Oracles: ids written into the pixels; the same batch made by other processes."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest
import torch

from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.data.cache import DecodedPart
from tunesearch.segmentation.data.loader import Batch, TrainLoader, _Batches, train_loader, val_loader


def part(count: int = 10) -> DecodedPart:
    """Image number i is grey i everywhere but for noise in its lower half; its mask is i % 3."""
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 48, 3), np.uint8)
    images[:, :16] = np.arange(count)[:, None, None, None]
    masks = np.broadcast_to((np.arange(count) % 3)[:, None, None], (count, 32, 48)).astype(np.uint8)
    return DecodedPart(images, masks, tuple(map(str, range(count))))


def config(**fields: object) -> TrainConfig:
    return TrainConfig.model_validate({"batch_size": 4, "augmentation_strength": 0.0, **fields})


def numbers(loader: TrainLoader, epoch: int) -> list[list[int]]:
    return [images[:, 0, 0, 0].tolist() for images, _ in loader.epoch(epoch)]


def same(one: list[Batch], other: list[Batch]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def test_batches_are_uint8_and_channels_last() -> None:
    images, masks = next(train_loader(part(), config(augmentation_strength=0.5)).epoch(0))
    assert (images.shape, images.dtype) == ((4, 3, 32, 48), torch.uint8)
    assert (masks.shape, masks.dtype) == ((4, 32, 48), torch.uint8)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert not images.is_contiguous()
    images += 1  # a batch is the trainer's own, and may be written to


def test_every_epoch_shows_every_image_once_in_its_own_order() -> None:
    loader = train_loader(part(), config())
    epochs = [numbers(loader, epoch) for epoch in range(3)]
    for batches in epochs:
        assert [len(batch) for batch in batches] == [4, 4, 2]
        assert sorted(number for batch in batches for number in batch) == list(range(10))
    assert epochs[0] != epochs[1] != epochs[2]
    assert numbers(loader, 0) == epochs[0]  # whatever came between
    assert numbers(train_loader(part(), config(seed=1)), 0) != epochs[0]


def test_images_and_masks_belong_together() -> None:
    for images, masks in train_loader(part(), config()).epoch(0):
        assert torch.equal(masks[:, 0, 0], images[:, 0, 0, 0] % 3)


@pytest.mark.parametrize(
    ("count", "batch_size", "expected"),
    [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (9, 4, [4, 4]), (1, 4, [1]), (3, 1, [1, 1, 1]), (3, 4, [3]), (3, 2, [2])],
)
def test_a_last_batch_of_one_image_is_left_out(count: int, batch_size: int, expected: list[int]) -> None:
    loader = train_loader(part(count), config(batch_size=batch_size))
    assert [len(batch) for batch in numbers(loader, 0)] == expected
    assert len(loader) == len(expected)
    assert loader.images == sum(expected)


def test_the_image_that_is_left_out_changes() -> None:
    loader = train_loader(part(9), config())
    assert (
        len({(set(range(9)) - {n for batch in numbers(loader, epoch) for n in batch}).pop() for epoch in range(20)}) > 3
    )


def test_augmentation_differs_in_every_batch_and_epoch() -> None:
    # One image six times: with the same random numbers in each batch, epoch or worker, results would be equal. Only
    # those that no transform but the flip has touched may be (half * a fifth * seven tenths = 7 %).
    one = part(1)
    copies = DecodedPart(one.images.repeat(6, axis=0), one.masks.repeat(6, axis=0), tuple("abcdef"))
    loader = train_loader(copies, config(batch_size=2, augmentation_strength=1.0), workers=2)
    images = [image for epoch in range(4) for batch, _ in loader.epoch(epoch) for image in batch]
    loader.close()
    original = torch.from_numpy(one.images[0]).permute(2, 0, 1)
    changed = [item for item in images if not torch.equal(item, original) and not torch.equal(item, original.flip(2))]
    assert len(changed) > 15
    assert len({image.numpy().tobytes() for image in changed}) == len(changed)


@pytest.mark.parametrize("strength", [0.0, 0.7])
def test_workers_never_change_the_result(strength: float) -> None:
    alone = train_loader(part(), config(augmentation_strength=strength))
    helped = train_loader(part(), config(augmentation_strength=strength), workers=2)
    try:
        for epoch in (0, 1, 5):
            assert same(list(alone.epoch(epoch)), list(helped.epoch(epoch)))
        first = next(iter(helped.epoch(2)))  # an epoch that is left unfinished
        assert same([first], [next(iter(alone.epoch(2)))])
        assert same(list(alone.epoch(3)), list(helped.epoch(3)))
    finally:
        helped.close()


def test_global_random_numbers_are_left_alone() -> None:
    # Else dropout and initial weights would depend on the number of workers.
    torch.manual_seed(0)
    np.random.seed(0)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    list(train_loader(part(), config(augmentation_strength=1.0)).epoch(0))
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.random.get_state()[1].tolist() == numpy_before


def test_opencv_starts_no_threads() -> None:
    cv2.setNumThreads(2)
    train_loader(part(), config())
    assert cv2.getNumThreads() == 1


def test_validation_is_in_order_and_whole() -> None:
    given = part(9)
    loader = val_loader(given, 4)
    for _ in range(2):
        batches = list(loader)
        assert [len(images) for images, _ in batches] == [4, 4, 1]
        assert len(loader) == 3
        images = torch.cat([images for images, _ in batches])
        assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), given.images)
        assert np.array_equal(torch.cat([masks for _, masks in batches]).numpy(), given.masks)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_a_loader_can_be_sent_to_a_process_that_is_started_anew() -> None:
    # Python 3.14 starts workers by pickling the data set instead of forking.
    batches = _Batches(part(), config(augmentation_strength=0.5))
    again = pickle.loads(pickle.dumps(batches))
    assert same([again[(0, 0, [1, 2])]], [batches[(0, 0, [1, 2])]])
