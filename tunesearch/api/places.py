"""Where searches, MLflow and a user's own modules are, and how a search is opened there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tunesearch.errors import InputError, Problem
from tunesearch.ledger.store import Ledger
from tunesearch.tracking.store import default_uri, without_password


def storage_folder(storage: str | Path | None) -> Path:
    """Where searches are kept: the argument, ``$TUNESEARCH_STORAGE``, or ``./runs``. It need not exist.

    Raises:
        InputError: it is no folder, or its path cannot stand in a database's address.
    """
    given = Path(storage or os.environ.get("TUNESEARCH_STORAGE") or "runs")
    try:
        folder = given.expanduser()
        folder.resolve()
    except RuntimeError as error:  # ~nobody-of-that-name, a loop of links
        raise InputError(Problem("--storage", f"must be a folder: {error}", value=str(given))) from error
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not there.is_dir():
        raise InputError(Problem("--storage", "must be a folder", value=str(there)))
    if any(character in str(folder.resolve()) for character in "{}?#%"):
        raise InputError(Problem("--storage", "its path cannot have { } ? # or % in it", value=str(folder.resolve())))
    return folder


def require_writable(folder: Path) -> None:
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(Problem("--storage", "must be a folder that can be written", value=str(folder)))


def tracking_uri(storage: Path, uri: str | None = None) -> str:
    """MLflow's: the argument, ``$MLFLOW_TRACKING_URI``, or SQLite in the storage folder."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(storage)


def require_no_password(uri: str) -> None:
    try:
        held = urlsplit(uri).password is not None
    except ValueError:  # no URL at all; MLflow says what it thinks of it
        held = False
    if held:
        hint = "give it in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or for PostgreSQL in PGPASSWORD"
        rule = "must not hold a password, which would be kept with the search"
        raise InputError(Problem("--tracking-uri", rule, value=without_password(uri), hint=hint))


def code_folder(space: str | Path) -> Path:
    """Where a user's own modules are looked for: beside the search-space file, or here for a shipped space."""
    return (Path(space).parent if Path(space).suffix in (".yaml", ".yml") else Path.cwd()).resolve()


@contextlib.contextmanager
def opened(name: str, storage: str | Path | None) -> Iterator[Ledger]:
    ledger = Ledger.open(storage_folder(storage), name)
    try:
        yield ledger
    finally:
        ledger.close()


@contextlib.contextmanager
def all_opened(names: Sequence[str], folder: Path) -> Iterator[list[Ledger]]:
    with contextlib.ExitStack() as stack:
        ledgers = []
        for name in dict.fromkeys(names):
            ledgers.append(Ledger.open(folder, name))
            stack.callback(ledgers[-1].close)
        yield ledgers
