"""experiment.py. Oracles: messages and line numbers read off the files by hand, Optuna, and jsonschema."""

from __future__ import annotations

import contextlib
import json
import pickle
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import optuna
import pytest
from ruamel.yaml import YAML

from tunesearch.errors import InputError
from tunesearch.experiment import Asha, Experiment, Median, experiment_schema, load_experiment, shipped_spaces
from tunesearch.experiment.checking import FITTED_TOGETHER
from tunesearch.segmentation.config import ARCHITECTURES, DataConfig, TrainConfig

GOOD = """\
name: tiny
data: {layout: sample}
train: {epochs: 4}
parameters:
  architecture: {choice: [unet, unet_small]}
  optimizer: {choice: [adam, sgd]}
  momentum: {float: [0.8, 0.99], when: {optimizer: sgd}}
  lr: {float: [1.0e-4, 1.0e-1], log: true}
try_first:
  - {optimizer: sgd, lr: 0.01}
"""


def with_line(line: int, new: str, content: str = GOOD) -> str:
    """The file with one line replaced."""
    lines = content.splitlines()
    lines[line - 1] = new
    return "\n".join(lines) + "\n"


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """Loads a text as a file."""

    def load(content: str = GOOD, **options: Any) -> Experiment:
        path = tmp_path / "space.yaml"
        path.write_text(content, encoding="utf-8")
        return load_experiment(path, **options)

    return load


@pytest.fixture
def says(load: Any, tmp_path: Path) -> Any:
    """The problems of a text, with the path of the file taken out: ``:LINE: path: rule``."""

    def says(content: str = GOOD, **options: Any) -> list[str]:
        with pytest.raises(InputError) as caught:
            load(content, **options)
        return [str(problem).replace(str(tmp_path / "space.yaml"), "") for problem in caught.value.problems]

    return says


def same_beginnings(found: list[str], expected: list[str]) -> bool:
    """Expected messages may be cut short."""
    return len(found) == len(expected) and all(map(str.startswith, found, expected))


