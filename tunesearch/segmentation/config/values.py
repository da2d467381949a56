"""How single values of a configuration are read: a name of a table, class weights, an augmentation."""

from __future__ import annotations

from typing import Any

from pydantic import BeforeValidator

from tunesearch.segmentation.config.names import AUGMENTATIONS, CLASS_WEIGHTS, IMPORT_PATH


def named(table: tuple[str, ...], what: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        if isinstance(value, str) and (value in table or IMPORT_PATH.match(value)):
            return value
        raise ValueError(f"{what} must be one of {', '.join(table)} or an import path 'module:function'")

    return BeforeValidator(check, json_schema_input_type=str)


def read_class_weights(value: Any) -> Any:
    """A name of the table, or one weight per class: a list, or in one text such as ``1, 2.5, 4``."""
    if isinstance(value, str) and value not in CLASS_WEIGHTS:
        try:
            value = [float(part) for part in value.split(",")]
        except ValueError:
            value = None
    if isinstance(value, list | tuple) and len(value) > 1 and all(_is_weight(item) for item in value) and any(value):
        return tuple(float(item) for item in value)
    if isinstance(value, str):
        return value
    raise ValueError(f"class_weights must be one of {', '.join(CLASS_WEIGHTS)} or one weight of at least 0 per class")


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def check_augmentation(value: Any) -> Any:
    """A name of the table, or a list of albumentations transforms, each ``{Name: {argument: value}}``."""
    if isinstance(value, str) and value in AUGMENTATIONS:
        return value
    if isinstance(value, list | tuple) and all(
        isinstance(item, dict) and len(item) == 1 and all(isinstance(key, str) for key in item) for item in value
    ):
        return tuple({name: arguments or {} for name, arguments in item.items()} for item in value)
    raise ValueError(
        f"augmentation must be one of {', '.join(AUGMENTATIONS)}, or a list of albumentations transforms "
        "such as - HorizontalFlip: {p: 0.5}"
    )
