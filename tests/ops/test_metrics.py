"""Scores: equal to surface-distance and to closed forms; undefined if empty."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy import ndimage

from nnunet_bridge.core.errors import GeometryError, InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.formats.nifti import read_labelmap
from nnunet_bridge.ops import metrics, occupancy
from nnunet_bridge.ops.metrics import _Directed, bone_scores, structure_volumes

TABLE = LabelTable.from_names(["tibia", "femur", "fibula"])
ONE = LabelTable.from_names(["tibia"])
DATA = Path(os.environ.get("NNUNET_BRIDGE_TEST_DATA", "../shared/data"))


def labelmap(voxels, spacing_mm=(1.0, 1.0, 1.0), table=TABLE, affine=None):
    affine = np.diag([*spacing_mm, 1.0]) if affine is None else affine
    return Labelmap(Grid(voxels.shape, affine), voxels.astype(np.uint8), table)


def blobs(rng, shape, labels=3, smooth=1.5):
    """Return random smooth regions: some thin, some at the border, some in pieces."""
    fields = [ndimage.gaussian_filter(rng.normal(size=shape), smooth)]
    fields += [
        ndimage.gaussian_filter(rng.normal(size=shape), smooth) for _ in range(labels)
    ]
    return np.argmax(fields, axis=0).astype(np.uint8)


@pytest.fixture
def compared(by_the_package):
    """Check scores against the package; return how many structures were compared."""

    def check(prediction, reference, tolerance_mm):
        scores = bone_scores(
            prediction, reference, case_id="c", tolerance_mm=tolerance_mm
        )
        count = 0
        for label, score in zip(reference.labels, scores, strict=True):
            one, other = prediction.mask(label), reference.mask(label)
            if score.state == "scored":
                expected = by_the_package(
                    one, other, reference.grid.spacing_mm, tolerance_mm
                )
                ours = (score.hd95_mm, score.hd_mm, score.assd_mm, score.nsd)
                np.testing.assert_allclose(ours, expected, atol=1e-9, rtol=0)
                common = np.count_nonzero(one & other)
                assert score.dice == 2 * common / (one.sum() + other.sum())
                assert score.iou == common / np.count_nonzero(one | other)
                count += 1
        return count

    return check


@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (0.3, 0.7, 5), (3, 1, 1)])
@pytest.mark.filterwarnings("ignore")
def test_areas_around_a_corner_are_those_of_surface_distance(spacing_mm):
    from surface_distance import lookup_tables as package

    expected = package.create_table_neighbour_code_to_surface_area(spacing_mm)

    areas = metrics._areas_of_codes(np.array(spacing_mm, float))

    np.testing.assert_allclose(areas, expected, rtol=1e-12)


@pytest.mark.parametrize("batch", range(10))
def test_scores_equal_those_of_surface_distance_on_200_random_pairs(batch, compared):
    pairs = 0
    for seed in range(10 * batch, 10 * batch + 10):
        rng = np.random.default_rng(seed)
        shape = tuple(rng.integers(3, 22, 3))
        spacing_mm = rng.uniform(0.4, 4.0, 3)
        order = "F" if seed % 2 else "C"
        reference = labelmap(blobs(rng, shape).copy(order=order), spacing_mm)
        moved = (
            blobs(rng, shape)
            if seed % 3 == 0
            else np.roll(reference.voxels, 1, seed % 3)
        )
        noisy = np.where(rng.random(shape) < 0.02, 0, moved)
        prediction = labelmap(noisy.copy(order="C"), spacing_mm)
        pairs += compared(prediction, reference, rng.uniform(0, 3))

    assert pairs >= 20  # in each of ten batches


@pytest.mark.parametrize("seed", range(10))
def test_scattered_voxels_score_as_in_surface_distance(seed, compared):
    rng = np.random.default_rng(seed)
    spacing_mm = rng.choice([0.5, 0.7, 0.9375, 3.0], 3)
    one, other = (
        np.where(rng.random((9, 8, 7)) < 0.1, rng.integers(1, 4, (9, 8, 7)), 0)
        for _ in range(2)
    )

    assert compared(
        labelmap(one, spacing_mm), labelmap(other, spacing_mm), spacing_mm[0]
    )


def test_all_real_labels_score_as_in_surface_distance(compared):
    files = sorted((DATA / "train").glob("*/labelsT[rs]/*.nii.gz"))
    if not files:
        pytest.skip("NNUNET_BRIDGE_TEST_DATA names no folder with real labels")
    table = LabelTable.from_names(["a", "b", "c", "d", "e"])
    pairs = 0
    for number, file in enumerate(files):
        reference = read_labelmap(file, table)
        rng = np.random.default_rng(number)
        moved = np.roll(reference.voxels, (1, 2), (0, 2))
        noisy = np.where(rng.random(moved.shape) < 0.001, 0, moved)
        pairs += compared(reference.with_voxels(noisy), reference, 1.0)

    assert pairs >= 2 * len(files)


def test_a_shifted_box_has_the_distances_of_its_closed_form():
    # Box 20 x 20 x 21 mm on voxels 1 x 1 x 3 mm, shifted by 6 mm: area-weighted
    # ASSD 2.05 mm analytically; counting voxels gives 3.15.
    voxels = np.zeros((30, 30, 15))
    voxels[5:25, 5:25, 3:10] = 1
    shifted = np.roll(voxels, 2, axis=2)
    spacing_mm = (1.0, 1.0, 3.0)

    (score,) = bone_scores(
        labelmap(shifted, spacing_mm, ONE),
        labelmap(voxels, spacing_mm, ONE),
        case_id="c",
    )

    assert score.hd95_mm == pytest.approx(6.0)
    assert score.assd_mm == pytest.approx(2.05, rel=0.03)
    assert score.hd_mm == pytest.approx(6.0)
    assert score.dice == pytest.approx(5 / 7)
    assert score.iou == pytest.approx(5 / 9)
    assert score.volume_error_mm3 == 0.0


def test_spheres_within_each_other_are_as_far_apart_as_their_radii():
    spacing_mm = 0.4  # elements are corners, so each side gives half a voxel
    offsets_mm = (np.indices((130, 130, 130)) - 64.5) * spacing_mm
    radius_mm = np.sqrt((offsets_mm**2).sum(axis=0))

    (score,) = bone_scores(
        labelmap(radius_mm < 25, [spacing_mm] * 3, ONE),
        labelmap(radius_mm < 15, [spacing_mm] * 3, ONE),
        case_id="c",
    )

    assert score.assd_mm == pytest.approx(10.0, rel=0.03)
    assert score.hd95_mm == pytest.approx(10.0, rel=0.03)
    assert score.hd_mm == pytest.approx(10.0, rel=0.03)
    assert score.nsd == 0.0
    assert score.iou == pytest.approx(15**3 / 25**3, rel=0.03)
    assert score.dice == pytest.approx(2 * 15**3 / (15**3 + 25**3), rel=0.03)
    assert score.volume_reference_mm3 == pytest.approx(4 / 3 * np.pi * 15**3, rel=0.03)
    percent = 100 * (25**3 / 15**3 - 1)
    assert score.volume_error_percent == pytest.approx(percent, rel=0.03)
    exact_mm3 = 4 / 3 * np.pi * (25**3 - 15**3)
    assert score.volume_error_abs_mm3 == pytest.approx(exact_mm3, rel=0.03)


def test_a_single_distant_voxel_moves_the_maximum_and_not_the_percentile():
    voxels = np.zeros((60, 30, 30))
    voxels[5:25, 5:25, 5:25] = 1
    specked = voxels.copy()
    specked[44, 10, 10] = 1

    (score,) = bone_scores(
        labelmap(specked, table=ONE), labelmap(voxels, table=ONE), case_id="c"
    )

    assert score.hd95_mm == 0.0
    assert score.hd_mm == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("predicted", "error", "percent"), [(3, -5.0, -62.5), (12, 4.0, 50.0)]
)
def test_the_absolute_volume_errors_are_the_signed_ones_without_their_sign(
    predicted, error, percent
):
    one, other = np.zeros((12, 1, 1)), np.zeros((12, 1, 1))
    one[:predicted], other[:8] = 1, 1

    (score,) = bone_scores(
        labelmap(one, table=ONE), labelmap(other, table=ONE), case_id="c"
    )

    assert (score.volume_error_mm3, score.volume_error_percent) == (error, percent)
    assert score.volume_error_abs_mm3 == abs(error)
    assert score.volume_error_abs_percent == abs(percent)


def test_an_equal_prediction_is_perfect():
    voxels = blobs(np.random.default_rng(5), (12, 13, 14))
    for score in bone_scores(labelmap(voxels), labelmap(voxels), case_id="c"):
        assert (score.dice, score.iou, score.nsd) == (1, 1, 1)
        assert (score.hd_mm, score.hd95_mm, score.assd_mm) == (0, 0, 0)


def test_N09_what_one_side_lacks_has_a_state_instead_of_a_number():
    reference, prediction = np.zeros((4, 4, 4)), np.zeros((4, 4, 4))
    reference[1, 1, 1] = 1
    prediction[2, 2, 2] = 2

    missed, invented, empty = bone_scores(
        labelmap(prediction), labelmap(reference), case_id="c", configuration="2d"
    )

    assert (missed.state, missed.dice, missed.hd95_mm) == ("missed", 0.0, None)
    assert (invented.state, invented.dice, invented.assd_mm) == ("invented", 0.0, None)
    assert (empty.state, empty.dice, empty.nsd) == ("both_empty", None, None)
    assert [one.iou for one in (missed, invented, empty)] == [0.0, 0.0, None]
    assert [one.hd_mm for one in (missed, invented, empty)] == [None, None, None]
    assert missed.volume_error_mm3 == -1.0
    assert invented.volume_error_percent is None
    assert invented.volume_error_abs_percent is None
    assert missed.configuration == "2d"


def test_M02_other_grids_are_refused_and_the_distance_is_named():
    voxels = np.ones((3, 3, 3))
    moved = np.eye(4)
    moved[0, 3] = 100.0

    with pytest.raises(GeometryError, match=r"100\.000 mm apart") as refusal:
        bone_scores(labelmap(voxels, affine=moved), labelmap(voxels), case_id="c")

    assert refusal.value.code == "M02"


def test_M02_the_same_place_with_another_shape_is_refused():
    with pytest.raises(GeometryError, match="3 x 3 x 4"):
        bone_scores(
            labelmap(np.ones((3, 3, 4))), labelmap(np.ones((3, 3, 3))), case_id="c"
        )


def test_the_rounding_of_a_file_is_no_other_grid():
    voxels = np.ones((3, 3, 3))
    rounded = np.eye(4)
    rounded[0, 3] = 2e-3

    first, *_ = bone_scores(
        labelmap(voxels, affine=rounded), labelmap(voxels), case_id="c"
    )

    assert first.dice == 1


def test_other_label_names_are_refused():
    with pytest.raises(InputError, match="tibia, femur, fibula"):
        bone_scores(
            labelmap(np.ones((3, 3, 3)), table=ONE),
            labelmap(np.ones((3, 3, 3))),
            case_id="c",
        )


@pytest.mark.parametrize("tolerance_mm", [-1.0, np.inf, np.nan])
def test_a_tolerance_that_is_no_distance_is_refused(tolerance_mm):
    one = labelmap(np.ones((3, 3, 3)))

    with pytest.raises(InputError, match="tolerance"):
        bone_scores(one, one, case_id="c", tolerance_mm=tolerance_mm)


@st.composite
def grids(draw):
    """Return a grid of any spacing, turned any way, mirrored or not."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * rng.uniform(0.2, 5.0, 3)
    affine[:3, 3] = rng.uniform(-500, 500, 3)
    return Grid(tuple(rng.integers(1, 9, 3)), affine)


