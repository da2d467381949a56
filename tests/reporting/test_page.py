"""The page of real ledgers. Oracle: what was told to the ledgers, and the HTML as Python's own parser reads it."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from plotly.offline import get_plotlyjs
from safetensors.torch import save_file

import tunesearch
from tunesearch.cli import main
from tunesearch.engine.asking import Asker
from tunesearch.errors import InputError
from tunesearch.ledger.steering import request_repeats
from tunesearch.ledger.store import Ledger
from tunesearch.reporting.page import write_report
from tunesearch.segmentation.config import DataConfig
from tunesearch.segmentation.data.splits import freeze_split
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.models import build_model

Told = Callable[..., Ledger]
EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"


class Page(HTMLParser):
    """Elements, texts and the figures of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._inside = ""
        self.figures: dict[str, Any] = {}
        self.feed(text.replace(get_plotlyjs(), ""))  # 5 MB of no interest

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = (dict(attrs).get("id") or tag) if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "figures":
            self.figures = json.loads(data)
        elif not self._inside and data.strip():
            self.texts.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        """All texts."""
        return " ".join(self.texts)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def _page(ledger: Ledger, tmp_path: Path, status: str = "completed") -> Page:
    told = write_report(ledger, tmp_path / "report.html", status=status)
    text = (tmp_path / "report.html").read_text("utf-8")
    assert told["bytes"] == len(text.encode())
    return Page(text)


def with_weights(ledger: Ledger, number: int) -> None:
    """Weights (untrained) and an effective configuration, as a completed trial leaves them."""
    folder = ledger.trial_folder(number)
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    state = build_model(ledger.trials[number].config, 5).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "best.safetensors")
    (folder / "effective.json").write_text(json.dumps({"network": "Sequential", "threads": 1, "device": "cpu"}))


def test_the_headline_says_what_was_told(told_search: Told, tmp_path: Path) -> None:
    """The best completed trial is number 2 with 0.6; 2 of 9 epochs were saved."""
    text = _page(told_search(), tmp_path).text
    assert "NOT CONFIRMED" in text
    assert "Best in the search: trial 2" in text
    assert "0.6000" in text
    assert "partly luck" in text
    assert "tunesearch confirm told" in text
    assert "2 completed, 1 stopped, 1 diverged" in text
    assert "Early stopping saved 2 of 9 epochs (22.2 %)" in text
    assert "SAMPLE" in text


def test_rungs_ends_and_curves(told_search: Told, tmp_path: Path) -> None:
    """Grace 1, reduction 2, 3 epochs: rungs at 1 and 2. Trial 1 ended at 1, the diverged trial 3 at 2."""
    figures = _page(told_search(), tmp_path).figures
    curves = figures["curves"]
    assert sorted(shape["x0"] for shape in curves["layout"]["shapes"]) == [1, 2]
    ends = {trace["name"]: (trace["x"], trace["y"]) for trace in curves["data"] if trace["mode"] == "markers"}
    assert ends == {"stopped: its end": ([1], [0.1]), "diverged: its end": ([2], [0.15])}
    best = next(trace for trace in curves["data"] if trace["name"] == "trial 2, the best")
    assert best["y"] == [0.3, 0.6, 0.6]  # the running best, not the curve


