"""The named pipelines. Oracles: the identity at strength 0; an image that is its own mask, so both must move alike;
the figures of the reports; Pillow's sharpness."""

from __future__ import annotations

import pickle
import time
from typing import Any

import albumentations
import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tunesearch.segmentation.config import AUGMENTATIONS, TrainConfig
from tunesearch.segmentation.data.augmentation import NAMED, check_augmentation, pipeline
from tunesearch.segmentation.data.transform_list import reseed

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (64, 96, 3), np.uint8)
MASK = RNG.integers(0, 5, (64, 96), np.uint8)
BUSY = [name for name in AUGMENTATIONS if name != "none"]


def named(name: str, strength: float = 0.5) -> albumentations.Compose:
    config = TrainConfig.model_validate({"augmentation": name, "augmentation_strength": strength, "size": "96x64"})
    check_augmentation(config)
    made = pipeline(config)
    assert made is not None
    return made


def parts(transform: Any) -> list[Any]:
    """Names of what a pipeline is made of, groups as lists."""
    return [
        parts(item) if isinstance(item, albumentations.OneOf) else (type(item).__name__, item.p)
        for item in transform.transforms
    ]


def test_the_table_has_every_name() -> None:
    assert tuple(NAMED) == AUGMENTATIONS


def test_no_augmentation_is_none() -> None:
    assert pipeline(TrainConfig(augmentation_strength=0.0)) is None
    assert pipeline(TrainConfig(augmentation="none")) is None
    assert pipeline(TrainConfig.model_validate({"augmentation": []})) is None


@pytest.mark.parametrize("name", BUSY)
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_shapes_types_and_labels_stay(name: str, strength: float) -> None:
    transform = named(name, strength)
    image, mask = IMAGE.copy(), MASK.copy()
    image.flags.writeable = mask.flags.writeable = False  # as they come out of the cache
    reseed(transform, [1])
    changed = 0
    for _ in range(30):
        result = transform(image=image, mask=mask)
        assert (result["image"].shape, result["image"].dtype) == ((64, 96, 3), np.uint8)
        assert (result["mask"].shape, result["mask"].dtype) == ((64, 96), np.uint8)
        assert set(np.unique(result["mask"])) <= {0, 1, 2, 3, 4}  # nothing interpolated, no void made up
        changed += not np.array_equal(result["image"], image)
    assert np.array_equal(image, IMAGE)
    assert changed > 5


@pytest.mark.parametrize("name", BUSY)
def test_void_stays_void_and_is_not_made_up(name: str) -> None:
    transform = named(name, 1.0)
    for label in (255, 7):
        for _ in range(10):
            assert (transform(image=IMAGE, mask=np.full((64, 96), label, np.uint8))["mask"] == label).all()


@pytest.mark.parametrize(
    ("name", "tolerance"),
    # Pixels on edges that are interpolated in the image; a crop that is enlarged has the widest.
    [("flip", 0.0), ("standard", 0.003), ("report_c", 0.003), ("report_d", 0.006)],
)
def test_image_and_mask_move_together(name: str, tolerance: float) -> None:
    # The image is its own mask in two greys, so after any warp one threshold gives the mask back, but for single pixels
    # on the edges, where the image is interpolated.
    transform = named(name, 1.0)
    transform.transforms = transform.transforms[:2]  # flip and warp
    reseed(transform, [0])
    moved = 0
    for _ in range(60):
        mask = RNG.integers(0, 2, (4, 6), np.uint8).repeat(16, axis=0).repeat(16, axis=1)
        image = np.repeat((mask * 200)[:, :, None], 3, axis=2)
        result = transform(image=image, mask=mask)
        moved += not np.array_equal(result["mask"], mask)
        assert ((result["image"][:, :, 0] > 100) != (result["mask"] == 1)).mean() <= tolerance
    assert moved > 15


@pytest.mark.parametrize("name", BUSY)
def test_one_seed_is_one_sequence_and_pipelines_can_be_sent_to_a_process(name: str) -> None:
    transform, other = named(name), pickle.loads(pickle.dumps(named(name)))
    for seeds in ([3, 1], [3, 2]):
        reseed(transform, seeds)
        reseed(other, seeds)
        for _ in range(5):
            one, two = transform(image=IMAGE, mask=MASK), other(image=IMAGE, mask=MASK)
            assert np.array_equal(one["image"], two["image"])
            assert np.array_equal(one["mask"], two["mask"])


def test_transforms_do_not_share_their_random_numbers() -> None:
    # Compose.set_random_seed lets every transform draw the same numbers: the first image would be mirrored exactly when
    # it is turned. Independent, both happen to a quarter: binomial(400, 1/4) has mean 100, deviation 8.7.
    transform = named("standard", 1.0)
    transform.transforms = transform.transforms[:2]
    counted = albumentations.Compose(transform.transforms, save_applied_params=True)
    seen = []
    for seed in range(400):
        reseed(counted, [seed])
        applied = counted(image=IMAGE[:16, :16], mask=MASK[:16, :16])["applied_transforms"]
        seen.append({kind for kind, _ in applied})
    both = sum(names == {"HorizontalFlip", "Affine"} for names in seen)
    assert 60 < both < 140
    assert 60 < sum(names == set() for names in seen) < 140


