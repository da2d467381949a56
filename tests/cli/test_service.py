"""``tunesearch submit``, ``status`` and ``logs`` without a cluster: what is refused here, and what a job is given.

With a cluster: tests/search/test_jobs.py. Oracles: a socket that notes whether anybody called, and ``tunesearch run``.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from tunesearch.cli import cli, running, service
from tunesearch.engine import jobs, jobs_api
from tunesearch.experiment import load_experiment

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own, about itself


@pytest.fixture(autouse=True)
def _nothing_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", jobs_api.ADDRESS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A listener where a head might be, which never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        monkeypatch.setenv(jobs_api.ADDRESS, f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield listener


REFUSED = {
    "unknown space": (["voc_unett"], "did you mean 'voc_unet'?"),
    "no such file": (["nowhere.yaml"], "nowhere.yaml"),
    "bad size": (["voc_unet", "--size", "12"], "--size: size must be WIDTHxHEIGHT"),
    "bad time": (["voc_unet", "--time-budget", "soon"], "90s, 30m, 1h30m"),
    "bad field": (["voc_unet", "--set", "train.epoch=3"], "--set train.epoch"),
    "bad name": (["voc_unet", "--name", "../up"], "--name: must be letters"),
    "a path of this machine": (["voc_unet", "--data", "data/voc"], "must be an absolute path on the cluster"),
    "a storage of this machine": (["voc_unet", "--storage", "runs"], "must be an absolute path on the cluster"),
    "weights of this machine": (["voc_unet", "--encoder-weights", "w"], "must be an absolute path on the cluster"),
    "no data": (["voc_unet", "--smoke", "--data", "/d"], "a smoke run brings its own data"),
    "this machine's Ray": (["voc_unet", "--local"], "No such option '--local'"),
    "a warm start that is not heeded": (
        ["voc_unet", "--sampler", "random", "--warm-start", "a"], "--warm-start: is not heeded by the sampler random",
    ),
    "a password in the tracker": (["voc_unet", "--tracking-uri", "http://u:geheim@h"], "--tracking-uri: must have no"),
    "a password in a root": (["voc_unet", "--set", "data.root=s3://u:geheim@h/x"], "--set: must have no password"),
    "resumed with a space's option": (["a", "--resume", "--trials", "3"], "--trials cannot be given with --resume"),
    "resumed under a name": (["a", "--resume", "--name", "b"], "--name cannot be given with --resume"),
    "resumed by no name": (["a/b", "--resume"], "must be letters, digits"),
    "code of a new search": (["voc_unet", "--code", "."], "--code is for --resume"),
    "no folder": (["a", "--resume", "--code", "/nowhere"], "does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_check_is_refused_here(
    silence: socket.socket, run_cli: Callable[..., tuple[int, str, str]], case: str
) -> None:
    arguments, said = REFUSED[case]
    code, out, err = run_cli("submit", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert "geheim" not in err
    with pytest.raises(BlockingIOError):
        silence.accept()


def test_a_relative_root_means_nothing_on_the_cluster(
    silence: socket.socket, tiny_space: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    text = tiny_space.read_text().replace("{layout: sample}", "{layout: voc, root: VOC2012}")
    tiny_space.write_text(text)
    code, _, err = run_cli("submit", tiny_space)
    assert code == 2
    assert f"{tiny_space}:3: data.root: must be an absolute path on the cluster, but got VOC2012" in err
    code, _, err = run_cli("submit", tiny_space, "--set", "data.root=elsewhere")
    assert "--set data.root: data.root: must be an absolute path on the cluster, but got elsewhere" in err
    with pytest.raises(BlockingIOError):
        silence.accept()


def test_a_folder_that_ray_would_not_take(
    silence: socket.socket, tiny_space: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    (tiny_space.parent / "runs").mkdir()
    for name in ("runs/kept.bin", "extra.bin"):
        with (tiny_space.parent / name).open("wb") as file:
            file.truncate(jobs.MOST_BYTES)
    code, _, err = run_cli("submit", tiny_space)
    assert code == 2
    assert f"{tiny_space.parent}: is sent with your own modules, and Ray takes at most 100 MB" in err
    with pytest.raises(BlockingIOError):
        silence.accept()
    (tiny_space.parent / "extra.bin").unlink()
    jobs._require_small(tiny_space.parent)  # what lies in runs/ is not sent


def test_every_option_of_run_and_resume_is_offered() -> None:
    def options(command: click.Command) -> set[str | None]:
        return {option.name for option in command.params if isinstance(option, click.Option)}

    assert options(running.run) | options(running.resume) == options(service.submit) - {"resume", "code"} | {"local"}


def test_options_reach_the_job_as_they_were_written() -> None:
    """Oracle: ``run`` reads from the job's arguments what it reads from the user's."""
    words = ["voc_unet", "--trials=7", "--epochs", "3", "--time-budget", "1h30m", "--gpus-per-trial", "0.25",
             "--keep-checkpoints", "best:5", "--set", "train.size=64x64", "--set", "data.root='/a b; rm'",
             "--smoke", "--storage", "/mnt/runs", "--data", "~/VOC", "--sampler", "random", "--seed", "0",
             "--warm-start", "a", "--warm-start=b"]  # fmt: skip
    context = service.submit.make_context("submit", list(words))
    with context.scope():
        passed = service._arguments(running.run)
    assert cli.commands["run"].make_context("run", ["voc_unet", *passed]).params == (
        cli.commands["run"].make_context("run", list(words)).params
    )


def test_only_what_the_job_needs_is_sent(tiny_space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A space whose folder holds no modules that it names goes alone: the folder may be somebody's home."""

    def sent(space: object, *overrides: str) -> tuple[str, list[str] | None]:
        with service._sent_along(str(space), load_experiment(str(space), overrides=overrides)) as (there, folder):
            return there, None if folder is None else sorted(path.name for path in folder.iterdir())

    assert sent(tiny_space) == ("tiny.yaml", ["tiny.yaml", "tiny_model.py"])
    assert sent(tiny_space, "train.architecture=unet") == ("tiny.yaml", ["tiny.yaml"])
    assert sent(tiny_space, "train.architecture=installed.parts:net") == ("tiny.yaml", ["tiny.yaml"])
    monkeypatch.chdir(tmp_path)
    assert sent("voc_unet") == ("voc_unet", None)
    monkeypatch.chdir(tiny_space.parent)
    assert sent("tiny.yaml") == ("tiny.yaml", ["tiny.yaml", "tiny_model.py"])
    assert sent("voc_unet", "train.loss=tiny_model:other_loss") == ("voc_unet", ["tiny.yaml", "tiny_model.py"])


