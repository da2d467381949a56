"""Repeats over seeds. Oracles: intervals worked by hand, a simulation of equal trials, the sampler left alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tunesearch.engine.asking import Asker
from tunesearch.errors import InputError
from tunesearch.experiment import load_experiment
from tunesearch.ledger import steering as requests
from tunesearch.ledger.steering import request_repeats
from tunesearch.ledger.store import Ledger
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.strategy import confirmation
from tunesearch.strategy.confirmation import Candidate

EMPTY = Split(root=Path("/nowhere"), train=(), val=())
Metrics = Callable[..., EpochMetrics]


def _searched(space: Path, storage: Path, metrics: Metrics, scores: Sequence[float], *overrides: str) -> Ledger:
    """A search whose trials are completed with the scores."""
    overrides = (f"search.trials={len(scores)}", *overrides)
    ledger = Ledger.create(storage, "a", load_experiment(space, overrides=overrides), EMPTY, {})
    for score in scores:
        record = Asker(ledger).ask()
        assert record is not None
        _complete(ledger, record.number, metrics, score)
    return ledger


def _complete(ledger: Ledger, number: int, metrics: Metrics, score: float) -> None:
    ledger.commit_epoch(metrics(1, score), number=number, stopped=False)
    ledger.end(number, "completed")


def _confirm(ledger: Ledger, metrics: Metrics, values: dict[int, Sequence[float]]) -> confirmation.Confirmation:
    """Repeat trials; ``values``: the scores of each, by seed from 1."""
    wanted = [(trial, seed) for trial, scores in values.items() for seed in range(1, len(scores) + 1)]
    request_repeats(ledger, wanted)
    while (record := Asker(ledger).repeat()) is not None:
        assert record.confirms is not None
        _complete(ledger, record.number, metrics, values[record.confirms][record.config.seed - 1])
    found = confirmation.confirmation(ledger)
    assert found is not None
    return found


def test_the_plan(tiny_space: Path, tmp_path: Path, epoch_metrics: Metrics) -> None:
    """The best of the completed ones, all with the same seeds; the seed that a trial was searched with is left out."""
    ledger = _searched(tiny_space, tmp_path, epoch_metrics, [0.2, 0.5, 0.3], "train.seed=2")
    stopped = requests.extend(ledger, 1) and Asker(ledger).ask()
    assert stopped
    ledger.commit_epoch(epoch_metrics(1, 0.9), number=stopped.number, stopped=True)
    ledger.end(stopped.number, "stopped")
    assert confirmation.plan(ledger, top=2, seeds=3) == [(1, 1), (2, 1), (1, 3), (2, 3), (1, 4), (2, 4)]
    assert confirmation.plan(ledger, top=9, seeds=2)[:3] == [(1, 1), (2, 1), (0, 1)]


def test_a_winner_with_intervals_worked_by_hand(tiny_space: Path, tmp_path: Path, epoch_metrics: Metrics) -> None:
    """Trial 0: 0.60, 0.62, 0.64: mean 0.62, deviation 0.02, half 4.3027 * 0.02 / sqrt(3) = 0.0497. Trial 1: 0.50,
    0.51, 0.52: 0.51, 0.01. Welch: difference 0.11, variances of the means 1.3333e-4 and 3.3333e-5, degrees of freedom
    (1.6667e-4)^2 / ((1.3333e-4)^2 / 2 + (3.3333e-5)^2 / 2) = 2.9412, t = 3.2182: half 0.04155."""
    ledger = _searched(tiny_space, tmp_path, epoch_metrics, [0.65, 0.7])
    found = _confirm(ledger, epoch_metrics, {0: [0.60, 0.62, 0.64], 1: [0.50, 0.51, 0.52]})
    first, second = found.candidates
    assert (first.trial, first.searched, first.seeds, second.trial) == (0, 0.65, (1, 2, 3), 1)
    assert (first.mean, first.deviation) == (pytest.approx(0.62), pytest.approx(0.02))
    assert first.low == pytest.approx(0.62 - 0.04968, abs=1e-5)
    assert first.high == pytest.approx(0.62 + 0.04968, abs=1e-5)
    [difference] = found.differences
    assert difference.value == pytest.approx(0.11)
    half = 3.2182 * math.sqrt(0.02**2 / 3 + 0.01**2 / 3)
    assert (difference.low, difference.high) == (
        pytest.approx(0.11 - half, abs=2e-4),
        pytest.approx(0.11 + half, abs=2e-4),
    )
    assert found.winner == found.leader == 0
    assert (found.test, found.looks) == (None, 0)
    ledger.record_look(by="confirm", trials=first.trials, result={"miou": {"mean": 0.5}})
    ledger.record_look(by="evaluate", trials=[0], result={})
    looked = confirmation.confirmation(ledger)
    assert looked is not None
    assert looked.test is not None
    assert looked.test["miou"] == {"mean": 0.5}
    assert looked.looks == 2
    assert found.verdict.startswith(
        "trial 0 wins: 0.6200 ± 0.0200 over 3 seeds; trial 1, the next, is behind by 0.1100"
    )
    assert found.done


def test_no_difference_shown(tiny_space: Path, tmp_path: Path, epoch_metrics: Metrics) -> None:
    ledger = _searched(tiny_space, tmp_path, epoch_metrics, [0.65, 0.7])
    found = _confirm(ledger, epoch_metrics, {0: [0.60, 0.62, 0.64], 1: [0.60, 0.62, 0.66]})
    assert (found.leader, found.winner) == (1, None)  # means 0.6200 and 0.6267
    assert (
        "no difference shown between trial 1 (0.6267 ± 0.0306 over 3 seeds), which leads by its mean, and trial 0"
        in (found.verdict)
    )


def test_what_is_minimised_is_ranked_the_other_way(tiny_space: Path, tmp_path: Path, epoch_metrics: Metrics) -> None:
    """val_loss is 1 minus the score."""
    overrides = ("objective={metric: val_loss}",)
    ledger = _searched(tiny_space, tmp_path, epoch_metrics, [0.65, 0.7], *overrides)
    found = _confirm(ledger, epoch_metrics, {0: [0.50, 0.51, 0.52], 1: [0.80, 0.82, 0.84]})
    assert found.winner == 1
    assert found.candidates[0].mean == pytest.approx(0.18)
    assert found.differences[0].value == pytest.approx(0.31)


@pytest.mark.parametrize("trials", [2, 3, 5])
def test_equal_trials_seldom_win(trials: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """2000 confirmations of equal trials over 5 seeds: a winner in no more than 5 % (plus 3 standard errors)."""
    rng = np.random.default_rng(0)
    named = 0
    for _ in range(2000):
        values = rng.normal(0.6, 0.02, (trials, 5))
        order = np.argsort(-values.mean(axis=1))
        first, *others = (_candidate(int(index), values[index]) for index in order)
        named += all(confirmation._difference(first, other, sign=1.0).shown for other in others)
    assert named / 2000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def _candidate(trial: int, values: Sequence[float]) -> Candidate:
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    return Candidate(trial, 0.6, {}, (1, 2, 3, 4, 5), tuple(map(float, values)), (), (), 0, mean, deviation, None, None)


def test_repeats_are_no_part_of_the_search(tiny_space: Path, tmp_path: Path, epoch_metrics: Metrics) -> None:
    """They count nowhere, are not told to the sampler, and leave target and best as they are."""
    ledger = _searched(tiny_space, tmp_path, epoch_metrics, [0.2, 0.5, 0.3])
    assert not ledger.is_unfinished()
    request_repeats(ledger, confirmation.plan(ledger, top=1, seeds=2))
    assert ledger.is_unfinished()
    assert ledger.is_unfinished(confirming=True)
    first = Asker(ledger).repeat()
    assert first is not None
    assert (first.number, first.confirms, first.config.seed) == (3, 1, 1)
    assert first.config.model_copy(update={"seed": 0}) == ledger.trials[1].config.model_copy(update={"seed": 0})
    _complete(ledger, 3, epoch_metrics, 0.9)
    assert ledger.best() == ledger.trials[1]
    assert (len(ledger.counted()), ledger.target) == (3, 3)
    assert [record.number for record in ledger.confirmations()] == [3]

    study = ledger._study
    assert study.best_trial.number == 1
    assert study.trials[3].state.name == "FAIL"  # what samplers leave out
    proposer = Asker(ledger).proposer
    assert proposer.study.study.trials[3].state.name == "FAIL"
    heir = Ledger.open(tmp_path, "a")
    assert [(one.confirms, one.seed) for one in heir.requests.repeats()] == [(1, 2)]
    assert heir.trials[3].confirms == 1


def test_a_driver_that_died_leaves_repeats_to_go_on_with(
    tiny_space: Path, tmp_path: Path, epoch_metrics: Metrics
) -> None:
    """Neither a duplicate of what it repeats nor asked for twice."""
    ledger = _searched(tiny_space, tmp_path, epoch_metrics, [0.2, 0.5])
    wanted = confirmation.plan(ledger, top=2, seeds=2)
    assert request_repeats(ledger, wanted) == 4
    assert Asker(ledger).repeat() is not None
    ledger.close()
    heir = Ledger.open(tmp_path, "a", drive=True)
    assert [record.confirms for record in heir.recover()] == [1]
    assert request_repeats(heir, wanted) == 0
    assert len(heir.requests.repeats()) == 3


def test_who_asked_for_too_much_can_ask_again(tiny_space: Path, tmp_path: Path, epoch_metrics: Metrics) -> None:
    """9 seeds of 2 trials, 1 begun; then 2 seeds of 1 trial: what was begun stays, 1 more is wanted and no other."""
    ledger = _searched(tiny_space, tmp_path, epoch_metrics, [0.2, 0.5])
    assert request_repeats(ledger, confirmation.plan(ledger, top=2, seeds=9)) == 18
    begun = Asker(ledger).repeat()
    assert begun is not None
    assert (begun.confirms, begun.config.seed) == (1, 1)
    request_repeats(ledger, confirmation.plan(ledger, top=1, seeds=2))
    assert [(one.confirms, one.seed) for one in ledger.requests.repeats()] == [(1, 2)]
    assert [(one.confirms, one.seed) for one in Ledger.open(tmp_path, "a").requests.repeats()] == [(1, 2)]


def test_what_failed_is_trained_again_and_what_diverged_is_not(
    tiny_space: Path, tmp_path: Path, epoch_metrics: Metrics
) -> None:
    ledger = _searched(tiny_space, tmp_path, epoch_metrics, [0.2, 0.5])
    wanted = confirmation.plan(ledger, top=2, seeds=2)
    request_repeats(ledger, wanted)
    for outcome, score in (("diverged", 0.1), ("failed", None), ("completed", 0.5), ("completed", 0.2)):
        record = Asker(ledger).repeat()
        assert record is not None
        if score is not None:
            ledger.commit_epoch(epoch_metrics(1, score), number=record.number, stopped=False)
        ledger.end(record.number, outcome)  # type: ignore[arg-type]
    found = confirmation.confirmation(ledger)
    assert found is not None
    assert [(one.trial, one.failures) for one in found.candidates] == [(1, ("diverged",)), (0, ("failed",))]
    assert not any(one.complete for one in found.candidates)
    assert found.winner is None
    assert request_repeats(ledger, wanted) == 1
    again = Asker(ledger).repeat()
    assert again is not None
    assert (again.confirms, again.config.seed) == (0, 1)
    _complete(ledger, again.number, epoch_metrics, 0.3)
    found = confirmation.confirmation(ledger)
    assert found is not None
    assert found.candidate(0).complete
    assert found.candidate(0).values == (0.3, 0.2)
    assert found.leader == 0
    assert found.winner is None  # the better one diverged once
    assert "trial 1 (diverged)" in found.verdict


def test_a_repeat_is_not_retried_by_hand(tiny_space: Path, tmp_path: Path, epoch_metrics: Metrics) -> None:
    ledger = _searched(tiny_space, tmp_path, epoch_metrics, [0.2])
    request_repeats(ledger, [(0, 1)])
    record = Asker(ledger).repeat()
    assert record is not None
    ledger.end(record.number, "failed", "on purpose")
    assert requests.retry(ledger, failed=True, trials=[]) == []
    with pytest.raises(InputError, match="1 confirms trial 0"):
        requests.retry(ledger, failed=False, trials=[1])
