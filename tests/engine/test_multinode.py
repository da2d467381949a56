"""A search over several nodes of which one is killed in mid-trial and others are added. Oracle: the trials' own log.

Once with Ray's own simulation of a cluster, whose nodes share an address, and once with nodes that have their own.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import tunesearch

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.filterwarnings("ignore")]

SIMULATION = """
import json, sys
from ray.cluster_utils import Cluster
cluster, nodes = Cluster(), {}
for line in sys.stdin:
    verb, name, *cpus = line.split()
    while verb == "add" and name not in nodes:
        try:
            nodes[name] = cluster.add_node(num_cpus=int(cpus[0]), include_dashboard=False)
        except Exception as error:  # Ray gives up after 30 s, on a crowded machine as well
            print(error, file=sys.stderr)
    if verb == "kill":
        cluster.remove_node(nodes.pop(name), allow_graceful=False)
    raylets = {name: node.all_processes["raylet"][0].process.pid for name, node in nodes.items()}
    print(json.dumps({"address": cluster.address, "raylets": raylets}), flush=True)
cluster.shutdown()
"""


class Simulation:
    """``ray.cluster_utils.Cluster`` in a process of its own: its settings come from the environment of its process.

    See ``Fleet`` for what it does.
    """

    def __init__(self, folder: Path) -> None:
        (folder / "ray").mkdir()  # Ray does not make it, but writes its address there
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "RAY_TMPDIR": str(folder),
            "RAY_AUTH_MODE": "disabled",
            "TUNESEARCH_EPOCH_LOG": str(folder / "epochs.log"),
        }
        self.address = ""
        self._raylets: dict[int, str] = {}
        with (folder / "output").open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", SIMULATION],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )

    def add(self, name: str, *, cpus: int = 1) -> None:
        self._tell(f"add {name} {cpus}")

    def wait(self, *names: str) -> None:
        """``add`` has waited."""

    def kill(self, name: str) -> None:
        self._tell(f"kill {name}")

    def command(self, *words: object) -> list[str]:
        return list(map(str, words))

    def node_of(self, pid: int) -> str | None:
        parents = (self._raylets.get(parent.pid) for parent in psutil.Process(pid).parents())
        return next(filter(None, parents), None)

    def close(self) -> None:
        self._process.communicate(timeout=120)  # the end of its input is the end of it

    def _tell(self, words: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(words, file=self._process.stdin, flush=True)
        told = json.loads(next(line for line in self._process.stdout if line.startswith("{")))
        self.address = told["address"]
        self._raylets |= {pid: name for name, pid in told["raylets"].items()}


@pytest.fixture
def simulation() -> Iterator[Simulation]:
    folder = Path(tempfile.mkdtemp(prefix="ts-nodes-", dir="/tmp"))  # short: sockets lie below it
    nodes = Simulation(folder)
    try:
        yield nodes
    finally:
        nodes.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("kind", ["simulation", "fleet"])
def test_a_node_dies_and_another_joins(
    kind: str, slow_space: Path, tmp_path: Path, until: Any, epoch_log: Any, launch: Any, request: pytest.FixtureRequest
) -> None:
    """Nothing is lost or trained again: the dead node's trial goes on from its checkpoint, the new node gets trials."""
    nodes = request.getfixturevalue(kind)
    log = type(epoch_log)(Path(nodes.environment["TUNESEARCH_EPOCH_LOG"]), nodes.node_of)
    hold, said = slow_space.parent / "hold", tmp_path / "said"
    nodes.add("head", cpus=0)
    nodes.wait("head")
    nodes.add("one")
    nodes.add("two")
    nodes.wait("one", "two")
    options = ["--data", tmp_path / "data", "--name", "a", "--storage", tmp_path / "runs", "--address", nodes.address]
    hold.touch()
    command = nodes.command(sys.executable, "-m", "tunesearch", "run", slow_space, *options)
    driver = launch(command, nodes.environment)

    def in_second_epoch(node: str) -> bool:
        return [epoch for epoch, _ in log.under_way(node).values()] == [2]

    until(lambda: in_second_epoch("one") and in_second_epoch("two"), what="both nodes train", process=driver)
    [(victim, (_, pid))] = log.under_way("two").items()
    orphan = psutil.Process(pid)
    nodes.kill("two")

    def gone() -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
        return True

    until(gone, what="the trial's process misses its raylet, which a simulated node's death leaves to it")
    hold.unlink()

    def goes_on() -> bool:
        return any(number == victim and log.nodes[pid] == "one" for _, number, _, pid in log.lines())

    until(goes_on, what="the dead node's trial goes on elsewhere", process=driver)
    hold.touch()
    if kind == "fleet":  # nodes that cannot run trials are free while others train, so Ray gives them whatever waits
        (tmp_path / "broken" / "tunesearch").mkdir(parents=True)
        (tmp_path / "broken" / "tunesearch" / "__init__.py").write_text("raise ImportError('half installed')")
        for name, setup, environment in (
            ("unmounted", f"mount -t tmpfs none '{tmp_path / 'runs'}'", {}),
            ("broken", "", {"PYTHONPATH": str(tmp_path / "broken")}),
        ):
            told = f"a node is given no trials: node {nodes.add(name, setup=setup, **environment)} ("
            until(lambda told=told: told in said.read_text(), what=f"{name} is told to be unfit", process=driver)
    nodes.add("three")
    until(lambda: log.under_way("three"), what="the new node trains", process=driver)
    hold.unlink()
    assert driver.wait(timeout=500) == 0, said.read_text()

    search = tunesearch.load("a", storage=tmp_path / "runs")
    print(f"\n{kind}: trial {victim} lost its node, two\ntrial  outcome    attempts  epochs by node")
    for record in search.trials:
        by = collections.Counter(
            log.nodes[pid] for what, number, _, pid in log.lines() if (what, number) == ("end", record.number)
        )
        print(f"{record.number:5}  {record.outcome:9}  {record.attempts:8}  {dict(by)}")
    assert search.status == "completed"
    assert "(raylet)" not in said.read_text()  # Ray's own words about dead nodes, which would spoil --json
    assert [record.number for record in search.trials] == list(range(6))
    assert {record.outcome for record in search.trials} <= {"completed", "stopped"}
    assert {record.number: record.attempts for record in search.trials if record.attempts} == {victim: 1}
    trained = sorted((record.number, epoch) for record in search.trials for epoch in record.epochs)
    assert sorted(log.epochs("end")) == trained
    again = collections.Counter(log.epochs("begin")) - collections.Counter(trained)
    assert sum(again.values()) <= 1  # the epoch that died with its node, if one had begun
    assert {number for number, _ in again} <= {victim}
    assert set(log.nodes.values()) == {"one", "two", "three"}
