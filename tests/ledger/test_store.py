"""The ledger alone, on real Optuna and SQLite. Oracles: Optuna's own view of the study, an uninterrupted twin."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from tunesearch.engine.asking import Asker
from tunesearch.errors import LedgerBusy, LedgerError, SearchNameError
from tunesearch.experiment import load_experiment
from tunesearch.ledger.folders import searches
from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.store import Ledger
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.strategy.early_stopping import build_stopper

EMPTY = Split(root=Path("/nowhere"), train=(), val=())


def _metrics(epoch: int, miou: float) -> EpochMetrics:
    return EpochMetrics(
        epoch=epoch, train_loss=1.0, val_loss=1.0 - miou, val_miou=miou, val_miou_no_background=miou, val_dice=miou,
        val_pixel_accuracy=miou, val_iou=(miou, None), lr=0.1, updates=epoch, train_seconds=1.0, val_seconds=0.5,
        images_per_second=10.0, finished_at=1000.0 + epoch,
    )  # fmt: skip


def _create(space: Path, storage: Path, *overrides: str) -> Ledger:
    return Ledger.create(storage, "a", load_experiment(space, overrides=overrides), EMPTY, {})


def _study(ledger: Ledger) -> optuna.Study:
    """Optuna's own reading of the file, independent of the ledger's code."""
    return optuna.load_study(study_name="a", storage=f"sqlite:///{ledger.folder}/ledger.db")


def test_what_optuna_is_told(tiny_space: Path, tmp_path: Path) -> None:
    """Oracle: the design's table of outcomes, read back with Optuna."""
    ledger = _create(tiny_space, tmp_path / "runs", "search.trials=9")
    outcomes = (
        "completed", "stopped", "diverged", "out_of_memory", "infeasible", "failed", "lost", "cancelled",
    )  # fmt: skip
    for outcome in outcomes:
        record = Asker(ledger).ask()
        assert record is not None
        if outcome not in ("infeasible", "out_of_memory"):
            ledger.commit_epoch(_metrics(1, 0.4), number=record.number, stopped=False)
            ledger.commit_epoch(_metrics(2, 0.3), number=record.number, stopped=outcome == "stopped")
        ledger.end(record.number, outcome, "why")  # type: ignore[arg-type]
    trials = _study(ledger).get_trials()
    states = [trial.state for trial in trials]
    assert states == [TrialState.COMPLETE] + [TrialState.PRUNED] * 4 + [TrialState.FAIL] * 3
    assert trials[0].value == 0.4  # the running best, not the last value
    assert trials[1].intermediate_values == {1: 0.4, 2: 0.4}
    assert trials[1].value == 0.4
    assert [bool(trial.constraints) for trial in trials] == [False] * 3 + [True] * 2 + [False] * 3
    assert trials[3].constraints["out_of_memory"] > 0
    assert [trial.user_attrs["outcome"] for trial in trials] == list(outcomes)
    assert ledger.best() is ledger.trials[0]


def test_best_is_a_completed_trial_even_if_a_stopped_one_was_higher(tiny_space: Path, tmp_path: Path) -> None:
    ledger = _create(tiny_space, tmp_path / "runs")
    for outcome, value in (("stopped", 0.9), ("completed", 0.5)):
        record = Asker(ledger).ask()
        assert record is not None
        ledger.commit_epoch(_metrics(1, value), number=record.number, stopped=False)
        if outcome == "stopped":
            ledger.end(record.number, "stopped")
            assert ledger.best() is record  # nothing better is known yet
        else:
            ledger.end(record.number, "completed")
    best = ledger.best()
    assert best is not None
    assert best.number == 1


def test_minimised_objective(tiny_space: Path, tmp_path: Path) -> None:
    """val_loss is 1 - miou in these metrics: the running best is the smallest."""
    ledger = _create(tiny_space, tmp_path / "runs", "objective={metric: val_loss}")
    record = Asker(ledger).ask()
    assert record is not None
    for epoch, miou in enumerate((0.5, 0.7, 0.6), start=1):
        ledger.commit_epoch(_metrics(epoch, miou), number=record.number, stopped=False)
    assert record.best == pytest.approx(0.3)
    ledger.end(record.number, "completed")
    assert _study(ledger).best_value == pytest.approx(0.3)


