"""Names of searches."""

from __future__ import annotations

import re

from tunesearch.errors import Problem, SearchNameError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(name: str) -> None:
    """Refuse a name that is no single, plain folder name.

    Raises:
        SearchNameError: it is not.
    """
    if not NAME.fullmatch(name):
        rule = "must be letters, digits, '.', '_' and '-', starting with a letter or digit"
        raise SearchNameError(Problem("--name", rule, value=repr(name)))