# The line that is replaced, by what, and every message: line number, path and rule, worked out by hand from the rules.
BAD = [
    (1, "nmae: tiny", [":1: nmae: unknown key (did you mean 'name'?)", ": name: is missing (such as name: my_space)"]),
    (
        1,
        'name: "a b"',
        [":1: name: must be 1 to 64 letters, digits, dots, dashes or underscores, a letter or digit first"],
    ),
    (1, "name: 3", [":1: name: must be 1 to 64 letters, digits, dots, dashes or underscores, a letter or digit first"]),
    (1, "name: tiny\ndescription: [1]", [":2: description: must be a text, but got [1]"]),
    (2, "data: {laoyut: sample}", [":2: data.laoyut: unknown key (did you mean 'layout'?)"]),
    (2, "data: {layout: sample, val: 2.0}", [":2: data.val: must be a text or must be less than 1, but got 2.0"]),
    (
        2,
        "data: {layout: folders, classes: [{name: a, colors: [[0, 0, 300]]}]}",
        [":2: data.classes.0.colors.0.2: must be less than or equal to 255, but got 300"],
    ),
    (2, "data: sample", [":2: data: must be a mapping with keys such as layout, root, images, but got sample"]),
    (
        2,
        "data: {root: ~nobody_here/x}",
        [":2: data.root: must be a path whose ~ has a home directory, but got ~nobody_here/x"],
    ),
    (2, "data: {classes: 1.5}", [":2: data.classes: must be a whole number or must be a list, but got 1.5"]),
    (
        2,
        "data: {classes: [{nmae: a}]}",
        [":2: data.classes.0.name: is missing", ":2: data.classes.0.nmae: unknown key"],
    ),
    (3, "train: {epoch: 4}", [":3: train.epoch: is no field of TrainConfig (did you mean 'epochs'?)"]),
    (3, 'train: {epochs: "4"}', [':3: train.epochs: must be a whole number, but got "4"']),
    (3, "train: {epochs: 4.0}", [":3: train.epochs: must be a whole number, but got 4.0"]),
    (3, "train: {epochs: true}", [":3: train.epochs: must be a whole number, but got true"]),
    (3, "train: {dropout: 1.0}", [":3: train.dropout: must be less than 1, but got 1.0"]),
    (3, "train: {size: 64}", [":3: train.size: must be a mapping, but got 64 (a size is written 256x192)"]),
    (3, "train: {size: {width: 64}}", [":3: train.size.height: is missing (a size is written 256x192)"]),
    (
        3,
        "train: {size: {width: 8, height: 64}}",
        [":3: train.size.width: must be greater than or equal to 16, but got 8 (a size is written 256x192)"],
    ),
    (
        3,
        "train: {loss: dcie}",
        [":3: train.loss: loss must be one of cross_entropy, focal, hinge, dice, jaccard, tversky, lovasz,"],
    ),
    (3, "train: {loss: dicee}", [":3: train.loss: loss must be one of cross_entropy, focal, hinge, dice, jacca"]),
    (3, "train: {crop: 256x256}", [":3: train.crop: crop 256x256 must not be larger than size 128x128"]),
    (3, "train: {cropping: five}", [":3: train.cropping: cropping 'five' needs a crop, such as crop: 256x256"]),
    (
        2,
        "data: {layout: sample, folds: {k_fold: 1}}",
        [":2: data.folds.k_fold: must be greater than or equal to 2, but got 1"],
    ),
    (
        3,
        "train: {augmentation: [HorizontalFlip]}",
        [":3: train.augmentation: augmentation must be one of none, flip, standard, report_c_early, report"],
    ),
    (3, "train: {lr: 0.1}", [":8: parameters.lr: is searched here and fixed under train (:3) (keep one of the two)"]),
    (3, "train: 3", [":3: train: must be a mapping such as {epochs: 30, size: 256x192}, but got 3"]),
    (3, "train: {epochs: 4, epochs: 5}", [":3: train.epochs: stands there twice: first in line 3"]),
    (3, "search: {trials: 0}", [":3: search.trials: must be greater than or equal to 1, but got 0"]),
    (
        3,
        "search: {sampler: tpee}",
        [":3: search.sampler: must be 'tpe', 'random', 'grid', 'gp' or 'cmaes', but got tpee"],
    ),
    (3, "search: {trails: 5}", [":3: search.trails: unknown key (did you mean 'trials'?)"]),
    (
        3,
        "search: {sampler: grid}",
        [
            ":7: parameters.momentum.float: the grid sampler needs a `step` for a float range, but got float",
            ":8: parameters.lr.float: the grid sampler needs a `step` for a float range, but got float 0.000",
        ],
    ),
    (3, "search: 3", [":3: search: must be a mapping with keys such as trials, sampler, seed, but got 3"]),
    (
        3,
        "scheduler: asha",
        [":3: scheduler: must be none, {asha: {grace_epochs: 4, reduction: 3}} or {median: {grace_epochs:"],
    ),
    (3, "scheduler: {ahsa: {}}", [":3: scheduler.ahsa: unknown scheduler (did you mean 'asha'?)"]),
    (
        3,
        "scheduler: {asha: {}, median: {}}",
        [":3: scheduler: must be none, {asha: {grace_epochs: 4, reduction: 3}} or {median: {grace_epochs:"],
    ),
    (
        3,
        "scheduler: {asha: {grace_epochs: 0}}",
        [":3: scheduler.asha.grace_epochs: must be greater than or equal to 1, but got 0"],
    ),
    (
        3,
        "scheduler: {asha: {reduction: 1}}",
        [":3: scheduler.asha.reduction: must be greater than or equal to 2, but got 1"],
    ),
    (
        3,
        "scheduler: {asha: null}",
        [":3: scheduler.asha: must be a mapping with keys such as grace_epochs, reduction, but got null"],
    ),
    (
        3,
        "scheduler: {median: {grace: 1}}",
        [":3: scheduler.median.grace: unknown key (valid: grace_epochs, min_trials)"],
    ),
    (
        3,
        "objective: {metric: miou}",
        [":3: objective.metric: must be 'val_miou', 'val_miou_no_background', 'val_dice', 'val_pixel_accu"],
    ),
    (
        3,
        "objective: {metric: val_loss, mode: max}",
        [":3: objective: mode must be min for val_loss; it may be left out"],
    ),
    (3, "objective: {mode: min}", [":3: objective: mode must be max for val_miou; it may be left out"]),
    (
        4,
        "paramters:",
        [
            ":4: paramters: unknown key (did you mean 'parameters'?)",
            ": parameters: is missing (such as parameters: {lr: {float: [1e-5, 1e-1], log: true}})",
        ],
    ),
    (
        8,
        "  learning_rate: {float: [1.0, 2.0]}",
        [
            ":8: parameters.learning_rate: is no field of TrainConfig (did you mean 'lr'?)",
            ":10: try_first.0.lr: is no parameter of this space (valid: architecture, optimizer, momentum)",
        ],
    ),
    (
        8,
        "  lr: {float: [1.0e-1, 1.0e-4]}",
        [":8: parameters.lr.float: `low < high` must hold, but got low=0.1, high=0.0001"],
    ),
    (
        8,
        "  lr: {float: [0.1, 0.1]}",
        [":8: parameters.lr.float: `low < high` must hold, but got low=0.1, high=0.1 (a fixed value belon"],
    ),
    (
        8,
        "  lr: {float: [0.0, 1.0], log: true}",
        [":8: parameters.lr.float: `low > 0` must hold with `log: true`, but got low=0.0, high=1.0"],
    ),
    (8, "  lr: {float: [0.1]}", [":8: parameters.lr.float: must be two numbers [low, high], but got [0.1]"]),
    (
        8,
        "  lr: {float: [0.1, high]}",
        [":8: parameters.lr.float: must be two numbers [low, high], but got [0.1, high]"],
    ),
    (
        8,
        "  lr: {flaot: [0.1, 0.2]}",
        [
            ":8: parameters.lr.flaot: unknown key (did you mean 'float'?)",
            ":8: parameters.lr: exactly one of choice, int, float must be given (such as {float: [0.0, 0.7]}",
        ],
    ),
    (
        8,
        "  lr: {float: [0.1, 0.2], choice: [0.1]}",
        [":8: parameters.lr: exactly one of choice, int, float must be given, but got choice, float (such"],
    ),
    (
        8,
        "  lr: [0.1, 0.2]",
        [":8: parameters.lr: must be a mapping such as {float: [0.0, 0.7]}, {int: [1, 8]} or {choice: [a,"],
    ),
    (8, "  lr: {float: [0.1, 0.2], log: yes}", [":8: parameters.lr.log: must be true or false, but got yes"]),
    (
        8,
        "  lr: {float: [0.1, 0.2], log: true, step: 0.1}",
        [":8: parameters.lr.step: `step` and `log` exclude each other"],
    ),
    (8, "  lr: {float: [0.1, 0.2], step: 0.0}", [":8: parameters.lr.step: must be a number > 0, but got 0.0"]),
    (
        8,
        "  lr: {float: [0.1, 0.2], step: 0.03}",
        [":8: parameters.lr.step: `high - low` must be a multiple of `step`, but got low=0.1, high=0.2, s"],
    ),
    (
        8,
        "  batch_size: {int: [2, 8.0]}",
        [
            ":8: parameters.batch_size.int: must be two whole numbers [low, high], but got [2, 8.0]",
            ":10: try_first.0.lr: is no parameter of this space (valid: architecture, optimizer, momentum)",
        ],
    ),
    (
        8,
        "  batch_size: {int: [2, 8], step: 4}",
        [
            ":8: parameters.batch_size.step: `high - low` must be a multiple of `step`, but got low=2, high=",
            ":10: try_first.0.lr: is no parameter of this space (valid: architecture, optimizer, momentum)",
        ],
    ),
    (
        8,
        "  batch_size: {float: [2, 8]}",
        [
            ":8: parameters.batch_size.float.0: must be a whole number, but got 2.0",
            ":8: parameters.batch_size.float.1: must be a whole number, but got 8.0",
            ":10: try_first.0.lr: is no parameter of this space (valid: architecture, optimizer, momentum, b",
        ],
    ),
    (
        8,
        "  dropout: {float: [0.0, 1.5]}",
        [
            ":8: parameters.dropout.float.1: must be less than 1, but got 1.5",
            ":10: try_first.0.lr: is no parameter of this space (valid: architecture, optimizer, momentum, d",
        ],
    ),
    (
        8,
        "  lr: {float: [0.1, .inf]}",
        [
            ":8: parameters.lr.float.1: must be a finite number, but got inf",
            ":10: try_first.0.lr: must lie in float 0.1 .. inf, but got 0.01",
        ],
    ),
    (8, "  lr: {float: [0.1, .nan]}", [":8: parameters.lr.float: `low < high` must hold, but got low=0.1, high=nan"]),
    (
        5,
        "  architecture: {choice: []}",
        [":5: parameters.architecture.choice: must hold at least one value, but got []"],
    ),
    (5, "  architecture: {choice: unet}", [":5: parameters.architecture.choice: must be a list, but got unet"]),
    (
        5,
        "  architecture: {choice: [unet, unet]}",
        [":5: parameters.architecture.choice.1: values must differ, but got unet twice"],
    ),
    (
        5,
        "  architecture: {choice: [unet, unett]}",
        [":5: parameters.architecture.choice.1: architecture must be one of unet, unet_medium, unet_small"],
    ),
    (
        5,
        "  architecture: {choice: [unet], log: true}",
        [":5: parameters.architecture.log: `log` goes with int and float, not with choice"],
    ),
    (
        5,
        "  size: {choice: [{width: 64, height: 64}]}",
        [":5: parameters.size.choice.0: must be a string, a number, true, false or null, but got {width: "],
    ),
    (
        5,
        "  architecture: {choice: [unet, fpn]}",
        [":5: parameters.architecture: architecture 'fpn' needs an encoder, such as mobilenet_v2 (fix tra"],
    ),
    (
        5,
        "  architecture: {choice: [unet, fpn]}\n  encoder: {choice: [resnet18], when: {architecture: unet}}",
        [":5: parameters.architecture: architecture 'fpn' needs an encoder, such as mobilenet_v2 (the `wh"],
    ),
    (
        5,
        "  architecture: {choice: [fpn, encoder_unet]}\n  encoder: {choice: [vgg16], when: {architecture: fpn}}",
        [":5: parameters.architecture: architecture 'encoder_unet' needs an encoder, such as mobilenet_v2"],
    ),
    (
        5,
        "  architecture: {choice: [pan]}\n  encoder: {choice: [resnet18]}\n  batch_size: {int: [1, 4]}",
        [":5: parameters.architecture: pan has batch norm on pooled features: batches of at least 2 imag"],
    ),
    (
        7,
        "  momentum: {float: [0.8, 0.99], when: {schedule: cosine}}\n  schedule: {choice: [none, cosine]}",
        [":7: parameters.momentum.when.schedule: `when` may only name parameters that stand above, but go"],
    ),
    (
        7,
        "  momentum: {float: [0.8, 0.99], when: {momentum: 1}}",
        [":7: parameters.momentum.when.momentum: `when` may only name parameters that stand above, but go"],
    ),
    (
        7,
        "  momentum: {float: [0.8, 0.99], when: {optimzer: sgd}}",
        [":7: parameters.momentum.when.optimzer: `when` names no parameter of this space (did you mean 'o"],
    ),
    (
        7,
        "  momentum: {float: [0.8, 0.99], when: {epochs: 4}}",
        [":7: parameters.momentum.when.epochs: is fixed under train, so the condition never changes (leav"],
    ),
    (
        7,
        "  momentum: {float: [0.8, 0.99], when: {optimizer: sdg}}",
        [":7: parameters.momentum.when.optimizer: optimizer can never be this: it is adam | sgd, but got "],
    ),
    (
        7,
        "  momentum: {float: [0.8, 0.99], when: {optimizer: [sgd, adamw]}}",
        [":7: parameters.momentum.when.optimizer.1: optimizer can never be this: it is adam | sgd, but go"],
    ),
    (
        7,
        "  momentum: {float: [0.8, 0.99], when: {optimizer: []}}",
        [":7: parameters.momentum.when.optimizer: must be one value or a list of values, but got []"],
    ),
    (
        7,
        "  momentum: {float: [0.8, 0.99], when: sgd}",
        [":7: parameters.momentum.when: must be a mapping such as {optimizer: sgd} or {optimizer: [sgd, r"],
    ),
    (
        7,
        "  momentum: {float: [0.8, 0.99], when: {optimizer: sgd}}\n  nestorov: {choice: [1]}",
        [":8: parameters.nestorov: is no field of TrainConfig (did you mean 'nesterov'?)"],
    ),
    (
        7,
        "  momentum: {float: [0.8, 0.99], when: {optimizer: sgd}}\n  dropout: {float: [0, 0.5], when: {momentum: 0.5}}",
        [":8: parameters.dropout.when.momentum: momentum can never be this: it is float 0.8 .. 0.99, but "],
    ),
    (
        7,
        "  momentum: {float: [0.8, 0.99], when: {optimizer: sgd}}\n"
        "  dropout: {float: [0, 0.5], when: {momentum: 0.8, optimizer: adam}}",
        [":8: parameters.dropout.when: can never hold: its conditions exclude each other"],
    ),
    (
        10,
        "  - {optimzer: sgd}",
        [":10: try_first.0.optimzer: is no parameter of this space (did you mean 'optimizer'?)"],
    ),
    (10, "  - {lr: 1.0}", [":10: try_first.0.lr: must lie in float 0.0001 .. 0.1, log, but got 1.0"]),
    (10, '  - {lr: "0.01"}', [':10: try_first.0.lr: must lie in float 0.0001 .. 0.1, log, but got "0.01"']),
    (
        10,
        "  - {optimizer: adam, momentum: 0.9}",
        [":10: try_first.0.momentum: only has a meaning when optimizer = sgd, which this point does not s"],
    ),
    (
        10,
        "  - {momentum: 0.9}",
        [":10: try_first.0.momentum: only has a meaning when optimizer = sgd, which this point does not s"],
    ),
    (10, "  - {epochs: 4}", [":10: try_first.0.epochs: is fixed under train, not searched (leave it out)"]),
    (10, "  - sgd", [":10: try_first.0: must be a mapping such as {lr: 1.0e-4}, but got sgd"]),
    (10, "  - {}", [":10: try_first.0: must be a mapping such as {lr: 1.0e-4}, but got {}"]),
    (
        9,
        "try_first: {lr: 0.01}\nx:",
        [
            ":10: x: unknown key (valid: name, description, data, train, search, scheduler, objective, param",
            ":9: try_first: must be a list of points such as - {lr: 1.0e-4}, but got {lr: 0.01}",
        ],
    ),
    (
        10,
        "  - {lr: 0.01}\nsmoke: {data: {layout: voc}}",
        [":11: smoke.data: unknown key (a smoke run brings its own data)"],
    ),
    (10, "  - {lr: 0.01}\nsmoke: {trian: {epochs: 1}}", [":11: smoke.trian: unknown key (did you mean 'train'?)"]),
    (
        10,
        "  - {lr: 0.01}\nsmoke: 3",
        [":11: smoke: must be a mapping with the sections train, search, scheduler, objective, parameters"],
    ),
    (
        10,
        "  - {lr: 0.01}\nsmoke:\n  train: {epoch: 1}\n  parameters:\n    lr: {float: [1.0, 0.5]}",
        [
            ":12: smoke.train.epoch: is no field of TrainConfig (did you mean 'epochs'?)",
            ":14: smoke.parameters.lr.float: `low < high` must hold, but got low=1.0, high=0.5",
        ],
    ),
    (10, "  - {lr: 0.01}\nsmoke: {train: 3}", [":11: smoke.train: must be a mapping, but got 3"]),
    (
        2,
        "data: &d {layout: sample}",
        [":2: YAML anchors are not used here (write the value out, in quotes if it is a text with & * or !)"],
    ),
    (
        2,
        "data: !x {layout: sample}",
        [":2: YAML tags are not used here (write the value out, in quotes if it is a text with & * or !)"],
    ),
    (2, "data: {<<: {layout: sample}}", [":2: data: merge keys (<<) are not used here (write the keys out)"]),
    (
        2,
        "data: {layout: sample, train: 2001-01-01}",
        [":2: data.train: dates are not used here (write '2001-01-01' in quotes if it is a text)"],
    ),
    (2, "1: 3", [':2: keys must be names, but got "1"']),
    (2, "data: [1", [":3: no valid YAML: while parsing a flow sequence, expected ',' or ']', but got ':'"]),
    (2, "? [1, 2]\n: 3", [":2: keys must be names, but got null"]),
    (2, "%YAML 1.1", [":3: no valid YAML: mapping values are not allowed here"]),
]


