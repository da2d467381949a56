"""The search as an Optuna study in memory, for Optuna's plots."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.store import Ledger


def build_study(ledger: Ledger, records: Sequence[TrialRecord]) -> optuna.Study:
    """The completed trials as a study in memory, each with its number, so that Optuna's plots name it rightly.

    Stopped trials are no part of it: their scores are of fewer epochs, and Optuna's plots of parameters leave them out
    as well. Confirmations and duplicates are none of ``Ledger.counted``.
    """
    maximize = ledger.experiment.objective.mode == "max"
    study = optuna.create_study(direction=StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE)
    found = {record.number: record for record in records if record.outcome == "completed" and record.best is not None}
    for number in range(max(found, default=-1) + 1):
        # A study numbers its trials without gaps; what is left out stands there as failed, which no plot shows.
        frozen = _frozen(ledger, found[number]) if number in found else create_trial(state=TrialState.FAIL)
        study.add_trial(frozen)
    return study


def _frozen(ledger: Ledger, record: TrialRecord) -> FrozenTrial:
    return create_trial(
        state=TrialState.COMPLETE,
        value=record.best,
        params=record.parameters,
        distributions=_distributions(ledger, record),
    )


def _distributions(ledger: Ledger, record: TrialRecord) -> dict[str, BaseDistribution]:
    """As the space draws them: it is asked for the very point that the trial has."""
    asked = FixedTrial(record.parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a value outside of its range, which a retry may have
        ledger.experiment.space(asked)
    return dict(asked.distributions)
