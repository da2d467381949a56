"""Fetching from a server of our own, in a thread. Oracles: what was packed, and what the server counted."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from filelock import FileLock
from torchvision.datasets import voc

from tunesearch.errors import DataError, InputError
from tunesearch.segmentation.config import DataConfig
from tunesearch.segmentation.data import download as module
from tunesearch.segmentation.data.fetch import DATASETS, fetch
from tunesearch.segmentation.data.layouts import find_pairs

TAR = "VOCtrainval_11-May-2012.tar"


@dataclass
class Server:
    """Files by name; how the server misbehaves; what it was asked.

    Attributes:
        breaks: per answer to come, the bytes after which the connection is closed.
        ranges: whether parts of a file are known.
        honours_if_range: whether a changed file is noticed.
        requests: (method, first byte asked for, status, bytes sent).
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str = '"one"'
    breaks: list[int] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)
    ranges: bool = True
    honours_if_range: bool = True
    requests: list[tuple[str, int, int, int]] = field(default_factory=list)

    def gets(self) -> list[tuple[int, int, int]]:
        return [request[1:] for request in self.requests if request[0] == "GET"]


class Handler(BaseHTTPRequestHandler):
    state: Server

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_GET(self) -> None:
        self._answer("GET")

    def _answer(self, method: str) -> None:
        state, content = self.state, self.state.files.get(self.path.lstrip("/"))
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        if content is None or (method == "GET" and state.faults):
            status = state.faults.pop(0) if content is not None else 404
            state.requests.append((method, first, status, 0))
            self.send_error(status)
            return
        same = self.headers.get("If-Range") in (None, state.etag) or not state.honours_if_range
        partial = asked is not None and state.ranges and same
        body = content[first:] if partial else content
        self.send_response(206 if partial else 200)
        self.send_header("ETag", state.etag)
        self.send_header("Content-Length", str(len(body)))
        if partial:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if method == "GET" and state.breaks:
            body = body[: state.breaks.pop(0)]
        sent = self.wfile.write(body) if method == "GET" else 0
        state.requests.append((method, first, 206 if partial else 200, sent))

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running server, which torchvision's table names from then on; no pauses between attempts."""
    state = Server()
    running = ThreadingHTTPServer(("127.0.0.1", 0), type("Of", (Handler,), {"state": state}))
    state.url = f"http://127.0.0.1:{running.server_address[1]}"
    thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "WAITS", (0.0, 0.0))
    yield state
    running.shutdown()
    thread.join()
    running.server_close()


def _member(tar: tarfile.TarFile, name: str, content: bytes = b"", **kept: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in kept.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(content))


def _tar(folder: str, lists: dict[str, str], *members: dict[str, Any], size: int = 3000) -> bytes:
    """An archive in VOC layout with the images and masks that ``lists`` name, then ``members``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for part, names in lists.items():
            _member(tar, f"VOCdevkit/{folder}/ImageSets/Segmentation/{part}.txt", "\n".join(names).encode())
            for name in names:
                _member(tar, f"VOCdevkit/{folder}/JPEGImages/{name}.jpg", b"j" * size)
                _member(tar, f"VOCdevkit/{folder}/SegmentationClass/{name}.png", b"p" * 10)
        for member in members:
            _member(tar, **member)
    return buffer.getvalue()


def _offer(server: Server, monkeypatch: pytest.MonkeyPatch, content: bytes, key: str = "2012") -> None:
    """Put an archive on the server, and its address and sum into torchvision's table."""
    row = voc.DATASET_YEAR_DICT[key]
    server.files[row["filename"]] = content
    offered = {**row, "url": f"{server.url}/{row['filename']}", "md5": hashlib.md5(content).hexdigest()}
    monkeypatch.setitem(voc.DATASET_YEAR_DICT, key, offered)


