"""Trials of other searches as a prior. Oracles: hand-worked fits, Optuna's own reading, an uninterrupted twin."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

import tunesearch
from tunesearch.cli import main
from tunesearch.engine.asking import Asker
from tunesearch.engine.callback import SearchCallback
from tunesearch.errors import InputError, LedgerError
from tunesearch.experiment import Experiment, load_experiment
from tunesearch.ledger.store import Ledger
from tunesearch.ledger.warm_start import WarmStart, numbers
from tunesearch.segmentation.data.splits import Split, SplitItem
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.strategy.warm_start import FIRST, gather

Told = Sequence[tuple[dict[str, object], str, list[float]]]
"""Points, how each ended, and the objective after every epoch."""

SPACE = """
name: first
data: {layout: sample}
train: {architecture: unet_small, epochs: 2, size: 32x32, weight_decay: 0.001}
search: {trials: 20, seed: 3}
parameters:
  optimizer: {choice: [adam, sgd]}
  momentum: {float: [0.5, 0.95], when: {optimizer: sgd}}
  lr: {float: [1.0e-4, 1.0e-1], log: true}
  loss: {choice: [cross_entropy, dice]}
"""

TRIALS: Told = (
    ({"optimizer": "adam", "lr": 0.01, "loss": "dice"}, "completed", [0.3, 0.5]),
    ({"optimizer": "sgd", "momentum": 0.9, "lr": 0.02, "loss": "dice"}, "completed", [0.4, 0.3]),
    ({"optimizer": "sgd", "momentum": 0.7, "lr": 0.001, "loss": "cross_entropy"}, "stopped", [0.1]),
    ({"optimizer": "adam", "lr": 0.1, "loss": "dice"}, "diverged", []),
    ({"optimizer": "adam", "lr": 0.05, "loss": "cross_entropy"}, "out_of_memory", []),
    ({"optimizer": "adam", "lr": 0.002, "loss": "dice"}, "failed", []),
    ({"optimizer": "adam", "lr": 0.003, "loss": "cross_entropy"}, "completed", [0.2, 0.25]),
)


def _split(mask: str = "m") -> Split:
    def item(name: str) -> SplitItem:
        return SplitItem(id=name, image=name, mask=name, image_sha256="i", mask_sha256=mask)

    return Split(root=Path("/nowhere"), train=(item("a"),), val=(item("b"),), test=(item("c"),))


def _metrics(epoch: int, miou: float) -> EpochMetrics:
    return EpochMetrics(
        epoch=epoch, train_loss=1.0, val_loss=1.0 - miou, val_miou=miou, val_miou_no_background=miou, val_dice=miou,
        val_pixel_accuracy=miou, val_iou=(miou, None), lr=0.1, updates=epoch, train_seconds=1.0, val_seconds=0.5,
        images_per_second=10.0, finished_at=1000.0 + epoch,
    )  # fmt: skip


def _experiment(folder: Path, *overrides: str, text: str = SPACE) -> Experiment:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "space.yaml").write_text(text)
    return load_experiment(folder / "space.yaml", overrides=overrides)


def _end(ledger: Ledger, number: int, outcome: str, curve: Sequence[float]) -> None:
    for epoch, value in enumerate(curve, 1):
        last = epoch == len(curve)
        ledger.commit_epoch(_metrics(epoch, value), number=number, stopped=outcome == "stopped" and last)
    ledger.end(number, outcome, "")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with the search ``first``: the trials of ``TRIALS``, in this order."""
    here = tmp_path_factory.mktemp("made")
    ledger = Ledger.create(here / "runs", "first", _experiment(here), _split(), {})
    for point, outcome, curve in TRIALS:
        ledger.request("try", parameters=point, retry_of=None)
        ledger.poll()
        record = Asker(ledger).ask()
        assert record is not None
        assert record.parameters == point
        _end(ledger, record.number, outcome, curve)
    ledger.close()
    return here / "runs"


@pytest.fixture
def first(made: Path, tmp_path: Path) -> Iterator[Ledger]:
    """That search, open, in a storage of the test's own."""
    shutil.copytree(made, tmp_path / "runs")
    ledger = Ledger.open(tmp_path / "runs", "first")
    yield ledger
    ledger.close()


