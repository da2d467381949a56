"""MLflow's stores: where they are, made whole, patient but not too patient, and what their errors say."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Lets MLflow's page open with metrics and charts rather than with traces of language models."""
_REFUSALS = (400, 409)
"""Status codes that are about what was sent. Any other error may pass, or meets every run."""


def default_uri(storage: Path) -> str:
    """SQLite in the storage folder, by absolute path."""
    return f"sqlite:///{storage.resolve()}/mlflow.db"


def artifact_folder(storage: Path) -> str:
    """Where artifacts go beside a local database."""
    return (storage.resolve() / "mlartifacts").as_uri()


def experiment_id(client: Any, name: str, *, uri: str, storage: Path) -> str:
    """MLflow's id of an experiment, made if there is none; artifacts of a local database lie in the storage folder."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = artifact_folder(storage) if uri.startswith("sqlite:") else None
    return str(client.create_experiment(name, artifact_location=location, tags=KIND))


def prepare(*, retries: int) -> None:
    """Let MLflow's client give up a server that does not answer after seconds, not minutes, and say nothing itself."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(retries))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    import mlflow  # noqa: F401  # it sets the level of its logger when it is imported

    # They announce every step of making a database, and every attempt that failed.
    for name in ("mlflow", "alembic", "mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def prepare_database(uri: str) -> None:
    """Make MLflow's SQLite database whole, once, whoever else begins at the same moment or dies in it.

    MLflow makes it in a dozen migrations on the file itself: two processes in one, or one that is killed, leave a wreck
    that every later one fails at. A wreck is moved aside: what is in MLflow is in the ledgers as well.
    """
    if not uri.startswith("sqlite:///"):
        return
    prepare(retries=2)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    file = Path(uri.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f".{file.name}.lock")):
        if file.exists():
            try:
                MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
            except (MlflowException, SQLAlchemyError) as error:
                if not any(said in str(error) for said in ("already exists", "no such table", "no such column")):
                    raise
                file.rename(file.with_name(f"{file.name}.broken-{time.time_ns()}"))
        if not file.exists():
            building = file.with_name(f".{file.name}.new")
            building.unlink(missing_ok=True)
            MlflowClient(tracking_uri=f"sqlite:///{building}").search_experiments(max_results=1)
            building.rename(file)


def pages(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    """Everything of a listing that MLflow gives in pages; ``ask`` is given the token of each."""
    token: str | None = None
    while True:
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return


def is_refusal(error: Exception) -> bool:
    """Whether MLflow answered, and took what it was sent for wrong."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.get_http_status_code() in _REFUSALS
    return getattr(getattr(error, "response", None), "status_code", None) in _REFUSALS  # of artifacts


def reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "Caused by " in text:  # the network's own words stand behind a page of others
        cause = text.rpartition("Caused by ")[2].removesuffix(")")
        plain = re.search(r".*: (.+)[\"']\)$", cause)
        return (plain[1] if plain else cause)[:200]
    return f"{type(error).__name__}: {without_password(text)[:200]}"


def without_password(uri: str) -> str:
    """A tracking URI, or a text with some in it, that may be shown."""
    plain = re.sub(r"//[^/\s]*@", "//", uri)
    return re.sub(r"([?&;](?:password|passwd|user|username|token)=)[^&;\s]*", r"\1***", plain)
