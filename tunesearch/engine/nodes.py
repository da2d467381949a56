"""The nodes of a cluster: whether each can run trials, and ending a process on one of them.

A node is fit if it sees the driver's storage and can write there, has the driver's versions, and can read the data, the
encoder weights and the user's own code. All nodes are examined before the first trial; one that joins later is examined
by the first trial that it is given.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from ruamel.yaml import YAML

from tunesearch.engine.heartbeat import created_at
from tunesearch.engine.options import SearchOptions
from tunesearch.engine.preflight import check_own_code
from tunesearch.errors import InputError, Problem, TunesearchError, UnfitNode
from tunesearch.ledger.folders import read_experiment
from tunesearch.ledger.versions import versions
from tunesearch.segmentation.data.layouts import find_pairs
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.files import sha256
from tunesearch.segmentation.user_code import find_user_code

PATIENCE = 120.0
"""Seconds that a node has to answer; a new process there imports PyTorch first."""


@dataclass(frozen=True)
class Demands:
    """What every node must find as the driver has it.

    Attributes:
        search: folder of the search.
        nonce: content of ``nonce`` in that folder.
        versions: of Python and the packages that decide a result.
        code: folder of the user's own modules.
        encoder_weights: file or folder; None: the library's loader.
    """

    search: str
    nonce: str
    versions: dict[str, str]
    code: str
    encoder_weights: str | None


def alive() -> list[dict[str, Any]]:
    """The cluster's living nodes, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def reachable() -> list[dict[str, float]]:
    """Resources of every node that a search may use: of the living, or of all that Ray's autoscaler may start.

    Ray says nowhere what its autoscaler may start (``get_cluster_config`` knows it on KubeRay only). The driver of a
    cluster made by ``ray up`` runs on the head, and the monitor there has the configuration on its command line.
    """
    living = [node["Resources"] for node in alive()]
    here = f"--gcs-address={ray.get_runtime_context().gcs_address}"
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        file = next((word.partition("=")[2] for word in words if word.startswith("--autoscaling-config=")), "")
        if file and here in words:
            config = YAML(typ="safe").load(Path(file).expanduser().read_text("utf-8"))
            workers = [
                {name: float(count) for name, count in kind["resources"].items()}
                for name, kind in config["available_node_types"].items()
                if name != config["head_node_type"]
                for _ in range(kind.get("max_workers", config["max_workers"]))
            ]
            workers.sort(key=lambda node: node.get("GPU", 0.0), reverse=True)
            head = [node for node in living if "node:__internal_head__" in node]
            return head + workers[: config["max_workers"]]
    return living


def with_room(cpus: int) -> set[str]:
    """Ray's ids of the living nodes that have so many CPUs."""
    return {node["NodeID"] for node in alive() if node["Resources"].get("CPU", 0.0) >= cpus}


def is_only_here() -> bool:
    """Whether the driver's machine is the only node."""
    here = ray.get_runtime_context().get_node_id()
    return all(node["NodeID"] == here for node in alive())


def check_nodes(search: Path, options: SearchOptions) -> Demands:
    """Have every node examine itself; gives what it was asked, for nodes that join later.

    Raises:
        InputError: every problem of every node, each naming it.
    """
    nonce = uuid.uuid4().hex
    (search / "nonce").write_text(nonce)
    demands = Demands(str(search.resolve()), nonce, versions(), options.code, options.encoder_weights)
    nodes = alive()
    asked = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        remote = ray.remote(num_cpus=0, max_retries=0)(examine)
        asked.append(remote.options(scheduling_strategy=there).remote(demands, node["NodeID"]))
    deadline = time.monotonic() + PATIENCE
    problems: list[Problem] = []
    for node, reference in zip(nodes, asked, strict=True):
        name, reply = name_of(node), search / f"nonce-{node['NodeID']}"
        try:
            found = ray.get(reference, timeout=max(0.0, deadline - time.monotonic()))
            if not found and not reply.is_file():
                rule = "must write to the same storage as the driver; what it wrote is not seen here"
                found = [Problem(name, rule, value=str(search))]
        except ray.exceptions.GetTimeoutError:
            found = [Problem(name, f"must answer within {PATIENCE:.0f} s")]
        except Exception as error:  # an error of Ray, or of a node that cannot even import tunesearch
            found = [_without_tunesearch(name, error)]
        reply.unlink(missing_ok=True)
        if found and node["NodeID"] in {
            other["NodeID"] for other in alive()
        }:  # one that has just died needs no fitness
            problems += found
    if problems:
        raise InputError(problems)
    return demands


