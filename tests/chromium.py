"""Debian's Chromium, headless, spoken to over a pipe.

Its own protocol (DevTools, over file descriptors 3 and 4) needs no library: one JSON
object a message, a zero byte after each.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--hide-scrollbars", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--remote-debugging-pipe",
]  # fmt: skip
PATIENCE_S = 60


class Browser:
    """A headless Chromium with one tab at a time."""

    def __init__(self, profile: Path) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        script = 'exec 3<&"$0" 4>&"$1"; shift; exec "$@"'
        # A shell puts the pipes at descriptors 3 and 4, where Chromium expects them.
        self._process = subprocess.Popen(
            ["bash", "-c", script, str(to_browser), str(from_browser), CHROMIUM,
             *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._unread = b""
        self._number = 0
        self.complaints = []
        """Console errors, exceptions and log entries of the page."""
        self.requests = []
        """Every address that the page asked for."""
        self._session = self._tab = None
        self.new_tab()

    def new_tab(self) -> None:
        """Leave the tab, with all that was emulated in it, for a new one."""
        left, self._session = self._tab, None
        self.complaints.clear()
        self.requests.clear()
        self._tab = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=self._tab, flatten=True)
        if left:
            self.ask("Target.closeTarget", targetId=left)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next_message()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def open(self, file: Path) -> None:
        self.ask("Page.navigate", url=file.resolve().as_uri())
        self.wait_for("document.readyState === 'complete'")

    def run(self, script: str):
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not self.run(condition):
            assert time.monotonic() < end, f"never true: {condition}"
            time.sleep(0.1)

    def wait_for_frames(self) -> None:
        """Wait until the page has been drawn twice."""
        frames = (
            "new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))"
        )
        self.ask("Runtime.evaluate", expression=frames, awaitPromise=True)

    def size(self, width: int, height: int) -> None:
        """Give the window a size; below 600 pixels it is a phone's."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def scheme(self, name: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.ask("Emulation.setEmulatedMedia", features=features)

    def press(self, key: str) -> None:
        codes = {"Tab": 9, "Enter": 13, " ": 32}
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.ask(
                "Input.dispatchKeyEvent",
                type=kind, key=key, windowsVirtualKeyCode=codes.get(key, 0),
                **(text if kind == "keyDown" else {}),
            )  # fmt: skip

    def turn_wheel(self, x: float, y: float, steps: int) -> None:
        """Turn the wheel of a mouse at a place of the window."""
        self.ask(
            "Input.dispatchMouseEvent",
            type="mouseWheel", x=x, y=y, deltaX=0, deltaY=100 * steps,
        )  # fmt: skip

    def touch(self, steps: list[list[tuple[float, float]]]) -> None:
        """Put fingers down at the first places and move them to the last."""
        first, last = (np.array(places, float) for places in (steps[0], steps[-1]))
        way = [first + (last - first) * share for share in np.linspace(0, 1, 6)]
        kinds = ["touchStart", *["touchMove"] * (len(way) - 1)]
        for kind, places in zip(kinds, way, strict=True):
            points = [{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(places)]
            self.ask("Input.dispatchTouchEvent", type=kind, touchPoints=points)
            self.wait_for_frames()
        self.ask("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def drag(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        *,
        shift: bool = False,
    ) -> None:
        """Press the mouse at one place of the window and let go at another.

        Unhurried, as a hand does it: a page looks at the mouse once a frame.
        """
        way = [
            tuple(a + (b - a) * share for a, b in zip(start, end, strict=True))
            for share in np.linspace(0, 1, 9)
        ]
        for kind, (x, y), buttons in (
            ("mouseMoved", start, 0), ("mousePressed", start, 1),
            *(("mouseMoved", place, 1) for place in way), ("mouseReleased", end, 0),
        ):  # fmt: skip
            held = buttons or kind == "mouseReleased"
            self.ask(
                "Input.dispatchMouseEvent",
                type=kind, x=x, y=y, button="left" if held else "none",
                buttons=buttons, clickCount=int(kind != "mouseMoved"),
                modifiers=8 * shift,
            )  # fmt: skip
            self.wait_for_frames()

    def printed(self) -> bytes:
        """Return the page as PDF, on A4."""
        answer = self.ask(
            "Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=True
        )
        return base64.b64decode(answer["data"])

    def screenshot(self, file: Path, *, whole: bool = True) -> bytes:
        answer = self.ask("Page.captureScreenshot", captureBeyondViewport=whole)
        picture = base64.b64decode(answer["data"])
        file.write_bytes(picture)
        return picture

    def close(self) -> None:
        with contextlib.suppress(AssertionError, OSError):
            self._session = None
            self.ask("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def _next_message(self):
        while b"\0" not in self._unread:
            part = os.read(self._read, 1 << 20)
            assert part, "Chromium ended"
            self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        content = json.loads(message)
        self._listen(content.get("method", ""), content.get("params", {}))
        return content

    def _listen(self, method, event):
        if method == "Runtime.exceptionThrown":
            self.complaints.append(event["exceptionDetails"])
        if method == "Runtime.consoleAPICalled" and event["type"] == "error":
            self.complaints.append(event["args"])
        if method == "Log.entryAdded" and event["entry"]["level"] == "error":
            self.complaints.append(event["entry"])
        if method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
