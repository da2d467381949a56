"""Searches sent to a real Ray head on loopback that wants a token. Oracles: the ledgers in the storage, the head's own
list of jobs, and the trainer's log."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tunesearch
from tunesearch.engine import jobs, jobs_api
from tunesearch.errors import InputError, SearchNameError

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.filterwarnings("ignore")]  # Ray's own, about itself


@dataclass(frozen=True)
class Head:
    """A head and what its searches share.

    Attributes:
        address: of its Jobs API.
        token: what it wants.
        storage: where its searches are kept.
    """

    address: str
    token: str
    storage: Path

    def jobs(self) -> list[dict[str, Any]]:
        """The head's own list, with everything that it tells."""
        from ray.job_submission import JobSubmissionClient

        client = JobSubmissionClient(self.address, headers={"Authorization": f"Bearer {self.token}"})
        return [details.dict() for details in client.list_jobs()]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head with two CPUs and a token in a private file; this process's variables name that file and its address."""
    folder = tmp_path_factory.mktemp("head")
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    temporary = tempfile.mkdtemp(prefix="ts-head-", dir="/tmp")
    names = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port",
             "dashboard-agent-grpc-port", "metrics-export-port")  # fmt: skip
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    binaries = Path(sys.executable).parent
    command = [str(binaries / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=2",
               "--dashboard-host=127.0.0.1", f"--temp-dir={temporary}", "--disable-usage-stats",
               "--object-store-memory=100000000", *(f"--{name}={port}" for name, port in ports.items())]  # fmt: skip
    variables = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    variables["PATH"] = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    mine = {"RAY_AUTH_TOKEN_PATH": str(token), jobs_api.ADDRESS: address}
    before = {name: os.environ.get(name) for name in (*mine, "RAY_AUTH_MODE")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True)
    try:
        os.environ.update(mine)
        os.environ.pop("RAY_AUTH_MODE", None)
        _wait(lambda: _answers(address) or process.poll() is not None)
        assert process.poll() is None, (folder / "log").read_text()
        yield Head(address, token.read_text(), folder / "runs")
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _end(process)
        shutil.rmtree(temporary, ignore_errors=True)


def _answers(address: str) -> bool:
    try:
        return jobs.states(address) == []
    except InputError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the head, which ends what it started; jobs end with the processes that watch over them."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=40)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=20)


def _wait(condition: Callable[[], Any], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.3)


def test_a_search_outlives_the_process_that_sent_it(
    head: Head, tiny_space: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    options = ["--storage", str(head.storage), "--cpus-per-trial", "1", "--max-concurrent", "1", "--trials", "2"]
    sent = subprocess.run(
        [sys.executable, "-m", "tunesearch", "submit", tiny_space.name, "--name", "first", *options],
        cwd=tiny_space.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        start_new_session=True,
    )
    [job] = jobs.states(head.address)
    assert (job.name, job.live) == ("first", True)  # the process above has ended: the search has not
    for command in ("logs first -f", "status first", "stop first"):
        assert f"tunesearch {command} --address {head.address}" in sent.stdout

    code, followed, _ = run_cli("logs", "first", "-f")
    assert code == 0
    assert "[2/2 " in followed
    [job] = jobs.states(head.address)
    assert job.status == "succeeded"
    assert job.progress.startswith("best: trial ")
    result = tunesearch.load("first", storage=head.storage)
    assert result.status == "completed"
    assert [record.number for record in result.trials] == [0, 1]

    code, out, _ = run_cli("status", "--json")
    assert code == 0
    assert [(each["name"], each["status"]) for each in json.loads(out)] == [("first", "succeeded")]
    code, out, _ = run_cli("status")
    assert "first" in out
    assert "succeeded" in out
    # Everybody who may use the cluster reads this: the token is not in it.
    listed = head.jobs()
    assert [details["metadata"] for details in listed] == [{"tunesearch.search": "first"}]
    assert head.token not in json.dumps(listed, default=str) + sent.stdout + sent.stderr + followed + out

    # The cluster itself refuses a name that is taken; the job's ending says why.
    again = ["run", "voc_unet", "--smoke", "--name", "first", "--storage", str(head.storage)]
    job_id = jobs.submit(head.address, again, name="first")
    _wait(lambda: not jobs.states(head.address, "first")[-1].live)
    sessions = jobs.states(head.address, "first")
    assert [session.status for session in sessions] == ["succeeded", "failed"]
    assert sessions[-1].id == job_id
    assert "search first: exists already" in sessions[-1].message


SLOW = '''

class Waits(torch.nn.Module):
    """Trains slowly as long as a file is not there."""
    def __init__(self, network, file):
        super().__init__()
        self.network, self.file = network, pathlib.Path(file)

    def forward(self, images):
        if self.training and not self.file.exists():
            import time
            time.sleep(1)
        return self.network(images)

def waits(config, classes):
    return Waits(tiny(config, classes), {file!r})
'''


def test_searches_share_the_cluster_and_stop_saves(
    head: Head, tiny_space: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    """A long search of one trial at once leaves room for another; stopped, it is saved, and a further job goes on."""
    storage, ready = head.storage, tmp_path / "ready"
    model = tiny_space.parent / "tiny_model.py"
    model.write_text(model.read_text() + SLOW.format(file=str(ready)))
    share = ("--storage", storage, "--trials", 1, "--cpus-per-trial", 1, "--max-concurrent", 1)
    slow = ("--set", "train.architecture=tiny_model:waits", "--set", "scheduler=none", "--epochs", 40)
    assert run_cli("submit", tiny_space, "--name", "long", *share, *slow)[0] == 0
    code, _, err = run_cli("submit", tiny_space, "--name", "long", *share)
    assert (code, "search long: is live" in err) == (2, True)
    assert run_cli("submit", tiny_space, "--name", "short", *share)[0] == 0

    assert run_cli("logs", "short", "-f")[0] == 0
    assert tunesearch.load("short", storage=storage).status == "completed"
    [long] = jobs.states(head.address, "long")
    assert long.status == "running"

    # Ctrl-C ends the following only.
    follower = subprocess.Popen(
        [sys.executable, "-m", "tunesearch", "logs", "long", "-f"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Whatever a shell has put into the background ignores it, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert follower.stdout is not None
    assert follower.stdout.readline()
    follower.send_signal(signal.SIGINT)
    _, err_bytes = follower.communicate(timeout=300)
    assert follower.returncode == 130
    assert b"long goes on" in err_bytes

    _wait(lambda: max(tunesearch.load("long", storage=storage).trials[0].epochs, default=0) >= 2)
    stopped = jobs.stop(head.address, "long")
    assert stopped.status == "stopped"
    assert "interrupted; everything is saved" in stopped.progress
    saved = tunesearch.load("long", storage=storage)
    assert saved.status == "interrupted"
    before = {epoch: each.metrics.val_loss for epoch, each in saved.trials[0].epochs.items()}
    assert 2 <= max(before) < 40
    assert saved.trials[0].outcome is None
    assert jobs.stop(head.address, "long") == stopped  # a second time changes nothing

    ready.touch()
    resumed = ("--resume", "--storage", storage, "--code", tiny_space.parent, "--json")
    code, out, _ = run_cli("submit", "long", *resumed)
    assert code == 0
    assert run_cli("logs", "long", "-f")[0] == 0
    sessions = jobs.states(head.address, "long")
    assert [session.status for session in sessions] == ["stopped", "succeeded"]
    assert sessions[-1].id == json.loads(out)["job"]
    result = tunesearch.load("long", storage=storage)
    assert result.status == "completed"
    [record] = result.trials
    assert sorted(record.epochs) == list(range(1, 41))
    assert {epoch: record.epochs[epoch].metrics.val_loss for epoch in before} == before


def test_short_commands_run_on_the_head(head: Head) -> None:
    code, out = jobs.call(head.address, ["list"])
    assert code == 2
    assert "--storage must be given" in out  # the cluster names no folder, and Ray's own would go with it
    code, out = jobs.call(head.address, ["show", "nobody; echo hello", "--storage", str(head.storage)])
    assert code == 2
    assert "hello" not in out.splitlines()
    assert "--name: must be letters" in out
    assert not [job for job in jobs.states(head.address) if job.name.startswith("tunesearch-")]  # no searches


def test_jobs_of_others_are_left_alone(head: Head) -> None:
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(head.address, headers={"Authorization": f"Bearer {head.token}"})
    client.submit_job(entrypoint="sleep 600", submission_id="theirs")
    try:
        assert "theirs" not in {job.name for job in jobs.states(head.address)}
        for ask in (jobs.stop, jobs.states, lambda *given: list(jobs.logs(*given))):
            with pytest.raises(SearchNameError, match="search theirs: was never sent to this cluster"):
                ask(head.address, "theirs")
        assert not client.get_job_status("theirs").is_terminal()
    finally:
        client.stop_job("theirs")


@pytest.mark.parametrize(
    "command", [("status",), ("logs", "x", "-f"), ("submit", "voc_unet", "--smoke"), ("stop", "x")]
)
def test_nothing_without_the_token(
    head: Head,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_cli: Callable[..., tuple[int, str, str]],
    command: tuple[str, ...],
) -> None:
    before = {details["submission_id"] for details in head.jobs()}

    def refused() -> str:
        if command[0] == "stop":
            with pytest.raises(InputError) as caught:
                jobs.stop(head.address, "x")
            return str(caught.value)
        code, out, err = run_cli(*command)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        return err

    monkeypatch.setenv("RAY_AUTH_TOKEN", "n0t-the-token")
    said = refused()
    assert "refuses the token of $RAY_AUTH_TOKEN" in said
    assert "n0t-the-token" not in said
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "wants Ray's token, and none is in $RAY_AUTH_TOKEN" in refused()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(head.token + "\n")
    (tmp_path / ".ray" / "auth_token").chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "$RAY_AUTH_MODE is disabled" in refused()
    monkeypatch.delenv("RAY_AUTH_MODE")
    assert jobs.states(head.address) is not None
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    assert {details["submission_id"] for details in head.jobs()} == before
