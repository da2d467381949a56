"""cluster.yaml. Oracles: Ray's own validator (``ray up`` has no dry run), bash's, and the files that it names."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
SCRIPT = "cluster/services.sh"
SERVICES = f"~/tunesearch/{SCRIPT}"


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    """The file as Ray reads it, with Ray's defaults filled in."""
    from ray.autoscaler._private.util import prepare_config

    return dict(prepare_config(YAML(typ="safe").load((ROOT / "cluster.yaml").read_text())))


def _commands(cluster: dict[str, Any], kind: str) -> list[str]:
    """Everything that a new node of a kind, ``head`` or ``worker``, runs, in order."""
    return [*cluster[f"{kind}_setup_commands"], *cluster[f"{kind}_start_ray_commands"]]


@pytest.mark.filterwarnings("ignore")  # Ray's own, about itself
def test_ray_accepts_the_cluster_file(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import validate_config

    validate_config(cluster)
    head, worker = (cluster["available_node_types"][name] for name in ("head", "gpu_worker"))
    assert cluster["head_node_type"] == "head"
    assert head["resources"] == {"CPU": 0}  # no trial on it
    assert worker["resources"]["GPU"] == 1
    assert worker["min_workers"] == 0 < worker["max_workers"]
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in head["node_config"]


def test_every_command_is_bash(cluster: dict[str, Any]) -> None:
    for command in [*_commands(cluster, "head"), *_commands(cluster, "worker"), (ROOT / SCRIPT).read_text()]:
        read = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert (read.returncode, read.stderr) == (0, ""), command


def test_nothing_answers_without_the_token_or_beyond_the_head(cluster: dict[str, Any]) -> None:
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for kind in ("head", "worker"):
        assert "chmod 600 ~/.ray/auth_token" in cluster[f"{kind}_setup_commands"]
        (start,) = (command for command in cluster[f"{kind}_start_ray_commands"] if "ray start" in command)
        assert "RAY_AUTH_MODE=token" in start.partition("ray start")[0]
    (start,) = (command for command in cluster["head_start_ray_commands"] if "ray start --head" in command)
    assert "--dashboard-host=127.0.0.1" in start
    assert "RAY_JOB_STOP_WAIT_TIME_S=120" in start.partition("ray start")[0]
    assert "0.0.0.0" not in (ROOT / "cluster.yaml").read_text()


def test_what_is_copied_exists_and_suffices(cluster: dict[str, Any]) -> None:
    """Oracle: what pyproject.toml says that a build of the package reads."""
    mounts = {to: from_ for to, from_ in cluster["file_mounts"].items() if not from_.startswith("~")}
    assert all((ROOT / from_).exists() for from_ in mounts.values())
    assert all(to == f"~/tunesearch/{from_}" for to, from_ in mounts.items())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {project["project"]["readme"], *project["project"]["license-files"], *wheel["packages"]}
    assert needed | set(wheel["force-include"]) | {"pyproject.toml", "constraints.txt"} <= set(mounts.values())


def test_the_services_start_before_ray_where_the_storage_is(cluster: dict[str, Any]) -> None:
    commands = _commands(cluster, "head")
    assert os.access(ROOT / SCRIPT, os.X_OK)
    (start,) = (command for command in commands if "ray start --head" in command)
    assert commands.index(f"{SERVICES} install") < commands.index(f"{SERVICES} up") < commands.index(start)
    (storage,) = (found for command in commands for found in re.findall(r"TUNESEARCH_STORAGE=(\S+);", command))
    for kind in ("head", "worker"):
        mount = [command for command in _commands(cluster, kind) if "/etc/fstab" in command]
        assert len(mount) == 1
        assert " /mnt/tunesearch nfs4 " in mount[0]
        assert storage.startswith("/mnt/tunesearch/")
    assert not [command for command in _commands(cluster, "worker") if "services.sh" in command]


def test_versions_are_those_of_the_constraints(cluster: dict[str, Any]) -> None:
    """And the constraints are what these tests run with."""
    commands = [*_commands(cluster, "head"), *_commands(cluster, "worker")]
    installs = [command for command in commands if "pip install" in command]
    assert len(installs) == 3
    assert all("-c ~/tunesearch/constraints.txt" in command for command in installs)
    assert all(re.search(r"tunesearch\[cluster\]|boto3$", command) for command in installs)
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    assert "boto3" in pinned
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["cluster"]]
    names = {_plain(re.split(r"[^\w.-]", requirement)[0]) for requirement in wanted}
    versions = {_plain(name): version for name, version in pinned.items()}
    assert {name: versions[name] for name in names} == {name: importlib.metadata.version(name) for name in names}


