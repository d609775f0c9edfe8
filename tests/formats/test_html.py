"""The page needs no other file, and escapes every name."""

import base64
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from itertools import combinations

import numpy as np
import pytest

from nnunet_bridge.core.comparison import Setting
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.core.mesh import Mesh
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.formats.events import curve_of, read_events
from nnunet_bridge.formats.html.content import CaseView, MeshSet, ModelCard, PageContent
from nnunet_bridge.formats.html.meshes import packed_mesh
from nnunet_bridge.formats.html.page import MAX_BYTES, page_text, write_page
from nnunet_bridge.formats.html.run_page import RunContent, ShownSlice, run_page_text
from nnunet_bridge.formats.pictures import PLANES
from nnunet_bridge.formats.sprites import (
    MODEL_COLOURS,
    SEVERAL_COLOUR,
    slice_picture,
    slice_stack,
)
from nnunet_bridge.ops.comparison import compare_models
from nnunet_bridge.ops.surface import surfaces_of
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


def compared(models=("2d", "3d_fullres"), names=("tibia",), cases=6, **margins):
    rng = np.random.default_rng(2)
    scores = {
        model: [
            BoneScore(f"c{n}", name, model, "scored", dice, 3.0, 1.0, dice, 1e4, 9e3)
            for n in range(cases)
            for name in names
            for dice in [0.9 + rng.normal(0, 0.01)]
        ]
        for model in models
    }
    patients = {f"c{n}": f"p{n}" for n in range(cases)}
    return compare_models(scores, patients=patients, margins=margins)


def content(models=("2d", "3d_fullres"), name="tibia", **changes):
    comparison = compared(models, (name,))
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
    mesh = surfaces_of(labelmap)["tibia"]
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
        caveat="this smoke test checks the pipeline; its scores are not results",
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
    for _, _, text in Elements(full_page).texts:
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


def test_only_a_page_with_surfaces_has_their_script(full_page):
    assert full_page.count("const showSurfaces =") == 1
    assert "const showSurfaces =" not in page_text(content())


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
    assert len(own) == 3


def test_the_cases_are_json_the_script_can_read(full_page):
    found = {
        attributes["id"]: json.loads(text)
        for _, attributes, text in Elements(full_page).texts
        if attributes.get("type") == "application/json"
    }

    assert found["cases"][0]["id"] == "c0"
    assert found["models"] == ["2d", "3d_fullres"]


def test_a_smoke_run_says_so_before_anything_else(full_page):
    banner = full_page.index(
        "This smoke test checks the pipeline; its scores are not results."
    )

    assert banner < full_page.index("Verdict")


@pytest.mark.parametrize(
    "part",
    ['id="viewer"', 'id="meshes"', 'id="training"', 'id="test"', 'id="settings"',
     'id="costs"', 'id="versions"', 'id="notes"', 'class="banner',
     "disagreement:"],
)  # fmt: skip
def test_a_missing_part_is_left_out_and_a_given_one_is_there(full_page, part):
    assert part in full_page
    assert part not in page_text(content())


def test_one_model_alone_and_three_models_make_pages():
    alone = page_text(content(models=("2d",)))
    three = page_text(content(models=("a", "b", "c")))

    assert "Nothing to compare" in alone
    assert three.count("Difference = ") == 15
    assert 'id="ranks"' in three
    assert 'id="ranks"' not in alone


def test_a_page_without_meshes_is_small(tmp_path):
    size = write_page(tmp_path / "index.html", content())

    assert size == (tmp_path / "index.html").stat().st_size
    assert size < 200_000


def test_volumes_have_their_bias_and_limits_in_a_table_and_a_drawing(full_page):
    section = full_page.partition('id="volumes"')[2].partition("</section>")[0]

    assert section.count('<th scope="row">') == 2
    assert section.count('role="img"') == 2
    assert section.count('class="reach"') == 6


def test_cases_of_one_patient_have_limits_without_intervals():
    scores = {
        "2d": [
            BoneScore(
                f"c{n}", "tibia", "2d", "scored", 0.9, 3.0, 1.0, 0.9, 1e4, 9e3 + n
            )
            for n in range(4)
        ]
    }
    comparison = compare_models(scores, patients={f"c{n}": "p" for n in range(4)})

    text = page_text(content(models=("2d",), comparison=comparison))

    assert "each from a different patient" in text
    assert 'class="reach"' not in text


def test_one_case_has_a_bias_and_no_limits():
    score = BoneScore("c0", "tibia", "2d", "scored", 0.9, 3.0, 1.0, 0.9, 1e4, 9e3)
    comparison = compare_models({"2d": [score]}, patients={"c0": "p"})

    text = page_text(content(models=("2d",), comparison=comparison))
    section = text.partition('id="volumes"')[2].partition("</section>")[0]

    assert "\u22121.00" in section
    assert section.count('class="level') == 1


