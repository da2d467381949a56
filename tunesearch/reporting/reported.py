"""The search that is reported: its ledger, and what every section wants to know of it."""

from __future__ import annotations

from collections.abc import Callable

from tunesearch.errors import TunesearchError
from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.store import Ledger
from tunesearch.segmentation.config import ClassSpec
from tunesearch.segmentation.data.layouts import resolve_classes
from tunesearch.segmentation.user_code import find_user_code
from tunesearch.strategy.confirmation import Confirmation, confirmation


class ReportedSearch:
    """A search as it stands.

    Args:
        status: as ``SearchResult`` has it.
        on_message: told what takes its time.

    Attributes:
        metric: the objective's.
        records: the trials that count.
        confirmed: what repeating the best ones has shown; None: they were not.
        winner: the trial that leads, or the best one; None: none has a score.
        network: the one whose network is shown: its best repeat, where it has been confirmed.
        classes: none, where they cannot be read any more.
        missing: what could not be shown, and why.
    """

    def __init__(self, ledger: Ledger, status: str, on_message: Callable[[str], None]) -> None:
        self.ledger, self.status, self.on_message = ledger, status, on_message
        self.metric = ledger.experiment.objective.metric
        self.records = ledger.counted()
        self.confirmed: Confirmation | None = confirmation(ledger)
        leader = self.confirmed.leader if self.confirmed else None
        self.winner: TrialRecord | None = ledger.best() if leader is None else ledger.trials[leader]
        network = self.confirmed.network if self.confirmed else None
        self.network = self.winner if network is None else ledger.trials[network]
        self.missing: list[str] = []
        self.classes: tuple[ClassSpec, ...] = ()
        find_user_code(str(ledger.attribute("settings", {}).get("code", ".")))
        try:
            self.classes = resolve_classes(ledger.experiment.data)
        except TunesearchError as error:
            self.missing.append(f"the names of the classes: {error}")

    @property
    def data_name(self) -> str:
        """The data set without this machine's folders."""
        data = self.ledger.experiment.data
        if data.layout == "sample":
            return "built-in sample"
        return data.root.name if data.root is not None else data.layout


def first_line(error: Exception) -> str:
    """The first line of an error's words."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