@examples(200)
@given(grid=grids(), seed=st.integers(0, 1000))
def test_M01_a_volume_is_its_voxels_times_the_determinant(grid, seed):
    voxels = np.random.default_rng(seed).integers(0, 4, grid.shape).astype(np.uint8)
    one = Labelmap(grid, voxels, TABLE)

    for volume, label in zip(structure_volumes(one, case_id="c"), TABLE, strict=True):
        count = np.count_nonzero(voxels == label.value)
        exact = count * abs(np.linalg.det(grid.affine[:3, :3]))
        assert volume.voxels == count
        assert volume.volume_mm3 == pytest.approx(exact, rel=1e-6)
        assert volume.volume_cm3 == volume.volume_mm3 / 1000


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("block", [64, 1 << 22])
def test_counts_and_boxes_are_those_of_a_plain_search(seed, block, monkeypatch):
    monkeypatch.setattr(occupancy, "_BLOCK_VOXELS", block)
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 12, 3))
    kinds = [np.uint8, np.uint16]
    one, other = (
        Labelmap(
            Grid(shape, np.eye(4)),
            np.where(rng.random(shape) < 0.1, rng.integers(0, 4, shape), 0)
            .astype(kinds[rng.integers(2)])
            .transpose(rng.permutation(3))
            .copy(order="CF"[rng.integers(2)])
            .reshape(shape),
            TABLE,
        )
        for _ in range(2)
    )

    counts = occupancy.pair_counts(one, other)
    boxes = occupancy.label_boxes(one)

    for p in range(4):
        for r in range(4):
            both = (one.voxels == p) & (other.voxels == r)
            assert counts[p, r] == np.count_nonzero(both)
    for label, box in zip(TABLE, boxes, strict=True):
        found = ndimage.find_objects(one.mask(label).astype(int))
        assert box == (found[0] if found else None)