def unfit_by(error: ray.exceptions.RayActorError) -> UnfitNode | None:
    """The node that cannot even make a trial's process, if that is what an actor's death tells."""
    if error.actor_init_failed:
        # ray.util.state tells it as well, but only where a dashboard runs.
        made = ray._private.state.actors(error.actor_id).get("Address", {}).get("NodeID")
        for node in ray.nodes():
            if node["NodeID"] == made:
                return UnfitNode(str(_without_tunesearch(name_of(node), error)), made)
    return None


def _without_tunesearch(name: str, error: Exception) -> Problem:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    rule = f"must be able to run tunesearch: {lines[-1][:200] if lines else type(error).__name__}"
    return Problem(name, rule, hint="the same environment must be installed there")


def name_of(node: dict[str, Any]) -> str:
    """``node 10.0.0.7 (1a2b3c4d)``."""
    return f"node {node['NodeManagerAddress']} ({node['NodeID'][:8]})"


def examine(demands: Demands, node: str | None = None) -> list[Problem]:
    """What is wrong with the node that this runs on; it also leaves a sign in the storage, if ``node`` is given."""
    context = ray.get_runtime_context()
    here = f"node {ray.util.get_node_ip_address()} ({context.get_node_id()[:8]})"
    problems: list[Problem] = []

    def say(rule: str, value: str = "", hint: str = "") -> None:
        problems.append(Problem(here, rule, value=value, hint=hint))

    mine = versions()
    for name, version in demands.versions.items():
        if mine.get(name) != version:
            hint = "install it there with the same constraints file"
            say(f"must have {name} {version}, as the driver has", mine.get(name, "none"), hint)
    search = Path(demands.search)
    try:
        seen = (search / "nonce").read_text()
    except OSError as error:
        hint = "--storage must lie on a file system that every node mounts at the same path"
        say(f"must see the storage folder: {error.strerror}", str(search), hint)
        return problems
    if seen != demands.nonce:
        say("must see the driver's storage folder; another one lies there under the same path", str(search))
        return problems
    if node is not None:
        try:
            (search / f"nonce-{node}").write_text(demands.nonce)
        except OSError as error:
            say(f"must be able to write to the storage folder: {error.strerror}", str(search))
    if demands.encoder_weights is not None and not Path(demands.encoder_weights).exists():
        say("must have the encoder weights at the driver's path", demands.encoder_weights)
    experiment = read_experiment(search)
    try:
        if experiment.data.layout == "sample":
            find_pairs(experiment.data)  # makes it where it is not there yet
        split = Split.load(search / "split.json")
        for item in (*split.train[:1], *split.val[-1:]):
            for file, digest in (
                (split.root / item.image, item.image_sha256),
                (split.root / item.mask, item.mask_sha256),
            ):
                if sha256(file.read_bytes()) != digest:
                    say("must have the same data set as the driver; a file differs", str(file))
    except OSError as error:
        say(f"must be able to read the data set: {error.strerror}", str(error.filename))
    except TunesearchError as error:
        say(f"must be able to make the sample data set: {error}")
    find_user_code(demands.code)
    try:
        check_own_code(experiment)
    except TunesearchError as error:
        say(f"must have the code of your own: {error}", demands.code)
    return problems


def end_process(node: str, pid: int, created: float) -> None:
    """Kill a process on a node, without waiting; see ``created`` of ``HeartbeatRecord``."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    ray.remote(num_cpus=0, max_retries=0)(_kill).options(scheduling_strategy=there).remote(pid, created)


def _kill(pid: int, created: float) -> None:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if abs(created_at(process) - created) < 2 and pid != os.getpid():  # else another has taken over the number
            process.kill()
