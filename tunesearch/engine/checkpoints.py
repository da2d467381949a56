"""Which files of which trials are kept: a checkpoint while it can be resumed from, weights while they are wanted."""

from __future__ import annotations

import contextlib

from tunesearch.ledger.store import Ledger
from tunesearch.strategy.confirmation import confirmation

CHECKPOINT, WEIGHTS = "last.pt", "best.safetensors"


class Checkpoints:
    """The files of a search's trials.

    Args:
        ledger: of the search.
        keep: how many completed trials keep their weights, the best ones; None: all.
    """

    def __init__(self, ledger: Ledger, keep: int | None) -> None:
        self.ledger = ledger
        self.keep = keep

    def tidy_all(self) -> None:
        """Remove what a killed driver left, and what is not wanted any more."""
        for record in self.ledger.trained():
            if record.outcome is not None:
                self._tidy(record.number)
            else:
                self._remove_torn(record.number)
        for number in self._beyond_kept():
            self._remove(number, WEIGHTS)

    def trial_ended(self, number: int) -> None:
        """A trial that ended needs no checkpoint to resume from; one that was stopped needs no weights either."""
        self._tidy(number)
        if self.ledger.trials[number].outcome == "completed":
            fallen = self._beyond_kept()
            for other in {number, *fallen[:1]} & set(fallen):  # the new one, or the one that it pushed out
                self._remove(other, WEIGHTS)

    def _tidy(self, number: int) -> None:
        self._remove_torn(number)
        self._remove(number, CHECKPOINT)
        if self.ledger.trials[number].outcome != "completed":
            self._remove(number, WEIGHTS)

    def _beyond_kept(self) -> list[int]:
        """The completed trials that keep no weights, the best of them first."""
        if self.keep is None:
            return []
        completed = [record for record in self.ledger.counted() if record.outcome == "completed"]
        return [record.number for record in self.ledger.ranked(completed)[self.keep :]]

    def _remove_torn(self, number: int) -> None:
        """Remove what a kill left half written."""
        for torn in self.ledger.trial_folder(number).rglob(".*"):
            with contextlib.suppress(OSError):  # a folder of somebody's, a file that another process holds
                torn.unlink(missing_ok=True)

    def _remove(self, number: int, file: str) -> None:
        folder = self.ledger.trial_folder(number)
        for part in (folder, *folder.glob("fold-*")):
            with contextlib.suppress(OSError):
                (part / file).unlink(missing_ok=True)


def drop_other_repeats(ledger: Ledger) -> None:
    """Remove the weights of every repeat but the leader's, once all have ended."""
    confirmed = confirmation(ledger)
    if confirmed is None or not confirmed.done or confirmed.leader is None:
        return
    for record in ledger.confirmations():
        if record.confirms != confirmed.leader:
            for file in ledger.trial_folder(record.number).rglob(WEIGHTS):
                file.unlink(missing_ok=True)
