"""Bringing MLflow up to what a ledger holds, in one go; keeping a report with a search's run."""

from __future__ import annotations

from pathlib import Path

from tunesearch.errors import InputError, Problem
from tunesearch.ledger.store import Ledger
from tunesearch.tracking.search_runs import SearchRuns
from tunesearch.tracking.store import is_refusal, prepare, prepare_database, reason, without_password
from tunesearch.tracking.tags import PARENT


def sync(ledger: Ledger, uri: str, *, status: str) -> None:
    """Make MLflow say what the ledger says, from nothing or from anything in between.

    Args:
        status: of the search; a running one is not closed.

    Raises:
        InputError: MLflow cannot be reached, or refuses something; the rest is told.
    """
    refused: Exception | None = None
    try:
        runs = SearchRuns(ledger, uri)
        for record in ledger.trained():
            try:
                runs.log_trial(record)
            except Exception as error:
                if not is_refusal(error):
                    raise
                refused = error
        if status != "running":
            runs.finish(status)
        if refused is not None:
            raise refused
    except Exception as error:  # MLflow may raise anything that a network, a database or a server can
        rule = f"must be an MLflow that answers: {reason(error)}"
        raise InputError(Problem("--tracking-uri", rule, value=without_password(uri))) from error


def log_report(ledger: Ledger, uri: str, file: Path) -> str:
    """Keep a report with the parent run of a search; gives why MLflow did not take it, else an empty text."""
    run = ledger.attributes(f"mlflow_run:{without_password(uri)}:").get(PARENT)
    if run is None:
        return f"it does not know the search; tunesearch sync {ledger.name} tells it"
    try:
        prepare(retries=0)
        from mlflow import MlflowClient

        prepare_database(uri)
        MlflowClient(tracking_uri=uri).log_artifact(str(run), str(file))
    except Exception as error:  # MLflow may raise anything that a network, a database or a server can
        return reason(error)
    return ""
