"""FAULTS K23: a border that fits the image better elsewhere is noticed; only then."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.ops.content import (
    AS_GIVEN,
    ContentFit,
    Move,
    _blocks,
    _Border,
    _border_of,
    _gain,
    _open_border,
    _stands_out,
    content_findings,
)
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

    (finding,), _ = found(limb, wrong)

    assert finding.code == "K23"
    assert finding.message.startswith("The mask of tibia fits the image better")


def test_K23_noise_gives_no_finding():
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
    _, nothing = content_findings(image(labels), Labelmap(GRID, labels, TABLE))
    assert nothing == ContentFit(0, 0.0, AS_GIVEN, 0.0, 0.0)
    assert not nothing.judged
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


def test_K23_a_structure_inside_another_is_not_tested_alone():
    """Its border could fit the edges of the other one."""
    i, j, k = np.indices(SHAPE)

    def ellipsoid(middle_j, radius):
        at = ((i - 27) / radius) ** 2 + ((j - middle_j) / radius) ** 2
        return at + ((k - 21) / radius * 1.1) ** 2 < 1

    around, drawn, real = ellipsoid(25, 20), ellipsoid(25, 9), ellipsoid(29, 9)
    noise = np.random.default_rng(0).normal(0, 15, SHAPE)
    volume = Volume(GRID, (200 + 300 * around + 150 * real + noise).astype(np.int16))
    labels = np.where(drawn, 1, 2 * around).astype(np.uint8)

    assert found(volume, labels)[0] == []
    (alone,), _ = found(volume, np.where(drawn, 1, 0).astype(np.uint8))
    assert "moved by +4 voxels along j" in alone.message


def test_K23_a_stack_of_seven_slices_has_room_to_look_around():
    grid = Grid((56, 52, 7), GRID.affine)
    volume, labels = (
        np.ascontiguousarray(array[:, :, 14:21])
        for array in (image(two_bones()).voxels, two_bones())
    )

    _, fit = content_findings(Volume(grid, volume), Labelmap(grid, labels, TABLE))

    assert fit.judged


@pytest.mark.parametrize("empty", [None, 0, 1, 5])
def test_a_border_holds_every_pair_of_neighbours_with_different_labels_once(empty):
    labels = np.random.default_rng(3).integers(0, 3, (5, 4, 6)).astype(np.uint8)
    if empty is not None:
        labels[:, :, empty] = 0
    expected = set()
    for place in np.ndindex(labels.shape):
        for step in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
            other = tuple(np.add(place, step).tolist())
            if all(np.less(other, labels.shape)) and labels[place] != labels[other]:
                expected.add(frozenset((place, other)))

    border = _border_of(labels)

    ends = [
        list(map(tuple, places.tolist())) for places in (border.first, border.second)
    ]
    pairs = [frozenset(pair) for pair in zip(*ends, strict=True)]
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == expected
    for one, other, both in zip(*ends, border.labels, strict=True):
        assert both.tolist() == [labels[one], labels[other]]


def test_the_pairs_of_a_large_border_are_thinned_evenly():
    labels = np.random.default_rng(3).integers(0, 2, (40, 40, 10)).astype(np.uint8)

    border = _border_of(labels)

    assert 10_000 < len(border.first) <= 20_000
    assert set(border.first[:, 2]) == set(range(10))


@given(
    means=st.lists(st.floats(-1, 1), min_size=2, max_size=9),
    inside=st.sampled_from([-0.5, 0.0, 0.25]),
)
def test_the_evidence_of_equal_blocks_is_the_mean_by_its_standard_error(means, inside):
    """Both values of a block lie on either side of its mean."""
    gains = np.array([[mean - inside, mean + inside] for mean in means])
    blocks = np.repeat(np.arange(len(means)), 2)

    mean, z = _gain(gains.ravel(), np.ones(gains.size, bool), blocks)

    error = np.std(means) / np.sqrt(len(means))
    assert mean == pytest.approx(np.mean(means), abs=1e-12)
    if error > 1e-9:
        assert z == pytest.approx(np.mean(means) / error, abs=1e-6)


def test_blocks_are_cubes_of_six_voxels_until_there_are_too_many():
    places = np.argwhere(np.ones((13, 6, 7)))

    blocks = _blocks(places)

    cubes = [tuple(cube) for cube in (places // 6).tolist()]
    pairs = set(zip(cubes, blocks.tolist(), strict=True))
    assert len(pairs) == len(set(cubes)) == len(set(blocks.tolist())) == 6
    assert blocks.max() == 5
    many = _blocks(np.argwhere(np.ones((60, 60, 60))))
    assert 200 < many.max() < 400


@pytest.mark.parametrize(("open_points", "tested"), [(59, 0), (60, 60)])
def test_a_structure_is_tested_where_it_is_open_if_three_fifths_of_it_are(
    open_points, tested
):
    labels = [[1, 0], [0, 1]] * 30 + [[1, 2], [2, 1]] * 20 + [[2, 0]] * 9
    labels[:60] = (
        labels[: open_points - 30] + labels[:30] + [[2, 1]] * (60 - open_points)
    )
    border = _Border(*np.zeros((2, 109, 3), int), np.array(labels))

    found = _open_border(border, TABLE["tibia"])

    assert found.sum() == tested
    assert not found[60:].any()


MOVED = Move(by=(0, 4, 0))
AROUND = [tuple(int(3 * sign * (axis == n)) for n in range(3))
          for axis in range(3) for sign in (1, -1)]  # fmt: skip


def stands_out(contrasts, outside=()):
    """Judge a move by the contrasts of 40 blocks at steps from it, 0 elsewhere."""

    class Contrasts:
        def among(self, chosen, move):
            step = tuple(np.subtract(move.by, MOVED.by).tolist())
            values = np.full(len(chosen), contrasts.get(step, 0.0))
            return values, np.full(len(chosen), step not in outside)

    return _stands_out(Contrasts(), np.ones(40, bool), np.arange(40), MOVED)


def test_a_position_stands_out_over_the_mean_around_it_and_over_the_one_beyond():
    here = {(0, 0, 0): 1.0}

    assert stands_out(here)
    assert not stands_out({**here, MOVED.by: 1.0})
    for half in (AROUND[::2], AROUND[1::2]):
        assert stands_out({**here, **dict.fromkeys(half, 1.9)})
        assert not stands_out({**here, **dict.fromkeys(half, 2.0)})


def test_a_position_is_judged_where_four_of_the_six_around_it_are_in_the_image():
    assert stands_out({(0, 0, 0): 1.0}, outside=AROUND[:2])
    assert not stands_out({(0, 0, 0): 1.0}, outside=AROUND[:3])
