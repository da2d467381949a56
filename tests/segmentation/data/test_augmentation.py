"""Augmentation. Oracles: the identity at strength 0; an image that is its own mask, so both must move alike."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tunesearch.segmentation.data.augmentation import augmentation

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (64, 96, 3), np.uint8)
MASK = RNG.integers(0, 5, (64, 96), np.uint8)


def test_strength_zero_is_none() -> None:
    assert augmentation(0.0) is None


@pytest.mark.parametrize("strength", [0.01, 0.5, 1.0])
def test_shapes_types_and_labels_stay(strength: float) -> None:
    transform = augmentation(strength)
    assert transform is not None
    image, mask = IMAGE.copy(), MASK.copy()
    image.flags.writeable = mask.flags.writeable = False  # as they come out of the cache
    transform.set_random_seed(1)
    for _ in range(30):
        result = transform(image=image, mask=mask)
        assert (result["image"].shape, result["image"].dtype) == ((64, 96, 3), np.uint8)
        assert (result["mask"].shape, result["mask"].dtype) == ((64, 96), np.uint8)
        assert set(np.unique(result["mask"])) <= {0, 1, 2, 3, 4}  # nothing interpolated, no void made up
    assert np.array_equal(image, IMAGE)


def test_void_stays_void() -> None:
    transform = augmentation(1.0)
    assert transform is not None
    for _ in range(10):
        assert (transform(image=IMAGE, mask=np.full((64, 96), 255, np.uint8))["mask"] == 255).all()


def test_image_and_mask_move_together() -> None:
    # The image is its own mask in two greys, so after any warp one threshold gives the mask back, but for single pixels
    # on the edges, where the image is interpolated.
    transform = augmentation(1.0)
    assert transform is not None
    transform.transforms = transform.transforms[:2]  # flip and warp
    transform.set_random_seed(0)
    moved = 0
    for _ in range(60):
        mask = RNG.integers(0, 2, (4, 6), np.uint8).repeat(16, axis=0).repeat(16, axis=1)
        image = np.repeat((mask * 200)[:, :, None], 3, axis=2)
        result = transform(image=image, mask=mask)
        moved += not np.array_equal(result["mask"], mask)
        assert ((result["image"][:, :, 0] > 100) != (result["mask"] == 1)).mean() < 0.003
    assert moved > 30


def test_change_grows_with_strength() -> None:
    smooth = np.repeat(np.add.outer(np.arange(64), np.arange(96))[:, :, None].astype(np.uint8), 3, axis=2)
    changes = []
    for strength in (0.1, 0.5, 1.0):
        transform = augmentation(strength)
        assert transform is not None
        transform.transforms = transform.transforms[1:]  # all but the flip, which is there at any strength
        transform.set_random_seed(0)
        results = [transform(image=smooth, mask=MASK)["image"] for _ in range(60)]
        changes.append(np.mean([np.abs(result.astype(int) - smooth).mean() for result in results]))
    assert changes[0] < changes[1] < changes[2]


def test_flips_half_of_the_images() -> None:
    transform = augmentation(0.001)  # too weak to move a block's labels, so only the flip shows
    assert transform is not None
    transform.set_random_seed(0)
    mask = np.zeros((64, 96), np.uint8)
    mask[:, :40] = 1
    flipped = sum(int(transform(image=IMAGE, mask=mask)["mask"][32, 90]) for _ in range(400))
    assert 160 < flipped < 240  # binomial(400, 1/2): mean 200, deviation 10


def test_it_is_cheap() -> None:
    # The budget of the design at 128x128 is 0.4 ms; ten times that still tells a second resampling from a busy machine.
    transform = augmentation(1.0)
    assert transform is not None
    image, mask = np.zeros((128, 128, 3), np.uint8), np.zeros((128, 128), np.uint8)
    start = time.perf_counter()
    for _ in range(200):
        transform(image=image, mask=mask)
    assert (time.perf_counter() - start) / 200 < 4e-3
