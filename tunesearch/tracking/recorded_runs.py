"""What an MLflow knows: every search and every production training, read without writing."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesearch.errors import InputError, Problem, TunesearchError
from tunesearch.tracking.store import pages, prepare, reason, without_password
from tunesearch.tracking.tags import PARENT, TRAININGS

_EXPERIMENTS = 100
"""How many experiments one query asks for."""


@dataclass(frozen=True)
class RecordedRun:
    """A search or a production training as MLflow has it.

    Attributes:
        name: of the run.
        training: whether it is a production training.
        tags, metrics, params: of the run; of a metric its last value.
        status: MLflow's.
        started, ended: Unix seconds; ``ended`` None while it runs.
    """

    name: str
    training: bool
    tags: dict[str, str]
    metrics: dict[str, float]
    params: dict[str, str]
    status: str
    started: float
    ended: float | None


def recorded_runs(uri: str) -> list[RecordedRun]:
    """Every search and every production training of an MLflow, oldest first. Nothing is written there.

    Raises:
        InputError: there is no MLflow, or it does not answer.
    """
    where = Problem("--tracking-uri", "", value=without_password(uri))
    if uri.startswith("sqlite:///"):
        _require_database(Path(uri.removeprefix("sqlite:///")), where)
    prepare(retries=2)
    try:
        return sorted(_read(uri), key=lambda run: run.started)
    except TunesearchError:
        raise
    except Exception as error:  # MLflow may raise anything that a network, a database or a server can
        raise InputError(replace(where, rule=f"must be an MLflow that answers: {reason(error)}")) from error


def _require_database(file: Path, where: Problem) -> None:
    """MLflow's client would make the tables in any database that it is pointed at."""
    if not file.is_file():
        raise InputError(replace(where, rule="must be an MLflow that is there: no such file"))
    try:
        with contextlib.closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
            database.execute("SELECT 1 FROM alembic_version, experiments LIMIT 1")
    except sqlite3.Error as error:
        raise InputError(replace(where, rule=f"must be a database of MLflow: {error}")) from error


def _read(uri: str) -> Iterator[RecordedRun]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiments = {
        str(experiment.experiment_id): experiment.name == TRAININGS
        for experiment in pages(lambda token: client.search_experiments(page_token=token))
    }
    for training, filter_string in ((False, f"tags.`tunesearch.trial` = '{PARENT}'"), (True, "")):
        ids = [id for id, is_training in experiments.items() if is_training == training]
        for start in range(0, len(ids), _EXPERIMENTS):
            some = ids[start : start + _EXPERIMENTS]

            def ask(token: str | None, some: list[str] = some, filter_string: str = filter_string) -> Any:
                return client.search_runs(some, filter_string, page_token=token)

            for run in pages(ask):
                yield RecordedRun(
                    name=str(run.info.run_name),
                    training=training,
                    tags=dict(run.data.tags),
                    metrics=dict(run.data.metrics),
                    params=dict(run.data.params),
                    status=str(run.info.status),
                    started=(run.info.start_time or 0) / 1000,
                    ended=run.info.end_time / 1000 if run.info.end_time else None,
                )
