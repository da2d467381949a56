"""The trainer. Oracles: an uninterrupted training, a plain loop of torch, sums over the whole set, torchmetrics."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex

from tunesearch.segmentation.config import Size, TrainConfig
from tunesearch.segmentation.data.cache import DecodedPart, OriginalMasks
from tunesearch.segmentation.device import pick_device, pick_precision
from tunesearch.segmentation.epoch import EpochMetrics
from tunesearch.segmentation.inference import window_logits
from tunesearch.segmentation.metrics import ConfusionMatrix, scores
from tunesearch.segmentation.trainer import Trainer

OWN = '''
import torch
from torch import nn

def tiny(config, classes):
    """No batch norm: every image is on its own, and a batch is the sum of its parts."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Dropout2d(config.dropout), nn.Conv2d(8, classes, 3, padding=1)
    )

class Tied(nn.Module):
    """Two layers that share their weight."""
    def __init__(self, classes):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.second.weight = self.first.weight
        self.last = nn.Conv2d(3, classes, 1)
    def forward(self, x):
        return self.last(self.second(self.first(x).relu()).relu())

def tied(config, classes):
    return Tied(classes)

def nan_loss(config, ignore_index, class_weights):
    return lambda logits, masks: logits.sum() * float("nan")

def nan_in_validation(config, ignore_index, class_weights):
    def loss(logits, masks):
        return logits.float().square().mean() if torch.is_grad_enabled() else logits.sum() * float("nan")
    return loss

def mean_square(config, ignore_index, class_weights):
    return lambda logits, masks: logits.float().square().mean()
