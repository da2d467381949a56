"""What a search shows while it goes on: a live picture in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tunesearch.engine.callback import SearchCallback
from tunesearch.engine.resources import Resources
from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.store import Ledger
from tunesearch.segmentation.data.checks import DataReport

_BARS = "▁▂▃▄▅▆▇█"
_ENDED, _RUNNING = 6, 12
"""Trials that the live picture has room for."""


def sparkline(values: list[float], width: int = 24) -> str:
    """The last ``width`` values as bars; a flat line is drawn low."""
    values = values[-width:]
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1))] for value in values)


def duration(seconds: float) -> str:
    """``7s``, ``3m20s``, ``2h05m``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


class Plain(SearchCallback):
    """One line for whatever happens; for logs and pipes.

    Args:
        confirming: whether what is watched are repeats of the best trials, and not the search.
    """

    def __init__(self, console: Console, *, confirming: bool = False) -> None:
        self.console = console
        self.confirming = confirming
        self.ledger: Ledger | None = None
        self.begun = time.monotonic()

    def records(self) -> list[TrialRecord]:
        """The trials that are watched, by number."""
        assert self.ledger is not None
        return self.ledger.confirmations() if self.confirming else self.ledger.counted()

    def total(self) -> int:
        """How many they are to be."""
        assert self.ledger is not None
        return len(self.records()) + len(self.ledger.requests.repeats()) if self.confirming else self.ledger.target

    def on_message(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def on_data_checked(self, report: DataReport) -> None:
        counts = ", ".join(f"{part.images} {name}" for name, part in report.parts.items())
        self.on_message(f"data: {counts} images, {len(report.classes)} classes")
        for warning in report.warnings[:5]:
            self.on_message(f"warning: {warning}")
        if len(report.warnings) > 5:
            self.on_message(f"warning: {len(report.warnings) - 5} more; tunesearch data check shows them all")

    def on_start(self, ledger: Ledger, resources: Resources) -> None:
        self.ledger = ledger
        self.begun = time.monotonic()
        gpus = f" and {resources.gpus:g} GPUs" if resources.gpus else ""
        what = "repeats" if self.confirming else f"trials, sampler {ledger.experiment.search.sampler}"
        self.on_message(
            f"search {ledger.name}: {self.total()} {what}, "
            f"{resources.concurrent} at once with {resources.cpus} CPU{'s' if resources.cpus > 1 else ''}{gpus} each"
        )

    def on_trial_change(self, number: int) -> None:
        assert self.ledger is not None
        record = self.ledger.trials[number]
        if record.outcome is None or record.outcome == "duplicate":
            return
        ended = sum(1 for other in self.records() if other.outcome)
        best = None if self.confirming else self.ledger.best()
        score = "no score" if record.best is None else f"{self.ledger.experiment.objective.metric} {record.best:.4f}"
        at_best = f"; best {best.best:.4f} (trial {best.number})" if best and best.best is not None else ""
        name = f"trial {number}"
        if record.confirms is not None:
            name = f"trial {record.confirms} with seed {record.config.seed}"
        why = f" ({record.message[:160]})" if record.message else ""
        self.on_message(
            f"[{ended}/{self.total()} {duration(time.monotonic() - self.begun)}] "
            f"{name} {record.outcome} after {max(record.epochs, default=0)} epochs: {score}{why}{at_best}"
        )

    def on_end(self) -> None:
        pass


class Picture(Plain):
    """A live picture: progress, trials that ended and that run with their curves, the best so far, the time left."""

    def __init__(self, console: Console, *, confirming: bool = False) -> None:
        super().__init__(console, confirming=confirming)
        self.live: Live | None = None

    def on_start(self, ledger: Ledger, resources: Resources) -> None:
        super().on_start(ledger, resources)
        self.live = Live(console=self.console, get_renderable=self.draw, refresh_per_second=4, transient=True)
        self.live.start()

    def on_end(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def draw(self) -> Group:
        """The picture as it is now; called by rich's own thread."""
        assert self.ledger is not None
        ledger, metric = self.ledger, self.ledger.experiment.objective.metric
        records = self.records()
        table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
        for column in ("trial", "", "epoch", metric, "curve"):
            table.add_column(column, no_wrap=True)
        table.add_column("configuration", no_wrap=True, ratio=1)  # what is too long is cut here
        for record in [record for record in records if record.outcome][-_ENDED:]:
            table.add_row(*_row(record, metric), style="green" if record.outcome == "completed" else "dim")
        for record in [record for record in records if record.outcome is None][:_RUNNING]:
            table.add_row(*_row(record, metric), style="bold")
        best = ledger.best()
        foot = Text("best so far: ", no_wrap=True, overflow="ellipsis")
        if best is None or best.best is None:
            foot.append("none yet")
        else:
            foot.append(f"{best.best:.4f}", style="bold green").append(f"  trial {best.number}: {short(best)}")
        return Group(self._head(records), table, foot)

    def _head(self, records: list[TrialRecord]) -> Text:
        """Name, progress and the time that is left, on one line of a terminal."""
        assert self.ledger is not None
        ended, total = sum(1 for record in records if record.outcome), self.total()
        elapsed = time.monotonic() - self.begun
        left = f", about {duration(elapsed / ended * (total - ended))} to go" if 0 < ended < total else ""
        bar = 30 if self.console.width >= 100 else 10
        filled = round(bar * ended / max(total, 1))
        head = Text(f"{self.ledger.name}  ", style="bold", no_wrap=True, overflow="ellipsis")
        head.append("━" * filled, style="green").append("━" * (bar - filled), style="grey37")
        head.append(f"  {ended}/{total} trials, {duration(elapsed)}{left}")
        if self.confirming:
            head.append("  confirming")
        if self.ledger.experiment.data.layout == "sample":
            head.append("  SAMPLE data", style="yellow")
        return head


def _row(record: TrialRecord, metric: str) -> tuple[str, ...]:
    curve = [getattr(saved.metrics, metric) for _, saved in sorted(record.epochs.items())]
    score = record.best if record.outcome else curve[-1] if curve else None
    return (
        str(record.number),
        record.outcome or "running",
        f"{max(record.epochs, default=0)}/{record.config.epochs}",
        "-" if score is None else f"{score:.4f}",
        sparkline(curve, 12),
        short(record),
    )


def short(record: TrialRecord) -> str:
    """What tells most trials apart, without the names of the parameters."""
    shown = ("architecture", "encoder", "optimizer", "lr", "loss")
    values = (record.parameters[name] for name in shown if name in record.parameters)
    return " ".join(f"{value:.1e}" if isinstance(value, float) else str(value) for value in values)


def view(*, to_stderr: bool = False, confirming: bool = False) -> Plain:
    """A picture where the output is a terminal, lines elsewhere; on stderr where stdout belongs to a machine."""
    console = Console(stderr=to_stderr)
    return (Picture if console.is_terminal else Plain)(console, confirming=confirming)