@pytest.mark.parametrize(("line", "new", "expected"), BAD, ids=[f"{line}-{new[:60]}" for line, new, _ in BAD])
def test_a_bad_file_is_told_with_line_path_and_rule(says: Any, line: int, new: str, expected: list[str]) -> None:
    found = says(with_line(line, new))
    assert same_beginnings(found, expected), "\n".join(found)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", ": is empty"),
        ("# only a comment\n", ": is empty"),
        ("- 1\n", ": must be a mapping with the sections name, description"),
        ("name: x\n", ": parameters: is missing (such as"),
        ("name: x\nparameters: {}\n", ":2: parameters: must be a mapping that names at least one"),
        ("a: b: c", ":1: no valid YAML: mapping values are not allowed here"),
        ("a: 1\n\tb: 2", ":2: no valid YAML: "),
        ("a: 1\nb: \x07", ":2: no valid YAML: special characters are not allowed"),
        ("a: *x", ":1: no valid YAML: found undefined alias"),
        ("name: x\n---\nname: y\n", ":2: no valid YAML: expected a single document"),
        ("[" * 3000, ":1: nested too deeply"),
        (
            "name: x\ntrain: {architecture: fpn}\nparameters: {lr: {float: [0.1, 0.2]}}\n",
            ":2: train.architecture: architecture 'fpn' needs an encoder",
        ),
        (
            "name: x\nparameters: {architecture: {choice: [fpn]}, encoder: {choice: [null, vgg16]}}\n",
            ":2: parameters.architecture: architecture 'fpn' needs an encoder",
        ),
    ],
)
def test_a_file_that_is_none(says: Any, content: str, expected: str) -> None:
    assert same_beginnings(says(content), [expected])


