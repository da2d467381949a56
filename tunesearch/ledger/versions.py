"""The versions that decide a result."""

from __future__ import annotations

import importlib.metadata
import platform

from tunesearch.version import __version__

_PACKAGES = (
    "ray",
    "torch",
    "torchvision",
    "optuna",
    "mlflow",
    "albumentations",
    "segmentation-models-pytorch",
    "timm",
    "numpy",
)


def versions() -> dict[str, str]:
    """Of Python, tunesearch and the packages that decide a result."""
    return {
        "python": platform.python_version(),
        "tunesearch": __version__,
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }
