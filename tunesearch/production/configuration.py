"""The document of one training: its configuration and its data set, as ``tunesearch export`` writes them in YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tunesearch.errors import InputError, Problem, nearest
from tunesearch.segmentation.config import DataConfig, TrainConfig
from tunesearch.segmentation.files import write_atomic


def require_replaceable(path: Path) -> None:
    """Refuse to write a document over anything but an earlier one.

    Raises:
        InputError: something else is there, such as a search space.
    """
    if not path.exists():
        return
    try:
        read_configuration(path)
    except InputError as error:
        rule = "exists and is no exported configuration, so it is not replaced"
        raise InputError(Problem(str(path), rule, hint="-o gives another file")) from error


def write_configuration(document: dict[str, Any], path: Path) -> None:
    """Write a document as YAML, completely or not at all."""
    yaml = YAML()
    yaml.default_flow_style = None
    write_atomic(path, lambda temporary: yaml.dump(document, temporary))


def read_configuration(path: Path) -> tuple[TrainConfig, DataConfig, dict[str, Any]]:
    """An exported configuration: the training, the data set, and the whole document.

    Raises:
        InputError: no such file, no YAML, or fields that do not hold; every problem at once.
    """
    try:
        document = YAML(typ="safe").load(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(Problem(str(path), f"must be a readable file: {error.strerror}")) from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(Problem(str(path), f"must be YAML: {' '.join(str(error).split())[:200]}")) from error
    if not isinstance(document, dict) or not all(isinstance(document.get(key), dict) for key in ("config", "data")):
        raise InputError(Problem(str(path), "must have config and data, as tunesearch export writes them"))
    problems: list[Problem] = []
    data = {key: value for key, value in dict(document["data"]).items() if key != "digest"}
    parsed: list[Any] = []
    for section, model, values in (("config", TrainConfig, document["config"]), ("data", DataConfig, data)):
        try:
            parsed.append(model.model_validate(values))
        except ValidationError as error:
            for found in error.errors():
                unknown = found["type"] == "extra_forbidden"
                problems.append(
                    Problem(
                        where=str(path),
                        path=".".join(map(str, (section, *found["loc"]))),
                        rule="is no field" if unknown else found["msg"].removeprefix("Value error, "),
                        value="" if unknown else repr(found["input"])[:80],
                        hint=nearest(found["loc"][-1], model.model_fields) if unknown else "",
                    )
                )
    if problems:
        raise InputError(problems)
    return parsed[0], parsed[1], document
