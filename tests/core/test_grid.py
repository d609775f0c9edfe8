"""A grid says where every voxel lies, and refuses what no file could store."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from nnunet_bridge.core.errors import GeometryError
from nnunet_bridge.core.grid import Grid

millimetres = st.floats(0.1, 10)
points = arrays(np.float64, 3, elements=st.floats(-500, 500))
rotations = arrays(np.float64, 3, elements=st.floats(-3, 3)).map(Rotation.from_rotvec)


def grid(spacing=(0.7, 0.5, 3.0), origin=(0, 0, 0), rotation=None, shape=(5, 6, 7)):
    affine = np.eye(4)
    turn = np.eye(3) if rotation is None else rotation.as_matrix()
    affine[:3, :3] = turn @ np.diag(spacing)
    affine[:3, 3] = origin
    return Grid(shape, affine)


@given(st.tuples(millimetres, millimetres, millimetres), points, rotations)
def test_patient_and_voxel_are_inverse(spacing, origin, rotation):
    here = grid(spacing, origin, rotation)
    indices = np.array([[0, 0, 0], [4, 5, 6], [1.5, 2, 0.25]])

    np.testing.assert_allclose(
        here.to_voxel(here.to_patient(indices)), indices, atol=1e-6
    )


@given(st.tuples(millimetres, millimetres, millimetres), rotations)
def test_the_volume_of_a_voxel_is_the_determinant(spacing, rotation):
    here = grid(spacing, rotation=rotation)

    expected = abs(np.linalg.det(here.affine[:3, :3]))
    assert here.voxel_volume_mm3 == pytest.approx(expected, rel=1e-6)


@given(points, rotations)
def test_the_displacement_is_that_of_the_worst_voxel(shift, rotation):
    here, there = grid(), grid(origin=shift, rotation=rotation)
    every = np.indices(here.shape).reshape(3, -1).T

    apart = np.linalg.norm(here.to_patient(every) - there.to_patient(every), axis=1)

    assert here.displacement_mm(there) == pytest.approx(apart.max(), abs=1e-9)


def test_grids_match_within_a_distance_and_only_with_the_same_shape():
    assert grid().matches(grid(origin=(0.0009, 0, 0)))
    assert not grid().matches(grid(origin=(0.0011, 0, 0)))
    assert grid().matches(grid(origin=(0.5, 0, 0)), tolerance_mm=0.6)
    assert not grid().matches(grid(shape=(5, 6, 8)))


@pytest.mark.parametrize("element", [(0, 3), (1, 1), (2, 0)])
def test_a_change_of_any_part_of_the_affine_is_a_displacement(element):
    changed = grid().affine.copy()
    changed[element] += 1e-5 if element == (2, 0) else 0.01

    assert grid().displacement_mm(Grid((5, 6, 7), changed)) > 0


def test_the_affine_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        grid().affine[0, 3] = 1


@pytest.mark.parametrize(
    ("affine", "complaint"),
    [
        (np.eye(3), "Expected a 4 x 4 affine"),
        (np.diag([1, 1, 1, 2]), "Expected a 4 x 4 affine"),
        (np.diag([1, 0, 1, 1]), "does not span"),
        (np.diag([1, np.nan, 1, 1]), "does not span"),
        ([[1, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "perpendicular"),
    ],
)
def test_an_affine_that_no_file_could_store_is_refused(affine, complaint):
    with pytest.raises(GeometryError, match=complaint):
        Grid((2, 2, 2), affine)


@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 0), (2, 2, 2, 2)])
def test_a_shape_that_is_no_space_is_refused(shape):
    with pytest.raises(GeometryError, match="three positive sizes"):
        Grid(shape, np.eye(4))


def test_an_image_may_be_one_slice_or_one_voxel():
    assert grid(shape=(5, 6, 1)).shape == (5, 6, 1)
    assert grid(shape=(1, 1, 1)).middle_mm.tolist() == [0, 0, 0]


@given(st.tuples(millimetres, millimetres, millimetres), rotations)
def test_the_axes_are_those_nearest_in_direction_whatever_the_spacing(spacing, turn):
    cosines = np.abs(turn.as_matrix())
    _, nearest = linear_sum_assignment(cosines, maximize=True)

    axes, _ = grid(spacing, rotation=turn).array_axes

    best, found = (cosines[range(3), list(one)].sum() for one in (nearest, axes))
    assert found == pytest.approx(best)


@given(st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
def test_the_letters_of_an_axis_are_those_of_nibabel(order, flips):
    nibabel = pytest.importorskip("nibabel")
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, order] * np.where(flips, -1, 1) * [0.7, 0.5, 3.0]
    tilted = Rotation.from_rotvec([0.1, -0.2, 0.15]).as_matrix()
    affine[:3, :3] = tilted @ affine[:3, :3]

    letters = nibabel.aff2axcodes(np.diag([-1, -1, 1, 1]) @ affine)

    assert Grid((4, 5, 6), affine).axis_letters == "".join(letters)
