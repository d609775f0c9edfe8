"""The page in a real browser: a newcomer's whole way, several tabs, and its death."""

import os
import re
import signal
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.training]
WIDTHS = (1280, 390)
TOO_WIDE = "(e => e.scrollWidth - e.clientWidth)(document.documentElement)"


class Server:
    """`nnunet-bridge gui` as a process of its own."""

    def __init__(self, workspace, root):
        self.words = [
            *(sys.executable, "-m", "nnunet_bridge", "gui", "-w", str(workspace)),
            *("--root", str(root), "--port", "0", "--no-browser"),
        ]
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            self.words, stdout=subprocess.PIPE, text=True, env=os.environ
        )
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http://127.0.0.1:"), self.address

    def end(self, number=signal.SIGTERM):
        """End it; return its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.process.stdout.close()
        return code


@pytest.fixture
def server(tmp_path, few_steps):
    """The page of a workspace that is not there yet."""
    server = Server(tmp_path / "work", tmp_path)
    yield server
    if server.process.poll() is None:
        assert server.end() == 0


@pytest.fixture
def tab(browser, server):
    """Its first tab; the test ends without a complaint or a request outside."""
    browser.new_tab()
    browser.size(1280, 900)
    browser.page.goto(server.address)
    yield browser.page
    assert browser.complaints == []
    hosts = {urlsplit(address).hostname for address in browser.requests}
    assert hosts - {"127.0.0.1", "", None} == set()


@pytest.fixture
def shoot(tab, browser):
    """Take a picture of a step at both widths, where a folder for them is named."""

    def take(name):
        if not (folder := os.environ.get("NNUNET_BRIDGE_SCREENSHOTS")):
            return
        for width in WIDTHS:
            browser.size(width, 900)
            tab.wait_for_timeout(500)
            tab.screenshot(path=f"{folder}/page-{name}-{width}.png", full_page=True)
        browser.size(1280, 900)

    return take


def step(tab, name):
    """Open a step of the page."""
    tab.get_by_role("navigation").get_by_role("link", name=re.compile(name)).click()


def ended(tab, command):
    """Wait until the newest job of a command is done; say why it is not."""
    card = tab.locator(".job", has_text=f"{command}:").first
    over = card.locator("strong", has_text=re.compile("done|failed|ended|stopped"))
    over.wait_for(state="attached", timeout=180_000)
    assert "done" in over.text_content(), card.text_content()


def test_the_token_leaves_the_address_and_the_steps_are_links(tab):
    assert tab.url.rstrip("/").count("token") == 0
    names = tab.get_by_role("navigation").get_by_role("link").all_inner_texts()

    assert [name.split("\n")[-1].lstrip("12345") for name in names] == [
        "Study", "Check and convert", "Train", "Look", "Predict",
    ]  # fmt: skip
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_step_is_wider_than_the_window(tab, browser, width, scheme):
    browser.size(width, 844)
    browser.scheme(scheme)
    for name in ("Study", "Check", "Train", "Look", "Predict"):
        step(tab, name)
        tab.wait_for_timeout(150)
        assert tab.evaluate(TOO_WIDE) <= 0, name


def press(tab, name, **options):
    """Press a button by its name."""
    tab.get_by_role("button", name=name, exact=True, **options).first.click()


def test_a_newcomer_goes_the_whole_way(tab, shoot):
    press(tab, "Try it with synthetic patients")
    ended(tab, "demo")
    tab.get_by_role("heading", name="Cases", exact=True).wait_for()
    shoot("study")

    step(tab, "Check")
    press(tab, "Check")
    ended(tab, "check")
    press(tab, "Convert")
    ended(tab, "convert")
    shoot("check")
