"""PostgreSQL and MLflow as a cluster's head has them, brought up by ``cluster/services.sh`` itself.

Oracles: the programs' own answers to a stranger and to who knows the password, the file system, the table of sockets.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),  # MLflow's own, about its dependencies
]

T = TypeVar("T")
SECRETS = ("postgres_password", "mlflow_password", "mlflow_secret_key")


def _secrets(services: Any) -> dict[str, str]:
    return {name: (services.storage / ".services" / name).read_text() for name in SECRETS}


def _processes(services: Any) -> list[psutil.Process]:
    """Everything that the script left running: the two servers and all below them."""
    kept = services.storage / ".services"
    servers = [_process(kept / "postgresql" / "postmaster.pid"), _process(kept / "mlflow.pid")]
    return [process for server in servers for process in (server, *server.children(recursive=True))]


def _process(file: Path) -> psutil.Process:
    return psutil.Process(int(file.read_text().split()[0]))


def _ask(processes: list[psutil.Process], what: Callable[[psutil.Process], T]) -> list[T]:
    """Of those that are still there: PostgreSQL's processes come and go."""
    answers = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            answers.append(what(process))
    return answers


def _status(services: Any, path: str, password: str | None) -> int:
    request = urllib.request.Request(services.variables()["MLFLOW_TRACKING_URI"] + path)
    if password is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"admin:{password}".encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _python(services: Any, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program on the head, that knows what a search there knows."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "PG"))}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**known, **services.variables(), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


RUN = """
import sys
from mlflow import MlflowClient
client = MlflowClient()
found = client.get_experiment_by_name("kept")
experiment = found.experiment_id if found else client.create_experiment("kept")
if sys.argv[1:] == ["write"]:
    run = client.create_run(experiment)
    client.log_metric(run.info.run_id, "val_miou", 0.25)
    client.log_text(run.info.run_id, "as written", "note.txt")
for run in client.search_runs([experiment]):
    files = [file.path for file in client.list_artifacts(run.info.run_id)]
    print(run.info.run_id, run.data.metrics["val_miou"], files)
""".strip()
WRITE = RUN.replace("sys.argv[1:]", '["write"]')


def test_mlflow_asks_for_the_password(services: Any) -> None:
    right = _secrets(services)["mlflow_password"]
    for path in ("/", "/api/2.0/mlflow/experiments/search?max_results=1", "/graphql", "/version"):
        assert _status(services, path, None) == 401
        assert _status(services, path, right[:-1]) == 401
    assert _status(services, "/api/2.0/mlflow/experiments/search?max_results=1", right) == 200
    assert _status(services, "/", right) == 200


def test_postgresql_asks_for_the_password(services: Any) -> None:
    """And the role that searches have may not do what a superuser may: run programs, read files."""
    import psycopg

    url = services.variables()["TUNESEARCH_LEDGER"].replace("+psycopg", "")
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(url, passfile="/nowhere")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url, password="wrong")
    with psycopg.connect(url, passfile=services.environment["HOME"] + "/.pgpass") as connection:
        asked = "SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
        assert connection.execute(asked).fetchone() == (False,)
        # The file of rules, by its effect: whoever comes by the network must prove the password.
        rules = connection.execute("SELECT current_setting('password_encryption')").fetchone()
        assert rules == ("scram-sha-256",)