'''


@pytest.fixture(autouse=True)
def own_module(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Networks and losses of the user's own; one thread, because threads that wait make tiny networks slow."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_of_test_trainer.py").write_text(OWN)
    monkeypatch.syspath_prepend(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def scenes(count: int, *, seed: int = 0, void: bool = True) -> DecodedPart:
    """Noisy grey ground (0), a red (1) and a blue (2) rectangle; void around some, more of it in later images."""
    rng = np.random.default_rng(seed)
    images = rng.normal(120, 25, (count, 32, 32, 3))
    masks = np.zeros((count, 32, 32), np.uint8)
    for number in range(count):
        for label, channel in ((1, 0), (2, 2)):
            top, left = rng.integers(0, 18, 2)
            area = slice(top, top + 14), slice(left, left + 14)
            images[number][area] = rng.normal(60, 20, (14, 14, 3))
            images[number][(*area, channel)] += 140
            masks[number][area] = label
        if void:
            masks[number, : 1 + 28 * number // count] = 255
    return DecodedPart(images.clip(0, 255).astype(np.uint8), masks, tuple(map(str, range(count))))


def config(**fields: Any) -> TrainConfig:
    base = {
        "architecture": "own_of_test_trainer:tiny",
        "lr": 1e-2,
        "batch_size": 8,
        "size": "32x32",
        "epochs": 2,
        "augmentation_strength": 0.0,
        "precision": "float32",
    }
    return TrainConfig.model_validate({**base, **fields})


REALISTIC = {
    "architecture": "encoder_unet",
    "encoder": "mobilenet_v2",
    "finetune_fraction": 0.7,
    "dropout": 0.3,
    "augmentation_strength": 0.8,
    "optimizer": "adam",
    "schedule": "cosine",
    "grad_clip": 1.0,
    "class_weights": "inverse_frequency",
    "micro_batch": 4,
    "ema_decay": 0.6,
    "epochs": 4,
    "seed": 5,
}
"""Everything that has a state or draws random numbers."""


def build(folder: Path | None = None, *, train: int = 16, val: int = 5, **fields: Any) -> Trainer:
    more = {name: fields.pop(name) for name in ("watch", "workers", "background") if name in fields}
    return Trainer(
        config(**fields),
        train=scenes(train),
        val=scenes(val, seed=1),
        classes=3,
        folder=folder,
        device="cpu",
        **more,
    )


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], **tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], **(tolerance or {"rtol": 0, "atol": 0}), msg=name)


def timeless(metrics: EpochMetrics) -> EpochMetrics:
    return replace(metrics, train_seconds=0, val_seconds=0, images_per_second=0, finished_at=0)


def out_of_memory_above(trainer: Trainer, most: int, *, mode: str = "always") -> list[int]:
    """Let the network refuse batches above ``most`` images as a full GPU would; gives the sizes that it was fed."""
    sizes: list[int] = []

    def refuse(module: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        sizes.append(len(inputs[0]))
        if len(inputs[0]) > most and mode in ("always", "train" if module.training else "eval"):
            raise torch.OutOfMemoryError("simulated")

    trainer.model.register_forward_pre_hook(refuse)
    return sizes


# ----------------------------------------------------------------------------------------------------------- it learns


def test_it_learns_what_can_be_learned() -> None:
    """Rectangles by colour. Chance: all background is an IoU of about 0.65 there and 0 elsewhere, a mean of 0.22."""
    trainer = build(epochs=12, lr=3e-2)
    history = list(trainer.epochs())
    assert trainer.outcome == "completed"
    assert [metrics.epoch for metrics in history] == list(range(1, 13))
    assert history[-1].train_loss < 0.3 * history[0].train_loss
    assert history[-1].val_loss < 0.5 * history[0].val_loss
    assert history[-1].val_miou > 0.7
    assert history[-1].val_miou_no_background > 0.6
    assert trainer.best is not None
    assert trainer.best.val_miou == max(metrics.val_miou for metrics in history)
    assert history[-1].updates == 12 * 2
    assert all(metrics.images_per_second * metrics.train_seconds == pytest.approx(16) for metrics in history)


@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_validation_is_over_the_whole_set(loss: str) -> None:
    """Oracles: F.cross_entropy over all images at once (focal with gamma 0 is the same); torchmetrics. The last batch
    is smaller than the others, and void is spread unevenly, so a mean over batches would be another number."""
    trainer = build(val=11, batch_size=4, epochs=1, loss=loss, focal_gamma=0.0)
    (metrics,) = trainer.epochs()
    val = scenes(11, seed=1)
    images, masks = torch.from_numpy(val.images).permute(0, 3, 1, 2), torch.from_numpy(val.masks).long()
    with torch.no_grad():
        logits = trainer.model.eval()(images)
    assert metrics.val_loss == pytest.approx(F.cross_entropy(logits, masks, ignore_index=255).item(), rel=1e-5)
    iou = MulticlassJaccardIndex(3, average=None, ignore_index=255)(logits.argmax(1), masks)
    assert metrics.val_iou == pytest.approx(iou.tolist(), abs=1e-6)
    assert metrics.val_miou == pytest.approx(iou.mean().item(), abs=1e-6)
    assert metrics.val_miou_no_background == pytest.approx(iou[1:].mean().item(), abs=1e-6)
    counts = masks != 255
    right = (logits.argmax(1) == masks)[counts].float().mean().item()
    assert metrics.val_pixel_accuracy == pytest.approx(right, abs=1e-6)


def test_training_loss_is_weighted_by_what_counts() -> None:
    """With a learning rate of next to nothing, the mean over the epoch is that over the whole set at once."""
    trainer = build(train=14, batch_size=4, micro_batch=3, epochs=1, lr=1e-12, optimizer="sgd")
    (metrics,) = trainer.epochs()
    part = scenes(14)
    images, masks = torch.from_numpy(part.images).permute(0, 3, 1, 2), torch.from_numpy(part.masks).long()
    with torch.no_grad():
        expected = F.cross_entropy(trainer.model(images), masks, ignore_index=255).item()
    assert metrics.train_loss == pytest.approx(expected, rel=1e-5)


def test_metrics_survive_json() -> None:
    (metrics,) = build(epochs=1).epochs()
    assert EpochMetrics.from_dict(json.loads(json.dumps(asdict(metrics)))) == metrics
    assert set(metrics.numbers()) == set(asdict(metrics)) - {"epoch", "val_iou", "finished_at", "folds"}


def test_same_seed_same_numbers() -> None:
    one, two, other = ([timeless(m) for m in build(epochs=2, dropout=0.5, seed=seed).epochs()] for seed in (1, 1, 2))
    assert one == two
    assert one != other


def test_workers_change_nothing() -> None:
    fields: dict[str, Any] = {"augmentation_strength": 1.0, "epochs": 1, "dropout": 0.2}
    (here,) = build(**fields).epochs()
    trainer = build(workers=1, **fields)
    (there,) = trainer.epochs()
    trainer.close()
    assert timeless(here) == timeless(there)


def test_watched_predictions_are_those_of_the_best_epoch() -> None:
    """Oracle: the best weights, run by hand on the same images."""
    trainer = build(epochs=3, batch_size=2, watch=(4, 1))
    list(trainer.epochs())
    trainer.load_best()
    images = torch.from_numpy(scenes(5, seed=1).images[[4, 1]]).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = trainer.model.eval()(images).argmax(1)
    assert trainer.best_predictions is not None
    assert trainer.best_predictions.dtype == np.uint8
    assert np.array_equal(trainer.best_predictions, expected.numpy())


# -------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_interrupted_and_resumed_is_exactly_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Oracle: the same training in one go. The other one dies in the middle of epoch 3 and goes on in a new Trainer."""
    fields = {**REALISTIC, "precision": precision}
    if precision == "float16":  # which CPUs are slow at
        fields["architecture"] = "own_of_test_trainer:tiny"
    whole = build(tmp_path / "whole", **fields)
    expected = [timeless(metrics) for metrics in whole.epochs()]
    assert len(expected) == 4

    first = build(tmp_path / "broken", **fields)
    update, count = first._update, itertools.count(1)

    def dying(*batch: Tensor) -> Any:
        if next(count) > 2 * 2 + 1:
            raise KeyboardInterrupt
        return update(*batch)

    monkeypatch.setattr(first, "_update", dying)
    found = []
    with pytest.raises(KeyboardInterrupt):
        found.extend(timeless(metrics) for metrics in first.epochs())
    torch.rand(100)  # another process draws other numbers
    second = build(tmp_path / "broken", **fields)
    assert second.resumed is not None
    assert timeless(second.resumed) == expected[1]
    assert (second.epoch, second.updates, second.outcome) == (2, 4, None)
    assert second.best is not None
    assert timeless(second.best) == max(expected[:2], key=lambda metrics: metrics.val_miou)
    resumed = [timeless(metrics) for metrics in second.epochs()]
    assert [*expected[:2], *resumed] == expected
    assert second.outcome == "completed"
    assert_same(weights(whole), weights(second))
    whole.load_best()
    second.load_best()
    assert_same(weights(whole), weights(second))


def test_a_finished_training_is_reported_and_not_trained_again(tmp_path: Path) -> None:
    first = build(tmp_path)
    history = list(first.epochs())
    stamp = (tmp_path / "last.pt").stat().st_mtime_ns
    second = build(tmp_path)
    assert second.resumed == history[-1]
    assert second.outcome == "completed"
    assert list(second.epochs()) == []
    assert second.updates == first.updates
    assert (tmp_path / "last.pt").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("damage", ["empty", "half", "flipped", "text"])
def test_a_corrupt_checkpoint_starts_anew(tmp_path: Path, damage: str) -> None:
    """Oracle: the same training in an empty folder."""
    expected = [timeless(metrics) for metrics in build(tmp_path).epochs()]
    last = tmp_path / "last.pt"
    content = bytearray(last.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 400):  # a single byte may lie in the zip's padding
        content[place] ^= 16
    damaged = {"empty": b"", "half": content[: len(content) // 2], "flipped": content, "text": b"lost and found"}
    last.write_bytes(bytes(damaged[damage]))
    trainer = build(tmp_path)
    assert (trainer.resumed, trainer.epoch, trainer.best) == (None, 0, None)
    assert [timeless(metrics) for metrics in trainer.epochs()] == expected


def test_the_checkpoint_is_on_disk_before_the_metrics_are_given(tmp_path: Path) -> None:
    for metrics in build(tmp_path, epochs=2).epochs():
        assert build(tmp_path, epochs=2).resumed == metrics


def test_a_crash_while_saving_leaves_the_last_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = build(tmp_path, epochs=3)
    epochs = trainer.epochs()
    first = next(epochs)
    save = torch.save

    def dying(state: Any, path: Path) -> None:
        save(state, path)
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", dying)
        with pytest.raises(OSError, match="no space left"):
            next(epochs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "last.pt"]
    assert build(tmp_path, epochs=3).resumed == first


# -------------------------------------------------------------------------------------------------------- best weights


@pytest.mark.parametrize("kept", ["in memory", "on disk", "on disk, resumed"])
@pytest.mark.parametrize("network", ["tiny", "tied"])
def test_load_best_gives_the_best_epoch_back(tmp_path: Path, kept: str, network: str) -> None:
    """The weights are wiped out before the last epoch: validation then is worse, and with the best ones as good as it
    was, to the last bit."""
    folder = None if kept == "in memory" else tmp_path
    fields: dict[str, Any] = {"architecture": f"own_of_test_trainer:{network}", "optimizer": "adam", "lr": 0.03}
    fields.update(epochs=6, batch_size=2)
    trainer = build(folder, **fields)
    for metrics in trainer.epochs():
        if trainer.best is metrics:
            kept_weights = weights(trainer)
        if metrics.epoch == 5:
            trainer.optimizer.defaults["lr"] = 0.0
            with torch.no_grad():
                for parameter in trainer.model.parameters():
                    parameter.zero_()
    best = trainer.best
    assert best is not None
    assert best.epoch < 6
    assert metrics.val_miou < best.val_miou
    if kept == "on disk, resumed":
        trainer = build(folder, **fields)
    trainer.load_best()
    assert scores(trainer._validate()[1], background=0).miou == best.val_miou
    assert_same(weights(trainer), kept_weights, rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------------------ named outcomes


@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer": "sgd", "lr": 100.0, "momentum": 0.99, "epochs": 30},
        {"loss": "own_of_test_trainer:nan_loss"},
        {"loss": "own_of_test_trainer:nan_in_validation"},
    ],
)
def test_a_loss_that_is_no_number_is_an_outcome(tmp_path: Path, fields: dict[str, Any]) -> None:
    trainer = build(tmp_path, **{"epochs": 3, **fields})
    history = list(trainer.epochs())
    assert trainer.outcome == "diverged"
    assert len(history) < trainer.config.epochs
    assert all(math.isfinite(metrics.train_loss) and math.isfinite(metrics.val_loss) for metrics in history)
    assert (tmp_path / "last.pt").exists() == bool(history)  # no checkpoint of a diverged epoch


@pytest.mark.parametrize("mode", ["always", "train", "eval"])
def test_out_of_memory_halves_the_micro_batch(tmp_path: Path, mode: str) -> None:
    """Oracle: the same training with memory enough, since this network takes every image on its own."""
    plenty = build(epochs=2, optimizer="sgd", lr=0.1)
    expected = list(plenty.epochs())
    trainer = build(tmp_path, epochs=2, optimizer="sgd", lr=0.1)
    sizes = out_of_memory_above(trainer, 2, mode=mode)
    assert trainer.micro_batch == 8
    found = list(trainer.epochs())
    assert trainer.outcome == "completed"
    assert trainer.micro_batch == 2
    assert [metrics.updates for metrics in found] == [2, 4]  # two batches of 8 an epoch, as before
    refused = [size for size in sizes if size > 2]
    assert refused == {"always": [8, 4], "train": [8, 4], "eval": [8, 8, 5, 3]}[mode]  # 5 images by 4 are 3 and 2
    assert_same(weights(trainer), weights(plenty), rtol=1e-4, atol=1e-6)
    for one, other in zip(found, expected, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        assert one.val_loss == pytest.approx(other.val_loss, rel=1e-4)
    again = build(tmp_path, epochs=2, optimizer="sgd", lr=0.1)
    assert again.micro_batch == 2  # remembered
    assert again.effective()["micro_batch"] == 2
    assert again.effective()["batch_size"] == 8


@pytest.mark.parametrize("mode", ["always", "eval"])
def test_out_of_memory_at_the_floor_is_an_outcome(tmp_path: Path, mode: str) -> None:
    trainer = build(tmp_path)
    sizes = out_of_memory_above(trainer, 0, mode=mode)
    assert list(trainer.epochs()) == []
    assert trainer.outcome == "out_of_memory"
    if mode == "always":
        assert sizes == [8, 4, 2, 1]
        assert trainer.updates == 0
    assert not (tmp_path / "last.pt").exists()


@pytest.mark.parametrize("architecture", ["upernet", "deeplabv3plus"])
def test_pooled_batch_norm_never_sees_a_single_image(architecture: str) -> None:
    """torch refuses one value per channel in training, and 9 images in parts of 2 would leave one over: 3, 2, 2, 2."""
    fields = {"architecture": architecture, "encoder": "mobilenet_v2", "epochs": 1}
    trainer = build(train=18, batch_size=9, micro_batch=2, **fields)
    sizes: list[int] = []
    trainer.model.register_forward_pre_hook(lambda model, inputs: sizes.append(len(inputs[0])))
    (metrics,) = trainer.epochs()
    assert metrics.updates == 2
    assert sizes == [3, 2, 2, 2, 3, 2, 2, 2, 3, 2]  # two updates, and 5 images of validation


@pytest.mark.parametrize("architecture", ["upernet", "deeplabv3plus"])
def test_the_floor_of_pooled_batch_norm_is_two_images(architecture: str) -> None:
    trainer = build(architecture=architecture, encoder="mobilenet_v2")
    sizes = out_of_memory_above(trainer, 1)
    assert list(trainer.epochs()) == []
    assert trainer.outcome == "out_of_memory"
    assert sizes == [8, 4, 2]


def test_micro_batches_are_as_equal_as_can_be() -> None:
    """By hand: 8 in parts of at most 3 are 3, 3, 2, and 7 are 3, 2, 2, not 3, 3, 1."""
    trainer = build(micro_batch=3)
    assert [len(part) for part in trainer.micro_batches.split(torch.zeros(8, 1))] == [3, 3, 2]
    assert [len(part) for part in trainer.micro_batches.split(torch.zeros(7, 1))] == [3, 2, 2]
    assert [len(part) for part in trainer.micro_batches.split(torch.zeros(1, 1))] == [1]


# --------------------------------------------------------------------------------------------------- the update itself


@pytest.mark.parametrize("micro_batch", [1, 3, 4])
@pytest.mark.parametrize(
    "fields",
    [
        {"loss": "cross_entropy", "class_weights": "inverse_frequency"},
        {"loss": "focal", "class_weights": "inverse_frequency", "grad_clip": 0.05},
        {"loss": "own_of_test_trainer:mean_square"},
    ],
)
def test_accumulated_gradients_are_those_of_the_whole_batch(micro_batch: int, fields: dict[str, Any]) -> None:
    """Oracle: the same training in whole batches. Void is spread unevenly over the images."""
    fields = {**fields, "optimizer": "sgd", "lr": 0.05}
    whole, parts = build(**fields), build(**fields, micro_batch=micro_batch)
    for one, other in zip(whole.epochs(), parts.epochs(), strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)
    assert_same(weights(whole), weights(parts), rtol=1e-4, atol=1e-6)


def test_an_epoch_by_hand() -> None:
    """Oracle: a plain loop of torch alone over the same batches: Adam, cosine, clipping."""
    trainer = build(epochs=1, train=12, batch_size=4, schedule="cosine", grad_clip=0.2, weight_decay=0.01)
    start, network = weights(trainer), trainer.model
    batches = [(images.clone(), masks.long()) for images, masks in trainer.train_batches.epoch(1)]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)
    for images, masks in batches:
        loss = F.cross_entropy(network.train()(images), masks, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.2)
        optimizer.step()
        schedule.step()
    by_hand = weights(trainer)
    network.load_state_dict(start)
    network.zero_grad()
    list(trainer.epochs())
    assert_same(weights(trainer), by_hand, rtol=1e-4, atol=1e-6)


def watch_steps(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, look: Callable[[Trainer], float]) -> list[float]:
    """What ``look`` sees at the moment of every optimiser update."""
    seen: list[float] = []
    step = trainer.optimizer.step

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append(look(trainer))
        return step(*args, **kwargs)

    monkeypatch.setattr(trainer.optimizer, "step", watched)
    return seen


@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize(
    ("fields", "factor"),
    [
        ({"schedule": "none"}, lambda t: 1.0),
        ({"schedule": "time_decay", "lr_decay": 0.5}, lambda t: 1 / (1 + 0.5 * t)),
        ({"schedule": "cosine"}, lambda t: (1 + math.cos(math.pi * t / 6)) / 2),  # 3 epochs of 2 updates
    ],
)
def test_learning_rate_of_every_update(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], factor: Callable[[int], float], micro_batch: int | None
) -> None:
    """Oracle: the formula. t counts updates, not micro-batches, and goes on over the epochs."""
    trainer = build(epochs=3, micro_batch=micro_batch, lr=0.02, **fields)
    seen = watch_steps(trainer, monkeypatch, lambda trainer: trainer.optimizer.param_groups[-1]["lr"])
    history = list(trainer.epochs())
    assert seen == pytest.approx([0.02 * factor(t) for t in range(6)])
    assert [metrics.lr for metrics in history] == pytest.approx([seen[1], seen[3], seen[5]])
    told = trainer.effective()
    assert (told["lr_first"], told["lr_last"]) == pytest.approx((seen[0], seen[-1]))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_gradient_clipping_bounds_the_norm(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """Oracle: the norm over all gradients at the moment of the update, unscaled in float16 too."""

    def norm(trainer: Trainer) -> float:
        gradients = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
        return torch.cat(gradients).norm().item()

    free, clipped = (build(optimizer="sgd", precision=precision, grad_clip=clip) for clip in (None, 0.01))
    before, after = (watch_steps(trainer, monkeypatch, norm) for trainer in (free, clipped))
    list(free.epochs())
    list(clipped.epochs())
    assert min(before) > 0.02
    assert after == pytest.approx([0.01] * len(after), rel=1e-3)


# --------------------------------------------------------------------------------------------------- device, precision


def test_device_and_precision_are_picked(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: auto is CUDA's if there is one; bfloat16 where it is fast, float16 on older GPUs, else float32."""
    assert pick_device("cpu").type == "cpu"
    assert pick_precision(config(precision="float16"), torch.device("cpu")) is torch.float16
    auto = config(precision="auto")
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported, **_: supported)
        assert pick_precision(auto, torch.device("cuda")) is dtype
    assert pick_precision(auto, torch.device("cpu")) in (torch.bfloat16, torch.float32)
    assert pick_precision(auto, torch.device("mps")) is torch.float32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device().type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device().type == "mps"


def test_float16_is_scaled_and_learns(tmp_path: Path) -> None:
    """The scaler's state is part of the checkpoint."""
    trainer = build(tmp_path, precision="float16", epochs=4, lr=3e-2)
    assert trainer.scaler.is_enabled()
    history = list(trainer.epochs())
    assert history[-1].train_loss < history[0].train_loss
    again = build(tmp_path, precision="float16", epochs=4, lr=3e-2)
    assert again.scaler.state_dict() == trainer.scaler.state_dict()
    assert not build(precision="bfloat16").scaler.is_enabled()


# ---------------------------------------------------------------------------------------------------- what was applied


@pytest.mark.parametrize("fields", [{}, REALISTIC, {"architecture": "unet_small", "loss": "focal"}])
def test_effective_is_plain_data(fields: dict[str, Any]) -> None:
    """It is written as JSON, and read back the same."""
    told = build(**fields).effective()
    assert json.loads(json.dumps(told, allow_nan=False)) == json.loads(json.dumps(told))
    assert told["train_images"] == 16
    assert told["val_images"] == 5
    assert told["device"] == "cpu"


def test_effective_is_read_from_the_objects() -> None:
    """Oracle: the objects are changed behind the configuration's back, and effective() tells it."""
    trainer = build(**{**REALISTIC, "loss": "focal", "weight_decay": 0.1})
    before = trainer.effective()
    trainer.optimizer.defaults["lr"] = 0.5
    trainer.optimizer.param_groups[0]["weight_decay"] = 0.3
    trainer.grad_clip = 7.0
    trainer.loss.gamma = 9.0
    trainer.loss.weight[0] = 42.0
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.9
    next(trainer.model.network.decoder.parameters()).requires_grad_(False)
    after = trainer.effective()
    assert after["lr_first"] == 0.5
    assert after["optimizer_groups"][0]["weight_decay"] == 0.3
    (term,) = after["loss"]
    assert (after["grad_clip"], term["gamma"], term["class_weights"][0]) == (7.0, 9.0, 42.0)
    assert after["dropout"] == [0.9]
    assert after["trained_parameters"] < before["trained_parameters"]


def test_close_lets_go() -> None:
    trainer = build(epochs=1)
    list(trainer.epochs())
    trainer.close()
    assert not hasattr(trainer, "model")


# ----------------------------------------------------------------------------- original size, windows, early stopping


def test_scores_at_the_original_size() -> None:
    """Oracle: torchmetrics over the logits, resized one by one to masks of their own sizes; the loss stays as it is."""
    rng = np.random.default_rng(5)
    sizes = [(50, 41), (20, 64), (32, 32), (1, 90), (33, 31)]
    truths = [rng.integers(0, 3, size).astype(np.uint8) for size in sizes]
    truths[0][:10] = 255
    originals = OriginalMasks(np.concatenate([truth.ravel() for truth in truths]), np.array(sizes))
    plain, other = (
        Trainer(config(epochs=1), train=scenes(16), val=scenes(5, seed=1), classes=3, device="cpu", originals=masks)
        for masks in (None, originals)
    )
    (at_network,), (at_original,) = plain.epochs(), other.epochs()
    metric = MulticlassJaccardIndex(3, ignore_index=255)
    with torch.no_grad():
        for images, _ in other.validation.batches:
            other.model.eval()
            for logits, truth in zip(other.model(images), truths, strict=True):
                resized = F.interpolate(logits[None], truth.shape, mode="bilinear", align_corners=False)
                metric.update(resized.argmax(dim=1), torch.from_numpy(truth)[None].long())
    assert at_original.val_miou == pytest.approx(float(metric.compute()), abs=1e-6)
    assert at_original.val_loss == at_network.val_loss
    assert at_original.val_miou != at_network.val_miou


def test_validation_in_windows() -> None:
    """Oracle: window_logits itself, on the same network; windows of 24 of 32 pixels see less, so the result differs."""
    fields = {"epochs": 1, "crop": "24x24", "dropout": 0.0}
    tiled, whole = (build(**fields, tiled_inference=tiles) for tiles in (True, False))
    (by_windows,), (at_once,) = tiled.epochs(), whole.epochs()
    assert next(tiled.train_batches.epoch(1))[0].shape == (8, 3, 24, 24)
    confusion = ConfusionMatrix(3, ignore_index=255)
    tiled.model.eval()
    for images, masks in tiled.validation.batches:
        logits = window_logits(tiled.model, images, crop=Size(width=24, height=24), overlap=0.25)
        confusion.add(masks.long(), logits.argmax(dim=1))
    assert by_windows.val_miou == pytest.approx(scores(confusion.numpy(), background=0).miou)
    assert by_windows.train_loss == at_once.train_loss


def test_early_stopping_keeps_the_best_weights(tmp_path: Path) -> None:
    """At a learning rate of 1e-12 nothing improves by 0.1: patience 2 ends the training after three of nine epochs."""
    fields = {"epochs": 9, "lr": 1e-12, "early_stop_patience": 2, "early_stop_delta": 0.1}
    trainer = build(tmp_path, **fields)
    history = list(trainer.epochs())
    assert (len(history), trainer.outcome) == (3, "completed")
    assert (tmp_path / "best.safetensors").is_file()
    again = build(tmp_path, **fields)
    assert (again.outcome, list(again.epochs())) == ("completed", [])
    longer = build(tmp_path, **{**fields, "early_stop_patience": None})  # now it may go on
    assert [metrics.epoch for metrics in longer.epochs()] == [4, 5, 6, 7, 8, 9]


def test_a_plateau_lowers_the_learning_rate_and_survives_a_restart(tmp_path: Path) -> None:
    """Nothing improves by 0.1, so with patience 1 the rate falls after epochs 3 and 5: by hand 1, 1, 1, .5, .5, .25."""
    fields = {
        "epochs": 6,
        "lr": 1e-12,
        "schedule": "plateau",
        "plateau_patience": 1,
        "plateau_threshold": 0.1,
        "lr_gamma": 0.5,
    }
    whole = [metrics.lr for metrics in build(**fields).epochs()]
    assert whole == pytest.approx([1e-12, 1e-12, 1e-12, 5e-13, 5e-13, 2.5e-13])
    first = build(tmp_path, **fields)
    for _, _ in zip(range(4), first.epochs(), strict=False):
        pass
    assert [metrics.lr for metrics in build(tmp_path, **fields).epochs()] == whole[4:]


def test_the_encoder_learns_at_its_own_rate() -> None:
    """Oracle: SGD without a momentum moves by rate times gradient; at a factor of 0.1 the encoder moves a tenth."""
    fields = {**REALISTIC, "optimizer": "sgd", "momentum": 0.0, "epochs": 1, "batch_size": 16, "grad_clip": None}
    fields |= {"schedule": "none", "micro_batch": None, "dropout": 0.0, "finetune_fraction": 1.0}
    moves = []
    for factor in (1.0, 0.1):
        trainer = build(**fields, encoder_lr_factor=factor)
        before = weights(trainer)
        next(trainer.epochs())
        after = weights(trainer)
        moves.append({name: after[name] - before[name] for name, _ in trainer.model.named_parameters()})
    for name, move in moves[0].items():
        expected = move * (0.1 if name.startswith("network.encoder.") else 1.0)
        torch.testing.assert_close(moves[1][name], expected, rtol=2e-2, atol=2e-7)


def test_measured_normalisation() -> None:
    """Oracle: NumPy's mean and deviation over all pixels of the training images."""
    trainer = build(normalization="measured", epochs=1)
    images = np.asarray(scenes(16).images, np.float64)
    assert trainer.model.mean.flatten().tolist() == pytest.approx(images.mean(axis=(0, 1, 2)).tolist(), rel=1e-5)
    assert trainer.model.std.flatten().tolist() == pytest.approx(images.std(axis=(0, 1, 2)).tolist(), rel=1e-5)


def test_a_checkpoint_of_another_version_starts_anew(tmp_path: Path) -> None:
    list(build(tmp_path, epochs=1).epochs())
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    torch.save({**state, "format": 1}, tmp_path / "last.pt")
    trainer = build(tmp_path, epochs=1)
    assert (trainer.resumed, trainer.epoch) == (None, 0)


def test_validation_in_parts_is_that_of_the_whole() -> None:
    """Memory follows the micro-batch in validation, too; losses over pixels add up to the same."""
    fields = {"epochs": 1, "loss": "cross_entropy + hinge", "lr": 1e-12}
    (whole,), (parts,) = build(**fields).epochs(), build(**fields, micro_batch=2).epochs()
    assert parts.val_loss == pytest.approx(whole.val_loss, rel=1e-6)
    assert parts.val_iou == whole.val_iou
