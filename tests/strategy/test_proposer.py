"""What is tried next, over records alone: no ledger, no database. Oracles: the space's own list of points, by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesearch.experiment import load_experiment
from tunesearch.ledger.records import Proposal, SearchRecord, TrialRecord
from tunesearch.ledger.requests import Requests
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.strategy.proposer import DUPLICATES_IN_A_ROW, Proposer

Metrics = Callable[..., EpochMetrics]


def _record(space: Path, *overrides: str, requests: dict[str, dict[str, Any]] | None = None) -> SearchRecord:
    experiment = load_experiment(space, overrides=overrides)
    return SearchRecord("a", experiment, Split(root=Path("/nowhere"), train=(), val=()), requests=Requests(requests))


def _add(record: SearchRecord, proposal: Proposal) -> TrialRecord:
    """As a ledger takes it, in memory."""
    trial = TrialRecord(
        proposal.trial.number, dict(proposal.trial.params), proposal.config,
        retry_of=proposal.retry_of, confirms=proposal.confirms,
    )  # fmt: skip
    if proposal.twin is not None:
        trial.outcome, trial.closed = "duplicate", True
    record.remember(trial, proposal.request if proposal.answers else None)
    return trial


def test_a_space_of_two_points_is_exhausted_by_two(tiny_space: Path) -> None:
    """What follows are duplicates of known trials, as often as is allowed, and then nothing."""
    record = _record(tiny_space, "parameters.momentum=null", "parameters.lr.choice=[0.1]", "search.sampler=random")
    proposer = Proposer(record)
    proposals = []
    while (proposal := proposer.propose()) is not None:
        proposals.append(proposal)
        _add(record, proposal)
    fresh = [proposal for proposal in proposals if proposal.twin is None]
    assert {proposal.trial.params["optimizer"] for proposal in fresh} == {"adam", "sgd"}
    assert [proposal.twin is not None for proposal in proposals[-DUPLICATES_IN_A_ROW:]] == [True] * DUPLICATES_IN_A_ROW
    assert [proposal.trial.number for proposal in proposals] == list(range(len(proposals)))


def test_a_requested_point_comes_first_and_its_rest_is_drawn(tiny_space: Path) -> None:
    record = _record(tiny_space, requests={"1": {"kind": "try", "parameters": {"optimizer": "sgd"}, "retry_of": None}})
    proposer = Proposer(record)
    asked = proposer.propose()
    assert asked is not None
    assert (asked.request, asked.answers, asked.trial.params["optimizer"]) == ("1", True, "sgd")
    assert set(asked.trial.params) == {"optimizer", "momentum", "lr"}
    _add(record, asked)
    following = proposer.propose()
    assert following is not None
    assert following.request is None


def test_a_retry_has_the_configuration_of_its_trial(tiny_space: Path) -> None:
    """With the seed, too; it is trained whatever it equals."""
    record = _record(tiny_space)
    proposer = Proposer(record)
    first = proposer.propose()
    assert first is not None
    trial = _add(record, first)
    trial.outcome, trial.closed = "failed", True
    record.requests = Requests({"1": {"kind": "try", "parameters": trial.parameters, "retry_of": 0}})
    again = proposer.propose()
    assert again is not None
    assert (again.retry_of, again.twin, again.config) == (0, None, trial.config)


def test_a_repeat_differs_in_its_seed_alone(tiny_space: Path) -> None:
    record = _record(tiny_space, requests={"1": {"kind": "confirm", "trial": 0, "seed": 77}})
    proposer = Proposer(record)
    first = proposer.propose()
    assert first is not None
    trial = _add(record, first)
    repeat = proposer.repeat()
    assert repeat is not None
    assert repeat.config == trial.config.model_copy(update={"seed": 77})
    assert (repeat.confirms, repeat.trial.params) == (0, trial.parameters)
    _add(record, repeat)
    assert proposer.repeat() is None
    assert record.counted() == [trial]


def test_samplers_see_curves_and_endings(tiny_space: Path, epoch_metrics: Metrics) -> None:
    """Of the trials that ended between two proposals, as Optuna would have been told one by one."""
    from tunesearch.ledger.records import EpochRecord

    record = _record(tiny_space)
    proposer = Proposer(record)
    for outcome in ("completed", "stopped", "out_of_memory", "failed"):
        proposal = proposer.propose()
        assert proposal is not None
        trial = _add(record, proposal)
        for epoch, value in enumerate((0.25, 0.5), start=1):
            trial.epochs[epoch], trial.best = EpochRecord(epoch_metrics(epoch, value), value, stopped=False), value
        trial.outcome, trial.closed = outcome, True
    assert proposer.propose() is not None
    told = proposer.study.study.get_trials()
    assert [trial.state.name for trial in told] == ["COMPLETE", "PRUNED", "PRUNED", "FAIL", "RUNNING"]
    assert told[0].value == 0.5
    assert [trial.intermediate_values for trial in told[:4]] == [{1: 0.25, 2: 0.5}] * 4
    assert told[2].constraints == {"out_of_memory": 1.0}
