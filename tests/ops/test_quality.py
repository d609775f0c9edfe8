"""Quality rating: laws that hold for every prediction, figures in closed form."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy import ndimage
from scipy.stats import norm, t

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.core.quality import (
    MemberAgreement,
    Quality,
    QualityCheck,
    QualityLevel,
    Reason,
    Spread,
    StructureRange,
    TrainingStructures,
    count_levels,
)
from nnunet_bridge.core.records import from_record
from nnunet_bridge.formats.nifti import read_labelmap
from nnunet_bridge.ops.quality import (
    AGREEMENT_LIMITS,
    PIECE_SHARE,
    VOLUME_AMBER_CHANCE,
    VOLUME_RED_CHANCE,
    StructureFigures,
    _volume_reason,
    agreement_level,
    expected_range,
    expected_volume_mm3,
    judge,
    structure_figures,
    training_structures,
)

DOCS = Path(__file__).parents[2] / "docs"
SIDES = LabelTable.from_names(["femur_left", "femur_right"])
LEG = LabelTable.from_names(["tibia", "femur"])
ONE = Spread(1, 1, 1, 1, 1)
KNOWN = StructureRange(12, 0, Spread(800, 820, 1000, 1220, 1250), ONE, None)

reasons = st.builds(
    Reason,
    structure=st.sampled_from(["tibia", "femur"]),
    kind=st.sampled_from(list(QualityCheck)),
    level=st.sampled_from(list(QualityLevel)),
    value=st.none() | st.floats(0, 1),
    expected=st.tuples(st.none() | st.floats(0, 1), st.none() | st.floats(0, 1)),
    message=st.text(max_size=20),
)
qualities = st.builds(
    Quality,
    st.lists(reasons, max_size=6).map(tuple),
    st.lists(st.text(max_size=9), max_size=2).map(tuple),
)


def labelmap(voxels, table=LEG, spacing=(1.0, 1.0, 1.0)):
    voxels = np.asarray(voxels, np.uint8)
    return Labelmap(Grid(voxels.shape, np.diag([*spacing, 1.0])), voxels, table)


def two_bones(shape=(20, 20, 20)):
    voxels = np.zeros(shape, np.uint8)
    voxels[2:8, 5:15, 5:15] = 1
    voxels[10:18, 5:15, 5:15] = 2
    return voxels


def training_on(*voxels, table=LEG, spacing=(1.0, 1.0, 1.0)):
    return training_structures(
        structure_figures(labelmap(v, table, spacing)) for v in voxels
    )


def judged(voxels, training=None, table=LEG, spacing=(1.0, 1.0, 1.0)):
    return judge(labelmap(voxels, table, spacing), MemberAgreement(), training)


def reason_of(quality, structure, kind):
    (found,) = [
        r for r in quality.reasons if (r.structure, r.kind) == (structure, kind)
    ]
    return found


def blocks(count):
    """Return voxels of a tibia in so many pieces."""
    voxels = np.zeros((20, 6, 6), np.uint8)
    for n in range(count):
        voxels[1 + 4 * n : 4 + 4 * n, 1:5, 1:5] = 1
    return voxels


def volume_reason(factor):
    """Return the reason for a volume so many times that of the training labels."""
    voxels = np.pad(np.ones((10, 10, 10), np.uint8), 1)
    known = TrainingStructures(12, {"tibia": KNOWN})
    quality = judged(voxels, known, spacing=[factor ** (1 / 3)] * 3)
    return reason_of(quality, "tibia", "volume")


@given(quality=qualities, more=reasons)
def test_a_further_reason_never_improves_a_light(quality, more):
    worse = Quality((*quality.reasons, more), quality.not_judged)

    assert worse.level >= quality.level
    assert worse.level >= more.level
    assert worse.rank[:2] >= quality.rank[:2]


@given(quality=qualities)
def test_a_light_is_that_of_its_first_reason_and_reads_back_as_it_was(quality):
    assert quality.level == max([r.level for r in quality.reasons], default=0)
    assert all(quality.reasons[0].level >= r.level for r in quality.reasons)
    assert from_record(Quality, quality.as_json(), "quality rating") == quality


@pytest.mark.parametrize(
    ("kind", "damaged"),
    [
        (Quality, {}),
        (Quality, []),
        (Quality, {"reasons": 3, "not_judged": []}),
        (Quality, {"reasons": [{}], "not_judged": []}),
        (MemberAgreement, {"between_folds": {"one": 1}}),
        (MemberAgreement, {"between_folds": {"1": 1.2}}),
        (MemberAgreement, [1]),
        (MemberAgreement, 3),
    ],
)
def test_a_damaged_record_is_refused_in_words(kind, damaged):
    with pytest.raises(InputError, match=r"quality rating|within 0\.\.1"):
        from_record(kind, damaged, "quality rating")


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="between_folds, between_configurations"):
        Reason("tibia", "colour", QualityLevel.RED, None, (None, None), "")


@pytest.mark.parametrize("kind", AGREEMENT_LIMITS)
@given(one=st.floats(0, 1), other=st.floats(0, 1))
def test_members_that_agree_less_never_give_a_better_level(kind, one, other):
    low, high = sorted((one, other))

    assert agreement_level(kind, low) >= agreement_level(kind, high)


def test_agreements_become_reasons_by_label_and_a_missing_one_is_reported():
    content = {"between_folds": {"1": 0.55, "2": None}}
    agreement = from_record(MemberAgreement, content, "table of agreements")

    quality = judge(labelmap(two_bones()), agreement, None)

    assert quality.level is QualityLevel.RED
    assert quality.lowest_agreement == 0.55
    (found,) = quality.concerns
    assert (found.structure, found.kind) == ("tibia", "between_folds")
    assert found.value == 0.55
    assert found.message == "tibia: the folds hardly agree (Dice 0.55; 0.80 expected)."
    assert [words.partition(":")[0] for words in quality.not_judged] == [
        "One configuration only",
        "The training labels are unknown",
    ]


def test_a_training_label_itself_is_green_and_lists_what_could_not_be_judged():
    voxels = two_bones()

    quality = judged(voxels, training_on(*([voxels] * 4)))

    assert quality.level is QualityLevel.GREEN
    assert {r.kind for r in quality.reasons} == {"volume", "steps", "pieces", "border"}
    assert [words[:8] for words in quality.not_judged] == [
        *("One fold", "One conf", "No train"),
    ]


@given(scale=st.floats(0.01, 100), volume=st.floats(1, 1e5))
def test_volumes_are_judged_alike_in_every_unit(scale, volume):
    def level(factor):
        spread = Spread(*(factor * v for v in (800, 820, 1000, 1220, 1250)))
        usual = expected_volume_mm3(spread, 12, 0.01)
        return usual[0] / factor, usual[1] / factor, usual[0] <= volume * factor

    one, other = level(1.0), level(scale)
    np.testing.assert_allclose(one[:2], other[:2], rtol=1e-9)
    if abs(volume / one[0] - 1) > 1e-6:
        assert one[2] == other[2]


@examples(25)
@given(spacing=st.tuples(*[st.floats(0.2, 4)] * 3))
def test_pieces_borders_and_sides_do_not_depend_on_the_size_of_a_voxel(spacing):
    voxels = two_bones()
    voxels[2:4, 17:19, :2] = 1
    plain, scaled = (
        structure_figures(labelmap(voxels, LEG, s)) for s in ((1.0, 1.0, 1.0), spacing)
    )

    for name in LEG.names:
        assert plain[name].pieces == scaled[name].pieces
        assert plain[name].at_border == scaled[name].at_border
        ratio = scaled[name].volume_mm3 / plain[name].volume_mm3
        assert ratio == pytest.approx(math.prod(spacing))


def test_the_expected_range_of_normal_values_is_the_constant_of_quality_control():
    """Values of d2: Montgomery, Introduction to Statistical Quality Control."""
    for n, d2 in ((2, 1.128), (3, 1.693), (5, 2.326), (10, 3.078), (25, 3.931)):
        assert expected_range(n) == pytest.approx(d2, abs=6e-4)


@pytest.mark.parametrize("cases", [5, 12, 60])
def test_a_new_patient_of_the_same_population_lies_outside_as_rarely_as_stated(cases):
    rng = np.random.default_rng(cases)
    outside = 0
    for _ in range(2000):
        known = np.exp(rng.normal(7, 0.2, cases))
        spread = Spread(*np.percentile(known, (0, 5, 50, 95, 100)))
        low, high = expected_volume_mm3(spread, cases, 0.05)
        outside += not low <= np.exp(rng.normal(7, 0.2)) <= high

    assert 0.02 <= outside / 2000 <= 0.09


def test_the_interval_of_a_known_spread_in_closed_form():
    sd = 0.1
    spread = Spread(*np.exp(sd * np.array([-2, norm.ppf(0.05), 0, norm.ppf(0.95), 2])))

    low, high = expected_volume_mm3(spread, 50, 0.01)

    reach = t.ppf(0.995, 49) * sd * math.sqrt(1 + 1 / 50)
    assert (low, high) == pytest.approx((math.exp(-reach), math.exp(reach)))


@given(factors=st.lists(st.floats(0.05, 20), min_size=2, max_size=6))
def test_the_further_a_volume_is_from_the_median_the_worse_its_level(factors):
    larger = sorted(f for f in factors if f >= 1)
    levels = [volume_reason(factor).level for factor in larger]

    assert levels == sorted(levels)


@pytest.mark.parametrize(
    ("factor", "level", "word"),
    [
        (1, 0, "as usual"),
        (1.8, 1, "large"),
        (0.55, 1, "small"),
        (9, 2, "far too large"),
    ],
)
def test_a_volume_is_reported_with_its_expected_range(factor, level, word):
    found = volume_reason(factor)

    assert (found.level, found.value) == (level, pytest.approx(1000 * factor))
    assert f"cm\u00b3, {word}. Expected 0.642 to 1.56 cm\u00b3" in found.message
    assert "(12 training labels: 0.800 to 1.25)" in found.message


def test_the_number_of_pieces_is_that_of_scipy_without_specks():
    rng = np.random.default_rng(4)
    voxels = (rng.random((18, 17, 16)) > 0.72).astype(np.uint8)
    found = structure_figures(labelmap(voxels))["tibia"]

    components, _ = ndimage.label(voxels)
    sizes = np.bincount(components.ravel())[1:]

    assert found.pieces == np.count_nonzero(sizes >= PIECE_SHARE * sizes.sum())
    assert found.volume_mm3 == sizes.sum()


def test_a_structure_that_is_shattered_into_specks_is_all_pieces():
    voxels = np.zeros((20, 20, 20), np.uint8)
    voxels[::2, ::2, ::2] = 1

    figures = structure_figures(labelmap(voxels))["tibia"]

    assert figures.pieces == 1000
    assert figures.at_border


@pytest.mark.parametrize(
    ("pieces", "most", "level", "words"),
    [
        (1, 1, 0, "1 piece; the training labels have one."),
        (2, 1, 1, "2 pieces; the training labels have one."),
        (3, 1, 1, "3 pieces; the training labels have one."),
        (4, 1, 2, "4 pieces; the training labels have one."),
        (2, 3, 0, "2 pieces; the training labels have at most 3."),
    ],
)
def test_more_pieces_than_any_training_label_light(pieces, most, level, words):
    known = replace(KNOWN, pieces=Spread(1, 1, 1, most, most))

    quality = judged(blocks(pieces), TrainingStructures(12, {"tibia": known}))

    found = reason_of(quality, "tibia", "pieces")
    assert (found.level, found.value) == (level, pieces)
    assert found.message == f"tibia: {words}"


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("last", [False, True])
def test_every_border_of_the_field_is_seen(axis, last):
    place = [slice(4, 8)] * 3
    place[axis] = slice(-4, None) if last else slice(0, 4)
    cut = np.zeros((20, 20, 20), np.uint8)
    cut[tuple(place)] = 1

    assert not structure_figures(labelmap(two_bones()))["tibia"].at_border
    assert structure_figures(labelmap(cut))["tibia"].at_border


def test_a_speck_at_the_border_is_no_bone_that_was_cut():
    voxels = two_bones()
    voxels[0, 0, 0] = 1

    found = structure_figures(labelmap(voxels))["tibia"]

    assert (found.at_border, found.pieces) == (False, 1)


@pytest.mark.parametrize(("held", "level"), [(4, 2), (3, 1), (2, 1), (1, 0), (0, 0)])
def test_an_absent_structure_is_as_grave_as_it_is_rare(held, level):
    whole = two_bones()
    without = np.where(whole == 2, 0, whole)
    training = training_on(*([whole] * held + [without] * (4 - held)))

    found = reason_of(judged(without, training), "femur", "empty")
    assert (found.level, found.value) == (level, 0.0)
    assert f"{held} of 4 training labels hold it" in found.message


def test_a_prediction_of_nothing_is_red_whatever_is_known():
    empty = np.zeros((5, 5, 5))

    for known in (None, training_on(*([empty] * 4))):
        quality = judged(empty, known)
        assert quality.level is QualityLevel.RED
        assert len(quality.concerns) == 2


def legs(left=10, right=10, gap=8):
    """Return voxels of two legs in one label, `left` and `right` slices thick."""
    voxels = np.zeros((50, 8, 8), np.uint8)
    voxels[2 : 2 + right, 2:6, 2:6] = 1
    voxels[2 + right + gap : 2 + right + gap + left, 2:6, 2:6] = 1
    return voxels


def test_the_sides_of_one_label_are_split_at_the_gap_between_them():
    found = structure_figures(labelmap(legs(left=12, right=8)))["tibia"]

    assert found.sides_mm3 == (8 * 16, 12 * 16)
    assert found.asymmetry == pytest.approx(4 / 20)


@pytest.mark.parametrize(
    ("gap", "spacing", "apart"), [(4, 1.0, 0), (5, 1.0, 1), (4, 1.25, 1)]
)
def test_sides_lie_five_millimetres_apart_or_are_one_piece_of_anatomy(
    gap, spacing, apart
):
    near = labelmap(legs(gap=gap), spacing=(spacing, 1.0, 1.0))

    assert (structure_figures(near)["tibia"].sides_mm3 is not None) == apart


def test_left_is_left_however_the_array_runs():
    voxels = legs(left=12, right=8)
    for axes in ((0, 1, 2), (1, 0, 2), (2, 1, 0)):
        for flip in (1, -1):
            turned = voxels[::flip].transpose(np.argsort(axes))
            affine = np.eye(4)
            affine[:3, :3] = np.eye(3)[:, list(np.argsort(axes))]
            affine[0, :3] *= flip
            grid = Grid(turned.shape, affine)
            found = structure_figures(Labelmap(grid, turned.copy(), LEG))["tibia"]
            assert found.sides_mm3 == (8 * 16, 12 * 16), (axes, flip)


def test_a_speck_far_away_is_not_taken_for_the_other_side():
    voxels = legs()
    voxels[49, 7, 7] = 1

    found = structure_figures(labelmap(voxels))["tibia"]

    assert found.sides_mm3 == (160, 161)


@given(left=st.integers(1, 14), right=st.integers(1, 14))
def test_the_asymmetry_of_mirrored_labels_is_the_same(left, right):
    one, other = (
        structure_figures(labelmap(legs(*sides)))["tibia"]
        for sides in ((left, right), (right, left))
    )

    assert one.asymmetry == other.asymmetry == abs(left - right) / (left + right)
    assert one.sides_mm3 == other.sides_mm3[::-1]


@pytest.mark.parametrize(
    ("left", "level"), [(10, 0), (11, 0), (12, 1), (16, 1), (19, 2), (4, 2)]
)
def test_sides_more_unlike_than_in_training_light(left, level):
    training = training_on(*([legs()] * 4))

    found = reason_of(judged(legs(left=left), training), "tibia", "symmetry")

    assert found.level == level


def test_a_leg_that_is_missing_from_a_label_of_both_is_noticed():
    training = training_on(*([legs()] * 4))
    alone = np.where(np.arange(50)[:, None, None] < 15, legs(), 0)

    found = reason_of(judged(alone, training), "tibia", "symmetry")

    assert (found.level, found.value) == (QualityLevel.AMBER, None)
    assert "one side only" in found.message


def test_a_structure_without_two_sides_in_training_is_not_asked_for_symmetry():
    quality = judged(legs(), training_on(*([two_bones()] * 4)))

    assert "symmetry" not in {r.kind for r in quality.reasons}


def test_two_labels_of_one_bone_are_compared_and_reported_once():
    def femurs(left, right):
        voxels = np.zeros((30, 8, 8), np.uint8)
        voxels[1 : 1 + right, 2:6, 2:6] = 2
        voxels[16 : 16 + left, 2:6, 2:6] = 1
        return voxels

    training = training_on(*([femurs(10, 10)] * 4), table=SIDES)
    quality = judged(femurs(10, 5), training, SIDES)

    found = reason_of(quality, "femur_left", "symmetry")
    assert found.level is QualityLevel.RED
    assert found.value == pytest.approx(1 / 3)
    assert found.message.startswith("femur: 0.0800 cm\u00b3 right, 0.160 cm\u00b3 left")
    assert [r.kind for r in quality.reasons].count("symmetry") == 1


def test_ranges_hold_figures_and_no_case_and_read_back_as_they_were():
    bones = two_bones()
    small = np.where(np.arange(20)[:, None, None] == 2, 0, bones)
    training = training_on(bones, small, np.where(bones == 2, 0, bones))

    assert training.cases == 3
    assert training.structures["femur"].cases == 2
    assert training.structures["tibia"].volume_mm3 == Spread(500, 510, 600, 600, 600)
    assert TrainingStructures.from_json(training.as_json()) == training


@pytest.mark.parametrize(
    ("damaged", "place"),
    [
        ({}, "cases"),
        ({"cases": 3, "structures": {"tibia": {}}}, r"structures\.tibia\.cases"),
        ([], "the record"),
    ],
)
def test_damaged_ranges_are_refused_with_their_place(damaged, place):
    with pytest.raises(InputError, match=f"is damaged: {place}: "):
        TrainingStructures.from_json(damaged)


def test_a_spread_out_of_order_is_refused():
    with pytest.raises(InputError, match="ascend"):
        Spread(1, 2, 3, 5, 4)


def test_two_training_labels_are_too_few_to_expect_a_volume():
    quality = judged(two_bones(), training_on(two_bones(), two_bones()))

    assert "volume" not in {r.kind for r in quality.reasons}
    assert any("Fewer than 3" in words for words in quality.not_judged)


def test_the_lights_of_a_batch_are_counted_the_worst_first():
    red = Quality(
        (Reason("t", "empty", QualityLevel.RED, 0.0, (None, None), "t: gone."),)
    )

    assert count_levels([Quality(()), red, Quality(())]) == "1 red, 0 amber, 2 green"
    assert red.lowest_agreement is None
    assert str(red.reasons[0]) == "red: t: gone."


def test_figures_of_an_absent_structure_are_nothing():
    assert structure_figures(labelmap(np.zeros((4, 4, 4))))[
        "tibia"
    ] == StructureFigures(0.0)


@pytest.mark.parametrize(
    ("kind", "amber", "red"),
    [("between_folds", 0.80, 0.70), ("between_configurations", 0.70, 0.50)],
)
def test_the_limits_of_agreement_are_those_of_the_page(kind, amber, red):
    page = (DOCS / "explanations" / "quality-rating.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith(f"| `{kind}` |")]

    assert line.endswith(f"| below {amber:.2f} | below {red:.2f} |")
    assert agreement_level(kind, amber) is QualityLevel.GREEN
    assert agreement_level(kind, amber - 1e-9) is QualityLevel.AMBER
    assert agreement_level(kind, red) is QualityLevel.AMBER
    assert agreement_level(kind, red - 1e-9) is QualityLevel.RED


def test_a_range_holds_the_extremes_the_median_and_the_middle_90_percent():
    labels = [{"tibia": StructureFigures(float(mm3), 1)} for mm3 in range(1, 102)]

    found = training_structures(labels).structures["tibia"]

    assert found.volume_mm3 == Spread(1, 6, 51, 96, 101)


def test_missing_labels_have_no_ranges():
    assert training_structures([]) == TrainingStructures(0, {})
    assert training_structures([{"tibia": StructureFigures(2.0, 1)}]).cases == 1


@pytest.mark.parametrize(("reaching", "level"), [(2, 0), (1, 1), (0, 1)])
def test_a_border_is_usual_if_a_fifth_of_the_training_labels_reach_it(reaching, level):
    known = replace(KNOWN, cases=10, at_border=reaching)
    cut = two_bones()
    cut[:2, 5:15, 5:15] = 1

    quality = judged(cut, TrainingStructures(10, {"tibia": known}))

    found = reason_of(quality, "tibia", "border")
    assert found.level == level
    assert f"{reaching} of 10 training labels do" in found.message


def test_members_that_have_nothing_in_common_agree_by_a_dice_of_0():
    assert MemberAgreement({1: 0.0}).between_folds == {1: 0.0}
    with pytest.raises(InputError, match=r"within 0\.\.1"):
        MemberAgreement({1: -0.01})


def test_the_lowest_agreement_ranks_last_among_cases_of_one_level():
    def case(dice):
        return Quality(
            (Reason("t", "between_folds", QualityLevel.AMBER, dice, (0.8, None), "."),)
        )

    assert case(0.7).rank > case(0.75).rank > replace(case(0.75), reasons=()).rank


@pytest.mark.parametrize("end", [0, 1])
def test_the_ends_of_an_expected_volume_belong_to_it(end):
    usual = expected_volume_mm3(KNOWN.volume_mm3, 12, VOLUME_AMBER_CHANCE)[end]
    possible = expected_volume_mm3(KNOWN.volume_mm3, 12, VOLUME_RED_CHANCE)[end]
    away = math.inf if end else 0.0

    def level(volume_mm3):
        return _volume_reason("tibia", volume_mm3, KNOWN).level

    assert level(usual) is QualityLevel.GREEN
    assert level(math.nextafter(usual, away)) is QualityLevel.AMBER
    assert level(possible) is QualityLevel.AMBER
    assert level(math.nextafter(possible, away)) is QualityLevel.RED


def _jittered(found, most, rng):
    """Return a labelmap whose slices are shifted by up to `most` voxels."""
    slices = [
        np.roll(found.voxels[:, :, k], tuple(rng.integers(-most, most + 1, 2)), (0, 1))
        for k in range(found.voxels.shape[2])
    ]
    return found.with_voxels(np.stack(slices, axis=2))


def test_steps_are_those_of_a_closed_form():
    """Slices that alternate by one voxel lie one voxel off their neighbours' middle."""
    voxels = np.zeros((20, 20, 12), np.uint8)
    for k in range(12):
        voxels[5 + k % 2 : 9 + k % 2, 5:15, k] = 1

    found = structure_figures(labelmap(voxels, spacing=(0.5, 0.5, 3.0)))

    assert found["tibia"].step_mm == pytest.approx(0.5)


