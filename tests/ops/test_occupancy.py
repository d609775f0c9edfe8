"""Counts and boxes of labels against a voxel by voxel reading."""

import numpy as np
import pytest

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.ops.occupancy import label_boxes, label_counts, pair_counts

NAMES = ["tibia", "femur", "fibula", "pelvis"]
SHAPES = [(8, 4, 2), (5, 3, 7), (16, 9, 4)]  # whole words of 8 bytes, and not


def labelmap(shape, seed, dtype="u1", order="C", *, ignore=False, density=0.1):
    """Return labels of which the last one is absent; one in ten voxels is not 0."""
    rng = np.random.default_rng(seed)
    values = [1, 2, 3, 5] if ignore else [1, 2, 3]
    voxels = rng.choice(values, shape) * (rng.random(shape) < density)
    table = LabelTable.from_names(NAMES, has_ignore=ignore)
    return Labelmap(Grid(shape, np.eye(4)), voxels.astype(dtype).copy(order), table)


def box_of(mask):
    places = np.argwhere(mask)
    if not len(places):
        return None
    ends = zip(places.min(axis=0), places.max(axis=0), strict=True)
    return tuple(slice(int(first), int(last) + 1) for first, last in ends)


@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_and_counts_are_those_of_every_voxel(shape, dtype, order, ignore):
    found = labelmap(shape, 4, dtype, order, ignore=ignore)
    masks = [found.voxels == value for value in range(1, 5)]

    assert label_boxes(found) == tuple(box_of(mask) for mask in masks)
    assert label_boxes(found)[3] is None
    assert label_counts(found)[1:].tolist() == [mask.sum() for mask in masks]


@pytest.mark.parametrize("orders", ["CC", "FF", "CF"])
@pytest.mark.parametrize("dtypes", [("u1", "u1"), ("u2", "u2"), ("u1", "u2")])
@pytest.mark.parametrize("shape", SHAPES)
def test_pairs_are_counted_as_voxel_by_voxel(shape, dtypes, orders):
    one, other = (
        labelmap(shape, seed, dtype, order, ignore=True, density=0.5)
        for seed, dtype, order in zip((1, 2), dtypes, orders, strict=True)
    )

    counts = pair_counts(one, other)

    expected = np.zeros((6, 6), int)
    np.add.at(expected, (one.voxels.ravel(), other.voxels.ravel()), 1)
    np.testing.assert_array_equal(counts, expected[:5, :5])


@pytest.mark.parametrize("corner", [(0, 0, 0), (-1, -1, -1)])
def test_a_voxel_in_a_corner_has_a_box_of_one_voxel(corner):
    voxels = np.zeros((4, 5, 6), np.uint8)
    voxels[corner] = 2
    found = Labelmap(Grid((4, 5, 6), np.eye(4)), voxels, LabelTable.from_names(NAMES))

    assert label_boxes(found) == (None, box_of(voxels == 2), None, None)


def test_a_label_that_lies_in_several_blocks_of_memory_has_one_box():
    shape = (64, 512, 200)  # more voxels than one block holds
    voxels = np.zeros(shape, np.uint8)
    voxels[3, 4, 5] = voxels[60, 500, 190] = 1
    found = Labelmap(Grid(shape, np.eye(4)), voxels, LabelTable.from_names(NAMES))

    assert label_boxes(found)[0] == (slice(3, 61), slice(4, 501), slice(5, 191))
    assert label_counts(found).tolist() == [voxels.size - 2, 2, 0, 0, 0]