def test_K15_ignored_voxels_have_neither_a_box_nor_a_count():
    table = LabelTable.from_names(["tibia", "femur"], has_ignore=True)
    voxels = np.full((9, 8, 7), 3, np.uint8)
    voxels[1:3, 2:4, 3:5] = 1
    voxels[5:, 5:, 5:] = 0
    partly = Labelmap(Grid(voxels.shape, np.eye(4)), voxels, table)

    assert occupancy.label_boxes(partly) == (np.s_[1:3, 2:4, 3:5], None)
    assert occupancy.label_counts(partly).tolist() == [24, 8, 0]
    assert [one.voxels for one in metrics.structure_volumes(partly, case_id="")] == [
        8,
        0,
    ]


def test_the_definition_names_the_package_that_it_follows():
    assert "surface-distance" in metrics.SURFACE_DEFINITION


def test_K15_voxels_that_nobody_judged_count_for_neither_side():
    table = LabelTable.from_names(["tibia"], has_ignore=True)
    drawn = np.zeros((12, 12, 12), np.uint8)
    drawn[2:6, 2:6, 2:6] = 1
    drawn[7:] = 2  # this half is ignored
    predicted = (drawn == 1).astype(np.uint8)
    predicted[8:11, 8:11, 8:11] = 1  # may be right or wrong

    (score,) = bone_scores(
        labelmap(predicted, table=table), labelmap(drawn, table=table), case_id="c"
    )

    assert score.structure == "tibia"
    assert (score.state, score.dice, score.hd95_mm) == ("scored", 1.0, 0.0)
    assert score.volume_prediction_mm3 == score.volume_reference_mm3 == 64.0


