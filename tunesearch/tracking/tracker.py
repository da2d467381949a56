"""The thread that keeps the view of a running search up to date.

Neither Ray's loop nor training ever waits for MLflow. If it cannot be reached the search goes on; what is missing is
sent when it answers again, or later by ``tunesearch sync``.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from tunesearch.ledger.store import Ledger
from tunesearch.tracking.search_runs import SearchRuns
from tunesearch.tracking.store import is_refusal, reason, without_password

_LONGEST_PAUSE = 16.0
"""Seconds between two attempts to reach an MLflow that does not answer."""


class _GivenUp(BaseException):
    """Nobody waits for MLflow any more: the ledger is closed, or about to be. No error of MLflow's."""


class Tracker:
    """Tells MLflow about a search from a thread of its own.

    Args:
        ledger: the search.
        uri: MLflow's tracking URI.
        system_metrics: log this machine's load to the parent run while the search goes on.
        on_message: told, from that thread, when MLflow does not answer or refuses a trial, and when it has caught up.

    Attributes:
        trouble: why MLflow does not have everything, else empty.
    """

    def __init__(
        self,
        ledger: Ledger,
        uri: str,
        *,
        system_metrics: bool = False,
        on_message: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.ledger = ledger
        self.uri = uri
        self.system_metrics = system_metrics
        self.on_message = on_message
        self.trouble = ""
        self._news = threading.Condition()
        self._changed: set[int] = set()
        self._ending: str | None = None
        self._given_up = threading.Event()
        self._moved = 0.0
        self._runs: SearchRuns | None = None
        self._waiting: dict[int, None] = {}
        self._refused: dict[int, str] = {}
        self._failures = 0
        self._complained = self._had_trouble = False
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)

    @property
    def started(self) -> bool:
        """Whether :meth:`start` was called."""
        return self._thread.ident is not None

    def start(self) -> None:
        """Begin; every trial that the ledger holds already is told first."""
        self._changed.update(record.number for record in self.ledger.trained())
        self._thread.start()

    def changed(self, number: int) -> None:
        """A trial began, went on or ended. Returns at once."""
        with self._news:
            self._changed.add(number)
            self._news.notify()

    def finish(self, status: str, *, patience: float = 30.0) -> bool:
        """Tell the rest and close the parent run; whether MLflow has all of it.

        Args:
            patience: seconds to wait while nothing can be told; then the rest is left to ``tunesearch sync``. Only a
                server can keep silent: a database file that is slow but gives no error is waited for.
        """
        self._moved = time.monotonic()
        with self._news:
            self._ending = status
            self._news.notify()
        local = self.uri.startswith("sqlite:")
        while (left := self._moved + patience - time.monotonic()) > 0 or (local and not self._failures):
            self._thread.join(max(left, 0.1))
            if not self._thread.is_alive():
                break
        if self._thread.is_alive():  # it may hang in a call, and the ledger is about to be closed
            self._given_up.set()
            self.trouble = self.trouble or f"no answer within {patience:.0f} s"
        return not self.trouble

    # ------------------------------------------------------------------------------------------------------- the thread

    def _work(self) -> None:
        pause = 0.0
        while not self._given_up.is_set():
            status = self._collect(pause)
            try:
                self._tell(status)
            except _GivenUp:
                break
            except Exception as error:  # MLflow may raise anything that a network, a database or a server can
                self._lost(error)
                pause = 1.0 if status is not None else min(2.0 ** (self._failures - 1), _LONGEST_PAUSE)
            else:
                self._reached()
                pause = 0.0
                if status is not None:
                    return
        self._drop_runs()

    def _collect(self, pause: float) -> str | None:
        """Wait for news, or as long as MLflow is to be left alone; take all there is. Gives the status at the end."""
        if pause and self._ending is not None:
            self._given_up.wait(pause)
        with self._news:
            self._news.wait_for(lambda: self._ending is not None or (not pause and self._changed), pause or None)
            self._waiting.update(dict.fromkeys(sorted(self._changed)))
            self._changed.clear()
            return self._ending

    def _tell(self, status: str | None) -> None:
        """Tell every waiting trial, and the end if it has come.

        Raises:
            Exception: MLflow does not answer. That it refuses one trial does not keep the others waiting.
        """
        if status is not None and self._had_trouble:  # once more from what MLflow has by now
            self._had_trouble = False
            self._drop_runs()
            self._waiting.update(dict.fromkeys(self._refused))
        if self._runs is None:
            self._runs = SearchRuns(self.ledger, self.uri, self._on_answer, system_metrics=self.system_metrics)
            self._waiting.update(dict.fromkeys(self._runs.missing()))
        for number in list(self._waiting):
            del self._waiting[number]
            try:
                self._runs.log_trial(self.ledger.trials[number])
            except Exception as error:
                if not is_refusal(error):
                    self._waiting[number] = None  # as the last one: the next round begins with another
                    raise
                self._refused[number] = self.trouble = reason(error)
                self._complain(f"refuses trial {number} ({self.trouble}); the search goes on")
            else:
                self._refused.pop(number, None)
            self._moved = time.monotonic()
        if status is not None:
            self._runs.finish(status)

    def _on_answer(self) -> None:
        """MLflow answered."""
        if self._given_up.is_set():
            raise _GivenUp
        if not self._failures:  # one that answers some questions and fails at others gets nowhere
            self._moved = time.monotonic()

    def _drop_runs(self) -> None:
        if self._runs is not None and self._runs.monitor is not None:  # which may wait for MLflow before it ends
            threading.Thread(target=self._runs.monitor.finish, daemon=True).start()
        self._runs = None

    def _lost(self, error: Exception) -> None:
        self.trouble = reason(error)
        self._had_trouble = True
        self._failures += 1
        self._drop_runs()  # the next one asks what MLflow has: it may be another one by then
        if self._failures > 1:  # a single failure may be a connection that was closed meanwhile
            self._complain(f"does not answer ({self.trouble}); the search goes on, what is missing is sent later")

    def _reached(self) -> None:
        self._failures = 0
        self.trouble = next(iter(self._refused.values()), "")
        if self._complained and not self.trouble:
            self._complained = False
            self._say("has everything again")

    def _complain(self, text: str) -> None:
        self._had_trouble = True
        if not self._complained and not self._given_up.is_set():
            self._complained = True
            self._say(text)

    def _say(self, text: str) -> None:
        with contextlib.suppress(Exception):  # what only listens must not end the thread
            self.on_message(f"MLflow at {without_password(self.uri)} {text}")
