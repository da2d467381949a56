"""The section on the data: the frozen split, how often each class occurs, and what the checks found."""

from __future__ import annotations

from tunesearch.reporting.figures import data as data_figures
from tunesearch.reporting.items import FINDINGS, Item, figure_items, list_item, table_item, text_item
from tunesearch.reporting.reported import ReportedSearch, first_line
from tunesearch.segmentation.data.checks import DataReport, check_data
from tunesearch.segmentation.data.layouts import PARTS, find_pairs


def data_section(search: ReportedSearch) -> list[Item]:
    """The data as they were frozen, and as they are now."""
    split, data = search.ledger.split, search.ledger.experiment.data
    rows = [[part, len(split.items(part)), split.part_digest(part)] for part in PARTS]
    items = [
        table_item("The frozen split", ["part", "images", "SHA-256 of ids and contents"], rows),
        text_item(f"All of it: {split.digest}.", "note"),
    ]
    if data.layout != "sample" and not split.root.exists():
        search.missing.append("the checks of the data: they are no longer where they were")
        gone = "The data are no longer where they were, so there is no class histogram and no check of them."
        return [*items, text_item(gone)]
    try:
        if data.layout == "sample":
            find_pairs(data)
        search.on_message(f"checking {sum(len(split.items(part)) for part in PARTS)} images and masks")
        report = check_data(data, split=split)
    except Exception as error:  # a layout of the user's own may raise anything
        search.missing.append(f"the checks of the data: {first_line(error)}")
        return [*items, text_item(f"The data could not be checked: {first_line(error)}")]
    return [*items, *_parts(report), *_findings(report, f"{split.root}/")]


def _parts(report: DataReport) -> list[Item]:
    items: list[Item] = []
    if any(sum(part.pixels) for part in report.parts.values()):
        items += figure_items(data_figures.class_histogram(report))
    sizes = [
        [name, part.images, "x".join(map(str, part.smallest)), "x".join(map(str, part.largest)), f"{part.void:,}"]
        for name, part in report.parts.items()
        if part.images
    ]
    if sizes:
        head = ["part", "images", "smallest", "largest", "void pixels"]
        items.append(table_item("What the parts hold", head, sizes))
    return items


def _findings(report: DataReport, root: str) -> list[Item]:
    """What the checks found, without the folder of the data."""
    items = []
    found = [("Problems", [str(problem) for problem in report.problems]), ("Warnings", list(report.warnings))]
    for title, lines in found:
        if lines:
            more = [f"and {len(lines) - FINDINGS} more"] if len(lines) > FINDINGS else []
            told = [line.replace(root, "") for line in lines[:FINDINGS]] + more
            items.append(list_item(f"{title} that the checks found", told))
    if not report.problems and not report.warnings:
        items.append(text_item("The checks found nothing wrong: every file is what was frozen, sizes and labels fit."))
    elif not report.problems:
        items.append(text_item("No problem was found: every file is what was frozen when the search began."))
    return items
