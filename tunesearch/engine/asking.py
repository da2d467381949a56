"""New trials: drawn by the proposer and committed to the ledger before anybody trains them."""

from __future__ import annotations

import functools

from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.store import Ledger
from tunesearch.strategy.proposer import Proposer


class Asker:
    """Asks for trials of a search, from wherever its ledger stands.

    Args:
        ledger: open for driving.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def ask(self) -> TrialRecord | None:
        """A new trial of the search, committed with its complete configuration; None when the space is exhausted.

        A configuration that equals an earlier one in effect is closed as a duplicate, and another one is asked for.
        """
        while (proposal := self.proposer.propose()) is not None:
            record = self.ledger.add(proposal)
            if proposal.twin is None:
                return record
            self.ledger.end(record.number, "duplicate", f"equals trial {proposal.twin} in effect")
        return None

    def repeat(self) -> TrialRecord | None:
        """The next trial that confirms another, committed with its configuration; None when all have begun."""
        if not self.ledger.requests.repeats():
            return None
        proposal = self.proposer.repeat()
        return None if proposal is None else self.ledger.add(proposal)

    @functools.cached_property
    def proposer(self) -> Proposer:
        """Made when it is needed: only a search that asks for something pays for reading its whole study."""
        return Proposer(self.ledger, self.ledger.optuna_trials())
