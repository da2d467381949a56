"""Figures of the best trials' scores: repeated over seeds, per class, and what is taken for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from tunesearch.reporting.figures.figure import BLUE, GREY, RED, Figure, Table, safe
from tunesearch.strategy.confirmation import LEVEL, Confirmation


def confirmation(found: Confirmation) -> Figure:
    """Scores of every seed, their mean and its interval, per candidate, beside the score that it had in the search."""
    plot = go.Figure()
    rows = []
    named = set()

    def add(kind: str, x: list[float], label: str, **look: Any) -> None:
        plot.add_scatter(
            x=x, y=[label] * len(x), mode="markers", name=kind, legendgroup=kind, showlegend=kind not in named, **look
        )
        named.add(kind)

    for one in found.candidates:
        label = f"trial {one.trial}"
        add("in the search", [one.searched], label, marker={"color": GREY, "size": 9, "symbol": "x"})
        if one.values:
            ring = {"color": BLUE, "size": 9, "symbol": "circle-open", "line": {"width": 2}}
            add("a seed", list(one.values), label, marker=ring)
        if one.mean is not None:
            error = None
            if one.low is not None and one.high is not None:
                error = {
                    "type": "data", "symmetric": False, "array": [one.high - one.mean],
                    "arrayminus": [one.mean - one.low], "thickness": 2.5, "color": RED, "width": 8,
                }  # fmt: skip
            marker = {"color": RED, "size": 12, "symbol": "diamond"}
            add(f"mean, {100 * LEVEL:.0f} % interval", [one.mean], label, marker=marker, error_x=error)
        rows.append(
            [
                str(one.trial),
                str(len(one.values)) + (f", {one.waiting} to come" if one.waiting else ""),
                f"{one.searched:.4f}",
                "" if one.mean is None else f"{one.mean:.4f}",
                "" if one.deviation is None else f"{one.deviation:.4f}",
                "" if one.low is None or one.high is None else f"{one.low:.4f} to {one.high:.4f}",
                ", ".join(f"{seed}: {value:.4f}" for seed, value in zip(one.seeds, one.values, strict=True)),
                ", ".join(one.failures),
            ]
        )
    plot.update_xaxes(title=found.objective)
    plot.update_yaxes(type="category", range=[len(rows) - 0.4, -0.6])
    return Figure(
        "confirmation",
        "The best trials, repeated over seeds",
        "Each ring is a whole training with a seed of its own, the diamond their mean with its interval; the cross is "
        "the score in the search. A winner is named only where its difference from every other is shown.",
        plot,
        Table(["trial", "seeds", "in the search", "mean", "deviation", "interval", "each seed", "not completed"], rows),
        height=190 + 60 * len(rows),
    )


def class_iou(names: Sequence[str], iou: Sequence[float | None], background: int | None, source: str) -> Figure:
    """A bar per class, the background hatched."""
    order = sorted(range(len(iou)), key=lambda index: -1.0 if iou[index] is None else iou[index] or 0.0)
    labels = [_label(names[index], index == background) for index in order]
    plot = go.Figure(
        go.Bar(
            x=[iou[index] for index in order], y=[safe(label) for label in labels], orientation="h",
            text=["absent" if iou[index] is None else f"{iou[index]:.3f}" for index in order],
            textposition="outside", cliponaxis=False,
            marker={
                "color": [GREY if index == background else BLUE for index in order],
                "pattern": {"shape": ["/" if index == background else "" for index in order]},
            },
            hovertemplate="%{y}: %{text}<extra></extra>",
        )
    )  # fmt: skip
    plot.update_xaxes(title="IoU", range=[0, 1.08], tickvals=[0, 0.2, 0.4, 0.6, 0.8, 1])
    plot.update_yaxes(type="category")
    return Figure(
        "class-iou",
        "IoU per class",
        "The share of a class's pixels, in truth or prediction, that are in both; the hatched bar is the background. "
        "A class near 0 is not found at all, however good the mean.",
        plot,
        Table(
            ["class", "IoU"],
            [
                [_label(names[i], i == background), "absent" if iou[i] is None else f"{iou[i]:.4f}"]
                for i in reversed(order)
            ],
        ),
        height=120 + 30 * len(names),
        note=source,
    )


def _label(name: str, is_background: bool) -> str:
    return f"{name} (background)" if is_background and name != "background" else name


def confusion(names: Sequence[str], matrix: NDArray[np.int64]) -> Figure:
    """Rows are the truth, in shares of their pixels; counts on hover."""
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.full(matrix.shape, np.nan), where=totals > 0)
    labels = [safe(name) for name in names]
    shown: list[list[float | None]] = [[None if np.isnan(v) else round(float(v), 4) for v in row] for row in shares]
    plot = go.Figure(
        go.Heatmap(
            z=shown, x=labels, y=labels, customdata=matrix.tolist(), zmin=0, zmax=1, colorscale="Cividis",
            texttemplate="%{z:.2f}" if len(names) <= 12 else None, xgap=1, ygap=1, colorbar={"title": "share"},
            hovertemplate="truth %{y}, predicted %{x}<br>%{z:.1%}: %{customdata} pixels<extra></extra>",
        )
    )  # fmt: skip
    plot.update_xaxes(title="predicted", type="category")
    plot.update_yaxes(title="truth", type="category", autorange="reversed")
    rows = []
    for index, name in enumerate(names):
        wrong = [other for other in np.argsort(-matrix[index]) if other != index and matrix[index, other] > 0][:3]
        taken = ", ".join(f"{names[other]} {shares[index, other]:.1%}" for other in wrong)
        right = "" if totals[index] == 0 else f"{shares[index, index]:.1%}"
        rows.append([name, f"{int(totals[index][0]):,}", right, taken])
    return Figure(
        "confusion",
        "What is taken for what",
        "A row holds the pixels of one true class, shared out over what they were predicted as; the diagonal is right. "
        "A bright field off the diagonal is a confusion.",
        plot,
        Table(["truth", "pixels", "right", "most often taken for"], rows),
        height=190 + 34 * len(names),
        width=260 + 34 * len(names),
    )
