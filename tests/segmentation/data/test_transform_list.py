"""A list of transforms of the user's own. Oracles: albumentations itself, built by hand; and messages read by eye."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import albumentations
import cv2
import numpy as np
import pytest
from ruamel.yaml import YAML

from tunesearch.errors import InputError
from tunesearch.segmentation.config import TrainConfig
from tunesearch.segmentation.data.augmentation import check_augmentation, pipeline
from tunesearch.segmentation.data.transform_list import reseed

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (48, 64, 3), np.uint8)
MASK = RNG.integers(1, 5, (6, 8), np.uint8).repeat(8, axis=0).repeat(8, axis=1)


def config(items: Any, **fields: Any) -> TrainConfig:
    if isinstance(items, str):
        items = YAML(typ="safe").load(items)
    return TrainConfig.model_validate({"augmentation": items, "size": "64x48", **fields})


def built(items: Any) -> albumentations.Compose:
    made = pipeline(config(items))
    assert made is not None
    return made


def message(items: Any, **fields: Any) -> str:
    with pytest.raises(InputError) as caught:
        check_augmentation(config(items, **fields))
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_list_is_what_albumentations_builds_from_it() -> None:
    made = built("""
        - HorizontalFlip: {p: 0.3}
        - Rotate: {limit: 40, p: 0.9, border_mode: BORDER_REFLECT_101}
        - Affine: {scale: [0.8, 1.2], p: 0.5}
        - OneOf:
            transforms:
              - Blur: {p: 0.5}
              - Sequential: {transforms: [{ColorJitter: }, {ToGray: {p: 1.0}}]}
            p: 1.0
    """)
    by_hand = albumentations.Compose(
        [
            albumentations.HorizontalFlip(p=0.3),
            albumentations.Rotate(limit=40, p=0.9, border_mode=cv2.BORDER_REFLECT_101, fill_mask=255),
            albumentations.Affine(scale=(0.8, 1.2), p=0.5, fill_mask=255),
            albumentations.OneOf(
                [
                    albumentations.Blur(p=0.5),
                    albumentations.Sequential([albumentations.ColorJitter(), albumentations.ToGray(p=1.0)]),
                ],
                p=1.0,
            ),
        ]
    )
    assert made.to_dict()["transform"] == by_hand.to_dict()["transform"]
    for seed in range(5):
        reseed(made, [seed])
        reseed(by_hand, [seed])
        one, two = made(image=IMAGE, mask=MASK), by_hand(image=IMAGE, mask=MASK)
        assert np.array_equal(one["image"], two["image"])
        assert np.array_equal(one["mask"], two["mask"])


@pytest.mark.parametrize(
    "item",
    [
        {"Rotate": {"limit": [45, 45], "p": 1.0}},
        {"Affine": {"translate_percent": [0.3, 0.3], "p": 1.0}},
        {"Perspective": {"scale": [0.2, 0.2], "fit_output": True, "p": 1.0}},
        {"ShiftScaleRotate": {"p": 1.0}},
        {"GridDistortion": {"distort_limit": [0.5, 0.5], "p": 1.0}},
        {"SomeOf": {"transforms": [{"SafeRotate": {"p": 1.0}}], "n": 1}},
    ],
    ids=lambda item: next(iter(item)),
)
def test_borders_that_come_in_are_void_never_background(item: dict[str, Any]) -> None:
    made = built([item])
    reseed(made, [0])
    labels = {int(label) for _ in range(10) for label in np.unique(made(image=IMAGE, mask=MASK)["mask"])}
    assert 255 in labels
    assert labels <= {1, 2, 3, 4, 255}  # and the mask is not mixed


def test_what_the_user_says_about_borders_holds() -> None:
    made = built([{"Rotate": {"limit": [45, 45], "p": 1.0, "fill_mask": 0}}])
    assert set(np.unique(made(image=IMAGE, mask=MASK)["mask"])) == {0, 1, 2, 3, 4}


def test_holes_keep_their_labels_as_in_the_library() -> None:
    """Cutout (DeVries and Taylor, 2017): the labels of what is hidden stay."""
    made = built([{"CoarseDropout": {"p": 1.0}}])
    result = made(image=IMAGE, mask=MASK)
    assert np.array_equal(result["mask"], MASK)
    assert not np.array_equal(result["image"], IMAGE)


def test_resized_masks_take_the_label_under_the_centre() -> None:
    made = built([{"RandomScale": {"scale_limit": [1.0, 1.0], "p": 1.0}}, {"Resize": {"width": 64, "height": 48}}])
    assert made.transforms[0].mask_interpolation == cv2.INTER_NEAREST_EXACT
    assert made.transforms[1].mask_interpolation == cv2.INTER_NEAREST_EXACT


def test_the_size_may_change_on_the_way() -> None:
    made = built("""
        - PadIfNeeded: {min_height: 60, min_width: 80, p: 1.0}
        - RandomCrop: {height: 48, width: 64}
    """)
    assert made(image=IMAGE, mask=MASK)["mask"].shape == (48, 64)


def test_the_size_is_that_of_the_window() -> None:
    items = [{"RandomCrop": {"height": 24, "width": 32}}, {"Resize": {"height": 40, "width": 32}}]
    check_augmentation(config(items, crop="32x40"))
    assert message(items) == (
        "augmentation: the last transform must give back the size that is trained on, 64x48, but got 32x40 "
        "(end with - Resize: {width: 64, height: 48}, or use crop and scale_jitter)"
    )


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (
            "- HorizontalFlipp: {p: 0.5}",
            "augmentation: 0.HorizontalFlipp: must be a transform of albumentations for images with masks "
            "(did you mean 'HorizontalFlip'?)",
        ),
        (
            "- HorizontalFlip:\n- Rotate: {limits: 30}",
            "augmentation: 1.Rotate: Rotate has no argument 'limits' (did you mean 'limit'?)",
        ),
        (
            "- OneOf: {transforms: [{Blur: }, {Blurr: {p: 1}}], p: 1}",
            "augmentation: 0.OneOf.transforms.1.Blurr: must be a transform of albumentations for images with masks "
            "(did you mean 'Blur'?)",
        ),
        ("- OneOf: {p: 1}", "augmentation: 0.OneOf.transforms: OneOf needs a list of transforms"),
        (
            "- OneOf: {transforms: [Blur]}",
            "augmentation: 0.OneOf.transforms.0: a transform is written as NAME: {argument: value, ...}, "
            "but got 'Blur'",
        ),
        (
            "- HorizontalFlip: {p: 2}",
            "augmentation: 0.HorizontalFlip.p: albumentations refuses it: Input should be less than or equal to 1, "
            "but got 2",
        ),
        (
            "- RandomCrop: {height: 20}",
            "augmentation: 0.RandomCrop.width: albumentations refuses it: Field required",
        ),
        (
            "- Rotate: {border_mode: BORDER_REFLECT101_}",
            "augmentation: 0.Rotate.border_mode: must be one of OpenCV's BORDER_ names, but got BORDER_REFLECT101_ "
            "(did you mean 'BORDER_REFLECT101'?)",
        ),
        # The library only warns, and uses something else.
        ("- Blur: {blur_limit: 2}", "augmentation: 0.Blur: albumentations objects: blur_limit: Invalid kernel size"),
        ("- Pad3D: {padding: 3}", "augmentation: 0.Pad3D: must be a transform of albumentations for images with masks"),
        ("- CenterCrop3D:", "must be a transform of albumentations for images with masks"),
        ("- BasicTransform:", "must be a transform of albumentations for images with masks"),
        ("- Compose: {transforms: []}", "must be a transform of albumentations for images with masks"),
        (
            "- Normalize: {p: 0.01}",
            "augmentation: 0.Normalize: images and masks must stay uint8: normalisation is part of the network, "
            "but got float32",
        ),
        # Whatever part a group would choose, and however rarely.
        (
            "- OneOf: {p: 0.01, transforms: [Blur: , ToGray: , OneOf: {transforms: [Blur: , ToFloat: ], p: 0.01}]}",
            "augmentation: 0.OneOf: images and masks must stay uint8",
        ),
        ("- SomeOf: {transforms: [{Blur: }, {ToGray: }, {ToFloat: }], n: 1}", "images and masks must stay uint8"),
        ("- ToTensorV2:", "images and masks must stay uint8: normalisation is part of the network"),
        ("- Transpose: {p: 0.01}", "must give back the size that is trained on, 64x48, but got 48x64"),
        ("- RandomCrop: {height: 100, width: 100}", "augmentation: 0.RandomCrop: albumentations cannot apply it"),
        (
            "- Mosaic:",
            "augmentation: 0.Mosaic: albumentations cannot apply it to an image with a mask: Mosaic requires",
        ),
        (
            "- Rotate: {p: 1, mask_interpolation: INTER_LINEAR, border_mode: BORDER_REFLECT_101}",
            "augmentation: 0.Rotate: makes labels that the mask does not have:",
        ),
        ("- GridElasticDeform: {num_grid_xy: [3, 3], magnitude: 20}", "makes labels that the mask does not have: 0"),
    ],
)
def test_what_cannot_be_used_is_told_clearly(items: str, expected: str) -> None:
    told = message(items)
    assert expected in told
    assert "\n" not in told


def test_all_problems_are_told_at_once() -> None:
    told = message("- Rotat: {}\n- Blur: {blur: 3}\n- OneOf: {transforms: [{Flipp: }]}").splitlines()
    assert [line.split(":")[1].strip() for line in told] == ["0.Rotat", "1.Blur", "2.OneOf.transforms.0.Flipp"]


def test_advice_of_the_library_is_no_error() -> None:
    built([{"ShiftScaleRotate": {"p": 0.5}}])  # "is a special case of Affine"


@pytest.mark.parametrize("name", sorted({"RandomRotate90", "D4"}))
def test_turns_by_ninety_degrees_need_a_square(name: str) -> None:
    assert "must give back the size" in message([{name: {}}])
    check_augmentation(config([{name: {}}], size="64x64"))


def test_the_documentations_own_list() -> None:
    """Oracle: docs/search-space.md."""
    text = (Path(__file__).parents[3] / "docs" / "search-space.md").read_text()
    block = next(part.split("```")[0] for part in text.split("```yaml\n") if part.startswith("train:\n  augmentation:"))
    items = YAML(typ="safe", pure=True).load(block)["train"]["augmentation"]
    assert len(items) == 3
    check_augmentation(TrainConfig.model_validate({"augmentation": items}))
