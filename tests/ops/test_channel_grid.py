"""A channel comes onto the grid of the first: turned exactly, or interpolated."""

from itertools import permutations, product

import laws
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from nnunet_bridge.core.findings import Outcome, Refused
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.ops.channel_grid import placed_channel

SPACING = np.array([0.5, 0.75, 4.0])


def grid_of(shape, turn=(), origin=(-12.0, 7.0, 30.0), spacing=SPACING):
    affine = np.eye(4)
    rotation = Rotation.from_rotvec(turn or (0, 0, 0), degrees=True).as_matrix()
    affine[:3, :3] = rotation * spacing
    affine[:3, 3] = origin
    return Grid(shape, affine)


def noise(grid, seed=0):
    voxels = np.random.default_rng(seed).integers(-50, 900, grid.shape, np.int16)
    return Volume(grid, voxels)


FIRST = grid_of((6, 5, 4), (3.0, -2.0, 8.0))


def shifted(grid, *voxels):
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_patient(voxels)
    return Grid(grid.shape, affine)


@pytest.mark.parametrize(
    ("shift", "outcomes"),
    [(0.0, []), (0.01, []), (0.011, [Outcome.WARNED]), (0.1, [Outcome.WARNED])],
)
def test_a_channel_on_the_same_grid_is_taken_as_it_is(shift, outcomes):
    channel = noise(shifted(FIRST, shift, 0, 0))  # of the smallest edge

    placed = placed_channel(FIRST, channel, "fat", resample=False)

    assert (placed.placed, placed.share_outside) == ("as it is", 0.0)
    assert np.array_equal(placed.volume.voxels, channel.voxels)
    assert placed.volume.grid is FIRST
    assert [one.outcome for one in placed.findings] == outcomes
    assert all(f"{shift:.1%} of a voxel" in one.message for one in placed.findings)


@pytest.mark.parametrize(
    "grid", [shifted(FIRST, 0.101, 0, 0), grid_of((6, 5, 5), (3.0, -2.0, 8.0))]
)
def test_G21_another_grid_is_refused_with_the_way_out(grid):
    with pytest.raises(Refused, match="resample_channels = true") as refused:
        placed_channel(FIRST, noise(grid), "fat", resample=False)

    assert refused.value.code == "G21"
    assert "Channel fat has 6 x 5 x" in str(refused.value)
    assert "the first channel 6 x 5 x 4 voxels of 0.5 x 0.75 x 4 mm" in str(
        refused.value
    )


@pytest.mark.parametrize(
    ("axes", "flips"),
    list(product(permutations(range(3)), product([1, -1], repeat=3))),
)
def test_axes_that_are_swapped_or_flipped_lose_nothing(axes, flips):
    wanted = noise(FIRST)
    affine = FIRST.affine.copy()
    for axis in (axis for axis in range(3) if flips[axis] < 0):
        affine[:3, 3] += (FIRST.shape[axis] - 1) * affine[:3, axis]
        affine[:3, axis] *= -1
    flipped = wanted.voxels[tuple(slice(None, None, flip) for flip in flips)]
    voxels = flipped.transpose(axes)
    channel = Volume(Grid(voxels.shape, affine[:, [*axes, 3]]), voxels)

    placed = placed_channel(FIRST, channel, "fat", resample=False)

    assert np.array_equal(placed.volume.voxels, wanted.voxels)
    plain = (axes, flips) == ((0, 1, 2), (1, 1, 1))
    assert placed.placed == ("as it is" if plain else "turned")
    assert len(placed.findings) == (0 if plain else 1)


angles = st.floats(-40, 40)


@laws.examples(60)
@given(
    turn=st.tuples(angles, angles, angles),
    steps=st.tuples(*[st.floats(-2, 2)] * 3),
    slopes=st.tuples(*[st.floats(-3, 3)] * 3),
)
def test_a_linear_image_is_interpolated_to_its_own_values(turn, steps, slopes):
    other = grid_of((14, 12, 9), turn, spacing=np.array([1.1, 0.9, 2.5]))
    middle = FIRST.middle_mm + np.array(steps) - other.middle_mm
    affine = other.affine.copy()
    affine[:3, 3] += middle
    other = Grid(other.shape, affine)
    places = other.to_patient(np.moveaxis(np.indices(other.shape), 0, -1))
    channel = Volume(other, (places @ slopes + 100).astype(np.float32))

    try:
        placed = placed_channel(FIRST, channel, "T2", resample=True)
    except Refused:
        return  # it covers too little: see the law below
    if placed.placed != "resampled":
        return

    centres = FIRST.to_patient(np.moveaxis(np.indices(FIRST.shape), 0, -1))
    indices, ends = other.to_voxel(centres), np.array(other.shape) - 1
    within = ((indices >= 0) & (indices <= ends)).all(-1)
    beyond = ((indices < -0.501) | (indices > ends + 0.501)).any(-1)
    values = placed.volume.voxels
    np.testing.assert_allclose(
        values[within], (centres @ slopes + 100)[within], atol=1e-3
    )
    assert (values[beyond] == channel.voxels.min()).all()
    assert placed.share_outside == pytest.approx(beyond.mean(), abs=0.02)


@pytest.mark.parametrize("whole", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("part", [0.5, -0.4])
@pytest.mark.parametrize(("axis", "sign"), list(product(range(3), [1, -1])))
def test_G21_a_channel_must_cover_half_of_the_first(axis, sign, whole, part):
    first = grid_of((6, 6, 6), spacing=np.ones(3))
    # A centre within half a voxel of the last one of the channel is inside.
    shift = np.zeros(3)
    shift[axis] = sign * (whole + part)
    channel = noise(shifted(first, *shift))

    if whole > 3:
        with pytest.raises(Refused, match=f"covers only {1 - whole / 6:.0%}"):
            placed_channel(first, channel, "T2", resample=True)
        return
    placed = placed_channel(first, channel, "T2", resample=True)

    assert placed.share_outside == pytest.approx(whole / 6)
    (finding,) = placed.findings
    told = f"does not cover {whole / 6:.1%}" if whole else "the first channel."
    assert told in finding.message
    assert finding.outcome is Outcome.WARNED
    planes = np.moveaxis(placed.volume.voxels, axis, 0)[::sign]
    outside = planes[:whole]
    assert (outside == channel.voxels.min()).all()
    assert placed.volume.voxels.dtype == np.float32
