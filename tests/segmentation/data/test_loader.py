"""Batches. Oracles: ids written into the pixels; slices; the same batch made by other processes."""

from __future__ import annotations

import pickle
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tunesearch.errors import InputError
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
    return TrainConfig.model_validate(
        {"architecture": "unet_small", "batch_size": 4, "augmentation_strength": 0.0, **fields}
    )


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
    loader.stop_workers()
    original = torch.from_numpy(one.images[0]).permute(2, 0, 1)
    changed = [item for item in images if not torch.equal(item, original) and not torch.equal(item, original.flip(2))]
    assert len(changed) > 15
    assert len({image.numpy().tobytes() for image in changed}) == len(changed)


FEATURES: list[dict[str, Any]] = [
    {},
    {"augmentation_strength": 0.7},
    {"augmentation": "report_c"},
    {"augmentation": [{"Rotate": {"p": 0.9}}, {"OneOf": {"transforms": [{"Blur": {}}, {"ColorJitter": {}}]}}]},
    {"expansion": 3},
    {"scale_jitter": 0.5},
    {"copy_paste": 0.7},
    {"crop": "16x16"},
    {"crop": "16x16", "cropping": "five"},
    {"crop": "32x16", "cropping": "grid"},
    {
        "crop": "24x16",
        "cropping": "five",
        "scale_jitter": 0.4,
        "copy_paste": 0.5,
        "expansion": 2,
        "augmentation_strength": 0.5,
    },
]


@pytest.mark.parametrize("fields", FEATURES, ids=lambda fields: "-".join(fields) or "plain")
def test_workers_never_change_the_result(fields: dict[str, Any]) -> None:
    fields = {"size": "48x32", **fields}
    alone = train_loader(part(), config(**fields))
    helped = train_loader(part(), config(**fields), workers=2)
    try:
        for epoch in (0, 1, 5):
            assert same(list(alone.epoch(epoch)), list(helped.epoch(epoch)))
        first = next(iter(helped.epoch(2)))  # an epoch that is left unfinished
        assert same([first], [next(iter(alone.epoch(2)))])
        assert same(list(alone.epoch(3)), list(helped.epoch(3)))
    finally:
        helped.stop_workers()


@pytest.mark.parametrize("fields", FEATURES[1:], ids="-".join)
def test_what_is_random_is_new_in_every_epoch_and_for_every_seed(fields: dict[str, Any]) -> None:
    fields = {"size": "48x32", "batch_size": 1, **fields}
    one, other = train_loader(part(), config(**fields)), train_loader(part(), config(seed=1, **fields))
    epochs = [
        [image.numpy().tobytes() for image, _ in loader.epoch(n)] for loader, n in ((one, 0), (one, 1), (other, 0))
    ]
    if set(fields) <= {"size", "batch_size", "expansion", "crop", "cropping"} and fields.get("cropping", "") != "":
        assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)  # fixed windows, in another order
    elif "expansion" not in fields or "crop" in fields:
        assert all(sorted(epoch) != sorted(epochs[0]) for epoch in epochs[1:])
    assert all(epoch != epochs[0] for epoch in epochs[1:])


def test_global_random_numbers_are_left_alone() -> None:
    # Else dropout and initial weights would depend on the number of workers.
    torch.manual_seed(0)
    np.random.seed(0)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    list(train_loader(part(), config(augmentation_strength=1.0, scale_jitter=0.5, copy_paste=0.5)).epoch(0))
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.random.get_state()[1].tolist() == numpy_before


def test_opencv_starts_no_threads() -> None:
    cv2.setNumThreads(2)
    train_loader(part(), config())
    assert cv2.getNumThreads() == 1


def test_expansion_shows_every_image_that_often_mixed_over_the_epoch() -> None:
    loader = train_loader(part(), config(expansion=3))
    assert (loader.images, len(loader)) == (30, 8)
    shown = [number for batch in numbers(loader, 0) for number in batch]
    assert sorted(shown) == sorted([*range(10)] * 3)
    assert sorted(shown[:10]) != list(range(10))  # not one pass behind the other


def test_showings_are_augmented_anew() -> None:
    loader = train_loader(part(2), config(expansion=20, augmentation_strength=1.0))
    images = [image.numpy().tobytes() for batch, _ in loader.epoch(0) for image in batch]
    assert len(images) == 40
    assert len(set(images)) > 30


def windows_shown(loader: TrainLoader) -> list[tuple[bytes, bytes]]:
    return sorted(
        (image.permute(1, 2, 0).contiguous().numpy().tobytes(), mask.numpy().tobytes())
        for images, masks in loader.epoch(0)
        for image, mask in zip(images, masks, strict=True)
    )


