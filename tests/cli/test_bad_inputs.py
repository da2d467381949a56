"""Bad inputs: each gets one clear message and its exit code; nothing is created, changed or lost.

The table below is the oracle: what is wrong, the command, and the piece of the message that must be there. Commands
run through ``main`` in this process, one of each group also as a process of its own. No row gets as far as Ray: an
input that passes for a good one fails its test where Ray would be started.

``python tests/cli/test_bad_inputs.py`` runs the table and prints it as markdown with the messages.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
from PIL import Image

from tunesearch.cli import main
from tunesearch.engine.asking import Asker

pytestmark = pytest.mark.filterwarnings("ignore")  # a user meets warnings as words, not as errors

SECRET = "geheim"
LONGEST = 160
"""Characters of a message in the printed table."""


@dataclass(frozen=True)
class Row:
    """One bad input.

    Attributes:
        what: is wrong, for people.
        command: words behind ``tunesearch``; it runs in a folder with the data set ``voc`` (eight pictures of 48x40,
            three classes), ``space.yaml`` for it, the search ``kept`` in ``runs`` and ``best.yaml`` exported from it.
        said: must be in the message.
        make: makes the bad input in that folder; None: it is in the command alone.
        environment: variables, with ``{here}`` for the folder.
        code: exit code.
    """

    what: str
    command: str
    said: str
    make: Callable[[Path], object] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    code: int = 2


# --------------------------------------------------------------------------------------------------- making bad things

OPTIMIZER = "  optimizer: {choice: [adam, sgd]}\n"
MOMENTUM = "  momentum: {float: [0.5, 0.95], when: {optimizer: sgd}}\n"
SPACE = f"""\
name: tiny
data: {{layout: voc, root: voc, classes: 3}}
train: {{architecture: conv_stack, depth: 2, width: 4, epochs: 2, size: 32x32, batch_size: 4, augmentation: none}}
search: {{trials: 3, sampler: random}}
parameters:
{OPTIMIZER}{MOMENTUM}  lr: {{float: [1.0e-4, 1.0e-1], log: true}}
"""
RUN = "run space.yaml --local --name new"
WARM = f"{RUN} --sampler tpe --warm-start"
PREDICT = "predict kept pictures -o masks"
ENCODER = (
    f"{RUN} --set train.architecture=fpn --set train.encoder=resnet18 --set train.encoder_weights=imagenet "
    "--encoder-weights weights"
)


def _write(name: str, content: bytes | str) -> Callable[[Path], object]:
    def make(here: Path) -> None:
        file = here / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def _space(old: str, new: str | bytes) -> Callable[[Path], object]:
    """The space file with a piece of it changed."""

    def make(here: Path) -> None:
        assert old in SPACE
        whole = SPACE.encode().replace(old.encode(), new if isinstance(new, bytes) else new.encode())
        (here / "space.yaml").write_bytes(whole)

    return make


def _change(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def make(here: Path) -> None:
        (here / name).write_bytes(change((here / name).read_bytes()))

    return make


def _replace(name: str, old: str, new: str) -> Callable[[Path], object]:
    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode(), 1)

    return _change(name, change)


def _pairs(here: Path) -> None:
    """Images and masks ``a`` and ``b`` in the folders layout."""
    for name in ("a", "b"):
        _copy(IMAGE, f"pairs/images/{name}.png")(here)
        _copy(MASK, f"pairs/masks/{name}.png")(here)


def _all(*makes: Callable[[Path], object]) -> Callable[[Path], object]:
    def make(here: Path) -> None:
        for one in makes:
            one(here)

    return make


def _remove(name: str) -> Callable[[Path], object]:
    return lambda here: shutil.rmtree(here / name) if (here / name).is_dir() else (here / name).unlink()


def _move(name: str, to: str) -> Callable[[Path], object]:
    return lambda here: (here / name).rename(here / to)


def _copy(name: str, to: str) -> Callable[[Path], object]:
    def make(here: Path) -> None:
        (here / to).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(here / name, here / to)

    return make


def _folder(name: str) -> Callable[[Path], object]:
    return lambda here: (here / name).mkdir(parents=True)


def _link(name: str, to: str) -> Callable[[Path], object]:
    return lambda here: (here / name).symlink_to(to)


def _pipe(name: str) -> Callable[[Path], object]:
    return lambda here: os.mkfifo(here / name)


IMAGE, MASK = "voc/JPEGImages/p0.png", "voc/SegmentationClass/p0.png"
TRAIN, VAL = "voc/ImageSets/Segmentation/train.txt", "voc/ImageSets/Segmentation/val.txt"


def _picture(name: str, array: Any, **options: Any) -> Callable[[Path], object]:
    """An array as a picture; another file of that stem goes."""

    def make(here: Path) -> None:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        for other in (here / name).parent.glob(f"{Path(name).stem}.*"):
            other.unlink()
        Image.fromarray(np.asarray(array)).save(here / name, **options)

    return make


def _png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of that size by its header, with nothing behind it but some chunks."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    packed = (struct.pack(">I", len(body)) + kind + body for kind, body in parts)
    sums = (struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(part + crc for part, crc in zip(packed, sums, strict=True))


def _grey(value: int, height: int = 40, width: int = 48, kind: type = np.uint8) -> np.ndarray[Any, Any]:
    return np.full((height, width), value, kind)


def _encoded(array: Any, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(array)).save(file, format=kind, **options)
    return file.getvalue()


def _turned(here: Path) -> None:
    """An image whose EXIF turns it by 90 degrees, beside a mask that was not turned."""
    exif = Image.Exif()
    exif[0x112] = 6
    with Image.open(here / IMAGE) as picture:
        picture.convert("RGB").save(here / "voc/JPEGImages/p0.jpg", exif=exif)
    (here / IMAGE).unlink()


def _ledger(statements: str) -> Callable[[Path], object]:
    def make(here: Path) -> None:
        connection = sqlite3.connect(here / "runs/kept/ledger.db")
        connection.executescript(statements)
        connection.commit()
        connection.close()

    return make


_held: list[filelock.FileLock] = []


def _drive(here: Path) -> None:
    """Drive the search until the row ends, as another process would."""
    _held.append(filelock.FileLock(here / "runs/kept/driver.lock"))
    _held[-1].acquire()


class _Evil:
    """Unpickled, it would leave a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


