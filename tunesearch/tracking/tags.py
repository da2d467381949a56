"""By which names and values runs are known in MLflow, whoever writes or reads them."""

from __future__ import annotations

import json
from typing import Any

from tunesearch.segmentation.config import DataConfig
from tunesearch.tracking.store import without_password

PARENT = "parent"
TRAININGS = "tunesearch-train"
"""MLflow's experiment of production trainings."""
SAMPLE = "built-in sample"
MAIN = (
    "architecture", "encoder", "encoder_weights", "finetune_fraction", "optimizer", "lr", "schedule", "loss",
    "class_weights", "batch_size", "size", "epochs",
)  # fmt: skip
"""The fields that a configuration is told in short by."""


def measured_on(data: DataConfig, digest: str, *, objective: str, resolution: str) -> dict[str, str]:
    """The tags that tell which scores may be compared: those with the same data and the same measure.

    Args:
        digest: of the split.
    """
    return {
        "tunesearch.objective": objective,
        "tunesearch.resolution": resolution,
        "tunesearch.data": SAMPLE if data.layout == "sample" else without_password(str(data.root)),
        "tunesearch.data_digest": digest,
    }


def parameter(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"width", "height"}:
        return f"{value['width']}x{value['height']}"
    return json.dumps(value) if isinstance(value, dict | list) else str(value)
