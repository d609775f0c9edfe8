"""FAULTS K23: a border that fits the image better elsewhere is noticed; only then."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.ops.content import AS_GIVEN, Move, content_findings, content_fit
from nnunet_bridge.ops.phantom import lower_limb

SHAPE = (56, 52, 44)
GRID = Grid(SHAPE, np.diag([0.75, 0.75, 4.0, 1.0]))
TABLE = LabelTable.from_names(["tibia", "femur"])


def two_bones(order="C"):
    """Return labels of two ellipsoids, far from the middle of the array."""
    i, j, k = np.indices(SHAPE)
    tibia = ((i - 16) / 10) ** 2 + ((j - 18) / 11) ** 2 + ((k - 15) / 10) ** 2 < 1
    femur = ((i - 38) / 9) ** 2 + ((j - 24) / 12) ** 2 + ((k - 22) / 11) ** 2 < 1
    return np.asarray(tibia + 2 * femur, np.uint8, order=order)


def image(labels, seed=0, noise=20.0):
    """Return an image in which both bones are brighter than what is around them."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(0, 60, SHAPE[0])[:, None, None]
    voxels = 200 + slope + 90.0 * (labels > 0) + rng.normal(0, noise, SHAPE)
    return Volume(GRID, voxels.astype(np.int16))


def found(volume, labels):
    return content_findings(volume, Labelmap(volume.grid, labels, TABLE))


@pytest.mark.parametrize("seed", range(20))
def test_K23_masks_that_are_right_are_never_warned_of(seed):
    findings, fit = found(image(two_bones(), seed), two_bones())

    assert findings == []
    assert fit.judged
    assert (fit.best, fit.best_contrast, fit.z) == (AS_GIVEN, fit.contrast, 0.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_K23_a_flip_is_named_with_both_contrasts(axis):
    labels = two_bones()

    (finding,), fit = found(image(labels), np.flip(labels, axis))

    assert fit.best.flipped == tuple(axis == n for n in range(3))
    assert finding.code == "K23"
    assert f"flipped along {'ijk'[axis]}" in finding.message
    contrasts = f"{fit.best_contrast:.2f} there, {fit.contrast:.2f} as given"
    assert contrasts in finding.message


@pytest.mark.parametrize("by", [-5, -3, -2, 2, 3, 5])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_K23_a_move_is_named_in_voxels_and_millimetres(axis, by):
    labels = two_bones()

    (finding,), fit = found(image(labels), np.roll(labels, by, axis))

    assert fit.best.by == tuple(-by * (axis == n) for n in range(3))
    mm = -by * GRID.spacing_mm[axis]
    assert f"{-by:+d} voxels along {'ijk'[axis]} ({mm:+.1f} mm)" in finding.message


def test_K23_one_structure_that_slipped_is_named_alone():
    labels = two_bones()
    wrong = np.where(labels == 2, 2, 0).astype(np.uint8)
    wrong[np.roll(labels == 1, 4, axis=1)] = 1
    limb = Volume(
        GRID, (image(labels, noise=2).voxels + 300 * (labels == 2)).astype(int)
    )

    findings, _ = found(limb, wrong)

    assert findings
    assert all(finding.code == "K23" for finding in findings)


def test_K23_noise_says_nothing():
    rng = np.random.default_rng(1)
    volume = Volume(GRID, rng.normal(0, 100, SHAPE).astype(np.int16))

    assert found(volume, two_bones())[0] == []


def test_K23_an_image_that_only_grows_rougher_is_no_better_place():
    """Contrast that grows along an axis is a slope, not a peak."""
    rng = np.random.default_rng(2)
    rough = np.linspace(1, 400, SHAPE[2])
    volume = Volume(GRID, (rng.normal(0, 1, SHAPE) * rough).astype(np.int16))

    assert found(volume, two_bones())[0] == []


def test_a_small_or_empty_mask_is_not_judged():
    labels = np.zeros(SHAPE, np.uint8)
    assert not content_fit(image(labels), Labelmap(GRID, labels, TABLE)).judged
    labels[4:10, 4:10, 4:10] = 1

    findings, fit = found(image(two_bones()), labels)

    assert findings == []
    assert not fit.judged


def test_a_stack_too_thin_to_look_around_in_is_not_judged():
    grid = Grid((56, 52, 6), GRID.affine)
    labels = np.ascontiguousarray(np.roll(two_bones(), 3, 0)[:, :, 14:20])
    volume = Volume(grid, np.ascontiguousarray(image(two_bones()).voxels[:, :, 14:20]))

    findings, fit = content_findings(volume, Labelmap(grid, labels, TABLE))

    assert findings == []
    assert not fit.judged


def test_the_order_in_memory_and_a_second_call_change_nothing():
    labels = np.roll(two_bones(), 3, 0)

    fits = {
        found(image(two_bones()), np.asarray(labels, order=order))[1]
        for order in ("C", "F", "C")
    }

    assert len(fits) == 1


@examples(50)
@given(
    flipped=st.tuples(*[st.booleans()] * 3),
    by=st.tuples(*[st.integers(-3, 3)] * 3),
)
def test_a_move_takes_voxels_where_numpy_takes_them(flipped, by):
    labels = np.zeros((9, 8, 7), np.uint8)
    labels[4, 4, 3] = 1
    wanted = np.roll(
        np.flip(labels, [n for n in range(3) if flipped[n]]), by, (0, 1, 2)
    )

    (start,) = np.argwhere(labels)
    move = Move(flipped, by)
    place = [move.along(n, start[n : n + 1], labels.shape[n])[0] for n in range(3)]

    assert wanted[tuple(place)] == 1


def test_K23_the_synthetic_limb_is_right_as_it_is_and_noticed_where_it_is_not():
    limb = lower_limb(3, shape=(96, 48, 64), spacing_mm=(4.0, 4.0, 12.0))
    labels = np.zeros(limb.volume.grid.shape, np.uint8)
    for (bone, _), mask in limb.masks.items():
        labels[mask] = 1 + (bone != "tibia")

    assert found(limb.volume, labels)[0] == []
    for axis in range(3):
        assert found(limb.volume, np.flip(labels, axis))[0]
        assert found(limb.volume, np.roll(labels, 2, axis))[0]


def test_K23_no_false_alarm_on_real_masks(test_data):
    from nnunet_bridge.formats.nifti import read_array

    folder = test_data / "train" / "spine_vb_2mm"
    images = sorted(folder.glob("imagesTr/*.nii.gz"))
    if not images:
        pytest.skip(f"{folder} is absent")
    for file in images:
        grid, voxels = read_array(file)
        labels = folder / "labelsTr" / file.name.replace("_0000", "")
        table = LabelTable.from_names(["L1", "L2", "L3", "L4", "L5"])
        values = read_array(labels)[1].astype(np.uint8)
        volume, labelmap = Volume(grid, voxels), Labelmap(grid, values, table)
        assert content_findings(volume, labelmap)[0] == [], file.name
        flipped = labelmap.with_voxels(np.flip(values, 1))
        assert content_findings(volume, flipped)[0], file.name
