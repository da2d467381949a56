"""The user's own functions and classes, named in a configuration as ``module:attribute``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from tunesearch.errors import InputError, Problem


def find_user_code(folder: str) -> None:
    """Let the user's modules be imported from a folder; what is installed goes first."""
    if folder not in sys.path:
        sys.path.append(folder)


def import_object(path: str, what: str) -> Any:
    """The function or class behind ``module:attribute``, a user's own model or loss.

    Raises:
        InputError: it cannot be imported or called.
    """
    module_name, _, attribute = path.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (Exception, SystemExit) as error:  # a user's module may fail in any way while it is imported
        hint = "put the module beside the file that names it, or on PYTHONPATH"
        reason = str(error) if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        problem = Problem(what, "must be importable as module:attribute", value=f"{path} ({reason})", hint=hint)
        raise InputError(problem) from error
    if not callable(found):
        raise InputError(Problem(what, "must be a function or a class", value=f"{path}, {type(found).__name__}"))
    return found
