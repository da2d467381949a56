"""``tunesearch compare`` on a real search whose epochs are written here. Oracle: numbers worked by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tunesearch.cli import main
from tunesearch.engine.asking import Asker
from tunesearch.experiment import load_experiment
from tunesearch.ledger.store import Ledger
from tunesearch.segmentation.data.splits import Split
from tunesearch.segmentation.epoch import EpochMetrics

SCORES = {("adam", 1): 0.25, ("adam", 2): 0.75, ("sgd", 1): 0.125, ("sgd", 2): 0.125}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, epoch_metrics: Callable[..., EpochMetrics]) -> Path:
    """``done``: two optimisers under two seeds each, the last trial stopped. ``begun``: nothing yet."""
    folder = tmp_path_factory.mktemp("compare")
    space = folder / "tiny.yaml"
    space.write_text(
        "{name: tiny, data: {layout: sample}, train: {epochs: 3, size: 32x32}, search: {sampler: grid},"
        " parameters: {optimizer: {choice: [adam, sgd]}, seed: {choice: [1, 2]}}}"
    )
    empty = Split(root=Path("/nowhere"), train=(), val=())
    storage = folder / "runs"
    ledger = Ledger.create(storage, "done", load_experiment(space), empty, {})
    while (record := Asker(ledger).ask()) is not None:
        key = (record.config.optimizer, record.config.seed)
        ledger.commit_epoch(epoch_metrics(1, SCORES[key]), number=record.number, stopped=False)
        trial = ledger.trial_folder(record.number)
        trial.mkdir()
        built = {"parameters": 1234567, "trained_parameters": 1234567 if key[0] == "adam" else 99, "val_images": 250}
        (trial / "effective.json").write_text(json.dumps(built))
        ledger.end(record.number, "stopped" if key == ("sgd", 2) else "completed")
    ledger.close()
    Ledger.create(storage, "begun", load_experiment(space), empty, {}).close()
    return storage


def _run(capsys: pytest.CaptureFixture[str], storage: Path, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["compare", *arguments, "--storage", str(storage)])
    captured = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, captured.out, captured.err


def test_markdown(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Hand-worked: 0.25 and 0.75 have the mean 0.5 and the deviation sqrt(0.125) = 0.3536; 0.5 s for 250 images."""
    code, out, err = _run(capsys, storage, "done", "--markdown", "--all")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:4] == [
        "| optimizer | n | mIoU | mIoU without background | pixel accuracy | val loss | parameters | trained | s/epoch "
        "| s/1000 images | epochs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| adam | 2 | 0.5000 ±0.3536, max 0.7500 | 0.5000 ±0.3536, max 0.7500 | 0.5000 ±0.3536 | 0.5000 ±0.3536 "
        "| 1.23M | 1.23M | 1 | 2 | 1 |",
        "| sgd | 2 (1 stopped) | 0.1250 ±0.0000, max 0.1250 | 0.1250 ±0.0000, max 0.1250 | 0.1250 ±0.0000 "
        "| 0.8750 ±0.0000 | 1.23M | 99 | 1 | 2 | 1 |",
    ]
    assert lines[4] == ""
    assert all(line.startswith("- ") for line in lines[5:])
    assert "validation pass" in out
    assert "1 of the trials were stopped early" in out


def test_the_table(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The completed trials: sgd has one, and so no deviation."""
    code, out, err = _run(capsys, storage, "done", "--by", "optimizer,loss")
    assert (code, err) == (0, "")
    rows = [line for line in out.splitlines() if "cross_entropy" in line]
    assert ["adam" in row for row in rows] == [True, False]
    assert "0.1250" in rows[1]
    assert "±" not in rows[1]
    assert "stopped" not in out


def test_json(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Alone on stdout; a name given twice counts once."""
    code, out, err = _run(capsys, storage, "done", "done", "--json", "--by", "seed", "--trials", "0,1,2,3")
    assert (code, err) == (0, "")
    read = json.loads(out)
    assert read["fields"] == ["seed"]
    assert [(row["fields"]["seed"], len(row["trials"]), row["stopped"]) for row in read["rows"]] == [
        (2, 2, 1), (1, 2, 0),
    ]  # fmt: skip
    assert read["rows"][0]["seconds_per_1000_images"] == 2.0


def test_cells_do_not_break_the_markdown(storage: Path) -> None:
    """Values that people write: a size, a list of transforms, a bar in a text."""
    from tunesearch.cli.comparing import _markdown, _value
    from tunesearch.reporting.comparison import Comparison, Row, Spread

    assert _value({"width": 256, "height": 192}) == "256x192"
    assert _value([{"HorizontalFlip": {"p": 0.5}}]) == "[{HorizontalFlip: {p: 0.5}}]"
    assert [_value(value) for value in (None, True, 0.0001, 0.00123456, 3)] == [
        "null",
        "true",
        "0.0001",
        "0.001235",
        "3",
    ]
    one = Spread(0.5, None, 0.5, 0.5)
    row = Row({"encoder": "a|b"}, ("a/0",), 0, {"val_miou": one}, (999_999, 24_400_000), (5,), 1234.5, None, (2, 9))
    table = _markdown(Comparison("val_miou", ("encoder", "depth"), ("val_miou",), (row,), ("look out",)))
    assert table.splitlines()[2] == "| a\\|b | - | 1 | 0.5000 | 999999 to 24.4M | 5 | 1234 | - | 2 to 9 |"
    assert table.endswith("- warning: look out")


BAD = {
    "unknown search": (["dona"], "search dona: does not exist", "did you mean 'done'?"),
    "unknown field": (["done", "--by", "optimiser"], "--by: must be a field", "did you mean 'optimizer'?"),
    "unknown trial": (["done", "--trials", "7"], "--trials: search done has no trial 7", "0 to 3"),
    "no number": (["done", "--trials", "3,x"], "whole numbers such as 3,5,7", "'3,x'"),
    "no name": (["done", "--by", "lr,"], "names with commas", "'lr,'"),
    "trials of two": (["done", "begun", "--trials", "1"], "--trials: needs a single search", "2 searches"),
    "no trial": (["begun"], "search begun: has no trial that is completed", "--all"),
    "two formats": (["done", "--json", "--markdown"], "cannot be given together", "--json"),
    "no search": ([], "NAME", "Missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_one_clear_message(storage: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    """Exit code 2, nothing on stdout."""
    arguments, *said = BAD[case]
    code, out, err = _run(capsys, storage, *arguments)
    assert (code, out) == (2, "")
    for text in said:
        assert text in err
    assert "Traceback" not in err
