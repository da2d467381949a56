"""Tables over real ledgers whose epochs are written here. Oracle: numbers worked by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesearch.engine.asking import Asker
from tunesearch.errors import InputError
from tunesearch.experiment import load_experiment
from tunesearch.ledger.outcomes import Outcome
from tunesearch.ledger.records import TrialRecord
from tunesearch.ledger.store import Ledger
from tunesearch.reporting.comparison import Comparison, Spread, compare
from tunesearch.segmentation.data.splits import Split, SplitItem
from tunesearch.segmentation.epoch import EpochMetrics

MakeMetrics = Callable[..., EpochMetrics]
GRID = (
    "search.sampler=grid", "parameters.momentum=null", "parameters.lr={choice: [0.1, 0.01]}", "search.trials=9",
)  # fmt: skip
EMPTY = Split(root=Path("/data/nowhere"), train=(), val=())


class Room:
    """Makes searches of a grid of two optimisers and two learning rates; a story per trial says what happened."""

    def __init__(self, space: Path, storage: Path, metrics: MakeMetrics) -> None:
        self.space, self.storage, self.metrics = space, storage, metrics

    def search(
        self,
        name: str,
        story: Callable[[TrialRecord], tuple[Outcome | None, list[Any]]],
        *overrides: str,
        split: Split = EMPTY,
        effective: Callable[[TrialRecord], dict[str, Any] | None] = lambda record: None,
    ) -> Ledger:
        """``story`` gives outcome and epochs, each an mIoU or (mIoU, other metrics); ``effective`` what was built."""
        ledger = Ledger.create(
            self.storage, name, load_experiment(self.space, overrides=[*GRID, *overrides]), split, {}
        )
        while (record := Asker(ledger).ask()) is not None:
            outcome, epochs = story(record)
            for number, told in enumerate(epochs, start=1):
                miou, others = told if isinstance(told, tuple) else (told, {})
                metrics = self.metrics(number, miou, **others)
                ledger.commit_epoch(metrics, number=record.number, stopped=False)
            built = effective(record)
            if built is not None:
                folder = ledger.trial_folder(record.number)
                folder.mkdir()
                (folder / "effective.json").write_text(json.dumps(built))
            if outcome is not None:
                ledger.end(record.number, outcome)
        ledger.close()
        return Ledger.open(self.storage, name)  # as it is read from the disk


@pytest.fixture
def room(tiny_space: Path, tmp_path: Path, epoch_metrics: MakeMetrics) -> Room:
    return Room(tiny_space, tmp_path / "runs", epoch_metrics)


def _scores(table: dict[tuple[str, float], list[float]]) -> Callable[[TrialRecord], tuple[Outcome, list[Any]]]:
    return lambda record: ("completed", list(table[record.config.optimizer, record.config.lr]))


def _rows(comparison: Comparison) -> list[tuple[Any, ...]]:
    return [(*row.fields.values(), len(row.trials)) for row in comparison.rows]


FIRST = {("adam", 0.1): [0.2], ("adam", 0.01): [0.4], ("sgd", 0.1): [0.3], ("sgd", 0.01): [0.1]}


def test_a_row_per_configuration_the_best_first(room: Room) -> None:
    """Only the fields that differ are columns; momentum governs sgd alone, at its default, and is none."""
    comparison = compare([room.search("a", _scores(FIRST))])
    assert comparison.fields == ("optimizer", "lr")
    assert _rows(comparison) == [("adam", 0.01, 1), ("sgd", 0.1, 1), ("adam", 0.1, 1), ("sgd", 0.01, 1)]
    assert comparison.objective == "val_miou"
    assert comparison.metrics == ("val_miou", "val_miou_no_background", "val_pixel_accuracy", "val_loss")
    assert comparison.warnings == ()
    best = comparison.rows[0]
    assert best.scores["val_miou"] == Spread(mean=0.4, deviation=None, smallest=0.4, largest=0.4)
    assert best.stopped == 0
    assert (best.parameters, best.trained_parameters, best.seconds_per_1000_images) == ((), (), None)


def test_repeats_over_searches_fall_together(room: Room) -> None:
    """Hand-worked: 0.2, 0.3 and 0.7 have the mean 0.4, the sample deviation sqrt(0.14 / 2) = 0.264575, maximum 0.7.

    The seeds differ, as the searches' do.
    """
    searches = []
    for seed, value in enumerate((0.2, 0.3, 0.7)):
        scores = {**FIRST, ("sgd", 0.1): [value]}
        searches.append(room.search(f"seed{seed}", _scores(scores), f"search.seed={seed}"))
    assert len({search.trials[0].config.seed for search in searches}) == 3
    comparison = compare(searches)
    assert comparison.fields == ("optimizer", "lr")
    assert {len(row.trials) for row in comparison.rows} == {3}
    row = next(row for row in comparison.rows if row.fields == {"optimizer": "sgd", "lr": 0.1})
    assert [name.split("/")[0] for name in row.trials] == ["seed0", "seed1", "seed2"]
    score = row.scores["val_miou"]
    assert score.mean == pytest.approx(0.4)
    assert score.deviation == pytest.approx(0.264575, abs=1e-6)
    assert (score.smallest, score.largest) == (0.2, 0.7)
    assert row.scores["val_loss"].mean == pytest.approx(0.6)  # 1 - mIoU


def test_searched_seeds_are_repeats(room: Room) -> None:
    overrides = ["parameters.seed={choice: [1, 2, 3]}", "parameters.lr=null"]
    ledger = room.search("a", lambda record: ("completed", [record.config.seed / 10]), *overrides)
    comparison = compare([ledger])
    assert comparison.fields == ("optimizer",)
    assert {len(row.trials) for row in comparison.rows} == {3}
    assert _rows(compare([ledger], by=["seed"])) == [(3, 2), (2, 2), (1, 2)]


def test_by_fields(room: Room) -> None:
    """Hand-worked: adam's 0.2 and 0.4, sgd's 0.3 and 0.1; all four trials share their architecture."""
    ledger = room.search("a", _scores(FIRST))
    comparison = compare([ledger], by=["optimizer"])
    assert _rows(comparison) == [("adam", 2), ("sgd", 2)]
    assert [row.scores["val_miou"].mean for row in comparison.rows] == pytest.approx([0.3, 0.2])
    assert _rows(compare([ledger], by=["lr", "optimizer", "lr"])) == [
        (0.01, "adam", 1), (0.1, "sgd", 1), (0.1, "adam", 1), (0.01, "sgd", 1),
    ]  # fmt: skip
    assert _rows(compare([ledger], by=["search", "architecture"])) == [("a", "tiny_model:tiny", 4)]


def test_a_field_that_governs_nothing_has_no_value(room: Room) -> None:
    """``momentum`` in adam; and what follows from another field is a column only where it is not the default."""
    ledger = room.search("a", _scores(FIRST), "train.momentum=0.5")
    comparison = compare([ledger])
    assert comparison.fields == ("optimizer", "lr", "momentum")
    assert comparison.rows[0].fields == {"optimizer": "adam", "lr": 0.01}
    assert compare([ledger], by=["momentum"]).rows[0].fields == {}


def test_the_best_epoch_is_the_objectives(room: Room) -> None:
    """Of three epochs the second has the best mIoU, the third the best loss; every score is of one epoch."""
    epochs = [
        (0.1, {"val_loss": 0.9, "val_pixel_accuracy": 0.5, "val_miou_no_background": 0.05}),
        (0.5, {"val_loss": 0.8, "val_pixel_accuracy": 0.6, "val_miou_no_background": 0.45}),
        (0.3, {"val_loss": 0.2, "val_pixel_accuracy": 0.7, "val_miou_no_background": 0.25}),
    ]
    by_miou = compare([room.search("a", lambda record: ("completed", epochs))], by=["architecture"])
    means = {name: spread.mean for name, spread in by_miou.rows[0].scores.items()}
    assert means == pytest.approx(
        {"val_miou": 0.5, "val_miou_no_background": 0.45, "val_pixel_accuracy": 0.6, "val_loss": 0.8}
    )
    assert by_miou.rows[0].epochs == (3,)
    ledger = room.search("b", lambda record: ("completed", epochs), "objective={metric: val_loss}")
    by_loss = compare([ledger], by=["architecture"])
    assert by_loss.rows[0].scores["val_miou"].mean == pytest.approx(0.3)


def test_a_minimised_objective_has_its_smallest_first(room: Room) -> None:
    comparison = compare([room.search("a", _scores(FIRST), "objective={metric: val_loss}")])
    assert [row.scores["val_loss"].mean for row in comparison.rows] == pytest.approx([0.6, 0.7, 0.8, 0.9])


def test_another_objective_is_a_column(room: Room) -> None:
    comparison = compare([room.search("a", _scores(FIRST), "objective={metric: val_dice}")])
    assert comparison.metrics[:2] == ("val_dice", "val_miou")
    assert comparison.rows[0].scores["val_dice"].mean == 0.4


def test_times_and_sizes(room: Room) -> None:
    """Hand-worked. Epochs of 9, 2, 4, 3 s: without the first, the median 3. Validation of 9, 1, 2, 6 s of 50 images:
    2 s, so 40 s for 1000. A trial of a single epoch has that one. Over two trials: the mean of the two middle ones.
    """
    times = {
        0.1: [(9.0, 9.0), (2.0, 1.0), (4.0, 2.0), (3.0, 6.0)],
        0.01: [(5.0, 4.0)],
    }

    def story(record: TrialRecord) -> tuple[Outcome, list[Any]]:
        epochs = [(0.5, {"train_seconds": a, "val_seconds": b}) for a, b in times[record.config.lr]]
        return "completed", epochs

    def effective(record: TrialRecord) -> dict[str, Any]:
        trained = 70 if record.config.lr == 0.1 else 100
        return {"parameters": 100, "trained_parameters": trained, "val_images": 50, "device": "cpu"}

    ledger = room.search("a", story, "parameters.optimizer={choice: [adam]}", effective=effective)
    by_lr = {row.fields["lr"]: row for row in compare([ledger]).rows}
    assert (by_lr[0.1].epoch_seconds, by_lr[0.1].seconds_per_1000_images) == (3.0, 40.0)
    assert (by_lr[0.01].epoch_seconds, by_lr[0.01].seconds_per_1000_images) == (5.0, 80.0)
    [row] = compare([ledger], by=["optimizer"]).rows
    assert (row.epoch_seconds, row.seconds_per_1000_images) == (4.0, 60.0)
    assert (row.parameters, row.trained_parameters, row.epochs) == ((100,), (70, 100), (1, 4))


def test_times_of_folds_are_sums_over_them(room: Room) -> None:
    """Hand-worked: 8 s over two folds are 4 s per epoch; 6 s for 20 + 40 validation images are 100 s per 1000."""
    built = {"val_images": 20, "folds": [{"val_images": 20}, {"val_images": 40}]}
    ledger = room.search(
        "a", lambda record: ("completed", [(0.5, {"train_seconds": 8.0, "val_seconds": 6.0})]),
        effective=lambda record: built,
    )  # fmt: skip
    row = compare([ledger]).rows[0]
    assert (row.epoch_seconds, row.seconds_per_1000_images) == (4.0, pytest.approx(100.0))


def test_damaged_files_of_a_trial_are_done_without(room: Room) -> None:
    ledger = room.search("a", _scores(FIRST), effective=lambda record: {"parameters": 5})
    (ledger.trial_folder(0) / "effective.json").write_text("{")
    assert sorted(row.parameters for row in compare([ledger]).rows) == [(), (5,), (5,), (5,)]


# --------------------------------------------------------------------------------------------------------- which trials

OUTCOMES: list[Outcome | None] = ["completed", "stopped", "diverged", None]


def _one_of_each(record: TrialRecord) -> tuple[Outcome | None, list[Any]]:
    return OUTCOMES[record.number], [0.1 * (record.number + 1)]


def test_completed_trials_unless_all_are_wanted(room: Room) -> None:
    ledger = room.search("a", _one_of_each)
    assert [row.trials for row in compare([ledger]).rows] == [("a/0",)]
    rows = compare([ledger], stopped=True).rows
    assert [(row.trials, row.stopped) for row in rows] == [(("a/1",), 1), (("a/0",), 0)]


def test_trials_by_number(room: Room) -> None:
    """A stopped one may be named; one that went wrong or goes on, or is not there, may not: all told at once."""
    ledger = room.search("a", _one_of_each)
    assert [row.trials for row in compare([ledger], trials=[1, 0, 1]).rows] == [("a/1",), ("a/0",)]
    with pytest.raises(InputError) as caught:
        compare([ledger], trials=[0, 2, 3, 9])
    assert [str(problem) for problem in caught.value.problems] == [
        "--trials: trial 2 must be completed or stopped, but got diverged",
        "--trials: trial 3 must be completed or stopped, but got running",
        "--trials: search a has no trial 9 (its trials are 0 to 3)",
    ]
    with pytest.raises(InputError, match="needs a single search, but got 2 searches"):
        compare([ledger, ledger], trials=[0])


def test_nothing_to_compare(room: Room) -> None:
    ledger = room.search("a", lambda record: ("stopped", [0.5]))
    with pytest.raises(InputError, match=r"search a: has no trial that is completed \(--all takes those"):
        compare([ledger])
    assert len(compare([ledger], stopped=True).rows) == 4
    with pytest.raises(InputError, match="has no trial that is completed or stopped"):
        compare([room.search("b", lambda record: ("failed", []))], stopped=True)


def test_an_unknown_field(room: Room) -> None:
    ledger = room.search("a", _scores(FIRST))
    with pytest.raises(InputError, match=r"got 'optimiser' \(did you mean 'optimizer'\?\)"):
        compare([ledger], by=["lr", "optimiser"])


# ------------------------------------------------------------------------------------------------- what is not the same


def test_other_data_are_told_and_kept_apart(room: Room) -> None:
    """Equal configurations on other data are no repeats, unless the user puts them together."""
    item = SplitItem(id="x", image="x.jpg", mask="x.png", image_sha256="0", mask_sha256="1")
    searches = [
        room.search("a", _scores(FIRST)),
        room.search("b", _scores(FIRST)),
        room.search("c", _scores(FIRST), split=Split(root=Path("/data/other"), train=(item, item), val=(item,))),
    ]
    comparison = compare(searches)
    [warning] = comparison.warnings
    assert warning == (
        "trained and measured on different data: a (nowhere: 0 train, 0 val), c (other: 2 train, 1 val)"
    )  # fmt: skip
    assert comparison.fields == ("search", "optimizer", "lr")
    assert {len(row.trials) for row in comparison.rows} == {1}
    together = compare(searches, by=["optimizer", "lr"])
    assert {len(row.trials) for row in together.rows} == {3}
    assert together.warnings == (warning,)


def test_other_objectives_sizes_and_devices_are_told(room: Room) -> None:
    searches = [
        room.search("a", _scores(FIRST), effective=lambda record: {"device": "cpu"}),
        room.search(
            "b", _scores(FIRST), "objective={metric: val_loss}", "train.size=64x64",
            effective=lambda record: {"device": "A GPU"},
        ),
        room.search("c", _scores(FIRST), "objective={metric: val_miou, resolution: original}"),
    ]  # fmt: skip
    comparison = compare(searches)
    assert comparison.objective == "val_miou"
    assert comparison.warnings == (
        "different objectives, by which the best epoch is chosen: a (val_miou), b (val_loss), "
        "c (val_miou at the original size)",
        "different sizes: 32x32, 64x64",
        "times are of different devices: A GPU, cpu",
    )
    assert comparison.fields == ("search", "optimizer", "lr", "size")


def test_folds_are_other_data(room: Room) -> None:
    """The same images in folds, or in the folds of another seed, are no repeats."""
    folds = "data={layout: sample, folds: {k_fold: 3}}"
    searches = [
        room.search("a", _scores(FIRST)),
        room.search("b", _scores(FIRST), folds),
        room.search("c", _scores(FIRST), folds, "data.split_seed=5"),
    ]
    [warning] = compare(searches).warnings
    assert "b (nowhere: 0 train, 0 val, in folds), c (" in warning


def test_it_is_plain_data(room: Room) -> None:
    """Through JSON and back."""
    comparison = compare([room.search("a", _scores(FIRST), effective=lambda record: {"parameters": 5})])
    read = json.loads(json.dumps(comparison.as_dict()))
    assert read["fields"] == ["optimizer", "lr"]
    assert read["rows"][0]["fields"] == {"optimizer": "adam", "lr": 0.01}
    assert read["rows"][0]["scores"]["val_miou"] == {"mean": 0.4, "deviation": None, "smallest": 0.4, "largest": 0.4}
    assert read["rows"][0]["parameters"] == [5]