def _left_out(found: WarmStart) -> dict[str, tuple[int, ...]]:
    return {one.reason: one.trials for source in found.sources for one in source.left_out}


# ------------------------------------------------------------------------------------------------------- what fits


def test_the_same_space(first: Ledger, tmp_path: Path) -> None:
    """Hand-worked: all but the failed one fit; the best is tried first."""
    found = gather(_experiment(tmp_path), _split(), [first])
    assert [one.trial for one in found.prior] == [0, 1, 2, 3, 4, 6]
    assert [one.parameters for one in found.prior] == [TRIALS[n][0] for n in (0, 1, 2, 3, 4, 6)]
    assert [one.value for one in found.prior] == [0.5, 0.4, None, None, None, 0.25]
    assert found.prior[1].curve == {1: 0.4, 2: 0.4}  # the running best
    assert found.first == (TRIALS[0][0],)
    assert _left_out(found) == {"failed": (5,)}
    assert str(found) == (
        "warm start from first: 6 of 7 trials fit; the best of them, trial 0, is tried first\n"
        "  1 not told: failed (trials 5)"
    )


CHANGED = {
    "a narrower range": (
        ["parameters.lr.float=[5.0e-3, 5.0e-2]"],
        [0, 1, 4],
        {"lr must be in float 0.005 .. 0.05, log here and was 0.001, 0.003, 0.1": (2, 3, 6), "failed": (5,)},
    ),
    "a wider range": (["parameters.lr.float=[1.0e-6, 1.0]"], [0, 1, 2, 3, 4, 6], {"failed": (5,)}),
    "fixed at one of its values": (
        ["train.loss=dice"],
        [0, 1, 3],
        {"loss is dice here and was cross_entropy": (2, 4, 6), "failed": (5,)},
    ),
    "no longer searched": (  # adam knows no momentum; the default, 0.9, is what trial 1 had
        ["parameters.momentum=null"],
        [0, 1, 3, 4, 6],
        {"momentum is 0.9 here and was 0.7": (2,), "failed": (5,)},
    ),
    "newly searched, a default there": (
        ["parameters.dropout={float: [0.0, 0.5]}"],
        [0, 1, 2, 3, 4, 6],
        {"failed": (5,)},
    ),
    "newly searched, fixed there": (
        ["parameters.weight_decay.choice=[0.001, 0.1]"],
        [0, 1, 2, 3, 4, 6],
        {"failed": (5,)},
    ),
    "newly searched, without what it was there": (
        ["parameters.weight_decay.choice=[0.01, 0.1]"],
        None,
        {"weight_decay must be in 0.01 | 0.1 here and was 0.001": (0, 1, 2, 3, 4, 6), "failed": (5,)},
    ),
    "another choice": (
        ["parameters.optimizer.choice=[sgd, nadam]"],
        [1, 2],
        {"optimizer must be in sgd | nadam here and was adam": (0, 3, 4, 6), "failed": (5,)},
    ),
    "a text for a size": (["parameters.size={choice: [64x64, 32x32]}"], [0, 1, 2, 3, 4, 6], {"failed": (5,)}),
    "searched without a condition": (
        ["parameters.momentum={float: [0.5, 0.8]}", "parameters.momentum.when=null"],
        [0, 2, 3, 4, 6],
        {"momentum must be in float 0.5 .. 0.8 here and was 0.9": (1,), "failed": (5,)},
    ),
    "fixed where it governs nothing": (
        ["train.lr_decay=0.5", "train.focal_gamma=3.0"],
        [0, 1, 2, 3, 4, 6],
        {"failed": (5,)},
    ),
    "another seed": (["train.seed=7", "search.seed=9"], [0, 1, 2, 3, 4, 6], {"failed": (5,)}),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_changed_space(first: Ledger, tmp_path: Path, case: str) -> None:
    """Hand-worked from TRIALS and the fields' defaults; every point that fits is one of the new space."""
    overrides, fit, left_out = CHANGED[case]
    experiment = _experiment(tmp_path, *overrides)
    if fit is None:
        with pytest.raises(InputError) as caught:
            gather(experiment, _split(), [first])
        assert all(reason in str(caught.value) for reason in left_out)
        return
    found = gather(experiment, _split(), [first])
    assert [one.trial for one in found.prior] == fit
    assert _left_out(found) == left_out
    for one in found.prior:
        assert experiment.space.contains(one.parameters)
        config = first.trials[one.trial].config
        here = experiment.train_config(one.parameters, seed=0)
        assert here.governing() == config.governing()


def test_a_parameter_that_had_no_effect_is_drawn(first: Ledger, tmp_path: Path) -> None:
    """Under adam a momentum of 0.9 is as good as any: the sampler is not told that one was preferred."""
    experiment = _experiment(tmp_path, "parameters.momentum={choice: [0.5, 0.6, 0.7]}", "parameters.momentum.when=null")
    found = gather(experiment, _split(), [first])
    drawn = {one.trial: one.parameters["momentum"] for one in found.prior}
    assert drawn.keys() == {0, 2, 3, 4, 6}
    assert drawn[2] == 0.7
    assert len(set(drawn.values())) > 1
    assert gather(experiment, _split(), [first]) == found  # drawn from the trial's seed


@pytest.mark.parametrize(
    ("override", "split", "why"),
    [
        ("train.epochs=9", _split(), "epochs is 9 here and was 2"),
        ("train.size=64x64", _split(), "size is 64x64 here and was 32x32"),
        ("search.seed=1", _split("other masks"), "scored on other data"),
        ("data.background=null", _split(), "scored on other data"),
    ],
)
def test_scores_that_mean_nothing_here(first: Ledger, tmp_path: Path, override: str, split: Split, why: str) -> None:
    """No score is told; the best completed configurations are tried first, best first."""
    found = gather(_experiment(tmp_path, override), split, [first])
    assert found.prior == ()
    assert found.first == tuple(TRIALS[number][0] for number in (0, 1, 6, 2))  # 2 was stopped
    assert len(found.first) <= FIRST
    assert found.sources[0].tried_first == (0, 1, 6, 2)
    assert _left_out(found) == {why: (0, 1, 2, 3, 4, 6), "failed": (5,)}
    assert found.sources[0].same_data == ("other data" not in why)
    assert ("OTHER DATA" in str(found)) == ("other data" in why)


def test_only_what_cannot_be_helped_may_differ(first: Ledger, tmp_path: Path) -> None:
    """With other epochs every trial differs in these; those with another loss besides are no candidates."""
    found = gather(_experiment(tmp_path, "train.epochs=9", "train.loss=cross_entropy"), _split(), [first])
    assert found.sources[0].tried_first == (6, 2)


def test_another_test_part_is_the_same_data(first: Ledger, tmp_path: Path) -> None:
    """Scores are measured on the validation part."""
    split = _split()
    assert gather(_experiment(tmp_path), split.model_copy(update={"test": ()}), [first]).prior


def test_several_searches(first: Ledger, tmp_path: Path) -> None:
    """Each gives what it has; points that both want to be tried first are tried once."""
    second = Ledger.create(tmp_path / "more", "second", _experiment(tmp_path), _split(), {})
    record = Asker(second).ask()
    assert record is not None
    _end(second, record.number, "completed", [0.1, 0.9])
    found = gather(_experiment(tmp_path), _split(), [first, second])
    assert [(one.search, one.trial) for one in found.prior][-2:] == [("first", 6), ("second", 0)]
    assert found.first == (TRIALS[0][0], record.parameters)
    again = gather(_experiment(tmp_path), _split(), [first, first])
    assert again.first == (TRIALS[0][0],)


def test_runs_of_numbers() -> None:
    assert numbers([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert numbers([]) == ""


# ------------------------------------------------------------------------------------------------ what the sampler sees


def _warm(first: Ledger, folder: Path, storage: Path, *overrides: str, name: str = "second") -> Ledger:
    experiment = _experiment(folder, *overrides)
    warm = gather(experiment, _split(), [first])
    return Ledger.create(storage, name, warm.tried_first(experiment), _split(), {}, warm_start=warm)


def test_what_optuna_is_told(first: Ledger, tmp_path: Path) -> None:
    """As of trials of its own, with the distributions of the new space; the study on the disk knows none of it."""
    ledger = _warm(first, tmp_path, tmp_path / "runs", "parameters.lr.float=[1.0e-5, 1.0]")
    asker = Asker(ledger)
    record = asker.ask()
    assert record is not None
    assert record.number == 0
    assert record.parameters == TRIALS[0][0]  # the best of the other search, as a real trial
    study = asker.proposer.study.study
    told = study.get_trials()
    assert [trial.state for trial in told] == [
        TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED, TrialState.PRUNED,
        TrialState.COMPLETE, TrialState.RUNNING,
    ]  # fmt: skip
    assert [trial.value for trial in told[:2]] == [0.5, 0.4]
    assert told[2].intermediate_values == {1: 0.1}
    assert told[4].constraints == {"out_of_memory": 1.0}
    own = told[6].distributions
    assert all(trial.distributions.items() <= {**own, **told[1].distributions}.items() for trial in told)
    # TPE samples together what all trials have with equal distributions; the momentum is conditional.
    assert set(optuna.search_space.intersection_search_space(told)) == {"optimizer", "lr", "loss"}
    on_disk = optuna.load_study(study_name="second", storage=f"sqlite:///{ledger.folder}/ledger.db")
    assert [trial.number for trial in on_disk.trials] == [0]
    assert len(ledger.counted()) == 1


def _go_on(ledger: Ledger, until: int) -> list[dict[str, object]]:
    """Score trials by their learning rate until there are so many; every third is stopped."""
    asker = Asker(ledger)
    while len(ledger.trials) < until:
        record = asker.ask()
        assert record is not None
        value = 1.0 - abs(record.config.lr - 0.03)
        if record.number % 3 == 2:
            _end(ledger, record.number, "stopped", [value / 2])
        else:
            _end(ledger, record.number, "completed", [value / 2, value])
    return [record.parameters for _, record in sorted(ledger.trials.items())]


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
@pytest.mark.filterwarnings("ignore")  # of Optuna's gp, which is experimental
def test_a_resumed_search_goes_on_the_same_without_the_other(first: Ledger, tmp_path: Path, sampler: str) -> None:
    """Oracle: the uninterrupted twin; opened anew for every other trial, the other search's folder removed."""
    whole = _go_on(_warm(first, tmp_path, tmp_path / "runs", f"search.sampler={sampler}"), 14)
    ledger = _warm(first, tmp_path, tmp_path / "again", f"search.sampler={sampler}")
    first.close()
    shutil.rmtree(first.folder)
    for until in range(1, 15, 2):
        _go_on(ledger, until)
        ledger.close()
        ledger = Ledger.open(tmp_path / "again", "second", drive=True)
    assert _go_on(ledger, 14) == whole
    cold = Ledger.create(tmp_path / "cold", "second", _experiment(tmp_path, f"search.sampler={sampler}"), _split(), {})
    assert _go_on(cold, 14) != whole


def _jointly(asker: Asker) -> bool:
    """Whether TPE has drawn the last trial from what it knows: it then keeps the parameters that it draws together."""
    return any(name.startswith("tpe:relative_params") for name in asker.proposer.study.study.trials[-1].system_attrs)


def test_the_prior_replaces_the_random_start(first: Ledger, tmp_path: Path) -> None:
    """TPE draws at random until ten trials have ended. Oracle: Optuna's own note of a draw that was none."""
    cold = Asker(Ledger.create(tmp_path / "cold", "a", _experiment(tmp_path), _split(), {}))
    cold.ask()
    assert not _jointly(cold)
    enough = tuple(one for one in gather(_experiment(tmp_path), _split(), [first]).prior for _ in range(2))
    warm = Asker(
        Ledger.create(tmp_path / "warm", "a", _experiment(tmp_path), _split(), {}, warm_start=WarmStart((), enough, ()))
    )
    warm.ask()
    assert _jointly(warm)


def test_an_equal_seed_does_not_draw_the_same_again(tmp_path: Path) -> None:
    """A chain of searches with the default seed, too few trials each for TPE to leave its random start."""
    known: list[dict[str, object]] = []
    others: list[Ledger] = []
    for name in ("one", "two", "three"):
        experiment = _experiment(tmp_path)
        warm = gather(experiment, _split(), others[-1:]) if others else None
        others.append(Ledger.create(tmp_path / "runs", name, experiment, _split(), {}, warm_start=warm))
        drawn = _go_on(others[-1], 3)
        assert not any(point["lr"] == other["lr"] for point in drawn for other in known)
        known += drawn


# ------------------------------------------------------------------------------------------------------ kept and shown


def test_what_is_kept_is_what_was_found(first: Ledger, tmp_path: Path) -> None:
    ledger = _warm(first, tmp_path, tmp_path / "runs")
    found = gather(_experiment(tmp_path), _split(), [first])
    assert ledger.warm_start == found
    assert WarmStart.load(first.folder, first.experiment) == WarmStart()
    assert ledger.experiment.try_first == (TRIALS[0][0],)
    ledger.close()
    result = tunesearch.load("second", storage=tmp_path / "runs")
    assert result.warm_start == found.sources
    assert result.trials == ()  # only its own count
    (told,) = json.loads(json.dumps(result.as_dict()))["warm_start"]
    assert (told["search"], told["trials"], told["fit"], told["tried_first"]) == ("first", 7, 6, [0])
    assert told["left_out"] == [{"reason": "failed", "trials": [5]}]


DAMAGES = {
    "torn": lambda text: text[: len(text) // 2],
    "of another version": lambda text: text.replace('"version": 1', '"version": 2'),
    "a point of another space": lambda text: text.replace('"adam"', '"adamw"'),
    "an unknown outcome": lambda text: text.replace('"completed"', '"perfect"'),
    "a completed trial without a value": lambda text: text.replace('"value": 0.5', '"value": null'),
    "without its trials": lambda text: text.replace('"prior"', '"prio"'),
    "a list": lambda text: "[]",
}


def test_a_damaged_file_is_told(first: Ledger, tmp_path: Path) -> None:
    """Before anything is trained."""
    ledger = _warm(first, tmp_path, tmp_path / "runs")
    ledger.close()
    file = ledger.folder / "warm_start.json"
    whole = file.read_text()
    for damage in DAMAGES.values():
        file.write_text(damage(whole))
        assert file.read_text() != whole
        with pytest.raises(LedgerError, match=r"must hold a whole search: warm_start\.json"):
            Ledger.open(tmp_path / "runs", "second", drive=True)
    file.write_text(whole)
    Ledger.open(tmp_path / "runs", "second", drive=True).close()


# ------------------------------------------------------------------------------------------------------- whole searches


class _Notes(SearchCallback):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def on_message(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.slow
@pytest.mark.usefixtures("own_ray")
@pytest.mark.filterwarnings("ignore")  # Ray's and MLflow's own
def test_a_whole_search(tiny_space: Path, storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On real Ray: the best of the first search is trained first in the second, which then needs nothing of it."""
    from mlflow import MlflowClient

    notes = _Notes()
    one = tunesearch.run(tiny_space, name="one", storage=storage, trials=3, max_concurrent=1)
    two = tunesearch.run(
        tiny_space, name="two", storage=storage, trials=2, warm_start=["one"], max_concurrent=1, callback=notes
    )
    assert one.best is not None
    assert two.trials[0].parameters == one.best.parameters
    fit = sum(record.outcome in ("completed", "stopped") for record in one.trials)
    (source,) = two.warm_start
    assert (source.search, source.trials, source.fit, source.tried_first) == ("one", 3, fit, (one.best.number,))
    assert f"warm start from {source}" in notes.said
    client = MlflowClient(tracking_uri=f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`tunesearch.warm_start` = 'one'")
    assert parent.data.tags["tunesearch.search"] == "two"
    shutil.rmtree(storage / "one")
    tunesearch.extend("two", 1, storage=storage)
    assert len(tunesearch.resume("two", storage=storage).trials) == 3
    with pytest.raises(SystemExit):
        main(["show", "two", "--storage", str(storage)])
    assert f"warm-started from one: {fit} of 3 trials fit" in capsys.readouterr().out
