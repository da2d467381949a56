"""The JSON Schema of a search-space file."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from tunesearch.experiment.sections import FIELDS, NAME_PATTERN, SCHEDULERS, SMOKE_SECTIONS, Objective, SearchSettings
from tunesearch.segmentation.config import DataConfig, TrainConfig

_SCALAR: dict[str, Any] = {"type": ["string", "number", "boolean", "null"]}
_SIZE = {"type": "string", "pattern": r"^\s*\d+\s*[xX]\s*\d+\s*$"}
"""How a file writes a size; the model's own schema knows only the mapping."""


def experiment_schema() -> dict[str, Any]:
    """JSON Schema of a search-space file, for editors. Conditions and ranges of single fields are beyond it."""
    definitions: dict[str, Any] = {}

    def of(model: type[BaseModel]) -> dict[str, Any]:
        schema = model.model_json_schema(ref_template="#/$defs/{model}")
        definitions.update(schema.pop("$defs", {}))
        return schema

    train = of(TrainConfig)
    fields = {
        name: {"$ref": "#/$defs/Parameter", "description": train["properties"][name].get("description", "")}
        for name in FIELDS
    }
    sections: dict[str, Any] = {
        "name": {"type": "string", "pattern": NAME_PATTERN},
        "description": {"type": ["string", "null"]},
        "data": of(DataConfig),
        "train": {**train, "required": []},
        "search": of(SearchSettings),
        "scheduler": _scheduler({kind: of(model) for kind, model in SCHEDULERS.items()}),
        "objective": of(Objective),
        "parameters": {**_object(fields), "minProperties": 1},
        "try_first": _try_first(),
    }
    sections["smoke"] = _smoke(sections, fields)
    definitions["Size"] = {"anyOf": [_SIZE, definitions["Size"]]}
    definitions |= {"When": _when(), "Parameter": _parameter()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tunesearch search space",
        **_object(sections, required=["name", "parameters"]),
        "$defs": definitions,
    }


def _object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An object that has these properties and no others."""
    return {"type": "object", "properties": properties, "additionalProperties": False, **more}


def _when() -> dict[str, Any]:
    """The condition of a parameter."""
    return {
        "description": "Parent parameter -> value or values; all parents must hold.",
        "type": "object",
        "additionalProperties": {"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR, "minItems": 1}]},
        "propertyNames": {"enum": list(FIELDS)},
    }


def _parameter() -> dict[str, Any]:
    """The three forms of a parameter."""

    def ends(kind: str) -> dict[str, Any]:
        return {"type": "array", "items": {"type": kind}, "minItems": 2, "maxItems": 2}

    log = {"log": {"type": "boolean"}}
    forms: dict[str, dict[str, Any]] = {
        "choice": {"choice": {"type": "array", "items": _SCALAR, "minItems": 1, "uniqueItems": True}},
        "int": {"int": ends("integer"), **log, "step": {"type": "integer", "minimum": 1}},
        "float": {"float": ends("number"), **log, "step": {"type": "number", "exclusiveMinimum": 0}},
    }
    when = {"when": {"$ref": "#/$defs/When"}}
    return {"oneOf": [_object({**form, **when}, required=[key]) for key, form in forms.items()]}


def _scheduler(kinds: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One kind of early stopping with its settings, or none."""
    return {"oneOf": [{"const": "none"}, *(_object({kind: model}, required=[kind]) for kind, model in kinds.items())]}


def _try_first() -> dict[str, Any]:
    """Points that are tried before the sampler takes over."""
    return {
        "description": "Full or partial points that are tried before the sampler takes over.",
        "type": "array",
        "items": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"enum": list(FIELDS)},
            "additionalProperties": _SCALAR,
        },
    }


def _smoke(sections: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """What ``--smoke`` changes: some sections, and parameters that are changed or taken out."""
    smoke = {name: sections[name] for name in SMOKE_SECTIONS}
    smoke["parameters"] = _object({name: {"anyOf": [schema, {"type": "null"}]} for name, schema in fields.items()})
    return {"description": "What --smoke changes beside the data.", **_object(smoke)}
