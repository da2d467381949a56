"""A cluster of nodes with addresses of their own on one machine, and a search-space file whose training can be held."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tunesearch.segmentation.data.sample import write_sample

Launch = Callable[[list[str], dict[str, str]], subprocess.Popen[bytes]]

PATIENCE = 300.0
"""Seconds after which something that should have happened counts as a hang; nothing is measured against it."""

SLOW_MODEL = '''
import os
import pathlib
import time

from torch import nn

HERE = pathlib.Path(__file__).parent
BATCHES = 3

def slow(config, classes):
    """Epochs take most of a second, asleep. A file called hold keeps every process in the second epoch it trains."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, classes, 1))
    batches = []
    def wait(module, inputs):
        if module.training:
            batches.append(1)
            time.sleep(0.2)
            while len(batches) > BATCHES and (HERE / "hold").exists():
                time.sleep(0.05)
    network.register_forward_pre_hook(wait)
    return network

def hangs_once(config, classes):
    """The first process that comes to a second epoch sleeps for ever."""
    network, marker, batches = slow(config, classes), HERE / "hung", []
    def hang(module, inputs):
        if module.training:
            batches.append(1)
            if len(batches) > BATCHES and not marker.exists():
                marker.write_text(str(os.getpid()))
                time.sleep(1e6)
    network.register_forward_pre_hook(hang)
    return network
