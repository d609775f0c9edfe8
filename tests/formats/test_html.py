"""The page needs nothing but itself, and believes nobody's names."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.formats.events import curve_of, read_events
from nnunet_bridge.formats.html import (
    CaseView,
    MeshSet,
    ModelCard,
    PageContent,
    Setting,
    write_page,
)
from nnunet_bridge.formats.html.meshes import packed_mesh, thinned
from nnunet_bridge.formats.html.page import MAX_BYTES, page_text
from nnunet_bridge.formats.sprites import slice_stack
from nnunet_bridge.ops.comparison import compare_models
from nnunet_bridge.ops.surface import surface_of
from nnunet_bridge.ops.verdict import verdict

HOSTILE = "<script>alert('x')</script>&\"'"


class Elements(HTMLParser):
    """The elements of a page, with the text of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.texts = []
        self._open = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open = (tag, dict(attrs))

    def handle_endtag(self, tag):  # noqa: ARG002 - the name is the parser's
        self._open = None

    def handle_data(self, data):
        if self._open and self._open[0] in ("script", "style"):
            self.texts.append((*self._open, data))


def content(models=("2d", "3d_fullres"), name="tibia", **changes):
    rng = np.random.default_rng(2)
    scores = {
        model: [
            BoneScore(f"c{n}", name, model, "scored", dice, 3.0, 1.0, dice, 1e4, 9e3)
            for n in range(6)
            for dice in [0.9 + rng.normal(0, 0.01)]
        ]
        for model in models
    }
    comparison = compare_models(scores, patients={f"c{n}": f"p{n}" for n in range(6)})
    filled = {
        "title": "2D or 3D?",
        "dataset": "Dataset001_Tibia",
        "created": "1 May 2026",
        "caveat": "",
        "verdict": verdict(comparison),
        "comparison": comparison,
        "models": tuple(ModelCard(model, model, ("0", "1")) for model in models),
    }
    return PageContent(**filled | changes)


def ball(radius=10):
    grid = Grid((32, 32, 32), np.eye(4))
    distance = np.linalg.norm(np.indices(grid.shape) - 15.5, axis=0)
    voxels = (distance < radius).astype(np.uint8)
    return Labelmap(grid, voxels, LabelTable.from_names(["tibia"]))


def case_view(case_id="c0"):
    labelmap = ball()
    image = Volume(labelmap.grid, labelmap.voxels.astype(np.int16) * 50)
    mesh = surface_of(labelmap, labelmap.labels["tibia"])
    return CaseView(
        case_id=case_id,
        reason="worst case",
        dice=(("2d", 0.9),),
        stacks=(slice_stack(image, labelmap, {"2d": labelmap}, plane="axial"),),
        meshes=(MeshSet("reference", (mesh,)),),
    )


def full_content():
    epochs = [
        {"event": "epoch", "epoch": n, "train_loss": -0.1 * n, "val_loss": None,
         "pseudo_dice": [0.1 * n]}
        for n in range(5)
    ]  # fmt: skip
    return content(
        caveat="a smoke run proves the chain, it is not a result",
        colours=(("tibia", "#e65546"),),
        curves=(curve_of("2d", "0", epochs),),
        cases=(case_view(),),
        settings=(Setting("loss", ("Dice", "Dice")),),
        costs=(Setting("training", ("1 h", "2 h")),),
        versions=(Setting("torch version", ("2.9", "2.9")),),
        notes=("A note.",),
        test=content().comparison,
    )


@pytest.fixture(scope="module")
def full_page():
    return page_text(full_content())


def test_no_element_names_an_address_outside_the_page(full_page):
    elements = Elements(full_page).elements

    addresses = [
        value
        for _, attributes in elements
        for key, value in attributes.items()
        if key in ("src", "href", "srcset", "data", "action", "poster", "xlink:href")
    ]

    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)


def test_no_style_and_no_script_of_ours_fetches(full_page):
    own = [
        text
        for _, attributes, text in Elements(full_page).texts
        if attributes.get("id") != "plotly"
    ]

    for text in own:
        assert not re.search(r"@import|https?://|(?<![\w.])fetch\(|XMLHttp", text)
        assert all(
            address.startswith(("data:", "#"))
            for address in re.findall(r"url\(['\"]?([^)'\"]*)", text)
        )


def test_the_browser_is_forbidden_to_fetch(full_page):
    policies = [
        attributes["content"]
        for tag, attributes in Elements(full_page).elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]

    (policy,) = policies
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_plotlys_script_stands_in_the_page_once_as_text(full_page):
    scripts = [
        (attributes.get("id"), attributes.get("type"))
        for tag, attributes in Elements(full_page).elements
        if tag == "script"
    ]

    assert scripts.count(("plotly", "text/plain")) == 1
    assert [kind for _, kind in scripts].count(None) == 1


