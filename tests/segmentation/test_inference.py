"""Prediction. Oracles: the whole image at once where windows cannot matter; torch's and Pillow's own resizing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from tunesearch.segmentation import inference
from tunesearch.segmentation.config import ClassSpec, DataConfig, Size, TrainConfig
from tunesearch.segmentation.data.images import read_mask
from tunesearch.segmentation.data.palette import voc_colors
from tunesearch.segmentation.inference import (
    _weights,
    resized_labels,
    resized_rows,
    save_mask,
    tiles,
    trained_scores,
    window_bands,
    window_logits,
    with_flips,
)

RNG = np.random.default_rng(0)


class Recorder(nn.Module):
    """A 1x1 convolution that remembers the shapes it was given."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, classes, 1)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shapes.append(tuple(images.shape))
        logits: Tensor = self.layer(images.float() / 255)
        return logits


def pictures(count: int, height: int, width: int) -> Tensor:
    return torch.from_numpy(RNG.integers(0, 256, (count, height, width, 3), np.uint8)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.8])
@pytest.mark.parametrize(("height", "width"), [(37, 91), (16, 20), (48, 64)])
def test_windows_give_what_the_whole_gives_where_pixels_stand_alone(height: int, width: int, overlap: float) -> None:
    model, images = Recorder(), pictures(2, height, width)
    with torch.no_grad():
        whole = model(images)
        tiled = window_logits(model, images, crop=Size(width=20, height=16), overlap=overlap, batch=3)
    assert tiled.dtype == torch.float32
    assert torch.allclose(tiled, whole, atol=1e-5)
    assert {shape[2:] for shape in model.shapes[1:]} == {(16, 20)}
    assert {shape[0] for shape in model.shapes[1:-1]} <= {3}


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.75])
def test_weights_sum_to_one_at_every_pixel_and_are_never_zero(overlap: float) -> None:
    from tunesearch.segmentation.data.windows import starts

    for length, window in ((37, 16), (512, 256), (10, 10), (7, 1)):
        places = starts(length, window, overlap)
        weights = _weights(length, window, places)
        total = torch.zeros(length, dtype=torch.float64)
        for place, weight in zip(places, weights, strict=True):
            total[place : place + window] += weight
        assert torch.allclose(total, torch.ones(length, dtype=torch.float64), atol=1e-6)
        assert (weights > 0).all()


def test_a_windows_centre_counts_more_than_its_edge() -> None:
    # Two windows of 4 that share 2 of 6 pixels: at pixel 2 the first has sin^2(5 pi / 8), the second sin^2(pi / 8).
    weights = _weights(6, 4, [0, 2])
    assert weights[0].tolist() == pytest.approx([1.0, 1.0, 0.8535534, 0.1464466])
    assert weights[1].tolist() == pytest.approx([0.1464466, 0.8535534, 1.0, 1.0])


def test_windows_are_blended_by_these_weights() -> None:
    class Numbered(nn.Module):
        """Says of every window how many came before."""

        count = 0

        def forward(self, images: Tensor) -> Tensor:
            self.count += 1
            return torch.full((1, 1, *images.shape[2:]), float(self.count))

    result = window_logits(Numbered(), pictures(1, 16, 24), crop=Size(width=16, height=16), overlap=0.5, batch=1)
    expected = _weights(24, 16, [0, 8])
    row = torch.zeros(24)
    row[:16] += expected[0]
    row[8:] += 2 * expected[1]
    assert torch.allclose(result[0, 0], row.expand(16, 24))


def test_without_a_batch_as_many_windows_as_images_at_once() -> None:
    model = Recorder()
    window_logits(model, pictures(3, 32, 32), crop=Size(width=16, height=16), overlap=0.0)
    assert [shape[0] for shape in model.shapes] == [3, 3, 3, 3]


def test_windows_larger_than_the_image_are_the_image() -> None:
    model, images = Recorder(), pictures(1, 5, 40)
    assert torch.allclose(
        window_logits(model, images, crop=Size(width=16, height=16), overlap=0.5), model(images), atol=1e-5
    )
    assert model.shapes[0] == (1, 3, 5, 16)


def test_tiles() -> None:
    config = TrainConfig.model_validate({"size": "48x32", "crop": "32x32", "tiled_inference": True})
    assert tiles(config) == [(0, 0), (0, 16)]
    assert tiles(config.model_copy(update={"tiled_inference": False})) is None
    assert tiles(TrainConfig()) is None


def test_resized_labels_are_those_of_the_resized_scores() -> None:
    scores = torch.randn(4, 8, 12, generator=torch.Generator().manual_seed(0))
    labels = resized_labels(scores, (31, 17))
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.long(), F.interpolate(scores[None], (31, 17), mode="bilinear")[0].argmax(0))
    assert torch.equal(resized_labels(scores, (8, 12)).long(), scores.argmax(0))
    assert torch.equal(resized_labels(scores.bfloat16(), (31, 17)), resized_labels(scores.bfloat16().float(), (31, 17)))


