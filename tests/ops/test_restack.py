"""A stack on a regular, upright grid: what moves, and what stays as it was."""

import numpy as np

from nnunet_bridge.ops.restack import plan_restack, restacked

RNG = np.random.default_rng(7)


def planned(positions, shape):
    return plan_restack(np.eye(4), np.asarray(positions, float), shape)


def test_slices_shifted_by_whole_pixels_are_moved_and_not_interpolated():
    voxels = RNG.integers(1, 1000, (5, 4, 3)).astype(np.int16)

    plan = planned([[0, 0, 0], [-2, 1, 4], [-4, 2, 8]], voxels.shape)
    moved = restacked(voxels, plan)

    assert plan.shape == (9, 6, 3)
    assert plan.interpolated == ()
    np.testing.assert_allclose(plan.affine[:3, 3], [-4, 0, 0])
    for k, (i, j) in enumerate([(4, 0), (2, 1), (0, 2)]):
        np.testing.assert_array_equal(moved[i : i + 5, j : j + 4, k], voxels[:, :, k])
    assert (moved == voxels.min()).sum() >= moved.size - voxels.size


def test_a_hole_is_filled_by_the_mean_of_its_neighbours_and_named():
    voxels = RNG.integers(0, 1000, (4, 4, 3)).astype(np.float32)

    plan = planned([[0, 0, 0], [0, 0, 4], [0, 0, 12]], voxels.shape)
    filled = restacked(voxels, plan)

    assert plan.interpolated == (2,)
    np.testing.assert_allclose(plan.affine[:3, 2], [0, 0, 4])
    np.testing.assert_array_equal(filled[:, :, [0, 1, 3]], voxels)
    np.testing.assert_allclose(filled[:, :, 2], voxels[:, :, 1:].mean(axis=2))


def test_whole_numbers_stay_whole_numbers_of_their_type():
    voxels = np.zeros((2, 2, 3), np.uint16)
    voxels[:, :, 2] = 65535

    filled = restacked(voxels, planned([[0, 0, 0], [0, 0, 2], [0, 0, 6]], voxels.shape))

    assert filled.dtype == np.uint16
    assert filled[0, 0].tolist() == [0, 0, 32768, 65535]