def _torch(content: Callable[[], Any], name: str = "weights/resnet18.pth") -> Callable[[Path], object]:
    def make(here: Path) -> None:
        import torch

        (here / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(content(), here / name)

    return make


def _safetensors(name: str) -> Callable[[Path], object]:
    def make(here: Path) -> None:
        import torch
        from safetensors.torch import save_file

        (here / name).parent.mkdir(parents=True, exist_ok=True)
        save_file({"somebody.weight": torch.zeros(3)}, here / name)

    return make


def _somebody() -> Any:
    import torch

    return {"somebody.weight": torch.zeros(3)}


def _network() -> Any:
    import torch

    return torch.nn.Linear(2, 2)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)
FOLDERS = f"{RUN} --set data.layout=folders --set data.root=pairs --set data.classes=3"
POSTSCRIPT = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 40\n%%EndComments\n(pwned) (w) file\n"
NOISE = np.random.default_rng(1).integers(0, 256, (40, 48, 3), np.uint8)
NOBODY = "http://127.0.0.1:1"

# ------------------------------------------------------------------------------------------------------------ the table

SPACES = (
    Row("a YAML bomb", RUN, "space.yaml:1: YAML anchors are not used here", _write("space.yaml", BOMB)),
    Row("a tag that would run a command", RUN, "space.yaml:1: YAML tags are not used here",
        _space("name: tiny", "name: !!python/object/apply:os.system ['touch pwned']")),
    Row("a NUL byte", RUN, "no valid YAML: special characters", _space("tiny", b"ti\0ny")),
    Row("UTF-16", RUN, "must be text in UTF-8", _write("space.yaml", SPACE.encode("utf-16"))),
    Row("Latin-1", RUN, "must be text in UTF-8", _space("name: tiny", b"name: tiny # gr\xfc\xdfe")),
    Row("a picture for a space", "run voc/JPEGImages/p0.png", "p0.png: must be text in UTF-8"),
    Row("a folder for a space", "run .", "error: .: is a folder, not a file"),
    Row("a mistyped name", "run voc_unett", "did you mean 'voc_unet'?"),
    Row("an empty file", RUN, "is empty", _write("space.yaml", "")),
    Row("a list", RUN, "must be a mapping with the sections name", _write("space.yaml", "- a\n- b\n")),
    Row("two documents", RUN, "expected a single document", _write("space.yaml", f"{SPACE}---\n{SPACE}")),
    Row("a bracket that is not closed", RUN, "no valid YAML", _write("space.yaml", "name: {x\n")),
    Row("nested 2000 deep", RUN, "nested too deeply", _write("space.yaml", "a: " + "{a: " * 2000 + "}" * 2000)),
    Row("a number of 5000 digits", RUN, "space.yaml:4: search.trials: must be a",
        _space("trials: 3", f"trials: {'9' * 5000}")),
    Row("an infinite bound", RUN, "must be a finite number, but got inf", _space("1.0e-1", "1.0e999")),
    Row("a bound that is no number", RUN, "`low < high` must hold, but got low=nan", _space("1.0e-4", ".nan")),
    Row("a key twice", RUN, "space.yaml:5: search: stands there twice: first in line 4",
        _space("parameters:", "search: {}\nparameters:")),
    Row("a merge key", RUN, "merge keys (<<) are not used here", _space("name: tiny", "name: tiny\n<<: {a: 1}")),
    Row("an unknown parameter", RUN, "learning_rate: is no field of TrainConfig (did you mean 'lr'?)",
        _space("  lr:", "  learning_rate:")),
    Row("an unknown section", RUN, "did you mean 'parameters'?", _space("parameters:", "parameter:")),
    Row("a condition on what stands below", RUN, "move optimizer above momentum",
        _space(f"{OPTIMIZER}{MOMENTUM}", f"{MOMENTUM}{OPTIMIZER}")),
    Row("a condition that never holds", RUN, "optimizer can never be this: it is adam | sgd",
        _space("when: {optimizer: sgd}", "when: {optimizer: rmsprop}")),
    Row("no choice", RUN, "must hold at least one value, but got []", _space("[adam, sgd]", "[]")),
    Row("a logarithm from 0", RUN, "`low > 0` must hold with `log: true`", _space("1.0e-4", "0")),
    Row("fixed and searched", RUN, "parameters.lr: is searched here and fixed under train",
        _space("epochs: 2", "epochs: 2, lr: 0.1")),
    Row("a first point outside of its range", RUN, "try_first.0.lr: must lie in float 0.0001 .. 0.1",
        _write("space.yaml", f"{SPACE}try_first: [{{lr: 5}}]\n")),
    Row("a path for a name", RUN, "name: must be 1 to 64 letters", _space("tiny", "../../tiny")),
    Row("a grid over a range", f"{RUN} --sampler grid", "the grid sampler needs a `step` for a float range"),
    Row("an unknown transform", RUN, "did you mean 'HorizontalFlip'?",
        _space("augmentation: none", "augmentation: [{HorizontalFlp: {p: 0.5}}]")),
    Row("an unknown encoder", RUN, "did you mean 'resnet18'?", _space("conv_stack", "fpn, encoder: resnet1")),
    Row("own code that is not there", RUN, "must be importable as module:attribute, but got no_such_module:net",
        _space("conv_stack", "'no_such_module:net'")),
    Row("own code with a slip", RUN, "SyntaxError: ",
        _all(_space("conv_stack", "'own_slip:net'"), _write("own_slip.py", "def net(:\n"))),
    Row("two weights for three classes", RUN, "there must be one weight per class: the data set has 3 classes",
        _space("epochs: 2", "epochs: 2, class_weights: [1, 2]")),
)  # fmt: skip

