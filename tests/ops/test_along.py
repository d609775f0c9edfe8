"""Where along a structure predictions err, on boxes with errors at known places."""

from dataclasses import replace

import numpy as np
import pytest

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.ops.along import (
    PARTS,
    along_length,
    distances_mm,
    longest_axis,
    mean_profiles,
)
from nnunet_bridge.ops.surface import surfaces_of

TABLE = LabelTable.from_names(["tibia"])
BONE = np.s_[10:20, 10:20, 5:45]  # 40 slices: two a part


def labelmap(voxels, turned):
    """Return voxels on a grid of 1 x 1 x 2 mm whose last axis may run to the feet."""
    affine = np.diag([1.0, 1.0, -2.0 if turned else 2.0, 1.0])
    return Labelmap(Grid(voxels.shape, affine), voxels, TABLE)


@pytest.fixture(params=[False, True], ids=["to the head", "to the feet"])
def bone(request):
    voxels = np.zeros((30, 30, 50), np.uint8)
    voxels[BONE] = 1
    return labelmap(voxels, request.param), request.param


def profile(drawn, found):
    label = TABLE["tibia"]
    own, other = surfaces_of(drawn)["tibia"], surfaces_of(found)["tibia"]
    errors = distances_mm(other, own, drawn)
    return along_length(drawn, found, label, 2, other, errors), errors


def test_a_perfect_prediction_has_dice_1_and_no_error_everywhere(bone):
    (dice, error), errors = profile(bone[0], bone[0])

    np.testing.assert_allclose(dice, 1)
    np.testing.assert_allclose(error, 0)
    assert not errors.any()


def test_an_error_shows_at_its_place_with_its_size_from_the_feet_to_the_head(bone):
    drawn, turned = bone
    voxels = drawn.voxels.copy()
    voxels[20:23, 10:20, 25:27] = 1  # 3 mm too thick in 2 of 40 slices

    (dice, error), errors = profile(drawn, drawn.with_voxels(voxels))

    place = PARTS - 1 - 10 if turned else 10
    assert dice.argmin() == place
    assert dice[place] == pytest.approx(2 * 100 / (100 + 130))
    assert np.delete(dice, place) == pytest.approx(1)
    assert error.argmax() == place
    assert errors.max() == pytest.approx(3)
    assert errors.min() >= 0


def test_inside_the_reference_the_distance_is_negative(bone):
    drawn, _ = bone
    voxels = drawn.voxels.copy()
    voxels[18:20] = 0  # 2 mm too thin on one side

    _, errors = profile(drawn, drawn.with_voxels(voxels))

    assert errors.min() == pytest.approx(-2)
    assert errors.max() == 0


def test_an_invented_structure_is_infinitely_far():
    mesh = surfaces_of(labelmap(np.pad(np.ones((3, 3, 3), np.uint8), 2), False))[
        "tibia"
    ]

    assert np.isposinf(distances_mm(mesh, None, None)).all()


def test_the_longest_axis_of_two_legs_is_that_of_a_leg():
    voxels = np.zeros((90, 20, 40), np.uint8)
    voxels[5:10, 5:10, 5:35] = voxels[80:85, 5:10, 5:35] = 1

    assert longest_axis(labelmap(voxels, False), TABLE["tibia"]) == 2


def test_means_are_over_the_cases_that_have_a_value():
    nan, one = np.full(PARTS, np.nan), np.ones(PARTS)

    (found,) = mean_profiles(
        {("tibia", "2d"): [(one, nan), (0 * one, one)]}, {"tibia": 2}
    )

    assert found.ends == ("feet", "head")
    np.testing.assert_allclose(found.dice, 0.5)
    np.testing.assert_allclose(found.error_mm, 1)


@pytest.mark.parametrize("axis", range(3))
def test_inside_is_known_up_to_the_first_plane_of_the_image(axis):
    voxels = np.zeros((12, 12, 12), np.uint8)
    voxels[:8, :8, :8] = 1
    drawn = labelmap(voxels, turned=False)
    own = surfaces_of(drawn)["tibia"]
    place = np.full(3, 4.0)
    place[axis] = 0.25
    points = np.tile(drawn.grid.to_patient(place), (len(own.vertices_mm), 1))
    within = replace(own, vertices_mm=points)

    assert (distances_mm(within, own, drawn) < 0).all()
