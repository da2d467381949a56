"""Numbers of the report. Oracle: worked by hand from the trials that are told."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tunesearch.ledger.store import Ledger
from tunesearch.reporting.facts import cost, duration, in_words, outcomes, savings
from tunesearch.segmentation.config import TrainConfig

Told = Callable[..., Ledger]


def test_outcomes_are_counted_in_a_fixed_order(told_search: Told) -> None:
    assert list(outcomes(told_search().counted()).items()) == [("completed", 2), ("stopped", 1), ("diverged", 1)]


def test_epochs_saved(told_search: Told) -> None:
    """Three trials of 3 epochs were completed or stopped: 9 planned, 3 + 1 + 3 trained; the diverged one is out."""
    saved = savings(told_search().counted())
    assert (saved.planned, saved.trained, saved.by_search, saved.by_patience) == (9, 7, 2, 0)
    assert saved.share == pytest.approx(2 / 9)


def test_patience_is_told_apart(told_search: Told) -> None:
    """A completed trial that had 2 of its 3 epochs ended itself."""
    saved = savings(told_search("p", {"a": ("completed", [0.1, 0.2])}, "train.early_stop_patience=1").counted())
    assert (saved.planned, saved.by_search, saved.by_patience) == (3, 0, 1)


def test_nothing_was_planned() -> None:
    assert savings([]).share == 0


def test_cost(told_search: Told) -> None:
    """9 epochs of 36 s. Trial 0 had 3 epochs on 4 threads, trial 2 had 3 on 2 threads and half a GPU, the other 3
    epochs have no file: 2 CPUs by the settings, and as GPUs are given, on those too."""
    ledger = told_search(settings={"gpus_per_trial": 0.5, "cpus_per_trial": 2})
    for number, built in ((0, {"threads": 4, "device": "cpu"}), (2, {"threads": 2, "device": "NVIDIA"})):
        ledger.trial_folder(number).mkdir()
        (ledger.trial_folder(number) / "effective.json").write_text(json.dumps(built))
    spent = cost(ledger, ledger.counted())
    assert spent.trial_seconds == 9 * 36
    assert spent.cpu_hours == pytest.approx((3 * 4 + 3 * 2 + 3 * 2) * 36 / 3600)
    assert spent.gpu_hours == pytest.approx((3 + 3) * 0.5 * 36 / 3600)
    assert spent.assumed == 2


def test_a_damaged_file_is_none(told_search: Told) -> None:
    ledger = told_search()
    ledger.trial_folder(0).mkdir()
    (ledger.trial_folder(0) / "effective.json").write_text("{")
    assert ledger.effective(0) == {}


def test_a_configuration_in_words() -> None:
    config = TrainConfig(
        architecture="encoder_unet", encoder="resnet18", encoder_weights="imagenet", finetune_fraction=0.25,
        optimizer="sgd", lr=0.0123456, schedule="cosine", loss="dice", augmentation="flip", batch_size=8, epochs=7,
        size={"width": 64, "height": 48},
    )  # fmt: skip
    assert in_words(config) == (
        "encoder_unet over resnet18 with ImageNet weights, 25 % of its layers trained; sgd at a learning rate of "
        "0.01235, schedule cosine, loss dice, augmentation flip, batches of 8 images of 64x48, at most 7 epochs."
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(48, "48 s"), (720, "12 min"), (12240, "3.4 h"), (2.1 * 86400, "2.1 days")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
