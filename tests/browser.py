"""A real browser without a window, over DevTools' pipe: what a reader would see, press and be told."""

import base64
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

__all__ = ["Browser", "Unavailable", "chromium", "opened"]

_PATIENCE = 60
"""Seconds for an answer; a machine that runs tests beside this is slow."""


def chromium() -> str | None:
    """Where it is, if it is installed."""
    return next((found for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable") if (found := shutil.which(name))), None)


class Unavailable(Exception):
    """A browser is installed and does not start, as one that needs what a container has not."""


class Browser:
    """One tab."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._rest, self._last = to, back, b"", 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        return self._until(lambda got: got.get("id") == self._last, method)

    def _until(self, wanted: Any, what: str) -> dict[str, Any]:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            while b"\0" in self._rest:
                text, self._rest = self._rest.split(b"\0", 1)
                got = json.loads(text)
                if wanted(got):
                    assert "error" not in got, f"{what}: {got['error']}"
                    return got.get("result", got)
                if "method" in got:
                    self.events.append(got)
            if select.select([self._back], [], [], max(0.0, end - time.monotonic()))[0]:
                part = os.read(self._back, 1 << 20)
                assert part, "the browser ended"
                self._rest += part
        raise AssertionError(f"no answer to {what} in {_PATIENCE} seconds")

    def open(self, path: Path) -> None:
        """A file; back when its script has drawn."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.until("document.body && (document.body.dataset.ready || document.querySelector('.failed'))")
        assert self("document.body.dataset.ready") == "yes", self("document.body.innerText")

    def until(self, expression: str) -> None:
        end = time.monotonic() + _PATIENCE
        while not self(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.02)

    def __call__(self, expression: str) -> Any:
        """The value of an expression, after the page has drawn what is to be drawn."""
        settled = f"new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done((async () => ({expression}))()))))"
        got = self.call("Runtime.evaluate", expression=settled, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in got, got["exceptionDetails"].get("exception", got["exceptionDetails"])
        return got["result"].get("value")

    def view(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def place(self, selector: str) -> tuple[float, float]:
        """The middle of an element, brought into view."""
        script = "(e => (e.scrollIntoView({block: 'center'}), e = e.getBoundingClientRect(), [e.x + e.width / 2, e.y + e.height / 2]))"
        x, y = self(f"{script}(document.querySelector({json.dumps(selector)}))")
        return x, y

    def point(self, selector: str) -> None:
        x, y = self.place(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        x, y = self.place(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, times: int = 1, *, shift: bool = False) -> None:
        text = {"Enter": "\r", " ": " "}.get(key)
        code = {"Tab": 9, "Enter": 13, " ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}.get(key, 0)
        for _ in range(times):
            typed = {"text": text} if text else {}
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, modifiers=8 * shift, **typed)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code, modifiers=8 * shift)

    def picture(self) -> bytes:
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def complaints(self) -> list[str]:
        """What stands in the console as an error or warning, and what was thrown."""
        said = []
        for event in self.events:
            given = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                said.append(str(given["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
                said.append(str(given["args"]))
            elif event["method"] == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
                said.append(given["entry"]["text"])
        return said

    def requests(self) -> list[str]:
        """What was fetched."""
        return [event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"]


@contextmanager
def opened(program: str | None = None) -> Iterator[Browser]:
    """A browser that ends with the block.

    Raises:
        Unavailable: it does not start; with what it says of that.
    """
    program = program or chromium()
    assert program is not None, "ask chromium() first"
    (read_here, to_here), (read_there, to_there) = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        words = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"]
        words += ["--remote-debugging-pipe", f"--user-data-dir={home}"]
        said = Path(home, "said.txt")
        # DevTools reads from descriptor 3 and writes to descriptor 4
        with said.open("wb") as errors:
            started = subprocess.Popen(
                ["bash", "-c", f'exec "$@" 3<&{read_there} 4>&{to_here}', "browser", *words],
                pass_fds=(read_there, to_here),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        os.close(read_there)
        os.close(to_here)
        try:
            try:
                tab = Browser(to_there, read_here)
            except (AssertionError, OSError) as error:
                last = said.read_text("utf8", "replace").strip().splitlines()[-1:] or ["nothing"]
                raise Unavailable(f"{program} is installed and does not start: {error}; it says {last[0]}") from error
            yield tab
        finally:
            os.close(to_there)
            os.close(read_here)
            started.terminate()
            try:
                started.wait(10)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()