def slices(given: DecodedPart, places: list[tuple[int, int]], height: int, width: int) -> list[tuple[bytes, bytes]]:
    return sorted(
        (
            given.images[number, top : top + height, left : left + width].tobytes(),
            given.masks[number, top : top + height, left : left + width].tobytes(),
        )
        for number in range(len(given))
        for top, left in places
    )


def test_five_windows_are_the_corners_and_the_centre() -> None:
    given = part()
    loader = train_loader(given, config(crop="20x16", cropping="five"))
    assert (loader.size, loader.images, len(loader)) == ((16, 20), 50, 13)
    assert windows_shown(loader) == slices(given, [(0, 0), (0, 28), (16, 0), (16, 28), (8, 14)], 16, 20)


def test_the_windows_of_a_grid_cover_the_image() -> None:
    # A quarter of 20 is 5: steps of 15 to 28 = 48 - 20; a quarter of 16 is 4: steps of 12 to 16 = 32 - 16.
    given = part()
    loader = train_loader(given, config(crop="20x16", cropping="grid"))
    places = [(top, left) for top in (0, 12, 16) for left in (0, 15, 28)]
    assert loader.images == 90
    assert loader.describe()["windows"] == [list(place) for place in places]
    assert windows_shown(loader) == slices(given, places, 16, 20)


def test_a_random_window_is_any_of_the_image_and_one_per_showing() -> None:
    given = part(3)
    given.images[:, :, :, 0] = np.arange(32)[:, None]
    given.images[:, :, :, 1] = np.arange(48)
    given.masks[:] = np.arange(32)[:, None]
    loader = train_loader(given, config(crop="32x24", expansion=100, batch_size=300))
    assert loader.images == 300
    [(images, masks)] = list(loader.epoch(0))
    assert images.shape == (300, 3, 24, 32)
    tops, lefts = images[:, 0, 0, 0], images[:, 1, 0, 0]
    assert (sorted(set(tops.tolist())), sorted(set(lefts.tolist()))) == (list(range(9)), list(range(17)))
    assert torch.equal(images[:, 0], masks)
    assert torch.equal(images[:, 1, 0], lefts[:, None] + torch.arange(32, dtype=torch.uint8))


def test_a_picture_that_is_scaled_down_is_padded_with_void() -> None:
    given = part()
    loader = train_loader(given, config(scale_jitter=0.5, expansion=10, batch_size=10))
    shares = []
    for images, masks in loader.epoch(0):
        assert images.shape == (10, 3, 32, 48)
        for image, mask in zip(images, masks, strict=True):
            inside = mask != 255
            rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
            box = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert box.all()  # one rectangle with one label
            assert len(mask[inside].unique()) == 1
            shares.append(len(rows) / 32)
            assert abs(len(rows) / 32 - len(columns) / 48) < 0.03  # width and height by the same factor
            assert image.float().std() > 0  # the border is the picture, mirrored
    assert min(shares) < 0.6
    # Below 1 in half of the cases; above, the whole picture is filled: binomial(100, 1/2), deviation 5.
    assert 30 < sum(share < 1 for share in shares) < 70


def test_scaled_pictures_keep_their_masks() -> None:
    """Every picture is its own mask, so that the mask says where the picture is bright."""
    given = part(4)
    given.masks[:] = np.random.default_rng(0).integers(0, 2, (4, 4, 6), np.uint8).repeat(8, 1).repeat(8, 2)
    given.images[:] = given.masks[..., None] * 200
    for images, masks in train_loader(given, config(scale_jitter=0.5, expansion=10, crop="32x24")).epoch(0):
        labelled = masks != 255
        wrong = ((images[:, 0] > 100) != (masks == 1)) & labelled
        assert wrong.float().mean() < 0.03  # of a mask that is one pixel beside its picture, a tenth would be


def test_corners_stay_corners_when_a_picture_is_scaled() -> None:
    given = part(1)
    given.masks[0, :2, :2], given.masks[0, -2:, -2:] = 7, 8
    loader = train_loader(given, config(scale_jitter=0.3, crop="16x16", cropping="five", expansion=10, batch_size=1))
    seen = [(int(masks[0, 0, 0]), int(masks[0, -1, -1])) for _, masks in loader.epoch(0)]
    assert sum(first == 7 for first, _ in seen) == 10
    assert sum(last == 8 for _, last in seen) == 10


