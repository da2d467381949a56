"""What every benchmark prints: the machine, a table, the targets, and the same figures as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Where the figures come from; ``load`` is the mean number of running processes over the last minute."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }


def versions(*packages: str) -> dict[str, str]:
    """Of installed packages, by name."""
    return {name: version(name) for name in packages}


def say(title: str, facts: dict[str, Any]) -> None:
    """A heading and what was measured, one line a fact."""
    print(f"# {title}\n")
    for name, fact in facts.items():
        shown = ", ".join(f"{key} {value}" for key, value in fact.items()) if isinstance(fact, dict) else fact
        print(f"- {name}: {shown}")
    print()


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A markdown table, its columns padded so that it also reads as plain text."""
    cells = [list(map(str, row)) for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    cells.insert(1, ["-" * width for width in widths])
    for row in cells:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |", flush=True)
    print()


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median, and what it is the median of."""
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) < 2 else f"{middle} ({min(values):.{digits}f} - {max(values):.{digits}f})"


def target(name: str, value: float, rule: str, *, met: bool) -> dict[str, Any]:
    """Print one target and whether this run met it; never an error, because figures of one machine prove no bug."""
    print(f"{'met   ' if met else 'MISSED'} {name}: {value:.3g} (target {rule})", flush=True)
    return {"name": name, "value": value, "target": rule, "met": met}


def write_json(path: Path | None, figures: dict[str, Any]) -> None:
    """All figures of a run, for whoever compares runs."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        print(f"\nfigures: {path}")
