"""Every field of TrainConfig governs what it says, and nothing else.

For each field two trainers are built that differ in it alone. Oracles: what :meth:`Trainer.effective` reads back from
the built objects differs in exactly the expected places, by the expected values; and a training of one epoch ends with
other weights, so what was built is also what is used. A control shows that without a change nothing differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tunesearch.segmentation.config import LOSSES, DataConfig, TrainConfig
from tunesearch.segmentation.data.cache import decoded
from tunesearch.segmentation.data.splits import Split, freeze_split
from tunesearch.segmentation.device import autocast
from tunesearch.segmentation.trainer import Trainer

BASE: dict[str, Any] = {
    "architecture": "encoder_unet",
    "encoder": "mobilenet_v2",
    "encoder_weights": "none",
    "encoder_depth": 5,
    "finetune_fraction": 1.0,
    "encoder_lr_factor": 1.0,
    "decoder_width": 64,
    "upsampling": "default",
    "depth": 2,
    "width": 4,
    "double_conv": False,
    "batch_norm": False,
    "skip_connections": False,
    "residual": False,
    "dropout": 0.1,
    "dropout_places": "both",
    "initialization": "default",
    "optimizer": "sgd",
    "lr": 0.05,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.01,
    "decay_norms_and_biases": True,
    "schedule": "cosine",
    "lr_decay": 0.1,
    "lr_gamma": 0.5,
    "lr_hold_epochs": 0,
    "lr_step_epochs": 1,
    "poly_power": 1.0,
    "plateau_metric": "val_loss",
    "plateau_patience": 1,
    "plateau_threshold": 0.0,
    "warmup_epochs": 0,
    "grad_clip": None,
    "loss": "focal",
    "focal_gamma": 2.0,
    "tversky_alpha": 0.3,
    "class_weights": "none",
    "hard_pixels": 1.0,
    "batch_size": 4,
    "micro_batch": None,
    "size": "32x32",
    "normalization": "auto",
    "crop": None,
    "cropping": "random",
    "tiled_inference": False,
    "tile_overlap": 0.25,
    "scale_jitter": 0.0,
    "expansion": 1,
    "epochs": 2,
    "early_stop_patience": None,
    "early_stop_delta": 0.0,
    "early_stop_metric": "val_loss",
    "augmentation": "standard",
    "augmentation_strength": 0.5,
    "copy_paste": 0.0,
    "ema_decay": None,
    "precision": "float32",
    "seed": 3,
}
"""Every field by name, so that a default cannot hide one. 12 training images: 3 updates an epoch."""

Check = Callable[[Trainer, Trainer], None]


@dataclass(frozen=True)
class Case:
    """A change of one field.

    Attributes:
        value: what it is changed to.
        reads: what effective() then reads, by key; ``...``: something else than before. No other key may differ.
        base: what else the base must have for the field to govern anything.
        check: what is looked up in the objects themselves, before and after.
        label: of the test, where a field has several.
        trains: whether it changes the trained weights, and not only what is predicted with them.
    """

    value: Any
    reads: dict[str, Any]
    base: dict[str, Any] = field(default_factory=dict)
    check: Check | None = None
    label: str = ""
    trains: bool = True


def groups(name: str) -> Callable[[Trainer], list[Any]]:
    return lambda trainer: [group[name] for group in trainer.optimizer.param_groups]


def change(look: Callable[[Trainer], Any], before: Any, after: Any) -> Check:
    """``look`` sees ``before`` in the one trainer and ``after`` in the other."""

    def check(one: Trainer, other: Trainer) -> None:
        assert look(one) == before
        assert look(other) == after

    return check


def weights_by_hand(kind: str) -> Check:
    """Every training mask has 768, 128 and 128 of 1024 pixels of classes 0, 1 and 2. Inverse: 1024 / (3 * 768) and
    1024 / (3 * 128). Median: frequencies 3/4, 1/8, 1/8, median 1/8. Area: 1024 / 768 and 1024 / 128. Image mean: the
    norm is 128 * sqrt(36 + 1 + 1), so 6 / sqrt(38) and 768 / 128."""
    expected = {
        "inverse_frequency": [4 / 9, 8 / 3, 8 / 3],
        "median_frequency": [1 / 6, 1.0, 1.0],
        "area": [4 / 3, 8.0, 8.0],
        "image_mean": [6 / 38**0.5, 6.0, 6.0],
    }[kind]

    def check(one: Trainer, other: Trainer) -> None:
        assert one.loss.weight is None
        assert other.loss.weight.tolist() == pytest.approx(expected, rel=1e-6)

    return check


def autocast_type(trainer: Trainer) -> torch.dtype:
    with autocast(trainer.device, trainer.dtype), torch.no_grad():
        logits: Tensor = trainer.model.eval()(torch.zeros(2, 3, 32, 32))
    return logits.dtype


def first_weights_differ(one: Trainer, other: Trainer) -> None:
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def order_differs_too(one: Trainer, other: Trainer) -> None:
    first_weights_differ(one, other)
    before, after = ([masks for _, masks in trainer.train_batches.epoch(1)] for trainer in (one, other))
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def pictures_differ(one: Trainer, other: Trainer) -> None:
    """At strength 0 the batches are the images as they are."""
    plain = {image.tobytes() for image in one.train_batches._loader.dataset.part.images}
    before, after = (
        [
            image.permute(1, 2, 0).contiguous().numpy().tobytes()
            for images, _ in t.train_batches.epoch(1)
            for image in images
        ]
        for t in (one, other)
    )
    assert not set(before) <= plain
    assert set(after) <= plain


def measured_by_hand(one: Trainer, other: Trainer) -> None:
    """NumPy's mean and deviation over all training pixels, on the scale of 0 to 255 that the network takes."""
    pixels = np.asarray(other.train_batches._loader.dataset.part.images).reshape(-1, 3)
    assert other.model.mean.flatten().tolist() == pytest.approx(pixels.mean(axis=0))
    assert other.model.std.flatten().tolist() == pytest.approx(pixels.std(axis=0))
    assert one.model.mean.flatten().tolist() == pytest.approx([0.485 * 255, 0.456 * 255, 0.406 * 255])


