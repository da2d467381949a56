"""Figures by epoch: the learning curves of all trials with ASHA's rungs, and the losses and score of the best one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import plotly.graph_objects as go

from tunesearch.ledger.records import EpochRecord, TrialRecord
from tunesearch.ledger.store import Ledger
from tunesearch.reporting.figures.figure import BLUE, GREY, ORANGE, OUTCOMES, RED, ROWS, Figure, Table, picked
from tunesearch.reporting.figures.trials import rank
from tunesearch.strategy.asha import Asha
from tunesearch.strategy.early_stopping import build_stopper

CURVES, EPOCHS = 200, 60
"""The most that are shown: learning curves, and epochs of a curve."""


def learning_curves(ledger: Ledger, records: Sequence[TrialRecord], winner: TrialRecord | None) -> Figure:
    """Running bests by epoch, with ASHA's rungs and the end of every trial that did not reach its last epoch."""
    metric = ledger.experiment.objective.metric
    begun = [record for record in records if record.epochs]
    shown = picked(sorted(begun, key=lambda record: rank(ledger, record)), CURVES)
    stopper = build_stopper(ledger.experiment)
    rungs = list(stopper.rungs) if isinstance(stopper, Asha) else []
    plot = go.Figure()
    for outcome in OUTCOMES:
        of_these = [record for record in shown if (record.outcome or "running") == outcome and record is not winner]
        if of_these:
            _draw_curves(plot, outcome, of_these)
    if winner is not None and winner.epochs:
        _draw_winner(plot, winner)
    _draw_rungs(plot, rungs, longest=max((max(record.epochs) for record in shown), default=1))
    plot.update_xaxes(title="epoch", rangemode="tozero")
    plot.update_yaxes(title=f"best {metric} so far")
    notes = []
    if len(shown) < len(begun):
        notes.append(f"{len(shown)} of {len(begun)} curves are shown, spread evenly from the best to the weakest.")
    if any(len(record.epochs) > EPOCHS for record in shown):
        notes.append(f"Of a curve {EPOCHS} epochs are drawn, spread evenly.")
    rule = (
        "At a dashed rung ASHA compares a trial with those that were there before and stops the weaker ones"
        if rungs
        else "No rung was set in this search"
    )
    return Figure(
        "curves",
        "Learning curves",
        f"Each line is a trial's best {metric} so far, which is what early stopping sees. {rule}; a mark shows where a "
        "trial ended before its last epoch.",
        plot,
        _rungs_table(ledger, records, rungs),
        note=" ".join(notes),
    )


def _draw_curves(plot: go.Figure, outcome: str, records: Sequence[TrialRecord]) -> None:
    """The trials of one outcome as one trace, with a mark at the end of each that was not completed."""
    color, symbol = OUTCOMES[outcome]
    x: list[int | None] = []
    y: list[float | None] = []
    trial: list[int | None] = []
    for record in records:
        points = _running_best(record)
        x += [*(epoch for epoch, _ in points), None]
        y += [*(value for _, value in points), None]
        trial += [record.number] * (len(points) + 1)
    plot.add_scatter(
        x=x, y=y, customdata=trial, mode="lines", name=outcome, legendgroup=outcome, opacity=0.75,
        line={"color": color, "width": 1.3, "dash": "solid" if outcome in ("completed", "stopped") else "dot"},
        hovertemplate="trial %{customdata}<br>epoch %{x}: %{y:.4f}<extra></extra>",
    )  # fmt: skip
    if outcome == "completed":
        return
    plot.add_scatter(
        x=[max(record.epochs) for record in records], y=[record.best for record in records],
        customdata=[record.number for record in records],
        mode="markers", name=f"{outcome}: its end", legendgroup=outcome, showlegend=False,
        marker={"color": color, "symbol": symbol, "size": 7},
        hovertemplate=f"trial %{{customdata}}: {outcome}<br>epoch %{{x}}: %{{y:.4f}}<extra></extra>",
    )  # fmt: skip


def _draw_winner(plot: go.Figure, winner: TrialRecord) -> None:
    points = _running_best(winner)
    plot.add_scatter(
        x=[epoch for epoch, _ in points], y=[value for _, value in points], mode="lines+markers",
        name=f"trial {winner.number}, the best", line={"color": RED, "width": 3}, marker={"size": 5},
    )  # fmt: skip


def _draw_rungs(plot: go.Figure, rungs: Sequence[int], *, longest: int) -> None:
    """Dashed lines; where the next one is near, only the number is written."""
    for rung, following in itertools.pairwise([*rungs, math.inf]):
        label = f"rung {rung}" if following - rung > 0.08 * longest else str(rung)
        plot.add_vline(
            x=rung, line={"dash": "dash", "width": 1.2, "color": GREY}, annotation_text=label,
            annotation_position="top right",
        )  # fmt: skip


def _running_best(record: TrialRecord) -> list[tuple[int, float]]:
    return [(epoch, saved.best) for epoch, saved in picked(sorted(record.epochs.items()), EPOCHS)]


def _rungs_table(ledger: Ledger, records: Sequence[TrialRecord], rungs: Sequence[int]) -> Table:
    rows = []
    ends = sorted({max(record.epochs) for record in records if record.epochs})
    for epoch in sorted({*rungs, *ends}):
        there = [record.epochs[epoch] for record in records if epoch in record.epochs]
        ended = [record for record in records if record.epochs and max(record.epochs) == epoch]
        best = max((ledger.larger_is_better(saved.best) for saved in there), default=None)
        rows.append(
            [
                f"{epoch} (rung)" if epoch in rungs else str(epoch),
                str(len(there)),
                str(sum(record.outcome == "stopped" for record in ended)),
                str(sum(record.outcome == "completed" for record in ended)),
                "" if best is None else f"{ledger.larger_is_better(best):.4f}",
            ]
        )
    return Table(["epoch", "trials that reached it", "stopped there", "completed there", "best there"], rows)


def winner_curve(epochs: dict[int, EpochRecord], metric: str) -> Figure:
    """Losses and score of one training by epoch."""
    told = picked([saved.metrics for _, saved in sorted(epochs.items())], ROWS)
    x = [metrics.epoch for metrics in told]
    plot = go.Figure()
    for name, color, dash in (("train_loss", GREY, "dot"), ("val_loss", ORANGE, "dash")):
        plot.add_scatter(
            x=x, y=[_finite(getattr(metrics, name)) for metrics in told], name=name, mode="lines+markers",
            line={"color": color, "dash": dash}, yaxis="y2", marker={"size": 4},
        )  # fmt: skip
    shown = "val_miou" if metric == "val_loss" else metric
    plot.add_scatter(
        x=x, y=[getattr(metrics, shown) for metrics in told], name=shown, mode="lines+markers",
        line={"color": BLUE, "width": 3}, marker={"size": 5},
    )  # fmt: skip
    plot.update_layout(
        xaxis={"title": "epoch"},
        yaxis={"title": shown},
        yaxis2={"title": "loss", "overlaying": "y", "side": "right", "showgrid": False, "tickmode": "auto"},
    )
    return Figure(
        "winner-curve",
        "Its training",
        f"{shown} (left axis) and the losses (right axis) by epoch. A validation loss that turns up while the training "
        "loss goes on down is overfitting; curves that still rise say that more epochs would help.",
        plot,
        Table(
            ["epoch", shown, "val_loss", "train_loss", "lr"],
            [
                [str(m.epoch), f"{getattr(m, shown):.4f}", f"{m.val_loss:.4f}", f"{m.train_loss:.4f}", f"{m.lr:.3g}"]
                for m in told
            ],
        ),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
