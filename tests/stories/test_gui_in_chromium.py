"""The page in a real browser: a newcomer's whole way, several tabs, and its death."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from small_study import SCANS, TIBIA, draw

pytestmark = [
    pytest.mark.browser,
    pytest.mark.training,
    pytest.mark.usefixtures("few_steps"),
]
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
def root(tmp_path):
    """The folder of the workspace, which the pictures of the page show."""
    return Path(os.environ.get("NNUNET_BRIDGE_SCREENSHOTS_ROOT") or tmp_path)


@pytest.fixture
def serve():
    """Start the page of a workspace; it ends with the test, and cleanly."""
    started = []

    def start(workspace, root):
        started.append(Server(workspace, root))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            assert server.end() == 0


@pytest.fixture
def server(serve, root):
    """The page of a workspace that is not there yet."""
    return serve(root / "work", root)


@pytest.fixture
def tab(browser, server):
    """Its first tab; the test ends without a complaint or a request outside."""
    browser.new_tab()
    browser.page.set_viewport_size({"width": 1280, "height": 900})
    browser.page.goto(server.address)
    yield browser.page
    assert browser.complaints == []
    hosts = {urlsplit(address).hostname for address in browser.requests}
    assert hosts - {"127.0.0.1", "", None} == set()


@pytest.fixture
def shoot(tab):
    """Take a picture of a step at both widths, where a folder for them is named."""

    def take(name):
        if not (folder := os.environ.get("NNUNET_BRIDGE_SCREENSHOTS")):
            return
        for width in WIDTHS:
            tab.set_viewport_size({"width": width, "height": 900})
            current = tab.locator("#steps [aria-current]")
            current.evaluate("e => e.scrollIntoView({ block: 'nearest' })")
            tab.evaluate("scrollTo(0, 0)")
            tab.wait_for_timeout(1000)
            tab.screenshot(path=f"{folder}/page-{name}-{width}.png", full_page=True)
        tab.set_viewport_size({"width": 1280, "height": 900})

    return take


def step(tab, name):
    """Open a step of the page."""
    tab.get_by_role("navigation").get_by_role("link", name=re.compile(name)).click()


def ended(tab, command):
    """Wait until the newest job of a command is done; say why it is not."""
    card = tab.locator(".job", has_text=f"{command}:").first
    over = card.locator("strong", has_text=re.compile("done|failed|ended|stopped"))
    over.wait_for(state="attached", timeout=600_000)
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


def choose_folder(tab, *names):
    """Go down by these names in the browser of folders, and take the last."""
    dialog = tab.get_by_role("dialog")
    for name in names:
        dialog.get_by_role("button", name=name, exact=True).click()
    press(dialog, "Choose this folder")


def drop(browser, place, *paths):
    """Drop files or folders on an element, as a hand would from a file manager.

    A hand moves on until the element takes the files; a page that is busy may miss the
    first moves.
    """
    files = {"items": [], "files": list(map(str, paths)), "dragOperationsMask": 1}

    def drag(kind):
        box = place.bounding_box()
        where = {"x": box["x"] + 20, "y": box["y"] + 20}
        browser.ask("Input.dispatchDragEvent", type=kind, data=files, **where)

    place.evaluate("e => e.scrollIntoView({ block: 'center' })")
    for _ in range(100):
        for kind in ("dragEnter", "dragOver"):
            drag(kind)
        if "over" in place.get_attribute("class").split():
            break
        time.sleep(0.2)
    else:
        raise AssertionError("the element takes no files")
    drag("drop")


def test_a_newcomer_goes_the_whole_way(  # noqa: PLR0915 - one way, step by step
    tab, browser, shoot, root
):
    press(tab, "Try it with synthetic patients")
    ended(tab, "demo")
    tab.get_by_role("heading", name="Cases", exact=True).wait_for()
    tab.locator(".case").first.wait_for()
    shoot("study")

    step(tab, "Check")
    press(tab, "Check")
    ended(tab, "check")
    press(tab, "Convert")
    ended(tab, "convert")
    tab.get_by_role("heading", name=re.compile("msk_008")).wait_for()
    shoot("check")

    step(tab, "Train")
    press(tab, "Plan")
    ended(tab, "plan")
    tab.locator("fieldset input[value='2d']").wait_for()
    tab.get_by_text(re.compile("free")).first.wait_for()  # memory and disk
    press(tab, "Train")
    ended(tab, "train")
    cells = tab.locator("tbody tr .state")
    cells.nth(1).wait_for()
    assert cells.all_inner_texts() == ["done", "done"]
    press(tab, re.compile("^Details: 2d"))
    press(tab, "Compare")
    ended(tab, "compare")
    tab.get_by_text("Comparison", exact=True).click()
    page = tab.frame_locator("iframe[title=Comparison]")
    page.get_by_role("heading", name="Surfaces").wait_for()
    shoot("train")

    other = browser.another_tab()
    other.goto(tab.url)
    other.locator("tbody tr .state", has_text="done").nth(1).wait_for()
    other.close()

    step(tab, "Look")
    tab.locator("canvas").nth(2).wait_for()
    press(tab, "Show surfaces")
    tab.wait_for_timeout(1000)
    shoot("look")

    step(tab, "Predict")
    scan = next(root.glob("work/synthetic/study/Raw*/9_*"))
    drop(browser, tab.locator(".drop"), scan)
    tab.get_by_text("1 scan", exact=True).wait_for()
    (copy,) = root.glob("work/uploads/*/*")
    slices = [file.relative_to(scan) for file in scan.rglob("*")]
    assert [file for file in slices if not (copy / file).exists()] == []
    tab.get_by_label("between two lines").check()
    tab.get_by_text("drag the lines").wait_for()
    shoot("region")
    tab.get_by_label("between two lines").uncheck()
    press(tab, "Predict")
    ended(tab, "predict")
    tab.get_by_role("link", name=re.compile("labels")).first.wait_for()
    quality = tab.frame_locator("iframe").last
    quality.get_by_role("heading").first.wait_for()
    shoot("predict")
    tab.get_by_role("rowheader").get_by_role("link").first.click()
    tab.get_by_role("slider", name="image", exact=True).wait_for()


def test_a_training_survives_the_server_and_is_stopped_and_goes_on(
    browser, serve, lab, monkeypatch
):
    monkeypatch.setenv("FEW_EPOCHS", "600")  # longer than the test
    monkeypatch.setenv("EPOCH_S", "0.2")
    server = serve(lab / "work", lab)
    browser.new_tab()
    tab = browser.page
    tab.goto(server.address)
    step(tab, "Train")
    tab.locator("fieldset input[value='3d_fullres']").uncheck()
    press(tab, "Train")
    state = tab.locator("tbody tr .state").first
    state.get_by_text("running").wait_for()

    server.end(signal.SIGKILL)
    tab.get_by_text("The server does not answer").wait_for()
    server.start()
    tab.goto(server.address)
    step(tab, "Train")
    state.get_by_text("running").wait_for()
    tab.locator(".job strong", has_text="train: running").wait_for()
    epochs = tab.locator("td[data-name=Epoch]").first
    first = epochs.get_by_text(re.compile("^[1-9]"))
    first.wait_for(timeout=300_000)  # torch is loaded before it
    press(tab, re.compile("^Stop: 2d"))
    state.get_by_text("stopped").wait_for()
    before = int(epochs.inner_text().split()[0])
    press(tab, re.compile("^Go on: 2d"))
    state.get_by_text("running").wait_for()
    press(tab, re.compile("^Stop: 2d"))
    state.get_by_text("stopped").wait_for()

    assert int(epochs.inner_text().split()[0]) >= before


def test_a_refused_case_and_hostile_names_are_text(browser, serve, lab):
    hostile = "<img src=x onerror=document.title=1>"
    scans = sorted((lab / "study" / SCANS).iterdir())
    sorted(scans[0].iterdir())[5].unlink()
    draw(lab / "study", f"9_{hostile}_9K", TIBIA)
    server = serve(lab / "work", lab)
    browser.new_tab()
    tab = browser.page
    tab.goto(server.address)
    press(tab, "Choose a study folder")
    tab.get_by_role("dialog").get_by_role("button", name=str(lab), exact=True).click()
    choose_folder(tab, "study")
    tab.get_by_role("heading", name="Cases", exact=True).wait_for()
    step(tab, "Check")
    press(tab, "Check")
    tab.locator(".case .message").first.wait_for(timeout=60_000)

    shown = tab.locator("#main").inner_text()
    assert "refused" in shown
    assert "[G03]" in shown, "a slice is missing"
    assert hostile in shown
    assert tab.locator("img[src=x]").count() == 0
    assert tab.title() != "1"
    assert browser.complaints == []