def predictions_differ(one: Trainer, other: Trainer) -> None:
    """The weights are the same before the training; the validation loss is not."""
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))
    assert one._validate()[0] != other._validate()[0]


def file_is_loaded(one: Trainer, other: Trainer) -> None:
    """Oracle: the tensors in the real file."""
    assert WEIGHTS_FILE is not None
    state = torch.load(WEIGHTS_FILE, weights_only=True)
    for trainer, loaded in ((one, False), (other, True)):
        name, tensor = next(iter(trainer.model.network.encoder.state_dict().items()))
        assert torch.equal(tensor, state[name]) == loaded


def average_is_kept(one: Trainer, other: Trainer) -> None:
    """One epoch from the same weights: the same training, other best weights. The three updates by hand in the tests of
    the average."""
    for trainer in (one, other):
        next(trainer.epochs())
        assert trainer.best_weights.in_memory is not None
    pairs = [
        (name, tensor, dict(other.model.named_parameters())[name]) for name, tensor in one.model.named_parameters()
    ]
    assert all(torch.equal(a, b) for _, a, b in pairs)
    assert all(torch.equal(one.best_weights.in_memory[name], a.cpu()) for name, a, _ in pairs)
    assert not any(torch.equal(other.best_weights.in_memory[name], b.cpu()) for name, _, b in pairs)


EXPONENTIAL, PLATEAU, STOP = {"schedule": "exponential"}, {"schedule": "plateau"}, {"early_stop_patience": 2}
FLAT = [{"val_loss": 1.0, "val_miou": 0.1 * epoch} for epoch in range(1, 6)]
FALLING = [{"val_loss": 1.0 - 0.01 * epoch} for epoch in range(5)]


