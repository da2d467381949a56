"""What a search tells whoever watches it while it goes on."""

from __future__ import annotations

from tunesearch.engine.resources import Resources
from tunesearch.ledger.store import Ledger
from tunesearch.segmentation.data.checks import DataReport


class SearchCallback:
    """Told what happens. Override what is of interest; called in this order, most of it from Ray's loop: every method
    must return at once.
    """

    def on_message(self, text: str) -> None:
        """Something worth knowing: a note, a skipped point, a trial that is started again. At any time."""

    def on_data_checked(self, report: DataReport) -> None:
        """The data set was found usable."""

    def on_start(self, ledger: Ledger, resources: Resources) -> None:
        """The search begins, or goes on."""

    def on_trial_change(self, number: int) -> None:
        """A trial has begun, committed an epoch or ended; the ledger knows it."""

    def on_abandon(self, reason: str) -> None:
        """Ray has died and its loop does not return: save what can be saved, for the process ends now with exit code 4.

        Called from another thread.
        """

    def on_end(self) -> None:
        """The search ended or was interrupted; what follows are results and errors."""
