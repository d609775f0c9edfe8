"""The page of ratings in a real browser: worst first, sorted, and nothing fetched."""

import numpy as np
import pytest

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.core.quality import MemberAgreement
from nnunet_bridge.formats.html.quality_page import (
    CaseQuality,
    QualityContent,
    write_quality_page,
)
from nnunet_bridge.formats.preview import thumbnail
from nnunet_bridge.ops.quality import judge, structure_figures, training_structures

pytestmark = pytest.mark.browser
TABLE = LabelTable.from_names(["tibia", "femur"])
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "quality.html"
    write_quality_page(file, content())
    return file


@pytest.fixture
def tab(browser, page):
    browser.new_tab()
    browser.size(1200, 900)
    browser.scheme("light")
    browser.open(page)
    yield browser
    assert browser.complaints == []
    fetched = [u for u in browser.requests if not u.startswith(("data:", "file:"))]
    assert fetched == []
    assert len([u for u in browser.requests if u.startswith("file:")]) == 1


def content():
    voxels = np.zeros((30, 30, 20), np.uint8)
    voxels[6:14, 6:20, 3:17] = 1
    voxels[16:24, 8:22, 3:17] = 2
    grid = Grid(voxels.shape, np.diag([1.0, 1.0, 2.0, 1.0]))
    labelmap = Labelmap(grid, voxels, TABLE)
    training = training_structures([structure_figures(labelmap)] * 6)
    dices = {"leg_2": 0.95, "leg_10": 0.3, "leg_1": 0.75, HOSTILE: 0.9}
    cases = [
        CaseQuality(
            case_id=name,
            model="2d, as asked, fold 0",
            quality=judge(
                labelmap, MemberAgreement({1: dice, 2: 0.97}, None), training
            ),
            volumes_mm3=tuple(labelmap.volumes_mm3().items()),
            picture=thumbnail(labelmap),
        )
        for name, dice in sorted(dices.items(), key=lambda item: item[1])
    ]
    old = CaseQuality("old", "2d", None, (("tibia", 5000.0),), thumbnail(labelmap))
    return QualityContent(
        models=("2d, as asked, fold 0",),
        created="1 May 2026",
        cases=(*cases, old),
        colours=tuple((label.name, label.hex_colour) for label in TABLE),
    )


def names(tab):
    shown = "[...document.querySelectorAll('.rated')].filter(e => !e.hidden)"
    return tab.run(f"{shown}.map(e => e.dataset.name)")


def press(tab, words):
    buttons = "[...document.querySelectorAll('.tools button')]"
    tab.run(f"{buttons}.find(b => b.textContent === '{words}').click()")


def test_the_worst_case_stands_first_with_its_level_in_words_and_shape(tab, tmp_path):
    assert names(tab) == ["leg_10", "leg_1", HOSTILE, "leg_2", "old"]
    first = tab.run("document.querySelector('.rated h3').textContent")
    assert first.split() == ["\u25a0red", "leg_10"]
    cards = "[...document.querySelectorAll('.ratings .card')].map(c => c.textContent)"
    assert tab.run(cards) == [
        *("1\u25a0red", "1\u25b2amber", "2\u25cfgreen", "1\u25cbnot assessed"),
    ]
    assert len(tab.screenshot(tmp_path / "page.png")) > 20_000


def test_cases_can_be_sorted_by_name_as_people_count_and_back(tab):
    press(tab, "name")
    assert names(tab)[1:] == ["leg_1", "leg_2", "leg_10", "old"]

    press(tab, "lowest agreement")
    assert names(tab) == ["leg_10", "leg_1", HOSTILE, "leg_2", "old"]

    press(tab, "worst first")
    assert names(tab)[0] == "leg_10"


def test_levels_can_be_hidden_and_shown(tab):
    press(tab, "green")
    assert names(tab) == ["leg_10", "leg_1", "old"]

    press(tab, "green")
    assert len(names(tab)) == 5


def test_every_check_is_behind_the_concerns_and_opens_by_the_keyboard(tab):
    reasons = "document.querySelectorAll('.rated details[open] .reasons li').length"
    assert tab.run(reasons) == 0

    tab.run("document.querySelector('.rated summary').focus()")
    tab.press("Enter")

    assert tab.run(reasons) == 11, (
        "nine lesser reasons, and two checks that were not possible"
    )


def test_what_comes_from_a_folder_name_stays_text(tab):
    assert tab.run("document.querySelectorAll('.rated h3 img').length") == 0
    assert HOSTILE in tab.run("document.querySelector('.rated-list').textContent")


@pytest.mark.parametrize("width", [390, 768, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(tab, width, scheme):
    tab.size(width, 800)
    tab.scheme(scheme)

    tab.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")

    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run("[...document.images].every(i => i.complete && i.naturalWidth)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_colours_of_levels_can_be_read_on_their_paper(tab, scheme):
    tab.scheme(scheme)
    sheet = luminance(tab, "document.querySelector('.card')", "backgroundColor")
    for level in ("red", "amber", "green"):
        mark = luminance(tab, f"document.querySelector('.rating.{level}')", "color")
        low, high = sorted((sheet, mark))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (scheme, level)


def test_on_paper_every_case_stands_and_no_button(tab):
    press(tab, "green")
    tab.ask("Emulation.setEmulatedMedia", media="print")
    shown = "e => getComputedStyle(e).display !== 'none'"
    cases = f"[...document.querySelectorAll('.rated')].filter({shown}).length"
    tools = f"[...document.querySelectorAll('.tools')].filter({shown}).length"

    assert (tab.run(cases), tab.run(tools)) == (5, 0)
    assert tab.printed().startswith(b"%PDF")
    tab.ask("Emulation.setEmulatedMedia", media="")


def luminance(tab, element, what):
    """Return the relative luminance of a colour, as WCAG defines it."""
    words = tab.run(f"getComputedStyle({element}).{what}")
    parts = [float(p) / 255 for p in words[words.index("(") + 1 : -1].split(",")[:3]]
    linear = [
        p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
    ]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))
