"""The pages in a real browser: they work, they fit, they complain of nothing."""

from dataclasses import replace

import numpy as np
import pytest

from nnunet_bridge.core.comparison import Setting
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.formats.events import curve_of
from nnunet_bridge.formats.html.content import CaseView, MeshSet, ModelCard, PageContent
from nnunet_bridge.formats.html.page import write_page
from nnunet_bridge.formats.html.run_page import RunContent, ShownSlice, write_run_page
from nnunet_bridge.formats.pictures import PLANES
from nnunet_bridge.formats.sprites import slice_picture, slice_stack
from nnunet_bridge.ops.along import distances_mm
from nnunet_bridge.ops.comparison import compare_models
from nnunet_bridge.ops.metrics import bone_scores
from nnunet_bridge.ops.surface import surfaces_of
from nnunet_bridge.ops.verdict import verdict

A4_PIXELS = 688
"""Width of a sheet between its margins of 14 mm, at 96 pixels an inch."""

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "index.html"
    write_page(file, page_content())
    return file


@pytest.fixture
def tab(browser, page):
    """The page, freshly opened, on a desk; the test ends without a complaint."""
    browser.new_tab()
    browser.size(1200, 900)
    browser.scheme("light")
    browser.open(page)
    yield browser
    assert browser.complaints == []


@pytest.fixture
def reference(tab):
    """The page with surfaces of the reference alone, in the colours of structures."""
    for name in ("reference", "2d", "3d_fullres", "structure"):
        tab.run(f"{_button('#meshes', name)}.click()")
    tab.wait_for(f"{SURFACE_PIXELS}.tibia > 2000")
    return tab


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
        caveat="this smoke test checks the pipeline; its scores are not results",
        verdict=verdict(comparison),
        comparison=comparison,
        models=(
            ModelCard("2d", "2d", ("0",)),
            ModelCard("3d_fullres", "3d_fullres", ("0",)),
        ),
        colours=(("tibia", "#e65546"), ("femur", "#50b469")),
        curves=tuple(_curve(model) for model in scores),
        cases=(_case(table), replace(_case(table), case_id="c1", reason="")),
        settings=(Setting("epochs", ("8", "8")),),
    )


def _curve(model):
    epochs = [
        {"event": "epoch", "epoch": e, "train_loss": -e / 8, "val_loss": None,
         "pseudo_dice": [e / 8, e / 9]}
        for e in range(8)
    ]  # fmt: skip
    return curve_of(model, "0", epochs)


def _images(table):
    """Return an image, its reference, and a prediction that is 1 mm off."""
    grid = Grid((30, 30, 20), np.diag([1.0, 1.0, 2.0, 1.0]))
    voxels = np.zeros(grid.shape, np.uint8)
    voxels[6:14, 6:20, 3:17] = 1
    voxels[16:24, 8:22, 3:17] = 2
    reference = Labelmap(grid, voxels, table)
    prediction = reference.with_voxels(np.roll(voxels, 1, axis=0))
    image = Volume(grid, (voxels * 60 + 20).astype(np.int16))
    return image, reference, prediction