def test_every_problem_is_told_at_once(says: Any) -> None:
    """Oracle: one mistake per section, counted by hand, and those of the command line with them."""
    content = """\
nam: tiny
data: {layuot: voc}
train: {epochs: 0, dropuot: 0.1}
search: {sampler: tpee}
scheduler: {asha: {reduction: 1}}
objective: {metric: miou}
parameters:
  lr: {float: [1.0, 0.1], stpe: 1}
  loss: {choice: [dcie]}
try_first: [{loss: dice}]
smoke: {trian: {}}
"""
    found = says(content, overrides=["lr"])
    assert [message.split(":")[1] for message in found[:-1]] == [
        "1",
        " name",
        "2",
        "3",
        "3",
        "8",
        "8",
        "9",
        "4",
        "5",
        "6",
        "10",
        "11",
    ]
    assert found[-1] == "--set: must be PATH=VALUE, such as train.epochs=10, but got 'lr'"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    cases: list[tuple[str | Path, str]] = [
        ("voc_unte", "no search space is called 'voc_unte' (did you mean 'voc_unet'?)"),
        ("nothing/here.yaml", "nothing/here.yaml: no such file"),
        (tmp_path, f"{tmp_path}: is a folder, not a file"),
    ]
    for space, message in cases:
        with pytest.raises(InputError) as caught:
            load_experiment(space)
        assert str(caught.value) == message
    (tmp_path / "latin.yaml").write_bytes("name: ü".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        load_experiment(tmp_path / "latin.yaml")


def test_what_a_file_means(load: Any) -> None:
    """Oracle: the file, read by hand; defaults as documented."""
    experiment = load()
    assert (experiment.name, experiment.description) == ("tiny", None)
    assert experiment.data == DataConfig(layout="sample")
    assert experiment.train == {"epochs": 4}
    assert experiment.search.model_dump() == {"trials": 32, "sampler": "tpe", "seed": 0}
    assert experiment.scheduler == Asha(grace_epochs=4, reduction=3)
    assert experiment.objective.model_dump() == {"metric": "val_miou", "mode": "max", "resolution": "network"}
    assert experiment.space is experiment.parameters
    assert experiment.space.names == ("architecture", "optimizer", "momentum", "lr")
    assert experiment.try_first == ({"optimizer": "sgd", "lr": 0.01},)


@pytest.mark.parametrize(
    ("line", "scheduler"),
    [
        ("scheduler: none", None),
        ("scheduler: {asha: {grace_epochs: 2}}", Asha(grace_epochs=2, reduction=3)),
        ("scheduler: {median: {min_trials: 7}}", Median(grace_epochs=4, min_trials=7)),
    ],
)
def test_schedulers(load: Any, line: str, scheduler: Any) -> None:
    assert load(GOOD + line + "\n").scheduler == scheduler


def test_the_natural_mode(load: Any) -> None:
    assert load(GOOD + "objective: {metric: val_loss}\n").objective.mode == "min"
    assert load(GOOD + "objective: {metric: val_dice}\n").objective.mode == "max"


def test_train_config_and_its_seed(load: Any) -> None:
    """Oracle: TrainConfig written out; a seed that the file fixes or searches wins."""
    experiment = load()
    point = {"architecture": "unet", "optimizer": "sgd", "momentum": 0.9, "lr": 0.1}
    assert experiment.train_config(point, seed=7) == TrainConfig(epochs=4, seed=7, optimizer="sgd", lr=0.1)
    assert experiment.train_config({**point, "seed": 3}, seed=7).seed == 3
    assert load(with_line(3, "train: {seed: 5}")).train_config(point, seed=7).seed == 5
    with pytest.raises(InputError, match="needs an encoder"):
        experiment.train_config({"architecture": "fpn"}, seed=7)


SPACES = ["acre_densenet", "acre_vgg_unet", "photo9_unet", "voc2007_transfer", "voc2012_models", "voc_unet"]


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("name", SPACES)
def test_shipped_spaces_sample_valid_trainings(name: str, smoke: bool) -> None:
    """Oracle: Optuna draws, TrainConfig accepts, and what is absent from a point governs nothing in the training: the
    sampled fields, `size` and the fixed ones apart, are exactly those that govern (momentum with sgd and so on)."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    experiment = load_experiment(name, smoke=smoke)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    # ImageNet weights make the fields below them worth searching, not possible: those govern without them, too.
    conditional = {"encoder", "momentum", "depth", "skip_connections", "lr_decay", "lr_gamma"} & set(
        experiment.space.names
    )
    drawn: set[str] = set()
    for number in range(200):
        point = experiment.space(study.ask())
        assert experiment.space.contains(point)
        config = experiment.train_config(point, seed=number)
        governing = config.governing()
        assert {field for field in conditional if field in point} == conditional & set(governing)
        expected = {**experiment.train, **point}
        without_effect = {"dropout_places", "class_weights", "decoder_width", "augmentation_strength"}
        assert {field: governing.get(field) for field in point if field not in without_effect} == {
            field: value for field, value in point.items() if field not in without_effect
        }
        assert config.seed == number
        assert str(config.size) == expected["size"]
        drawn |= set(point)
    assert drawn == set(experiment.space.names)


def test_shipped_encoders_exist() -> None:
    """Oracle: the table of segmentation-models-pytorch."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    for name in shipped_spaces():
        space = load_experiment(name).space
        choices = space["encoder"].to_document()["choice"] if "encoder" in space else []
        assert set(choices) - {"tu-resnetv2_101", "tu-resnetv2_152"} <= set(smp.encoders.encoders)


def test_shipped_spaces_are_complete() -> None:
    """Oracle: the reports: E's best point, A's fine-tuned share and learning rate, the colours of A and B."""
    assert set(shipped_spaces()) == set(SPACES)
    voc, acre = load_experiment("voc_unet"), load_experiment("acre_vgg_unet")
    best = {"architecture": "unet", "optimizer": "sgd", "lr": 1e-4, "schedule": "time_decay", "lr_decay": 1e-3}
    assert voc.try_first == ({**best, "loss": "cross_entropy", "class_weights": "inverse_frequency"},)
    assert acre.try_first[0]["finetune_fraction"] == 0.8
    assert acre.try_first[0]["lr"] == 1e-5
    assert acre.try_first[0]["encoder"] == "vgg16"
    colors = {color for item in acre.to_document()["data"]["classes"] for color in map(tuple, item["colors"])}
    assert colors == {(0, 0, 0), (254, 124, 18), (216, 124, 18), (255, 255, 255), (216, 67, 82)}
    assert acre.data.root is not None
    assert acre.data.root.is_absolute()


EVERY_WAY: list[tuple[str, dict[str, Any]]] = [
    ("voc_unet", {}),
    ("voc_unet", {"smoke": True}),
    ("acre_vgg_unet", {"smoke": True, "overrides": ["scheduler=none", "objective={metric: val_loss}"]}),
    ("voc_unet", {"overrides": ["train.optimizer=sgd", "scheduler.median.min_trials=2"], "data_root": Path("here")}),
]


@pytest.mark.parametrize(("name", "options"), EVERY_WAY)
def test_a_document_reads_back_exactly(name: str, options: dict[str, Any]) -> None:
    """Oracle: equality, after a trip through JSON, through YAML and through pickle."""
    experiment = load_experiment(name, **options)
    document = experiment.to_document()
    assert "smoke" not in document
    through_yaml = YAML(typ="safe", pure=True).load(experiment.to_yaml())
    assert through_yaml == document
    for copy in (document, json.loads(json.dumps(document)), through_yaml):
        assert Experiment.from_document(copy) == experiment
    assert pickle.loads(pickle.dumps(experiment)) == experiment


def test_a_document_is_a_valid_file(load: Any) -> None:
    experiment = load()
    assert load(experiment.to_yaml()) == experiment


def test_a_bad_document_is_told() -> None:
    with pytest.raises(InputError) as caught:
        Experiment.from_document({"name": "x", "parameters": {"lr": {"float": [2.0, 1.0]}}}, where="runs/x.yaml")
    message = "runs/x.yaml: parameters.lr.float: `low < high` must hold, but got low=2.0, high=1.0"
    assert str(caught.value) == message


def test_the_data_root_is_absolute(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert load(with_line(2, "data: {root: ~/voc}")).data.root == tmp_path / "home" / "voc"
    assert load(with_line(2, "data: {root: voc}")).to_document()["data"]["root"] == str(tmp_path / "voc")
    assert load(data_root=Path("other")).data.root == tmp_path / "other"


# --set ----------------------------------------------------------------------------------------------------------------


def test_set_changes_plain_sections(load: Any) -> None:
    changes = ["train.epochs=9", "train.grad_clip=null", "search={trials: 3}", "search.seed=4", "data.test=0.1"]
    experiment = load(overrides=[*changes, "name=other", "scheduler.asha.reduction=2"])
    assert experiment.train == {"epochs": 9, "grad_clip": None}
    assert experiment.search.model_dump() == {"trials": 3, "sampler": "tpe", "seed": 4}
    assert (experiment.name, experiment.data.test) == ("other", 0.1)
    assert experiment.scheduler == Asha(grace_epochs=4, reduction=2)


@pytest.mark.parametrize(
    ("override", "name", "expected"),
    [
        ("parameters.lr={float: [0.01, 0.1]}", "lr", {"float": [0.01, 0.1]}),
        ("parameters.lr.float=[0.01, 0.1]", "lr", {"float": [0.01, 0.1], "log": True}),
        ("parameters.lr={choice: [0.01]}", "lr", {"choice": [0.01]}),
        ("parameters.lr.choice=[0.01]", "lr", {"choice": [0.01]}),
        ("parameters.lr.log=false", "lr", {"float": [1e-4, 0.1]}),
        ("parameters.lr.log=null", "lr", {"float": [1e-4, 0.1]}),
        ("parameters.momentum={choice: [0.9]}", "momentum", {"choice": [0.9], "when": {"optimizer": ["sgd"]}}),
        ("parameters.momentum.when=null", "momentum", {"float": [0.8, 0.99]}),
        ("parameters.dropout={float: [0, 0.5]}", "dropout", {"float": [0.0, 0.5]}),
        ("parameters.epochs={int: [1, 4]}", "epochs", {"int": [1, 4]}),  # no longer fixed
    ],
)
def test_set_changes_a_parameter(load: Any, override: str, name: str, expected: dict[str, Any]) -> None:
    """Oracle: the rules of the module's docstring, applied by hand."""
    experiment = load(overrides=[override])
    assert experiment.space[name].to_document() == expected
    assert name not in experiment.train


def test_fixing_a_parent_makes_its_children_active_or_drops_them(load: Any) -> None:
    with_sgd, with_adam = load(overrides=["train.optimizer=sgd"]), load(overrides=["train.optimizer=adam"])
    assert with_sgd.space.names == ("architecture", "momentum", "lr")
    assert with_sgd.space["momentum"].when == {}
    assert with_sgd.try_first == ({"lr": 0.01},)  # what the point said is now fixed
    assert with_adam.space.names == ("architecture", "lr")
    assert with_adam.try_first == ()
    assert with_adam.skipped_points == ((0, "optimizer is fixed at adam"),)


def test_taking_a_parameter_out_leaves_its_default(load: Any) -> None:
    """Oracle: TrainConfig's default optimizer is adam, with which there is no momentum."""
    experiment = load(overrides=["parameters.optimizer=null"])
    assert experiment.space.names == ("architecture", "lr")
    assert experiment.skipped_points == ((0, "optimizer is fixed at adam"),)


def test_a_child_inherits_the_condition_of_a_fixed_parent() -> None:
    """Oracle: in voc_unet the fine-tuned share hangs on the weights, and those on the architecture."""
    experiment = load_experiment("voc_unet", overrides=["train.encoder_weights=imagenet"])
    encoder_nets = ("encoder_unet", "unetplusplus", "fpn", "pspnet", "deeplabv3plus")
    assert experiment.space["finetune_fraction"].when == {"architecture": encoder_nets}


def test_a_narrowing_forgets_what_is_no_longer_possible(load: Any) -> None:
    experiment = load_experiment("voc_unet", overrides=["parameters.architecture={choice: [unet, fpn]}"])
    assert experiment.space["encoder"].when == {"architecture": ("fpn",)}
    experiment = load(overrides=["parameters.optimizer.choice=[adam]"])
    assert experiment.space.names == ("architecture", "optimizer", "lr")
    assert experiment.skipped_points[0][0] == 0
    assert "must be one of adam, but got sgd" in experiment.skipped_points[0][1]


def test_overrides_apply_in_order(load: Any) -> None:
    changes = ["train.lr=0.5", "parameters.lr={float: [0.2, 0.3]}", "train.epochs=1", "train.epochs=2"]
    experiment = load(overrides=changes)
    assert experiment.train == {"epochs": 2}
    assert experiment.space.names[-1] == "lr"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epochs", "--set: must be PATH=VALUE"),
        ("=3", "--set: must be PATH=VALUE"),
        ("train..epochs=3", "--set: must be PATH=VALUE"),
        ("train.epochs=", "--set train.epochs: needs a value after ="),
        ("train.size=[", "--set train.size: no valid YAML"),
        ("train.size=&a 3", "--set train.size: YAML anchors are not used here"),
        ("trian.epochs=3", "--set trian.epochs: trian: unknown key (did you mean 'train'?)"),
        ("train.epoch=3", "--set train.epoch: is no field of TrainConfig (did you mean 'epochs'?)"),
        ("search.trails=3", "--set search.trails: unknown key (did you mean 'trials'?)"),
        ("train.dropout=1.5", "--set train.dropout: must be less than 1, but got 1.5"),
        ("parameters.lr.float=[1, 0.1]", "--set parameters.lr.float: `low < high` must hold"),
        ("parameters.lrr=null", "--set parameters.lrr: is no parameter of this space (did you mean 'lr'?)"),
        ("parameters.momentum.when={optimizer: sdg}", "--set parameters.momentum.when: parameters.momentum.when.opt"),
        ("data.layout.x=1", "--set data.layout.x: data.layout: must be a mapping to be changed in part"),
        ("smoke.train.epochs=1", "--set smoke.train.epochs: the smoke section itself cannot be changed"),
        ("try_first=[{lr: 3.0}]", "--set try_first: try_first.0.lr: must lie in float 0.0001 .. 0.1, log, but got 3.0"),
        (
            "parameters.architecture.choice=[fpn]",
            "--set parameters.architecture.choice: parameters.architecture: archit",
        ),
        ("parameters={}", "--set parameters: must be a mapping that names at least one"),
    ],
)
def test_a_bad_override_is_told(says: Any, override: str, expected: str) -> None:
    found = says(overrides=[override])
    assert same_beginnings(found, [expected]), found