ADDRESSES = {
    "none": ("", "--address: must be the address of the head's dashboard, such as http://HEAD:8265 (or set $RAY_API"),
    "no scheme": ("127.0.0.1:8265", "must be the address of the head's dashboard"),
    "Ray's own port": ("ray://h:10001", "must be the address of the head's dashboard"),
    "a module": ("os://h", "must be the address of the head's dashboard"),
    "no port": ("http://h:8265x", "must be the address of the head's dashboard"),
    "a password": ("http://u:geheim@h:8265", "must have no password in it"),
    "nobody there": ("http://127.0.0.1:1", "must be the address of a Ray head that answers"),
    "no such host": ("http://nowhere.invalid:8265", "must be the address of a Ray head that answers"),
}


@pytest.mark.parametrize("case", ADDRESSES)
def test_an_address_of_no_head(run_cli: Callable[..., tuple[int, str, str]], case: str) -> None:
    address, said = ADDRESSES[case]
    code, out, err = run_cli("status", *(["--address", address] if address else []))
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert "geheim" not in err


def test_a_head_that_does_not_answer(
    silence: socket.socket, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setattr(jobs_api, "_TIMEOUT", 1)  # Ray's own client would wait for ever
    code, _, err = run_cli("logs", "x", "-f")
    assert code == 2
    assert "must be the address of a Ray head that answers" in err


def test_the_given_address_wins(monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., tuple[int, str, str]]) -> None:
    """Ray's own client would take the variable's."""
    monkeypatch.setenv(jobs_api.ADDRESS, "http://127.0.0.1:2")
    code, _, err = run_cli("status", "--address", "http://127.0.0.1:1")
    assert code == 2
    assert "http://127.0.0.1:1 " in err
    assert os.environ[jobs_api.ADDRESS] == "http://127.0.0.1:2"


@pytest.mark.parametrize(
    ("address", "risky"),
    [
        ("http://127.0.0.1:8265", False),
        ("http://localhost:8265", False),
        ("http://[::1]:8265", False),
        ("https://head.example:8265", False),
        ("http://head.example:8265", True),
        ("http://192.0.2.7:8265", True),
    ],
)
def test_a_token_that_would_travel_in_the_open(monkeypatch: pytest.MonkeyPatch, address: str, risky: bool) -> None:
    assert jobs_api.exposure(address) == ""  # there is no token
    monkeypatch.setenv("RAY_AUTH_TOKEN", "geheim")
    said = jobs_api.exposure(address)
    assert ("unencrypted" in said) == risky
    assert "geheim" not in said


@pytest.mark.parametrize("token", ["two words", "two\nlines", "schlüssel", "\x00"])
def test_a_token_that_is_none_is_not_told(
    run_cli: Callable[..., tuple[int, str, str]], tmp_path: Path, token: str
) -> None:
    (tmp_path / ".ray").mkdir()
    file = tmp_path / ".ray" / "auth_token"
    file.write_text(token)
    code, _, err = run_cli("status", "--address", "http://127.0.0.1:1")
    assert code == 2
    assert err == f"error: {file}: must hold Ray's token: one word\n"


def test_without_rays_own_parts(monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., tuple[int, str, str]]) -> None:
    """As `pip install ray` without [default] leaves it."""
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    code, _, err = run_cli("status", "--address", "http://127.0.0.1:1")
    assert code == 2
    assert "pip install 'tunesearch[cluster]'" in err