def test_change_grows_with_strength() -> None:
    smooth = np.repeat(np.add.outer(np.arange(64), np.arange(96))[:, :, None].astype(np.uint8), 3, axis=2)
    changes = []
    for strength in (0.1, 0.5, 1.0):
        transform = named("standard", strength)
        transform.transforms = transform.transforms[1:]  # all but the flip, which is there at any strength
        reseed(transform, [0])
        results = [transform(image=smooth, mask=MASK)["image"] for _ in range(60)]
        changes.append(np.mean([np.abs(result.astype(int) - smooth).mean() for result in results]))
    assert changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("name", ["flip", "standard"])
def test_flips_half_of_the_images(name: str) -> None:
    transform = named(name, 0.001)  # too weak to move a block's labels, so only the flip shows
    reseed(transform, [0])
    mask = np.zeros((64, 96), np.uint8)
    mask[:, :40] = 1
    flipped = sum(int(transform(image=IMAGE, mask=mask)["mask"][32, 90]) for _ in range(400))
    assert 160 < flipped < 240  # binomial(400, 1/2): mean 200, deviation 10


def test_standard_is_what_it_was() -> None:
    """Numbers of version 0.1.0 at strength 0.5."""
    flip, affine, light, colour = named("standard", 0.5).transforms
    assert (flip.p, affine.p, light.p, colour.p) == (0.5, 0.5, 0.8, 0.3)
    assert affine.scale == {"x": (0.8, 1.2), "y": (0.8, 1.2)}
    assert affine.translate_percent == {"x": (-0.1, 0.1), "y": (-0.1, 0.1)}
    assert (affine.rotate, affine.border_mode, affine.keep_ratio) == ((-15, 15), cv2.BORDER_REFLECT_101, True)
    assert (light.brightness_limit, light.contrast_limit) == ((-0.2, 0.2), (-0.2, 0.2))
    assert (colour.hue_shift_limit, colour.sat_shift_limit, colour.val_shift_limit) == ((-10, 10), (-30, 30), (0, 0))


def test_report_c_early() -> None:
    transform = named("report_c_early")
    assert parts(transform) == [("Sharpen", 0.5), ("HorizontalFlip", 0.5)]


def test_report_c_early_sharpens_as_pillow_does() -> None:
    sharpen = named("report_c_early").transforms[0]
    assert sharpen.lightness == (1.0, 1.0)  # else the picture would become darker, too
    [(_, strongest)] = [sharpen.alpha]
    ours = albumentations.Sharpen(alpha=(strongest, strongest), lightness=(1.0, 1.0), method="kernel", p=1.0)
    picture = cv2.GaussianBlur(IMAGE, (5, 5), 2)  # noise would be cut off at 0 and 255
    made = ours(image=picture)["image"].astype(int)
    pillow = np.asarray(ImageEnhance.Sharpness(Image.fromarray(picture)).enhance(3.0)).astype(int)
    # Pillow rounds its smooth picture before it is doubled and leaves the border alone.
    assert np.abs(made - pillow)[1:-1, 1:-1].max() <= 2
    assert np.abs(made - picture).max() > 5


def test_report_c() -> None:
    """Report C, phase 7.4."""
    transform = named("report_c")
    assert parts(transform) == [
        ("Rotate", 0.9),
        ("HorizontalFlip", 0.5),
        ("RGBShift", 0.9),
        [("Blur", 0.5), ("ColorJitter", 0.5)],
    ]
    rotate, _, shift, one = transform.transforms
    assert (rotate.limit, rotate.border_mode) == ((-40, 40), cv2.BORDER_REFLECT_101)
    assert type(one).__name__ == "OneOf"
    assert one.p == 1.0
    assert (shift.r_shift_limit, shift.g_shift_limit, shift.b_shift_limit) == ((-25, 25),) * 3
    grey = np.full((16, 16, 3), 128, np.uint8)
    reseed(transform, [0])
    shift.p = 1.0
    shifted = np.array([shift(image=grey)["image"] for _ in range(100)]).astype(int) - 128
    assert (shifted == shifted[:, :1, :1]).all()  # the whole picture at once
    assert (shifted.min(), shifted.max()) == pytest.approx((-25, 25), abs=2)
    blur, jitter = one.transforms
    assert blur.blur_limit == (3, 3)
    assert (jitter.brightness, jitter.contrast, jitter.saturation) == ((0.8, 1.2),) * 3
    assert jitter.hue == (-0.2, 0.2)


def test_report_d() -> None:
    transform = named("report_d")
    assert parts(transform) == [("HorizontalFlip", 0.5), [("Rotate", 0.5), ("RandomResizedCrop", 0.5)]]
    one = transform.transforms[1]
    assert one.p == pytest.approx(2 / 3)
    rotate, crop = one.transforms
    assert (rotate.limit, rotate.border_mode) == ((-180, 180), cv2.BORDER_REFLECT_101)
    assert (crop.size, crop.scale, crop.ratio) == ((64, 96), (0.5, 1.0), (1.5, 1.5))


def test_report_d_fits_the_window_where_there_is_one() -> None:
    made = pipeline(TrainConfig.model_validate({"augmentation": "report_d", "size": "96x64", "crop": "32x48"}))
    assert made is not None
    assert made.transforms[1].transforms[1].size == (48, 32)


def test_it_is_cheap() -> None:
    # The budget of the design at 128x128 is 0.4 ms; ten times that still tells a second resampling from a busy machine.
    transform = named("standard", 1.0)
    image, mask = np.zeros((128, 128, 3), np.uint8), np.zeros((128, 128), np.uint8)
    start = time.perf_counter()
    for _ in range(200):
        transform(image=image, mask=mask)
    assert (time.perf_counter() - start) / 200 < 4e-3
