"""The ``smoke`` section of a document, and the small document that it makes."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from tunesearch.errors import Problem, nearest
from tunesearch.experiment.document import Document
from tunesearch.experiment.sections import SMOKE_SECTIONS, SearchSettings
from tunesearch.segmentation.config import CLASS_WEIGHTS, TrainConfig
from tunesearch.space import text

MERGED = ("train", "search", "objective", "parameters")
"""The sections of which ``smoke`` changes single keys; the others it replaces."""


def smoke_problems(document: Document) -> list[Problem]:
    """What is wrong with the shape of the smoke section; its content is checked by applying it."""
    raw = document.data.get("smoke", {})
    if not isinstance(raw, dict):
        rule = "must be a mapping with the sections " + ", ".join(SMOKE_SECTIONS)
        return [Problem(where=document.where("smoke"), path="smoke", rule=rule, value=text(raw))]
    problems = []
    for name, content in raw.items():
        path = f"smoke.{name}"
        if name not in SMOKE_SECTIONS:
            hint = "a smoke run brings its own data" if name == "data" else nearest(name, SMOKE_SECTIONS)
            problems.append(Problem(where=document.where(path), path=path, rule="unknown key", hint=hint))
        elif name in MERGED and not isinstance(content, dict):
            rule = "must be a mapping"
            problems.append(Problem(where=document.where(path), path=path, rule=rule, value=text(content)))
    return problems


def smoked(document: Document) -> Document:
    """The document with its smoke section applied; the file itself is right."""
    small = document.copy()
    section = small.data.pop("smoke", {})
    epochs = min(4, small.section("train").get("epochs", TrainConfig().epochs))
    trials = min(8, small.section("search").get("trials", SearchSettings().trials))
    given = {f"{name}.{key}" for name in ("train", "search", "parameters") for key in section.get(name, {})}
    for path, value in (("train.epochs", epochs), ("train.size", "64x64"), ("search.trials", trials)):
        searched = path.replace("train.", "parameters.")
        alone = list(small.section("parameters")) == [path.removeprefix("train.")]  # else nothing is left to search
        if path not in given and searched not in given and not alone:
            small.change(path.split("."), value, where="--smoke")
    small.data["data"] = {"layout": "sample"}
    small.marks = {path: where for path, where in small.marks.items() if path.partition(".")[0] != "data"}
    for name, content in section.items():
        parts = [([name, key], value) for key, value in content.items()] if name in MERGED else [([name], content)]
        for keys, value in parts:
            source = ".".join(["smoke", *keys])
            small.change(keys, value, where=document.where(source))
            for mark, where in document.marks.items():
                if mark.startswith(f"{source}."):
                    small.marks[mark.removeprefix("smoke.")] = where
    _start_encoders_from_scratch(small)
    _fit_crops(small)
    _forget_class_weights(small)
    return small


def _values(document: Document, field: str) -> list[tuple[dict[str, Any] | list[Any], Any]]:
    """Where the values of a field stand, fixed or in a choice: the container and the key or index in it."""
    places: list[tuple[dict[str, Any] | list[Any], Any]] = []
    if field in document.section("train"):
        places.append((document.section("train"), field))
    searched = document.section("parameters").get(field)
    if isinstance(searched, dict) and isinstance(searched.get("choice"), list):
        places += [(searched["choice"], index) for index in range(len(searched["choice"]))]
    return places


def _without_repeats(document: Document, field: str) -> None:
    searched = document.section("parameters").get(field)
    if isinstance(searched, dict) and isinstance(searched.get("choice"), list):
        searched["choice"] = list({str(value): value for value in searched["choice"]}.values())


def _fit_crops(small: Document) -> None:
    """A crop that is right for the file's size may be larger than the small one, or too small a share of it."""
    sizes = [container[key] for container, key in _values(small, "size")]
    for container, key in _values(small, "crop"):
        for size in sizes:
            try:
                TrainConfig.model_validate({"size": size, "crop": container[key]})
            except ValidationError:
                container[key] = 0.5
    _without_repeats(small, "crop")


def _forget_class_weights(small: Document) -> None:
    """Weights by hand are one per class of the user's data, and the sample has classes of its own."""
    for container, key in _values(small, "class_weights"):
        if container[key] not in CLASS_WEIGHTS:
            container[key] = "none"
    _without_repeats(small, "class_weights")


def _start_encoders_from_scratch(small: Document) -> None:
    """A smoke run downloads nothing, so no encoder starts from ImageNet."""
    if small.section("train").get("encoder_weights") == "imagenet":
        small.data["train"]["encoder_weights"] = "none"
    searched = small.section("parameters").get("encoder_weights")
    if isinstance(searched, dict) and "imagenet" in (searched.get("choice") or ()):
        searched["choice"] = ["none"]