def test_every_name_is_escaped():
    hostile = content(
        models=(f"2d{HOSTILE}", "3d"),
        name=HOSTILE,
        title=HOSTILE,
        dataset=HOSTILE,
        created=HOSTILE,
        notes=(HOSTILE,),
        colours=((HOSTILE, "#e65546"),),
        settings=(Setting(HOSTILE, (HOSTILE, "")),),
        cases=(case_view(case_id=HOSTILE),),
        curves=(curve_of("3d", HOSTILE, [{"event": "epoch", "epoch": 0,
                                          "train_loss": 1.0}]),),
    )  # fmt: skip

    text = page_text(hostile)

    assert "<script>alert" not in text
    assert "alert('x')" not in text
    own = [element for element in Elements(text).elements if element[0] == "script"]
    assert len(own) == 4


def test_the_cases_are_json_the_script_can_read(full_page):
    found = {
        attributes["id"]: json.loads(text)
        for _, attributes, text in Elements(full_page).texts
        if attributes.get("type") == "application/json"
    }

    assert found["cases"][0]["id"] == "c0"
    assert found["models"] == ["2d", "3d_fullres"]


def test_a_smoke_run_says_so_before_anything_else(full_page):
    banner = full_page.index("A smoke run proves the chain, it is not a result.")

    assert banner < full_page.index("Verdict")


@pytest.mark.parametrize(
    "part",
    ['id="viewer"', 'id="meshes"', 'id="training"', 'id="test"', 'id="settings"',
     'id="costs"', 'id="versions"', 'id="notes"', 'class="banner', 'id="plotly"'],
)  # fmt: skip
def test_a_missing_part_is_left_out_and_a_given_one_is_there(full_page, part):
    assert part in full_page
    assert part not in page_text(content())


def test_one_model_alone_and_three_models_make_pages():
    alone = page_text(content(models=("2d",)))
    three = page_text(content(models=("a", "b", "c")))

    assert "Nothing to compare" in alone
    assert three.count("Difference = ") == 15


def test_a_page_without_meshes_is_small(tmp_path):
    size = write_page(tmp_path / "index.html", content())

    assert size == (tmp_path / "index.html").stat().st_size
    assert size < 200_000


def test_a_page_with_meshes_stays_below_its_limit(tmp_path):
    assert write_page(tmp_path / "index.html", full_content()) < MAX_BYTES


def test_thinned_meshes_keep_their_place_and_nearly_their_volume():
    labelmap = ball()
    mesh = surface_of(labelmap, labelmap.labels["tibia"])

    vertices, faces = thinned(mesh.vertices_mm, mesh.faces, 500)
    a, b, c = (vertices[faces[:, n]] for n in range(3))
    volume = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6

    assert 50 < len(faces) <= 500
    assert volume == pytest.approx(mesh.volume_mm3, rel=0.15)
    np.testing.assert_allclose(
        vertices.mean(axis=0), mesh.vertices_mm.mean(axis=0), atol=0.5
    )


def test_packed_vertices_are_within_a_step_of_the_mesh():
    labelmap = ball()
    mesh = surface_of(labelmap, labelmap.labels["tibia"])

    packed = packed_mesh(mesh, max_faces=10**6)

    assert packed["step_mm"] < 0.001
    assert not packed["wide"]
    assert packed["colour"] == "#e65546"


# ------------------------------------------------------------------------- events


def test_a_half_written_last_line_is_tolerated(tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_text('{"event": "start"}\n{"event": "epo')

    assert read_events(file) == ({"event": "start"},)


def test_a_broken_line_in_the_middle_is_not(tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_text('{"event": "start"}\n{"eve\n{"event": "end"}\n')

    with pytest.raises(InputError, match="Line 2 of"):
        read_events(file)


def test_a_missing_events_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(InputError, match="Cannot read"):
        read_events(tmp_path / "events.jsonl")


def test_the_last_word_on_a_repeated_epoch_counts():
    events = [
        {"event": "epoch", "epoch": 1, "train_loss": 5, "pseudo_dice": [0.2, None]},
        {"event": "epoch", "epoch": 0, "train_loss": None, "pseudo_dice": None},
        {"event": "epoch", "epoch": 1, "train_loss": 4, "pseudo_dice": [0.4, 0.6]},
    ]

    curve = curve_of("2d", "0", events)

    assert curve.epochs == (0, 1)
    assert curve.train_loss == (None, 4.0)
    assert curve.pseudo_dice == (None, 0.5)