def test_what_runs_listens_on_this_machine_only(services: Any) -> None:
    ports = {services.environment[f"TUNESEARCH_{name}_PORT"] for name in ("POSTGRES", "MLFLOW")}
    listening = [
        connection.laddr
        for connections in _ask(_processes(services), lambda process: process.net_connections("inet"))
        for connection in connections
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert {str(address.port) for address in listening} == ports


def test_secrets_are_their_owners_and_stand_nowhere_else(services: Any) -> None:
    """Modes by the file system; the passwords in no URL, command line or log."""
    home = Path(services.environment["HOME"])
    kept = services.storage / ".services"
    own = [home / ".pgpass", home / ".mlflow", home / ".mlflow" / "credentials", home / ".tunesearch"]
    for path in [kept, *kept.rglob("*"), *own]:  # other programs leave their folders in a home, too
        if not stat.S_ISSOCK(path.stat().st_mode):  # in a folder that nobody else may enter
            assert path.stat().st_mode & 0o077 == 0, path
    secrets = _secrets(services)
    assert len(set(secrets.values())) == 3
    assert min(map(len, secrets.values())) == 48
    public = _ask(_processes(services), lambda process: " ".join(process.cmdline()))
    public += [file.read_text() for file in kept.glob("*.log")]
    public += [str(services.variables())]
    for secret in secrets.values():
        assert not [text for text in public if secret in text]


def test_again_and_again_nothing_is_lost(services: Any) -> None:
    """``up`` while all runs; after ``down``; after MLflow was killed; on a new head that finds the old one's folder."""
    home = Path(services.environment["HOME"])
    written = _python(services, WRITE)
    assert written.returncode == 0, written.stderr
    assert "0.25 ['note.txt']" in written.stdout
    assert [file.read_text() for file in (services.storage / "mlartifacts").rglob("note.txt")] == ["as written"]
    stranger = _python(services, RUN, HOME="/nowhere")
    assert stranger.returncode != 0
    assert "401" in stranger.stderr

    with (home / ".pgpass").open("a") as passwords:
        passwords.write("elsewhere:5432:*:somebody:else\n")
    secrets, processes = _secrets(services), {process.pid for process in _processes(services)[:1]}
    files = {name: (home / name).read_text() for name in (".pgpass", ".mlflow/credentials")}

    def same_as_before(home: Path) -> None:
        assert _secrets(services) == secrets
        found = _python(services, RUN, HOME=str(home))
        assert found.stdout == written.stdout, found.stderr

    up = services.script("up")
    assert up.returncode == 0, up.stderr
    assert {process.pid for process in _processes(services)[:1]} == processes
    assert {name: (home / name).read_text() for name in files} == files
    same_as_before(home)

    mlflow = _process(services.storage / ".services" / "mlflow.pid")
    workers = mlflow.children(recursive=True)
    for killed in ([mlflow], workers):  # its workers answer without it; then they are gone, too
        _ask(killed, lambda process: process.kill())
        up = services.script("up")
        assert up.returncode == 0, up.stderr
        same_as_before(home)

    running = _processes(services)
    assert services.script("down").returncode == 0
    assert set(_ask(running, lambda process: process.status())) <= {psutil.STATUS_ZOMBIE}
    assert services.script("down").returncode == 0  # nothing to stop is no fault

    new_home = home.parent / "new"
    services.call("mkdir", new_home)
    up = services.script("up", HOME=str(new_home))
    assert up.returncode == 0, up.stderr
    same_as_before(new_home)
    assert services.script("down", HOME=str(new_home)).returncode == 0

    with socket.create_server(("127.0.0.1", int(services.environment["TUNESEARCH_MLFLOW_PORT"]))) as taken:
        occupied = services.script("up")
        assert occupied.returncode == 1
        assert f"another program has port {taken.getsockname()[1]}" in occupied.stderr
    assert services.script("up").returncode == 0
    same_as_before(home)


def test_what_cannot_be_done_is_said(services: Any) -> None:
    script = str(services.SCRIPT)
    wrong = services.script("start")
    assert (wrong.returncode, wrong.stderr.strip()) == (
        1,
        f"services.sh: usage: {script} install|up|down|environment",
    )
    missing = services.script("up", PATH="/usr/bin:/bin")
    assert missing.returncode == 1
    assert "mlflow is not on the path" in missing.stderr
    if os.geteuid() == 0:
        as_root = subprocess.run([script, "up"], env=services.environment, capture_output=True, text=True, check=False)
        assert as_root.returncode == 1
        assert "PostgreSQL does not run as root" in as_root.stderr