DATA = (
    Row("no such folder", f"{RUN} --data nowhere", "nowhere: the data set's folder must exist"),
    Row("a file for the folder", f"{RUN} --data space.yaml", "space.yaml: the data set must be a folder"),
    Row("a link to nowhere", f"{RUN} --data link", "the data set's folder must exist", _link("link", "gone")),
    Row("the folder above", f"{RUN} --data .", "JPEGImages: the voc layout needs this folder"),
    Row("a mistyped folder", RUN, "did you mean 'SegmentationClas'?",
        _move("voc/SegmentationClass", "voc/SegmentationClas")),
    Row("an image without a mask", RUN, "p0: there is no mask of this name, and the train list names it",
        _remove(MASK)),
    Row("a mask without an image", RUN, "p0: there is no image of this name, and the train list names it",
        _remove(IMAGE)),
    Row("no list", RUN, "val.txt: no such list (valid: train)", _remove(VAL)),
    Row("an empty list", RUN, "the val part must have at least one image", _write(VAL, "\n \n")),
    Row("a list in UTF-16", RUN, "val.txt: the list cannot be read", _write(VAL, "p6\np7\n".encode("utf-16"))),
    Row("a name twice", RUN, "train.txt:2: each name may be listed once, but got 'p0' again",
        _write(TRAIN, "p0\np0\n")),
    Row("a name in two lists", RUN, "'p0' must be in one part, once, but got train and val",
        _write(VAL, "p0\np7\n")),
    Row("names with suffixes", RUN, "p6.png: there is no image of this name", _write(VAL, "p6.png\np7.png\n")),
    Row("one picture in two parts", RUN, "the same image must not be in two parts: it is in val, and in train as",
        _copy(IMAGE, "voc/JPEGImages/p7.png")),
    Row("an image that links to nowhere", RUN, "p0.png: the file cannot be read: No such file",
        _all(_remove(IMAGE), _link(IMAGE, "gone.png"))),
    Row("a mask that links to itself", RUN, "p0.png: the file cannot be read: Too many levels",
        _all(_remove(MASK), _link(MASK, "p0.png"))),
    Row("two images of one name", RUN, "there must be one image 'p0', but got p0.bmp and p0.png",
        _copy(IMAGE, "voc/JPEGImages/p0.bmp")),
    Row("a mask of another size", RUN, "the mask must be as large as its image p0.png, 48x40, but got 9x7",
        _picture(MASK, _grey(0, 7, 9))),
    Row("a mask on its side", RUN, "but got 40x48 (sides swapped", _picture(MASK, _grey(0, 48, 40))),
    Row("an unknown label", RUN, "labels must be 0 to 2, or 255 for void, but got 7", _picture(MASK, _grey(7))),
    Row("colours where labels are meant", RUN, "an index mask must be a palette or grey picture, but got RGB",
        _copy(IMAGE, MASK)),
    Row("classes without colours", f"{RUN} --set data.mask_format=color", "'class_0' needs a color in color masks"),
    Row("a colour of no class", f"{RUN} --set data.mask_format=color "
        "--set 'data.classes=[{name: a, colors: [[0, 0, 0]]}, {name: b, colors: [[1, 1, 1]]}]'",
        "every color of a mask must belong to a class or to ignore_colors, but got [2, 2, 2] in 390 pixels"),
    Row("too many classes", f"{RUN} --set data.classes=100000000", "2 to 255 classes are possible, but got 1000000"),
    Row("a single class", f"{RUN} --set data.classes=1", "2 to 255 classes are possible, but got 1"),
    Row("a background of no class", f"{RUN} --set data.background=9", "must be the index of one of the 3 classes"),
    Row("more folds than images", f"{RUN} --set 'data.folds={{k_fold: 50}}'",
        "every fold needs images to train on and to validate on, and train and val have 8"),
    Row("a share that leaves nothing", f"{RUN} --set data.val=0.9999",
        "the train part must have at least one image"),
    Row("folders: a mask without an image", FOLDERS, "b.png: there is no image 'b'",
        _all(_pairs, _remove("pairs/images/b.png"))),
    Row("folders: nothing in them", FOLDERS, "images: no image (.jpg, .jpeg, .png",
        _all(_folder("pairs/images"), _folder("pairs/masks"))),
    Row("own layout that raises", f"{RUN} --set data.layout=own_raises:pairs", "the layout raised KeyError: 'x'",
        _write("own_raises.py", "def pairs(data): raise KeyError('x')")),
    Row("own layout that gives nothing", f"{RUN} --set data.layout=own_none:pairs",
        "must return a dict from part to a list of", _write("own_none.py", "def pairs(data): return None")),
    Row("data check of a broken set", "data check space.yaml", "p0: there is no mask of this name", _remove(MASK)),
)  # fmt: skip

