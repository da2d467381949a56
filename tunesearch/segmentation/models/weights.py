"""ImageNet weights of an encoder: from a file, from a folder of files, or through the library's own loader."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tunesearch.errors import Problem, WeightsError, nearest
from tunesearch.segmentation.models.library import bare_encoder, encoder_problem, is_timm

SUFFIXES = (".safetensors", ".pth")


def weights_file(encoder: str, source: Path) -> Path:
    """The file of an encoder's weights in ``source``: the file itself, or ``ENCODER.safetensors|.pth`` in a folder.

    Raises:
        WeightsError: there is none; the message lists what there is.
    """
    if source.is_file():
        return source
    if not source.is_dir():
        raise WeightsError(Problem("--encoder-weights", "must be an existing file or folder", value=str(source)))
    for suffix in SUFFIXES:
        if (source / f"{encoder}{suffix}").is_file():
            return source / f"{encoder}{suffix}"
    there = sorted(path.name for path in source.iterdir() if path.suffix in SUFFIXES)
    raise WeightsError(
        Problem(
            where=str(source),
            rule=f"must hold {encoder}.safetensors or {encoder}.pth",
            value=", ".join(there) or "no weight files",
            hint=nearest(f"{encoder}.pth", there),
        )
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a .safetensors file or a .pth file of tensors alone (nothing is unpickled but tensors).

    Raises:
        WeightsError: unreadable, or no state dict.
    """
    try:
        state: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (
        Exception
    ) as error:  # a torn file makes the unpickler stumble anywhere: IndexError, KeyError, struct.error ...
        reason = _first_line(error)[:200]
        raise WeightsError(Problem(str(path), f"must be a readable weight file: {reason}")) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(Problem(str(path), "must hold a state dict: names to tensors", value=type(state).__name__))
    return state


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def load_encoder(model: nn.Module, encoder: str, *, source: Path | None) -> None:
    """Fill ``model.encoder`` with ImageNet weights, in place; every tensor must fit.

    Args:
        source: a file or folder; None: the library's own loader, which downloads once into its cache.

    Raises:
        WeightsError: they cannot be had or do not fit.
    """
    target: Any = model.encoder
    if source is not None:
        path = weights_file(encoder, source)
        state = read_weights(path)
        if is_timm(encoder):
            target, state = target.model, _features_only(state, target.model)
        try:
            target.load_state_dict(state)
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise WeightsError(Problem(str(path), f"must fit the encoder {encoder}: {reason}")) from error
        return
    from segmentation_models_pytorch.encoders import get_encoder  # see library.py

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it announces each of its retries
    try:
        state = get_encoder(encoder, weights=True if is_timm(encoder) else "imagenet").state_dict()
    except Exception as error:  # whatever a download may end with: network, hub, disk, no such weights
        raise WeightsError(_not_downloaded([encoder], _first_line(error))) from error
    target.load_state_dict(state)


def _features_only(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """timm's classifier checkpoints have a head, and dots where a features-only network may have underscores."""
    wanted = model.state_dict().keys()
    flat = {name.replace(".", "_"): name for name in wanted}
    return {flat[key]: value for name, value in state.items() if (key := name.replace(".", "_")) in flat}


def _not_downloaded(encoders: list[str], reason: str) -> Problem:
    return Problem(
        where=f"encoder {', '.join(encoders)}",
        rule=f"ImageNet weights could not be downloaded ({reason.split('. ')[0][:160]})",
        hint=f"give --encoder-weights FOLDER with {' and '.join(f'{encoder}.pth' for encoder in encoders)}, or let "
        "encoder_weights be none",
    )


def check_weights(encoders: list[str], *, source: Path | None) -> None:
    """Make sure, before a search starts, that the ImageNet weights of all these encoders are at hand and fit.

    Raises:
        WeightsError: every encoder whose weights cannot be had, in one error.
    """
    unknown = {encoder: problem for encoder in encoders if (problem := encoder_problem(encoder, "encoder"))}
    if unknown and source is None:
        raise WeightsError(list(unknown.values()))  # downloads can wait until that is mended
    known = [encoder for encoder in encoders if encoder not in unknown]

    def check(encoder: str) -> WeightsError | None:
        holder = nn.Module()
        holder.encoder = bare_encoder(encoder)
        try:
            load_encoder(holder, encoder, source=source)
        except WeightsError as error:
            return error
        return None

    # Downloads wait for the network, and without one the hub's client tries for half a minute: all at the same time.
    with ThreadPoolExecutor(max_workers=8 if source is None else 1) as pool:
        errors = {encoder: error for encoder, error in zip(known, pool.map(check, known), strict=True) if error}
    if errors and source is None:
        first = next(iter(errors.values()))
        raise WeightsError(_not_downloaded(list(errors), _first_line(first.__cause__ or first)))
    problems = [problem for error in errors.values() for problem in error.problems]
    if problems or unknown:
        raise WeightsError([*problems, *unknown.values()])