@pytest.mark.parametrize(
    ("areas", "percent", "distance"),
    [
        ([1, 1], 95, 2.0),
        ([1, 1], 50, 1.0),
        ([95, 5], 95, 1.0),
        ([94, 6], 95, 2.0),
        ([1], 95, 1.0),
        ([1, 1, 1, 1], 100, 4.0),
    ],
)
def test_a_percentile_is_the_distance_within_which_that_share_of_the_area_lies(
    areas, percent, distance
):
    found = _Directed(np.arange(1.0, len(areas) + 1), np.array(areas, float))

    assert found.percentile_mm(percent) == distance


@pytest.mark.parametrize("speck_of", ["prediction", "reference"])
def test_hd95_is_the_larger_of_both_directions(speck_of):
    """A second box is in one mask only: far from the other mask, not vice versa."""
    one = np.zeros((40, 8, 8), np.uint8)
    one[2:6, 2:6, 2:6] = 1
    two = one.copy()
    two[30:34, 2:6, 2:6] = 1
    pair = (two, one) if speck_of == "prediction" else (one, two)

    (score,) = bone_scores(*(labelmap(v, table=ONE) for v in pair), case_id="c")

    assert score.hd95_mm == 28.0


@pytest.mark.parametrize(
    ("share", "refused"), [(0.009, False), (0.012, True), (0.2, True)]
)
def test_M02_a_hundredth_of_a_voxel_is_the_same_place_and_no_more(share, refused):
    voxels = np.zeros((6, 6, 6), np.uint8)
    voxels[2:4, 2:4, 2:4] = 1
    moved = np.diag([0.5, 0.5, 2.0, 1.0])
    moved[0, 3] = share * 0.5
    reference = labelmap(voxels, (0.5, 0.5, 2.0), ONE)
    prediction = labelmap(voxels, table=ONE, affine=moved)

    if refused:
        with pytest.raises(GeometryError, match=f"{share * 0.5:.3f} mm apart"):
            bone_scores(prediction, reference, case_id="c")
    else:
        assert bone_scores(prediction, reference, case_id="c")[0].dice == 1.0