# --smoke --------------------------------------------------------------------------------------------------------------


def test_smoke_applies_the_section_of_the_file() -> None:
    """Oracle: the smoke section of voc_unet.yaml, read by hand."""
    experiment = load_experiment("voc_unet", smoke=True)
    assert experiment.data == DataConfig(layout="sample")
    assert experiment.train == {"epochs": 4, "size": "64x64", "precision": "auto"}
    assert experiment.search.trials == 12
    assert experiment.scheduler == Asha(grace_epochs=1, reduction=2)
    assert experiment.space["architecture"].to_document() == {"choice": ["unet_small", "encoder_unet"]}
    encoder = {"choice": ["mobilenet_v2"], "when": {"architecture": ["encoder_unet"]}}
    assert experiment.space["encoder"].to_document() == encoder
    assert "finetune_fraction" not in experiment.space  # only with ImageNet weights
    ((index, reason),) = experiment.skipped_points
    assert index == 0
    assert reason == "architecture: must be one of unet_small | encoder_unet, but got unet"


def test_smoke_without_a_section_is_small_all_the_same(load: Any) -> None:
    experiment = load(with_line(3, "train: {epochs: 60, size: 512x512}\nsearch: {trials: 50}"), smoke=True)
    assert experiment.train == {"epochs": 4, "size": "64x64"}
    assert experiment.search.trials == 8
    assert experiment.try_first == ({"optimizer": "sgd", "lr": 0.01},)
    smaller = load(with_line(3, "train: {epochs: 2}\nsearch: {trials: 3}"), smoke=True)
    assert (smaller.train["epochs"], smaller.search.trials) == (2, 3)


