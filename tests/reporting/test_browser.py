"""The report in a real browser, without any network. Oracle: what Chromium says over its DevTools protocol.

Without a browser these tests are skipped, unless ``$TUNESEARCH_NEEDS_BROWSER`` says that a run must not skip them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tunesearch.ledger.store import Ledger
from tunesearch.reporting.page import write_report

sys.path.insert(0, str(Path(__file__).parent))
from browser import Visit, find_browser, visit

MISSING = "there is no Chromium (apt-get install chromium; $TUNESEARCH_BROWSER names another)"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(find_browser() is None and not os.environ.get("TUNESEARCH_NEEDS_BROWSER"), reason=MISSING),
]
EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
WIDER = "document.documentElement.scrollWidth - innerWidth"
EMPTY = "[...document.querySelectorAll('[data-figure]')].filter((p) => !p.querySelector('svg.main-svg')).length"
CLIPPED = (
    "[...document.querySelectorAll('[data-figure]')]"
    ".filter((p) => Math.abs(p.querySelector('svg.main-svg').clientWidth - p.clientWidth) > 1).length"
)
BACK = "getComputedStyle(document.body).backgroundColor"
HACKED = "String(window.hacked)"


@pytest.fixture(scope="module", autouse=True)
def _there_is_one() -> None:
    assert find_browser() is not None, MISSING


@pytest.fixture
def report(told_search: Callable[..., Ledger], tmp_path: Path) -> Path:
    """Of a search with hostile names, messages and settings, and with enough completed trials for every figure."""
    stages = {str(number): ("completed", [0.02 * number, 0.03 * number]) for number in range(12)}
    stages |= {"bad": ("failed", [0.1]), "weak": ("stopped", [0.1])}
    names = json.dumps(["background", EVIL, "c", "d", "e"])
    ledger = told_search("evil", stages, f"data.classes={names}", message=EVIL, settings={"address": EVIL})
    write_report(ledger, tmp_path / "report.html", status="completed")
    return tmp_path / "report.html"


def _only_itself(seen: Visit, page: Path) -> None:
    assert seen.troubles == []
    assert [url for url in seen.requests if not url.startswith("data:")] == [page.resolve().as_uri()]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [(1600, 1200), (390, 844)])
def test_it_opens_offline_without_a_word(report: Path, size: tuple[int, int], dark: bool) -> None:
    seen = visit(report, width=size[0], height=size[1], dark=dark, ask=(WIDER, EMPTY, CLIPPED, BACK, HACKED))
    _only_itself(seen, report)
    assert seen.values[WIDER] <= 0
    assert seen.values[EMPTY] == 0
    assert seen.values[CLIPPED] == 0
    assert seen.values[HACKED] == "undefined"
    assert seen.values[BACK] == ("rgb(17, 22, 28)" if dark else "rgb(255, 255, 255)")


def test_the_button_changes_the_theme_and_the_figures(report: Path) -> None:
    color = "getComputedStyle(document.querySelector('#history .xtick text')).fill"
    press = "document.getElementById('theme').click(), new Promise((done) => setTimeout(() => done('pressed'), 300))"
    seen = visit(report, ask=(color, press, BACK, f"{color} + ''"))
    assert seen.troubles == []
    assert seen.values[BACK] == "rgb(17, 22, 28)"
    assert seen.values[color] == "rgb(27, 36, 48)"
    assert seen.values[f"{color} + ''"] == "rgb(230, 235, 240)"


def test_it_prints(report: Path) -> None:
    seen = visit(report, dark=True, pdf=True)
    _only_itself(seen, report)
    assert seen.pdf.startswith(b"%PDF")


def test_the_browser_would_tell(tmp_path: Path) -> None:
    """A page that does everything that a report must not do is found out."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<!DOCTYPE html><html><img src='https://example.org/a.png'><script>console.error('oh');"
        "fetch('https://example.org/b').catch(() => 0);"
        # It counts as drawn in the step that raises, so that nobody has left the page by then.
        "setTimeout(() => { document.documentElement.dataset.drawn = '1'; nothing.at.all }, 0)</script></html>"
    )
    seen = visit(page)
    assert {"https://example.org/a.png", "https://example.org/b"} <= set(seen.requests)
    assert any("console: oh" in trouble for trouble in seen.troubles)
    assert any("ReferenceError" in trouble for trouble in seen.troubles)


def test_the_page_itself_forbids_requests(report: Path) -> None:
    """Were something to get into the page, its policy would stop it: oracle, the browser's refusal."""
    ask = "fetch('https://example.org/').then(() => 'sent', () => 'refused')"
    image = (
        "new Promise((d) => { const i = new Image(); i.onerror = () => d('refused'); i.src = 'https://example.org/i' })"
    )
    seen = visit(report, ask=(ask, image))
    assert seen.values == {ask: "refused", image: "refused"}
    assert sum("Content Security Policy" in trouble for trouble in seen.troubles) >= 2


def test_a_long_search_gives_a_file_that_opens(long_search: Ledger, tmp_path: Path) -> None:
    """1000 trials x 10 epochs. Times and size are printed, not asserted (pytest -s): they are the machine's."""
    begun = time.monotonic()
    told = write_report(long_search, tmp_path / "long.html", status="completed")
    built = time.monotonic()
    seen = visit(tmp_path / "long.html", ask=(EMPTY,))
    _only_itself(seen, tmp_path / "long.html")
    assert seen.values[EMPTY] == 0
    text = (tmp_path / "long.html").read_text("utf-8")
    assert "200 of 1000 curves are shown" in text
    print(
        f"\n1000 trials x 10 epochs: built in {built - begun:.1f} s, {told['bytes'] / 1e6:.2f} MB, "
        f"opened and drawn in {time.monotonic() - built:.1f} s"
    )