def test_every_name_on_the_record_of_a_training_is_escaped():
    labelmap = ball()
    image = Volume(labelmap.grid, labelmap.voxels.astype(np.int16) * 50)
    picture = slice_picture(image, labelmap, labelmap, plane="axial", index=16)

    text = run_page_text(
        RunContent(
            model=HOSTILE,
            fold=HOSTILE,
            dataset=HOSTILE,
            created=HOSTILE,
            caveat=HOSTILE,
            scores=(
                BoneScore(
                    HOSTILE, HOSTILE, "2d", "missed", 0.0, None, None, None, 1, 0
                ),
                BoneScore("c1", "tibia", "2d", "both_empty", *[None] * 4, 0.0, 0.0),
            ),
            slices=(ShownSlice(HOSTILE, HOSTILE, HOSTILE, picture),),
            settings=(Setting(HOSTILE, (HOSTILE,)),),
            notes=(HOSTILE,),
        )
    )

    assert "<script>alert" not in text
    assert "alert('x')" not in text
    assert [tag for tag, _ in Elements(text).elements].count("script") == 1
    assert "both empty" in text


def test_a_named_margin_adds_its_answer_to_the_table_of_that_metric_alone():
    assert all(row.margin is None for row in compared().rows)

    text = page_text(content(comparison=compared(cases=8, dice=0.1)))

    assert text.count("margin 0.1</small>") == 1
    assert text.count("<td>equivalent</td>") == 2


# ---------------------------------------------------------------------- colours


def rgb(words):
    return tuple(int(words[place : place + 2], 16) for place in (1, 3, 5))


def page_colours(within):
    """Return the colours of the models as a rule of the style sheet gives them."""
    style = files("nnunet_bridge.formats.html").joinpath("page.css").read_text("utf-8")
    rule = style.partition(within)[2]
    return [
        rgb(re.search(rf"--m{n}: (#[0-9a-f]{{6}})", rule).group(1)) for n in range(4)
    ]


