"""The user's own functions and classes, named in a configuration as ``module:attribute``; the modules they are in."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

from tunesearch.errors import InputError, Problem
from tunesearch.segmentation.config import IMPORT_PATH, DataConfig, TrainConfig


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


def user_code_files(config: TrainConfig, data: DataConfig) -> tuple[Path, ...]:
    """The user's own modules behind ``module:function`` in a configuration, and the modules beside them they import.

    They must be importable here (:func:`find_user_code`). What is installed with Python or
    into its environment is not the user's own.

    Returns:
        Files, and folders for packages: the parents of all are on Python's path.

    Raises:
        InputError: a module is not there.
    """
    found: dict[str, Path] = {}
    for what, value in (("architecture", config.architecture), ("loss", config.loss), ("layout", data.layout)):
        if not IMPORT_PATH.match(value):
            continue
        module = value.partition(":")[0]
        home = _home(module.partition(".")[0])
        if home is None:
            rule = "must be importable as module:attribute"
            raise InputError(Problem(what, rule, value=value, hint="put the module beside the file that names it"))
        if any(home.is_relative_to(sysconfig.get_path(key)) for key in ("stdlib", "purelib", "platlib")):
            continue
        finder = ModuleFinder(path=[str(home)])  # follows the import statements, and runs nothing
        finder.import_hook(module)
        # Modules that are built into Python (sys, time) are found without a file.
        theirs = {name.partition(".")[0] for name, there in finder.modules.items() if getattr(there, "__file__", None)}
        for name in sorted(theirs - {"tunesearch"}):
            path = home / name
            found[name] = path if path.is_dir() else path.with_suffix(".py")
    return tuple(found[name] for name in sorted(found))


def _home(name: str) -> Path | None:
    """The folder on Python's path that a top-level module or package is imported from; None: it is not there."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve().parent
    return Path(spec.origin).resolve().parent if spec.origin and spec.origin.endswith(".py") else None


@contextlib.contextmanager
def user_modules(folder: Path | None) -> Iterator[None]:
    """Import modules from a model folder's code/ first, whatever other modules of their names this process knows.

    Two folders may have modules of one name. What is imported later, by code that imports when it runs, is found too.
    """
    if folder is None:
        yield
        return
    place = str(folder.resolve())
    names = {path.stem for path in folder.iterdir()}
    earlier = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in names}
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a model folder stays as it was written
    importlib.invalidate_caches()
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)
        sys.dont_write_bytecode = writes
        if earlier:
            for name in [name for name in sys.modules if name.partition(".")[0] in names]:
                del sys.modules[name]
            sys.modules.update(earlier)
        find_user_code(place)
