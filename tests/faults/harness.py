"""One search that is killed again and again: sessions of the real command line, and who is killed when.

A *session* is one process of ``tunesearch run`` or ``tunesearch resume`` with everything below it. A *kill* is SIGKILL
to one kind of victim, at a random moment or at a named point (``inject/sitecustomize.py``).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
SPACE = HERE / "space" / "faults.yaml"
RAY_FOLDERS = "tunesearch-ray-*"
PATIENCE = 240.0
"""Seconds after which a step that should have happened counts as a hang; nothing is measured against it."""

LINGERING = ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "default_worker.py")
"""Processes of Ray's that live for a minute after their raylet: its agents, and workers that had not started yet."""
VICTIMS = ("driver", "actor", "ray", "ray and driver", "mlflow")
"""``actor``: the process of a trial. ``ray``: every process of the search's private Ray, below its driver."""


@dataclass(frozen=True)
class Kill:
    """Who is killed and when.

    Attributes:
        victim: one of VICTIMS.
        point: a named point; ``training``: a random moment behind the COUNT-th epoch that begins in this session;
            ``starting``: a random moment of the session's first seconds.
        count: at which hit of the point.
        back_after: epochs that are trained until a killed MLflow server is started again.
    """

    victim: str
    point: str = "training"
    count: int = 1
    back_after: int = 2


@dataclass
class Event:
    """A kill that took place.

    Attributes:
        at: Unix time of the signal.
        killed: how many processes got it.
        exit_code: of the session's driver, where it ended by this kill; negative: by that signal.
        seconds: until the driver had ended.
        left: processes of the session that were still there when the next step began.
        known: what the ledger held right after: trial number -> (parameters, committed epochs).
        words: what the driver said last, where it ended on its own.
    """

    kill: Kill
    session: int
    at: float
    killed: int
    exit_code: int | None = None
    seconds: float = 0.0
    left: list[str] = field(default_factory=list)
    known: dict[int, tuple[str, int]] = field(default_factory=dict)
    words: str = ""


class Campaigned(Exception):
    """The harness could not do what it was told: a point was not reached, or something hung."""