def test_a_step_weighs_as_much_as_the_smallest_of_its_three_slices():
    """Slices of 40, 40, 40, 4 and 40 voxels; the small one lies beside the others."""
    voxels = np.zeros((20, 20, 5), np.uint8)
    voxels[5:9, 5:15] = 1
    voxels[:, :, 3] = 0
    voxels[8:12, 10, 3] = 1
    across, down = 3.0, 0.5  # of its centre

    found = structure_figures(labelmap(voxels, spacing=(1.0, 1.0, 3.0)))

    # Slice 1 is not off, slice 2 by half as much as slice 3.
    square = (across**2 + down**2) * (4 / 4 + 4) / (40 + 4 + 4)
    assert found["tibia"].step_mm == pytest.approx(math.sqrt(square))


def test_equal_training_labels_still_leave_room_for_people():
    same = Spread(*[1000.0] * 5)

    low, high = expected_volume_mm3(same, 12, 0.01)

    reach = t.ppf(0.995, 11) * 0.03 * math.sqrt(1 + 1 / 12)
    assert (low, high) == pytest.approx(
        (1000 * math.exp(-reach), 1000 * math.exp(reach))
    )


def test_red_is_outside_the_interval_of_one_in_ten_thousand():
    reach = t.ppf(1 - 0.0001 / 2, 11) * math.log(1250 / 800) / expected_range(12)
    limit = 1000 * math.exp(reach * math.sqrt(1 + 1 / 12))

    levels = [_volume_reason("tibia", f * limit, KNOWN).level for f in (0.999, 1.001)]

    assert levels == [QualityLevel.AMBER, QualityLevel.RED]


