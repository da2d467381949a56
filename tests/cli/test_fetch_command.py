"""``tunesearch data fetch`` against a server of the standard library, in a thread."""

from __future__ import annotations

import hashlib
import io
import shlex
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from torchvision.datasets import voc

from tunesearch.cli import main
from tunesearch.cli.fetch import SPACES
from tunesearch.experiment import load_experiment
from tunesearch.segmentation.data import download
from tunesearch.segmentation.data import fetch as module

TAR = "VOCtrainval_11-May-2012.tar"


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small VOC2012 that torchvision's table names, on a running server."""
    served = tmp_path / "served"
    served.mkdir()
    with tarfile.open(served / TAR, "w") as tar:
        for name, content in {
            "ImageSets/Segmentation/train.txt": b"a", "ImageSets/Segmentation/val.txt": b"b",
            "JPEGImages/a.jpg": b"1", "JPEGImages/b.jpg": b"2",
            "SegmentationClass/a.png": b"3", "SegmentationClass/b.png": b"4",
        }.items():  # fmt: skip
            info = tarfile.TarInfo(f"VOCdevkit/VOC2012/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=served))
    row = {
        **voc.DATASET_YEAR_DICT["2012"],
        "url": f"http://127.0.0.1:{server.server_address[1]}/{TAR}",
        "md5": hashlib.md5((served / TAR).read_bytes()).hexdigest(),
    }
    monkeypatch.setitem(voc.DATASET_YEAR_DICT, "2012", row)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "WAITS", (0.0,))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served / TAR
    server.shutdown()
    thread.join()
    server.server_close()


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["data", "fetch", *(str(argument) for argument in arguments)])
    captured = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, captured.out, captured.err


def test_it_says_what_to_do_next(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder and the next commands alone on stdout, what happened on stderr; given again, the same at once."""
    root = tmp_path / "my data"
    code, out, err = _run(capsys, "voc2012", "--root", root)
    assert code == 0
    folder = root / "VOCdevkit" / "VOC2012"
    quoted = shlex.quote(str(folder))
    assert out.splitlines() == [
        f"voc2012: {folder}",
        f"next: tunesearch data check voc_unet --data {quoted}",
        f"      tunesearch run voc_unet --data {quoted}",
    ]
    assert f"{TAR}: fetching" in err
    assert f"{TAR}: 100 %" in err
    assert "\x1b" not in err
    archive.unlink()
    code, again, err = _run(capsys, "voc2012", "--root", root)
    assert (code, again) == (0, out)
    assert err == f"{folder} is there already\n"


def test_every_data_set_has_a_search_space_to_begin_with() -> None:
    """Of the shipped ones; its own root is where the data set lands by default, and its lists are there."""
    assert set(SPACES) == set(module.DATASETS)
    for name, space in SPACES.items():
        data = load_experiment(space).data
        dataset = module.DATASETS[name]
        assert data.root == Path("~/data/VOCdevkit").expanduser() / dataset.folder
        parts = (data.train or "train", data.val or "val", data.test)
        assert {part for part in parts if isinstance(part, str)} <= set(dataset.lists)


def test_the_home_folder_is_the_default(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _run(capsys, "voc2012")[0] == 0
    assert (tmp_path / "data" / "VOCdevkit" / "VOC2012" / "JPEGImages" / "a.jpg").is_file()


@pytest.mark.parametrize("case", ["unknown", "wrong sum", "not there", "no connection", "root is a file"])
def test_one_clear_message(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """Exit code 2, no traceback, nothing on stdout, no data set."""
    name, root, said = "voc2012", tmp_path / "root", ""
    if case == "unknown":
        name, said = "voc2013", "did you mean 'voc2012'?"
    elif case == "wrong sum":
        archive.write_bytes(archive.read_bytes() + b"more")
        said = "the file was removed; the same command fetches it anew"
    elif case == "not there":
        archive.unlink()
        said = "must be on the server, but got 404"
    elif case == "no connection":
        row = {**voc.DATASET_YEAR_DICT["2012"], "url": f"http://127.0.0.1:9/{TAR}"}  # where nobody listens
        monkeypatch.setitem(voc.DATASET_YEAR_DICT, "2012", row)
        said = "must be reachable, but got Connection refused"
    else:
        root.touch()
        said = "--root"
    code, out, err = _run(capsys, name, "--root", root)
    assert code == 2, err
    assert said in err
    assert "Traceback" not in err
    assert not out
    assert not root.is_dir() or not list(root.iterdir())
