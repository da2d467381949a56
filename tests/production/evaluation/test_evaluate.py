"""Evaluation. Oracles: torchmetrics on the masks as Pillow reads them; numbers worked by hand; other runs of itself."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.classification import multiclass_confusion_matrix
from torchmetrics.functional.segmentation import dice_score

import tunesearch
from tunesearch.cli import main
from tunesearch.errors import DataError, InputError
from tunesearch.production.evaluation.evaluate import evaluate
from tunesearch.production.evaluation.files import write_evaluation
from tunesearch.production.evaluation.result import Evaluation
from tunesearch.production.model import Model
from tunesearch.segmentation.config import ClassSpec, DataConfig
from tunesearch.segmentation.data.layouts import Pair

Make = Callable[..., Model]
RNG = np.random.default_rng(0)


def _pairs(folder: Path, count: int = 5) -> list[Pair]:
    """Pictures of several sizes, dark on the left; masks that are mostly right and have void in them."""
    pairs = []
    for number in range(count):
        height, width = 20 + 7 * number, 60 - 5 * number
        image = np.full((height, width, 3), 40, np.uint8)
        image[:, width // 2 :] = 220
        mask = (image[:, :, 0] > 127).astype(np.uint8)
        mask[RNG.random(mask.shape) < 0.1 * number] = 0
        mask[0] = 255
        for kind, array in (("images", image), ("masks", mask)):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(array).save(folder / kind / f"p{number}.png")
        pairs.append(Pair(f"p{number}", folder / "images" / f"p{number}.png", folder / "masks" / f"p{number}.png"))
    return pairs


DATA = DataConfig(layout="folders", classes=2)


def test_the_scores_are_torchmetrics(bright: Make, tmp_path: Path) -> None:
    """The network sees pictures of the wanted size only, so the prediction is known: bright or not, but at the edge."""
    model, pairs = bright(size="64x64"), _pairs(tmp_path)
    found = evaluate(model, pairs, DATA, what="five")
    truth = [np.asarray(Image.open(pair.mask)) for pair in pairs]
    tunesearch_masks = _masks(model, pairs)
    flat = torch.from_numpy(np.concatenate([mask.ravel() for mask in truth]).astype(np.int64))
    predicted = torch.from_numpy(np.concatenate([mask.ravel() for mask in tunesearch_masks]).astype(np.int64))
    oracle = multiclass_confusion_matrix(predicted, flat, 2, ignore_index=255)
    assert np.array_equal(found.matrix, oracle.numpy())
    counts = flat != 255
    dice = dice_score(predicted[counts][None], flat[counts][None], 2, average="none", input_format="index")
    rows = found.per_class()
    assert [row["dice"] for row in rows] == pytest.approx(dice[0].tolist())
    assert [row["pixels"] for row in rows] == torch.bincount(flat[counts]).tolist()
    assert found.scores.dice == pytest.approx(float(dice.mean()))
    for (_, miou), mask, prediction in zip(found.images, truth, tunesearch_masks, strict=True):
        here = mask != 255
        ious = [
            (here & (mask == c) & (prediction == c)).sum() / (here & ((mask == c) | (prediction == c))).sum()
            for c in (0, 1)
        ]
        assert miou == pytest.approx(np.mean(ious))


def _masks(model: Model, pairs: list[Pair]) -> list[np.ndarray]:
    """What is predicted, picture by picture and not in batches."""
    from tunesearch.production.prediction.predictor import Predictor

    predictor = Predictor([model])
    images = [np.asarray(Image.open(pair.image).convert("RGB")) for pair in pairs]
    masks = [next(predictor.masks([predictor.prepare(image)])) for image in images]
    for image, mask in zip(images, masks, strict=True):  # right but for the columns between which the scores turn
        assert mask.shape == image.shape[:2]
        wrong = np.flatnonzero((mask != (image[:, :, 0] > 127)).any(axis=0))
        assert all(abs(column + 0.5 - image.shape[1] // 2) <= 1 for column in wrong)
    return masks


def test_by_hand() -> None:
    """Rows are the truth. Class c is absent from both, d from the truth only."""
    matrix = np.array([[6, 2, 0, 0], [1, 3, 0, 4], [0, 0, 0, 0], [0, 0, 0, 0]])
    specs = tuple(ClassSpec(name=name) for name in "abcd")
    images = (("x", 0.5), ("y", None), ("z", 0.9), ("u", 0.1), ("v", 0.4), ("w", 0.5))
    found = Evaluation(("m",), "val", specs, 0, matrix, images)
    assert [row["iou"] for row in found.per_class()] == pytest.approx([6 / 9, 3 / 10, None, 0])
    assert [row["dice"] for row in found.per_class()] == pytest.approx([12 / 15, 6 / 13, None, 0])
    assert [row["accuracy"] for row in found.per_class()] == pytest.approx([6 / 8, 3 / 8, None, None])
    told = found.as_dict()
    assert told["miou"] == pytest.approx((6 / 9 + 3 / 10 + 0) / 3)
    assert told["miou_no_background"] == pytest.approx((3 / 10 + 0) / 2)
    assert told["pixel_accuracy"] == pytest.approx(9 / 16)
    assert told["mean_class_accuracy"] == pytest.approx((6 / 8 + 3 / 8) / 2)
    assert found.ranked() == ["z", "w", "x", "v", "u"]
    assert found.chosen(2) == {"best": ["z", "w"], "median": ["x", "w"], "worst": ["u", "v"]}
    assert found.chosen(1)["median"] == ["x"]


def test_nothing_that_counts(bright: Make, tmp_path: Path) -> None:
    """An image of void alone has no score of its own, and changes nothing."""
    pairs = _pairs(tmp_path, 2)
    before = evaluate(bright(), pairs[:1], DATA)
    Image.fromarray(np.full(np.asarray(Image.open(pairs[1].mask)).shape, 255, np.uint8)).save(pairs[1].mask)
    found = evaluate(bright(), pairs, DATA)
    assert np.array_equal(found.matrix, before.matrix)
    assert dict(found.images)["p1"] is None


def test_what_is_written(bright: Make, tmp_path: Path) -> None:
    model, pairs = bright(), _pairs(tmp_path)
    found = evaluate(model, pairs, DATA, what="five")
    write_evaluation(found, tmp_path / "out", models=[model], pairs=pairs, data=DATA)
    names = {"metrics.json", "confusion.csv", "confusion.png", "best.png", "median.png", "worst.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    told = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert told["confusion_matrix"] == found.matrix.tolist()
    assert [row["id"] for row in told["per_image"]] == [pair.id for pair in pairs]
    rows = list(csv.reader((tmp_path / "out" / "confusion.csv").read_text().splitlines()))
    assert rows[0] == ["truth \\ prediction", "dark", "bright"]
    assert np.array_equal(np.array([row[1:] for row in rows[1:]], np.int64), found.matrix)
    for name in ("confusion", "best", "median", "worst"):
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            picture.load()
            assert min(picture.size) > 100


@pytest.mark.parametrize("how", [{}, {"scale": 1.0}, {"flip": True}])
def test_pictures_in_batches_are_pictures_alone(bright: Make, tmp_path: Path, how: dict[str, object]) -> None:
    pairs = _pairs(tmp_path)
    one, four = (evaluate(bright(batch_size=size), pairs, DATA, **how) for size in (1, 4))  # type: ignore[arg-type]
    assert np.array_equal(one.matrix, four.matrix)
    assert one.images == four.images


def test_every_broken_file_is_named(bright: Make, tmp_path: Path) -> None:
    pairs = _pairs(tmp_path)
    pairs[1].image.write_text("text")
    Image.new("L", (3, 3)).save(pairs[2].mask)
    Image.new("L", (45, 41), 7).save(pairs[3].mask)
    with pytest.raises(DataError) as caught:
        evaluate(bright(), pairs, DATA)
    said = str(caught.value)
    assert len(caught.value.problems) == 3
    assert "p1.png: the file cannot be read as a picture" in said
    assert "p2.png: the mask must be as large as its image, 50x34, but got 3x3" in said
    assert "p3.png: labels must be 0 to 1, or 255 for void, but got 7" in said
    with pytest.raises(InputError, match="at least one image"):
        evaluate(bright(), [], DATA)


# ----------------------------------------------------------------------------------------------------- the command line


def _run(capsys: pytest.CaptureFixture[str], storage: Path, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([*map(str, arguments), "--storage", str(storage)])
    captured = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, captured.out, captured.err


def test_a_second_look_at_the_test_part_is_told(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = ("evaluate", "a", "--json", "--split")
    code, _, err = _run(capsys, searched, *evaluation, "val")
    assert (code, err) == (0, "")
    code, out, err = _run(capsys, searched, *evaluation, "test")
    assert (code, err) == (0, "")
    assert json.loads(out)["images"] == 6
    code, again, err = _run(capsys, searched, *evaluation, "test")
    assert code == 0
    assert "warning: a/0: the test part was looked at before (2" in err
    assert "UTC by evaluate): a choice made by it is no longer independent" in err
    assert json.loads(again) == json.loads(out)


def test_looks_by_way_of_a_model_folder(searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder keeps them itself, is whole as before, and images are known by their content wherever they lie."""
    folder, root = tmp_path / "folder", Path(os.environ["TUNESEARCH_CACHE"]) / "sample-v1"
    tunesearch.export("a", folder, storage=searched)
    where = ("evaluate", folder, "--data", root)
    assert _run(capsys, searched, *where, "--split", "val", "--json")[2] == ""
    assert not (folder / "test_looks.json").exists()
    assert _run(capsys, searched, *where, "--split", "test")[2] == ""
    assert len(json.loads((folder / "test_looks.json").read_text())) == 1
    code, _, err = _run(capsys, searched, *where)
    assert code == 2
    assert f"--data: holds images of the model's own data set, of which a part must be named, but got {root}" in err
    pairs = ("--images", root / "JPEGImages", "--masks", root / "SegmentationClass")
    code, out, err = _run(capsys, searched, "evaluate", folder, *pairs, "--json")  # those of the test part among them
    assert code == 0
    assert "the test part was looked at before" in err
    assert "note: 48 of the 72 images were trained on" in err
    assert json.loads(out)["images"] == 72
    (folder / "test_looks.json").write_text("torn")
    code, _, err = _run(capsys, searched, *where, "--split", "test")
    assert code == 2
    assert "must be the record of who looked at the test part" in err