@pytest.mark.parametrize(("unequal", "paired"), [(2, True), (3, False)])
def test_a_structure_is_paired_if_four_of_five_training_labels_are(unequal, paired):
    sides = [(10.0, 10.0)] * (10 - unequal) + [(10.0, 1.0)] * unequal
    figures = [{"tibia": StructureFigures(20.0, 1, sides_mm3=both)} for both in sides]

    found = training_structures(figures).structures["tibia"]

    assert (found.asymmetry is not None) == paired


@given(st.integers(-2, 2), st.integers(-2, 2))
@examples(20)
def test_a_straight_bone_has_no_steps_however_it_leans(across, down):
    voxels = np.zeros((40, 40, 8), np.uint8)
    for k in range(8):
        i, j = 17 + across * k, 17 + down * k
        voxels[i : i + 5, j : j + 5, k] = 1

    assert structure_figures(labelmap(voxels))["tibia"].step_mm == pytest.approx(0)


def test_slices_of_real_labels_that_jitter_by_three_voxels_are_never_good(test_data):
    """The limits come from 12 labels as drawn; no failure has set them."""
    files = sorted((test_data / "train/msd_hippocampus/labelsTr").glob("*.nii.gz"))
    table = LabelTable.from_names(["anterior", "posterior"])
    found = [read_labelmap(file, table) for file in files]
    training = training_structures([structure_figures(one) for one in found[:12]])
    rng = np.random.default_rng(0)

    def level(one):
        reasons = judge(one, MemberAgreement(), training).reasons
        return max(r.level for r in reasons if r.kind is QualityCheck.STEPS)

    as_drawn = [level(one) for one in found[12:]]
    jittered = {n: [level(_jittered(one, n, rng)) for one in found] for n in (1, 2, 3)}

    assert sum(one > QualityLevel.GREEN for one in as_drawn) <= 2
    assert min(jittered[3]) > QualityLevel.GREEN
    assert min(jittered[2]) > QualityLevel.GREEN
    assert sum(one > QualityLevel.GREEN for one in jittered[1]) >= 0.9 * len(found)
