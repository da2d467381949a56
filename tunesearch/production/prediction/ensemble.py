"""Ensembles: several models that predict together, and the meta-learner that weighs them.

Their class probabilities are averaged, or weighed by a :class:`~tunesearch.production.prediction.stack.Stack` that is
fitted on the validation part. Report B's authors used "a meta learner to be trained in order to have a model assigning
the best possible weights to these two models at prediction time"; here that is one weight per model, fitted by
cross-entropy.
Weights or biases per class were tried on one set of models and left out: they learn how frequent the classes are, at
the cost of the rare ones, and came out below the plain mean there. The fit is convex: it has one solution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tunesearch.errors import InputError, Problem
from tunesearch.production.labelled import read_pair, trained_on
from tunesearch.production.model import Model
from tunesearch.production.prediction.predictor import Predictor, Prepared
from tunesearch.production.prediction.stack import Stack
from tunesearch.production.prefetch import prefetch
from tunesearch.segmentation.config import DataConfig
from tunesearch.segmentation.data.images import VOID, Pixels
from tunesearch.segmentation.data.layouts import Pair
from tunesearch.segmentation.files import sha256

_SAMPLES = 2**18
"""Pixels that a stack is fitted to, from all images alike: it has far fewer weights than that."""
_PULL = 1e-3
"""Of the weights to those of the plain mean, so that what the pixels do not decide stays there."""
_STEPS = 200


def fit_stack(
    models: Sequence[Model],
    pairs: Sequence[Pair],
    data: DataConfig,
    *,
    flip: bool = False,
    scale: float | None = None,
    device: str = "auto",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Stack:
    """Fit how much each model counts, to pixels of labelled pictures that none was trained on.

    Args:
        pairs: the validation part.
        data: how its masks are read.
        on_progress: told how many of how many images are done.

    Raises:
        InputError: fewer than two models, classes that differ, no pixel that counts.
        DataError: files that cannot be read.
    """
    if len(models) < 2:
        raise InputError(Problem("ensemble", "needs at least two models", value=str(len(models))))
    predictor = Predictor(models, flip=flip, scale=scale, device=device)
    features, truth = _samples(predictor, pairs, data, on_progress)
    if not len(truth):
        raise InputError(Problem("ensemble", "the images it is fitted to must have pixels that count"))
    stack = Stack.start([model.fingerprint for model in models])
    before = float(F.cross_entropy(stack.scores(features.unbind(0)).T, truth))
    fitted = _fitted(stack, features, truth)
    content: dict[str, Any] = {
        "models": [model.name for model in models],
        "classes": [spec.name for spec in predictor.classes],
        "images": len(pairs),
        "images_trained_on": trained_on(models, pairs),
        "pixels": len(truth),
        "cross_entropy": {
            "equal_weights": before,
            "fitted": float(F.cross_entropy(fitted.scores(features.unbind(0)).T, truth)),
        },
        "flip": flip,
        "scale": scale,
        "weights": fitted.weight.tolist(),
    }
    return Stack(fitted.weight, fitted.fingerprints, content)


def _samples(
    predictor: Predictor, pairs: Sequence[Pair], data: DataConfig, on_progress: Callable[[int, int], None]
) -> tuple[Tensor, Tensor]:
    """Log probabilities (M, C, n) and labels int64 (n,) of pixels drawn from every image alike."""
    share = max(1, _SAMPLES // max(1, len(pairs)))
    features: list[Tensor] = []
    labels: list[Tensor] = []

    def read(pair: Pair) -> tuple[Prepared, Pixels]:
        image, mask = read_pair(pair, data, predictor.classes)
        return predictor.prepare(image), mask

    with torch.inference_mode():
        for number, (pair, (prepared, mask)) in enumerate(prefetch(read, pairs), start=1):
            rng = np.random.default_rng(int(sha256(pair.id.encode())[:16], 16))
            places = np.flatnonzero(mask != VOID)
            if len(places) > share:
                places = np.sort(rng.choice(places, share, replace=False))
            labels.append(torch.from_numpy(mask.ravel()[places].astype(np.int64)))
            first = 0  # pixels above the band
            for band in next(predictor.bands([prepared])):
                count = band[0].shape[1] * band[0].shape[2]
                here = places[(places >= first) & (places < first + count)] - first
                index = torch.from_numpy(here).to(predictor.device)
                parts = [F.log_softmax(one.flatten(1)[:, index].float(), dim=0) for one in band]
                features.append(torch.stack(parts).cpu())
                first += count
            on_progress(number, len(pairs))
    return torch.cat(features, dim=2).clone(), torch.cat(labels)


def _fitted(start: Stack, features: Tensor, truth: Tensor) -> Stack:
    weight = start.weight.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weight], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        scores = Stack(weight, start.fingerprints, {}).scores(features.unbind(0))
        value = F.cross_entropy(scores.T, truth) + _PULL * (weight - start.weight).square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return Stack(weight.detach(), start.fingerprints, {})
