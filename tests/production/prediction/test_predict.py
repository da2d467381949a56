"""Masks for pictures. Oracles: networks whose answers are known; the sizes that Pillow and EXIF say; whole pictures
where they are also seen in windows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import tunesearch
from tunesearch.errors import DataError, InputError, PicturesSkipped
from tunesearch.production import prefetch as prefetch_module
from tunesearch.production.model import Model
from tunesearch.production.prediction.pictures import find_pictures
from tunesearch.production.prediction.predict import predict
from tunesearch.production.prediction.predictor import Predictor
from tunesearch.segmentation.data.images import Pixels, read_image

Make = Callable[..., Model]
RNG = np.random.default_rng(0)


def _halves(height: int, width: int) -> Pixels:
    """Dark on the left, bright on the right."""
    picture = np.full((height, width, 3), 20, np.uint8)
    picture[:, width // 2 :] = 230
    return picture


def _saved(folder: Path, name: str, picture: Image.Image, **how: object) -> Path:
    folder.mkdir(exist_ok=True)
    picture.save(folder / name, **how)  # type: ignore[arg-type]
    return folder / name


# ----------------------------------------------------------------------------------------------- every kind of picture


def _exif_rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise to stand upright
    return exif


WIDE = Image.fromarray(_halves(30, 50))
GREY16 = np.where(_halves(30, 50)[:, :, 0] > 127, 60000, 3000).astype(np.uint16)
KINDS: dict[str, tuple[str, Image.Image, dict[str, object]]] = {
    "RGB": ("a.jpg", WIDE, {"quality": 95}),
    "grey": ("a.png", WIDE.convert("L"), {}),
    "grey with alpha": ("a.png", WIDE.convert("LA"), {}),
    "alpha": ("a.png", WIDE.convert("RGBA"), {}),
    "clear all over": ("a.png", Image.merge("RGBA", (*WIDE.split(), Image.new("L", WIDE.size, 0))), {}),
    "palette": ("a.png", WIDE.convert("P"), {}),
    "palette with a clear colour": ("a.png", WIDE.convert("P"), {"transparency": 0}),
    "16 bits": ("a.png", Image.fromarray(GREY16), {}),
    "16 bits, TIFF": ("a.tif", Image.fromarray(GREY16), {}),
    "CMYK": ("a.jpg", WIDE.convert("CMYK"), {"quality": 95}),
    "1 bit": ("a.png", WIDE.convert("1", dither=Image.Dither.NONE), {}),
    "BMP": ("a.bmp", WIDE, {}),
    "WebP": ("a.webp", WIDE, {"lossless": True}),
    "CAPITALS": ("A.PNG", WIDE, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_for_every_kind_of_picture(bright: Make, tmp_path: Path, kind: str) -> None:
    """Each is as large as its picture and says bright where it is, but for the columns where the scores turn."""
    name, picture, how = KINDS[kind]
    written = predict(Predictor([bright()]), _saved(tmp_path / "in", name, picture, **how), tmp_path / "out")
    assert [path.name for path in written] == [f"{Path(name).stem}.png"]
    with Image.open(written[0]) as mask:
        assert (mask.size, mask.mode) == ((50, 30), "P")
        labels = np.asarray(mask)
    assert (labels[:, :24] == 0).all()
    assert (labels[:, 26:] == 1).all()


@pytest.mark.parametrize("tiled", [False, True])
def test_a_mask_stands_as_its_picture_does(bright: Make, tmp_path: Path, tiled: bool) -> None:
    """Turned by EXIF: 50x30 in the file, 30x50 upright, and its bright half below."""
    path = _saved(tmp_path / "in", "a.jpg", WIDE, exif=_exif_rotated(), quality=95)
    with Image.open(predict(Predictor([bright()], scale=1.0 if tiled else None), path, tmp_path / "out")[0]) as mask:
        assert mask.size == (30, 50)
        labels = np.asarray(mask)
    assert (labels[:24] == 0).all()
    assert (labels[26:] == 1).all()


@pytest.mark.parametrize("how", [{}, {"scale": 1.0}, {"scale": 0.3}, {"scale": 2.5}, {"flip": True}])
@pytest.mark.parametrize(("height", "width"), [(1, 50), (50, 1), (1, 1), (37, 91), (32, 48), (300, 200)])
def test_a_mask_is_as_large_as_its_picture(
    bright: Make, tmp_path: Path, height: int, width: int, how: dict[str, object]
) -> None:
    path = _saved(tmp_path / "in", "a.png", Image.fromarray(_halves(height, width)))
    with Image.open(predict(Predictor([bright()], **how), path, tmp_path / "out")[0]) as mask:  # type: ignore[arg-type]
        assert mask.size == (width, height)
        labels = np.asarray(mask)
    wrong = np.flatnonzero((labels != (_halves(height, width)[:, :, 0] > 127)).any(axis=0))
    blurred = max(1.0, width / 48, 1 / float(how.get("scale", 1.0)))  # type: ignore[arg-type]
    assert all(abs(column + 0.5 - width // 2) <= blurred for column in wrong)


# Peak memory of a process that predicts the picture in argv, with 21 classes, beyond that of one that predicts a small
# one; the network itself takes next to nothing.
LARGE = """
import resource, sys
from pathlib import Path
from torch import nn
from PIL import Image
from tunesearch.production.prediction.predictor import Predictor
from tunesearch.production.model import Model
from tunesearch.production.prediction.predict import predict
from tunesearch.segmentation.config import ClassSpec, DataConfig, TrainConfig
from tunesearch.segmentation.data.splits import Split

