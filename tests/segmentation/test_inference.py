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
from tunesearch.segmentation.inference import _weights, predict, resized_labels, save_mask, tiles, window_logits

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


class Bright(nn.Module):
    """Class 1 where a pixel is brighter than the middle."""

    def forward(self, images: Tensor) -> Tensor:
        grey = images.float().mean(dim=1, keepdim=True) - 127.5
        return torch.cat([-grey, grey], dim=1)


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize(("height", "width"), [(1, 50), (37, 91), (50, 1), (1, 1), (16, 16), (200, 300)])
def test_a_prediction_is_as_large_as_its_picture(height: int, width: int, tiled: bool) -> None:
    config = TrainConfig.model_validate({"size": "48x32", "crop": "16x16", "tiled_inference": tiled})
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, width // 2 :] = 255
    model = Bright().train()
    mask = predict(model, picture, config, "cpu")
    assert (mask.shape, mask.dtype) == ((height, width), np.uint8)
    # Right everywhere but for the two columns at the edge, between which the scores go from one sign to the other.
    wrong = np.flatnonzero((mask != (picture[:, :, 0] > 127)).any(axis=0))
    assert all(abs(column + 0.5 - width // 2) <= max(1, width / 48) for column in wrong)
    assert not model.training


def test_a_prediction_at_the_trained_size_is_the_networks() -> None:
    config = TrainConfig.model_validate({"size": "48x32"})
    model, images = Recorder(), pictures(1, 32, 48)
    mask = predict(model, images[0].permute(1, 2, 0).numpy(), config, "cpu")
    assert np.array_equal(mask, model(images)[0].argmax(0).numpy())


def test_as_many_windows_at_once_as_a_micro_batch_has_images() -> None:
    fields = {"size": "64x64", "crop": "16x16", "tiled_inference": True, "tile_overlap": 0, "batch_size": 8}
    model = Recorder()
    predict(model, np.zeros((9, 9, 3), np.uint8), TrainConfig.model_validate({**fields, "micro_batch": 5}), "cpu")
    assert [shape[0] for shape in model.shapes] == [5, 5, 5, 1]


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
    for limit in (1, 31 * 50 * 3, 2**26):
        monkeypatch.setattr(inference, "_SCORES", limit)
        assert torch.equal(inference.resized_labels(scores, (31, 50)).long(), whole)