def test_an_epoch_told_again_changes_nothing(tiny_space: Path, tmp_path: Path) -> None:
    ledger = _create(tiny_space, tmp_path / "runs")
    record = Asker(ledger).ask()
    assert record is not None
    ledger.commit_epoch(_metrics(1, 0.4), number=record.number, stopped=True)
    again = ledger.commit_epoch(_metrics(1, 0.9), number=record.number, stopped=False)
    assert again.stopped
    assert again.metrics.val_miou == 0.4
    ledger.end(record.number, "stopped")
    ledger.end(record.number, "completed")
    assert ledger.trials[0].outcome == "stopped"


def test_no_configuration_twice(tiny_space: Path, tmp_path: Path) -> None:
    """A space of two configurations gives two trials; what equals them in effect is closed as a duplicate."""
    ledger = _create(
        tiny_space, tmp_path / "runs", "parameters.momentum=null", "parameters.lr.choice=[0.1]", "search.sampler=random"
    )
    assert [Asker(ledger).ask() is not None for _ in range(3)] == [True, True, False]
    assert len(ledger.counted()) == 2
    duplicates = [record for record in ledger.trials.values() if record.outcome == "duplicate"]
    assert duplicates
    assert "equals trial" in duplicates[0].message


def test_momentum_does_not_make_an_adam_new(tiny_space: Path, tmp_path: Path) -> None:
    """Equal in effect: momentum governs nothing in adam."""
    ledger = _create(
        tiny_space, tmp_path / "runs", "parameters.momentum={float: [0.5, 0.9]}", "parameters.optimizer.choice=[adam]",
        "parameters.lr.choice=[0.1]",
    )  # fmt: skip
    assert Asker(ledger).ask() is not None
    assert Asker(ledger).ask() is None


def test_grid_visits_every_point_once(tiny_space: Path, tmp_path: Path) -> None:
    """Oracle: the hand-written product; momentum exists for sgd alone."""
    ledger = _create(
        tiny_space, tmp_path / "runs", "search.sampler=grid", "parameters.momentum.choice=[0.5, 0.9]",
        "parameters.lr.choice=[0.1, 0.01]",
    )  # fmt: skip
    points = []
    while (record := Asker(ledger).ask()) is not None:
        points.append(tuple(sorted(record.parameters.items())))
    expected = {(("lr", lr), ("optimizer", "adam")) for lr in (0.1, 0.01)} | {
        (("lr", lr), ("momentum", m), ("optimizer", "sgd")) for lr in (0.1, 0.01) for m in (0.5, 0.9)
    }
    assert len(points) == len(set(points)) == 6
    assert set(points) == expected


def _toy(record: TrialRecord, epoch: int) -> EpochMetrics:
    return _metrics(epoch, (record.config.lr * 7919 * epoch) % 1.0)


def _search(ledger: Ledger, between: Callable[[Ledger], Ledger]) -> Ledger:
    """A search at concurrency 1 without Ray; ``between`` may put another ledger in place at every step."""
    asker = Asker(ledger)
    while True:
        ledger = between(ledger)
        asker = asker if asker.ledger is ledger else Asker(ledger)
        live = ledger.live()
        record = live[0] if live else asker.ask() if len(ledger.counted()) < 12 else None
        if record is None:
            return ledger
        stopper = build_stopper(ledger.experiment)
        for other in ledger.counted():
            for epoch, saved in sorted(other.epochs.items()):
                stopper.record(other.number, epoch, saved.best)
        number = record.number
        for epoch in range(max(record.epochs, default=0) + 1, 4):
            metrics = _toy(record, epoch)
            stopped = stopper.stops(number, epoch, ledger.running_best(metrics, number=number)) and epoch < 3
            ledger.commit_epoch(metrics, number=number, stopped=stopped)
            before, ledger = ledger, between(ledger)
            if ledger is not before and ledger.trials[number].outcome is not None:
                break
            if stopped or epoch == 3:
                ledger.end(number, "stopped" if stopped else "completed")
                break