def _plain(name: str) -> str:
    """A distribution's name, in one of the many ways that it may be written."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture
def growing() -> Iterator[str]:
    """The address of a head without CPUs whose autoscaler adds nodes of one CPU, two at most, on this machine."""
    folder = Path(tempfile.mkdtemp(prefix="ts-grow-", dir="/tmp"))
    ports = []
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            ports.append(listener.getsockname()[1])
    config: dict[str, Any] = {
        "cluster_name": "growing",
        "max_workers": 2,
        "idle_timeout_minutes": 5,
        "upscaling_speed": 1.0,
        "provider": {"type": "fake_multinode", "gcs_address": f"127.0.0.1:{ports[0]}"},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"node_config": {}, "resources": {"CPU": 0}, "max_workers": 0},
            "worker": {"node_config": {}, "resources": {"CPU": 1}, "min_workers": 0, "max_workers": 2},
        },
        "file_mounts_sync_continuously": False,
    }
    config |= {name: {} for name in ("auth", "docker", "file_mounts")}
    config |= {name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")}
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    config |= {f"{what}_commands": [] for what in commands}
    (folder / "cluster.json").write_text(json.dumps(config))
    head = [
        Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=0",
        "--include-dashboard=false", "--node-ip-address=127.0.0.1", f"--port={ports[0]}",
        f"--dashboard-agent-listen-port={ports[1]}",
        f"--temp-dir={folder}/ray", f"--autoscaling-config={folder}/cluster.json",
    ]  # fmt: skip
    number = "f" * 51 + "00000"  # of the head, as the fake provider knows it
    mine = {"RAY_FAKE_CLUSTER": "1", "RAY_OVERRIDE_NODE_ID_FOR_TESTING": number, "RAY_CLOUD_INSTANCE_ID": number}
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(head, env={**os.environ, **mine}, stdout=log, stderr=log)
    try:
        while "Ray runtime started" not in (folder / "head.log").read_text():
            assert process.poll() is None, (folder / "head.log").read_text()
            time.sleep(0.2)
        yield f"127.0.0.1:{ports[0]}"
    finally:
        # Head and nodes, by the folder that is theirs alone; their workers die with them.
        for found in psutil.process_iter(["cmdline"]):
            if any(f"{folder}/" in word for word in found.info["cmdline"] or ()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    found.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.long
def test_a_search_makes_the_cluster_grow(growing: str, tiny_space: Path, tmp_path: Path) -> None:
    """A head without CPUs trains nothing until Ray's autoscaler has added a node. Oracle: what that one says."""
    command = [
        sys.executable, "-m", "tunesearch", "run", str(tiny_space), "--name", "a", "--storage", str(tmp_path / "runs"),
        "--address", growing, "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["status"] == "completed"
    assert [trial["number"] for trial in result["trials"]] == list(range(4))
    assert all(trial["epochs"] >= 1 for trial in result["trials"])
    listed = subprocess.run(
        [Path(sys.executable).with_name("ray"), "status", "--address", growing],
        env={**os.environ, "RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "worker" in listed.stdout.partition("Resources")[0], listed.stdout + listed.stderr
