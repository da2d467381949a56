"""What the page's sections are made of: paragraphs, figures and tables, as the template knows them by ``kind``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tunesearch.reporting.figures.figure import Figure, Table

FINDINGS = 30
"""The most lines of one kind of finding."""
Item = dict[str, Any]


def text_item(text: str, style: str = "") -> Item:
    """A paragraph; ``style``: lead, help or note."""
    return {"kind": "text", "text": text, "style": style}


def figure_items(figure: Figure | None) -> list[Item]:
    """A figure, if there is one."""
    return [] if figure is None else [{"kind": "figure", "figure": figure}]


def table_item(title: str, head: Iterable[str], rows: Iterable[Iterable[Any]]) -> Item:
    """A table of anything that has a text."""
    return {"kind": "table", "title": title, "table": Table(list(head), [[str(cell) for cell in row] for row in rows])}


def list_item(title: str, lines: Sequence[str]) -> Item:
    """A list."""
    return {"kind": "list", "title": title, "lines": lines}
