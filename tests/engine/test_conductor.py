"""The conductor, over a real ledger and without Ray: what it does when its surroundings fail. By hand."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import tunesearch
from tunesearch.engine.callback import SearchCallback
from tunesearch.engine.conductor import ALIKE, Conductor
from tunesearch.engine.options import SearchOptions
from tunesearch.errors import Halted, NoUsableTrial
from tunesearch.experiment import load_experiment
from tunesearch.ledger import database
from tunesearch.ledger.store import Ledger
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.epoch import EpochMetrics

EMPTY = Split(root=Path("/nowhere"), train=(), val=())
Metrics = Callable[..., EpochMetrics]


def _conductor(space: Path, storage: Path, *overrides: str, **options: Any) -> Conductor:
    experiment = load_experiment(space, overrides=("search.trials=20", *overrides))
    ledger = Ledger.create(storage, "a", experiment, EMPTY, {})
    return Conductor(ledger, SearchOptions(**options), SearchCallback())


def _begin(conductor: Conductor) -> int:
    identity = f"trial{len(conductor.ledger.trials)}"
    record = conductor.next(identity)
    assert record is not None
    return record.number


def _report(number: int, metrics: EpochMetrics | None, outcome: str | None = None, halt: str = "") -> dict[str, Any]:
    plain = None if metrics is None else asdict(metrics)
    return {"number": number, "metrics": plain, "outcome": outcome, "message": "", "halt": halt}


def test_first_trials_that_all_fail_alike_end_the_search(tiny_space: Path, tmp_path: Path) -> None:
    """Numbers in a message do not make it another one; the first error is told."""
    conductor = _conductor(tiny_space, tmp_path)
    for index in range(ALIKE):
        assert not conductor.ending
        number = _begin(conductor)
        conductor.fault(
            number, lost=False, text=f"Traceback ...\nRuntimeError: no kernel at 0x{index:x}f, line {index}"
        )
    assert conductor.alike == "RuntimeError: no kernel at 0x0f, line 0"
    assert conductor.ending


@pytest.mark.parametrize("case", ["another message", "one has trained", "one goes on"])
def test_different_first_trials_do_not(tiny_space: Path, tmp_path: Path, epoch_metrics: Metrics, case: str) -> None:
    conductor = _conductor(tiny_space, tmp_path)
    for index in range(ALIKE):
        number = _begin(conductor)
        if index == 1 and case == "one goes on":
            continue
        if index == 1 and case == "one has trained":
            conductor.take(_report(number, epoch_metrics(1, 0.5)))
        odd = index == 1 and case == "another message"
        conductor.fault(number, lost=False, text="OSError: gone" if odd else "RuntimeError: broken")
    assert not conductor.alike


@pytest.mark.slow
@pytest.mark.usefixtures("own_ray")
@pytest.mark.filterwarnings("ignore")
def test_a_real_search_whose_network_is_broken(tiny_space: Path, storage: Path) -> None:
    """It ends after the first trials of 20 and says the first error; a resume goes on once it is mended."""
    broken = ["train.architecture=tiny_model:broken"]
    with pytest.raises(NoUsableTrial, match=r"all failed alike.*on purpose") as caught:
        tunesearch.run(tiny_space, name="a", storage=storage, trials=20, overrides=broken, max_concurrent=1)
    result: Any = caught.value.result
    assert result.status == "failed"
    assert ALIKE <= len(result.trials) < 10
    module = tiny_space.parent / "tiny_model.py"
    mended = module.read_text().replace(
        'raise RuntimeError("this network cannot be built: on purpose")', "return tiny(config, classes)"
    )
    module.write_text(mended)
    assert tunesearch.retry("a", failed=True, storage=storage)[0]


def test_only_the_best_weights_are_kept(tiny_space: Path, tmp_path: Path, epoch_metrics: Metrics) -> None:
    """Scores 0.1, 0.4, 0.3, 0.2 with two kept: those of 0.4 and 0.3 lie there at the end."""
    conductor = _conductor(tiny_space, tmp_path, keep_checkpoints=2)
    for miou in (0.1, 0.4, 0.3, 0.2):
        number = _begin(conductor)
        folder = conductor.ledger.trial_folder(number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "best.safetensors").touch()
        assert conductor.take(_report(number, epoch_metrics(3, miou), "completed"))
    kept = sorted(path.parent.name for path in (tmp_path / "a" / "trials").rglob("best.safetensors"))
    assert kept == ["0001", "0002"]


def test_a_halted_trial_stays_live(tiny_space: Path, tmp_path: Path, epoch_metrics: Metrics) -> None:
    conductor = _conductor(tiny_space, tmp_path)
    number = _begin(conductor)
    conductor.take(_report(number, epoch_metrics(1, 0.5)))
    assert not conductor.take(_report(number, None, halt="the disk is full"))
    assert conductor.halted == "the disk is full"
    assert conductor.ending
    # What comes in after that is not committed: it is reported again after a resume.
    assert not conductor.take(_report(number, epoch_metrics(2, 0.6)))
    conductor.fault(number, lost=False, text="RuntimeError: it was ended")
    conductor.ledger.close()
    heir = Ledger.open(tmp_path, "a")
    assert [sorted(record.epochs) for record in heir.live()] == [[1]]
    heir.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_under_the_ledger(tiny_space: Path, small_disk: Path, epoch_metrics: Metrics) -> None:
    """Everything committed before stays readable; after room was made the same epoch is committed."""
    conductor = _conductor(tiny_space, small_disk)
    number = _begin(conductor)
    conductor.take(_report(number, epoch_metrics(1, 0.5)))
    with (small_disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    epoch = 1
    while not conductor.halted:  # a page of the database may have room left
        epoch += 1
        conductor.take(_report(number, epoch_metrics(epoch, 0.5)))
        assert epoch < 2000
    assert "disk is full" in conductor.halted
    assert conductor.next("another") is None
    conductor.ledger.close()
    (small_disk / "filler").unlink()
    heir = Ledger.open(small_disk, "a", drive=True)
    assert [record.number for record in heir.recover()] == [number]
    committed = max(heir.trials[number].epochs)
    assert committed in (epoch - 1, epoch)  # the attribute may have found room, the value beside it not
    heir.commit_epoch(epoch_metrics(epoch, 0.5), number=number, stopped=False)
    heir.refresh()
    assert max(heir.trials[number].epochs) == epoch
    heir.close()


def test_a_database_that_stays_away_halts_the_search(
    tiny_space: Path, tmp_path: Path, epoch_metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PATIENCE", 0.0)
    conductor = _conductor(tiny_space, tmp_path)
    number = _begin(conductor)
    shutil.move(tmp_path / "a" / "ledger.db", tmp_path / "away.db")
    conductor.ledger._database.storage.engine.dispose()
    conductor.take(_report(number, epoch_metrics(1, 0.5)))
    assert "the ledger cannot be written" in conductor.halted
    conductor.ledger.close()
    (tmp_path / "away.db").replace(tmp_path / "a" / "ledger.db")
    assert [record.number for record in Ledger.open(tmp_path, "a").live()] == [number]


def test_what_is_told_of_it() -> None:
    assert Halted("a disk").exit_code == 4
