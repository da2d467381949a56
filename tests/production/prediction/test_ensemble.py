"""Ensembles. Oracles: means worked by hand and by torch; scikit-learn's logistic regression for the meta-learner."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import tunesearch
from tunesearch.errors import InputError, WeightsError
from tunesearch.production.evaluation.evaluate import evaluate
from tunesearch.production.model import Model
from tunesearch.production.prediction.ensemble import fit_stack
from tunesearch.production.prediction.predictor import Predictor
from tunesearch.production.prediction.stack import Stack
from tunesearch.segmentation.config import DataConfig
from tunesearch.segmentation.data.layouts import Pair

Make = Callable[..., Model]
RNG = np.random.default_rng(0)
DATA = DataConfig(layout="folders", classes=3)
CLASSES = ("a", "b", "c")


class Channels(nn.Module):
    """Logits from the grey levels of the three channels, in an order of one's own."""

    def __init__(self, order: tuple[int, int, int], sharpness: float = 0.01) -> None:
        super().__init__()
        self.order, self.sharpness = list(order), sharpness

    def forward(self, images: Tensor) -> Tensor:
        return images[:, self.order].float() * self.sharpness


def _pairs(folder: Path, count: int = 3) -> list[Pair]:
    """Noise whose class is its brightest channel, but for a fifth of the pixels; with some void."""
    pairs = []
    for number in range(count):
        image = RNG.integers(0, 256, (32, 48, 3), np.uint8)
        mask = image.argmax(axis=2).astype(np.uint8)
        mask[RNG.random(mask.shape) < 0.2] = number % 3
        mask[:3] = 255
        for kind, array in (("images", image), ("masks", mask)):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(array).save(folder / kind / f"p{number}.png")
        pairs.append(Pair(f"p{number}", folder / "images" / f"p{number}.png", folder / "masks" / f"p{number}.png"))
    return pairs


def _mask(predictor: Predictor, image: np.ndarray) -> np.ndarray:
    return next(predictor.masks([predictor.prepare(image)]))


@pytest.mark.parametrize("scale", [None, 1.0])
def test_the_mean_of_probabilities(bright: Make, scale: float | None) -> None:
    """Three networks at their own sizes, of which the picture has one: the mean of softmax, not of logits or votes."""
    image = RNG.integers(0, 256, (32, 48, 3), np.uint8)
    networks = [Channels((0, 1, 2), 0.02), Channels((1, 0, 2), 0.05), Channels((2, 1, 0), 0.001)]
    models = [bright(str(n), network=network, classes=CLASSES) for n, network in enumerate(networks)]
    batch = torch.from_numpy(image).permute(2, 0, 1)[None]
    mean = torch.stack([network(batch)[0].softmax(dim=0) for network in networks]).mean(dim=0)
    assert np.array_equal(_mask(Predictor(models, scale=scale), image), mean.argmax(dim=0).numpy())


def test_networks_of_different_sizes_meet_at_the_pictures(bright: Make) -> None:
    image = np.repeat(RNG.integers(0, 2, (6, 8, 1), np.uint8).repeat(16, axis=0).repeat(16, axis=1) * 255, 3, axis=2)
    sizes = ("128x96", "256x192", "64x48")
    models = [bright(size, size=size) for size in sizes]
    mask = _mask(Predictor(models), image)
    assert mask.shape == (96, 128)
    inside = np.s_[4::16, 4::16]  # away from the edges of the squares
    assert np.array_equal(mask[inside], (image[:, :, 0] > 127)[inside])


def test_classes_that_differ_are_named(bright: Make) -> None:
    one = bright("one", classes=CLASSES)
    with pytest.raises(InputError, match="two: models that work together need the same classes: one has 3, but got 2"):
        Predictor([one, bright("two")])
    with pytest.raises(InputError, match=r"three: .* class 1 of one is 'b', but got 'x'"):
        Predictor([one, one, bright("three", classes=("a", "x", "y"))])