@pytest.mark.parametrize("size", [(31, 50), (4, 5), (9, 11), (1, 1), (200, 3)])
@pytest.mark.parametrize("heights", [[9], [1] * 9, [5, 1, 3]])
def test_rows_are_resized_as_the_whole(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], heights: list[int]
) -> None:
    """Oracle: torch's own interpolation of all rows at once."""
    scores = torch.randn(7, 9, 11, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]
    for limit in (1, 7 * size[1] * 3, 2**24):
        monkeypatch.setattr(inference, "_SCORES", limit)
        rows = list(resized_rows(scores.split(heights, dim=1), (9, 11), size))
        assert torch.allclose(torch.cat(rows, dim=1), whole, atol=1e-5)
        assert limit > 1 or all(part.shape[1] == 1 for part in rows)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.8])
@pytest.mark.parametrize(("height", "width"), [(70, 50), (16, 16), (5, 40), (33, 1)])
def test_bands_of_windows_are_the_windows_of_the_whole(height: int, width: int, overlap: float) -> None:
    """Oracle: all windows of the image at once. No band is higher than a window."""
    images = pictures(1, height, width) / 255
    torch.manual_seed(0)
    model = nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False)  # sees the edges of its windows
    how = {"crop": Size(width=24, height=16), "overlap": overlap}
    bands = list(window_bands(model, images[0], **how, batch=3))  # type: ignore[arg-type]
    assert torch.allclose(torch.cat(bands, dim=1), window_logits(model, images, **how)[0], atol=1e-4)  # type: ignore[arg-type]
    assert max(band.shape[1] for band in bands) <= 16


def test_flips_are_the_mean_of_two_probabilities() -> None:
    """A network that only sees the left edge says the same of both edges when it sees the mirror image, too."""

    def left(images: Tensor) -> Tensor:
        scores = torch.zeros(len(images), 2, *images.shape[-2:])
        scores[:, 1, :, 0] = 500.0  # of which the other class's probability is 0 in float32
        return scores

    found = with_flips(left)(torch.zeros(1, 3, 2, 4)).exp()[0, 1]
    assert torch.allclose(found, torch.tensor([[0.75, 0.5, 0.5, 0.75]] * 2))
    assert torch.isfinite(with_flips(lambda images: 1e4 * left(images))(torch.zeros(1, 3, 2, 4))).all()


def test_scores_as_validation_makes_them() -> None:
    fields = {"size": "64x64", "crop": "16x16", "tile_overlap": 0, "batch_size": 8, "micro_batch": 5}
    whole, tiled = (TrainConfig.model_validate({**fields, "tiled_inference": value}) for value in (False, True))
    model, images = Recorder(), pictures(2, 64, 64)
    assert torch.equal(trained_scores(model, images, whole), model(images))
    model = Recorder()
    assert torch.allclose(trained_scores(model, images, tiled), model(images), atol=1e-4)
    assert [shape[0] for shape in model.shapes[:-1]] == [5, 5, 5, 5, 5, 5, 2]  # as many as a micro-batch has


MASK = RNG.integers(0, 3, (1, 50), np.uint8)


def test_masks_without_colours_are_saved_by_index(tmp_path: Path) -> None:
    classes = tuple(ClassSpec(name=name) for name in "abc")
    save_mask(tmp_path / "new" / "mask.png", MASK, classes)
    with Image.open(tmp_path / "new" / "mask.png") as picture:
        assert (picture.format, picture.mode) == ("PNG", "P")
        assert np.array_equal(np.asarray(picture), MASK)
        assert np.array_equal(np.asarray(picture.convert("RGB")), voc_colors()[MASK])
    again = read_mask(tmp_path / "new" / "mask.png", DataConfig(classes=3), classes)
    assert np.array_equal(again, MASK)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mask.png"]


def test_masks_with_colours_are_saved_in_the_first_of_each(tmp_path: Path) -> None:
    data = DataConfig.model_validate(
        {
            "mask_format": "color",
            "classes": [
                {"name": "soil", "colors": [[0, 0, 0], [254, 124, 18]]},
                {"name": "crop", "colors": [[255, 255, 255]]},
                {"name": "weed", "colors": [[216, 67, 82]]},
            ],
        }
    )
    classes = data.classes
    assert isinstance(classes, tuple)
    specs = tuple(item for item in classes if isinstance(item, ClassSpec))
    save_mask(tmp_path / "mask.png", MASK, specs)
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode == "RGB"
        expected = np.array([[0, 0, 0], [255, 255, 255], [216, 67, 82]], np.uint8)[MASK]
        assert np.array_equal(np.asarray(picture), expected)
    assert np.array_equal(read_mask(tmp_path / "mask.png", data, specs), MASK)


def test_labels_of_a_large_picture_are_found_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: all classes at once."""
    scores = torch.randn(7, 9, 11, generator=torch.Generator().manual_seed(0))
    scores[3] = scores[1]  # a tie goes to the first, as in argmax
    whole = F.interpolate(scores[None], size=(31, 50), mode="bilinear", align_corners=False)[0].argmax(dim=0)
    for limit in (1, 7 * 50 * 3, 2**24):
        monkeypatch.setattr(inference, "_SCORES", limit)
        assert torch.equal(inference.resized_labels(scores, (31, 50)).long(), whole)
