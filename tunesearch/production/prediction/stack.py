"""Stack: a small meta-learner that weighs the class probabilities of several networks against each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from tunesearch.errors import InputError, Problem, WeightsError
from tunesearch.segmentation.files import sha256, write_atomic, write_text
from tunesearch.segmentation.models.weights import read_weights

FORMAT = 1
META_FILE, WEIGHTS_FILE = "stack.json", "stack.safetensors"


@dataclass(frozen=True)
class Stack:
    """The score of class c is ``sum over models m of weight[m] * log p_m(c)`` (a log-linear pool).

    Attributes:
        weight: float32 (M,).
        fingerprints: of the M models' weights.
        content: what else is known of it: names, classes, what it was fitted to.
    """

    weight: Tensor
    fingerprints: tuple[str, ...]
    content: dict[str, Any]

    @classmethod
    def start(cls, fingerprints: Sequence[str]) -> Stack:
        """Every model counts the same: the geometric mean of their probabilities."""
        count = len(fingerprints)
        return cls(torch.full((count,), 1 / count), tuple(fingerprints), {})

    def scores(self, scores: Sequence[Tensor]) -> Tensor:
        """From the scores (C, ...) of each model to the stack's, (C, ...)."""
        total = torch.zeros_like(scores[0], dtype=torch.float32)
        for weight, one in zip(self.weight, scores, strict=True):
            total = total + weight * F.log_softmax(one.float(), dim=0)
        return total

    def to(self, device: torch.device) -> Stack:
        """The same on a device."""
        return replace(self, weight=self.weight.to(device))

    def ordered(self, fingerprints: Sequence[str]) -> Stack:
        """The same for the models in the order of these fingerprints.

        Raises:
            InputError: it was fitted to other models.
        """
        if sorted(fingerprints) != sorted(self.fingerprints):
            names = ", ".join(self.content.get("models", []))
            raise InputError(Problem("--stack", f"must be used with the models that it was fitted to: {names}"))
        left = list(enumerate(self.fingerprints))
        rows = []
        for wanted in fingerprints:  # the same model may stand there twice
            found = next(item for item in left if item[1] == wanted)
            left.remove(found)
            rows.append(found[0])
        return replace(self, weight=self.weight[rows], fingerprints=tuple(fingerprints))

    def save(self, folder: Path) -> None:
        """Write ``stack.safetensors`` and ``stack.json`` to a folder; one without the other is no stack.

        Raises:
            InputError: something else of these names is there.
        """
        tensors = {"weight": self.weight.contiguous()}
        write_atomic(folder / WEIGHTS_FILE, lambda temporary: save_file(tensors, temporary))
        content = {
            "format": FORMAT,
            "fingerprints": self.fingerprints,
            "weights_sha256": sha256((folder / WEIGHTS_FILE).read_bytes()),
            **self.content,
        }
        write_text(folder / META_FILE, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Stack:
        """Read what :meth:`save` wrote; the path of its ``stack.json`` will do, too.

        Raises:
            InputError: there is none, or not of this version.
            WeightsError: its files are damaged.
        """
        folder = folder.parent if folder.name == META_FILE else folder
        meta, weights = folder / META_FILE, folder / WEIGHTS_FILE
        if not meta.is_file():
            rule = "must be a folder that tunesearch ensemble has written"
            raise InputError(Problem("--stack", rule, value=str(folder)))
        try:
            content = json.loads(meta.read_text("utf-8"))
            known, digest = tuple(content.pop("fingerprints")), content.pop("weights_sha256")
            if content.pop("format") != FORMAT:
                raise InputError(
                    Problem(str(meta), f"must be of format {FORMAT}, another version of tunesearch wrote it")
                )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(Problem(str(meta), "must be what tunesearch ensemble has written")) from error
        if not weights.is_file() or sha256(weights.read_bytes()) != digest:
            raise WeightsError(Problem(str(weights), f"must be the file that was written with {META_FILE}"))
        return cls(read_weights(weights)["weight"], known, content)
