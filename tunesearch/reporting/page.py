"""The page: what the ledger, the data and the best network tell, section by section, in one HTML file."""

from __future__ import annotations

import json
import secrets
import tempfile
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from tunesearch.errors import InputError, Problem
from tunesearch.ledger.store import Ledger
from tunesearch.reporting.figures.figure import Figure
from tunesearch.reporting.items import Item
from tunesearch.reporting.reported import ReportedSearch
from tunesearch.reporting.sections import head
from tunesearch.reporting.sections.best import best_section
from tunesearch.reporting.sections.configuration import configuration_section
from tunesearch.reporting.sections.confirmation import confirmation_section
from tunesearch.reporting.sections.data import data_section
from tunesearch.reporting.sections.parameters import parameters_section
from tunesearch.reporting.sections.trials import trials_section
from tunesearch.segmentation.files import write_text
from tunesearch.version import __version__


def write_report(
    ledger: Ledger, output: Path, *, status: str, on_message: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Write the report of a search, whatever state it is in.

    Args:
        ledger: the search.
        output: the HTML file; written whole or not at all.
        status: of the search, as ``SearchResult`` has it.
        on_message: told what takes its time.

    Returns:
        ``output``, ``bytes``, and ``missing``: what could not be shown, and why.

    Raises:
        InputError: ``output`` is no file that can be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):  # before minutes are spent on it
            pass
    except OSError as error:
        rule = f"must be a file that can be written: {error.strerror}"
        raise InputError(Problem("-o", rule, value=str(output))) from error
    search = ReportedSearch(ledger, status, on_message)
    page = _render(search)
    write_text(output, page)
    return {"output": str(output), "bytes": len(page.encode()), "missing": search.missing}


def _render(search: ReportedSearch) -> str:
    """The whole page."""
    sections = [
        ("search", "The search", trials_section(search)),
        ("parameters", "The parameters", parameters_section(search)),
        ("winner", head.name_of_best(search), best_section(search)),
        ("data", "The data", data_section(search)),
        ("configuration", "Configuration and versions", configuration_section(search)),
    ]
    if search.confirmed is not None:
        sections.insert(0, ("confirmed", "Confirmation", confirmation_section(search, search.confirmed)))
    shown = [{"key": key, "title": title, "items": items} for key, title, items in sections]
    templates = Environment(
        loader=PackageLoader("tunesearch.reporting", "page_files"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    files = resources.files("tunesearch.reporting") / "page_files"
    return templates.get_template("page.html").render(
        name=search.ledger.name,
        space=search.ledger.experiment.name,
        status_text=head.status_text(search.status),
        warnings=head.warnings(search),
        headline=head.headline(search),
        cards=head.cards(search),
        sections=shown,
        figures=Markup(_as_json(_plots(shown))),
        nonce=secrets.token_urlsafe(16),
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")),
        script=Markup((files / "page.js").read_text("utf-8")),
        style=Markup((files / "page.css").read_text("utf-8")),
        version=__version__,
        written=time.strftime("%Y-%m-%d %H:%M"),
    )


def _plots(sections: list[Item]) -> dict[str, Any]:
    """Plotly's data and layout of every figure, by key."""
    found: dict[str, Any] = {}

    def take(figure: Figure) -> None:
        if figure.plot is not None:
            figure.plot.update_layout(template="none", title=None)
            content = json.loads(figure.plot.to_json())
            content.get("layout", {}).pop("template", None)
            found[figure.key] = {"data": content["data"], "layout": content.get("layout", {})}
        for part in figure.small:
            take(part)

    for section in sections:
        for item in section["items"]:
            if item["kind"] == "figure":
                take(item["figure"])
    return found


def _as_json(content: Any) -> str:
    """JSON that can stand inside an HTML element."""
    text = json.dumps(content, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("\u2028", "\\u2028")