def _rows(ledger: Ledger) -> list[tuple[object, ...]]:
    return [
        (r.number, tuple(sorted(r.parameters.items())), r.config.seed, r.outcome, r.best, tuple(sorted(r.epochs)))
        for r in ledger.counted()
    ]


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_a_search_that_dies_at_every_step_equals_an_uninterrupted_one(
    tiny_space: Path, tmp_path: Path, sampler: str
) -> None:
    """Oracle: the same search without deaths. Every commit is followed by a death: the folder is copied as it is."""
    calm = _search(_create(tiny_space, tmp_path / "calm", f"search.sampler={sampler}"), lambda ledger: ledger)
    deaths = 0

    def die(ledger: Ledger) -> Ledger:
        nonlocal deaths
        deaths += 1
        copy = tmp_path / f"life{deaths}" / "a"
        shutil.copytree(ledger.folder, copy, ignore=shutil.ignore_patterns("driver.lock"))
        ledger.close()
        heir = Ledger.open(copy.parent, "a", drive=True)
        heir.recover()
        return heir

    troubled = _search(_create(tiny_space, tmp_path / "troubled", f"search.sampler={sampler}"), die)
    assert deaths > 20
    assert _rows(troubled) == _rows(calm)
    assert {row[3] for row in _rows(calm)} == {"completed", "stopped"}
    assert all(trial.state.is_finished() for trial in _study(troubled).get_trials())


def test_a_duplicate_half_closed_is_closed(tiny_space: Path, tmp_path: Path) -> None:
    """Death between a trial's write and its end as a duplicate: the heir closes it and trains it no more."""
    ledger = _create(tiny_space, tmp_path / "runs", "parameters.momentum=null", "parameters.lr.choice=[0.1]")
    first = Asker(ledger).ask()
    assert first is not None
    twin = _study(ledger).get_trials()[0]
    _study(ledger).add_trial(twin)  # the same configuration again, still running
    ledger.close()
    heir = Ledger.open(tmp_path / "runs", "a", drive=True)
    assert [record.number for record in heir.recover()] == [0]
    assert heir.trials[1].outcome == "duplicate"
    assert _study(heir).get_trials()[1].state is TrialState.FAIL


def test_a_trial_is_written_as_a_whole(tiny_space: Path, tmp_path: Path) -> None:
    """Oracle: Optuna's own reading; the parameters, their distributions and the configuration are there at once."""
    ledger = _create(tiny_space, tmp_path / "runs")
    record = Asker(ledger).ask()
    assert record is not None
    [trial] = _study(ledger).get_trials()
    assert trial.state is TrialState.RUNNING
    assert trial.params == record.parameters
    assert trial.user_attrs["config"] == record.config.model_dump(mode="json")
    assert trial.distributions["lr"] == optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)


def test_try_first_is_tried_first(tiny_space: Path, tmp_path: Path) -> None:
    tiny_space.write_text(tiny_space.read_text() + "try_first: [{optimizer: sgd, lr: 0.05}, {optimizer: adam}]\n")
    ledger = _create(tiny_space, tmp_path / "runs")
    first, second = Asker(ledger).ask(), Asker(ledger).ask()
    assert first is not None
    assert second is not None
    assert (first.number, first.parameters["optimizer"], first.parameters["lr"]) == (0, "sgd", 0.05)
    assert 0.5 <= first.parameters["momentum"] <= 0.95  # the rest is sampled
    assert (second.number, second.parameters["optimizer"]) == (1, "adam")


def test_a_name_is_taken_once(tiny_space: Path, tmp_path: Path) -> None:
    _create(tiny_space, tmp_path / "runs").close()
    with pytest.raises(SearchNameError, match=r"exists already.*tunesearch resume a continues it"):
        _create(tiny_space, tmp_path / "runs")
    with pytest.raises(SearchNameError, match="does not exist"):
        Ledger.open(tmp_path / "runs", "b")
    assert searches(tmp_path / "runs") == ["a"]
    (tmp_path / "runs" / "a" / "ledger.db").unlink()
    with pytest.raises(LedgerError, match="search a: its ledger is no longer in"):
        Ledger.open(tmp_path / "runs", "a")


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".hidden", "a b", "x" * 101, "-rf"])
def test_names_that_are_no_folder_names(tiny_space: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(SearchNameError, match="must be letters, digits"):
        Ledger.create(tmp_path / "runs", name, load_experiment(tiny_space), EMPTY, {})
    assert not (tmp_path / "runs").exists()


def test_two_drivers_are_refused(tiny_space: Path, tmp_path: Path) -> None:
    """A lock of the operating system: gone with its process, however that ends."""
    ledger = _create(tiny_space, tmp_path / "runs")
    code = (
        "from pathlib import Path; from tunesearch.ledger.store import Ledger; "
        f"Ledger.open(Path({str(tmp_path / 'runs')!r}), 'a', drive=True)"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "another process is driving it" in other.stderr
    assert Ledger.open(tmp_path / "runs", "a").driven
    with pytest.raises(LedgerBusy):
        Ledger(ledger.folder, drive=True)
    ledger.close()
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
