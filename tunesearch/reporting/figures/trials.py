"""Figures of the trials: every one's best score, and how they ended."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
import plotly.graph_objects as go
from optuna.visualization import plot_optimization_history

from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.store import Ledger
from tunesearch.reporting.facts import MEANINGS, short
from tunesearch.reporting.figures.figure import BLUE, OUTCOMES, RED, ROWS, Figure, Table, plain


def history(ledger: Ledger, records: Sequence[TrialRecord], study: optuna.Study) -> Figure:
    """Optuna's optimisation history, with the trials that were not completed."""
    metric = ledger.experiment.objective.metric
    plot = plain(plot_optimization_history(study, target_name=metric))
    for trace in plot.data:
        if trace.mode == "markers":
            trace.update(name="completed", marker={"color": BLUE, "size": 8})
        else:
            trace.update(name="best so far", line={"color": RED, "width": 2, "shape": "hv"}, marker={"size": 1})
    for outcome, (color, symbol) in OUTCOMES.items():
        scored = [record for record in records if (record.outcome or "running") == outcome and record.best is not None]
        if scored and outcome != "completed":
            plot.add_scatter(
                x=[record.number for record in scored],
                y=[record.best for record in scored],
                text=[f"after {max(record.epochs)} epochs" for record in scored],
                mode="markers",
                name=outcome,
                marker={"color": color, "symbol": symbol, "size": 7},
            )
    plot.update_xaxes(title="trial")
    plot.update_yaxes(title=f"best {metric}")
    best_first = sorted(records, key=lambda record: rank(ledger, record))
    return Figure(
        "history",
        "Every trial's best score",
        f"Each mark is a trial at its best {metric}; the line is the best completed one so far. A line that has been "
        "flat for long says that more trials of this space bring little.",
        plot,
        trials_table(ledger, best_first),
    )


def rank(ledger: Ledger, record: TrialRecord) -> tuple[bool, float]:
    """Sorts trials by their best score, the best first and those without one last."""
    return record.best is None, -ledger.larger_is_better(record.best or 0.0)


def trials_table(ledger: Ledger, records: Sequence[TrialRecord]) -> Table:
    """The trials with their parameters, the most that a table shows."""
    head = ["trial", "outcome", f"best {ledger.experiment.objective.metric}", "epochs", "parameters", "message"]
    rows = [
        [
            str(record.number),
            record.outcome or "running",
            "" if record.best is None else f"{record.best:.4f}",
            f"{max(record.epochs, default=0)} of {record.config.epochs}",
            ", ".join(f"{name}={short(value)}" for name, value in record.parameters.items()),
            record.message[:300],
        ]
        for record in records[:ROWS]
    ]
    left = len(records) - len(rows)
    return Table(head, rows, f"{left} weaker trials are left out; tunesearch show has them." if left > 0 else "")


def outcome_counts(counts: dict[str, int]) -> Figure:
    """How the trials ended."""
    names = list(counts)[::-1]
    plot = go.Figure(
        go.Bar(
            x=[counts[name] for name in names], y=names, orientation="h", text=[str(counts[name]) for name in names],
            textposition="auto", marker={"color": [OUTCOMES[name][0] for name in names]},
            hovertemplate="%{y}: %{x}<extra></extra>",
        )
    )  # fmt: skip
    plot.update_xaxes(title="trials")
    table = Table(
        ["outcome", "trials", "what it means"], [[name, str(n), MEANINGS[name]] for name, n in counts.items()]
    )
    help = "How many trials ended how. Many that failed, diverged or did not fit say that the space asks for too much."
    return Figure("outcomes", "How the trials ended", help, plot, table, height=110 + 38 * len(names))
