"""What is told while a search goes on."""

from __future__ import annotations

from typing import Protocol

from tunesearch.engine.resources import Resources
from tunesearch.ledger.store import Ledger
from tunesearch.segmentation.data.checks import DataReport


class Progress(Protocol):
    """What is told while a search goes on. Every method returns at once."""

    def note(self, text: str) -> None:
        """One line about what is happening or worth knowing."""

    def checked(self, report: DataReport) -> None:
        """The data set has passed its checks."""

    def started(self, ledger: Ledger, resources: Resources) -> None:
        """The first trial is about to begin."""

    def changed(self, number: int) -> None:
        """A trial began, went on or ended."""

    def ended(self) -> None:
        """No more trials come."""


class Silence:
    """Progress that nobody looks at."""

    def note(self, text: str) -> None:
        pass

    def checked(self, report: DataReport) -> None:
        pass

    def started(self, ledger: Ledger, resources: Resources) -> None:
        pass

    def changed(self, number: int) -> None:
        pass

    def ended(self) -> None:
        pass