def test_pasted_pixels_come_from_another_image_with_their_labels() -> None:
    # Image i is grey 10 i + label, so every pixel tells where it comes from.
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 4, (6, 4, 6), np.uint8).repeat(8, 1).repeat(8, 2)
    masks[:, :8] = 255
    numbers_ = np.arange(6, dtype=np.uint8)[:, None, None]
    images = np.repeat((10 * numbers_ + np.where(masks == 255, 9, masks))[..., None], 3, axis=3).astype(np.uint8)
    given = DecodedPart(images, masks, tuple("abcdef"))
    nearest = 3  # labels are cut out sharply, the picture is interpolated where it is scaled: 10 i + 0..9 stays i
    for background in (0, None):
        loader = train_loader(given, config(copy_paste=1.0, batch_size=1, expansion=5), background=background)
        pasted_labels: set[int] = set()
        for (image, mask), (_, _, [item]) in zip(loader.epoch(0), _with_epoch(loader, 0), strict=True):
            own = item % 6
            source = image[0, 0].numpy() // 10
            other = source != own
            labels = mask[0].numpy()
            assert np.array_equal(labels[~other], masks[own][~other])  # elsewhere nothing changed
            assert np.array_equal(image[0].permute(1, 2, 0).numpy()[~other], images[own][~other])
            assert len(np.unique(source[other])) <= 1  # from one other image
            assert 255 not in labels[other]
            pasted_labels |= set(np.unique(labels[other]).tolist())
            shown = image[0, 0].numpy()[other].astype(int) % 10
            assert (np.abs(shown - labels[other]) <= nearest).mean() > 0.9
        assert pasted_labels == ({1, 2, 3} if background == 0 else {0, 1, 2, 3})
    assert np.array_equal(given.masks, masks)


def _with_epoch(loader: TrainLoader, number: int) -> list[Any]:
    loader._plan.epoch = number
    return list(loader._plan)


def test_objects_are_pasted_as_often_as_asked() -> None:
    given = part(40)
    given.masks[:] = 1
    loader = train_loader(given, config(copy_paste=0.3, expansion=5, batch_size=1))
    items = _with_epoch(loader, 0)
    changed = sum(
        not np.array_equal(images[0].permute(1, 2, 0).numpy(), given.images[item % 40])
        for (images, _), (_, _, [item]) in zip(loader.epoch(0), items, strict=True)
    )
    assert 40 < changed < 80  # binomial(200, 0.3): mean 60, deviation 6.5


def test_a_single_image_has_none_to_paste_from() -> None:
    given = part(1)
    [(images, _)] = list(train_loader(given, config(copy_paste=1.0)).epoch(0))
    assert np.array_equal(images[0].permute(1, 2, 0).numpy(), given.images[0])


@pytest.mark.parametrize("fields", FEATURES, ids=lambda fields: "-".join(fields) or "plain")
def test_background_is_never_made_up(fields: dict[str, Any]) -> None:
    given = part()
    given.masks[:] = np.random.default_rng(0).integers(1, 4, (10, 4, 6), np.uint8).repeat(8, 1).repeat(8, 2)
    given.masks[:, 16:24] = 255
    for _, masks in train_loader(given, config(size="48x32", **fields)).epoch(0):
        assert set(masks.unique().tolist()) <= {1, 2, 3, 255}
        assert 255 in masks.unique()


def test_a_part_of_some_rows_is_read_by_them() -> None:
    whole = part()
    some = whole.subset([7, 2, 5])
    copied = DecodedPart(whole.images[[7, 2, 5]], whole.masks[[7, 2, 5]], ("7", "2", "5"))
    for fields in FEATURES:
        loaders = [train_loader(one, config(**{"size": "48x32", **fields})) for one in (some, copied)]
        assert same(*(list(loader.epoch(0)) for loader in loaders))
    assert same(list(val_loader(some, 2)), list(val_loader(copied, 2)))


def test_a_pipeline_that_gives_back_another_size_is_told() -> None:
    # The trial at the start has seen the size of the configuration.
    items = [{"RandomCrop": {"height": 32, "width": 32}}]
    loader = train_loader(part(), config(size="32x32", augmentation=items))
    with pytest.raises(InputError, match="must give back the size that is trained on, 48x32, but got 32x32"):
        list(loader.epoch(0))


def test_a_list_that_cannot_be_used_is_told_at_the_start() -> None:
    with pytest.raises(InputError, match="did you mean 'Rotate'"):
        train_loader(part(), config(augmentation=[{"Rotatee": {}}]))


def test_what_was_built_can_be_read() -> None:
    fields = {"size": "48x32", "crop": "16x24", "cropping": "five", "scale_jitter": 0.2, "copy_paste": 0.1}
    told = train_loader(part(), config(**fields, expansion=2)).describe()
    assert told == {
        "batch_size": 4,
        "size": {"width": 48, "height": 32},
        "window": {"width": 16, "height": 24},
        "windows": [[0, 0], [0, 32], [8, 0], [8, 32], [4, 16]],
        "train_images": 100,
        "scale_jitter": 0.2,
        "copy_paste": 0.1,
        "augmentation": None,
    }


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