class One(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 21, 1)
    def forward(self, images):
        return self.layer(images.float() / 255)

config = TrainConfig(size="128x128", precision="float32")
classes = tuple(ClassSpec(name=str(number)) for number in range(21))
model = Model("m", One(), config, DataConfig(), classes, Split(root=Path(), train=(), val=()), Path(), "")
folder = Path(sys.argv[1])
Image.new("RGB", (64, 64)).save(folder / "small.png")
predict(Predictor([model]), folder / "small.png", folder / "out")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for count, scale in ((1, None), (2, None), (1, 1.0), (2, 0.5)):
    predict(Predictor([model] * count, scale=scale), folder / "large.png", folder / f"{count}-{scale}", overlays=True)
    print(f"{count}-{scale}", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_a_large_picture_takes_no_gigabytes(tmp_path: Path) -> None:
    """3000x2000: its scores of 21 classes alone would be 500 MB per network. By one and by two, whole and in windows;
    the highest use so far, in MiB, is told after each."""
    Image.fromarray(np.repeat(_halves(20, 30), 100, axis=0).repeat(100, axis=1)).save(tmp_path / "large.png")
    command = [sys.executable, "-c", LARGE, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(tunesearch.__file__).parents[1])}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    told = dict(line.split() for line in run.stdout.splitlines())
    assert list(told) == ["1-None", "2-None", "1-1.0", "2-0.5"]
    assert max(map(int, told.values())) < 400, run.stdout
    for folder in (tmp_path / name for name in told):
        with Image.open(folder / "large.png") as mask, Image.open(folder / "overlays" / "large.jpg") as shown:
            assert mask.size == shown.size == (3000, 2000)


# ----------------------------------------------------------------------------------------------------- windows, flips


class Edges(nn.Module):
    """A convolution, which sees the edges of what it is given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Conv2d(3, 2, 5, padding=2)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.layer(images.float() / 255)
        return scores


def test_windows_are_of_the_size_that_the_network_knows(bright: Make) -> None:
    shapes = []

    class Watched(Edges):
        def forward(self, images: Tensor) -> Tensor:
            shapes.append(tuple(images.shape[2:]))
            return super().forward(images)

    image = RNG.integers(0, 256, (100, 130, 3), np.uint8)
    for config, wanted in (
        ({}, (32, 48)),
        ({"crop": "16x16", "tiled_inference": True}, (16, 16)),
        ({"crop": "16x16"}, (32, 48)),  # trained on crops, but validated on whole images
    ):
        shapes.clear()
        predictor = Predictor([bright(network=Watched(), **config)], scale=0.7)
        next(predictor.masks([predictor.prepare(image)]))
        assert set(shapes) == {wanted}


def test_without_windows_it_is_what_validation_does(bright: Make) -> None:
    """A picture of the trained size: the network's own best classes."""
    network, image = Edges(), RNG.integers(0, 256, (32, 48, 3), np.uint8)
    predictor = Predictor([bright(network=network)])
    expected = network(torch.from_numpy(image).permute(2, 0, 1)[None])[0].argmax(dim=0)
    assert np.array_equal(next(predictor.masks([predictor.prepare(image)])), expected.numpy())


