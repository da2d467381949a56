"""The JSON Schema of a search-space file."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from tunesearch.experiment.sections import FIELDS, NAME_PATTERN, SCHEDULERS, SMOKE_SECTIONS, Objective, SearchSettings
from tunesearch.segmentation.config import DataConfig, TrainConfig


def experiment_schema() -> dict[str, Any]:
    """JSON Schema of a search-space file, for editors. Conditions and ranges of single fields are beyond it."""
    definitions: dict[str, Any] = {}

    def of(model: type[BaseModel]) -> dict[str, Any]:
        schema = model.model_json_schema(ref_template="#/$defs/{model}")
        definitions.update(schema.pop("$defs", {}))
        return schema

    train = of(TrainConfig)
    # Size is written 256x192 or as a mapping; the model's own schema knows only the mapping.
    definitions["Size"] = {"anyOf": [{"type": "string", "pattern": r"^\s*\d+\s*[xX]\s*\d+\s*$"}, definitions["Size"]]}
    scalar = {"type": ["string", "number", "boolean", "null"]}
    when = {
        "description": "Parent parameter -> value or values; all parents must hold.",
        "type": "object",
        "additionalProperties": {"anyOf": [scalar, {"type": "array", "items": scalar, "minItems": 1}]},
        "propertyNames": {"enum": list(FIELDS)},
    }

    def ends(kind: str) -> dict[str, Any]:
        return {"type": "array", "items": {"type": kind}, "minItems": 2, "maxItems": 2}

    common = {"when": {"$ref": "#/$defs/When"}}
    forms = []
    for key, content, more in (
        ("choice", {"type": "array", "items": scalar, "minItems": 1, "uniqueItems": True}, {}),
        ("int", ends("integer"), {"log": {"type": "boolean"}, "step": {"type": "integer", "minimum": 1}}),
        ("float", ends("number"), {"log": {"type": "boolean"}, "step": {"type": "number", "exclusiveMinimum": 0}}),
    ):
        properties = {key: content, **more, **common}
        forms.append({"type": "object", "properties": properties, "required": [key], "additionalProperties": False})
    definitions |= {"When": when, "Parameter": {"oneOf": forms}}
    fields = {
        name: {"$ref": "#/$defs/Parameter", "description": train["properties"][name].get("description", "")}
        for name in FIELDS
    }
    searched: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": fields}
    schedulers = {kind: of(model) for kind, model in SCHEDULERS.items()}
    sections: dict[str, Any] = {
        "name": {"type": "string", "pattern": NAME_PATTERN},
        "description": {"type": ["string", "null"]},
        "data": of(DataConfig),
        "train": {**train, "required": []},
        "search": of(SearchSettings),
        "scheduler": {
            "oneOf": [
                {"const": "none"},
                *(
                    {"type": "object", "properties": {key: model}, "required": [key], "additionalProperties": False}
                    for key, model in schedulers.items()
                ),
            ]
        },
        "objective": of(Objective),
        "parameters": {**searched, "minProperties": 1},
        "try_first": {
            "description": "Full or partial points that are tried before the sampler takes over.",
            "type": "array",
            "items": {
                "type": "object",
                "minProperties": 1,
                "propertyNames": {"enum": list(FIELDS)},
                "additionalProperties": scalar,
            },
        },
    }
    taken_out = {name: {"anyOf": [schema, {"type": "null"}]} for name, schema in fields.items()}
    smoke = {name: sections[name] for name in SMOKE_SECTIONS}
    smoke["parameters"] = {**searched, "properties": taken_out}
    sections["smoke"] = {
        "description": "What --smoke changes beside the data.",
        "type": "object",
        "properties": smoke,
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tunesearch search space",
        "type": "object",
        "properties": sections,
        "required": ["name", "parameters"],
        "additionalProperties": False,
        "$defs": definitions,
    }