@pytest.fixture
def content(server: Server, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """VOC2012 in small, on the server."""
    content = _tar("VOC2012", {"train": "ab", "val": "cd"})
    _offer(server, monkeypatch, content)
    return content


def _refused(root: Path, name: str = "voc2012") -> str:
    with pytest.raises(DataError) as caught:
        fetch(name, root)
    assert not list(root.glob("VOCdevkit/**/*"))
    return str(caught.value)


def test_the_table_is_torchvisions() -> None:
    """Its keys and folders are what we rely on."""
    for dataset in DATASETS.values():
        for key in dataset.archives:
            row = voc.DATASET_YEAR_DICT[key]
            assert Path(row["base_dir"]) == Path("VOCdevkit") / dataset.folder
            assert row["filename"].endswith(".tar")
            assert row["url"].endswith(row["filename"])


def test_fetched_once(server: Server, content: bytes, tmp_path: Path) -> None:
    """Everything is in its place, nothing else is left, and a second call asks nobody."""
    told: list[tuple[str, int, int]] = []
    folder = fetch("voc2012", tmp_path / "data", progress=lambda *step: told.append(step))
    assert folder == tmp_path / "data" / "VOCdevkit" / "VOC2012"
    assert (folder / "JPEGImages" / "a.jpg").read_bytes() == b"j" * 3000
    assert sorted(path.stem for path in (folder / "SegmentationClass").iterdir()) == list("abcd")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["VOCdevkit"]
    assert [path.name for path in folder.parent.iterdir()] == ["VOC2012"]
    pairs = find_pairs(DataConfig(root=folder))
    assert [len(pairs[part]) for part in ("train", "val")] == [2, 2]
    assert [step for step in told if step[0] == TAR][-1] == (TAR, len(content), len(content))
    assert told[-1] == (f"{TAR}: extracting", len(content), len(content))

    asked = len(server.requests)
    said: list[str] = []
    assert fetch("voc2012", tmp_path / "data", log=said.append) == folder
    assert said == [f"{folder} is there already"]
    assert len(server.requests) == asked


def test_voc2007_has_a_test_part(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two archives become one folder, beside the other year's."""
    _offer(server, monkeypatch, _tar("VOC2007", {"train": "a", "val": "b"}), "2007")
    _offer(server, monkeypatch, _tar("VOC2007", {"test": "c"}), "2007-test")
    (tmp_path / "VOCdevkit" / "VOC2012").mkdir(parents=True)
    folder = fetch("voc2007", tmp_path)
    assert {part: len(found) for part, found in find_pairs(DataConfig(root=folder, test="test")).items()} == {
        "train": 1, "val": 1, "test": 1,
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["VOCdevkit"]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["VOC2007", "VOC2012"]


def test_a_broken_download_goes_on(server: Server, content: bytes, tmp_path: Path) -> None:
    """Two connections break, and more than once as often as one is borne without a byte: no byte is sent twice."""
    server.breaks = [100, 200, 300, 400]
    fetch("voc2012", tmp_path)
    assert server.gets() == [
        (0, 200, 100), (100, 206, 200), (300, 206, 300), (600, 206, 400), (1000, 206, len(content) - 1000),
    ]  # fmt: skip


def test_the_command_given_again_goes_on(
    server: Server, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITS", ())
    server.breaks = [5000]
    message = _refused(tmp_path)
    assert "5.0 kB of" in message
    assert "the same command goes on from there" in message
    said: list[str] = []
    fetch("voc2012", tmp_path, log=said.append)
    assert server.gets() == [(0, 200, 5000), (5000, 206, len(content) - 5000)]
    assert any("going on at 5.0 kB" in line for line in said)


def test_a_server_without_ranges(server: Server, content: bytes, tmp_path: Path) -> None:
    server.ranges = False
    server.breaks = [5000]
    fetch("voc2012", tmp_path)
    assert server.gets() == [(0, 200, 5000), (5000, 200, len(content))]


@pytest.mark.parametrize("honest", [True, False], ids=["If-Range", "no If-Range"])
def test_a_file_that_changed_is_fetched_from_its_start(
    server: Server, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, honest: bool
) -> None:
    """By its ETag where the server knows If-Range, else by its length."""
    other = _tar("VOC2012", {"train": "x", "val": "y"}, size=30000)
    assert len(other) != len(content)
    monkeypatch.setattr(module, "WAITS", ())
    server.breaks = [5000]
    _refused(tmp_path)
    _offer(server, monkeypatch, other)
    server.etag, server.honours_if_range = '"two"', honest
    monkeypatch.setattr(module, "WAITS", (0.0,))
    folder = fetch("voc2012", tmp_path)
    assert sorted(path.stem for path in (folder / "JPEGImages").iterdir()) == ["x", "y"]
    assert server.gets()[-1] == ((5000, 200, len(other)) if honest else (0, 200, len(other)))


@pytest.mark.parametrize("status", [503, 429, 416])
def test_a_busy_server_is_asked_again(server: Server, content: bytes, tmp_path: Path, status: int) -> None:
    server.faults = [status]
    fetch("voc2012", tmp_path)
    assert [request[1] for request in server.gets()] == [status, 200]


def test_a_file_that_is_not_there(server: Server, content: bytes, tmp_path: Path) -> None:
    server.files.clear()
    assert "must be on the server, but got 404" in _refused(tmp_path)
    assert len(server.requests) == 1  # asking again would not help


def test_nobody_answers(content: bytes, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Port 9 of this machine, where nobody listens."""
    row = {**voc.DATASET_YEAR_DICT["2012"], "url": f"http://127.0.0.1:9/{TAR}"}
    monkeypatch.setitem(voc.DATASET_YEAR_DICT, "2012", row)
    said: list[str] = []
    with pytest.raises(DataError, match=r"must be reachable, but got Connection refused \(nothing has come yet\)"):
        fetch("voc2012", tmp_path, log=said.append)
    assert len(said) == 2  # WAITS
    assert not list(tmp_path.iterdir())


def test_a_wrong_sum(server: Server, content: bytes, tmp_path: Path) -> None:
    """Hand-worked: the sum of the altered content. The file is gone, so that the next call fetches it anew."""
    altered = bytes([content[0] ^ 1]) + content[1:]
    server.files[TAR] = altered
    message = _refused(tmp_path)
    assert f"must have the MD5 sum {hashlib.md5(content).hexdigest()}" in message
    assert f"got {hashlib.md5(altered).hexdigest()}" in message
    assert not list(tmp_path.glob("*.part*"))
    server.files[TAR] = content
    fetch("voc2012", tmp_path)


def test_an_archive_that_is_there(server: Server, content: bytes, tmp_path: Path) -> None:
    """Nobody is asked; it is the user's and stays, whole or not."""
    (tmp_path / TAR).write_bytes(content[:-1])
    assert "it was there before: remove it" in _refused(tmp_path)
    (tmp_path / TAR).write_bytes(content)
    fetch("voc2012", tmp_path)
    assert (tmp_path / TAR).read_bytes() == content
    assert not server.requests


def test_killed_after_the_download(server: Server, content: bytes, tmp_path: Path) -> None:
    """The whole part lies there, and a half extracted folder: nothing is fetched again."""
    (tmp_path / f"{TAR}.part").write_bytes(content)
    (tmp_path / f"{TAR}.part.of").write_text(f'{len(content)} "one"')
    (tmp_path / "VOCdevkit" / ".VOC2012.new" / "VOCdevkit" / "VOC2012").mkdir(parents=True)
    folder = fetch("voc2012", tmp_path)
    assert not server.requests
    assert [path.name for path in folder.parent.iterdir()] == ["VOC2012"]
    assert not list(tmp_path.glob("*.part*"))


BAD_MEMBERS: dict[str, dict[str, Any]] = {
    "parent": {"name": "../escaped"},
    "detour": {"name": "VOCdevkit/../../escaped"},
    "absolute": {"name": "/escaped"},
    "symbolic link": {"name": "VOCdevkit/link", "type": tarfile.SYMTYPE, "linkname": "../../../escaped"},
    "absolute link": {"name": "VOCdevkit/link", "type": tarfile.SYMTYPE, "linkname": "/etc"},
    "hard link": {"name": "VOCdevkit/link", "type": tarfile.LNKTYPE, "linkname": "../escaped"},
    "device": {"name": "VOCdevkit/device", "type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3},
    "pipe": {"name": "VOCdevkit/pipe", "type": tarfile.FIFOTYPE},
}


@pytest.mark.parametrize("case", BAD_MEMBERS)
def test_members_that_do_not_belong_there(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """The message names the member; nothing of the archive is kept, inside or outside."""
    _offer(server, monkeypatch, _tar("VOC2012", {"train": "a", "val": "b"}, BAD_MEMBERS[case]))
    message = _refused(tmp_path / "data")
    assert BAD_MEMBERS[case]["name"] in message
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize(
    ("archive", "said"),
    [
        (_tar("VOC2012", {"train": "a"}), "lacks ImageSets/Segmentation/val.txt"),
        (b"no tar at all", "must be a tar of files and folders"),
    ],
)
def test_archives_that_are_not_the_data_set(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: bytes, said: str
) -> None:
    _offer(server, monkeypatch, archive)
    assert said in _refused(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_whole_is_left_alone(server: Server, content: bytes, tmp_path: Path) -> None:
    folder = fetch("voc2012", tmp_path)
    (folder / "JPEGImages" / "b.jpg").unlink()
    (folder / "JPEGImages" / "d.jpg").unlink()
    with pytest.raises(DataError, match=r"lacks JPEGImages/b.jpg and 1 more files \(move it away"):
        fetch("voc2012", tmp_path)
    assert (folder / "JPEGImages" / "a.jpg").is_file()


def test_too_little_space(server: Server, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hand-worked: 30720 bytes to fetch and 1.1 times that extracted are 64512; with 5000 there already, 59512."""
    assert len(content) == 30720
    usage = shutil.disk_usage(tmp_path)
    free = [64511, 64513, 59511, 59513]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free.pop(0)))
    monkeypatch.setattr(module, "WAITS", ())
    assert "needs 64.5 kB of free space, for the archives and what is in them" in _refused(tmp_path)
    assert not server.gets()
    server.breaks = [5000]
    assert "must be reachable" in _refused(tmp_path)
    assert "needs 59.5 kB" in _refused(tmp_path)
    fetch("voc2012", tmp_path)


def test_the_disk_is_full(server: Server, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reported in the system's words; the system is the one that fails, on a file that is always full."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    (tmp_path / f"{TAR}.part").symlink_to(full)
    monkeypatch.setattr(module.Download, "discard", lambda self: None)
    assert f"must be writable: {os.strerror(errno.ENOSPC)}" in _refused(tmp_path)


def test_two_at_once_are_refused(server: Server, content: bytes, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".voc2012.lock"):
        assert "another process is fetching voc2012" in _refused(tmp_path)
    assert not server.requests


@pytest.mark.parametrize(
    ("name", "hint"), [("voc2021", "did you mean 'voc2012'?"), ("cityscapes", "must be one of voc2007, voc2012, but")]
)
def test_an_unknown_name(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(InputError, match=re.escape(hint)):
        fetch(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()
