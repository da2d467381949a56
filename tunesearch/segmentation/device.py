"""The device that a network runs on, and the type that it computes in."""

from __future__ import annotations

import contextlib

import torch

from tunesearch.segmentation.config import TrainConfig


def pick_device(name: str = "auto") -> torch.device:
    """``auto``: CUDA, else Apple's MPS, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def pick_precision(config: TrainConfig, device: torch.device) -> torch.dtype:
    """The autocast type; float32 means no autocast. ``auto`` picks what is fast and safe on the device."""
    if config.precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[config.precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    # torch has no public name for what its CPU kernels support.
    if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    return torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """torch's autocast to ``dtype``; float32: none."""
    return torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)
