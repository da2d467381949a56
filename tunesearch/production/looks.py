"""The test part is for one look. Who looked at it is kept, so that a second look is told for what it is."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tunesearch.errors import InputError, Problem
from tunesearch.production.model import Model
from tunesearch.search.confirmation import looks, record_look
from tunesearch.search.ledger import Ledger
from tunesearch.segmentation.files import write_text

FILE = "test_looks.json"
"""Where a model folder keeps them; a search keeps them in its ledger."""


def looked_at_test(model: Model, *, by: str) -> list[str]:
    """Record that the test part was looked at; gives the earlier looks, each as ``TIME by WHOM``.

    Args:
        by: who looks, such as ``evaluate s/3``.

    Raises:
        InputError: the record cannot be read or written.
    """
    if model.trial is None:
        return _in_folder(model.folder / FILE, by)
    ledger = Ledger.open(model.folder.parent, model.folder.name)
    try:
        earlier = [f"{_when(look['at'])} by {look['by']}" for look in looks(ledger)]
        record_look(ledger, by=by, trials=[model.trial])
    finally:
        ledger.close()
    return earlier


def _in_folder(file: Path, by: str) -> list[str]:
    try:
        known = json.loads(file.read_text("utf-8")) if file.is_file() else []
        earlier = [f"{_when(look['at'])} by {look['by']}" for look in known]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(Problem(str(file), "must be the record of who looked at the test part")) from error
    try:
        write_text(file, json.dumps([*known, {"at": time.time(), "by": by}], indent=1) + "\n")
    except OSError as error:
        rule = f"a look at the test part is recorded here, and that cannot be written: {error.strerror}"
        raise InputError(Problem(str(file), rule)) from error
    return earlier


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def warning(earlier: list[str]) -> str:
    """What is to be told about earlier looks."""
    return f"the test part was looked at before ({'; '.join(earlier)}): a choice made by it is no longer independent"