def test_flips(bright: Make) -> None:
    network, image = Edges(), RNG.integers(0, 256, (32, 48, 3), np.uint8)
    predictor = Predictor([bright(network=network)], flip=True)
    batch = torch.from_numpy(np.stack([image, image[:, ::-1]])).permute(0, 3, 1, 2)
    straight, mirrored = network(batch).softmax(dim=1)
    assert np.array_equal(
        next(predictor.masks([predictor.prepare(image)])), (straight + mirrored.flip(-1)).argmax(dim=0).numpy()
    )


def test_a_scale_beyond_reason(bright: Make) -> None:
    predictor = Predictor([bright()], scale=16.0)
    with pytest.raises(InputError, match="--scale: must leave pictures at most 65536 pixels wide and high, but got"):
        predictor.prepare(np.zeros((1, 5000, 3), np.uint8))


# ------------------------------------------------------------------------------------------------- folders and damage


def test_folders_in_folders(bright: Make, tmp_path: Path) -> None:
    """A mask lies where its picture does; what was written before is no picture, nor is what a dot hides."""
    folder = tmp_path / "in"
    for name in ("b.png", "a.jpg", "x/a.jpg", "x/y/a.png", ".hidden/a.png", ".a.png", "x/note.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(_halves(9, 14)).save(folder / name, format="PNG")
    (folder / "empty.png").mkdir()  # a folder that is called as pictures are
    for _ in range(2):
        written = predict(Predictor([bright()]), folder, folder / "out", overlays=True)
        assert [path.relative_to(folder / "out").as_posix() for path in written] == [
            "a.png", "b.png", "x/a.png", "x/y/a.png",
        ]  # fmt: skip
    found = {path.relative_to(folder / "out").as_posix() for path in (folder / "out").rglob("*") if path.is_file()}
    masks = {"a.png", "b.png", "x/a.png", "x/y/a.png"}
    assert found == masks | {f"overlays/{name.removesuffix('.png')}.jpg" for name in masks}


def test_an_overlay_shows_the_picture_below_the_mask(bright: Make, tmp_path: Path) -> None:
    """Dark is the background, which stays clear; the other half is mixed with class 1's dark red."""
    path = _saved(tmp_path / "in", "a.png", Image.fromarray(_halves(600, 80)))
    predict(Predictor([bright()]), path, tmp_path / "out", overlays=True)
    shown = read_image(tmp_path / "out" / "overlays" / "a.jpg").astype(int)
    assert abs(shown[:, 5:30] - 20).max() <= 6
    assert abs(shown[:, 50:75] - [(230 + 128) // 2, 115, 115]).max() <= 6


def test_a_damaged_picture_among_many(bright: Make, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for number in range(9):
        _saved(folder, f"p{number}.png", Image.fromarray(_halves(20, 30)))
    (folder / "p3.png").write_text("a text")
    torn = (folder / "p6.png").read_bytes()
    (folder / "p6.png").write_bytes(torn[: len(torn) - 30])
    told: list[tuple[str, bool, int]] = []
    with pytest.raises(PicturesSkipped) as caught:
        predict(
            Predictor([bright()]),
            folder,
            tmp_path / "out",
            on_picture=lambda path, mask, total: told.append((path.name, mask is not None, total)),
        )
    assert [problem.where for problem in caught.value.problems] == [str(folder / "p3.png"), str(folder / "p6.png")]
    assert caught.value.exit_code == 1
    assert [path.name for path in caught.value.written] == [f"p{number}.png" for number in (0, 1, 2, 4, 5, 7, 8)]
    assert sorted(told) == [(f"p{number}.png", number not in (3, 6), 9) for number in range(9)]
    with pytest.raises(DataError) as nothing:
        predict(Predictor([bright()]), folder / "p3.png", tmp_path / "other")
    assert nothing.value.exit_code == 2
    assert not (tmp_path / "other").exists()


def test_what_cannot_be_written(bright: Make, tmp_path: Path) -> None:
    one = _saved(tmp_path / "in", "a.png", Image.fromarray(_halves(9, 9)))
    predictor = Predictor([bright()])
    with pytest.raises(InputError, match="a mask must not be written over its picture"):
        predict(predictor, one, one.parent)
    with pytest.raises(InputError, match="-o: masks must not be written among the pictures"):
        predict(predictor, one.parent, one.parent)
    (tmp_path / "link").symlink_to(one.parent)
    with pytest.raises(InputError, match="a mask must not be written over its picture"):
        predict(predictor, one, tmp_path / "link")
    _saved(tmp_path / "in", "a.bmp", Image.fromarray(_halves(9, 9)))
    with pytest.raises(InputError, match="pictures need names of their own, but got a twice"):
        predict(predictor, one.parent, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "empty.png").mkdir()
    with pytest.raises(InputError, match=r"no picture \(.jpg"):
        find_pictures(tmp_path / "empty.png")
    with pytest.raises(InputError, match=r"must be an existing picture or folder of pictures \(did you mean 'empty"):
        find_pictures(tmp_path / "emty.png")


def test_no_more_is_held_than_a_few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read ahead in order, and never far; an error comes up where its item is, and nothing more is begun."""
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 20:
            raise DataError("twenty")
        return 2 * item

    monkeypatch.setattr(prefetch_module.os, "cpu_count", lambda: 2)
    stream = prefetch_module.prefetch(work, range(1000))
    for wanted in range(20):
        assert next(stream) == (wanted, 2 * wanted)
        assert max(begun) <= wanted + 4
    with pytest.raises(DataError, match="twenty"):
        next(stream)
    assert max(begun) <= 24


# ----------------------------------------------------------------------------------------------------- the command line


def test_the_command(searched: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]) -> None:
    """By name as ever, by a model folder, and by both together; the folder is the same network, so the masks are."""
    tunesearch.export("a", tmp_path / "folder", storage=searched)
    pictures = tmp_path / "in"
    for number in range(3):
        _saved(pictures, f"p{number}.png", Image.fromarray(RNG.integers(0, 256, (20, 30 + number, 3), np.uint8)))
    ends = ("--storage", searched, "-o")
    code, out, err = run_cli("predict", "a", pictures, *ends, tmp_path / "one")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        *(f"{tmp_path}/one/p{number}.png: {30 + number}x20" for number in range(3)),
        f"3 masks in {tmp_path}/one",
    ]
    assert run_cli("predict", tmp_path / "folder", pictures, *ends, tmp_path / "two")[0] == 0
    assert run_cli("predict", "a", tmp_path / "folder", pictures, *ends, tmp_path / "three")[0] == 0
    for number in range(3):
        masks = [np.asarray(Image.open(tmp_path / name / f"p{number}.png")) for name in ("one", "two", "three")]
        assert np.array_equal(masks[0], masks[1])
        assert (masks[0] != masks[2]).mean() < 0.01  # two classes may be all but equal at a pixel
    (pictures / "p1.png").write_text("x")
    code, out, err = run_cli("predict", "a", pictures, *ends, tmp_path / "four", "--overlay", "--tiles", "--flip")
    assert code == 1
    assert f"error: {pictures}/p1.png: the file cannot be read as a picture" in err
    found = sorted(path.relative_to(tmp_path / "four").as_posix() for path in (tmp_path / "four").rglob("*.*"))
    assert found == ["overlays/p0.jpg", "overlays/p2.jpg", "p0.png", "p2.png"]


def test_bad_input(searched: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]) -> None:
    picture = _saved(tmp_path / "in", "a.png", Image.fromarray(_halves(9, 9)))
    (tmp_path / "file").write_text("x")
    rows = [
        (["a", picture], "Missing option '-o'"),
        (["a", "-o", tmp_path / "out"], "Missing argument 'MODEL...'"),
        (["b", picture, "-o", tmp_path / "out"], "search b: does not exist"),
        (["a", picture, "-o", tmp_path / "file"], "is a file"),
        (["a", picture, "-o", tmp_path / "in"], "must not be written over its picture"),
        (["a", tmp_path / "in", "-o", tmp_path / "in"], "-o: masks must not be written among the pictures"),
        (["a", tmp_path / "file", "-o", tmp_path / "out"], "file: the file cannot be read as a picture"),
        (["a", picture, "-o", tmp_path / "out", "--scale", "2"], "--scale only has a meaning with --tiles"),
        (
            ["a", picture, "-o", tmp_path / "out", "--tiles", "--scale", "nan"],
            "--scale: must be more than 0 and at most 16, but got nan",
        ),
        (["a", picture, "-o", tmp_path / "out", "--trial", "1"], "trial 1 of a: it has no weights"),
        (["a", "a", picture, "-o", tmp_path / "out", "--stack", tmp_path], "that tunesearch ensemble has written"),
    ]
    for arguments, said in rows:
        code, out, err = run_cli("predict", *arguments, "--storage", searched)
        assert (code, out) == (2, ""), arguments
        assert said in err, arguments
    assert not (tmp_path / "out").exists()