def lowered(curve: list[dict[str, float]], before: float, after: float) -> Check:
    """The learning rate as a share of the first, after these epochs, worked out by hand."""

    def check(one: Trainer, other: Trainer) -> None:
        for trainer, share in ((one, before), (other, after)):
            trainer.progress.curve = curve
            assert trainer._lr(0) == pytest.approx(0.05 * share)

    return check


def stopped(curve: list[dict[str, float]], before: bool, after: bool) -> Check:
    """Whether the training ends after these epochs, worked out by hand."""

    def check(one: Trainer, other: Trainer) -> None:
        for trainer, ends in ((one, before), (other, after)):
            trainer.progress.curve = curve
            assert trainer._has_stopped_early() is ends

    return check


WEIGHTS_FILE: Path | None = None
COUNTS = {"parameters": ..., "trained_parameters": ...}
STACKED = {"architecture": "encoder_decoder"}


def grown(more: int, tensors: int = 0) -> dict[str, Any]:
    """Report C's encoder-decoder of depth 2 and width 4 (3-4-12-4-3 channels: 112 + 444 + 436 + 111 parameters) grows
    by so many parameters, in so many tensors."""
    count = {"parameters": 1103 + more, "trained_parameters": 1103 + more}
    return {**count, "optimizer_groups": ...} if tensors else count


def interpolation(trainer: Trainer) -> set[str]:
    return {m.interpolation_mode for m in trainer.model.modules() if hasattr(m, "interpolation_mode")}


def dropouts(trainer: Trainer) -> list[str]:
    return [name for name, module in trainer.model.network.named_modules() if isinstance(module, torch.nn.Dropout2d)]


def deviation(trainer: Trainer) -> float:
    """Of the encoder's last convolution, 1x1 from 320 to 1280 channels."""
    return float(trainer.model.network.encoder.features[18][0].weight.detach().std())


PIXELS = {"class_weights": None, "hard_pixels": 1.0}
FOCAL = {"loss": "Focal", **PIXELS, "gamma": 2.0}


def overlap(loss: str, alpha: float, beta: float) -> dict[str, Any]:
    return {"loss": loss, "class_weights": None, "alpha": alpha, "beta": pytest.approx(beta)}


