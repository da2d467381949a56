"""The test part is for one look. Who looked at it is kept, so that a second look is told for what it is."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tunesearch.errors import InputError, Problem
from tunesearch.segmentation.files import write_text

FILE = "test_looks.json"


def looked_at_test(folder: Path, *, by: str) -> list[str]:
    """Record that the test part was looked at; gives the earlier looks, each as ``TIME by WHOM``.

    Args:
        folder: the model folder, or that of the search, which holds ``test_looks.json``.
        by: who looks, such as ``evaluate s/3``.

    Raises:
        InputError: the record cannot be read or written.
    """
    file = folder / FILE
    try:
        looks = json.loads(file.read_text("utf-8")) if file.is_file() else []
        earlier = [f"{look['at']} by {look['by']}" for look in looks]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(Problem(str(file), "must be the record of who looked at the test part")) from error
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    try:
        write_text(file, json.dumps([*looks, {"at": at, "by": by}], indent=1) + "\n")
    except OSError as error:
        rule = f"a look at the test part is recorded here, and that cannot be written: {error.strerror}"
        raise InputError(Problem(str(file), rule)) from error
    return earlier


def warning(earlier: list[str]) -> str:
    """What is to be told about earlier looks."""
    return f"the test part was looked at before ({'; '.join(earlier)}): a choice made by it is no longer independent"
