"""SHA-256 hashes (hex) of a model folder's files, of its bundle.json, and of tunesearch's own sources."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def source_hash() -> str:
    """SHA-256 (hex) over the names and contents of all modules of tunesearch, whatever folder they are installed in."""
    package = Path(__file__).parents[2]
    total = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        total.update(f"{path.relative_to(package).as_posix()}\0{file_hash(path)}\n".encode())
    return total.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file, which need not fit into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(content: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of bundle.json's content, but for the hash itself and for how it is laid out."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
