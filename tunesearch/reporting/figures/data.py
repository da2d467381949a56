"""The figure of the data: how often each class occurs in each part."""

from __future__ import annotations

import math
from collections.abc import Iterable

import plotly.graph_objects as go

from tunesearch.reporting.figures.figure import BLUE, GREEN, GREY, ORANGE, Figure, Table, safe
from tunesearch.segmentation.data.checks import DataReport, PartReport


def class_histogram(report: DataReport) -> Figure:
    """Shares of the labelled pixels per class and part."""
    parts = {name: part for name, part in report.parts.items() if part.images}
    names = [spec.name for spec in report.classes]
    plot = go.Figure()
    colors = {"train": (BLUE, ""), "val": (ORANGE, "/"), "test": (GREEN, "x")}
    for name, part in parts.items():
        color, pattern = colors.get(name, (GREY, ""))
        plot.add_bar(
            x=[safe(label) for label in names],
            y=[share or None for share in _percent(part)],
            name=name, marker={"color": color, "pattern": {"shape": pattern}},
            hovertemplate="%{x}: %{y:.3g} %<extra>" + name + "</extra>",
        )  # fmt: skip
    plot.update_layout(barmode="group")
    plot.update_xaxes(type="category")
    least = min((share for part in parts.values() for share in _percent(part) if share), default=1.0)
    powers = range(math.floor(math.log10(least)), 3)
    plot.update_yaxes(
        title="% of labelled pixels (log)", type="log", range=[powers[0], 2.05],
        tickvals=[10.0**power for power in powers], ticktext=[f"{10.0**power:g}" for power in powers],
    )  # fmt: skip
    return Figure(
        "histogram",
        "How often each class occurs",
        "Each bar is a class's share of the labelled pixels of a part, on a logarithmic axis. Bars of one class that "
        "differ much between parts say that the split is not alike.",
        plot,
        Table(
            ["class", *(f"{part}: {what}" for part in parts for what in ("% of pixels", "images with it"))],
            [
                [label, *_columns(index, parts.values())]
                for index, label in enumerate(names)
            ],
        ),
        width=160 + 34 * len(names),
    )  # fmt: skip


def _columns(index: int, parts: Iterable[PartReport]) -> list[str]:
    cells = []
    for part in parts:
        cells += [f"{_percent(part)[index]:.3g}", f"{part.images_with[index]} of {part.images}"]
    return cells


def _percent(part: PartReport) -> list[float]:
    return [100 * pixels / max(1, sum(part.pixels)) for pixels in part.pixels]