@pytest.mark.parametrize(
    "line",
    [
        "  architecture: {choice: [fpn]}\n  encoder: {choice: [vgg16]}\n  encoder_weights: {choice: [imagenet, none]}",
        "  architecture: {choice: [fpn]}\n  encoder: {choice: [vgg16]}\n  encoder_weights: {choice: [imagenet]}\n"
        "  finetune_fraction: {float: [0, 1], when: {encoder_weights: imagenet}}",
    ],
)
def test_smoke_downloads_nothing(load: Any, line: str) -> None:
    experiment = load(with_line(5, line), smoke=True)
    assert experiment.space["encoder_weights"].to_document() == {"choice": ["none"]}
    assert "finetune_fraction" not in experiment.space
    fixed = load(with_line(3, "train: {encoder_weights: imagenet}"), smoke=True)
    assert fixed.train["encoder_weights"] == "none"


def test_smoke_fixes_searched_epochs_and_size(load: Any) -> None:
    content = with_line(3, "train: {}") + "smoke: {}\n"
    content = with_line(8, "  epochs: {int: [10, 90]}\n  size: {choice: [64x64, 512x512]}", content)
    content = with_line(11, "  - {optimizer: sgd, epochs: 20}", content)
    experiment = load(content, smoke=True)
    assert experiment.train == {"epochs": 4, "size": "64x64"}
    assert experiment.skipped_points == ((0, "epochs is fixed at 4"),)


