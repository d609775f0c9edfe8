"""FAULTS K13, K17, K18, K22: does a mask make sense on its image?"""

import numpy as np
import pytest

from nnunet_bridge.core.findings import Outcome
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.ops.checks import (
    DrawnStructure,
    centroid_mm,
    image_findings,
    laterality,
    on_the_image,
    specks,
    touches_an_end,
)
from nnunet_bridge.ops.planes import PIXEL_SPACING_RANGE_MM, SLICE_SPACING_RANGE_MM

GRID = Grid((20, 10, 8), np.diag([1.0, 1.0, 2.0, 1.0]))
TABLE = LabelTable.from_names(["tibia"])


def drawn(name, side, x):
    return DrawnStructure(name, side, np.array([x, 0.0, 0.0]))


@pytest.mark.parametrize("spacing_mm", [(0.001, 1, 1), (1, 1, 1000)])
def test_G13_an_impossible_size_of_voxels_is_refused_with_the_limits(spacing_mm):
    noise = np.random.default_rng(3).integers(1, 99, (9, 10, 8)).astype(np.int16)
    volume = Volume(Grid(noise.shape, np.diag([*spacing_mm, 1.0])), noise)

    (finding,) = image_findings(volume)

    least, most = PIXEL_SPACING_RANGE_MM[0], SLICE_SPACING_RANGE_MM[1]
    assert (finding.code, finding.outcome) == ("G13", Outcome.REFUSED)
    assert f"outside the possible {least:g} to {most:g} mm" in finding.message


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(
    ("constant", "named"), [([1], "1"), ([4, 5], "4, 5"), ([0, 7], None)]
)
def test_P11_slices_of_one_value_inside_the_stack_are_named(axis, constant, named):
    voxels = np.random.default_rng(3).integers(1, 99, (9, 10, 8))
    voxels[:, :, constant] = 5
    spacing = np.roll([1.0, 1.0, 3.0], axis + 1)
    turned = np.moveaxis(voxels, 2, axis)
    grid = Grid(turned.shape, np.diag([*spacing, 1.0]))

    findings = list(image_findings(Volume(grid, turned.astype(np.int16))))

    texts = [(one.code, one.message.rpartition(": ")[2]) for one in findings]
    assert texts == ([("P11", f"{named}.")] if named else [])


def test_K13_exchanged_sides_are_refused_with_the_distance():
    (finding,) = laterality(
        GRID, [drawn("tibia", "left", 4), drawn("tibia", "right", 15)]
    )

    assert (finding.code, finding.outcome) == ("K13", Outcome.REFUSED)
    assert "11.0 mm" in finding.message


def test_K13_the_patients_left_is_plus_x():
    sides = [drawn("tibia", "left", 15), drawn("tibia", "right", 4)]

    assert laterality(GRID, sides) == []


@pytest.mark.parametrize(("side", "x"), [("left", 2), ("right", 18)])
def test_K13_a_single_limb_beyond_the_middle_is_worth_a_warning(side, x):
    (finding,) = laterality(GRID, [drawn("femur", side, x)])

    assert (finding.code, finding.outcome) == ("K13", Outcome.WARNED)


def test_K13_no_side_is_no_question():
    assert (
        laterality(GRID, [drawn("pelvis", "", 2), drawn("pelvis2", "middle", 2)]) == []
    )


def labelled(mask):
    return Labelmap(GRID, mask.astype(np.uint8), TABLE)


def bright():
    return np.full(GRID.shape, 100, np.int16)


def test_K18_black_bone_inside_the_body_is_not_outside_the_image():
    image = bright()
    image[8:10, 4:6, 3:5] = 0
    mask = np.zeros(GRID.shape, bool)
    mask[5:14, 2:8, 2:6] = True

    assert on_the_image(Volume(GRID, image), labelled(mask)) == []


def test_K22_specks_are_worth_a_warning_and_stay():
    mask = np.zeros(GRID.shape, bool)
    mask[2:6, 2:6, 2:6] = True
    assert list(specks(mask, name="tibia")) == []
    mask[15, 8, 7] = True

    (finding,) = specks(mask, name="tibia")

    assert (finding.code, finding.outcome) == ("K22", Outcome.WARNED)
    assert "2 pieces" in finding.message
    assert [f.code for f in specks(mask, name="tibia", parts=2)] == ["K22"]
    assert mask[15, 8, 7]


def test_K22_one_voxel_of_a_hundred_is_no_warning():
    mask = np.zeros(GRID.shape, bool)
    mask[2:13, :9, 2] = mask[15, 9, 7] = True

    assert list(specks(mask, name="tibia")) == []


def test_K22_the_bone_of_the_other_side_is_no_speck():
    mask = np.zeros(GRID.shape, bool)
    mask[2:6, 2:6, 2:6] = mask[12:15, 2:6, 2:6] = True

    assert list(specks(mask, name="tibia", parts=2)) == []
    (finding,) = specks(mask, name="tibia")
    assert "57.1%" in finding.message


def test_the_centroid_follows_the_affine():
    mask = np.zeros(GRID.shape, bool)
    mask[3:6, 1, 4] = True

    np.testing.assert_allclose(centroid_mm(GRID, mask), [4, 1, 8])


@pytest.mark.parametrize("side", ["left", "right"])
def test_K13_a_limb_in_the_middle_of_the_image_may_be_of_either_side(side):
    assert laterality(GRID, [drawn("femur", side, 9.5)]) == []


@pytest.mark.parametrize(
    ("outside", "outcome"), [(10, Outcome.WARNED), (11, Outcome.REFUSED)]
)
def test_K18_more_than_one_voxel_in_a_hundred_outside_is_refused(outside, outcome):
    wide = Grid((40, 10, 8), GRID.affine)
    image, mask = np.zeros(wide.shape, np.int16), np.zeros(wide.shape, np.uint8)
    image[:20] = 100
    mask[:20].flat[: 1000 - outside] = 1
    mask[20:].flat[:outside] = 1
    labels = Labelmap(wide, mask, TABLE)

    (finding,) = on_the_image(Volume(wide, image), labels)

    assert (finding.code, finding.outcome) == ("K18", outcome)
    assert f"{outside} of 1000 voxels" in finding.message


@pytest.mark.parametrize(("in_air", "codes"), [(160, []), (161, ["K17"])])
def test_K17_up_to_a_fifth_of_a_mask_may_lie_in_air(in_air, codes):
    image = bright()
    image[10:] = 1
    mask = np.zeros(GRID.shape, bool)
    mask[:10].flat[: 800 - in_air] = True
    mask[10:].flat[:in_air] = True

    found = on_the_image(Volume(GRID, image), labelled(mask))

    assert [finding.code for finding in found] == codes


@pytest.mark.parametrize(
    ("k", "touches"), [(0, True), (1, False), (6, False), (7, True)]
)
def test_both_ends_of_the_stack_are_watched(k, touches):
    mask = np.zeros(GRID.shape, bool)
    mask[3, 3, k] = True

    assert touches_an_end(labelled(mask)) == touches


@pytest.mark.parametrize("k", [0, 7])
def test_K22_pieces_at_both_ends_of_the_stack_are_counted(k):
    mask = np.zeros(GRID.shape, bool)
    mask[2:6, 2:6, 3:5] = mask[15, 8, k] = True

    (finding,) = specks(mask, name="tibia")

    assert "2 pieces; the largest holds 97.0%" in finding.message


def test_K22_an_empty_mask_has_no_pieces():
    assert list(specks(np.zeros(GRID.shape, bool), name="tibia")) == []
