"""A layout of the user's own: ``module:function``, called as ``function(data) -> dict[str, list[Pair]]``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tunesearch.errors import DataError, Problem, nearest
from tunesearch.segmentation.config import DataConfig
from tunesearch.segmentation.data.layouts.pair import PARTS, Found, Pair


def find_custom(data: DataConfig) -> Found:
    """The pairs that the user's function gives.

    Raises:
        DataError: it cannot be imported, raises, or gives something else.
    """
    where = f"data.layout {data.layout}"
    module, _, attribute = data.layout.partition(":")
    try:
        function: Callable[[DataConfig], Any] = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a user's module may fail in any way while it is imported
        hint = "the module must be importable: install it or put its folder on PYTHONPATH"
        rule = f"the layout cannot be imported: {type(error).__name__}: {error}"
        raise DataError(Problem(where, rule, hint=hint)) from error
    try:
        result = function(data)
    except DataError:
        raise
    except Exception as error:
        raise DataError(Problem(where, f"the layout raised {type(error).__name__}: {error}")) from error

    problems: list[Problem] = []
    found: dict[str, list[Pair]] = {}
    if not isinstance(result, Mapping) or not all(
        isinstance(pairs, list | tuple) and all(isinstance(pair, Pair) for pair in pairs) for pairs in result.values()
    ):
        rule = "must return a dict from part to a list of tunesearch.segmentation.data.layouts.Pair"
        raise DataError(Problem(where, rule, value=type(result).__name__))
    for part, pairs in result.items():
        if part not in PARTS:
            problems.append(Problem(where, "unknown part", value=repr(part), hint=nearest(part, PARTS)))
            continue
        found[part] = []
        for pair in pairs:
            pair = Pair(str(pair.id), Path(pair.image).absolute(), Path(pair.mask).absolute())
            absent = [path for path in (pair.image, pair.mask) if not path.is_file()]
            problems += [
                Problem(str(path), f"{where} names this file of {part}, but it is not there") for path in absent
            ]
            if not absent:
                found[part].append(pair)
    return found, problems
