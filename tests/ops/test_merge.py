"""FAULTS K16: overlaps are found exactly and settled as the recipe says."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from nnunet_bridge.core.findings import Outcome
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import LabelTable
from nnunet_bridge.formats.recipe import MergePart
from nnunet_bridge.ops.merge import MaskMerger

TABLE = LabelTable.from_names(["tibia", "femur", "fibula", "pelvis"])
GRID = Grid((12, 10, 8), np.diag([2.0, 2.0, 5.0, 1.0]))


def box(*slices):
    mask = np.zeros(GRID.shape, bool)
    mask[tuple(slices)] = True
    return mask


def merge_masks(grid, labels, masks, **options):
    merger = MaskMerger(grid, labels)
    for label, mask in masks:
        merger.add(label, mask)
    return merger.merged(**options)


def random_masks(seed, names=TABLE.names):
    rng = np.random.default_rng(seed)
    return [(TABLE[name], rng.random(GRID.shape) < 0.2) for name in names]


def test_K16_a_sum_of_values_is_never_mistaken_for_a_third_structure():
    both = box(slice(0, 4), 0, 0)

    merged = merge_masks(
        GRID,
        TABLE,
        [(TABLE["tibia"], both), (TABLE["femur"], both)],
        limit_percent=100,
    )

    assert not merged.labelmap.voxels.any()
    assert merged.overlaps[0].voxels == 4
    assert merged.overlaps[0].volume_cm3 == pytest.approx(4 * 20 / 1000)
    assert merged.overlaps[0].percent_of_smaller == 100


@examples(200)
@given(seed=st.integers(0, 1000))
def test_K16_every_pair_is_counted_exactly(seed):
    masks = random_masks(seed)

    merged = merge_masks(GRID, TABLE, masks, limit_percent=100)

    counted = {(o.first, o.second): o.voxels for o in merged.overlaps}
    for (one, first), (other, second) in itertools.combinations(masks, 2):
        expected = int((first & second).sum())
        assert counted.get((one.name, other.name), 0) == expected
    claims = sum(mask.astype(int) for _, mask in masks)
    np.testing.assert_array_equal(merged.labelmap.voxels > 0, claims == 1)


@examples(200)
@given(seed=st.integers(0, 100), order=st.permutations(range(4)))
@pytest.mark.parametrize("policy", ["background", "priority"])
def test_K16_the_order_of_the_masks_never_matters(policy, seed, order):
    masks = random_masks(seed)
    options = {"policy": policy, "priority": ["pelvis", "tibia"], "limit_percent": 100}

    one = merge_masks(GRID, TABLE, masks, **options)
    other = merge_masks(GRID, TABLE, [masks[n] for n in order], **options)

    np.testing.assert_array_equal(one.labelmap.voxels, other.labelmap.voxels)
    assert one.overlaps == other.overlaps
    assert one.findings == other.findings


def test_K16_priority_gives_the_voxel_to_the_stronger():
    masks = [
        (TABLE["tibia"], box(slice(0, 6), 0, 0)),
        (TABLE["femur"], box(slice(4, 10), 0, 0)),
    ]

    merged = merge_masks(
        GRID, TABLE, masks, policy="priority", priority=["femur"], limit_percent=100
    )

    assert merged.labelmap.voxels[:, 0, 0].tolist() == [1] * 4 + [2] * 6 + [0, 0]
    assert [f.outcome for f in merged.findings] == [Outcome.FIXED]


@pytest.mark.parametrize(
    ("voxels", "smaller", "outcome"),
    [(2, 400, Outcome.FIXED), (3, 400, Outcome.REFUSED), (2, 399, Outcome.REFUSED)],
)
def test_K16_the_limit_is_half_a_percent_of_the_smaller_structure(
    voxels, smaller, outcome
):
    """2 of 400 voxels are the limit itself; the larger structure has 480."""
    first, second = np.zeros(GRID.shape, bool), box(slice(6, 12))
    first[:6].flat[: smaller - voxels] = True
    first[6:].flat[:voxels] = True
    limit = MergePart().overlap_limit_percent

    merged = merge_masks(
        GRID,
        TABLE,
        [(TABLE["tibia"], first), (TABLE["femur"], second)],
        policy="background",
        limit_percent=limit,
    )

    assert limit == 0.5
    assert [f.outcome for f in merged.findings] == [outcome]


@pytest.mark.parametrize(
    ("limit", "policy", "outcome"),
    [
        (0.5, "background", Outcome.FIXED),
        (0.05, "background", Outcome.REFUSED),
        (0.5, "refuse", Outcome.REFUSED),
    ],
)
def test_K16_too_large_an_overlap_is_refused(limit, policy, outcome):
    first, second = box(slice(0, 6)), box(slice(6, 12))
    second[5, 0, 0] = True  # 1 of 480 voxels: 0.21 %

    merged = merge_masks(
        GRID,
        TABLE,
        [(TABLE["tibia"], first), (TABLE["femur"], second)],
        policy=policy,
        limit_percent=limit,
    )

    (finding,) = merged.findings
    assert (finding.code, finding.outcome) == ("K16", outcome)
    assert "1 voxels" in finding.message


def test_two_sides_of_one_label_are_united():
    masks = [(TABLE["tibia"], box(0)), (TABLE["tibia"], box(11))]

    merged = merge_masks(GRID, TABLE, masks)

    assert merged.drawn["tibia"] == 2 * 80
    assert merged.overlaps == ()


def test_more_than_eight_structures_and_more_than_255_are_not_confused():
    names = [f"bone{n}" for n in range(40)]
    table = LabelTable.from_names(names)
    masks = [(table[name], box(n % 12, n // 12, 0)) for n, name in enumerate(names)]

    merged = merge_masks(GRID, table, masks)

    assert merged.labelmap.voxels[39 % 12, 39 // 12, 0] == 40
    assert merged.labelmap.counts()[1:].tolist() == [1] * 40


@pytest.mark.parametrize(
    ("policy", "words"),
    [("background", "now background"), ("priority", "now the first by priority")],
)
def test_K16_a_settled_overlap_says_what_became_of_its_voxels(policy, words):
    both = [(TABLE[name], box(slice(0, 6))) for name in ("tibia", "femur")]

    (finding,) = merge_masks(
        GRID, TABLE, both, policy=policy, limit_percent=100
    ).findings

    assert finding.message.endswith(f"these are {words}.")
