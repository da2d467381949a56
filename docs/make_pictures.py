"""Makes the README's two pictures from a real search on the built-in sample: ``python docs/make_pictures.py``.

It takes a few minutes on two cores and needs a Chromium, for the picture of the report.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console

import tunesearch
from tunesearch.cli.live import Picture

PICTURES = Path(__file__).parent / "pictures"
TRIALS, EPOCHS = 24, 9
WHEN = 8
"""Trials that must have ended before the terminal's picture is taken."""
WIDTH, HEIGHT = 1180, 1330
"""Of the report's picture, in pixels."""


class Photographer(Picture):
    """The live view, kept as an SVG at one moment of the search."""

    svg = ""

    def on_trial_change(self, number: int) -> None:
        super().on_trial_change(number)
        records = self.records()
        running = [record for record in records if record.outcome is None]
        ended = [record for record in records if record.outcome]
        telling = any(len(record.epochs) >= 5 for record in running)
        telling &= any(record.outcome == "completed" for record in ended[-5:])
        if not self.svg and len(ended) >= WHEN and telling:
            paper = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
            screen, self.console = self.console, paper
            command = f"$ tunesearch run voc_unet --smoke --name sample --trials {TRIALS} --epochs {EPOCHS}"
            paper.print(command, style="bold", highlight=False)
            paper.print(self.draw())
            paper.print()  # below the last line, where some fonts have their underscores
            self.console = screen
            self.svg = paper.export_svg(title="tunesearch")


def without_fonts(svg: str) -> str:
    """An SVG that asks no server for its font."""
    return re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)


def browser() -> str:
    """The Chromium of this machine.

    Raises:
        SystemExit: there is none.
    """
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if (found := shutil.which(name)) is not None:
            return found
    sys.exit("the picture of the report needs a Chromium on the PATH")


def photograph(page: Path, picture: Path) -> None:
    """The top of a page as a PNG of few colours."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "page.png"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=20000"]
        size = [f"--window-size={WIDTH},{HEIGHT}", f"--user-data-dir={folder}/profile"]
        command = [browser(), *flags, *size, f"--screenshot={shot}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        with Image.open(shot) as image:
            image.convert("RGB").quantize(128).save(picture, optimize=True)


def main() -> None:
    browser()
    PICTURES.mkdir(exist_ok=True)
    watcher = Photographer(Console(force_terminal=True, file=io.StringIO()))
    with tempfile.TemporaryDirectory() as storage:
        options = {"name": "sample", "storage": storage, "callback": watcher}
        tunesearch.run("voc_unet", smoke=True, trials=TRIALS, epochs=EPOCHS, **options)
        report = tunesearch.report("sample", storage=storage)
        photograph(Path(report["output"]).resolve(), PICTURES / "report.png")
    if not watcher.svg:
        sys.exit("no moment of the search had what the terminal's picture should show")
    (PICTURES / "terminal.svg").write_text(without_fonts(watcher.svg), encoding="utf-8")
    for file in sorted(PICTURES.iterdir()):
        print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