'''

SLOW_SPACE = """
name: slow
data: {layout: voc, classes: [background, disc, square, triangle, stripes]}
train: {architecture: "slow_model:slow", epochs: 4, size: 32x32, batch_size: 16, augmentation_strength: 0}
search: {trials: 6, seed: 3}
scheduler: {asha: {grace_epochs: 2, reduction: 2}}
parameters:
  lr: {float: [1.0e-4, 1.0e-1], log: true}
"""


def until(condition: Callable[[], Any], *, what: str, process: subprocess.Popen[bytes] | None = None) -> Any:
    """Wait for something, and give it; ``process`` must live meanwhile."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert process is None or process.poll() is None, f"ended while waiting: {what}"
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.05)
    return found


class EpochLog:
    """What the trials append themselves when an epoch begins and ends.

    Args:
        node_of: tells the node of a living process.

    Attributes:
        nodes: of the processes that were alive when they were seen here first.
    """

    def __init__(self, path: Path, node_of: Callable[[int], str | None] = lambda pid: None) -> None:
        self.path, self.node_of = path, node_of
        self.nodes: dict[int, str | None] = {}

    def lines(self) -> list[tuple[str, int, int, int]]:
        """``begin`` or ``end``, trial, epoch and process of each line."""
        text = self.path.read_text() if self.path.exists() else ""
        lines = [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]
        found = [(what, int(number), int(epoch), int(pid)) for what, number, epoch, pid, _ in lines]
        for *_, pid in found:
            if pid not in self.nodes:
                self.nodes[pid] = self.node_of(pid)
        return found

    def epochs(self, what: str) -> list[tuple[int, int]]:
        """(trial, epoch) of every ``begin`` or every ``end``."""
        return [(number, epoch) for kind, number, epoch, _ in self.lines() if kind == what]

    def under_way(self, node: str | None = None) -> dict[int, tuple[int, int]]:
        """Trial -> (epoch, process) of the epochs that have begun and not ended (on a node)."""
        last = {number: (what, epoch, pid) for what, number, epoch, pid in self.lines()}
        return {
            number: (epoch, pid)
            for number, (what, epoch, pid) in last.items()
            if what == "begin" and (node is None or self.nodes[pid] == node)
        }


class Fleet:
    """A Ray cluster with token authentication whose nodes have network addresses and mounts of their own.

    Each node is a network namespace; all hang on a bridge in the head's. They share the machine's files, except for
    Ray's own and what a test mounts over them in one node.

    Attributes:
        address: of the cluster.
        environment: what drivers and nodes get.
        log: of the epochs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"{self.ip(1)}:6379"
        self._temporary = folder / "tmp"
        self._temporary.mkdir()
        token = folder / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        self.log = EpochLog(folder / "epochs.log", self.node_of)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "RAY_TMPDIR": str(self._temporary),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "TUNESEARCH_EPOCH_LOG": str(self.log.path),
        }
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._ips: dict[str, str] = {}
        self._spaces: list[str] = []

    @staticmethod
    def ip(number: int) -> str:
        """Address of the number-th node; nothing outside the namespaces knows it."""
        return f"10.77.0.{number}"

    def add(self, name: str, *, cpus: int = 1, setup: str = "", **environment: str) -> str:
        """Begin to start a node, the first one as the head; gives its address.

        Args:
            setup: shell commands that run first, as root, with mounts of the node's own.
            environment: variables of this node only.
        """
        number = len(self._ips) + 1
        ip = self._ips[name] = self.ip(number)
        space = self._space(name)
        _run("ip", "netns", "add", space)
        self._spaces.append(space)
        _run("ip", "-n", space, "link", "set", "lo", "up")
        if number == 1:
            _run("ip", "-n", space, "link", "add", "eth0", "type", "bridge")
            role = ["--head", "--port", self.address.split(":")[1], "--include-dashboard", "false"]
        else:
            head = self._spaces[0]
            _run("ip", "-n", head, "link", "add", f"to{number}", "type", "veth", "peer", "eth0", "netns", space)
            _run("ip", "-n", head, "link", "set", f"to{number}", "master", "eth0", "up")
            role = ["--address", self.address]
        _run("ip", "-n", space, "link", "set", "eth0", "up")
        _run("ip", "-n", space, "address", "add", f"{ip}/24", "dev", "eth0")
        (self.folder / f"tmp-{name}" / "ray").mkdir(parents=True)
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", *role, "--node-ip-address", ip, "--block",
            "--num-cpus", str(cpus), "--object-store-memory", str(10**8), "--disable-usage-stats",
        ]  # fmt: skip
        with (self.folder / f"{name}.log").open("wb") as output:
            self._nodes[name] = subprocess.Popen(
                # Ray gives up on a node that is not up within 30 s, on a crowded machine as well.
                self._inside(name, *command, setup=setup, run='until "$@"; do sleep 1; done'),
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        return ip

    def wait(self, *names: str) -> None:
        """Until these nodes belong to the cluster."""
        for name in names:
            output = self.folder / f"{name}.log"
            until(
                lambda output=output: "Ray runtime started" in output.read_text(),
                what=f"{name} joins the cluster; it says in {output}",
                process=self._nodes[name],
            )

    def command(self, *words: object) -> list[str]:
        """A command on the head."""
        return self._inside(next(iter(self._ips)), *words)

    def node_of(self, pid: int) -> str | None:
        """The node that a process runs on."""
        space = _run("ip", "netns", "identify", str(pid)).strip()
        return next((name for name in self._ips if self._space(name) == space), None)

    def kill(self, name: str) -> None:
        """End every process of a node at once, as a power cut does."""
        self._sweep(self._space(name))
        self._nodes.pop(name).wait()

    def close(self) -> None:
        """End and remove everything, also what a test has started on the head."""
        for space in self._spaces:
            self._sweep(space)
        for process in self._nodes.values():
            process.wait()
        for space in self._spaces:
            _run("ip", "netns", "delete", space)

    def _space(self, name: str) -> str:
        return f"tunesearch-{os.getpid()}-{name}"

    def _inside(self, name: str, *words: object, setup: str = "", run: str = 'exec "$@"') -> list[str]:
        own = f"mount --bind '{self.folder}/tmp-{name}' '{self._temporary}'"  # `ip netns exec` has mounts of its own
        script = "\n".join((own, setup, run))
        return ["ip", "netns", "exec", self._space(name), "sh", "-ec", script, "sh", *map(str, words)]

    @staticmethod
    def _sweep(space: str) -> None:
        def is_empty() -> bool:
            pids = _run("ip", "netns", "pids", space).split()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            return not pids

        until(is_empty, what=f"the processes of {space} end")


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """Nodes with addresses of their own; nothing is left of them."""
    try:
        _run("ip", "netns", "add", f"tunesearch-{os.getpid()}")
        try:
            _run("ip", "netns", "exec", f"tunesearch-{os.getpid()}", "mount", "--bind", "/tmp", "/tmp")
        finally:
            _run("ip", "netns", "delete", f"tunesearch-{os.getpid()}")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', '') or error}")
    folder = Path(tempfile.mkdtemp(prefix="ts-fleet-", dir="/tmp"))  # short: sockets lie below it
    nodes = Fleet(folder)
    try:
        yield nodes
    finally:
        nodes.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(name="until")
def _until() -> Callable[..., Any]:
    return until


@pytest.fixture
def epoch_log(tmp_path: Path) -> EpochLog:
    """The log of a search whose processes are told to write it."""
    return EpochLog(tmp_path / "epochs.log")


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts commands whose output goes to ``said`` in the test's folder; at the end they are killed."""
    begun: list[subprocess.Popen[bytes]] = []

    def start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with (tmp_path / "said").open("wb") as said:
            begun.append(
                subprocess.Popen(  # not in the checkout: Ray puts a driver's working folder first on its workers' path
                    command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
                )
            )
        return begun[-1]

    yield start
    for process in begun:
        if process.poll() is None:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                with contextlib.suppress(psutil.Error):
                    one.kill()
            process.wait()


@pytest.fixture
def slow_space(tmp_path: Path) -> Path:
    """A search-space file of :data:`SLOW_SPACE` on a data set of files, with its module beside it."""
    folder = tmp_path / "space"
    folder.mkdir()
    (folder / "slow_model.py").write_text(SLOW_MODEL)
    (folder / "slow.yaml").write_text(SLOW_SPACE)
    write_sample(tmp_path / "data")
    return folder / "slow.yaml"