@pytest.mark.parametrize("eighth_digit", [-1e-8, 0.0, 1e-8])
@pytest.mark.parametrize(("spacing", "steps"), [(1.0, 1), (0.1, 10), (0.7, 3)])
def test_the_eighth_digit_of_an_affine_does_not_decide_what_is_within_a_tolerance(
    spacing, steps, eighth_digit
):
    """A box moved by exactly the tolerance lies within it, whatever the rounding."""
    voxels = np.zeros((30, 8, 8), np.uint8)
    voxels[4:14, 2:6, 2:6] = 1
    edge = spacing * (1 + eighth_digit)
    moved, fixed = (
        labelmap(np.roll(voxels, shift, axis=0), (edge,) * 3, ONE)
        for shift in (steps, 0)
    )

    (score,) = bone_scores(moved, fixed, case_id="c", tolerance_mm=steps * spacing)
    (beyond,) = bone_scores(
        moved, fixed, case_id="c", tolerance_mm=steps * spacing * (1 - 1e-3)
    )

    assert score.nsd == 1.0
    assert beyond.nsd < 1.0


@pytest.mark.parametrize("drawn", [(), ("tibia",), ("tibia", "femur")])
def test_a_structure_that_an_open_reference_lacks_is_not_drawn(drawn):
    """The prediction holds tibia and femur; the reference leaves voxels open."""
    table = LabelTable.from_names(["tibia", "femur"], has_ignore=True)
    reference = np.full((8, 8, 8), table.ignore_value, np.uint8)
    reference[:2] = 0
    prediction = np.zeros((8, 8, 8), np.uint8)
    for value, name in enumerate(("tibia", "femur"), start=1):
        prediction[value, :4] = value
        if name in drawn:
            reference[value, :4] = value

    found = bone_scores(
        labelmap(prediction, table=table), labelmap(reference, table=table), case_id="c"
    )

    for score in found:
        if score.structure in drawn:
            assert (score.state, score.dice) == ("scored", 1.0)
        else:
            measures = (score.dice, score.iou, score.nsd, score.hd95_mm)
            assert (score.state, *measures) == ("not_drawn", *[None] * 4)


@pytest.mark.parametrize("empty", ["prediction", "reference"])
def test_a_failure_has_dice_iou_and_nsd_0_and_no_distance(empty):
    full, nothing = np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    full[1:3] = 1
    pair = (nothing, full) if empty == "prediction" else (full, nothing)

    (score,) = bone_scores(*(labelmap(v, table=ONE) for v in pair), case_id="c")

    assert score.state == {"prediction": "missed", "reference": "invented"}[empty]
    assert (score.dice, score.iou, score.nsd) == (0.0, 0.0, 0.0)
    assert score.hd95_mm is score.assd_mm is score.hd_mm is None


@pytest.mark.parametrize(
    ("tolerance_mm", "edge_mm", "named"),
    [(1, 3, True), (2, 3, True), (1, 1, False), (1, 0.5, False)],
)
def test_a_tolerance_below_the_largest_voxel_edge_is_named(
    tolerance_mm, edge_mm, named
):
    words = metrics.tolerance_remark(tolerance_mm, edge_mm)

    text = f"({tolerance_mm} mm) is below the largest voxel edge ({edge_mm} mm)"
    assert (text in words) == named
    assert bool(words) == named
