"""``load``, ``compare``, ``leaderboard``, ``report`` and ``sync``: what is known, told without training anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tunesearch.api.places import all_opened, opened, storage_folder
from tunesearch.api.places import tracking_uri as uri_of
from tunesearch.api.result import SearchResult, result_of, status_of
from tunesearch.errors import InputError, Problem
from tunesearch.ledger.folders import searches
from tunesearch.ledger.store import Ledger
from tunesearch.reporting.comparison import Comparison
from tunesearch.reporting.comparison import compare as compare_trials
from tunesearch.reporting.leaderboard import Board, boards
from tunesearch.tracking.recorded_runs import recorded_runs
from tunesearch.tracking.store import default_uri, without_password
from tunesearch.tracking.sync import log_report
from tunesearch.tracking.sync import sync as sync_view


def load(name: str, *, storage: str | Path | None = None) -> SearchResult:
    """A search as it stands now, running or not.

    Raises:
        SearchNameError: there is no such search.
    """
    ledger = Ledger.open(storage_folder(storage), name)
    try:
        return result_of(ledger, status_of(ledger))
    finally:
        ledger.close()


def list_searches(*, storage: str | Path | None = None) -> list[SearchResult]:
    """All searches of a storage folder, oldest first."""
    folder = storage_folder(storage)
    return [_load_or_damaged(name, folder) for name in searches(folder)]


def _load_or_damaged(name: str, folder: Path) -> SearchResult:
    try:
        return load(name, storage=folder)
    except InputError:
        return SearchResult(name, "damaged", "", (), None, (), sample=False, duplicates=0, seconds=0.0)


def leaderboard(*, top: int = 10, tracking_uri: str | None = None, storage: str | Path | None = None) -> list[Board]:
    """The best of every search and production training that an MLflow knows, those together that may be compared.

    Args:
        top: entries per data set and objective.
        tracking_uri: MLflow's tracking URI; None: ``$MLFLOW_TRACKING_URI``, else SQLite in the storage folder.

    Raises:
        InputError: there is no MLflow, or it does not answer.
    """
    folder = storage_folder(storage)
    uri = uri_of(folder, tracking_uri)
    if tracking_uri is None and uri == default_uri(folder) and not (folder / "mlflow.db").is_file():
        rule = "must be a folder with searches that MLflow knows: there is no mlflow.db in it"
        hint = "--tracking-uri tells where another MLflow is"
        raise InputError(Problem("--storage", rule, value=str(folder), hint=hint))
    return boards(recorded_runs(uri), top=top)


def sync(name: str, *, storage: str | Path | None = None, tracking_uri: str | None = None) -> str:
    """Make MLflow say what the ledger says; gives the tracking URI."""
    folder = storage_folder(storage)
    ledger = Ledger.open(folder, name)
    try:
        uri = tracking_uri or ledger.attribute("settings", {}).get("tracking_uri") or default_uri(folder)
        sync_view(ledger, uri, status=status_of(ledger))
    finally:
        ledger.close()
    return without_password(uri)


def report(
    name: str,
    output: str | Path | None = None,
    *,
    storage: str | Path | None = None,
    tracking_uri: str | None = None,
    on_message: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write the report of a search, in whatever state it is, as one HTML file; MLflow keeps it with the search's run.

    Args:
        output: the file; None: ``STORAGE/NAME/report.html``.
        tracking_uri: MLflow's tracking URI; None: the one that the search was told to.
        on_message: told what takes its time, and what could not be shown.

    Returns:
        ``output``, ``bytes``, ``missing`` (what could not be shown, and why) and ``mlflow`` (why it does not have it,
        else empty).

    Raises:
        InputError: no such search; a file that cannot be written.
    """
    with opened(name, storage) as ledger:
        from tunesearch.reporting.page import write_report  # plotly and torch, which no other verb here needs

        file = Path(output) if output is not None else ledger.folder / "report.html"
        told = write_report(ledger, file, status=status_of(ledger), on_message=on_message)
        uri = tracking_uri or ledger.attribute("settings", {}).get("tracking_uri") or default_uri(ledger.folder.parent)
        return {**told, "mlflow": log_report(ledger, uri, file)}


def compare(
    names: Sequence[str],
    *,
    by: Sequence[str] = (),
    trials: Sequence[int] = (),
    stopped: bool = False,
    storage: str | Path | None = None,
) -> Comparison:
    """Compare the completed trials of searches; see :func:`tunesearch.reporting.comparison.compare`.

    Raises:
        InputError: no such search, field or trial; no trial to compare.
    """
    with all_opened(names, storage_folder(storage)) as ledgers:
        return compare_trials(ledgers, by=tuple(by), trials=tuple(trials), stopped=stopped)