def test_set_has_the_last_word_over_smoke() -> None:
    experiment = load_experiment("voc_unet", smoke=True, overrides=["search.trials=2", "train.epochs=1"])
    assert (experiment.search.trials, experiment.train["epochs"]) == (2, 1)


def test_smoke_brings_its_own_data(says: Any) -> None:
    assert same_beginnings(says(smoke=True, data_root=Path("x")), ["--data: a smoke run brings its own data"])


def test_a_bad_smoke_section_is_told_without_smoke_too(says: Any) -> None:
    assert same_beginnings(says(GOOD + "smoke:\n  train: {lr: 0}\n"), [":12: smoke.train.lr: must be greater than 0"])


# Schema ---------------------------------------------------------------------------------------------------------------


def plain(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


def test_the_schema_takes_the_shipped_files() -> None:
    """Oracle: jsonschema."""
    jsonschema.Draft202012Validator.check_schema(experiment_schema())
    for path in shipped_spaces().values():
        jsonschema.validate(plain(path), experiment_schema())


@pytest.mark.parametrize(
    ("line", "new"),
    [
        (1, "nam: tiny"),
        (2, "data: {layuot: voc}"),
        (3, "train: {epochs: 0}"),
        (3, "search: {sampler: tpee}"),
        (3, "scheduler: asha"),
        (8, "  learning_rate: {float: [0.1, 0.2]}"),
        (8, "  lr: {float: [0.1]}"),
        (8, "  lr: {float: [0.1, 0.2], choice: [0.1]}"),
        (10, "  - {learning_rate: 0.1}"),
    ],
)
def test_the_schema_refuses_a_bad_file(tmp_path: Path, line: int, new: str) -> None:
    """Oracle: jsonschema accepts the good file and refuses it with one line changed."""
    path = tmp_path / "space.yaml"
    path.write_text(GOOD)
    jsonschema.validate(plain(path), experiment_schema())
    path.write_text(with_line(line, new))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain(path), experiment_schema())


