"""A trial's heartbeat: a small file that changes while there is progress. The driver ends a process without one.

A thread alone would go on while a training hangs, on a device or a file system; so every batch is a beat, and a thread
only beats while the trial is being built, which has no batches.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

FILE = "alive.json"
INTERVAL = 5.0
"""Seconds between two writings at least."""
LONGEST = 3600.0
"""Seconds that a trial may take to be built: decoding a data set, fetching weights."""


@dataclass(frozen=True)
class HeartbeatRecord:
    """One beat.

    Attributes:
        node: Ray's id of the node.
        pid: of the trial's process.
        created: seconds between the start of its node and that of this process: unlike a time, no set clock changes it.
        count: of beats written.
    """

    node: str
    pid: int
    created: float
    count: int


def created_at(process: psutil.Process) -> float:
    """How many seconds after its machine a process was started; right to about a second."""
    return float(process.create_time() - psutil.boot_time())


class Heartbeat:
    """Writes the file of one trial.

    Args:
        folder: of the trial.
        node: Ray's id of this node.
    """

    def __init__(self, folder: Path, node: str) -> None:
        self.file = folder / FILE
        self.node = node
        self.created = created_at(psutil.Process())
        self.count = 0
        self._written = float("-inf")

    def beat(self) -> None:
        """There is progress. Written at most every few seconds; a disk that is full must not end a trial here."""
        if time.monotonic() - self._written < INTERVAL:
            return
        self.count += 1
        beat = {"node": self.node, "pid": os.getpid(), "created": self.created, "count": self.count}
        with contextlib.suppress(OSError):
            self.file.write_text(json.dumps(beat))
            self._written = time.monotonic()  # else the next batch tries again: without a first beat nothing is missed

    @contextlib.contextmanager
    def throughout(self) -> Iterator[None]:
        """Beat for the length of a block, at most for ``LONGEST`` seconds."""
        ended = threading.Event()

        def work() -> None:
            until = time.monotonic() + LONGEST
            self.beat()
            while not ended.wait(INTERVAL) and time.monotonic() < until:
                self.beat()

        thread = threading.Thread(target=work, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def read_heartbeat(folder: Path) -> HeartbeatRecord | None:
    """The newest beat of a trial; None: there is none, or it is just being written."""
    try:
        return HeartbeatRecord(**json.loads((folder / FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def remove_heartbeat(folder: Path) -> None:
    """Remove what an earlier process left."""
    with contextlib.suppress(OSError):
        (folder / FILE).unlink(missing_ok=True)
