"""The model card: README.md of a model folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesearch.segmentation.trainer import EpochMetrics


def card(content: dict[str, Any], curve: Sequence[EpochMetrics]) -> str:
    """The card of a bundle in Markdown."""
    return f"# {content['name']}\n"
