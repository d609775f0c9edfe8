"""Debian's Chromium, headless, driven by Playwright."""

import contextlib
import shutil
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox", "--disable-dev-shm-usage", "--disable-quic",
    "--hide-scrollbars", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]  # fmt: skip
PATIENCE_S = 60
TWO_FRAMES = "new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))"


class Browser:
    """A headless Chromium; the methods act on its newest tab, `page`."""

    def __init__(self) -> None:
        self._playwright = sync_playwright().start()
        self._chromium = self._playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS
        )
        self._context = None
        self.complaints = []
        """Console errors and exceptions of the page."""
        self.requests = []
        """Every address that the page asked for."""
        self.new_tab()

    def new_tab(self) -> None:
        """Leave all tabs, with all that was emulated in them, for a new one."""
        if self._context:
            self._context.close()
        self.complaints.clear()
        self.requests.clear()
        self._context = self._chromium.new_context(has_touch=True)
        self._context.set_default_timeout(1000 * PATIENCE_S)
        self.page = self.another_tab()
        self._devtools = self._context.new_cdp_session(self.page)

    def another_tab(self):
        """Open one more tab beside the others, and return it."""
        page = self._context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._listen)
        page.on("request", lambda request: self.requests.append(request.url))
        return page

    def _listen(self, message) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def ask(self, method, **parameters):
        """Send a message of Chromium's own protocol (DevTools)."""
        return self._devtools.send(method, parameters)

    def open(self, file: Path) -> None:
        self.page.goto(file.resolve().as_uri())

    def run(self, script: str):
        return self.page.evaluate(script)

    def wait_for(self, condition: str) -> None:
        """Wait until a condition is true; the page may forbid Playwright's own way."""
        end = time.monotonic() + PATIENCE_S
        while not self.run(condition):
            assert time.monotonic() < end, f"never true: {condition}"
            self.page.wait_for_timeout(100)

    def wait_for_frames(self) -> None:
        """Wait until the page has been drawn twice."""
        self.page.evaluate(TWO_FRAMES)

    def size(self, width: int, height: int) -> None:
        """Give the window a size; below 600 pixels it is a phone's."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def scheme(self, name: str) -> None:
        self.page.emulate_media(color_scheme=name)

    def press(self, key: str) -> None:
        self.page.keyboard.press("Space" if key == " " else key)

    def turn_wheel(self, x: float, y: float, steps: int) -> None:
        """Turn the wheel of a mouse at a place of the window."""
        self.page.mouse.move(x, y)
        self.page.mouse.wheel(0, 100 * steps)

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
        mouse, keyboard = self.page.mouse, self.page.keyboard
        with contextlib.ExitStack() as held:
            if shift:
                keyboard.down("Shift")
                held.callback(keyboard.up, "Shift")
            mouse.move(*start)
            mouse.down()
            for share in np.linspace(0, 1, 9):
                place = (
                    float(a + (b - a) * share) for a, b in zip(start, end, strict=True)
                )
                mouse.move(*place)
                self.wait_for_frames()
            mouse.up()
        self.wait_for_frames()

    def printed(self) -> bytes:
        """Return the page as PDF, on A4."""
        return self.page.pdf(width="8.27in", height="11.69in", print_background=True)

    def screenshot(self, file: Path, *, whole: bool = True) -> bytes:
        return self.page.screenshot(path=file, full_page=whole)

    def close(self) -> None:
        self._chromium.close()
        self._playwright.stop()
