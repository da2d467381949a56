"""The weights of the best epoch: in a folder's ``best.safetensors``, or without a folder in memory."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tunesearch.errors import Problem, WeightsError
from tunesearch.segmentation.files import write_atomic
from tunesearch.segmentation.models.weights import read_weights


class BestWeights:
    """Where they are kept.

    Attributes:
        file: on the disk; None: nowhere.
        in_memory: where there is no file, once there are any.
    """

    def __init__(self, folder: Path | None) -> None:
        self.file = None if folder is None else folder / "best.safetensors"
        self.in_memory: dict[str, Tensor] | None = None

    def keep(self, model: nn.Module) -> None:
        """Take those of ``model`` in place of the ones before."""
        # Clones, because tied weights, which share their memory, are refused by safetensors.
        weights = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in model.state_dict().items()
        }
        if self.file is None:
            self.in_memory = weights
        else:
            write_atomic(self.file, lambda temporary: save_file(weights, temporary))

    def load_into(self, model: nn.Module) -> None:
        """Put them into ``model``, if there are any.

        Raises:
            WeightsError: their file is damaged or holds another network's.
        """
        if self.in_memory is not None:
            model.load_state_dict(self.in_memory)
        elif self.file is not None and self.file.is_file():
            try:
                model.load_state_dict(read_weights(self.file))
            except RuntimeError as error:
                rule = f"must hold the weights of this network: {' '.join(str(error).split())[:300]}"
                raise WeightsError(Problem(str(self.file), rule)) from error
