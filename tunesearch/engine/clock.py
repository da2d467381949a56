"""The time that a search has taken, all sessions together, and whether its budget is spent."""

from __future__ import annotations

import time

from tunesearch.ledger.store import Ledger

_EVERY = 10.0
"""Seconds between two notes in the ledger: so much of a killed session's time is not counted."""


class SearchClock:
    """Runs from its making.

    Args:
        ledger: of the search.
        name: of the attribute that the seconds are kept in.
        budget: seconds that all sessions may take together; None: no end.
    """

    def __init__(self, ledger: Ledger, name: str, *, budget: float | None = None) -> None:
        self._ledger = ledger
        self._name = name
        self._budget = budget
        self._before = ledger.seconds(name)
        self._begun = self._noted = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return self._before + time.monotonic() - self._begun

    @property
    def is_out(self) -> bool:
        """Whether the budget is spent."""
        return self._budget is not None and self.seconds >= self._budget

    def tick(self) -> None:
        """Keep the time now and then."""
        if time.monotonic() - self._noted > _EVERY:
            self.keep()

    def keep(self) -> None:
        """Keep the time in the ledger."""
        self._noted = time.monotonic()
        self._ledger.note(self._name, self.seconds)