def test_the_fit_is_that_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two classes the log odds are the sum over models of w (log p1 - log p0): a logistic regression."""
    sklearn = pytest.importorskip("sklearn.linear_model")
    from tunesearch.production.prediction import ensemble

    monkeypatch.setattr(ensemble, "_PULL", 0.0)
    features = torch.randn(2, 2, 4000, generator=torch.Generator().manual_seed(0)).log_softmax(dim=1)
    columns = (features[:, 1] - features[:, 0]).T
    odds = columns @ torch.tensor([1.7, -0.6])
    truth = (torch.rand(4000, generator=torch.Generator().manual_seed(1)) < odds.sigmoid()).long()
    found = ensemble._fitted(Stack.start(("x", "y")), features, truth)
    oracle = sklearn.LogisticRegression(C=1e8, tol=1e-10, max_iter=5000, fit_intercept=False)
    oracle.fit(columns.numpy(), truth.numpy())
    assert found.weight.tolist() == pytest.approx(oracle.coef_[0].tolist(), abs=0.01)


def test_a_good_model_counts_more_than_a_blind_one(bright: Make, tmp_path: Path) -> None:
    """The blind one is sure and wrong: the mean suffers, the stack finds out which to believe."""
    pairs = _pairs(tmp_path)
    good = bright("good", network=Channels((0, 1, 2)), classes=CLASSES)
    blind = bright("blind", network=Channels((1, 2, 0), 0.1), classes=CLASSES)
    stack = fit_stack([good, blind], pairs, DATA)
    assert stack.weight.shape == (2,)
    assert stack.weight[0] > 5 * stack.weight[1].abs()
    assert stack.content["cross_entropy"]["fitted"] < stack.content["cross_entropy"]["equal_weights"]
    assert stack.content["pixels"] == 3 * 29 * 48
    alone, mean, stacked = (
        evaluate(models, pairs, DATA, stack=one).scores.miou
        for models, one in ((good, None), ([good, blind], None), ([good, blind], stack))
    )
    assert mean < stacked - 0.01
    assert stacked > alone - 0.03
    again = fit_stack([good, blind], pairs, DATA)
    assert torch.equal(again.weight, stack.weight)


def test_a_stack_is_for_its_models_in_any_order(bright: Make, tmp_path: Path) -> None:
    pairs = _pairs(tmp_path, 2)
    good = bright("good", network=Channels((0, 1, 2)), classes=CLASSES)
    blind = bright("blind", network=Channels((1, 2, 0), 0.1), classes=CLASSES)
    stack = fit_stack([good, blind], pairs, DATA)
    stack.save(tmp_path / "stack")
    loaded = Stack.load(tmp_path / "stack")
    assert torch.equal(loaded.weight, stack.weight)
    assert {path.name for path in (tmp_path / "stack").iterdir()} == {"stack.json", "stack.safetensors"}
    assert json.loads((tmp_path / "stack" / "stack.json").read_text())["models"] == ["good", "blind"]
    image = np.asarray(Image.open(pairs[0].image))
    masks = [_mask(Predictor(models, stack=loaded), image) for models in ([good, blind], [blind, good])]
    assert np.array_equal(*masks)
    for models in ([good], [good, good], [good, blind, good]):
        with pytest.raises(
            InputError, match="--stack: must be used with the models that it was fitted to: good, blind"
        ):
            Predictor(models, stack=loaded)


def test_damaged_stacks(bright: Make, tmp_path: Path) -> None:
    Stack.start(("x", "y")).save(tmp_path / "stack")
    meta, weights = tmp_path / "stack" / "stack.json", tmp_path / "stack" / "stack.safetensors"
    whole = meta.read_text()
    assert Stack.load(meta).fingerprints == ("x", "y")  # the file's path will do
    for text in ("", "[]", "{}", "{", "null", whole.replace("fingerprints", "finger")):
        meta.write_text(text)
        with pytest.raises(InputError, match=r"stack\.json: must be what tunesearch ensemble has written"):
            Stack.load(tmp_path / "stack")
    meta.write_text(whole.replace('"format": 1', '"format": 9'))
    with pytest.raises(InputError, match="must be of format 1"):
        Stack.load(tmp_path / "stack")
    meta.write_text(whole)
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"stack\.safetensors: must be the file that was written with stack\.json"):
        Stack.load(tmp_path / "stack")
    weights.unlink()
    with pytest.raises(WeightsError):
        Stack.load(tmp_path / "stack")


def test_nothing_to_fit_to(bright: Make, tmp_path: Path) -> None:
    pairs, models = _pairs(tmp_path, 1), [bright(name, classes=CLASSES) for name in "xy"]
    with pytest.raises(InputError, match="needs at least two models, but got 1"):
        fit_stack(models[:1], pairs, DATA)
    Image.new("L", (48, 32), 255).save(pairs[0].mask)
    with pytest.raises(InputError, match="must have pixels that count"):
        fit_stack(models, pairs, DATA)


# ----------------------------------------------------------------------------------------------------- the command line


def test_the_commands(searched: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]) -> None:
    """Two times the same network, which changes nothing but for pixels where two classes are all but equal."""
    folder, stack = tmp_path / "folder", tmp_path / "stack"
    tunesearch.export("a", folder, storage=searched)
    where = ("--storage", searched)
    code, out, err = run_cli("ensemble", "a", folder, "-o", stack, *where)
    assert (code, err) == (0, "")
    assert out.startswith("a/0: weight ")
    assert "on 18 validation images" in out
    code, out, err = run_cli("evaluate", "a", folder, "--stack", stack, "--json", *where)
    assert code == 0
    assert err == "note: the stack was fitted on the validation part, so these scores are optimistic\n"
    assert json.loads(out)["models"] == ["a/0", str(folder)]
    one, two = (json.loads(run_cli("evaluate", *m, "--json", *where)[1]) for m in (["a"], ["a", folder]))
    assert (
        np.abs(np.subtract(one["confusion_matrix"], two["confusion_matrix"])).sum() < 1e-3 * one["classes"][0]["pixels"]
    )

    code, _, err = run_cli("ensemble", "a", "-o", tmp_path / "new", *where)
    assert (code, err) == (2, "error: ensemble: needs at least two models, but got 1\n")
    code, _, err = run_cli("ensemble", "a", "b", "c", "-o", tmp_path / "new", *where)
    assert code == 2
    assert "2 problems" in err
    assert not (tmp_path / "new").exists()
