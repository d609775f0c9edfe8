"""The pages in a real browser: they work, they fit, they complain of nothing."""

import numpy as np
import pytest
from chromium import CHROMIUM, Browser

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.formats.events import curve_of
from nnunet_bridge.formats.html import (
    CaseView,
    MeshSet,
    ModelCard,
    PageContent,
    Setting,
    write_page,
)
from nnunet_bridge.formats.pictures import PLANES
from nnunet_bridge.formats.sprites import slice_stack
from nnunet_bridge.ops.comparison import compare_models
from nnunet_bridge.ops.surface import surfaces_of
from nnunet_bridge.ops.verdict import verdict

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "index.html"
    write_page(file, page_content())
    return file


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def tab(browser, page):
    """The page, freshly opened, on a desk; the test ends without a complaint."""
    browser.complaints.clear()
    browser.requests.clear()
    browser.size(1200, 900)
    browser.scheme("light")
    browser.open(page)
    yield browser
    assert browser.complaints == []


def page_content() -> PageContent:
    table = LabelTable.from_names(["tibia", "femur"])
    rng = np.random.default_rng(5)
    scores = {
        model: [
            BoneScore(f"c{n}", name, model, "scored", dice, 3.0, 1.0, dice, 1e4, 1.1e4)
            for n in range(8)
            for name in table.names
            for dice in [0.9 + shift + rng.normal(0, 0.01)]
        ]
        for model, shift in (("2d", 0.0), ("3d_fullres", 0.02))
    }
    comparison = compare_models(scores, patients={f"c{n}": f"p{n}" for n in range(8)})
    return PageContent(
        title="2D or 3D?",
        dataset="Dataset001_Tibia",
        created="1 May 2026",
        caveat="a smoke run proves the chain, it is not a result",
        verdict=verdict(comparison),
        comparison=comparison,
        models=(
            ModelCard("2d", "2d", ("0",)),
            ModelCard("3d_fullres", "3d_fullres", ("0",)),
        ),
        colours=(("tibia", "#e65546"), ("femur", "#50b469")),
        curves=tuple(_curve(model) for model in scores),
        cases=(_case(table),),
        settings=(Setting("epochs", ("8", "8")),),
    )


def _curve(model):
    epochs = [
        {"event": "epoch", "epoch": e, "train_loss": -e / 8, "val_loss": None,
         "pseudo_dice": [e / 8, e / 9]}
        for e in range(8)
    ]  # fmt: skip
    return curve_of(model, "0", epochs)


def _case(table):
    grid = Grid((30, 30, 20), np.diag([1.0, 1.0, 2.0, 1.0]))
    voxels = np.zeros(grid.shape, np.uint8)
    voxels[6:14, 6:20, 3:17] = 1
    voxels[16:24, 8:22, 3:17] = 2
    reference = Labelmap(grid, voxels, table)
    prediction = reference.with_voxels(np.roll(voxels, 1, axis=0))
    image = Volume(grid, (voxels * 60 + 20).astype(np.int16))
    found = {"2d": prediction, "3d_fullres": reference}
    return CaseView(
        case_id="c0",
        reason="worst case",
        dice=(("2d", 0.9), ("3d_fullres", 1.0)),
        stacks=tuple(slice_stack(image, reference, found, plane=p) for p in PLANES),
        meshes=tuple(
            MeshSet(name, tuple(surfaces_of(labelmap).values()))
            for name, labelmap in {"reference": reference, **found}.items()
        ),
    )


def test_the_page_opens_from_disk_and_asks_for_nothing_else(tab, tmp_path):
    picture = tab.screenshot(tmp_path / "page.png")

    assert len(picture) > 20_000
    fetched = [url for url in tab.requests if not url.startswith(("data:", "file:"))]
    assert fetched == []
    assert len([url for url in tab.requests if url.startswith("file:")]) == 1


@pytest.mark.parametrize("width", [390, 768, 1200])
def test_nothing_is_wider_than_the_window(tab, width):
    tab.size(width, 800)

    assert tab.run("document.documentElement.scrollWidth") <= width


def test_light_and_dark_follow_the_reader(tab):
    paper = "getComputedStyle(document.body).backgroundColor"
    light = tab.run(paper)
    tab.scheme("dark")

    assert tab.run(paper) != light


def test_arrow_keys_turn_the_slices(tab):
    shown = "document.querySelector('#viewer output').textContent"
    before = int(tab.run(shown))
    tab.run("document.querySelector('#viewer .stage').focus()")
    tab.press("ArrowRight")

    assert abs(int(tab.run(shown)) - before) == 1


def test_a_layer_can_be_switched_off_and_on(tab):
    tab.wait_for(f"{_pixels_in('rgb(0, 103, 168)')} > 0")
    button = _button("#viewer", "2d")

    tab.run(f"{button}.click()")
    without = tab.run(_pixels_in("rgb(0, 103, 168)"))
    tab.run(f"{button}.click()")

    assert without == 0
    assert tab.run(_pixels_in("rgb(0, 103, 168)")) > 0


def test_planes_can_be_chosen(tab):
    tab.run(f"{_button('#viewer', 'sagittal')}.click()")

    assert tab.run("document.querySelector('.stage .l').textContent") == "A"


def test_tabs_show_one_metric_at_a_time_and_obey_the_keyboard(tab):
    shown = "[...document.querySelectorAll('.panel')].filter(p => !p.hidden)"
    assert tab.run(f"{shown}.map(p => p.dataset.tab).join()") == "Dice"

    tab.run("document.querySelector('[role=tab]').focus()")
    tab.press("ArrowRight")

    assert tab.run(f"{shown}.map(p => p.dataset.tab).join()") == "HD95"


def test_surfaces_are_drawn_when_they_are_opened_not_before(tab):
    assert tab.run("typeof window.Plotly") == "undefined"

    tab.run("document.querySelector('#meshes').open = true")

    tab.wait_for("document.querySelectorAll('#meshes canvas').length > 0")
    assert tab.run("document.querySelector('.plot').data.length") == 2


def _button(box, words):
    buttons = f"[...document.querySelectorAll('{box} button')]"
    return f"{buttons}.find(b => b.textContent === '{words}')"


def _pixels_in(colour):
    """Return the script that counts the pixels of a colour in the slice viewer."""
    red, green, blue = (int(part) for part in colour[4:-1].split(","))
    return (
        "(() => { const c = document.querySelector('#viewer canvas');"
        "const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "let n = 0; for (let i = 0; i < p.length; i += 4)"
        f"if (p[i] === {red} && p[i+1] === {green} && p[i+2] === {blue}) n++;"
        "return n; })()"
    )
