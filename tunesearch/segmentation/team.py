"""Team: the processes that train one network together, each on its share of every batch. Alone it is one process.

It knows torch.distributed and nothing of who started the processes. Gradients are summed and not averaged, because each
member's losses are divided by what counts in the whole batch (``Loss.contribution``): the sum is the gradient of one
process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tunesearch.segmentation.models import SegmentationModel

_TEAM = 4
"""First word of the members' seeds; the loader has the ones before."""


@dataclass(frozen=True)
class Team:
    """This process among those that train together.

    Attributes:
        rank: 0 for the first, which alone writes files.
        size: how many they are; above 1 torch.distributed's default group must stand, and every member must make the
            same calls in the same order.
    """

    rank: int = 0
    size: int = 1

    def share(self, count: int) -> slice:
        """This member's share of ``count`` things, which are cut into nearly equal parts as torch.tensor_split does."""
        sizes = [count // self.size + (part < count % self.size) for part in range(self.size)]
        return slice(sum(sizes[: self.rank]), sum(sizes[: self.rank + 1]))

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all members, in place; every member gets the same bits."""
        if self.size > 1:
            _run(dist.all_reduce, tensor)
        return tensor

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradient of every trained parameter by its sum over the members; none counts as zero."""
        if self.size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        _flat([parameter.grad for parameter in trained if parameter.grad is not None], dist.all_reduce)

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors by those of the first member."""
        if self.size > 1:
            _flat(list(tensors), lambda flat: dist.broadcast(flat, src=0))

    def seed(self, seed: int, epoch: int) -> None:
        """Give every member but the first random numbers of its own, for its own dropout."""
        if self.rank:
            (word,) = np.random.SeedSequence([_TEAM, seed, epoch, self.rank]).generate_state(1)
            torch.manual_seed(int(word))


@torch.no_grad()
def _flat(tensors: list[Tensor], collective: Callable[[Tensor], object]) -> None:
    """One call for all tensors of a type instead of one for each, which would wait for the network each time."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        chosen = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.reshape(-1) for tensor in chosen])
        _run(collective, flat)
        parts = torch.split(flat, [tensor.numel() for tensor in chosen])
        for tensor, part in zip(chosen, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))


def _run(collective: Callable[[Tensor], object], tensor: Tensor) -> None:
    """Run a collective.

    Raises:
        ConnectionError: another member is gone, which torch says in as many ways as it has backends.
    """
    try:
        collective(tensor)
    except RuntimeError as error:
        raise ConnectionError(f"another process of the training is gone: {error}") from error


def synchronised(model: SegmentationModel) -> SegmentationModel:
    """The model with batch norms over the batches of all members (torch's SyncBatchNorm, which needs CUDA)."""
    from timm.layers import convert_sync_batchnorm  # torch's own drops the activation that timm's norms contain

    frozen: set[nn.Module] = set(model.freezing.frozen_norms) if model.freezing is not None else set()
    names = [name for name, module in model.named_modules() if module in frozen]
    converted: SegmentationModel = convert_sync_batchnorm(model)
    if converted.freezing is not None:
        norms = tuple(converted.get_submodule(name) for name in names)
        converted.freezing = replace(converted.freezing, frozen_norms=norms)
    return converted