# -------------------------------------------------------------------------------------- sizes, crops and smoke together


def written(tmp_path: Path, train: str, parameters: str) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(f"name: a\ndata: {{layout: sample}}\ntrain: {train}\nparameters:\n  {parameters}\n")
    return path


def test_a_crop_of_pixels_shrinks_in_a_smoke_run(tmp_path: Path) -> None:
    """By hand: what is larger than 64x64, or under 16 pixels of it, becomes half; the file stays as it is."""
    path = written(tmp_path, "{size: 256x256, crop: 128x96}", "lr: {float: [1.0e-4, 1.0e-2]}")
    assert load_experiment(path).train["crop"] == "128x96"
    assert load_experiment(path, smoke=True).train["crop"] == 0.5
    crops = "crop: {choice: [null, 256x256, 48x48, 0.1, 0.5]}"
    path = written(tmp_path, "{size: 512x512}", f"lr: {{float: [1.0e-4, 1.0e-2]}}\n  {crops}")
    assert load_experiment(path).space["crop"].domain.representatives() == (None, "256x256", "48x48", 0.1, 0.5)
    assert load_experiment(path, smoke=True).space["crop"].domain.representatives() == (None, 0.5, "48x48")


@pytest.mark.parametrize("only", ["size: {choice: [128x128, 96x64]}", "epochs: {int: [2, 9]}"])
def test_a_space_of_only_what_a_smoke_run_fixes(tmp_path: Path, only: str) -> None:
    path = written(tmp_path, "{architecture: unet_small}", only)
    assert load_experiment(path).space.names == load_experiment(path, smoke=True).space.names == (only.split(":")[0],)


def test_class_weights_by_hand_are_not_for_the_sample(tmp_path: Path) -> None:
    path = written(tmp_path, "{class_weights: [1, 2, 3]}", "lr: {float: [1.0e-4, 1.0e-2]}")
    assert load_experiment(path, smoke=True).train["class_weights"] == "none"
    choice = "class_weights: {choice: ['1, 2, 3', none, area]}"
    path = written(tmp_path, "{epochs: 3}", choice)
    assert load_experiment(path, smoke=True).space["class_weights"].domain.representatives() == ("none", "area")


def test_rules_over_several_fields_are_all_checked_at_once() -> None:
    """Oracle: the fields that TrainConfig's rule reads, noted while it runs on many configurations."""
    read: set[str] = set()

    class Spy:
        def __init__(self, fields: dict[str, Any]) -> None:
            self.fields = fields

        def __getattr__(self, name: str) -> Any:
            value = getattr(TrainConfig, name, None)
            if isinstance(value, property):
                return value.fget(self)  # type: ignore[misc]
            read.add(name)
            return self.fields[name]

    for architecture in ARCHITECTURES:
        for more in ({}, {"crop": 0.5, "cropping": "five", "tiled_inference": True, "batch_norm": True}):
            fields = TrainConfig.model_validate({"encoder": "resnet18", **more}).__dict__
            with contextlib.suppress(ValueError):
                rule = TrainConfig.__pydantic_decorators__.model_validators["_fits_together"].func
                rule(Spy({**fields, "architecture": architecture}))
    assert read == set(FITTED_TOGETHER)


def test_an_impossible_combination_is_refused_before_the_search(tmp_path: Path) -> None:
    """A batch norm on one pixel: 2 ** 5 poolings of 32 pixels, in batches of one."""
    path = written(
        tmp_path,
        "{architecture: encoder_decoder, size: 32x32, batch_norm: true, batch_size: 1}",
        "depth: {int: [2, 5]}",
    )
    with pytest.raises(InputError, match="batch norm on features of one pixel at 32x32"):
        load_experiment(path)
    fields = "{architecture: encoder_unet, encoder: resnet18, encoder_depth: 3, size: 32x32, batch_size: 1}"
    assert load_experiment(written(tmp_path, fields, "lr: {float: [0.1, 0.2]}"))


@pytest.mark.parametrize(
    ("train", "parameters", "idle"),
    [
        ("{lr_decay: 0.1}", "lr: {float: [0.1, 0.2]}", ["lr_decay"]),
        ("{lr_decay: 0.1}", "schedule: {choice: [none, time_decay]}", []),
        ("{lr_decay: 0.1, schedule: time_decay}", "lr: {float: [0.1, 0.2]}", []),
        ("{hard_pixels: 0.3, loss: dice}", "lr: {float: [0.1, 0.2]}", ["hard_pixels"]),
        ("{hard_pixels: 0.3}", "loss: {choice: [dice, dice + hinge]}", []),
        ("{nesterov: true, encoder_depth: 4}", "optimizer: {choice: [adam, sgd]}", ["encoder_depth"]),
        ("{nesterov: true, momentum: 0.0}", "optimizer: {choice: [adam, sgd]}", ["nesterov"]),
        ("{nesterov: true, optimizer: sgd}", "momentum: {float: [0.0, 0.9]}", []),
        ("{tile_overlap: 0.5, early_stop_delta: 0.1}", "lr: {float: [0.1, 0.2]}", ["tile_overlap", "early_stop_delta"]),
        ("{tile_overlap: 0.5, crop: 0.5}", "tiled_inference: {choice: [false, true]}", []),
    ],
)
def test_fixed_fields_without_an_effect_are_named(tmp_path: Path, train: str, parameters: str, idle: list[str]) -> None:
    """By hand, from each field's own description."""
    assert load_experiment(written(tmp_path, train, parameters)).idle_fields() == idle


@pytest.mark.parametrize("name", SPACES)
def test_shipped_spaces_fix_nothing_in_vain(name: str) -> None:
    assert load_experiment(name).idle_fields() == []