SEEN_BY = {
    "all cones": np.eye(3),
    "no long cones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                      [-0.003882, -0.048116, 1.051998]],
    "no middle cones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                        [-0.011820, 0.042940, 0.968881]],
    "no short cones": [[1.255528, -0.076749, -0.178779],
                       [-0.078411, 0.930809, 0.147602],
                       [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
"""Linear RGB as an eye sees it: Machado, Oliveira and Fernandes 2009, severity 1."""


def seen(colour, eye):
    """Return CIE L*a*b* of a colour; a difference of 1 can just be noticed."""
    share = np.array(colour) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(SEEN_BY[eye]) @ linear, 0, 1)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
              [0.0193339, 0.1191920, 0.9503041]]  # fmt: skip
    x, y, z = np.cbrt(to_xyz @ linear / np.array([0.95047, 1, 1.08883]))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def least_difference(colours, eye):
    shown = [seen(colour, eye) for colour in colours]
    return min(np.linalg.norm(a - b) for a, b in combinations(shown, 2))


@pytest.mark.parametrize("eye", SEEN_BY)
@pytest.mark.parametrize("scheme", [":root {", "(prefers-color-scheme: dark)"])
def test_the_colours_of_the_models_differ_for_every_eye(scheme, eye):
    """Two models at a glance; of four, each also has a mark of its own."""
    colours = page_colours(scheme)

    assert least_difference(colours[:2], eye) > 60
    assert least_difference(colours, eye) > 10


@pytest.mark.parametrize("eye", SEEN_BY)
def test_the_colours_of_disagreement_differ_for_every_eye(eye):
    assert least_difference([*MODEL_COLOURS[:2], SEVERAL_COLOUR], eye) > 30


def test_the_viewer_draws_models_in_the_colours_of_its_legend():
    assert page_colours(".on-black, .stage {") == list(MODEL_COLOURS)


# ------------------------------------------------------------------------- size


def test_a_page_of_twenty_cases_stays_below_its_limit(tmp_path):
    """Twenty patients, four bones, cases of the size that the viewer shows at most."""
    rng = np.random.default_rng(3)
    table = LabelTable.from_names(["tibia", "femur", "fibula", "pelvis"])
    comparison = compared(names=table.names, cases=20)
    epochs = [
        {"event": "epoch", "epoch": n, "train_loss": rng.normal(), "val_loss": 0.0,
         "pseudo_dice": [0.9]}
        for n in range(1000)
    ]  # fmt: skip
    models = comparison.models
    curves = tuple(curve_of(m, str(f), epochs) for m in models for f in range(5))
    case = noisy_case(table, rng)
    filled = content(comparison=comparison, curves=curves, cases=(case, case))

    size = write_page(tmp_path / "index.html", filled)

    assert 5_000_000 < size < MAX_BYTES


def noisy_case(table, rng):
    """Return a case of incompressible noise with four bones, in three planes."""
    grid = Grid((160, 160, 96), np.diag([1.0, 1.0, 2.0, 1.0]))
    voxels = np.zeros(grid.shape, np.uint8)
    for value in range(1, 5):
        start = 36 * value - 30
        voxels[start : start + 30, 20:140, 8:88] = value
    reference = Labelmap(grid, voxels, table)
    ragged = np.where(rng.random(grid.shape) < 0.002, 0, voxels).astype(np.uint8)
    prediction = reference.with_voxels(ragged)
    image = Volume(grid, rng.integers(0, 1000, grid.shape).astype(np.int16))
    found = {"2d": prediction, "3d_fullres": reference}
    return CaseView(
        case_id="c0",
        reason="worst case",
        dice=(("2d", 0.9),),
        stacks=tuple(slice_stack(image, reference, found, plane=p) for p in PLANES),
        meshes=tuple(
            MeshSet(name, tuple(surfaces_of(labelmap).values()))
            for name, labelmap in {"reference": reference, **found}.items()
        ),
    )


def test_a_page_with_meshes_stays_below_its_limit(tmp_path):
    assert write_page(tmp_path / "index.html", full_content()) < MAX_BYTES


def unpacked(packed):
    """Return vertices in mm and faces, as `surfaces.js` reads them."""
    whole = np.frombuffer(base64.b64decode(packed["vertices"]), "<i2").reshape(-1, 3)
    kind = "<u4" if packed["wide"] else "<u2"
    faces = np.frombuffer(base64.b64decode(packed["faces"]), kind).reshape(-1, 3)
    return whole * packed["step_mm"] + packed["centre_mm"], faces


def test_packed_meshes_have_fewer_faces_and_keep_their_place_and_volume():
    labelmap = ball()
    mesh = surfaces_of(labelmap)["tibia"]

    vertices, faces = unpacked(packed_mesh(mesh, 500))
    shown = Mesh(vertices, faces.astype(np.int32), mesh.label, True, False)

    assert 50 < len(faces) <= 500
    assert shown.volume_mm3 == pytest.approx(mesh.volume_mm3, rel=0.15)
    np.testing.assert_allclose(
        vertices.mean(axis=0), mesh.vertices_mm.mean(axis=0), atol=0.5
    )


def test_a_shattered_surface_is_thinned_too():
    """One voxel in 30 at random: thousands of pieces, as a poor model predicts."""
    grid = Grid((30, 30, 30), np.eye(4))
    specks = (np.random.default_rng(1).random(grid.shape) < 1 / 30).astype(np.uint8)
    shattered = Labelmap(grid, specks, LabelTable.from_names(["tibia"]))
    mesh = surfaces_of(shattered)["tibia"]

    _, faces = unpacked(packed_mesh(mesh, 500))

    assert 0 < len(faces) <= 500


def test_packed_vertices_are_within_a_step_of_the_mesh():
    labelmap = ball()
    mesh = surfaces_of(labelmap)["tibia"]

    packed = packed_mesh(mesh, max_faces=10**6)
    vertices, faces = unpacked(packed)

    assert packed["step_mm"] < 0.001
    np.testing.assert_allclose(vertices, mesh.vertices_mm, atol=packed["step_mm"])
    np.testing.assert_array_equal(faces, mesh.faces)
    assert packed["colour"] == "#e65546"


def test_surfaces_that_stay_too_large_leave_the_page(tmp_path):
    limit = len(page_text(full_content(), max_faces=0).encode())

    size = write_page(tmp_path / "index.html", full_content(), max_bytes=limit)

    text = (tmp_path / "index.html").read_text()
    assert size <= limit
    assert 'id="viewer"' in text
    assert 'id="meshes"' not in text


# ------------------------------------------------------------------------- events


def test_a_half_written_last_line_is_tolerated(tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_text('{"event": "start"}\n{"event": "epo')

    assert read_events(file) == ({"event": "start"},)


def test_a_broken_line_in_the_middle_is_not(tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_text('{"event": "start"}\n{"eve\n{"event": "end"}\n')

    with pytest.raises(InputError, match="line 2 cannot be read"):
        read_events(file)


def test_a_missing_events_file_is_reported_as_missing(tmp_path):
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
