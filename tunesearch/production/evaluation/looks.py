"""The log of evaluations on the test part (looks), so that the second one is told for what it is.

The looks at a search's test part are in its ledger, whichever command they come from; those of a model folder are in
its ``test_looks.json``.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tunesearch.errors import InputError, Problem
from tunesearch.ledger.store import Ledger
from tunesearch.production.model import Model
from tunesearch.segmentation.files import write_text

FILE = "test_looks.json"


def looked_at_test(model: Model, *, by: str, result: dict[str, Any]) -> list[str]:
    """Record that a model was evaluated on the test part; gives the earlier looks, each as ``TIME by WHOM``.

    Args:
        by: the command.
        result: what was seen, as plain data.

    Raises:
        InputError: the record cannot be read or written.
    """
    if model.trial is None:
        return _in_folder(model.folder, {"at": time.time(), "by": by, **result})
    ledger = Ledger.open(model.folder.parent, model.folder.name)
    try:
        earlier = [_told(look) for look in ledger.looks]
        ledger.record_look(by=by, trials=[model.trial], result=result)
    finally:
        ledger.close()
    return earlier


def inherit_looks(source: Path, heir: Path) -> None:
    """Keep the looks at a model folder's test part with the one that was trained from it, on the same images.

    An heir that has a record keeps it.

    Raises:
        InputError: the record cannot be read or written.
    """
    of_the_search, own = _known(source)
    if (of_the_search or own) and not (heir / FILE).exists():
        _write(heir / FILE, [*of_the_search, *own])


def warning(earlier: list[str]) -> str:
    """What is to be told about earlier looks."""
    return f"the test part was looked at before ({'; '.join(earlier)}): a choice made by it is no longer independent"


def _in_folder(folder: Path, look: dict[str, Any]) -> list[str]:
    of_the_search, own = _known(folder)
    _write(folder / FILE, [*own, look])
    return [_told(one) for one in (*of_the_search, *own)]


def _known(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The looks of the search that a model folder comes from, as its bundle.json tells, and those of its own file."""
    file = folder / FILE
    try:
        confirmation = json.loads((folder / "bundle.json").read_text("utf-8")).get("confirmation") or {}
        of_the_search = [confirmation["test"]] if confirmation.get("test") else []
        own = list(json.loads(file.read_text("utf-8"))) if file.is_file() else []
        for look in (*of_the_search, *own):
            _told(look)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(Problem(str(file), "must be the record of who looked at the test part")) from error
    return of_the_search, own


def _write(file: Path, looks: list[dict[str, Any]]) -> None:
    try:
        write_text(file, json.dumps(looks, indent=1) + "\n")
    except OSError as error:
        rule = f"a look at the test part is recorded here, and that cannot be written: {error.strerror}"
        raise InputError(Problem(str(file), rule)) from error


def _told(look: dict[str, Any]) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime(look['at']))} UTC by {look['by']}"