UNREADABLE = "p0.png: the file cannot be read as a picture"
IMAGES = (
    Row("an image of 0 bytes", RUN, f"JPEGImages/{UNREADABLE}", _write(IMAGE, "")),
    Row("a mask of 0 bytes", RUN, f"SegmentationClass/{UNREADABLE}", _write(MASK, "")),
    Row("a torn image", RUN, UNREADABLE, _change(IMAGE, lambda content: content[:900])),
    Row("a torn mask", RUN, UNREADABLE, _change(MASK, lambda content: content[:-30])),
    Row("a flipped byte", RUN, UNREADABLE,
        _change(IMAGE, lambda content: content[:3000] + bytes([content[3000] ^ 255]) + content[3001:])),
    Row("a torn JPEG", RUN, "p0.jpg: the file cannot be read as a picture",
        _all(_remove(IMAGE), _write("voc/JPEGImages/p0.jpg", _encoded(NOISE, "JPEG")[:600]))),
    Row("a torn WebP", RUN, "p0.webp: the file cannot be read as a picture",
        _all(_remove(IMAGE), _write("voc/JPEGImages/p0.webp", _encoded(NOISE, "WEBP")[:-20]))),
    Row("a TIFF of rubbish", RUN, "p0.tif: the file cannot be read as a picture",
        _all(_remove(IMAGE), _write("voc/JPEGImages/p0.tif", b"II*\0" + b"\xff" * 60))),
    Row("a text named .png", RUN, UNREADABLE, _write(IMAGE, "this is no picture\n")),
    Row("a web page named .png", RUN, UNREADABLE, _write(IMAGE, "<html>404</html>")),
    Row("PostScript named .png", RUN, UNREADABLE, _write(IMAGE, POSTSCRIPT)),
    Row("a bomb: 60000x60000", RUN, "could be decompression bomb", _write(IMAGE, _png(60000, 60000))),
    Row("a bomb for a mask", RUN, "could be decompression bomb", _write(MASK, _png(60000, 60000))),
    Row("a bomb in a PNG's text", RUN, UNREADABLE,
        _write(IMAGE, _png(48, 40, (b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000)))))),
    Row("an image of floating point", RUN, "must have 8 or 16 bits per channel, but got floating point",
        _picture("voc/JPEGImages/p0.tif", _grey(0, kind=np.float32))),
    Row("an image of 32 bits", RUN, "an image must have 8 or 16 bits per channel",
        _picture("voc/JPEGImages/p0.tif", _grey(10**8, kind=np.int32))),
    Row("a mask of 16 bits", RUN, "labels must be 0 to 2, or 255 for void, but got 300",
        _picture(MASK, _grey(300, kind=np.uint16))),
    Row("EXIF turns the image alone", RUN, "is the EXIF orientation of the image missing in the mask?", _turned),
    Row("every image broken", "data check space.yaml", "8 problems",
        _all(*(_write(f"voc/JPEGImages/p{number}.png", "x") for number in range(8)))),
    Row("predict: a text", PREDICT, "a.png: the file cannot be read as a picture", _write("pictures/a.png", "x")),
    Row("predict: a bomb", PREDICT, "a.png: the file cannot be read as a picture",
        _write("pictures/a.png", _png(60000, 60000))),
    Row("predict: an empty folder", PREDICT, "pictures: no picture (.jpg, .jpeg, .png", _folder("pictures")),
    Row("predict: no such folder", PREDICT, "pictures: must be an existing picture or folder of pictures"),
    Row("predict: two of one name", PREDICT, "pictures need names of their own, but got a twice",
        _all(_copy(IMAGE, "pictures/a.png"), _copy(IMAGE, "pictures/a.bmp"))),
    Row("predict: over the pictures", "predict kept voc/JPEGImages -o voc/JPEGImages",
        "masks must not be written among the pictures"),
)  # fmt: skip

