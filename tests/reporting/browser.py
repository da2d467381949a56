"""A headless Chromium, driven over its DevTools protocol: what a page logs, asks the network for and looks like.

Nothing but aiohttp, which Ray's dashboard brings, is needed. ``$TUNESEARCH_BROWSER`` names another browser.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find_browser() -> str | None:
    """The browser's program; None: there is none."""
    given = os.environ.get("TUNESEARCH_BROWSER")
    return given or next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass
class Visit:
    """What happened while a page was open.

    Attributes:
        troubles: errors and warnings of its console, exceptions, refused content, all in words.
        requests: every URL that was asked for, the page's own too.
        values: of the expressions that were evaluated when the page was drawn, by expression.
        picture: the whole page as PNG.
        pdf: as it is printed.
    """

    troubles: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    picture: bytes = b""
    pdf: bytes = b""


def visit(
    page: Path,
    *,
    width: int = 1600,
    height: int = 1200,
    dark: bool = False,
    ask: tuple[str, ...] = (),
    picture: bool = False,
    pdf: bool = False,
    timeout: float = 180.0,
) -> Visit:
    """Open a page from its file, wait until its figures are drawn, and tell what happened.

    Args:
        width, height: of the window, in CSS pixels; below 600 it is a phone.
        ask: JavaScript expressions.
    """
    browser = find_browser()
    assert browser is not None
    profile = Path(tempfile.mkdtemp(prefix="ts-browser-", dir="/tmp"))
    # No sandbox: a container has no namespaces to make one of, and the page is our own. No name resolves.
    command = [
        browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}",
        "--remote-debugging-port=0", "about:blank",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            tab = _Tab(profile, timeout)
            return asyncio.run(tab.visit(page, width, height, dark=dark, ask=ask, picture=picture, pdf=pdf))
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
            shutil.rmtree(profile, ignore_errors=True)


class _Tab:
    def __init__(self, profile: Path, timeout: float) -> None:
        self.profile, self.until = profile, time.monotonic() + timeout
        self.seen = Visit()
        self.number = 0

    async def visit(self, page: Path, width: int, height: int, **wanted: Any) -> Visit:
        port = self.profile / "DevToolsActivePort"
        while not (port.exists() and len(port.read_text().splitlines()) == 2):
            assert time.monotonic() < self.until, "the browser does not start"
            await asyncio.sleep(0.05)
        address = f"http://127.0.0.1:{port.read_text().splitlines()[0]}"
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{address}/json") as answer:
                tabs = [tab for tab in await answer.json() if tab["type"] == "page"]
            async with session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0) as self.socket:
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await self.call(f"{domain}.enable")
                await self.call(
                    "Emulation.setDeviceMetricsOverride",
                    width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
                )  # fmt: skip
                scheme = {"name": "prefers-color-scheme", "value": "dark" if wanted["dark"] else "light"}
                await self.call("Emulation.setEmulatedMedia", features=[scheme])
                await self.call("Page.navigate", url=page.resolve().as_uri())
                while await self.value("document.documentElement.dataset.drawn") is None:
                    assert time.monotonic() < self.until, f"the page is not drawn: {self.seen.troubles}"
                    await asyncio.sleep(0.1)
                await asyncio.sleep(0.5)  # what a drawn page still asks for
                for expression in wanted["ask"]:
                    self.seen.values[expression] = await self.value(expression)
                if wanted["picture"]:
                    shot = await self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
                    self.seen.picture = base64.b64decode(shot["data"])
                if wanted["pdf"]:
                    printed = await self.call("Page.printToPDF", printBackground=True)
                    self.seen.pdf = base64.b64decode(printed["data"])
        return self.seen

    async def value(self, expression: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": parameters})
        while True:
            message = await self.socket.receive_json(timeout=max(1.0, self.until - time.monotonic()))
            if message.get("id") == self.number:
                assert "error" not in message, f"{method}: {message}"
                result: dict[str, Any] = message["result"]
                return result
            self.note(message.get("method", ""), message.get("params", {}))

    def note(self, event: str, what: dict[str, Any]) -> None:
        if event == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
            told = " ".join(str(part.get("value", part.get("description"))) for part in what["args"])
            self.seen.troubles.append(f"console: {told}")
        elif event == "Runtime.exceptionThrown":
            details = what["exceptionDetails"]
            self.seen.troubles.append(f"exception: {details.get('exception', {}).get('description', details['text'])}")
        elif event == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            self.seen.troubles.append(f"log: {what['entry']['text']}")
        elif event == "Network.requestWillBeSent":
            self.seen.requests.append(what["request"]["url"])
