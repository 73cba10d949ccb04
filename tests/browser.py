"""A real headless browser, spoken to by the DevTools protocol over a pipe: no driver, no package, no port."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WHY_NOT = f"no browser: none of {', '.join(NAMES)} is installed (Debian: apt-get install chromium)"
PATIENCE = 60.0
"""Seconds for an answer, after which the browser is given up. Nothing is timed by it."""
OPTIONS = (
    "--headless",
    "--no-sandbox",  # as root, in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def executable() -> str | None:
    """The path of a browser, if any is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a running browser, and all that it has said."""

    def __init__(self, process: subprocess.Popen, requests: int, answers: int) -> None:
        self.process, self._out, self._in = process, requests, answers
        self._numbers, self._rest = itertools.count(1), b""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    session: str | None = None

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask, and wait for the answer; events on the way are kept."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, url: str, *, width: int, height: int, dark: bool = False) -> None:
        """Load a page on a screen of this size, and wait until all of it is there."""
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=url)
        while not self.named("Page.loadEventFired"):
            self._read()

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def named(self, method: str) -> list[dict[str, Any]]:
        """What was said under this name since the page was opened."""
        return [event["params"] for event in self.events if event.get("method") == method]

    @property
    def complaints(self) -> list[dict[str, Any]]:
        """Errors and warnings of the console, exceptions, and whatever the page was refused."""
        logged = [entry["entry"] for entry in self.named("Log.entryAdded") if entry["entry"]["level"] != "verbose"]
        said = [
            call for call in self.named("Runtime.consoleAPICalled") if call["type"] in ("error", "warning", "assert")
        ]
        return [*logged, *said, *self.named("Runtime.exceptionThrown"), *self.named("Network.loadingFailed")]

    @property
    def requested(self) -> list[str]:
        """The addresses that were asked for, but for what stands in the page itself."""
        found = [event["request"]["url"] for event in self.named("Network.requestWillBeSent")]
        return [url for url in found if not url.startswith("data:")]

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def _read(self) -> dict[str, Any]:
        """The next message."""
        ends = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, ends - time.monotonic()))
            if not ready:
                raise TimeoutError("the browser does not answer")
            more = os.read(self._in, 1 << 16)
            if not more:
                raise ConnectionError(f"the browser has ended: {self.process.poll()}")
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser that ends with the block. Where there is none, the test is skipped, and says so."""
    path = executable()
    if path is None:
        import pytest

        pytest.skip(WHY_NOT)
    there, requests = os.pipe()
    answers, here = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # The browser reads its requests from descriptor 3, and answers at 4.
        command = f'exec "$@" 3<&{there} 4>&{here}'
        process = subprocess.Popen(
            ["bash", "-c", command, "bash", path, *OPTIONS, f"--user-data-dir={profile}"],
            pass_fds=(there, here),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": profile},
        )
        os.close(there)
        os.close(here)
        try:
            yield Browser(process, requests, answers)
        finally:
            process.kill()
            process.wait()
            os.close(requests)
            os.close(answers)
