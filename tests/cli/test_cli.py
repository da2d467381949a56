"""The command line as a user meets it: exit codes, one clean message, machine output alone on stdout."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tunesearch.cli import cli, main
from tunesearch.engine.asking import Asker
from tunesearch.errors import InputError, PicturesSkipped, Problem

ROOT = Path(__file__).parents[2]


def _file(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_help_imports_nothing_heavy() -> None:
    """``--help`` must be instant: what it imports is told by Python itself."""
    code = "import sys; from tunesearch.cli import main\ntry: main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "Usage: tunesearch" in out
    modules = set(out.splitlines()[-1].split())
    assert not modules & {"torch", "ray", "optuna", "mlflow", "albumentations", "numpy", "pydantic", "rich"}


def test_every_command_has_help(run_cli: Callable[..., tuple[int, str, str]]) -> None:
    for name, command in cli.commands.items():
        code, out, _ = run_cli(name, "--help")
        assert code == 0
        assert command.help
        assert out.startswith(f"Usage: tunesearch {name}")


BAD = {
    "unknown space": (["run", "voc_unett"], "did you mean 'voc_unet'?"),
    "no such file": (["run", "nowhere.yaml"], "nowhere.yaml"),
    "bad size": (["run", "voc_unet", "--size", "12"], "WIDTHxHEIGHT"),
    "tiny size": (["run", "voc_unet", "--size", "8x8"], "greater than or equal to 16"),
    "bad time": (["run", "voc_unet", "--time-budget", "soon"], "90s, 30m, 1h30m"),
    "no time": (["run", "voc_unet", "--time-budget", "0s"], "more than nothing"),
    "no trials": (["run", "voc_unet", "--trials", "0"], "--trials"),
    "unknown sampler": (["run", "voc_unet", "--sampler", "tpf"], "tpe"),
    "bad seed": (["run", "voc_unet", "--seed", "-1"], "--seed"),
    "bad name": (["run", "voc_unet", "--smoke", "--name", "../up"], "--name: must be letters"),
    "no data": (["run", "voc_unet", "--data", "nowhere"], "nowhere"),
    "no weights": (["run", "voc_unet", "--smoke", "--encoder-weights", "nowhere"], "--encoder-weights: must be an"),
    "bad set": (["run", "voc_unet", "--smoke", "--set", "train.epoch=3"], "did you mean"),
    "set without value": (["run", "voc_unet", "--smoke", "--set", "train.epochs"], "--set"),
    "local and address": (["run", "voc_unet", "--smoke", "--local", "--address", "auto"], "cannot be given with"),
    "word for a number": (["run", "voc_unet", "--set", "search.trials=many"], "--set search.trials: must be a whole"),
    "flag and word": (["run", "voc_unet", "--trials", "3", "--set", "train.lr=fast"], "--set train.lr"),
    "no cluster": (["run", "voc_unet", "--data", "nowhere", "--address", "127.0.0.1:1"], "a Ray cluster that answers"),
    "no address": (["run", "voc_unet", "--data", "nowhere", "--address", "the cluster"], "HOST:PORT"),
    "unknown encoder": (
        ["run", "voc_unet", "--smoke", "--set", "parameters.encoder.choice=[mobilnet_v2]"],
        "did you mean 'mobilenet_v2'?",
    ),
    "too many CPUs": (["run", "voc_unet", "--smoke", "--cpus-per-trial", "4096"], "a trial must fit on a node"),
    "grid of floats": (["run", "voc_unet", "--smoke", "--sampler", "grid"], "step"),
    "unknown option": (["run", "voc_unet", "--epoch", "3"], "--epochs"),
    "unknown command": (["runn"], "No such command"),
    "resume of nothing": (["resume", "nothing"], "search nothing: does not exist"),
    "show of nothing": (["show", "nothing"], "search nothing: does not exist"),
    "sync of nothing": (["sync", "nothing"], "search nothing: does not exist"),
    "export of nothing": (["export", "nothing", "-o", "best.yaml"], "search nothing: does not exist"),
    "train nothing": (["train", "nowhere.yaml"], "nowhere.yaml: must be a readable file"),
    "train a folder": (["train", "."], "is no model folder"),
    "train on nothing": (["train", "nowhere.yaml", "--on", "val"], "--on"),
    "check nothing": (["data", "check", "voc_unet", "--data", "nowhere"], "nowhere"),
    "bad own model": (
        ["run", "voc_unet", "--smoke", "--set", "train.architecture=no_such_module:build"],
        "must be importable as module:attribute",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.filterwarnings("ignore")  # Ray's own, where a case gets as far as Ray
def test_bad_input_gets_one_clear_message(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    """Exit code 2, the message, no traceback, nothing on stdout but what was said before, and nothing created."""
    monkeypatch.chdir(tmp_path)
    arguments, said = BAD[case]
    code, _, err = run_cli(*arguments)
    assert code == 2, err
    assert said in err
    assert "Traceback" not in err
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "must be YAML"),
        ("just a text", "must have config and data"),
        ("config: 3\ndata: []", "must have config and data"),
        ("config: {architectur: unet}\ndata: {}", "did you mean 'architecture'?"),
        ("config: {lr: -1}\ndata: {layout: vox}", "config.lr"),
        ("config: {lr: -1}\ndata: {layout: vox}", "data.layout"),
        ("config: {}\ndata: {layout: folders, root: nowhere, classes: 2}", "nowhere"),
        ("config: {}\ndata: {layout: sample}\nscore: {objective: loss}", "score.objective: "),
    ],
)
def test_bad_configurations_to_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., tuple[int, str, str]], text: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run_cli("train", _file(tmp_path, "bad.yaml", text))
    assert code == 2
    assert said in err
    assert "Traceback" not in err


def test_all_problems_at_once(tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]) -> None:
    """Three mistakes on three lines: three messages, each with its line."""
    space = _file(
        tmp_path, "bad.yaml",
        "name: bad\nparameters:\n  lr: {float: [1.0, 0.1]}\n  optimiser: {choice: [adam]}\n"
        "  dropout: {float: [0, 2]}\n",
    )  # fmt: skip
    code, _, err = run_cli("run", space)
    assert code == 2
    for line, said in ((3, "low < high"), (4, "did you mean 'optimizer'?"), (5, "dropout")):
        assert re.search(rf"bad\.yaml:{line}: .*{re.escape(said)}", err), err


def test_a_file_that_cannot_be_written(
    tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]], tiny_space: Path
) -> None:
    """The system's own words with the path, exit code 2, no traceback."""
    from tunesearch.experiment import load_experiment
    from tunesearch.ledger.store import Ledger
    from tunesearch.segmentation.data.splits import Split

    split = Split(root=tmp_path, train=(), val=())
    ledger = Ledger.create(tmp_path, "a", load_experiment(tiny_space), split, {})
    Asker(ledger).ask()
    ledger.close()
    output = "/proc/nowhere/best.yaml"  # not even root can write there
    code, _, err = run_cli("export", "a", "--trial", "0", "-o", output, "--storage", tmp_path)
    assert code == 2
    assert "/proc/nowhere" in err
    assert "Traceback" not in err


def test_many_problems_are_cut_but_skipped_pictures_are_not(
    monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    """A wrong folder makes one problem of every file; skipped pictures are named nowhere else."""
    problems = [Problem(f"file{number}", "must be there") for number in range(50)]
    for error, told in ((InputError(problems), 40), (PicturesSkipped(problems, []), 50)):

        def fail(error: InputError = error, **given: object) -> None:
            raise error

        monkeypatch.setattr("tunesearch.api.looking.list_searches", fail)
        code, _, err = run_cli("list")
        assert code == error.exit_code
        assert err.splitlines()[0] == "error: 50 problems"
        assert sum("must be there" in line for line in err.splitlines()) == told
        assert ("and 10 more (--debug tells all)" in err) == (told == 40)


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:

    with pytest.raises(InputError):
        main(["show", "nothing", "--debug"])


def test_data_check_prints_the_classes_and_saves_a_picture(
    tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    """Oracle: the sample's published 48 training and 24 validation scenes."""
    from PIL import Image

    code, out, _ = run_cli("data", "check", "voc_unet", "--smoke", "-o", tmp_path / "check.png")
    assert code == 0
    assert "SAMPLE" in out
    assert "train: 48 images" in out
    assert "val: 24 images" in out
    assert "no problems found" in out
    with Image.open(tmp_path / "check.png") as picture:
        assert picture.width > 200


def test_data_check_says_the_class_weights(tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]) -> None:
    """Oracle: total area over the class's, from the pixels in the same JSON; the table shows what the JSON has."""
    arguments = ("data", "check", "voc_unet", "--smoke", "-o", tmp_path / "check.png")
    code, out, _ = run_cli(*arguments, "--json")
    assert code == 0
    found = json.loads(out)
    assert list(found["class_weights"]) == ["inverse_frequency", "median_frequency", "area", "image_mean"]
    pixels = found["parts"]["train"]["pixels"]
    assert found["class_weights"]["area"] == pytest.approx([sum(pixels) / count for count in pixels], rel=1e-6)

    _, out, _ = run_cli(*arguments)
    assert "class weights of the whole training part at original resolution" in out
    for index, name in enumerate(found["classes"]):
        shown = [f"{kind[index]:.4g}" for kind in found["class_weights"].values()]
        assert any(line.replace("│", " ").split() == [str(index), *name.split(), *shown] for line in out.splitlines())


@pytest.mark.slow
@pytest.mark.usefixtures("own_ray")
@pytest.mark.filterwarnings("ignore")  # Ray's and MLflow's own
def test_the_main_job_from_run_to_trained_weights(
    tiny_space: Path, storage: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    """run, list, show, export, train: what one says is what the next one reads."""
    from ruamel.yaml import YAML
    from safetensors import safe_open

    code, out, err = run_cli("run", tiny_space, "--name", "a", "--storage", storage, "--trials", 3, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert {"name", "status", "best", "trials"} <= result.keys()
    assert [trial["number"] for trial in result["trials"]] == [0, 1, 2]
    assert {"number", "parameters", "outcome", "epochs", "best_val_miou", "seed"} <= result["trials"][0].keys()
    assert "trial 0" in err  # plain lines, on stderr

    code, out, _ = run_cli("show", "a", "--storage", storage, "--json")
    assert json.loads(out)["trials"] == result["trials"]
    code, out, _ = run_cli("show", "a", "--storage", storage)
    assert f"best: trial {result['best']['number']}" in out
    assert "SAMPLE" in out
    code, out, _ = run_cli("list", "--storage", storage)
    assert "completed" in out

    code, _, err = run_cli("run", tiny_space, "--name", "a", "--storage", storage)
    assert code == 2
    assert "tunesearch resume a" in err

    best = tmp_path / "space" / "best.yaml"  # beside the module of the user's own network
    code, out, _ = run_cli("export", "a", "-o", best, "--storage", storage)
    assert code == 0
    exported = YAML(typ="safe").load(best.read_text())
    assert exported["config"] == result["best"]["config"]
    assert exported["score"]["value"] == result["best"]["best_value"]
    assert len(exported["data"]["digest"]) == 64
    assert exported["versions"]["torch"]
    code, _, err = run_cli("export", "a", "-o", best, "--storage", storage, "--trial", 99)
    assert code == 2
    assert "trials 0 to 2" in err

    code, out, err = run_cli("train", best, "--storage", storage, "--json")
    assert code == 0, err
    trained = json.loads(out)
    assert (trained["outcome"], trained["epochs"]) == ("completed", 3)
    with safe_open(trained["weights"], framework="pt") as weights:
        assert "network.0.weight" in set(weights.keys())
    code, _, err = run_cli("train", best, "--storage", storage)
    assert code == 2
    assert "holds a finished training already" in err


def test_a_damaged_search_is_named(
    tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]], tiny_space: Path
) -> None:
    """One file after the other is damaged; nothing is a traceback, and ``list`` shows the others."""
    from tunesearch.experiment import load_experiment
    from tunesearch.ledger.store import Ledger
    from tunesearch.segmentation.data.splits import Split

    for name in ("good", "bad"):
        Ledger.create(tmp_path, name, load_experiment(tiny_space), Split(root=tmp_path, train=(), val=()), {}).close()
    for file, content in (
        ("experiment.yaml", "["),
        ("experiment.yaml", ""),
        ("split.json", "{"),
        ("ledger.db", "no db"),
    ):
        whole = (tmp_path / "bad" / file).read_bytes()
        (tmp_path / "bad" / file).write_text(content)
        code, _, err = run_cli("show", "bad", "--storage", tmp_path)
        assert code == 2, (file, err)
        assert "bad" in err
        code, out, _ = run_cli("list", "--storage", tmp_path)
        assert code == 0
        assert "good" in out
        assert "damaged" in out
        (tmp_path / "bad" / file).write_bytes(whole)
    code, out, _ = run_cli("list", "--storage", tmp_path)
    assert "damaged" not in out


def test_storage_that_cannot_be_one(tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = run_cli("show", "a", "--storage", tmp_path / "a{b}")
    assert code == 2
    assert "--storage" in err
    code, _, err = run_cli("list", "--storage", tmp_path / "file" / "below")
    assert code == 2
    assert "must be a folder" in err
