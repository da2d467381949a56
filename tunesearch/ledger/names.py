"""Names of searches."""

from __future__ import annotations

import re

from tunesearch.errors import Problem, SearchNameError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


RESERVED = ("mlflow.db", "mlartifacts", "trained")
"""What else lies in a storage folder."""


def check_name(name: str) -> None:
    """Refuse a name that is no single, plain folder name.

    Raises:
        SearchNameError: it is not.
    """
    if not NAME.fullmatch(name):
        rule = "must be letters, digits, '.', '_' and '-', starting with a letter or digit"
        raise SearchNameError(Problem("--name", rule, value=repr(name)))
    if name in RESERVED or name.startswith("mlflow.db"):
        raise SearchNameError(Problem("--name", "must not be what the storage folder needs itself", value=repr(name)))
