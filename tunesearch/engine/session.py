"""Ray for the length of a search: a given cluster or a private one on this machine, and a watchdog that sees it die."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from tunesearch.errors import Halted, InputError, Problem

_PREFIX = "tunesearch-ray-"
_TOKEN = Path("~/.ray/auth_token")

RAY_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON and TensorBoard files that nobody reads
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # snapshots that are never restored from
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours saves and says how to resume
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_WARN_THRESHOLD_S": "30",
    "TUNE_MAX_PENDING_TRIALS_PG": "auto",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a box whatever the verbosity
    "RAY_USAGE_STATS_ENABLED": "0",
    # Printed to stdout whatever log_to_driver says.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "Raylet is terminated|has been marked dead|A worker died or was killed",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}
"""What Ray reads when it is imported."""


def set_environment() -> None:
    """Set what Ray reads, before it is imported; what the user has set stays."""
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def ray_session(
    address: str, *, on_folder: Callable[[str], None], on_abandon: Callable[[str], None]
) -> Iterator[RayWatchdog]:
    """Connect to Ray, and disconnect at the end. A Ray that the caller has begun is used and left as it is.

    Args:
        address: ``local`` for a private Ray, ``auto`` or that of a cluster.
        on_folder: told the folder of a private Ray, to be removed by another process if this one is killed.
        on_abandon: see ``SearchCallback``.

    Raises:
        InputError: the cluster does not answer, or refuses the token.
        Halted: a private Ray did not start; the machine may be overloaded.
    """
    import ray
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

    watchdog = RayWatchdog(on_abandon)
    if ray.is_initialized():
        yield watchdog
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    temporary: str | None = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if address == "local":
                # Short, because the path of a Unix socket below it may have 107 characters at most.
                temporary = tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp" if os.name == "posix" else None)
                on_folder(temporary)
                try:
                    ray.init(address="local", _temp_dir=temporary, include_dashboard=False, **quiet)
                except Exception as error:  # Ray raises no other, where its processes do not come up within 30 s
                    raise Halted(f"Ray did not start on this machine: {' '.join(str(error).split())[:300]}") from error
            else:
                # ``ray.init`` does not send the token to a cluster by itself, as ``ray start`` does; and setting the
                # variable would be too late: Ray has read it when it was imported.
                maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
                try:
                    ray.init(address=address, **quiet)
                except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
                    if "InvalidAuthToken" in str(error.__cause__):
                        rule = "must be a Ray cluster whose token is here; it refuses this one, or that there is none"
                        hint = "RAY_AUTH_TOKEN_PATH names a file with it, else it is in ~/.ray/auth_token"
                    else:
                        rule = f"must be a Ray cluster that answers: {' '.join(str(error).split())[:200]}"
                        hint = ""
                    raise InputError(Problem("--address", rule, value=address, hint=hint)) from error
        _keep_token_private()
        watchdog.watch(ray.get_runtime_context())
        yield watchdog
    finally:
        watchdog.closing()
        ray.shutdown()
        watchdog.end()
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(folder: str | None) -> None:
    """Remove the folder of a private Ray whose driver was killed."""
    if folder and Path(folder).name.startswith(_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


class RayWatchdog:
    """Sees that Ray has died. Tune's loop hangs then, until Ray's library ends this process a minute later.

    Args:
        on_abandon: called if the loop has not returned some seconds after it was told.

    Attributes:
        on_lost: told why, as soon as Ray has died; must return at once.
    """

    interval = 2.0
    """Seconds between two looks."""
    misses = 15
    """Looks in a row at which a cluster must not answer: its GCS may be started again."""
    grace = 10.0
    """Seconds that the loop has to return."""

    def __init__(self, on_abandon: Callable[[str], None]) -> None:
        self.on_abandon = on_abandon
        self.on_lost: Callable[[str], None] = lambda reason: None
        self._closing = threading.Event()
        self._ended = threading.Event()

    def watch(self, context: Any) -> None:
        """Begin; ``context`` is Ray's runtime context."""
        # Without its node's raylet the driver hangs for ever; without the GCS for a minute. Its socket does not tell a
        # raylet: containers that share their host's process numbers have sockets of the same path.
        mine = f"--node_id={context.get_node_id()}"
        self._vital = [
            process
            for process in psutil.process_iter(["name", "cmdline"])
            if process.info["name"] == "raylet" and mine in (process.info["cmdline"] or [])
        ]
        # Nobody starts a private Ray's GCS again.
        self._vital += [child for child in psutil.Process().children() if child.name() == "gcs_server"]
        host, _, port = context.gcs_address.rpartition(":")
        self._gcs = (host.strip("[]"), int(port))
        threading.Thread(target=self._work, name="ray-watchdog", daemon=True).start()

    def closing(self) -> None:
        """Ray is not needed any more, and may die."""
        self._closing.set()

    def end(self) -> None:
        """This process has left Ray."""
        self._ended.set()

    def _work(self) -> None:
        missed = 0
        while not self._closing.wait(self.interval):
            dead = [process for process in self._vital if not _runs(process)]
            missed = 0 if self._answers() else missed + 1
            if not dead and missed < self.misses:
                continue
            reason = "Ray's processes have died" if dead else f"Ray at {self._gcs[0]}:{self._gcs[1]} does not answer"
            self.on_lost(reason)
            if not self._ended.wait(self.grace):
                self.on_abandon(reason)
                os._exit(Halted.exit_code)
            return

    def _answers(self) -> bool:
        try:
            socket.create_connection(self._gcs, timeout=5).close()
        except OSError:
            return False
        return True


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _keep_token_private() -> None:
    """Ray writes its token readable for everyone on the machine."""
    token = _TOKEN.expanduser()
    if token.is_file() and token.stat().st_mode & 0o077:
        with contextlib.suppress(OSError):
            token.chmod(0o600)
