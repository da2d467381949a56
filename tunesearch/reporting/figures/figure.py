"""What every figure is made of: its parts, the colours of outcomes, and texts that plotly does not take for markup.

Colours after Okabe and Ito (2008), which colour-blind readers can tell apart (the blue a little lighter, for dark
pages), with a symbol, dash or pattern of their own each.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plotly.graph_objects as go

BLUE, ORANGE, GREEN, RED, PURPLE, GREY = (
    "#2b84c4", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#8b949e",
)  # fmt: skip
OUTCOMES = {
    "completed": (BLUE, "circle"), "stopped": (ORANGE, "x"), "diverged": (RED, "triangle-up"),
    "out_of_memory": (PURPLE, "square"), "infeasible": (PURPLE, "diamond"), "failed": (RED, "cross"),
    "lost": (GREY, "star"), "cancelled": (GREY, "hourglass"), "running": (GREEN, "circle-open"),
}  # fmt: skip
"""Colour and symbol of every outcome."""
ROWS = 200
"""The most rows of a table that are shown."""


@dataclass(frozen=True)
class Table:
    """Texts, under the names of their columns; ``note`` stands below."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """What a figure shows.

    Attributes:
        key: its name in the page.
        title: its heading.
        help: how to read it, in a sentence; also what screen readers are told of the picture.
        plot: None: there is only the sentence, and the table.
        table: the same in texts.
        height: in pixels.
        width: the least, in pixels: on a smaller screen it can be scrolled; 0: any.
        note: what is left out, and other things worth knowing.
    """

    key: str
    title: str
    help: str
    plot: go.Figure | None
    table: Table | None = None
    height: int = 420
    width: int = 0
    note: str = ""
    small: Sequence[Figure] = field(default=())


def picked(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, evenly spread, with the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, most).round().astype(int)]


def plain(figure: go.Figure) -> go.Figure:
    """One of Optuna's plots as the page wants it: no title or colours of its own, no text taken as markup."""
    figure.update_layout(template="none", title=None, plot_bgcolor=None, width=None)
    for trace in figure.data:
        for name in ("name", "text", "customdata", "x", "y"):
            value = trace[name]
            if isinstance(value, str):
                trace[name] = safe(value)
            elif value is not None and any(isinstance(item, str | tuple | list) for item in value):
                trace[name] = [_safe(item) for item in value]
    for axis in (*figure.select_xaxes(), *figure.select_yaxes()):
        for name in ("ticktext", "categoryarray"):
            if axis[name] is not None:
                axis[name] = [_safe(item) for item in axis[name]]
    for annotation in figure.layout.annotations:
        annotation.update(text=safe(annotation.text or ""), font=None)
    return figure


def _safe(item: Any) -> Any:
    if isinstance(item, list | tuple):
        return [_safe(part) for part in item]
    return safe(item) if isinstance(item, str) else item


def safe(value: str) -> str:
    """A text that plotly shows as it is; plotly reads some HTML tags, and understands entities."""
    return html.escape(value, quote=False).replace("&lt;br&gt;", "<br>")
