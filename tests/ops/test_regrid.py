"""FAULTS K01-K05, K20: a mask finds its place by coordinates, or is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from nnunet_bridge.core.findings import Outcome, Refused
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.ops.regrid import StatedPlace, placed_on

AFFINE = np.array(
    [[0.75, 0, 0, -12.5], [0, 0.8, 0, 33.0], [0, 0, 4, -100], [0, 0, 0, 1.0]]
)
GRID = Grid((20, 18, 12), AFFINE)


def blob(shape=GRID.shape, seed=0):
    mask = np.zeros(shape, bool)
    mask[5:12, 4:13, 3:9] = np.random.default_rng(seed).random((7, 9, 6)) < 0.6
    return mask


def changed(affine, order, flips, low, sizes):
    """Return the affine of a view that is cropped, then flipped, then permuted."""
    step = np.eye(4)
    step[:3, 3] = low
    for axis, flip in enumerate(flips):
        if flip:
            step[:3, 3] += step[:3, axis] * (sizes[axis] - 1)
            step[:3, axis] *= -1
    swap = np.eye(4)
    swap[:3, :3] = np.eye(3)[:, list(order)]
    return affine @ step @ swap


@examples(200)
@given(
    order=st.permutations(range(3)),
    flips=st.tuples(*[st.booleans()] * 3),
    low=st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(0, 3)),
    spare=st.tuples(*[st.integers(0, 3)] * 3),
    turn=st.floats(-0.8, 0.8),
    seed=st.integers(0, 10),
)
def test_R4_no_voxel_changes_on_a_flipped_permuted_or_cropped_grid(
    order, flips, low, spare, turn, seed
):
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    grid = Grid(GRID.shape, rotation @ AFFINE)
    mask = blob(seed=seed)
    high = [end + more for end, more in zip((12, 13, 9), spare, strict=True)]
    part = mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    affine = changed(grid.affine, order, flips, low, part.shape)
    moved = np.flip(part, [axis for axis in range(3) if flips[axis]]).transpose(order)

    placed = placed_on(grid, Grid(moved.shape, affine), moved, name="mask")

    np.testing.assert_array_equal(placed.voxels, mask)
    assert placed.method in ("pasted", "same grid")
    assert placed.voxels_outside == 0


def shifted(offset, shape=GRID.shape, affine=AFFINE):
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ offset
    return Grid(shape, moved)


@pytest.mark.parametrize(("outside", "refused"), [(1, False), (2, True)])
def test_K02_a_thousandth_of_a_mask_may_lie_outside_and_no_more(outside, refused):
    large = np.zeros((40, 18, 12), bool)
    large[5:20].flat[: 1000 - outside] = True
    large[30:].flat[:outside] = True
    grid = shifted([0, 0, 0], large.shape)

    if refused:
        with pytest.raises(Refused, match=r"2 of 1000 voxels of m \(0\.20%\)"):
            placed_on(GRID, grid, large, name="m")
    else:
        assert placed_on(GRID, grid, large, name="m").voxels_outside == outside


@pytest.mark.parametrize("beside", [0.0, 0.5])
def test_K03_a_mask_of_voxels_twice_as_large_fills_every_voxel_it_covers(beside):
    affine = AFFINE.copy()
    affine[:3, :3] *= 2
    affine[:3, 3] += AFFINE[:3, :3] @ [beside, beside, beside]
    coarse = np.zeros((10, 9, 6), bool)
    coarse[2:6, 2:7, 1:5] = np.random.default_rng(1).random((4, 5, 4)) < 0.6

    placed = placed_on(GRID, Grid(coarse.shape, affine), coarse, name="mask")

    expected = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(placed.voxels, expected)
    assert placed.method == "whole factor"
    assert placed.volume_change == pytest.approx(0)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", ["first", "last"])
def test_K02_resampling_counts_the_voxels_outside_at_either_end(axis, end):
    affine = AFFINE.copy()
    affine[:3, :3] /= 2
    sizes = np.array(GRID.shape) * 2 + 2  # a voxel more at both ends
    affine[:3, 3] -= AFFINE[:3, :3] @ [0.75, 0.75, 0.75]
    fine = np.zeros(sizes, bool)
    fine[3:23, 3:23, 3:23] = True
    fine[tuple(0 if n == axis else slice(3, 5) for n in range(3))] = end == "first"
    fine[tuple(-1 if n == axis else slice(3, 5) for n in range(3))] = end == "last"

    placed = placed_on(GRID, Grid(tuple(sizes), affine), fine, name="mask")

    assert placed.voxels_outside == 4
    assert [f.code for f in placed.findings] == ["K02", "K03"]


def test_K03_an_arbitrary_grid_is_resampled_with_a_warning():
    shape = (50, 50, 50)
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    ball = np.linalg.norm(indices * 0.7 - 17, axis=-1) < 14
    grid = Grid((40, 70, 50), np.diag([0.9, 0.5, 0.7, 1.0]))

    placed = placed_on(grid, Grid(shape, np.diag([0.7, 0.7, 0.7, 1.0])), ball, name="m")

    assert [(f.code, f.outcome) for f in placed.findings] == [("K03", Outcome.WARNED)]
    assert abs(placed.volume_change) <= 0.02
    assert placed.method == "nearest neighbour"


def test_K03_a_loss_of_volume_is_refused_with_the_figure():
    coarse = np.diag([3.0, 3.0, 3.0, 1.0])
    coarse[:3, 3] = AFFINE[:3, 3] + 0.4
    mask = np.zeros((5, 5, 16), bool)
    mask[2, 2, 8] = True

    with pytest.raises(Refused, match=r"changes its volume by [+-]") as caught:
        placed_on(GRID, Grid(mask.shape, coarse), mask, name="m")

    assert caught.value.code == "K03"


def test_K04_a_cropped_mask_a_tenth_beside_is_moved_with_a_warning():
    grid = shifted([5.05, 4, 3], (7, 9, 6))

    placed = placed_on(GRID, grid, blob()[5:12, 4:13, 3:9], name="m")

    assert [f.code for f in placed.findings] == ["K04", "K02"]
    np.testing.assert_array_equal(placed.voxels, blob())


@pytest.mark.parametrize("offset", [[0.5, 0, 0], [1, 0, 0], [0, 0, 12.5]])
def test_K05_the_image_shape_at_another_place_is_refused_with_the_distance(offset):
    with pytest.raises(Refused, match=r"lies up to \d+\.\d\d mm away") as caught:
        placed_on(GRID, shifted(offset), blob(), name="m")

    assert caught.value.code == "K05"


@pytest.mark.parametrize("signs", [[1, 1, 1], [-1, -1, 1]])
def test_K05_an_identity_matrix_is_refused(signs):
    with pytest.raises(Refused, match="identity matrix") as caught:
        placed_on(GRID, Grid(GRID.shape, np.diag([*signs, 1.0])), blob(), name="m")

    assert caught.value.code == "K05"


def test_K05_the_right_shape_turned_to_another_place_is_refused():
    turned = AFFINE.copy()
    turned[:, 0] *= -1

    with pytest.raises(Refused) as caught:
        placed_on(GRID, Grid(GRID.shape, turned), blob(), name="m")

    assert caught.value.code == "K05"


def on_stated_slices(lost, slices):
    """Place a mask that has lost its position on the slices that a recipe states."""
    grid, stated = Grid(lost.shape, np.eye(4)), StatedPlace(slices=slices)
    return placed_on(GRID, grid, lost, name="mask", stated=stated)


@pytest.mark.parametrize(
    "slices",
    [(2, 9), (2, 11), (-1, 7), (5, 13), (8, 2), (-20, -12)],
    ids=["too few", "too many", "turned", "beyond", "backwards", "before"],
)
def test_K20_stated_slices_that_do_not_fit_are_refused_with_the_range(slices):
    lost = np.zeros((20, 18, 8), bool)
    lost[5, 5, 5] = True

    with pytest.raises(Refused, match="has 8 slices, but `masks") as caught:
        on_stated_slices(lost, slices)

    assert caught.value.code == "K20"


@pytest.mark.parametrize(("slices", "first"), [((2, 10), 2), ((-8, 12), 4)])
def test_K20_stated_slices_that_fit_get_the_mask(slices, first):
    lost = blob()[:, :, 2:10]

    placed = on_stated_slices(lost, slices)

    np.testing.assert_array_equal(placed.voxels[:, :, first : first + 8], lost)
    assert placed.voxels.sum() == lost.sum()


def test_K14_an_empty_mask_is_empty_wherever_it_lies():
    placed = placed_on(
        GRID, Grid((1, 1, 1), np.eye(4)), np.zeros((1, 1, 1), bool), name="m"
    )

    assert placed.method == "empty"
    assert placed.voxels.shape == GRID.shape
    assert not placed.voxels.any()


def test_resampling_agrees_with_simpleitk_on_a_rotated_grid():
    sitk = pytest.importorskip("SimpleITK")
    angle = 0.3
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] *= 0.6
    affine[:3, 3] = AFFINE[:3, 3] + [-4, -6, -2]
    shape = (48, 60, 90)
    grid = Grid(
        (30, 30, 44),
        np.diag([0.75, 0.8, 1.1, 1]) + np.pad(AFFINE[:3, 3:], ((0, 1), (3, 0))),
    )
    mask = np.zeros(shape, bool)
    mask[20:35, 18:40, 10:70] = True

    ours = placed_on(grid, Grid(shape, affine), mask, name="m").voxels

    def image(array, spacing, direction, origin):
        made = sitk.GetImageFromArray(array.transpose(2, 1, 0).astype(np.uint8))
        made.SetSpacing([float(s) for s in spacing])
        made.SetDirection(direction.ravel().tolist())
        made.SetOrigin(origin.tolist())
        return made

    moving = image(mask, [0.6] * 3, affine[:3, :3] / 0.6, affine[:3, 3])
    fixed = image(np.zeros(grid.shape), grid.spacing_mm, np.eye(3), grid.affine[:3, 3])
    theirs = sitk.GetArrayFromImage(
        sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkNearestNeighbor)
    ).transpose(2, 1, 0)
    assert np.count_nonzero(ours != theirs.astype(bool)) == 0


def scaled(scale):
    """Return the grid of an image whose smallest spacing is 0.75 times `scale`."""
    affine = AFFINE.copy()
    affine[:3, :3] *= scale
    return Grid(GRID.shape, affine)


@pytest.mark.parametrize("scale", [0.25, 4.0])
@pytest.mark.parametrize(
    ("share", "codes"), [(0.0099, []), (0.0101, ["K04"]), (0.0999, ["K04"])]
)
def test_K04_a_mask_is_moved_up_to_a_tenth_of_the_smallest_spacing(scale, share, codes):
    grid = scaled(scale)
    beside = shifted([share, 0, 0], affine=grid.affine)
    turned = changed(
        beside.affine, (0, 1, 2), (False, True, False), (0, 0, 0), (20, 18)
    )

    placed = placed_on(grid, beside, blob(), name="m")
    flipped = placed_on(grid, Grid(GRID.shape, turned), blob()[:, ::-1], name="m")

    assert [finding.code for finding in placed.findings] == codes
    assert [finding.code for finding in flipped.findings] == [*codes, "K01"]
    np.testing.assert_array_equal(flipped.voxels, placed.voxels)


@pytest.mark.parametrize("scale", [0.25, 4.0])
def test_K05_a_mask_further_beside_is_refused_or_resampled_if_it_is_turned(scale):
    grid = scaled(scale)
    beside = shifted([0.101, 0, 0], affine=grid.affine)
    turned = changed(
        beside.affine, (0, 1, 2), (False, True, False), (0, 0, 0), (20, 18)
    )

    with pytest.raises(Refused, match="the image's shape, but lies up to"):
        placed_on(grid, beside, blob(), name="m")
    placed = placed_on(grid, Grid(GRID.shape, turned), blob()[:, ::-1], name="m")

    assert [finding.code for finding in placed.findings] == ["K03"]


def test_K20_stated_slices_are_only_for_masks_without_a_position():
    stated = StatedPlace(slices=(0, 8))
    part = blob()[:, :, 2:10]

    placed = placed_on(
        GRID, shifted([0, 0, 2], part.shape), part, name="m", stated=stated
    )

    assert placed.method == "pasted"
    np.testing.assert_array_equal(placed.voxels, blob())


def test_K20_stated_slices_need_masks_that_are_as_wide_as_the_image():
    narrow = blob()[:-1, :, 2:10]

    with pytest.raises(Refused) as caught:
        on_stated_slices(narrow, (2, 10))

    assert caught.value.code == "K05"
