"""The midline of a body: two legs of known symmetry, on grids of any pose."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.spatial.transform import Rotation

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.core.partly import Midline, PartlyDrawn
from nnunet_bridge.core.words import Side
from nnunet_bridge.ops.midline import midline_of, only_side


def two_legs(grid, *, at_mm=7.0, tilt=0.0, seed=0, arm=False):
    """Return an image of two cylinders, mirrored by the plane x = at + tilt z."""
    places = grid.to_patient(np.moveaxis(np.indices(grid.shape), 0, -1))
    x, y, z = np.moveaxis(places, -1, 0)
    away = np.abs(x - at_mm - tilt * z)
    body = (away - 30) ** 2 + y**2 < 22**2
    if arm:
        body |= (x - at_mm - 70) ** 2 + y**2 + (z - 20) ** 2 < 8**2
    noise = np.random.default_rng(seed).normal(0, 4, grid.shape)
    return Volume(grid, (100 * body + np.abs(noise)).astype(np.float32))


def posed(turn_degrees=(0, 0, 0), spacing=(2.0, 3.0, 5.0), order=(0, 1, 2), flip=1):
    """Return a grid around the origin whose first axis is nearly left-right."""
    axes = Rotation.from_euler("xyz", turn_degrees, degrees=True).as_matrix()
    columns = (axes * spacing)[:, list(order)]
    columns[:, 0] *= flip
    extent_mm = np.array([200.0, 80.0, 120.0])
    shape = tuple(int(e) for e in (extent_mm / spacing)[list(order)])
    affine = np.eye(4)
    affine[:3, :3] = columns
    affine[:3, 3] = -columns @ (np.array(shape) - 1) / 2
    return Grid(shape, affine)


@given(
    st.tuples(*[st.floats(-12, 12)] * 3),
    st.permutations([0, 1, 2]),
    st.sampled_from([1, -1]),
    st.floats(-0.15, 0.15),
    st.booleans(),
)
@examples(25)
def test_the_midline_is_the_plane_of_symmetry_within_4_mm(turn, order, flip, tilt, arm):
    grid = posed(turn, order=tuple(order), flip=flip)
    found = midline_of(two_legs(grid, tilt=tilt, arm=arm))

    normal = np.array(found.normal)
    for z in (-40.0, 0.0, 40.0):
        on_the_plane = np.array([7.0 + tilt * z, 0.0, z])
        assert abs((on_the_plane - found.point_mm) @ normal) < 4


def test_a_body_cut_by_the_edge_of_the_image_has_no_midline():
    whole = posed()
    narrow = Grid((30, *whole.shape[1:]), whole.affine)

    with pytest.raises(InputError, match="show both of its flanks"):
        midline_of(two_legs(narrow))


def test_beyond_is_the_side_of_each_voxel_in_patient_space():
    grid = posed((10, -5, 8), order=(2, 0, 1))
    midline = Midline((7.0, 1.0, 2.0), (0.96, 0.28, 0.0))
    image = sitk.Image(*map(int, grid.shape), sitk.sitkUInt8)
    image.SetSpacing(grid.spacing_mm.tolist())
    image.SetDirection((grid.affine[:3, :3] / grid.spacing_mm).ravel().tolist())
    image.SetOrigin(grid.affine[:3, 3].tolist())

    found = midline.beyond(Side.RIGHT, grid.affine, grid.shape)

    for index in np.random.default_rng(0).integers(0, grid.shape, (50, 3)):
        place = image.TransformIndexToPhysicalPoint([int(n) for n in index])
        leftward = np.dot(np.subtract(place, midline.point_mm), midline.normal)
        assert found[tuple(index)] == (leftward > 0)
    assert (found != midline.beyond(Side.LEFT, grid.affine, grid.shape)).all()


def test_a_labelmap_is_judged_on_the_side_that_was_drawn_and_keeps_what_is_on_both():
    grid = posed()
    rng = np.random.default_rng(1)
    voxels = rng.integers(0, 4, grid.shape).astype(np.uint8)
    midline = Midline((7.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    drawn = {"femur"}, Side.RIGHT, midline, {"pelvis"}
    partly = PartlyDrawn(frozenset(drawn[0]), *drawn[1:3], frozenset(drawn[3]))
    table = LabelTable.from_names(["tibia", "femur", "pelvis"])
    table = LabelTable(table.labels, partly_drawn={"a": partly})

    judged = Labelmap(grid, voxels, table).judged("a").voxels

    left = grid.to_patient(np.moveaxis(np.indices(grid.shape), 0, -1))[..., 0] > 7
    expected = np.where(voxels == 2, 0, voxels)
    expected[left & (voxels == 1)] = 0
    np.testing.assert_array_equal(judged, expected)
    assert PartlyDrawn.from_json(partly.as_json()) == partly


def test_predict_keeps_one_side_and_the_labels_of_the_middle():
    grid = posed()
    table = LabelTable.from_names(["femur", "pelvis_middle"])
    voxels = np.random.default_rng(2).integers(0, 3, grid.shape).astype(np.uint8)
    image = two_legs(grid)

    kept = only_side(Labelmap(grid, voxels, table), image, Side.LEFT).voxels

    x = grid.to_patient(np.moveaxis(np.indices(grid.shape), 0, -1))[..., 0]
    assert not (kept[(x < 4)] == 1).any()
    np.testing.assert_array_equal(kept[x > 10], voxels[x > 10])
    np.testing.assert_array_equal(kept == 2, voxels == 2)
