"""SIGINT and SIGTERM for the length of a search: the first saves and ends it, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """A context manager that hears both signals; of a thread that is not the main one, nothing is heard.

    Attributes:
        tell: what the first signal calls: ``raise_interrupt`` before and behind Ray Tune's loop, which has a way of its
            own to end.
        ending: everything is being saved: the first signal changes nothing any more.
    """

    def __init__(self) -> None:
        self.tell: Callable[[], None] = raise_interrupt
        self.ending = False
        self._heard_at = float("-inf")
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {name: signal.getsignal(name) for name in _SIGNALS}
            self.listen()
        return self

    def __exit__(self, *error: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def listen(self) -> None:
        """Take the signals; again where a library has taken them: Ray does when it is begun."""
        if self._before:
            for name in _SIGNALS:
                signal.signal(name, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() - self._heard_at < 0.3:  # one sent to the process and to its group is one
            return
        if self._heard_at > float("-inf"):
            os._exit(130)
        self._heard_at = time.monotonic()
        if not self.ending:
            self.tell()


def raise_interrupt() -> None:
    """What Python does by itself."""
    raise KeyboardInterrupt
