"""Along which axes images are mirrored, where left and right are kept apart."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from nnunet_bridge.nnunet.sides import (
    allowed_axes,
    axes_that_keep_sides,
    axis_that_swaps_sides,
    has_sided_labels,
    left_right_components,
    swapped_labels,
)

AXIAL = [1, 0, 0, 0, 1, 0, 0, 0, 1]
SAGITTAL = [0, 0, 1, 1, 0, 0, 0, -1, 0]
SIDED = {"background": 0, "hip_left": 1, "hip_right": 2, "sacrum_middle": 3, "l5": 4}


def test_labels_of_the_middle_keep_nothing_apart():
    assert not has_sided_labels(["background", "sacrum_middle", "femur"])


def test_every_side_gets_the_label_of_the_other_and_the_middle_its_own():
    assert swapped_labels(SIDED) == {1: 2, 2: 1}


def test_swapping_twice_changes_nothing():
    swaps = swapped_labels(SIDED)

    assert {swaps[swaps[value]] for value in swaps} == set(swaps)


@pytest.mark.parametrize(
    ("direction", "axis"),
    [(AXIAL, 2), (SAGITTAL, 0)],
    ids=["axial: columns", "sagittal: slices"],
)
def test_the_array_axis_that_is_left_right_is_found(direction, axis):
    cases = [left_right_components(direction, [0, 1, 2])]

    assert axis_that_swaps_sides(cases, 3) == axis
    assert axes_that_keep_sides(cases, 3) == tuple(n for n in range(3) if n != axis)


@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (2, 1, 0)])
@given(seed=st.integers(0, 10_000))
def test_the_axis_is_that_of_a_real_array_however_the_patient_lies(transpose, seed):
    """The oracle moves along each axis of the transposed array and looks at x."""
    direction = Rotation.random(random_state=seed).as_matrix()
    step_in_x = []
    for axis in range(3):
        index = np.zeros(3)
        index[axis] = 1
        as_read = np.zeros(3)
        as_read[list(transpose)] = index
        step_in_x.append(abs((direction @ as_read[::-1])[0]))

    found = left_right_components(direction.ravel().tolist(), transpose)

    np.testing.assert_allclose(found, step_in_x)


@given(seed=st.integers(0, 10_000))
def test_an_axis_that_keeps_sides_leaves_left_on_the_left(seed):
    direction = Rotation.random(random_state=seed).as_matrix()
    cases = [left_right_components(direction.ravel().tolist(), [0, 1, 2])]

    for axis in axes_that_keep_sides(cases, 3):
        unit = direction[:, 2 - axis]
        left = np.array([1.0, 0, 0])
        mirrored = left - 2 * unit * (unit @ left)
        assert mirrored[0] >= 0.5 - 1e-9


def test_a_slice_has_no_axis_of_the_stack():
    axial = [left_right_components(AXIAL, [0, 1, 2])]
    sagittal = [left_right_components(SAGITTAL, [0, 1, 2])]

    assert (axes_that_keep_sides(axial, 2), axis_that_swaps_sides(axial, 2)) == (
        (0,),
        1,
    )
    assert axes_that_keep_sides(sagittal, 2) == (0, 1)
    assert axis_that_swaps_sides(sagittal, 2) is None


def test_cases_that_lie_differently_share_only_what_is_safe_in_all():
    cases = [
        left_right_components(AXIAL, [0, 1, 2]),
        left_right_components(SAGITTAL, [0, 1, 2]),
    ]

    assert axes_that_keep_sides(cases, 3) == (1,)
    assert axis_that_swaps_sides(cases, 3) is None


def test_at_45_degrees_an_axis_neither_keeps_nor_swaps():
    turned = Rotation.from_euler("z", 45, degrees=True).as_matrix().ravel().tolist()
    cases = [left_right_components(turned, [0, 1, 2])]

    assert axis_that_swaps_sides(cases, 3) is None
    assert axes_that_keep_sides(cases, 3) == (0,)


@pytest.mark.parametrize("cases", [[], [()], [(0.0, 0.0, 1.0), ()]])
def test_where_a_direction_is_unknown_nothing_is_mirrored(cases):
    assert axes_that_keep_sides(cases, 3) == ()
    assert axis_that_swaps_sides(cases, 3) is None


def test_half_a_turn_and_a_mirror_from_front_to_back_are_a_wrong_mirror():
    """So the wide rotation of nnU-Net's square 2d patches leaves no mirror at all."""
    half_a_turn, front_to_back = np.diag([-1, -1, 1]), np.diag([1, -1, 1])
    assert np.array_equal(front_to_back @ half_a_turn, np.diag([-1, 1, 1]))

    assert allowed_axes((0, 1), (0,), (-math.pi, math.pi)) == ()
    assert allowed_axes((0, 1), (0,), (-math.pi / 6, math.pi / 6)) == (0,)
