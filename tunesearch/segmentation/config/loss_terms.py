"""The terms of a loss that is written as a weighted sum."""

from __future__ import annotations

import re
from typing import Any

from tunesearch.segmentation.config.names import IMPORT_PATH, LOSSES

_TERM = re.compile(r"\s*(?:(\d+(?:\.\d*)?|\.\d+)\s*\*)?\s*([a-z_]+)\s*")


def loss_terms(loss: str) -> tuple[tuple[float, str], ...]:
    """The terms of a loss as (weight, name): ``0.5*cross_entropy + dice`` -> ((0.5, cross_entropy), (1.0, dice)).

    A user's own ``module:function`` is the one term (1.0, that path).

    Raises:
        ValueError: a term is no ``NAME`` or ``WEIGHT*NAME``, a name is unknown or stands twice, a weight is zero.
    """
    if IMPORT_PATH.match(loss):
        return ((1.0, loss),)
    terms: dict[str, float] = {}
    for written in loss.split("+"):
        match = _TERM.fullmatch(written)
        if match is None or match[2] not in LOSSES:
            raise ValueError(
                f"loss must be one of {', '.join(LOSSES)}, a sum such as 0.5*cross_entropy + dice, "
                "or an import path 'module:function'"
            )
        if match[2] in terms or (match[1] is not None and float(match[1]) == 0.0):
            raise ValueError("the terms of a loss must be different losses with weights above 0")
        terms[match[2]] = float(match[1] or 1.0)
    return tuple((weight, name) for name, weight in terms.items())


def check_loss(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, a sum of them, or an import path 'module:function'")
    loss_terms(value)
    return value
