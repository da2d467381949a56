"""``tunesearch spaces``. Oracles: the shipped files read by hand, and the library behind the commands."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from click.testing import CliRunner, Result

from tunesearch.cli.spaces import RandomTrial, spaces
from tunesearch.errors import InputError
from tunesearch.experiment import Experiment, experiment_schema, load_experiment, shipped_spaces


def call(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(spaces, arguments)


def output(*arguments: str) -> str:
    result = call(*arguments)
    assert result.exception is None, result.exception
    assert result.exit_code == 0
    return result.output


def test_list_names_every_shipped_space() -> None:
    lines = output("list").splitlines()
    for name in shipped_spaces():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert str(len(load_experiment(name).space)) in line


def test_show_tells_what_the_file_says() -> None:
    """Oracle: phrases of voc_unet.yaml."""
    shown = output("show", "voc_unet")
    for phrase in ("float 1e-05 .. 0.1, log", "optimizer = sgd", "256x256", "{asha: {grace_epochs: 4, reduction: 3}}"):
        assert phrase in shown
    for name in load_experiment("voc_unet").space.names:
        assert name in shown
    assert output("show", "voc_unet") == shown  # drawn from a fixed seed


def test_show_takes_set_and_smoke() -> None:
    shown = output("show", "voc_unet", "--smoke", "--set", "train.epochs=2")
    assert "point 1 skipped: architecture: must be one of unet_small | encoder_unet, but got unet" in shown
    (line,) = [line for line in shown.splitlines() if "train.epochs" in line]
    assert line.split() == ["train.epochs", "2"]


def test_show_as_json_reads_back() -> None:
    document = json.loads(output("show", "voc_unet", "--json", "--smoke"))
    assert Experiment.from_document(document) == load_experiment("voc_unet", smoke=True)


def test_check_tells_good_files_and_raises_the_problems_of_all_bad_ones(tmp_path: Path) -> None:
    good = shipped_spaces()["voc_unet"]
    bad = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    for path in bad:
        path.write_text("name: x\nparameters: {lr: {float: [2, 1]}, dropuot: {choice: [0.1]}}\n")
    assert output("check", str(good)) == f"{good}: ok (16 parameters)\n"
    result = call("check", str(bad[0]), str(good), str(bad[1]))
    assert result.output == f"{good}: ok (16 parameters)\n"
    assert isinstance(result.exception, InputError)
    assert result.exception.exit_code == 2
    places = [problem.where for problem in result.exception.problems]
    assert places == [f"{bad[0]}:2"] * 2 + [f"{bad[1]}:2"] * 2


def test_schema_is_the_library_s() -> None:
    assert json.loads(output("schema")) == experiment_schema()


def test_an_unknown_space_raises_the_error_that_main_prints() -> None:
    result = call("show", "voc_unte")
    assert isinstance(result.exception, InputError)
    assert "did you mean 'voc_unet'?" in str(result.exception)


@pytest.mark.parametrize("arguments", [[], ["list"], ["show"], ["check"], ["schema"]])
def test_every_command_has_help(arguments: list[str]) -> None:
    assert "Usage" in output(*arguments, "--help")


def test_the_random_trial_stays_within_the_domains() -> None:
    """Oracle: Optuna's distributions, asked whether they contain what was drawn."""
    trial = RandomTrial(random.Random(1))
    for _ in range(300):
        assert 1 <= trial.suggest_int("n", 1, 9, log=True) <= 9
        assert trial.suggest_int("n", 1, 9, step=4) in (1, 5, 9)
        drawn = trial.suggest_float("x", 0.1, 0.7, step=0.2)
        assert optuna.distributions.FloatDistribution(0.1, 0.7, step=0.2)._contains(drawn)
        assert 1e-5 <= trial.suggest_float("x", 1e-5, 1e-1, log=True) <= 1e-1


def test_importing_the_commands_loads_nothing_heavy() -> None:
    code = (
        "import sys, tunesearch.cli.spaces; print(sorted({'pydantic', 'ruamel', 'rich', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_check_asks_the_libraries_about_lists(tmp_path: Path) -> None:
    """A transform that does not exist, and two class weights for the sample's five classes; both with their file."""
    path = tmp_path / "a.yaml"
    path.write_text(
        "name: a\ndata: {layout: sample}\ntrain:\n  class_weights: [1, 2]\n"
        "  augmentation: [{HorizontalFlp: {p: 0.5}}]\nparameters: {lr: {float: [0.1, 0.2]}}\n"
    )
    with pytest.raises(InputError) as caught:
        CliRunner().invoke(spaces, ["check", str(path)], catch_exceptions=False)
    said = str(caught.value)
    assert f"{path}: train.class_weights" in said
    assert f"{path}: train.augmentation.0.HorizontalFlp" in said
    assert "did you mean 'HorizontalFlip'?" in said
