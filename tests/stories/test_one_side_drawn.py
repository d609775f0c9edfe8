"""One side of the body was drawn: the other counts as not drawn (K31)."""

import json

import numpy as np
import pytest
from command import bridge

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.nifti import write_volume

AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])
AFFINE[:3, 3] = -80, -30, -40
GRID = Grid((80, 30, 20), AFFINE)
PLACES = GRID.to_patient(np.moveaxis(np.indices(GRID.shape), 0, -1))
X, Y = PLACES[..., 0], PLACES[..., 1]
LEFT, RIGHT = (((X - x) ** 2 + Y**2 < 8**2).astype(np.uint8) for x in (33, -27))
BODY = ((np.abs(X - 3) - 30) ** 2 + Y**2 < 22**2) | (np.abs(X - 3) < 9) & (Y**2 < 100)
LEGS = 100 * BODY  # mirrored by x = 3
PELVIS = (np.abs(X - 3) < 6).astype(np.uint8) * (np.abs(Y) < 6)
RECIPE = """
[dataset]
id = 1
name = "Legs"
table = "cases.csv"
[labels]
femur = 1
pelvis = 2
[drawn.cases]
msk_004 = "right"
msk_005 = "right"
"""


@pytest.fixture
def study(tmp_path):
    """The left femur of the first and fourth was not drawn."""
    study, rows = tmp_path / "study", ["case,role,structure,side,state,file"]
    noise = np.random.default_rng(0)
    drawn = {1: RIGHT, 2: RIGHT | LEFT, 3: RIGHT, 4: RIGHT, 5: LEFT}
    for index, mask in drawn.items():
        legs = LEGS + noise.normal(0, 2, LEGS.shape)
        if index == 3:  # cut by the edge of the image
            legs[:40] = 100
        case = f"msk_{index:03d}"
        for name, voxels in (("image", legs), ("femur", mask), ("pelvis", PELVIS)):
            kind = np.float32 if name == "image" else np.uint8
            volume = Volume(GRID, np.asarray(voxels, kind))
            write_volume(study / f"{name}_{index}.nii.gz", volume)
        rows += [f"{case},mask,,left,unlabelled,"] * (index in (1, 3))
        rows.append(f"{case},image,,,,image_{index}.nii.gz")
        rows.append(f"{case},mask,femur,,,femur_{index}.nii.gz")
        rows.append(f"{case},mask,pelvis,middle,,pelvis_{index}.nii.gz")
    (study / "cases.csv").write_text("\n".join(rows))
    (study / "dataset.toml").write_text(RECIPE)
    return tmp_path


def run(*words):
    result = bridge(*words, "--json", check=False)
    return result.exit_code, json.loads(result.stdout)


def test_K31_one_side_is_found_shown_recorded_and_scored_and_a_wrong_one_refused(study):
    place = (study / "study", "-w", study)
    code, checked = run("check", *place)
    assert code == 4
    messages = [" ".join(case["messages"]) for case in checked["cases"]]
    refused = [case["outcome"] == "refused" for case in checked["cases"]]
    assert refused == [False, False, True, False, True]
    assert "Only the right side was drawn" in messages[0]
    assert "too few heights show both of its flanks" in messages[2]
    assert "Only the right side was drawn, and " in messages[4]
    assert "correct the side" in messages[4]
    pictures = sorted((study / "runs").rglob("midlines/*.png"))
    assert [file.stem for file in pictures] == ["msk_001", "msk_004"]
    assert str(pictures[0]) in messages[0]

    run("convert", *place)

    raw = study / "nnUNet_raw" / "Dataset001_Legs"
    partly = json.loads((raw / "dataset.json").read_text())["partly_drawn"]
    assert partly.keys() == {"msk_001", "msk_004"}
    one = partly["msk_001"]
    assert (one["side"], one["on_both"]) == ("right", ["pelvis"])
    assert one["midline"]["point_mm"][0] == pytest.approx(3, abs=2)
    assert one["midline"]["normal"] == pytest.approx([1, 0, 0], abs=0.02)
    record = json.loads((raw / "manifest.json").read_text())["cases"][0]
    assert record["partly_drawn"] == one


def test_the_other_side_is_scored_nowhere_and_what_is_on_both_everywhere(study):
    run("convert", study / "study", "-w", study)
    truth, predicted = (
        study / "nnUNet_raw/Dataset001_Legs/labelsTr",
        study / "predicted",
    )
    wide = 2 * (np.abs(X - 3) < 9) * (np.abs(Y) < 6)
    for case in ("msk_001", "msk_002"):  # both legs, and a pelvis that is too wide
        both = np.where(RIGHT | LEFT, 1, wide).astype(np.uint8)
        write_volume(predicted / f"{case}.nii.gz", Volume(GRID, both))

    _, scores = run("score", predicted, truth, "-o", study / "out")

    femur, pelvis = scores["mean"]["femur"], scores["mean"]["pelvis"]
    assert (femur["n"], femur["dice"]) == (2, 1.0)
    drawn, found = PELVIS.sum(), (wide == 2).sum()
    assert pelvis["dice"] == pytest.approx(2 * drawn / (drawn + found))


def test_with_separate_sides_the_labels_of_the_other_are_not_drawn(study):
    recipe = study / "study" / "dataset.toml"
    parts = RECIPE.replace("pelvis", "pelvis_middle") + '[merge]\nsides = "separate"\n'
    recipe.write_text(parts)
    table = study / "study" / "cases.csv"
    rows = [row for row in table.read_text().splitlines() if "002" not in row]
    rows = [row for row in rows if "003" not in row and "005" not in row]
    table.write_text("\n".join(rows).replace("femur,,", "femur,right,"))

    code, converted = run("convert", study / "study", "-w", study)

    assert code == 0, converted
    content = json.loads(
        (study / "nnUNet_raw" / "Dataset001_Legs" / "dataset.json").read_text()
    )
    hidden = {"not_drawn": ["femur_left"]}
    assert content["partly_drawn"] == {"msk_001": hidden, "msk_004": hidden}
