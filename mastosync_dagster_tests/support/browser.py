"""Chromium without a window, driven over its DevTools protocol.

``websockets``, which Dagster's webserver brings, carries the protocol: no driver and no package for the tests alone.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from websockets.sync.client import connect

from mastosync_dagster.installation.processes import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from websockets.sync.client import ClientConnection

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ARGUMENTS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-proxy-server",
    # Root, in a container, has no other way; the one page that is opened is Dagster's.
    "--no-sandbox",
)
WIDTH, HEIGHT = 1440, 900
_SECONDS = 150.0

# Of several elements with a text the last one is meant: dialogs lie at the end of the page.
_FIND = """
((text, selector, exact) => {
  const shown = (element) => element.getClientRects().length > 0;
  const own = (element) => (element.textContent || '').trim().replace(/\\s+/g, ' ');
  const found = [...document.querySelectorAll(selector)].filter(
    (element) => shown(element) && (exact ? own(element) === text : own(element).includes(text)));
  return found[found.length - 1];
})(%s, %s, %s)
"""


def browser_binary() -> str | None:
    """Return the path of Chromium or Chrome; None: there is none."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@dataclass
class Page:
    """A page of the browser."""

    connection: ClientConnection
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Send a command of the protocol, and return its result."""
        number = next(self._ids)
        self.connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.connection.recv(timeout=_SECONDS))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression in JavaScript."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def open(self, url: str) -> None:
        """Load a page."""
        self.call("Page.navigate", url=url)

    @property
    def text(self) -> str:
        """What can be read on the page."""
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def wait(self, condition: Callable[[str], object], seconds: float = _SECONDS) -> str:
        """Wait until the page's text fulfils a condition; return it."""
        deadline = time.monotonic() + seconds
        while not condition(text := self.text):
            assert time.monotonic() < deadline, text
            time.sleep(0.2)
        return text

    def wait_for(self, *words: str, seconds: float = _SECONDS) -> str:
        """Wait until all these words can be read; return the page's text."""
        return self.wait(lambda text: all(word in text for word in words), seconds)

    def click(self, text: str, selector: str = "button, a, [role=button], label", *, exact: bool = True) -> None:
        """Click on the element that has a text, as soon as it is there and takes clicks."""
        found = _FIND % (json.dumps(text), json.dumps(selector), json.dumps(exact))
        script = f"(() => {{ const it = {found}; if (!it || it.disabled) return false; it.click(); return true; }})()"
        deadline = time.monotonic() + _SECONDS
        while not self.evaluate(script):
            assert time.monotonic() < deadline, f"nothing to click: {text}\n{self.text}"
            time.sleep(0.2)

    def screenshot(self, path: Path, *, height: int = HEIGHT) -> None:
        """Write what is shown as a PNG of `WIDTH` pixels, when the page has come to rest."""
        self.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=height, deviceScaleFactor=1, mobile=False)
        shot = ""
        for _ in range(20):
            time.sleep(0.5)
            before, shot = shot, str(self.call("Page.captureScreenshot", format="png")["data"])
            if shot == before:
                break
        path.write_bytes(base64.b64decode(shot))


@contextlib.contextmanager
def chromium() -> Iterator[Page]:
    """Run Chromium with an empty profile until the block ends, and yield its page."""
    binary = browser_binary()
    assert binary is not None
    # It still writes into its profile after the command to end.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        profile = Path(name)
        command = [binary, *_ARGUMENTS, f"--window-size={WIDTH},{HEIGHT}", f"--user-data-dir={profile}", "about:blank"]
        with running(command, log=profile / "log") as process:
            port_file = profile / "DevToolsActivePort"
            deadline = time.monotonic() + _SECONDS
            while not (port_file.exists() and port_file.read_text().strip()):
                assert process.poll() is None, (profile / "log").read_text(errors="replace")
                assert time.monotonic() < deadline, (profile / "log").read_text(errors="replace")
                time.sleep(0.1)
            port = port_file.read_text().split()[0]
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://127.0.0.1:{port}/json/list", timeout=_SECONDS) as reply:
                (target,) = [each for each in json.load(reply) if each["type"] == "page"]
            with connect(target["webSocketDebuggerUrl"], max_size=None, proxy=None) as connection:
                page = Page(connection)
                page.call(
                    "Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False
                )
                yield page
