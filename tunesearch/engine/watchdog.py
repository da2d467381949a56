"""The watchdog of running trials: ends the process of one whose heartbeat has stopped, so that it is started again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from tunesearch.engine.heartbeat import HeartbeatRecord, read_heartbeat, remove_heartbeat
from tunesearch.ledger.store import Ledger


class Watchdog:
    """Times are this process's own, so that no clock of a node matters.

    Args:
        ledger: of the search.
        stall_timeout: seconds without a change of the heartbeat after which a trial's process is ended.
        end_process: ends a process on a node, given both and when it began; must return at once.
        on_message: told whose process was ended.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        stall_timeout: float,
        end_process: Callable[[str, int, float], None],
        on_message: Callable[[str], None],
    ) -> None:
        self.ledger = ledger
        self.stall_timeout = stall_timeout
        self.end_process = end_process
        self.on_message = on_message
        self._known: dict[int, tuple[HeartbeatRecord | None, float]] = {}
        """Of each trial: its last heartbeat, and when it was first seen."""

    def forget(self, number: int) -> None:
        """A trial begins in a new process, or has ended."""
        remove_heartbeat(self.ledger.trial_folder(number))
        self._known.pop(number, None)

    def excuse(self, seconds: float) -> None:
        """Do not count a time in which the driver itself did nothing, so that no trial got an answer."""
        self._known = {number: (beat, since + seconds) for number, (beat, since) in self._known.items()}

    def check(self, running: Iterable[int]) -> None:
        """End the processes of those trials whose heartbeat has not changed for too long."""
        for number in running:
            beat = read_heartbeat(self.ledger.trial_folder(number))
            known, since = self._known.get(number, (None, 0.0))
            if beat is None:  # it waits for its node, or is just writing
                continue
            if beat != known:
                self._known[number] = (beat, time.monotonic())
            elif time.monotonic() - since > self.stall_timeout:
                self._known[number] = (beat, time.monotonic())
                told = f"trial {number} shows no sign of life for {self.stall_timeout:.0f} s; its process is ended"
                self.on_message(told)
                self.end_process(beat.node, beat.pid, beat.created)
