"""Cleaning: voxel for voxel the source's rule, and everything accounted for."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from laws import examples
from literal_rule import literal_slices, literal_volume, merged
from scipy import ndimage
from scipy.spatial.transform import Rotation

from nnunet_bridge.core.cleaning import UNCLEANED, CleaningRule
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.formats.nifti import read_labelmap
from nnunet_bridge.ops.cleanup import (
    _Crop,
    _whole_lengths,
    clean_alike,
    clean_structures,
)
from nnunet_bridge.ops.components import connected

TABLE = LabelTable.from_names(["tibia", "femur", "fibula"])
DATA = Path(os.environ.get("NNUNET_BRIDGE_TEST_DATA", "../shared/data"))


def labelmap(voxels, spacing_mm=(1.0, 1.0, 1.0), table=TABLE):
    grid = Grid(voxels.shape, np.diag([*spacing_mm, 1.0]))
    return Labelmap(grid, voxels.astype(np.uint8), table)


def clean_slices(labelmap, **options):
    return clean_alike(labelmap, CleaningRule("slice", **options))


def clean_volume(labelmap, **options):
    return clean_alike(labelmap, CleaningRule("volume", **options))


def adversarial(seed):
    """Return volumes that break short cuts.

    Rims, frames and stripes split the outer background; tiny slices, full slices,
    borders, nested rings and speckle do the rest.
    """
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers((1, 1, 1), (40, 40, 6)))
    kind = seed % 6
    if kind == 0:
        return rng.integers(0, 4, shape) * (rng.random(shape) < rng.random())
    if kind == 1:
        fields = rng.normal(size=(4, *shape))
        smooth = [ndimage.gaussian_filter(f, (2, 2, 0.5)) for f in fields]
        return np.argmax(smooth, axis=0)
    voxels = np.ones(shape, dtype=np.int64) * (kind != 2)
    for _ in range(rng.integers(1, 9)):
        low = [rng.integers(0, size) for size in shape]
        high = [rng.integers(a, size) + 1 for a, size in zip(low, shape, strict=True)]
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        voxels[box] = rng.integers(0, 4)
    if kind == 4:
        voxels[rng.random(shape) < 0.03] = 0
    if kind == 5:
        voxels[rng.integers(shape[0])] = 1
        voxels[:, rng.integers(shape[1])] = 1
    return voxels


@pytest.mark.parametrize("batch", range(12))
def test_slices_equal_the_literal_rule_voxel_for_voxel(batch):
    for seed in range(batch * 30, batch * 30 + 30):
        rng = np.random.default_rng(seed)
        ratio = float(rng.choice([0.01, 0.05, 0.2, 0.5, 0.9, 1.0]))
        order = "C" if seed % 2 else "F"
        one = labelmap(adversarial(seed).copy(order=order))
        results = [literal_slices(one.mask(label), ratio) for label in TABLE]
        expected, contested = merged(one, results)

        cleaned = clean_slices(one, ratio=ratio)

        np.testing.assert_array_equal(cleaned.labelmap.voxels, expected, str(seed))
        assert cleaned.contested_voxels == contested


@pytest.mark.parametrize("batch", range(6))
def test_volumes_equal_a_literal_fill_and_removal(batch):
    for seed in range(batch * 25, batch * 25 + 25):
        rng = np.random.default_rng(seed)
        limit = float(rng.integers(0, 40))
        keep = None if seed % 2 else int(rng.integers(1, 4))
        one = labelmap(adversarial(seed), spacing_mm=(0.5, 2.0, 3.0))
        results = [literal_volume(one.mask(label), limit, keep) for label in TABLE]
        expected, contested = merged(one, results)

        cleaned = clean_volume(one, min_volume_mm3=3.0 * limit, keep_largest=keep)

        np.testing.assert_array_equal(cleaned.labelmap.voxels, expected, str(seed))
        assert cleaned.contested_voxels == contested


@pytest.mark.parametrize("batch", range(6))
def test_each_structure_can_have_a_rule_of_its_own(batch):
    rules = {
        "tibia": CleaningRule("slice", ratio=0.3),
        "femur": CleaningRule("volume", min_volume_mm3=27.0, keep_largest=2),
        "fibula": UNCLEANED,
    }
    for seed in range(batch * 25, batch * 25 + 25):
        one = labelmap(adversarial(seed), spacing_mm=(0.5, 2.0, 3.0))
        tibia, femur, fibula = (one.mask(label) for label in TABLE)
        results = [literal_slices(tibia, 0.3), literal_volume(femur, 9, 2), fibula]
        expected, contested = merged(one, results)

        cleaned = clean_structures(one, rules)

        np.testing.assert_array_equal(cleaned.labelmap.voxels, expected, str(seed))
        assert cleaned.contested_voxels == contested


def test_a_structure_without_a_rule_keeps_every_voxel_that_another_would_fill():
    voxels = np.ones((9, 9, 9))
    voxels[4, 4, 4] = 2  # inside the tibia, and the only voxel of the femur

    cleaned = clean_structures(
        labelmap(voxels), {"tibia": CleaningRule("volume", min_volume_mm3=0.0)}
    )

    assert cleaned.contested_voxels == 1
    assert not cleaned.changed


def test_the_account_names_the_rule_of_every_structure():
    one = labelmap(np.ones((3, 3, 3)))

    mixed = clean_structures(one, {"tibia": CleaningRule(), "femur": UNCLEANED})

    assert mixed.rule.startswith("tibia: slice: in every slice")
    assert mixed.rule.endswith("femur: none")
    assert clean_alike(one, CleaningRule()).rule == clean_slices(one).rule
    assert clean_structures(one, {}).rule == "none"


def test_a_rule_for_an_unknown_structure_is_refused():
    with pytest.raises(
        InputError, match=r"rules: patella\. The labels are tibia, femur"
    ):
        clean_structures(labelmap(np.ones((3, 3, 3))), {"patella": UNCLEANED})


def test_the_largest_pieces_are_counted_for_each_side_that_has_a_label():
    sides = LabelTable.from_names(["femur_left", "femur_right"])
    voxels = np.zeros((20, 5, 5))
    for place, length, value in ((0, 2, 1), (4, 5, 1), (10, 3, 2), (15, 1, 2)):
        voxels[place : place + length, 1, 1] = value

    cleaned = clean_volume(
        labelmap(voxels, table=sides), min_volume_mm3=0, keep_largest=1
    )

    assert cleaned.removed_mm3 == {"femur_left": 2.0, "femur_right": 1.0}


SIXTY_DEGREES = Rotation.from_euler("z", 60, degrees=True).as_matrix()


@examples(200)
@given(
    voxels=arrays(np.bool_, (9, 6, 5), elements=st.sampled_from([True, False, False])),
    signs=st.tuples(*[st.sampled_from([1.0, -1.0])] * 3),
    turned=st.booleans(),
    keep=st.integers(1, 3),
)
def test_the_largest_pieces_of_each_side_stay_where_one_label_holds_both(
    voxels, signs, turned, keep
):
    affine = np.diag([*np.multiply(signs, (0.9, 1.1, 3.0)), 1.0])
    affine[:3, :3] = SIXTY_DEGREES @ affine[:3, :3] if turned else affine[:3, :3]
    one = Labelmap(Grid(voxels.shape, affine), voxels.astype(np.uint8), TABLE)

    cleaned = clean_volume(one, min_volume_mm3=0, keep_largest=keep, each_side=True)

    filled = ndimage.binary_fill_holes(voxels)
    pieces, count = ndimage.label(filled.T)
    pieces = pieces.T
    kept = []
    for side in (True, False):
        here = [
            (-int((pieces == c).sum()), c)
            for c in range(1, count + 1)
            if is_left(one.grid, np.argwhere(pieces == c)) is side
        ]
        kept += [c for _, c in sorted(here)[:keep]]
    assert np.array_equal(cleaned.labelmap.mask(TABLE["tibia"]), np.isin(pieces, kept))


def is_left(grid, places):
    """Whether the centroid lies left of the middle of the image, in LPS."""
    corners = np.array([[0, 0, 0], np.array(grid.shape) - 1])
    middle_x = (grid.affine @ [*corners.mean(axis=0), 1])[0]
    return bool((grid.affine @ [*places.mean(axis=0), 1])[0] > middle_x - 1e-6)


@examples(200)
@given(
    voxels=arrays(np.uint8, (7, 6, 4), elements=st.integers(0, 3)),
    rule=st.sampled_from(["slice", "volume"]),
)
def test_the_account_explains_every_change_of_volume(voxels, rule):
    one = labelmap(voxels, spacing_mm=(0.7, 0.8, 3.0))
    if rule == "slice":
        cleaned = clean_slices(one, ratio=0.3)
    else:
        cleaned = clean_volume(one, min_volume_mm3=9.0)
    before, after = one.volumes_mm3(), cleaned.labelmap.volumes_mm3()

    for name in TABLE.names:
        change = cleaned.filled_mm3[name] - cleaned.removed_mm3[name]
        assert after[name] == pytest.approx(before[name] + change)
    assert cleaned.changed == (not np.array_equal(one.voxels, cleaned.labelmap.voxels))


def test_the_outer_background_is_a_component_like_any_other():
    voxels = np.ones((60, 60, 1))
    voxels[0, :5] = 0  # a corner of the background, 5 < int(0.01 * 3595)

    assert clean_slices(labelmap(voxels)).labelmap.voxels.all()


def test_background_that_goes_on_beyond_the_box_is_not_filled():
    voxels = np.zeros((200, 60, 1))
    voxels[:100] = 1
    voxels[100:, 30] = 1  # a bar to the far side splits the outer background

    assert not clean_slices(labelmap(voxels)).changed


def test_a_small_part_of_the_outer_background_is_filled_to_the_border():
    voxels = np.zeros((40, 12, 1))
    voxels[:30] = 1  # 120 voxels of background go on beyond the box: fewer than 360

    assert clean_slices(labelmap(voxels), ratio=1.0).labelmap.voxels.all()


def test_slices_of_fewer_than_200_voxels_never_change():
    voxels = np.zeros((40, 40, 1))
    voxels[5:19, 5:19] = 1
    voxels[10, 10] = 0
    voxels[30, 30] = 1

    assert not clean_slices(labelmap(voxels)).changed


def test_slices_are_cleaned_one_by_one():
    voxels = np.zeros((40, 40, 2))
    voxels[5:25, 5:25] = 1
    voxels[10, 10, 0] = 0
    voxels[30:33, 30, 1] = 1

    cleaned = clean_slices(labelmap(voxels, (0.5, 0.5, 3.0)), ratio=0.01)

    assert cleaned.filled_mm3["tibia"] == 0.75
    assert cleaned.removed_mm3["tibia"] == 3 * 0.75 * 1
    assert cleaned.rule.startswith("slice")


def test_a_voxel_that_two_claim_keeps_its_label():
    voxels = np.ones((30, 30, 1))
    voxels[10:13, 10] = 2  # a hole of the tibia, but all there is of the femur

    cleaned = clean_slices(labelmap(voxels))

    assert cleaned.contested_voxels == 3
    assert not cleaned.changed


def test_a_voxel_that_its_structure_gives_up_goes_to_the_one_that_fills_it():
    voxels = np.zeros((60, 60, 1))
    voxels[:30, :30] = 1
    voxels[30:, 30:] = 2
    voxels[10, 10] = 2

    cleaned = clean_slices(labelmap(voxels))

    assert cleaned.labelmap.voxels[10, 10, 0] == 1
    assert cleaned.removed_mm3 == {"tibia": 0.0, "femur": 1.0, "fibula": 0.0}
    assert cleaned.filled_mm3 == {"tibia": 1.0, "femur": 0.0, "fibula": 0.0}


def test_a_cavity_is_filled_and_a_bay_is_not():
    voxels = np.ones((9, 9, 9))
    voxels[4, 4, 4] = 0
    voxels[0:3, 2, 2] = 0

    cleaned = clean_volume(labelmap(voxels), min_volume_mm3=0)

    assert cleaned.filled_mm3["tibia"] == 1.0
    assert not cleaned.labelmap.voxels[0:3, 2, 2].any()


def test_pieces_of_exactly_the_smallest_volume_stay():
    voxels = np.zeros((9, 9, 9))
    voxels[1, 1, 1:4] = 1
    voxels[5, 5, 5:7] = 1

    cleaned = clean_volume(labelmap(voxels), min_volume_mm3=3.0)

    assert cleaned.removed_mm3["tibia"] == 2.0


def test_the_largest_pieces_can_be_kept():
    voxels = np.zeros((20, 5, 5))
    for place, length in ((0, 2), (4, 5), (10, 3)):
        voxels[place : place + length, 1, 1] = 1

    cleaned = clean_volume(labelmap(voxels), min_volume_mm3=0, keep_largest=2)

    assert cleaned.removed_mm3["tibia"] == 2.0
    assert "2 largest" in cleaned.rule


def test_an_empty_labelmap_stays_empty():
    one = labelmap(np.zeros((4, 4, 4)))

    assert not clean_slices(one).changed
    assert not clean_volume(one, min_volume_mm3=10).changed


@pytest.mark.parametrize("ratio", [-0.1, 1.1, np.nan])
def test_a_ratio_that_is_no_share_is_refused(ratio):
    with pytest.raises(InputError, match="ratio"):
        clean_slices(labelmap(np.zeros((2, 2, 2))), ratio=ratio)


@pytest.mark.parametrize(("volume", "keep"), [(-1.0, None), (np.inf, None), (1.0, 0)])
def test_limits_without_sense_are_refused(volume, keep):
    with pytest.raises(InputError):
        clean_volume(
            labelmap(np.zeros((2, 2, 2))), min_volume_mm3=volume, keep_largest=keep
        )


def test_real_labels_are_cleaned_as_by_the_literal_rule():
    files = sorted((DATA / "train/spine_vb_2mm/labelsTs").glob("*.nii.gz"))
    if not files:
        pytest.skip("NNUNET_BRIDGE_TEST_DATA names no folder with real labels")
    table = LabelTable.from_names(["l1", "l2", "l3", "l4", "l5"])
    for file in files:
        one = read_labelmap(file, table)
        results = [literal_slices(one.mask(label), 0.05) for label in table]

        cleaned = clean_slices(one, ratio=0.05)

        np.testing.assert_array_equal(cleaned.labelmap.voxels, merged(one, results)[0])


@examples(200)
@given(
    mask=arrays(np.bool_, st.tuples(*[st.integers(1, 6)] * 3)),
    across=st.booleans(),
)
def test_components_are_those_of_scipy(mask, across):
    structure = ndimage.generate_binary_structure(3, 1)
    if not across:
        structure[[0, 2]] = False
    expected, count = ndimage.label(mask, structure)

    found = connected(mask, across_planes=across)

    assert found.count == count
    labels = np.zeros(mask.size, dtype=int)
    for component in range(count):
        chosen = np.arange(count) == component
        labels[found.places(chosen)] = component + 1
        assert found.sizes()[component] == np.count_nonzero(labels == component + 1)
    pairs = set(zip(labels, expected.ravel(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


@pytest.mark.parametrize("lines", [(0, 5), (2, 8), (4, 11), (0, 11)])
@pytest.mark.parametrize("columns", [(0, 6), (3, 9), (5, 13), (0, 13)])
def test_holes_at_the_border_of_a_crop_have_their_size_in_the_whole_slice(
    lines, columns
):
    """Components of the background against scipy's of the uncropped slices."""
    whole = np.random.default_rng(5).random((3, 11, 13)) < 0.6
    for axis, (low, high) in ((1, lines), (2, columns)):  # one line wider, if it can be
        places = np.arange(whole.shape[axis])
        held = (places > low - (low == 0)) & (places < high - (high < len(places)))
        whole &= np.expand_dims(held, [n for n in range(3) if n != axis])
    crop = _Crop((0, 3), lines, columns, whole.shape)

    holes = connected(~whole[crop.ranges], across_planes=False)
    sizes = holes.sizes(_whole_lengths(holes, crop))

    planar = ndimage.generate_binary_structure(3, 1)
    planar[[0, 2]] = False
    labels, _ = ndimage.label(~whole, planar)
    counts, inside = np.bincount(labels.ravel()), labels[crop.ranges].ravel()
    for number in range(holes.count):
        first, *_ = holes.places(np.arange(holes.count) == number)
        assert sizes[number] == counts[inside[first]]