CASES: dict[str, list[Case]] = {
    "architecture": [
        Case("fpn", {"network": "FPN", **COUNTS, "optimizer_groups": ...}),
        Case(
            "unet_small",
            {
                "network": "UNet",
                "parameters": 4_061_763,  # 4,062,933 at 21 classes; each of the 18 fewer has 64 weights and a bias
                "trained_parameters": 4_061_763,
                "encoder": None,
                "encoder_layers": None,
                "encoder_layers_trained": None,
                "optimizer_groups": ...,
            },
        ),
    ],
    "encoder": [
        Case(
            "resnet18",
            {
                "encoder": "ResNetEncoder",
                **COUNTS,
                "encoder_layers": 20,
                "encoder_layers_trained": 20,
                "optimizer_groups": ...,
            },
        ),
        Case(
            "timm-tf_efficientnet_lite0",
            {
                "encoder": "EfficientNetLiteEncoder",
                **COUNTS,
                "encoder_layers": 48,
                "encoder_layers_trained": 48,
                "optimizer_groups": ...,
                "normalisation": {"mean": [0.5] * 3, "std": [0.5] * 3},
            },
        ),
    ],
    "encoder_weights": [Case("imagenet", {}, check=file_is_loaded)],
    "finetune_fraction": [
        Case(0.5, {"encoder_layers_trained": 26, "trained_parameters": ..., "optimizer_groups": ...}),
        Case(0.0, {"encoder_layers_trained": 0, "trained_parameters": ..., "optimizer_groups": ...}),
    ],
    # Cut off at 1/8, MobileNetV2 has 1 + 2 + 5 * 3 layers.
    "encoder_depth": [
        Case(
            3,
            {**COUNTS, "encoder_layers": 18, "encoder_layers_trained": 18, "optimizer_groups": ...},
            {"architecture": architecture},
        )
        for architecture in ("encoder_unet", "unetplusplus")
    ],
    "decoder_width": [
        Case(32, COUNTS, {"architecture": architecture})
        for architecture in ("encoder_unet", "unetplusplus", "upsampling_decoder")
    ],
    "upsampling": [
        *(
            Case("bilinear", {}, {"architecture": architecture}, change(interpolation, {"nearest"}, {"bilinear"}))
            for architecture in ("encoder_unet", "unetplusplus")
        ),
        Case("nearest", {}, STACKED),
        Case("transposed", grown((2 * 2 * 4 * 4 + 4) + (2 * 2 * 3 * 3 + 3), tensors=4), STACKED),
    ],
    # From 12 to 36 channels and back.
    "depth": [
        Case(3, grown(9 * 12 * 36 + 36 + 9 * 36 * 12 + 12, tensors=4), STACKED),
        Case(3, {**COUNTS, "optimizer_groups": ...}, {"architecture": "conv_stack"}),
    ],
    "width": [Case(8, COUNTS, STACKED), Case(8, COUNTS, {"architecture": "conv_stack"})],
    "double_conv": [Case(True, grown(1752, tensors=8), STACKED)],
    "batch_norm": [Case(True, grown(2 * (4 + 12 + 4), tensors=6), STACKED)],
    "skip_connections": [Case(True, grown(9 * 4 * 3), STACKED)],
    "residual": [Case(True, grown((3 * 4 + 4) + (4 * 12 + 12), tensors=4), STACKED)],
    "dropout_places": [
        Case("encoder", {}, STACKED, change(dropouts, ["dropout", "up.1.0"], ["dropout"])),
        Case("decoder", {}, STACKED, change(dropouts, ["dropout", "up.1.0"], ["up.1.0"])),
    ],
    # torchvision's MobileNetV2 starts from He's with the fan out; Xavier's is sqrt(2 / (320 + 1280)).
    "initialization": [
        Case(
            "xavier",
            {},
            check=change(deviation, pytest.approx((2 / 1280) ** 0.5, rel=0.02), pytest.approx(0.035355, rel=0.02)),
        ),
        Case(
            "he",
            {},
            check=change(deviation, pytest.approx((2 / 1280) ** 0.5, rel=0.02), pytest.approx(0.079057, rel=0.02)),
        ),
    ],
    "dropout": [Case(0.5, {"dropout": [0.5]}), Case(0.5, {"dropout": [0.5]}, {"architecture": "deeplabv3plus"})],
    "optimizer": [
        Case(name, {"optimizer": kind, "optimizer_groups": ...})
        for name, kind in (
            ("adam", "Adam"),
            ("adamw", "AdamW"),
            ("adamax", "Adamax"),
            ("nadam", "NAdam"),
            ("rmsprop", "RMSprop"),
        )
    ],
    "lr": [
        # 3 updates an epoch, 2 epochs: the last factor is (1 + cos(pi * 5 / 6)) / 2 = 0.0669873.
        Case(
            0.2,
            {"lr_first": 0.2, "lr_last": pytest.approx(0.2 * 0.0669873)},
            check=change(groups("lr"), [0.05, 0.05], [0.2, 0.2]),
        )
    ],
    "nesterov": [Case(True, {"optimizer_groups": ...}, check=change(groups("nesterov"), [False] * 2, [True] * 2))],
    "encoder_lr_factor": [
        Case(
            0.1,
            {"optimizer_groups": ...},
            check=change(groups("factor"), [1.0, 1.0], [1.0, 1.0, 0.1, 0.1]),
        )
    ],
    "momentum": [
        Case(0.5, {"optimizer_groups": ...}, check=change(groups("momentum"), [0.9, 0.9], [0.5, 0.5])),
        Case(
            0.5,
            {"optimizer_groups": ...},
            {"optimizer": "rmsprop"},
            check=change(groups("momentum"), [0.9, 0.9], [0.5, 0.5]),
        ),
    ],
    "weight_decay": [
        Case(0.3, {"optimizer_groups": ...}, check=change(groups("weight_decay"), [0.01, 0.01], [0.3, 0.3]))
    ],
    "decay_norms_and_biases": [
        Case(False, {"optimizer_groups": ...}, check=change(groups("weight_decay"), [0.01, 0.01], [0.01, 0.0]))
    ],
    "schedule": [
        # After 5 updates: constant; 0.05 / (1 + 0.1 * 5).
        Case("none", {"lr_last": pytest.approx(0.05)}),
        Case("time_decay", {"lr_last": pytest.approx(0.05 / 1.5)}),
        Case("exponential", {"lr_first": pytest.approx(0.05 / 2), "lr_last": pytest.approx(0.05 / 4)}),
        Case("step", {"lr_last": pytest.approx(0.05 / 2)}),
        Case("poly", {"lr_last": pytest.approx(0.05 / 6)}),
        Case("plateau", {"lr_last": pytest.approx(0.05), "plateau": ...}),
    ],
    # 3 updates an epoch: the last update is t = 5, in the epoch with index 1.
    "lr_gamma": [
        Case(0.2, {"lr_first": pytest.approx(0.05 * 0.2), "lr_last": pytest.approx(0.05 * 0.2**2)}, EXPONENTIAL)
    ],
    "lr_hold_epochs": [Case(1, {"lr_first": pytest.approx(0.05), "lr_last": pytest.approx(0.05 * 0.5)}, EXPONENTIAL)],
    "lr_step_epochs": [Case(2, {"lr_last": pytest.approx(0.05)}, {"schedule": "step"}, trains=False)],
    "poly_power": [Case(2.0, {"lr_last": pytest.approx(0.05 / 36)}, {"schedule": "poly"})],
    "warmup_epochs": [Case(1, {"lr_first": pytest.approx(0.05 / 3)})],
    "plateau_metric": [Case("val_miou", {"plateau": ...}, PLATEAU, lowered(FLAT[:4], 0.5, 1.0), trains=False)],
    "plateau_patience": [Case(0, {"plateau": ...}, PLATEAU, lowered(FLAT[:3], 0.5, 0.25), trains=False)],
    "plateau_threshold": [Case(0.05, {"plateau": ...}, PLATEAU, lowered(FALLING[:3], 1.0, 0.5), trains=False)],
    "early_stop_patience": [Case(2, {"early_stop": ...}, check=stopped(FLAT[:4], False, True), trains=False)],
    "early_stop_delta": [Case(0.5, {"early_stop": ...}, STOP, stopped(FALLING[:3], False, True), trains=False)],
    "early_stop_metric": [Case("val_miou", {"early_stop": ...}, STOP, stopped(FLAT[:4], True, False), trains=False)],
    "lr_decay": [Case(1.0, {"lr_last": pytest.approx(0.05 / 6)}, {"schedule": "time_decay"})],
    "grad_clip": [Case(0.01, {"grad_clip": 0.01})],
    "loss": [
        Case("cross_entropy", {"loss": [{"loss": "CrossEntropy", **PIXELS}]}),
        Case("hinge", {"loss": [{"loss": "Hinge", **PIXELS}]}),
        Case("dice", {"loss": [overlap("Dice", 0.5, 0.5)]}),
        Case("jaccard", {"loss": [overlap("Jaccard", 1.0, 1.0)]}),
        Case("tversky", {"loss": [overlap("Tversky", 0.3, 0.7)]}),
        Case("lovasz", {"loss": [{"loss": "Lovasz", "class_weights": None}]}),
        Case(
            "0.5*focal + dice",
            {"loss": [{**FOCAL, "weight": 0.5}, {**overlap("Dice", 0.5, 0.5), "weight": 1.0}]},
        ),
    ],
    "focal_gamma": [Case(0.5, {"loss": [{**FOCAL, "gamma": 0.5}]})],
    "tversky_alpha": [Case(0.7, {"loss": [overlap("Tversky", 0.7, 0.3)]}, {"loss": "tversky"})],
    "class_weights": [
        *(
            Case("inverse_frequency", {"loss": ...}, {"loss": loss}, weights_by_hand("inverse_frequency"))
            for loss in LOSSES
        ),
        *(
            Case(kind, {"loss": ...}, check=weights_by_hand(kind))
            for kind in ("median_frequency", "area", "image_mean")
        ),
        Case("sample", {"loss": [{**FOCAL, "class_weights": "sample"}]}),
        Case([1.0, 2.0, 0.5], {"loss": [{**FOCAL, "class_weights": [1.0, 2.0, 0.5]}]}),
    ],
    "hard_pixels": [Case(0.25, {"loss": [{**FOCAL, "hard_pixels": 0.25}]})],
    "batch_size": [Case(6, {"batch_size": 6, "micro_batch": 6, "total_updates": 4, "lr_last": ...})],
    "micro_batch": [Case(2, {"micro_batch": 2})],
    "size": [
        Case(f"{width}x{height}", {key: {"width": width, "height": height} for key in ("size", "window")})
        for width, height in ((64, 32), (32, 64))
    ],
    "normalization": [Case("measured", {"normalisation": ...}, check=measured_by_hand)],
    "crop": [Case(value, {"window": {"width": 16, "height": 16}}) for value in ("16x16", 0.5)],
    "cropping": [
        Case(
            "five",
            {
                "windows": [[0, 0], [0, 16], [16, 0], [16, 16], [8, 8]],
                "train_images": 60,
                "total_updates": 30,
                "lr_last": ...,
            },
            {"crop": "16x16"},
        ),
        Case(
            "grid",  # a quarter of 16 is 4: steps of 12
            {
                "windows": [[top, left] for top in (0, 12, 16) for left in (0, 12, 16)],
                "train_images": 108,
                "total_updates": 54,
                "lr_last": ...,
            },
            {"crop": "16x16"},
        ),
    ],
    "tiled_inference": [
        Case(
            True,
            {"tiles": [[top, left] for top in (0, 12, 16) for left in (0, 12, 16)]},
            {"crop": "16x16"},
            predictions_differ,
            trains=False,
        )
    ],
    "tile_overlap": [
        Case(
            0.5,
            {"windows": [[top, left] for top in (0, 8, 16) for left in (0, 8, 16)]},
            {"crop": "16x16", "cropping": "grid"},
        ),
        Case(
            0.5,
            {"tiles": [[top, left] for top in (0, 8, 16) for left in (0, 8, 16)]},
            {"crop": "16x16", "tiled_inference": True},
            predictions_differ,
            trains=False,
        ),
    ],
    "scale_jitter": [Case(0.4, {"scale_jitter": 0.4})],
    "expansion": [Case(3, {"train_images": 36, "total_updates": 18, "lr_last": ...})],
    "augmentation": [
        Case("none", {"augmentation": None}, check=pictures_differ),
        *(Case(name, {"augmentation": ...}) for name in ("flip", "report_c_early", "report_c", "report_d")),
        Case([{"HorizontalFlip": {"p": 0.5}}, {"Rotate": {"limit": 40}}], {"augmentation": ...}, label="list"),
    ],
    "copy_paste": [Case(0.9, {"copy_paste": 0.9})],
    "epochs": [Case(5, {"total_updates": 15, "lr_last": ...})],
    "augmentation_strength": [
        Case(0.0, {"augmentation": None}, check=pictures_differ),
        Case(1.0, {"augmentation": ...}),
    ],
    "ema_decay": [Case(0.9, {"ema_decay": 0.9}, check=average_is_kept, trains=False)],
    "precision": [
        Case(
            name,
            {"precision": name},
            check=change(autocast_type, torch.float32, getattr(torch, name)),
        )
        for name in ("bfloat16", "float16")
    ],
    "seed": [Case(4, {"seed": 4}, check=order_differs_too)],
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make tiny networks slow wherever the machine does other work too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass
class Room:
    """A data set on disk: 12 + 4 images of 64x64 pixels, in all of which 3/4 are class 0 and 1/8 each are 1 and 2."""

    data: DataConfig
    split: Split
    cache: Path
    trained: dict[str, Any] = field(default_factory=dict)

    def build(self, fields: dict[str, Any], weights: Path | None) -> Trainer:
        config = TrainConfig.model_validate({**BASE, **fields})
        train, val = (decoded(self.data, self.split, part, config.size, folder=self.cache) for part in ("train", "val"))
        return Trainer(config, train=train, val=val, classes=3, encoder_weights=weights, device="cpu")

    def epoch(self, fields: dict[str, Any], weights: Path | None) -> dict[str, Tensor]:
        """The weights after one epoch; of a base they are kept for the next field."""
        key = str(sorted(fields.items()))
        if key not in self.trained:
            trainer = self.build(fields, weights)
            next(trainer.epochs())
            self.trained[key] = {name: tensor.clone() for name, tensor in trainer.model.named_parameters()}
        result: dict[str, Tensor] = self.trained[key]
        return result


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    root = tmp_path_factory.mktemp("fields")
    rng = np.random.default_rng(0)
    parts = {"train": [f"train{number}" for number in range(12)], "val": [f"val{number}" for number in range(4)]}
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for name in parts["train"] + parts["val"]:
        picture = rng.integers(0, 256, (64, 64, 3), np.uint8)
        mask = np.zeros((64, 64), np.uint8)
        mask[:16, :32], mask[16:32, 32:] = 1, 2
        picture[mask == 1, 0] //= 4
        picture[mask == 2, 2] //= 4
        Image.fromarray(picture).save(root / "JPEGImages" / f"{name}.png")
        Image.fromarray(mask).save(root / "SegmentationClass" / f"{name}.png")
    for part, names in parts.items():
        (root / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("\n".join(names) + "\n")
    data = DataConfig(root=root, classes=3)
    return Room(data, freeze_split(data), root / "cache")


def test_every_field_has_a_case() -> None:
    """A new field without a test fails here."""
    assert set(CASES) == set(TrainConfig.model_fields)
    assert set(BASE) == set(TrainConfig.model_fields)
    for name, cases in CASES.items():
        for case in cases:
            assert {**BASE, **case.base}[name] != case.value, name


def params() -> Iterator[Any]:
    for name, cases in CASES.items():
        for case in cases:
            label = "-".join((name, case.label or str(case.value), *map(str, case.base.values())))
            marks = [pytest.mark.data] if name == "encoder_weights" else []
            yield pytest.param(name, case, id=label, marks=marks)


@pytest.mark.parametrize(("name", "case"), list(params()))
def test_a_field_governs_what_it_says(
    room: Room, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, name: str, case: Case
) -> None:
    weights = None
    if name == "encoder_weights":
        weights = request.getfixturevalue("test_data") / "weights"
        monkeypatch.setitem(globals(), "WEIGHTS_FILE", weights / "mobilenet_v2.pth")
    changed = {**case.base, name: case.value}
    one = room.build(case.base, weights)
    before = one.effective()
    other = room.build(changed, weights)
    after = other.effective()
    different = {key for key in before if before[key] != after[key]}
    assert different == set(case.reads)
    for key, value in case.reads.items():
        assert value is ... or after[key] == value, key
    if case.check is not None:
        case.check(one, other)

    trained, otherwise = room.epoch(case.base, weights), room.epoch(changed, weights)
    same_weights = trained.keys() == otherwise.keys() and all(
        torch.equal(tensor, otherwise[key]) for key, tensor in trained.items()
    )
    assert same_weights != case.trains


def test_without_a_change_nothing_differs(room: Room) -> None:
    """The control: what the test above sees is the field, not chance."""
    assert room.build({}, None).effective() == room.build({}, None).effective()
    one = dict(room.epoch({}, None))
    room.trained.clear()
    other = room.epoch({}, None)
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())
