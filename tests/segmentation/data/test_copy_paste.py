"""Copy-paste. Oracles: pictures whose every pixel tells where it is from; the parts of the rule, one by one."""

from __future__ import annotations

import numpy as np
import pytest

from tunesearch.segmentation.data import copy_paste as module
from tunesearch.segmentation.data.copy_paste import copy_paste

IMAGE = np.full((12, 16, 3), 10, np.uint8)
MASK = np.full((12, 16), 4, np.uint8)
OTHER = np.full((12, 16, 3), 200, np.uint8)
LABELS = np.zeros((12, 16), np.uint8)
LABELS[2:6, 3:9], LABELS[7:10, 1:5], LABELS[0], LABELS[11, 8:] = 1, 2, 255, 3


def pasted(seed: int, *, background: int | None = 0, labels: np.ndarray = LABELS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return copy_paste(IMAGE, MASK, OTHER, labels, rng, background=background)


def test_pixels_and_labels_are_pasted_together() -> None:
    seen = set()
    for seed in range(200):
        image, mask = pasted(seed)
        assert ((image == 200) == (mask != 4)[:, :, None]).all()  # where the picture is the other's, so is the label
        seen.add(frozenset(np.unique(mask).tolist()) - {4})
    assert not any(label in (0, 255) for labels in seen for label in labels)
    # Every set of objects is pasted; the empty one where what was chosen has been moved outside.
    assert {frozenset(s) for s in ({1}, {2}, {3}, {1, 2}, {1, 3}, {2, 3}, {1, 2, 3})} <= seen


def test_nothing_is_written_to() -> None:
    copies = [array.copy() for array in (IMAGE, MASK, OTHER, LABELS)]
    for array in (IMAGE, MASK, OTHER, LABELS):
        array.flags.writeable = False
    pasted(0)
    assert all(np.array_equal(a, b) for a, b in zip(copies, (IMAGE, MASK, OTHER, LABELS), strict=True))


def test_at_scale_one_an_object_is_pasted_where_it_was_or_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCALES", (1.0, 1.0))
    labels = np.where(LABELS == 1, LABELS, 0).astype(np.uint8)
    as_it_was, mirrored = 0, 0
    for seed in range(100):
        _, mask = pasted(seed, labels=labels)
        as_it_was += np.array_equal(mask == 1, labels == 1)
        mirrored += np.array_equal(mask == 1, labels[:, ::-1] == 1)
    assert as_it_was + mirrored == 100
    assert 35 < mirrored < 65  # binomial(100, 1/2): deviation 5


def test_size_and_place_change() -> None:
    labels = np.where(LABELS == 1, LABELS, 0).astype(np.uint8)
    masks = [pasted(seed, labels=labels)[1] == 1 for seed in range(100)]
    sizes = [int(mask.sum()) for mask in masks]
    assert min(sizes) < 24 < max(sizes) <= 24 * 1.25**2 + 12  # 4x6 pixels, and half a pixel at each edge
    assert len({mask.tobytes() for mask in masks}) > 30


def test_without_objects_the_pair_stays() -> None:
    for labels in (np.zeros((12, 16), np.uint8), np.full((12, 16), 255, np.uint8)):
        image, mask = pasted(0, labels=labels)
        assert image is IMAGE
        assert mask is MASK


def test_without_a_background_class_all_but_void_is_an_object() -> None:
    labels = {label for seed in range(50) for label in np.unique(pasted(seed, background=None)[1]).tolist()}
    assert labels == {0, 1, 2, 3, 4}


def test_another_class_may_be_the_background() -> None:
    labels = {label for seed in range(50) for label in np.unique(pasted(seed, background=2)[1]).tolist()}
    assert labels == {0, 1, 3, 4}