def _case(table):
    image, reference, prediction = _images(table)
    found = {"2d": prediction, "3d_fullres": reference}
    drawn = surfaces_of(reference)
    sets = [MeshSet("reference", tuple(drawn.values()))]
    for model, labelmap in found.items():
        meshes = surfaces_of(labelmap)
        far = [distances_mm(mesh, drawn[n], reference) for n, mesh in meshes.items()]
        sets.append(MeshSet(model, tuple(meshes.values()), tuple(far)))
    return CaseView(
        case_id="c0",
        reason="worst case",
        dice=(("2d", 0.9), ("3d_fullres", 1.0)),
        stacks=tuple(slice_stack(image, reference, found, plane=p) for p in PLANES),
        meshes=tuple(sets),
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


def test_the_wheel_turns_the_slices_and_stops_at_the_ends(tab):
    shown = "document.querySelector('#viewer .slider input').value"
    place = _middle_of(tab, "#viewer .stage")
    before = int(tab.run(shown))
    tab.turn_wheel(*place, 1)
    tab.wait_for(f"Number({shown}) === {before + 1}")

    for key, end in (("End", "max"), ("Home", "min")):
        tab.run("document.querySelector('#viewer .stage').focus()")
        tab.press(key)
        slider = "document.querySelector('#viewer .slider input')"
        assert tab.run(f"{slider}.value === {slider}.{end}")


def test_the_disagreement_is_on_at_first_and_explains_itself(tab):
    several = "rgb(226, 26, 138)"
    explained = "getComputedStyle(document.querySelector('.differs')).display"
    tab.wait_for(f"{_pixels_in('rgb(92, 184, 242)')} > 0")
    assert tab.run(explained) == "flex"
    before = tab.run(_pixels_near("rgb(92, 184, 242)"))
    assert tab.run(_pixels_near(several)) == 0, "only 2d differs in this case"

    tab.run(f"{_button('#viewer', 'disagreement')}.click()")

    tab.wait_for(f"{_pixels_near('rgb(92, 184, 242)')} < {before}")
    assert tab.run(explained) == "none"


def test_small_pictures_lead_to_every_case_and_the_surfaces_follow(tab):
    small = "[...document.querySelectorAll('#viewer .small')]"
    loaded = "b.querySelector('img').complete && b.querySelector('img').naturalWidth"
    tab.wait_for(f"{small}.every(b => {loaded})")
    assert tab.run(f"{small}.map(b => b.ariaLabel)") == ["worst case: c0", "case: c1"]

    tab.run(f"{small}[1].click()")

    tab.wait_for_frames()
    assert (
        tab.run("document.querySelector('.stage .name').textContent")[:9] == "c1, axial"
    )
    about = tab.run("document.querySelector('#meshes .about').textContent")
    assert about == "2d and 3d_fullres, case: c1"
    assert tab.run(f"{small}.map(b => b.ariaPressed)") == ["false", "true"]


def test_the_scale_bar_is_as_long_as_it_says(tab):
    """The frame is 30 mm wide, and its margin reaches the border."""
    bar, stage = (
        tab.run(f"document.querySelector('{name}').getBoundingClientRect().width")
        for name in (".stage .bar", ".stage canvas")
    )

    assert tab.run("document.querySelector('.stage .bar').textContent") == "10 mm"
    assert bar / stage == pytest.approx(10 / 30, rel=0.02)


def test_the_legend_names_the_structures_of_the_slice_alone(tab):
    shown = (
        "[...document.querySelectorAll('#viewer [data-value]')].filter(e => !e.hidden)"
    )
    assert tab.run(f"{shown}.map(e => e.textContent)") == ["tibia", "femur"]

    tab.run("document.querySelector('#viewer .stage').focus()")
    tab.press("End")

    assert tab.run(f"{shown}.length") == 0


def test_surfaces_of_both_models_stand_side_by_side_on_a_desk_above_on_a_phone(tab):
    places = (
        "[...document.querySelectorAll('.scene .pane')].filter(e => !e.hidden)"
        ".map(e => [e.textContent, e.getBoundingClientRect().x, e.offsetTop])"
    )
    (one, x, top), (other, beside, level) = tab.run(places)
    assert (one, other) == ("2d", "3d_fullres")
    assert x < beside
    assert top == level
    tab.size(390, 844)
    tab.wait_for_frames()
    (_, x, top), (_, same, below) = tab.run(places)
    assert x == same
    assert top < below


def test_a_surface_has_the_colour_of_its_distance_on_the_common_scale(tab):
    """2d is off by 1 mm, the end of the scale; 3d_fullres is the reference."""
    assert "1 mm" in tab.run("document.querySelector('.scale').textContent")
    both = tab.run(SURFACE_PIXELS)["tibia"]
    assert both > 500  # red: too large on one side

    tab.run(f"{_button('#meshes', '2d')}.click()")
    tab.wait_for_frames()

    assert tab.run(SURFACE_PIXELS)["tibia"] == 0


def test_the_image_can_be_switched_off_so_that_labels_stand_on_black(tab):
    grey = _pixels_in("rgb(80, 80, 80)")
    tab.wait_for(f"{_pixels_in('rgb(92, 184, 242)')} > 0")
    for name in ("reference", "image"):
        tab.run(f"{_button('#viewer', name)}.click()")

    assert tab.run(grey) == 0
    assert tab.run(_pixels_in("rgb(92, 184, 242)")) > 0


def test_a_layer_can_be_switched_off_and_on(tab):
    tab.wait_for(f"{_pixels_in('rgb(92, 184, 242)')} > 0")
    button = _button("#viewer", "2d")

    tab.run(f"{button}.click()")
    without = tab.run(_pixels_in("rgb(92, 184, 242)"))
    tab.run(f"{button}.click()")

    assert without == 0
    assert tab.run(_pixels_in("rgb(92, 184, 242)")) > 0


def test_planes_can_be_chosen(tab):
    tab.run(f"{_button('#viewer', 'sagittal')}.click()")

    assert tab.run("document.querySelector('.stage .l').textContent") == "A"


def test_tabs_show_one_metric_at_a_time_and_obey_the_keyboard(tab):
    shown = "[...document.querySelectorAll('.panel')].filter(p => !p.hidden)"
    assert tab.run(f"{shown}.map(p => p.dataset.tab).join()") == "Dice"

    tab.run("document.querySelector('[role=tab]').focus()")
    tab.press("ArrowRight")

    assert tab.run(f"{shown}.map(p => p.dataset.tab).join()") == "HD95"


def test_surfaces_are_drawn_in_the_colours_of_their_structures(reference):
    seen = reference.run(SURFACE_PIXELS)

    assert seen["tibia"] > 2000
    assert seen["femur"] > 2000
    assert reference.run("document.querySelector('#meshes .about').textContent") == (
        "reference, worst case: c0"
    )


def test_a_structure_can_be_hidden_and_shown(reference):
    tab = reference
    button = _button("#meshes", "tibia")

    tab.run(f"{button}.click()")
    tab.wait_for(f"{SURFACE_PIXELS}.tibia === 0")
    assert tab.run(SURFACE_PIXELS)["femur"] > 2000

    tab.run(f"{button}.click()")
    tab.wait_for(f"{SURFACE_PIXELS}.tibia > 2000")


def test_keys_mouse_and_double_click_move_the_surfaces_and_bring_them_back(tab):
    picture = "document.querySelector('.scene canvas').toDataURL()"
    first = tab.run(picture)
    seen = [first]
    x, y = _middle_of(tab, ".scene")
    tab.run("document.querySelector('.scene canvas').focus()")
    moves = [
        *(lambda key=key: tab.press(key) for key in ("ArrowRight", "ArrowUp", "+")),
        lambda: tab.turn_wheel(x, y, 2),
        lambda: tab.drag((x, y), (x + 120, y + 30)),
        lambda: tab.drag((x, y), (x + 60, y), shift=True),
    ]
    for move in moves:
        move()
        tab.wait_for(f"{picture} !== {seen[-1]!r}")
        seen.append(tab.run(picture))

    assert len(set(seen)) == len(seen)
    tab.run(f"{_button('#meshes', 'front')}.click()")
    tab.wait_for(f"{picture} === {first!r}")


def test_the_wheel_scrolls_the_page_until_the_surfaces_are_clicked(tab):
    picture = "document.querySelector('.scene canvas').toDataURL()"
    first, place = tab.run(picture), _middle_of(tab, ".scene")
    before = tab.run("scrollY")

    tab.turn_wheel(*place, 1)

    tab.wait_for(f"scrollY > {before}")
    assert tab.run(picture) == first


def test_one_finger_turns_the_surfaces_and_two_bring_them_nearer(reference):
    tab = reference
    tab.size(390, 844)
    tab.ask("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
    tab.wait_for_frames()
    picture = "document.querySelector('.scene canvas').toDataURL()"
    x, y = _middle_of(tab, ".scene")
    tab.wait_for_frames()
    first = tab.run(picture)
    whole = tab.run(SURFACE_PIXELS)["femur"]

    tab.touch([[(x - 40, y)], [(x + 40, y + 20)]])
    tab.wait_for(f"{picture} !== {first!r}")
    tab.run(f"{_button('#meshes', 'front')}.click()")
    tab.wait_for(f"{picture} === {first!r}")
    tab.touch([[(x, y - 30), (x, y + 30)], [(x, y - 40), (x, y + 40)]])

    tab.wait_for(f"{SURFACE_PIXELS}.femur > {1.2 * whole}")


@pytest.mark.parametrize(
    ("view", "letters"),
    [("front", "RLHF"), ("back", "LRHF"), ("left side", "APHF"),
     ("right side", "PAHF"), ("above", "LRAP"), ("below", "RLAP")],
)  # fmt: skip
def test_letters_name_the_sides_of_the_patient_in_every_view(tab, view, letters):
    tab.run(f"{_button('#meshes', view)}.click()")
    tab.wait_for_frames()
    edges = "['.l', '.r', '.t', '.bo'].map(e => document.querySelector('.scene ' + e)"

    assert tab.run(f"{edges}.textContent).join('')") == letters


def test_the_tibia_lies_on_the_side_of_the_picture_that_its_letter_names(reference):
    """It has the lower x, towards the patient's right: left in front, right behind."""
    tab = reference
    front = tab.run(SURFACE_PIXELS)["tibia_x"]
    tab.run(f"{_button('#meshes', 'back')}.click()")
    tab.wait_for_frames()

    assert front < 0.5 < tab.run(SURFACE_PIXELS)["tibia_x"]


def test_surfaces_of_every_model_can_be_chosen(reference):
    """The prediction of 2d is the reference moved by 1 mm to the patient's left."""
    tab, before = reference, reference.run(SURFACE_PIXELS)["tibia_x"]

    for name in ("2d", "reference"):
        tab.run(f"{_button('#meshes', name)}.click()")
    tab.wait_for_frames()

    assert before < tab.run(SURFACE_PIXELS)["tibia_x"] < before + 0.1
    about = tab.run("document.querySelector('#meshes .about').textContent")
    assert about == "2d, worst case: c0"


def test_a_browser_without_webgl_says_what_to_do(browser, page):
    browser.new_tab()
    browser.page.add_init_script(
        "HTMLCanvasElement.prototype.getContext = (get => function (kind, ...o)"
        "{ return kind === 'webgl2' ? null : get.call(this, kind, ...o); })"
        "(HTMLCanvasElement.prototype.getContext)",
    )
    browser.open(page)

    section = browser.run("document.querySelector('#meshes').textContent")
    assert "does not support WebGL 2" in section
    assert "3D Slicer" in section
    assert browser.run("document.querySelectorAll('#meshes canvas').length") == 0
    assert browser.complaints == []


def test_everything_can_be_reached_and_pressed_by_the_keyboard(tab):
    """Tab from the top reaches every control; Enter presses it."""
    reached = set()
    for _ in range(110):
        tab.press("Tab")
        reached.add(
            tab.run(
                "(e => e.getAttribute('aria-label') || e.textContent.trim())"
                "(document.activeElement)"
            )
        )
    controls = ("Skip to the results", "Dice", "worst case: c0", "sagittal",
                "disagreement", "Slice viewer", "Slice", "front", "above",
                "Surfaces of the structures")  # fmt: skip
    missing = [name for name in controls if not any(name in r for r in reached)]
    assert missing == []

    tab.run(f"{_button('#viewer', 'coronal')}.focus()")
    tab.press("Enter")
    assert tab.run("document.querySelector('.stage .t').textContent") == "H"


def test_dark_text_and_light_text_can_be_read_on_their_paper(tab):
    """WCAG asks 4.5 for text; of the ink, the soft ink and the models' colours 3."""
    for scheme in ("light", "dark"):
        tab.scheme(scheme)
        sheet = tab.run(_luminance("--sheet"))
        for name, least in (("--ink", 7), ("--soft", 4.5), ("--m0", 3), ("--m1", 3)):
            other = tab.run(_luminance(name))
            low, high = sorted((sheet, other))
            assert (high + 0.05) / (low + 0.05) >= least, (scheme, name)


def test_printed_all_metrics_stand_on_paper_and_buttons_do_not(tab, tmp_path):
    tab.ask("Emulation.setEmulatedMedia", media="print")
    shown = "e => getComputedStyle(e).display !== 'none'"
    panels = f"[...document.querySelectorAll('.panel')].filter({shown}).length"
    tools = f"[...document.querySelectorAll('.tools, .tabs')].filter({shown}).length"

    tab.size(A4_PIXELS, 1000)

    assert tab.run(panels) == 5
    assert tab.run(tools) == 0
    assert tab.run("document.documentElement.scrollWidth") <= A4_PIXELS
    assert tab.run(f"({shown})(document.querySelector('.scene canvas'))")
    pdf = tab.printed()
    tab.ask("Emulation.setEmulatedMedia", media="")
    (tmp_path / "page.pdf").write_bytes(pdf)
    assert pdf.startswith(b"%PDF")
    assert 2 <= pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") <= 12


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_record_of_a_training_fits_and_asks_for_nothing(
    browser, tmp_path, width, scheme
):
    file = tmp_path / "index.html"
    write_run_page(file, run_content())
    browser.new_tab()
    browser.size(width, 800)
    browser.scheme(scheme)
    browser.open(file)

    browser.wait_for("[...document.images].every(i => i.complete && i.naturalWidth)")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.images.length") == 7
    assert len(browser.screenshot(tmp_path / "record.png")) > 20_000
    assert browser.complaints == []
    fetched = [u for u in browser.requests if not u.startswith(("data:", "file:"))]
    assert fetched == []


def run_content():
    table = LabelTable.from_names(["tibia", "femur"])
    image, reference, prediction = _images(table)
    picture = slice_picture(image, reference, prediction, plane="axial", index=8)
    return RunContent(
        model="2d",
        fold="0",
        dataset="Dataset001_Tibia",
        created="1 May 2026",
        caveat="",
        scores=bone_scores(prediction, reference, case_id="c0"),
        curve=_curve("2d"),
        slices=(ShownSlice("c0", "worst slice", "It is.", picture),),
        settings=(Setting("epochs", ("8",)),),
        colours=(("tibia", "#e65546"), ("femur", "#50b469")),
    )


SURFACE_PIXELS = """(() => {
  const canvas = document.querySelector('.scene canvas');
  const copy = Object.assign(document.createElement('canvas'),
    { width: canvas.width, height: canvas.height }).getContext('2d');
  copy.drawImage(canvas, 0, 0);
  const p = copy.getImageData(0, 0, canvas.width, canvas.height).data;
  const seen = { tibia: 0, femur: 0, tibia_x: 0 };
  for (let i = 0; i < p.length; i += 4) {
    if (p[i + 3] < 200) continue;
    if (p[i] > 1.5 * p[i + 1]) {
      seen.tibia++;
      seen.tibia_x += (i / 4) % canvas.width / canvas.width;
    } else if (p[i + 1] > 1.3 * p[i]) seen.femur++;
  }
  seen.tibia_x /= seen.tibia || 1;
  return seen;
})()"""
"""Pixels of each structure (red and green) in the scene, and where the tibia lies."""


def _luminance(name):
    """Return the script that gives the relative luminance of a colour of the page."""
    return (
        "(() => { const d = document.createElement('i'); document.body.append(d);"
        f"d.style.color = 'var({name})';"
        "const c = getComputedStyle(d).color.match(/[\\d.]+/g).slice(0, 3)"
        ".map(v => v / 255)"
        ".map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);"
        "d.remove();"
        "return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]; })()"
    )


def _middle_of(tab, selector):
    """Scroll an element into the window and return its middle."""
    where = "{block: 'center', behavior: 'instant'}"
    tab.run(f"document.querySelector('{selector}').scrollIntoView({where})")
    box = f"document.querySelector('{selector}').getBoundingClientRect()"
    return tab.run(f"{box}.x + {box}.width / 2"), tab.run(f"{box}.y + {box}.height / 2")


def _pixels_near(colour):
    """Return the script that counts pixels of a colour that lies over others."""
    red, green, blue = (int(part) for part in colour[4:-1].split(","))
    return (
        "(() => { const c = document.querySelector('#viewer canvas');"
        "const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "let n = 0; for (let i = 0; i < p.length; i += 4)"
        f"if (Math.abs(p[i] - {red}) + Math.abs(p[i+1] - {green}) +"
        f" Math.abs(p[i+2] - {blue}) < 90) n++; return n; }})()"
    )


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