def test_a_folder_of_images_and_one_of_masks(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same numbers as by the split that names these files."""
    root = Path(os.environ["TUNESEARCH_CACHE"]) / "sample-v1"
    split = tunesearch.evaluate("a", part="val", storage=searched)
    folders = tunesearch.evaluate(
        "a",
        images=root / "JPEGImages",
        masks=root / "SegmentationClass",
        storage=searched,
        on_message=lambda text: None,
    )
    mine = dict(folders.images)
    assert all(mine[name] == miou for name, miou in split.images)
    assert (len(folders.images), folders.seen, split.seen) == (72, 48, 0)


def test_one_folder_whose_masks_have_a_suffix(searched: Path, tmp_path: Path) -> None:
    """The model's own set has none. The same numbers as from two folders."""
    root, both = Path(os.environ["TUNESEARCH_CACHE"]) / "sample-v1", tmp_path / "both"
    both.mkdir()
    for kind, suffix in (("JPEGImages", ""), ("SegmentationClass", "_mask")):
        for path in (root / kind).iterdir():
            (both / f"{path.stem}{suffix}{path.suffix}").symlink_to(path.resolve())
    apart = {"images": root / "JPEGImages", "masks": root / "SegmentationClass"}
    one = tunesearch.evaluate("a", images=both, masks=both, mask_suffix="_mask", storage=searched)
    assert np.array_equal(one.matrix, tunesearch.evaluate("a", **apart, storage=searched).matrix)


def test_files_that_changed_since_the_split(searched: Path, tmp_path: Path) -> None:
    """Only those of the part that is asked for matter."""
    import shutil

    shutil.copytree(Path(os.environ["TUNESEARCH_CACHE"]) / "sample-v1", tmp_path / "moved")
    one = tunesearch.evaluate("a", data=tmp_path / "moved", part="val", storage=searched)
    name = tunesearch.evaluate("a", part="train", storage=searched).images[0][0]
    image = next((tmp_path / "moved" / "JPEGImages").glob(f"{name}.*"))
    image.write_bytes(image.read_bytes() + b"\0")
    other = tunesearch.evaluate("a", data=tmp_path / "moved", part="val", storage=searched)
    assert np.array_equal(one.matrix, other.matrix)
    with pytest.raises(DataError, match="has changed since the split was frozen"):
        tunesearch.evaluate("a", data=tmp_path / "moved", part="train", storage=searched)


def test_bad_input(searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    root = Path(os.environ["TUNESEARCH_CACHE"]) / "sample-v1"
    rows = [
        (["b"], "search b: does not exist"),
        (["a", "--split", "all"], "'all' is not one of 'train', 'val', 'test'"),
        (["a", "--split", "val", "--data", tmp_path / "nothing"], "--data: must be an existing folder"),
        (["a", "--data", tmp_path / "nothing"], "the data set's folder must exist"),
        (["a", "--data", tmp_path / "empty"], "the voc layout needs this folder"),
        (["a", "--images", root / "JPEGImages"], "--images: must be given together with --masks"),
        (["a", "--images", tmp_path, "--masks", tmp_path, "--split", "val"], "cannot be given together with --split"),
        (
            ["a", "--images", tmp_path / "empty", "--masks", tmp_path / "empty"],
            "--masks: must be another folder than --images",
        ),
        (["a", "--images", tmp_path / "file", "--masks", tmp_path / "empty"], "--images: must be an existing folder"),
        (["a", "--images", root / "JPEGImages", "--masks", tmp_path / "empty"], "there is no mask of this name"),
        (["a", "--mask-suffix", "_mask"], "--mask-suffix: only has a meaning with --images"),
        (["a", "-o", tmp_path / "file"], "Directory"),
        (["a", "--scale", "0.5"], "--scale only has a meaning with --tiles"),
        (["a", "--tiles", "--scale", "0"], "--scale: must be more than 0 and at most 16, but got 0"),
        (["a", "--stack", tmp_path / "empty"], "--stack: must be a folder that tunesearch ensemble has written"),
        (["a", "a", "--trial", "0"], "--trial: can only be given with one model"),
        (["a", "b", "c"], "2 problems"),
        ([], "Missing argument 'MODEL...'"),
    ]
    for arguments, said in rows:
        code, out, err = _run(capsys, searched, "evaluate", *arguments)
        assert (code, out) == (2, ""), arguments
        assert said in err, arguments
        assert "Traceback" not in err


def test_no_test_part(searched: Path, tiny_space: Path, tmp_path: Path, bright: Make) -> None:
    from tunesearch.production.evaluation.pairs import frozen_pairs

    with pytest.raises(InputError, match="--split: must be a part that bright has images in, but got test"):
        frozen_pairs(bright(), "test")
    with pytest.raises(InputError, match="--split: must be one of train, val, test, but got tset"):
        frozen_pairs(bright(), "tset")