class Server:
    """An MLflow server of our own on a SQLite database, which can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.database = f"sqlite:///{folder}/mlflow.db"
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        if not (folder / "mlflow.db").exists():
            # On an empty database several processes of the server would make the tables at once, and sometimes fail.
            make = f"from mlflow import MlflowClient; MlflowClient({self.database!r}).search_experiments()"
            subprocess.run([sys.executable, "-c", make], capture_output=True, check=True)

    def start(self) -> None:
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", self.database, "--artifacts-destination", str(self.folder / "artifacts"),
        ]  # fmt: skip
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # several processes of no use here
            )
        end = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise Campaigned(f"the MLflow server did not start: {self.folder / 'server.log'}") from None
                time.sleep(0.1)

    def kill(self) -> int:
        assert self.process is not None
        count = kill_all(family(self.process.pid))
        self.process.wait()
        return count


class Search:
    """A search under attack.

    Args:
        folder: new; everything of the search is in it, also the working folder of its processes.
        concurrency: how many trials at once.
        options: further options of ``tunesearch run``.
        seed: of the random moments.
        served: whether it logs to an MLflow server of its own, rather than to SQLite in its storage.

    Attributes:
        events: the kills so far.
    """

    def __init__(
        self,
        folder: Path,
        *,
        concurrency: int = 1,
        options: tuple[str, ...] = (),
        seed: int = 0,
        served: bool = False,
    ) -> None:
        self.folder = folder
        self.concurrency = concurrency
        self.options = ("--max-concurrent", str(concurrency), "--cpus-per-trial", "1", *options)
        self.random = random.Random(seed)
        self.log = folder / "epochs.log"
        self.storage = folder / "runs"
        self.faults = folder / "faults"
        self.events: list[Event] = []
        self.driver: subprocess.Popen[bytes] | None = None
        self.session = 0
        self.ray_folders: set[str] = set()
        self.everyone: dict[int, psutil.Process] = {}
        self._looked = 0.0
        self.faults.mkdir(parents=True)
        shutil.copytree(SPACE.parent, folder / "space")
        self.server = Server(folder / "server") if served else None
        if self.server:
            self.server.start()

    @classmethod
    def read(cls, folder: Path) -> Search:
        """One that has ended and was closed, only to be looked at."""
        search = cls.__new__(cls)
        search.folder, search.storage, search.log = folder, folder / "runs", folder / "epochs.log"
        search.events, search.concurrency = [], 1
        return search

    # --------------------------------------------------------------------------------------------------------- sessions

    @property
    def tracking(self) -> str:
        """The database that MLflow writes, whoever serves it."""
        return self.server.database if self.server else f"sqlite:///{self.storage}/mlflow.db"

    @property
    def environment(self) -> dict[str, str]:
        """What a session's processes are given; Ray's inherit it."""
        paths = [str(HERE / "inject"), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            **{name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")},
            "PYTHONPATH": os.pathsep.join(paths),
            "TUNESEARCH_FAULTS": str(self.faults),
            "TUNESEARCH_EPOCH_LOG": str(self.log),
        }

    def command(self) -> list[str]:
        """``run`` while there is no search yet, else ``resume``."""
        tunesearch = [sys.executable, "-m", "tunesearch"]
        where = ["--storage", str(self.storage), "--json"]
        if (self.storage / "a" / "ledger.db").is_file():
            return [*tunesearch, "resume", "a", *where]
        tracking = ["--tracking-uri", self.server.uri] if self.server else []
        return [*tunesearch, "run", "space/faults.yaml", "--name", "a", "--local", *tracking, *self.options, *where]

    def start(self) -> None:
        """Begin a session."""
        self.session += 1
        with self._output("out").open("wb") as out, self._output("err").open("wb") as err:
            self.driver = subprocess.Popen(
                self.command(), cwd=self.folder, env=self.environment, stdout=out, stderr=err, stdin=subprocess.DEVNULL
            )

    def _output(self, what: str) -> Path:
        return self.folder / f"session-{self.session:02d}.{what}"

    def said(self) -> str:
        """The session's stderr."""
        return self._output("err").read_text(encoding="utf-8", errors="replace")

    def result(self) -> dict[str, Any]:
        """The session's JSON."""
        content: dict[str, Any] = json.loads(self._output("out").read_text(encoding="utf-8"))
        return content

    def signal(self, number: int) -> None:
        """Send a signal to the driver alone."""
        assert self.driver is not None
        self.driver.send_signal(number)

    @property
    def alive(self) -> bool:
        """Whether a session is going on."""
        return self.driver is not None and self.driver.poll() is None

    def finish(self) -> int:
        """Let the search end, with one more session where the last one is over and was not its own end."""
        if self.driver is None or (not self.alive and self.driver.returncode != 0):
            self.start()
        assert self.driver is not None
        return self.wait_for_end()

    def wait_for_end(self) -> int:
        """Wait for the session's driver; gives its exit code."""
        assert self.driver is not None
        end = time.monotonic() + PATIENCE
        while self.driver.poll() is None:
            self._look_around()
            if time.monotonic() > end:
                raise Campaigned(f"session {self.session} hung: {self.said()[-500:]}")
            time.sleep(0.05)
        return self.driver.returncode

    # ------------------------------------------------------------------------------------------------------------ kills

    def kill(self, kill: Kill) -> Event:
        """Kill someone once, in the session that goes on, else in a new one. A killed session is over afterwards.

        Raises:
            Campaigned: the search ended before the moment came, or the driver neither went on nor ended.
        """
        if not self.alive:
            self.start()
        try:
            holder = self._wait_until(kill)
            event = Event(kill, self.session, time.time(), 0)
            event.killed = self._strike(kill, holder)
        finally:
            self.release()
        self.events.append(event)
        if kill.victim == "mlflow":
            self._bring_back(kill.back_after)
        elif kill.victim != "actor":
            self._bury(event)
        event.known = self.known()
        return event

    def _bring_back(self, epochs: int) -> None:
        """Start the MLflow server again some epochs later. The search waits meanwhile: it is shorter than the start."""
        assert self.server is not None
        self.wait_for_log("begin", epochs, required=False)
        with contextlib.suppress(Campaigned):  # it has ended
            self.hold("take before")
        self.server.start()
        self.release()

    def _wait_until(self, kill: Kill) -> int | None:
        """Wait for the kill's moment; gives the process that is held there, if it is a named point."""
        if kill.point == "starting":
            self._sleep(self.random.uniform(0.0, 8.0))
            return None
        if kill.point == "training":
            self.wait_for_log("begin", kill.count)
            self._sleep(self.random.uniform(0.0, 0.3))
            return None
        return self.hold(kill.point, kill.count)

    def hold(self, point: str, count: int = 1) -> int:
        """Wait until a process of the session reaches a named point for the COUNT-th time from now; gives its pid.

        It stays there until :meth:`release`.
        """
        (self.faults / "hits").unlink(missing_ok=True)
        write(self.faults / "armed", f"{point} {count}")
        held, end = self.faults / "held", time.monotonic() + PATIENCE
        while not (held.exists() and held.read_text()):
            self._look_around()
            if not self.alive:
                raise Campaigned(f"the search ended before {point!r} was reached {count} times: {self.said()}")
            if time.monotonic() > end:
                raise Campaigned(f"{point!r} was not reached {count} times")
            time.sleep(0.005)
        return int(held.read_text())

    def release(self) -> None:
        """Let a held process go on, and hold no other one."""
        (self.faults / "armed").unlink(missing_ok=True)
        (self.faults / "held").unlink(missing_ok=True)

    def wait_for_log(self, what: str, lines: int, *, required: bool = True) -> None:
        """Wait for further lines of a kind in the log of epochs."""
        wanted, end = len([None for word, *_ in self.epoch_log() if word == what]) + lines, time.monotonic() + PATIENCE
        while len([None for word, *_ in self.epoch_log() if word == what]) < wanted:
            self._look_around()
            if not self.alive:
                if not required:
                    return
                raise Campaigned(f"the search ended before {lines} epochs began: {self.said()}")
            if time.monotonic() > end:
                raise Campaigned("no epoch began")
            time.sleep(0.02)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.alive:
            self._look_around()
            time.sleep(0.01)

    def _strike(self, kill: Kill, holder: int | None) -> int:
        assert self.driver is not None
        driver = psutil.Process(self.driver.pid)
        below = driver.children(recursive=True) if self.alive else []
        self._note(below)
        if kill.victim == "driver":
            return kill_all([driver])
        if kill.victim == "ray":
            return kill_all(below)
        if kill.victim == "ray and driver":
            return kill_all([driver, *below])
        if kill.victim == "mlflow":
            assert self.server is not None
            return self.server.kill()
        if holder in [process.pid for process in below]:
            return kill_all([psutil.Process(holder)])
        actors = sorted({pid for word, _, _, pid, _ in self.epoch_log() if word == "begin"})
        alive = [process for process in below if process.pid in actors]
        if not alive:
            raise Campaigned("no trial's process to kill")
        return kill_all([self.random.choice(alive)])

    def _bury(self, event: Event) -> None:
        """Wait for a killed session's driver and for what was below it."""
        assert self.driver is not None
        event.exit_code = self.wait_for_end()
        event.seconds = time.time() - event.at
        if event.exit_code != -signal.SIGKILL:
            event.words = self.said()[-1500:]
        event.left = self.left_running(patience=15)

    # ----------------------------------------------------------------------------------------------- what is to be seen

    def epoch_log(self) -> list[tuple[str, int, int, int, float]]:
        """The log that trials append to themselves: (begin or end, trial, epoch, pid, Unix time)."""
        if not self.log.exists():
            return []
        rows = [line.split() for line in self.log.read_text().splitlines() if line.count(" ") == 4]
        return [(what, int(number), int(epoch), int(pid), float(at)) for what, number, epoch, pid, at in rows]

    @contextlib.contextmanager
    def _ledger(self) -> Iterator[sqlite3.Connection | None]:
        """The ledger as whoever died left it; None where there is none.

        A copy: a death in a commit leaves a journal that is rolled back by whoever reads the file next, which is the
        resumed search's to do. Read-only, SQLite refuses such a file.
        """
        file = self.storage / "a" / "ledger.db"
        if not file.is_file():
            yield None
            return
        with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
            for part in (file, file.with_name(file.name + "-journal")):
                if part.is_file():
                    shutil.copy(part, folder)
            with contextlib.closing(sqlite3.connect(Path(folder) / file.name)) as database:
                yield database

    def known(self) -> dict[int, tuple[str, int]]:
        """Trial number -> (its parameters, how many epochs are committed), read past the ledger's own code."""
        found: dict[int, tuple[str, int]] = {}
        with self._ledger() as database:
            if database is None:
                return {}
            for identity, number in database.execute("SELECT trial_id, number FROM trials").fetchall():
                rows = database.execute(
                    "SELECT param_name, param_value FROM trial_params WHERE trial_id = ? ORDER BY param_name",
                    (identity,),
                ).fetchall()
                query = "SELECT count(*) FROM trial_user_attributes WHERE trial_id = ? AND key LIKE 'epoch:%'"
                found[number] = (json.dumps(rows), database.execute(query, (identity,)).fetchone()[0])
        return found

    def _look_around(self) -> None:
        """Remember the processes of this session, so that orphans are known when their parents are gone."""
        assert self.driver is not None
        now = time.monotonic()
        if now - self._looked > 0.5:
            self._looked = now
            self._note(family(self.driver.pid)[1:])

    def _note(self, processes: list[psutil.Process]) -> None:
        for process in processes:
            self.everyone[process.pid] = process

    def left_running(self, *, patience: float, late: bool = False) -> list[str]:
        """Processes of sessions that are over: children that were seen, and whatever works in this search's folder.

        Args:
            patience: seconds that they are given to end.
            late: also those that may take a minute.
        """
        end = time.monotonic() + patience
        while (found := self._left_running(late=late)) and time.monotonic() < end:
            time.sleep(0.1)
        return found

    def _left_running(self, *, late: bool) -> list[str]:
        if self.alive:
            raise Campaigned("a session is going on")
        server = family(self.server.process.pid) if self.server and self.server.process else []
        found = {process.pid: process for process in self.everyone.values() if process.is_running()}
        for process in psutil.process_iter():
            try:
                if process not in server and Path(process.cwd()).is_relative_to(self.folder):
                    found[process.pid] = process
            except (psutil.Error, OSError):
                continue
        told = [text for process in found.values() if (text := describe(process))]
        return [text for text in told if late or not any(name in text for name in LINGERING)]

    def ray_folders_left(self) -> set[str]:
        """Private folders of Ray's that sessions of this search have made and that are still there."""
        with self._ledger() as database:
            if database is not None:
                query = "SELECT value_json FROM study_user_attributes WHERE key = 'ray_folder'"
                self.ray_folders |= {json.loads(row[0]) for row in database.execute(query)}
        return {folder for folder in self.ray_folders if Path(folder).exists()}

    def close(self) -> None:
        """End everything that this search started."""
        if self.alive:
            assert self.driver is not None
            kill_all(family(self.driver.pid))
            self.driver.wait()
        if self.server and self.server.process and self.server.process.poll() is None:
            self.server.kill()
        kill_all([process for process in self.everyone.values() if process.is_running()])
        for folder in self.ray_folders_left():
            shutil.rmtree(folder, ignore_errors=True)


def family(pid: int) -> list[psutil.Process]:
    """A process and everything below it."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_all(processes: list[psutil.Process]) -> int:
    """SIGKILL; gives how many were there to get it. psutil refuses a pid that another process has got since."""
    count = 0
    for process in processes:
        try:
            process.kill()
            count += 1
        except psutil.NoSuchProcess:
            continue
    return count


def describe(process: psutil.Process) -> str:
    """``PID COMMAND``; empty where it is gone or only waits for its parent to take note."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        return f"{process.pid} {' '.join(process.cmdline())[:400].strip()}"
    except psutil.Error:
        return ""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def write(path: Path, text: str) -> None:
    """Whole or not at all: another process reads it."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    temporary.replace(path)