FLAGS = (
    Row("run: no trials", f"{RUN} --trials 0", "'--trials': 0 is not in the range x>=1"),
    Row("run: too many epochs", f"{RUN} --epochs 1000000000", "--epochs: must be less than or equal to 100000"),
    Row("run: no size", f"{RUN} --size big", "--size: size must be WIDTHxHEIGHT in pixels"),
    Row("run: too large", f"{RUN} --size 999999x999999", "--size: must be less than or equal to 8192"),
    Row("run: no time", f"{RUN} --time-budget soon", "90s, 30m, 1h30m or 2d, but got 'soon'"),
    Row("run: a seed beyond 32 bits", f"{RUN} --seed 4294967296", "is not in the range 0<=x<=4294967295"),
    Row("run: half a CPU", f"{RUN} --cpus-per-trial 0.5", "'--cpus-per-trial': '0.5' is not a valid integer range"),
    Row("run: a negative GPU", f"{RUN} --gpus-per-trial -1", "'--gpus-per-trial': -1.0 is not in the range x>=0"),
    Row("run: a mistyped sampler", f"{RUN} --sampler tpee", "'tpee' is not one of 'tpe', 'random', 'grid'"),
    Row("run: --set without a value", f"{RUN} --set train.epochs", "must be PATH=VALUE, such as train.epochs=10"),
    Row("run: --set of nothing known", f"{RUN} --set trian.epochs=3", "did you mean 'train'?"),
    Row("run: --set with a tag", f"{RUN} --set 'train.lr=!!python/name:os.system'", "YAML tags are not used here"),
    Row("run: best of none", f"{RUN} --keep-checkpoints best:0", "must be all or best:N, such as best:5"),
    Row("run: a mistyped flag", f"{RUN} --epoch 3", "Did you mean '--epochs'?"),
    Row("a mistyped command", "shwo kept", "Did you mean 'show'?"),
    Row("resume: a mistyped name", "resume kpet", "search kpet: does not exist in runs (did you mean 'kept'?)"),
    Row("warm start: a mistyped name", f"{WARM} kpet", "search kpet: does not exist in runs (did you mean 'kept'?)"),
    Row("warm start: the search itself", f"{WARM.replace('new', 'kept')} kept", "search kept: exists already in runs"),
    Row("warm start: a name that leads outside", f"{WARM} ../kept", "must be letters, digits"),
    Row("warm start: a sampler that does not heed it", f"{RUN} --warm-start kept",
        "is not heeded by the sampler random: random draws whatever was tried before"),
    Row("warm start: a grid", f"{RUN} --sampler grid --set parameters.lr.choice=[0.001,0.01] "
        "--set parameters.momentum=null --warm-start kept", "is not heeded by the sampler grid"),
    Row("warm start: CMA-ES", f"{RUN} --sampler cmaes --warm-start kept", "is not heeded by the sampler cmaes"),
    Row("warm start: another objective", f"{WARM} kept --set objective.metric=val_dice",
        "--warm-start kept: must have searched for the same: objective.metric is val_dice here and was val_miou there"),
    Row("warm start: nothing fits", f"{WARM} kept --set parameters.lr.float=[1.0,9.0]",
        "--warm-start kept: must have trials that can be used here: lr must be in float 1.0 .. 9.0, log here and was"),
    Row("warm start: a ledger that is torn", f"{WARM} kept", "malformed",
        _change("runs/kept/ledger.db", lambda content: content[: len(content) // 2])),
    Row("resume: what only run takes", "resume kept --trials 9", "No such option '--trials'"),
    Row("extend: by nothing", "extend kept --trials +0", "must be a number of further trials such as +20"),
    Row("enqueue: an unknown parameter", "enqueue kept learning_rate=0.1",
        "is no parameter of this space (valid: optimizer, momentum, lr)"),
    Row("enqueue: outside of the range", "enqueue kept lr=5", "enqueue lr: must lie in float 0.0001 .. 0.1"),
    Row("enqueue: what is fixed", "enqueue kept epochs=3", "enqueue epochs: is fixed at 2, not searched"),
    Row("enqueue: without its condition", "enqueue kept optimizer=adam momentum=0.9",
        "enqueue momentum: only has a meaning when optimizer = sgd"),
    Row("retry: which?", "retry kept", "say which: --failed, or --trial N"),
    Row("retry: a completed trial", "retry kept --trial 0", "0 is not trained again: it was completed"),
    Row("retry: no such trial", "retry kept --trial 99", "--trial: must be a trial, 0 to 1, but got 99"),
    Row("stop: not running", "stop kept", "search kept: is not running"),
    Row("stop: a trial that has ended", "stop kept --trial 0", "must not have ended, but got 0, which is completed"),
    Row("submit: a path of this machine", f"submit space.yaml --data voc --address {NOBODY}",
        "'--data': must be an absolute path on the cluster, but got 'voc'"),
    Row("submit: this machine's Ray", "submit voc_unet --local", "No such option '--local'"),
    Row("status: no address", "status", "must be the address of the head's dashboard, such as http://HEAD:8265"),
    Row("logs: of what?", "logs", "Missing argument 'NAME'"),
    Row("show: no such search", "show nothing", "search nothing: does not exist in runs (valid: kept)"),
    Row("export: no such trial", "export kept --trial 99 -o a.yaml", "must be a trial of kept (trials 0 to 1)"),
    Row("export: into a folder", "export kept -o voc", "voc: exists already (-o gives another folder)"),
    Row("export: weights that were dropped", "export kept -o model --trial 1",
        "trial 1 of kept: it has no weights: it is"),
    Row("export: a configuration cannot be registered", "export kept -o a.yaml --register m",
        "--register: needs a model folder, not a configuration, but got a.yaml"),
    Row("export: no name for a model", "export kept -o model --register a/b",
        "--register: must be a name without / and :, of 1 to 256 characters, but got 'a/b'"),
    Row("export: over a pipe", "export kept -o pipe", "pipe", _pipe("pipe")),
    Row("predict: weights that were dropped", "predict kept voc/JPEGImages -o masks --trial 1",
        "trial 1 of kept: it has no weights: it is "),
    Row("train: a space, no configuration", "train space.yaml", "must have config and data, as tunesearch export"),
    Row("train: no epochs", "train best.yaml --epochs 0", "'--epochs': 0 is not in the range x>=1"),
    Row("train: another training's folder", "train best.yaml -o half",
        "half.training: holds an unfinished training of another configuration or data set",
        _write("half.training/training.json", json.dumps({"what": {}, "run_id": None, "curve": []}))),
    Row("compare: by no field", "compare kept --by optimiser", "did you mean 'optimizer'?"),
    Row("compare: two forms", "compare kept --json --markdown", "--json and --markdown cannot be given together"),
    Row("ui: no port", "ui --port 99999", "'--port': 99999 is not in the range 1<=x<=65535"),
    Row("sync: no such search", "sync nothing", "search nothing: does not exist in runs"),
    Row("models: a mistyped network", "models show unett", "NAME: must be an architecture or module:function"),
    Row("data fetch: no such set", "data fetch voc2013", "must be one of voc2007, voc2012, but got 'voc2013'"),
)  # fmt: skip

KEPT = "runs/kept"
BEST = f"{KEPT}/trials/0000/best.safetensors"
MASKS = "predict kept voc/JPEGImages -o masks"
TRAIN_AGAIN = "train best.yaml -o new"
FILE = "weights/resnet18"
UNFIT = "resnet18.pth: must be a readable weight file"
WEIGHTS = (
    Row("no such file", f"{RUN} --encoder-weights weights", "--encoder-weights: must be an existing file or folder"),
    Row("a folder without the file", ENCODER, "must hold resnet18.safetensors or resnet18.pth, but got resnet34.pth",
        _write("weights/resnet34.pth", "x")),
    Row("a file of 0 bytes", ENCODER, UNFIT, _write(f"{FILE}.pth", "")),
    Row("a web page", ENCODER, UNFIT, _write(f"{FILE}.pth", "<html>404 not found</html>")),
    Row("a pointer of Git LFS", ENCODER, "resnet18.safetensors: must be a readable weight file",
        _write(f"{FILE}.safetensors", "version https://git-lfs.github.com/spec/v1\nsize 46830571\n")),
    Row("a .pth with code in it", ENCODER, UNFIT, _torch(lambda: {"conv1.weight": _Evil()})),
    Row("a pickle with code in it", ENCODER, UNFIT, _write(f"{FILE}.pth", pickle.dumps(_Evil(), protocol=2))),
    Row("a whole network", ENCODER, UNFIT, _torch(_network)),
    Row("a checkpoint around the weights", ENCODER, "must hold a state dict: names to tensors, but got dict",
        _torch(lambda: {"state_dict": _somebody(), "epoch": 3})),
    Row("a torn .pth", ENCODER, UNFIT, _all(_torch(_somebody), _change(f"{FILE}.pth", lambda content: content[:400]))),
    Row("a torn .safetensors", ENCODER, "resnet18.safetensors: must be a readable weight file",
        _all(_safetensors(f"{FILE}.safetensors"), _change(f"{FILE}.safetensors", lambda content: content[:-4]))),
    Row("a header of a terabyte", ENCODER, "resnet18.safetensors: must be a readable weight file",
        _write(f"{FILE}.safetensors", (2**40).to_bytes(8, "little") + b"{}")),
    Row("another encoder's .pth", ENCODER, "must fit the encoder resnet18", _torch(_somebody)),
    Row("another encoder's .safetensors", ENCODER, "must fit the encoder resnet18",
        _safetensors(f"{FILE}.safetensors")),
    Row("the trial's weights are torn", MASKS, "best.safetensors: must be a readable weight file",
        _change(BEST, lambda content: content[:300])),
    Row("the trial's weights are gone", MASKS, "trial 0 of kept: its weights are not kept", _remove(BEST)),
    Row("the trial's weights are a pickle", MASKS, "best.safetensors: must be a readable weight file",
        _write(BEST, pickle.dumps(_Evil()))),
    Row("another network's weights", MASKS, "best.safetensors: must hold the weights of its configuration",
        _safetensors(BEST)),
    Row("a ledger that is torn", "show kept", "malformed",
        _change(f"{KEPT}/ledger.db", lambda content: content[:20000])),
    Row("a ledger that is a text", "resume kept", "file is not a database", _write(f"{KEPT}/ledger.db", "no database")),
    Row("a ledger without its trials' configurations", "compare kept", "must hold a whole search",
        _ledger("delete from trial_user_attributes where key = 'config'")),
    Row("a ledger with an impossible one", "export kept -o a.yaml", "must hold a whole search",
        _ledger("""update trial_user_attributes set value_json = '{"lr": -1}' where key = 'config'""")),
    Row("experiment.yaml with a tag", "show kept", "could not determine a constructor for the tag",
        _write(f"{KEPT}/experiment.yaml", "!!python/object/apply:os.system ['touch pwned']")),
    Row("experiment.yaml torn", "resume kept", "experiment.yaml: parameters: is missing",
        _change(f"{KEPT}/experiment.yaml", lambda content: content[: content.index(b"parameters:")])),
    Row("split.json torn", "resume kept", "split.json: is no split of this version",
        _change(f"{KEPT}/split.json", lambda content: content[: len(content) // 2])),
    Row("split.json gone", "show kept", "split.json: the split cannot be read: No such file",
        _remove(f"{KEPT}/split.json")),
    Row("ledger.json torn", "show kept", "its ledger must answer", _write(f"{KEPT}/ledger.json", '{"url": ')),
    Row("a configuration with a tag", TRAIN_AGAIN, "could not determine a constructor for the tag",
        _replace("best.yaml", "config:\n", "config: !!python/object/apply:os.system ['touch pwned']\nold:\n")),
    Row("a configuration with a bad value", TRAIN_AGAIN, "best.yaml: config.lr: Input should be greater than 0",
        _replace("best.yaml", "  lr: ", "  lr: -")),
    Row("a configuration in UTF-16", TRAIN_AGAIN, "best.yaml: must be YAML",
        _change("best.yaml", lambda content: content.decode().encode("utf-16"))),
)  # fmt: skip

ADDRESS = "run space.yaml --name new --address"
HOST_PORT = "must be local, auto or the HOST:PORT of a Ray cluster that answers"
HEAD = "must be the address of the head's dashboard, such as http://HEAD:8265"
LEDGER = "must be postgresql://USER@HOST[:PORT]/DATABASE"
CLUSTER = (
    Row("run: nobody there", f"{ADDRESS} 127.0.0.1:1", f"--address: {HOST_PORT}, but got 127.0.0.1:1"),
    Row("run: a web address", f"{ADDRESS} http://127.0.0.1:8265", f"--address: {HOST_PORT}"),
    Row("run: no port", f"{ADDRESS} 127.0.0.1", f"--address: {HOST_PORT}"),
    Row("run: no such port", f"{ADDRESS} 127.0.0.1:99999", f"--address: {HOST_PORT}"),
    Row("run: no such host", f"{ADDRESS} nowhere.invalid:6379", f"--address: {HOST_PORT}"),
    Row("run: $RAY_ADDRESS of nobody", "run space.yaml --name new", f"$RAY_ADDRESS: {HOST_PORT}",
        environment={"RAY_ADDRESS": "127.0.0.1:1"}),
    Row("run: both", f"{RUN} --address auto", "--address: cannot be given with --local"),
    Row("submit: Ray's own port", "submit voc_unet --smoke --address ray://127.0.0.1:10001", HEAD),
    Row("submit: host and port alone", "submit voc_unet --smoke --address 127.0.0.1:8265", HEAD),
    Row("submit: no such port", "submit voc_unet --smoke --address http://127.0.0.1:99999", HEAD),
    Row("submit: a password in it", f"submit voc_unet --smoke --address http://u:{SECRET}@127.0.0.1:1",
        "--address: must have no password in it"),
    Row("submit: a password for the tracker", f"submit voc_unet --address {NOBODY} --tracking-uri http://u:{SECRET}@h",
        "--tracking-uri: must have no password in it"),
    Row("submit: a relative storage", f"submit voc_unet --smoke --storage runs --address {NOBODY}",
        "'--storage': must be an absolute path on the cluster"),
    Row("submit: a relative root", f"submit space.yaml --address {NOBODY}",
        "space.yaml:2: data.root: must be an absolute path on the cluster, but got voc"),
    Row("submit: a name for a shell", f"submit voc_unet --smoke --name 'a;rm -rf x' --address {NOBODY}",
        "--name: must be letters, digits"),
    Row("status: nobody there", f"status --address {NOBODY}", "must be the address of a Ray head that answers"),
    Row("status: a token of two words", f"status --address {NOBODY}",
        "$RAY_AUTH_TOKEN: must hold Ray's token: one word", environment={"RAY_AUTH_TOKEN": f"{SECRET} {SECRET}"}),
    Row("status: a token that is not there", f"status --address {NOBODY}", "Ray's token cannot be read: No such file",
        environment={"RAY_AUTH_TOKEN_PATH": "{here}/token"}),
    Row("logs: an address of nonsense", "logs kept", f"$RAY_API_SERVER_ADDRESS: {HEAD}",
        environment={"RAY_API_SERVER_ADDRESS": "nonsense"}),
    Row("storage: a file", f"{RUN} --storage space.yaml", "Directory 'space.yaml' is a file"),
    Row("storage: below a file", f"{RUN} --storage space.yaml/runs", "--storage: must be a folder"),
    Row("storage: the variable names a file", RUN, "must be a folder, but got",
        environment={"TUNESEARCH_STORAGE": "space.yaml"}),
    Row("storage: signs of a database's address", "list --storage 'a{b}'", "its path cannot have { } ? # or % in it"),
    Row("storage: nobody can write there", f"{RUN} --storage /proc/nowhere", "/proc/nowhere"),
    Row("cache: a file", "run voc_unet --smoke --local --name new", "the sample cannot be written",
        environment={"TUNESEARCH_CACHE": "{here}/space.yaml"}),
    Row("a name that leads outside", "run space.yaml --local --name ../new", "--name: must be letters, digits"),
    Row("a name that leads outside: show", "show ../kept", "must be letters, digits"),
    Row("a hidden name", "run space.yaml --local --name .new", "--name: must be letters, digits"),
    Row("a name that is taken", "run space.yaml --local --name kept", "tunesearch resume kept continues it"),
    Row("a second driver", "resume kept", "search kept: another process is driving it", _drive),
    Row("ledger: SQLite", f"{RUN} --ledger sqlite:///a.db", f"--ledger: {LEDGER}"),
    Row("ledger: a web address", f"{RUN} --ledger http://127.0.0.1:1/a", f"--ledger: {LEDGER}"),
    Row("ledger: no database", f"{RUN} --ledger postgresql://u@127.0.0.1:1", f"--ledger: {LEDGER}"),
    Row("ledger: nobody there", f"{RUN} --ledger postgresql://u@127.0.0.1:1/a", "the database must answer"),
    Row("ledger: a password", f"{RUN} --ledger postgresql://u:{SECRET}@127.0.0.1:1/a", "must not hold the password"),
    Row("ledger: a password elsewhere", f"{RUN} --ledger 'postgresql://u@127.0.0.1:1/a?password={SECRET}'",
        "must not hold the password"),
    Row("ledger: a password in the variable", RUN, "must not hold the password",
        environment={"TUNESEARCH_LEDGER": f"postgresql://u:{SECRET}@127.0.0.1:1/a"}),
    Row("MLflow: nobody there", f"sync kept --tracking-uri http://u:{SECRET}@127.0.0.1:1",
        "--tracking-uri: must be an MLflow that answers"),
)  # fmt: skip

GROUPS = {
    "spaces": SPACES,
    "data sets": DATA,
    "image files": IMAGES,
    "flags": FLAGS,
    "weights and checkpoints": WEIGHTS,
    "cluster and storage": CLUSTER,
}
ROWS = {f"{group}: {row.what}": row for group, rows in GROUPS.items() for row in rows}


# ----------------------------------------------------------------------------------------------------------- the checks


def test_the_table_is_as_long_as_promised() -> None:
    assert all(len(rows) >= 10 for rows in GROUPS.values())
    assert sum(map(len, GROUPS.values())) == len(ROWS) >= 60


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, epoch_metrics: Callable[..., Any]) -> Path:
    """A folder in which nothing is wrong; every row gets a copy."""
    from safetensors.torch import save_file

    from tunesearch import export, load_experiment
    from tunesearch.engine.options import SearchOptions
    from tunesearch.ledger.store import Ledger
    from tunesearch.segmentation.data.splits import freeze_split
    from tunesearch.segmentation.models import build_model

    here = tmp_path_factory.mktemp("whole")
    random = np.random.default_rng(0)
    mask = _grey(0)
    mask[5:20, 5:30], mask[22:35, 10:40] = 1, 2  # 390 pixels of class 2
    for number in range(8):
        _picture(f"voc/JPEGImages/p{number}.png", random.integers(0, 256, (40, 48, 3), np.uint8))(here)
        _picture(f"voc/SegmentationClass/p{number}.png", mask)(here)
    _write(TRAIN, "p0\np1\np2\np3\np4\np5\n")(here)
    _write(VAL, "p6\np7\n")(here)
    _write("space.yaml", SPACE)(here)

    experiment = load_experiment(here / "space.yaml", data_root=here / "voc")
    settings = SearchOptions(address="local", code=str(here))
    ledger = Ledger.create(here / "runs", "kept", experiment, freeze_split(experiment.data), settings.as_dict())
    for outcome, epochs in (("completed", 2), ("stopped", 1)):
        record = Asker(ledger).ask()
        assert record is not None
        for epoch in range(1, epochs + 1):
            metrics = epoch_metrics(epoch, 0.1 * epoch, val_iou=(0.1, 0.1, 0.1))
            ledger.commit_epoch(metrics, number=record.number, stopped=outcome == "stopped")
        ledger.end(record.number, outcome)
    best = ledger.trial_folder(0) / "best.safetensors"
    best.parent.mkdir()
    save_file(build_model(ledger.trials[0].config, 3).state_dict(), best)
    ledger.set_attribute("status", "interrupted")
    ledger.close()
    export("kept", here / "best.yaml", storage=here / "runs")
    return here


@pytest.fixture
def here(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a row's command runs; its end is Ray's beginning."""
    from tunesearch.engine import run

    def begun(*values: object, **named: object) -> None:
        pytest.fail("this input passes for a good one: Ray would be started now")

    folder = tmp_path / "here"
    shutil.copytree(whole, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith(("RAY_", "PG"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(run, "ray_session", begun)
    on_termination = signal.getsignal(signal.SIGTERM)
    yield folder
    signal.signal(signal.SIGTERM, on_termination)
    while _held:
        _held.pop().release()


def _files(here: Path) -> dict[str, str]:
    """Everything below a folder, by path: what it is and what it holds."""

    def holds(path: Path) -> str:
        if path.is_symlink():
            return f"link to {path.readlink()}"
        if path.is_file():
            return hashlib.sha256(path.read_bytes()).hexdigest()
        return "folder" if path.is_dir() else "no file"

    return {str(path.relative_to(here)): holds(path) for path in sorted(here.rglob("*"))}


def _prepared(row: Row, here: Path) -> dict[str, str]:
    """Make the row's bad input; gives its variables."""
    if row.make is not None:
        row.make(here)
    return {name: value.format(here=here) for name, value in row.environment.items()}


def _check(row: Row, here: Path, before: dict[str, str], code: int, out: str, err: str) -> str:
    """Hold what a command said and left against the row; gives its message."""
    assert code == row.code, err
    assert row.said in err
    for sign in ("Traceback", "unexpected ", "please report it", SECRET):
        assert sign not in out + err
    messages = re.findall(r"^(?:error|Error): .*(?:\n  .*)*", err, re.MULTILINE)
    assert len(messages) == 1, err
    assert _files(here) == before
    return str(messages[0])


@pytest.mark.parametrize("name", ROWS)
def test_a_bad_input_gets_one_clear_message(
    name: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    row = ROWS[name]
    for variable, value in _prepared(row, here).items():
        monkeypatch.setenv(variable, value)
    before = _files(here)
    with pytest.raises(SystemExit) as caught:
        main(shlex.split(row.command))
    out, err = capsys.readouterr()
    code = caught.value.code
    assert isinstance(code, int)
    message = _check(row, here, before, code, out, err)
    record_property("row", (name, code, message.replace(f"{here}/", "")))


@pytest.mark.slow
@pytest.mark.long
def test_the_command_line_itself(whole: Path, tmp_path: Path) -> None:
    """The second row of each group in a process of its own, all at the same time."""
    started = []
    for number, row in enumerate(rows[1] for rows in GROUPS.values()):
        here = tmp_path / str(number)
        shutil.copytree(whole, here)
        variables = {**os.environ, "HOME": str(tmp_path), **_prepared(row, here)}
        command = [sys.executable, "-m", "tunesearch", *shlex.split(row.command)]
        before = _files(here)
        process = subprocess.Popen(
            command, cwd=here, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append((row, here, before, process))
    for row, here, before, process in started:
        out, err = process.communicate(timeout=300)
        _check(row, here, before, process.returncode, out, err)


# ------------------------------------------------------------------------------------------------------ the table, told


class _Told:
    """A plugin of pytest that collects what the rows' commands said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for key, value in report.user_properties:
            if key == "row" and report.when == "call":
                name, code, message = value
                group, what = name.split(": ", 1)
                cells = (str(len(self.lines) + 1), group, what, f"`{_short(ROWS[name].command, 60)}`", str(code),
                         _short(message, LONGEST))  # fmt: skip
                self.lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")


def _short(text: str, longest: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


if __name__ == "__main__":
    told = _Told()
    ended = pytest.main([__file__, "-q", "-m", "not slow", "--no-header", *sys.argv[1:]], plugins=[told])
    print("\n| | group | what is wrong | command | exit | message |\n|---|---|---|---|---|---|")
    print("\n".join(told.lines))
    sys.exit(int(ended))