def test_every_figure_has_words_and_every_table_a_head(told_search: Told, tmp_path: Path) -> None:
    page = _page(told_search(), tmp_path)
    drawn = {attributes["data-figure"] for attributes in page.of("div") if "data-figure" in attributes}
    assert drawn == set(page.figures)
    assert {"history", "curves", "outcomes", "parallel", "winner-curve", "class-iou"} <= drawn
    for attributes in page.of("div"):
        if "data-figure" in attributes:
            assert attributes["role"] == "img"
            assert len(attributes["aria-label"] or "") > 20
    assert len(page.of("table")) == len(page.of("thead")) == len(page.of("caption")) > 8
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.of("th"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(following - level <= 1 for level, following in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(attributes["href"][1:] in ids for attributes in page.of("a"))  # type: ignore[index]


def test_it_names_nothing_outside_of_itself(told_search: Told, tmp_path: Path) -> None:
    page = _page(told_search(), tmp_path)
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    policy = next(a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_nothing_of_a_user_is_markup(told_search: Told, tmp_path: Path) -> None:
    """Names of classes, messages of errors, choices of parameters: all of them are texts."""
    names = json.dumps(["background", EVIL, "c", "d", "e"])
    ledger = told_search(
        "evil",
        {"a": ("completed", [0.2]), "b": ("failed", [0.3]), "c": ("completed", [0.4])},
        f"data.classes={names}",
        f"parameters.augmentation={{choice: [flip, {json.dumps('none')}]}}",
        message=EVIL,
        settings={"code": "/x", "address": EVIL},
    )
    page = _page(ledger, tmp_path)
    assert page.text.count(EVIL) > 3
    assert len(page.of("script")) == 3
    assert all("nonce" in attributes for attributes in page.of("script"))
    assert not [a for a in page.of("img") if "onerror" in a]
    told = json.dumps(page.figures)
    assert "&lt;script" in told
    assert "<script" not in told


def test_no_folder_of_this_machine_and_no_password(told_search: Told, tmp_path: Path) -> None:
    settings = {
        "tracking_uri": "http://me:secret@tracker:5000",
        "code": str(tmp_path / "space"),
        "encoder_weights": str(tmp_path / "w"),
    }
    split = freeze_split(DataConfig(layout="sample"))
    ledger = told_search(settings=settings, split=split)
    with_weights(ledger, 2)
    text = (_page(ledger, tmp_path), (tmp_path / "report.html").read_text("utf-8"))[1]
    assert "secret" not in text
    assert str(tmp_path) not in text
    assert str(split.root) not in text


def test_the_winner_on_its_images(told_search: Told, tmp_path: Path) -> None:
    """The sample has 24 validation images and 5 classes; three of them are shown, each in four pictures."""
    ledger = told_search(split=freeze_split(DataConfig(layout="sample")))
    with_weights(ledger, 2)
    told = write_report(ledger, tmp_path / "r.html", status="completed")
    assert told["missing"] == []
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    assert "Over the 24 validation images" in page.text
    pictures = page.of("img")
    assert len(pictures) == 12
    assert all((attributes["alt"] or "").strip() for attributes in pictures)
    shares = page.figures["confusion"]["data"][0]["z"]
    assert len(shares) == 5
    for row in shares:
        assert sum(row) == pytest.approx(1.0, abs=1e-3)  # of a class's pixels
    assert page.figures["histogram"]["data"][0]["name"] == "train"
    assert "nothing wrong" in page.text


def test_without_weights_the_pictures_of_the_search(told_search: Told, tmp_path: Path) -> None:
    from PIL import Image

    ledger = told_search(split=freeze_split(DataConfig(layout="sample")))
    ledger.trial_folder(2).mkdir()
    Image.new("RGB", (40, 30), "red").save(ledger.trial_folder(2) / "predictions.png")
    page = _page(ledger, tmp_path)
    assert "its weights are not kept" in page.text
    assert len(page.of("img")) == 1


@pytest.mark.parametrize(
    ("status", "words"), [("running", "still running"), ("interrupted", "resume told"), ("failed", "not finished")]
)
def test_a_search_that_is_not_done_says_so(told_search: Told, tmp_path: Path, status: str, words: str) -> None:
    stages = {"a": ("completed", [0.2, 0.3]), "b": (None, [0.1])}
    page = _page(told_search(stages=stages), tmp_path, status)
    assert words in page.text
    assert "1 completed, 1 running" in page.text


def test_an_empty_search_has_a_report(told_search: Told, tmp_path: Path) -> None:
    page = _page(told_search(stages={}), tmp_path, "interrupted")
    assert "No trial has begun" in page.text
    assert "No trial has a score yet" in page.text


def test_nothing_was_completed(told_search: Told, tmp_path: Path) -> None:
    page = _page(told_search(stages={"a": ("failed", []), "b": ("stopped", [0.1])}, message="boom"), tmp_path)
    assert "No trial was completed" in page.text
    assert "failed: boom (trial 0)" in page.text
    assert "it is stopped, not completed" in page.text


def test_the_data_are_gone(told_search: Told, tmp_path: Path) -> None:
    overrides = (f"data={{layout: voc, root: {tmp_path / 'gone'}}}",)
    page = _page(told_search("gone", {"a": ("completed", [0.2])}, *overrides), tmp_path)
    assert "no longer where they were" in page.text


def test_what_is_minimised(told_search: Told, tmp_path: Path) -> None:
    """val_loss is 1 minus the score that is told: trial 2 has the lowest, 0.4."""
    page = _page(told_search("loss", None, "objective.metric=val_loss"), tmp_path)
    assert "Best in the search: trial 2" in page.text
    assert "0.4000" in page.text


def test_confirmed(told_search: Told, tmp_path: Path, epoch_metrics: Callable[..., EpochMetrics]) -> None:
    """Trial 0 repeats at 0.70, 0.71, 0.72, trial 2 at 0.30, 0.31, 0.32: the first wins, with a mean of 0.71."""
    ledger = told_search()
    name, storage = ledger.name, ledger.folder.parent
    ledger.close()
    ledger = Ledger.open(storage, name, drive=True)
    request_repeats(ledger, [(trial, seed) for seed in (11, 12, 13) for trial in (0, 2)])
    while (record := Asker(ledger).repeat()) is not None:
        value = {0: 0.7, 2: 0.3}[record.confirms or 0] + {11: 0.0, 12: 0.01, 13: 0.02}[record.config.seed]
        ledger.commit_epoch(epoch_metrics(1, value, val_iou=(value,) * 5), number=record.number, stopped=False)
        ledger.end(record.number, "completed")
    page = _page(ledger, tmp_path)
    ledger.close()
    assert "CONFIRMED" in page.texts
    assert "NOT CONFIRMED" not in page.text
    assert "The winner: trial 0" in page.text
    assert "0.7100" in page.text
    assert "4 trials" not in page.text
    assert "; 6 repeats" in page.text
    means = [trace["x"] for trace in page.figures["confirmation"]["data"] if "interval" in trace["name"]]
    assert [round(x[0], 4) for x in means] == [0.71, 0.31]
    assert "no score on a test part" in page.text
    history = page.figures["history"]["data"]
    assert max(x for trace in history for x in _numbers(trace["x"])) <= 3  # repeats are no part of the search


def _numbers(values: Any) -> list[float]:
    import base64

    import numpy as np

    if isinstance(values, dict):
        return [float(v) for v in np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"])]
    return [float(v) for v in values]


# ---------------------------------------------------------------------------------------------- the command


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["report", *arguments])
    captured = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, captured.out, captured.err


def test_the_command(told_search: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = told_search()
    ledger.close()
    storage = str(ledger.folder.parent)
    code, out, _ = _run(capsys, "told", "--storage", storage)
    assert code == 0
    assert (ledger.folder / "report.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    assert "MLflow does not have it (it does not know the search; tunesearch sync told tells it)" in out
    assert "not in it: the best trial's predictions" in out
    code, out, _ = _run(capsys, "told", "--storage", storage, "-o", str(tmp_path / "deep" / "er.html"), "--json")
    told = json.loads(out)
    assert code == 0
    assert told["bytes"] == (tmp_path / "deep" / "er.html").stat().st_size


def test_bad_input_writes_nothing(told_search: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = told_search()
    ledger.close()
    storage = str(ledger.folder.parent)
    code, _, err = _run(capsys, "tolt", "--storage", storage)
    assert code == 2
    assert "told" in err  # the nearest name
    code, _, err = _run(capsys, "told", "--storage", storage, "-o", str(tmp_path))
    assert code == 2
    assert not (ledger.folder / "report.html").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_keeps_it_with_the_search(told_search: Told, tmp_path: Path) -> None:
    """Oracle: MLflow's own client."""
    from mlflow import MlflowClient

    ledger = told_search()
    ledger.close()
    storage = ledger.folder.parent
    uri = tunesearch.sync("told", storage=storage)
    assert tunesearch.report("told", storage=storage)["mlflow"] == ""
    client = MlflowClient(uri)
    runs = [run for e in client.search_experiments() for run in client.search_runs([e.experiment_id])]
    parent = next(run for run in runs if run.data.tags["tunesearch.trial"] == "parent")
    assert "report.html" in [file.path for file in client.list_artifacts(parent.info.run_id)]
    assert parent.info.status == "KILLED"  # told as interrupted by then; the report does not re-open it


def test_a_place_that_cannot_be_written_is_told_before_the_work(
    told_search: Callable[..., Ledger], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    said: list[str] = []
    for output in (tmp_path / "file" / "report.html", Path("/proc/report.html")):
        with pytest.raises(InputError, match=f"-o: must be a file that can be written: .*, but got {output}"):
            write_report(told_search(f"to-{output.parent.name}"), output, status="completed", on_message=said.append)
    assert said == []
