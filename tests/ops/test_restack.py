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


def test_a_sheared_stack_shows_an_even_slope_where_it_was():
    """Interpolation along lines keeps a linear image, whatever parts are mixed."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag([0.5, 2.0, 1.0])
    shape = (9, 8, 4)
    positions = [[0, 0, 0], [0.35, -0.5, 3], [0.7, -1.0, 6], [1.05, -1.5, 9]]
    i, j = np.meshgrid(range(9), range(8), indexing="ij")

    def slope(x, y, z):
        return 100 + 3 * x - 5 * y + 7 * z

    voxels = np.stack(
        [slope(x + 0.5 * i, y + 2.0 * j, z) for x, y, z in positions], axis=-1
    )
    plan = plan_restack(affine, np.asarray(positions, float), shape)
    moved = restacked(voxels, plan)

    assert plan.shape == (12, 9, 4)
    np.testing.assert_allclose(plan.affine[:3, 3], [0, -2, 0])
    np.testing.assert_allclose(plan.affine[:3, :3], np.diag([0.5, 2.0, 3.0]))
    for k, (x, y, z) in enumerate(positions):
        first = np.ceil([x / 0.5 - 1e-9, (y + 2) / 2 - 1e-9]).astype(int)
        last = np.floor([x / 0.5 + 8 + 1e-9, (y + 2) / 2 + 7 + 1e-9]).astype(int)
        inner = tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))
        new_i, new_j = np.meshgrid(range(12), range(9), indexing="ij")
        expected = slope(0.5 * new_i, 2.0 * new_j - 2, z)
        np.testing.assert_allclose(moved[(*inner, k)], expected[inner])
    np.testing.assert_array_equal(moved[9:, :, 0], voxels.min())
    np.testing.assert_array_equal(moved[:2, :, 3], voxels.min())


def test_a_shift_of_a_thousandth_of_a_pixel_is_not_interpolated():
    voxels = RNG.integers(1, 1000, (5, 4, 3)).astype(np.float32)

    plan = planned([[0, 0, 0], [0.0009, 0, 4], [-0.0009, 0, 8]], voxels.shape)

    np.testing.assert_array_equal(restacked(voxels, plan), voxels)
    assert planned([[0, 0, 0], [0.002, 0, 4], [0, 0, 8]], (5, 4, 3)).shape == (6, 4, 3)
