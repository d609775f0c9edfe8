"""Scores, volumes and paired differences are true from birth."""

from dataclasses import replace

import pytest

from nnunet_bridge.core.comparison import METRICS, PairedDifference
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.findings import Finding, Outcome
from nnunet_bridge.core.scores import BoneScore, StructureVolume
from nnunet_bridge.core.words import Answer, RowState, ScoreState, Side, fold_named

SCORE = BoneScore("c", "tibia", "2d", "scored", 0.9, 2.0, 1.0, 0.8, 4e3, 5e3, 0.8, 3.0)
VOLUME = StructureVolume("c", "tibia", "left", 4, 2.0)
PAIR = PairedDifference(
    "tibia", METRICS[0], "a", "b", ("c",), (0.5,), (0.75,), (), 1, "too_few"
)


def test_words_of_files_become_members():
    assert SCORE.state is ScoreState.SCORED
    assert VOLUME.side is Side.LEFT
    assert PAIR.state is RowState.TOO_FEW
    assert replace(PAIR, answer="worse").answer is Answer.WORSE


@pytest.mark.parametrize("word", ["", "-1", "1_0", "two", "\u0663", "\u00b2"])
def test_a_fold_is_a_number_in_plain_digits_or_all(word):
    assert (fold_named("10"), fold_named("all")) == (10, "all")
    with pytest.raises(ValueError, match="is not a fold"):
        fold_named(word)


@pytest.mark.parametrize("name", ["dice", "iou", "nsd"])
@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan")])
def test_a_share_outside_0_to_1_is_refused_with_its_place(name, value):
    with pytest.raises(InputError, match=r"c, tibia: \w+ must be 0\.\.1"):
        replace(SCORE, **{name: value})


@pytest.mark.parametrize(
    "name",
    ["hd95_mm", "assd_mm", "hd_mm", "volume_reference_mm3", "volume_prediction_mm3"],
)
@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_a_size_below_0_or_infinite_is_refused_with_its_place(name, value):
    with pytest.raises(InputError, match=r"c, tibia: .* must be 0 or more"):
        replace(SCORE, **{name: value})


def test_a_structure_in_no_labelmap_has_no_dice():
    with pytest.raises(InputError, match="both are empty"):
        replace(SCORE, state="both_empty")

    assert replace(SCORE, state="both_empty", dice=None).dice is None


def test_the_errors_of_a_volume_are_prediction_minus_reference():
    smaller = replace(SCORE, volume_prediction_mm3=3e3)

    assert (SCORE.volume_error_mm3, SCORE.volume_error_cm3) == (1e3, 1.0)
    assert (smaller.volume_error_percent, smaller.volume_error_abs_percent) == (-25, 25)
    assert (smaller.volume_error_mm3, smaller.volume_error_abs_mm3) == (-1e3, 1e3)
    without = replace(SCORE, volume_reference_mm3=0.0)
    assert without.volume_error_percent is without.volume_error_abs_percent is None


@pytest.mark.parametrize("sizes", [(0, 1.0), (1, 0.0), (-1, 1.0), (1, float("inf"))])
def test_voxels_and_volume_are_both_zero_or_neither(sizes):
    with pytest.raises(InputError, match="voxels cannot have"):
        StructureVolume("c", "tibia", "", *sizes)

    assert StructureVolume("c", "tibia", "", 0, 0.0).volume_cm3 == 0
    assert VOLUME.volume_cm3 == 0.002


def test_a_side_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match=r"Unknown side .up.\. Choose .left., .right."):
        StructureVolume("c", "tibia", "up", 1, 1.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"first_values": ()},
        {"second_values": (1.0, 2.0)},
        {"case_ids": ("c", "d")},
        {"patients": 2},
    ],
)
def test_columns_of_a_pair_have_one_length_and_no_more_patients(fields):
    with pytest.raises(InputError, match="a and b: "):
        replace(PAIR, **fields)


@pytest.mark.parametrize(
    ("shift", "metric", "favours"),
    [
        (0.1, "dice", "b"),
        (-0.1, "dice", "a"),
        (0.1, "hd95_mm", "a"),
        (-0.1, "hd95_mm", "b"),
        (0.0, "dice", ""),
        (None, "dice", ""),
        (0.1, "volume_error_cm3", ""),
    ],
)
def test_a_difference_favours_the_model_with_the_better_values(shift, metric, favours):
    by_key = {one.key: one for one in METRICS}

    pair = replace(PAIR, metric=by_key[metric], median_difference=shift)

    assert pair.favours == favours
    assert pair.differences == (0.25,)


@pytest.mark.parametrize("code", ["g03", "G3", "G033", "fault"])
def test_a_finding_has_the_id_of_a_fault_or_none(code):
    with pytest.raises(ValueError, match="not the id of a fault"):
        Finding(code, Outcome.WARNED, "Something.")

    assert str(Finding("", Outcome.WARNED, "Something.")) == "Something."


def test_a_finding_without_a_sentence_is_refused():
    with pytest.raises(ValueError, match="G03 has none"):
        Finding("G03", Outcome.WARNED, "")


def test_a_metric_is_shown_to_the_digits_that_it_deserves():
    """A thousandth of a share, a hundredth of a millimetre or of a cubic centimetre."""
    assert {one.heading: one.decimals for one in METRICS} == {
        "Dice": 3, "HD95 (mm)": 2, "ASSD (mm)": 2, "NSD": 3, "Volume error (cm³)": 2
    }  # fmt: skip


def test_a_score_may_reach_the_ends_of_its_range():
    none = replace(SCORE, dice=0.0, iou=0.0, nsd=0.0, hd95_mm=0.0, hd_mm=0.0)

    assert (none.dice, none.hd95_mm) == (0, 0)
    assert replace(SCORE, dice=1.0, iou=1.0, nsd=1.0).dice == 1


def test_the_means_of_a_pair_are_those_of_its_columns():
    pair = replace(
        PAIR, case_ids=("c", "d"), first_values=(0.5, 0.7), second_values=(0.75, 0.25)
    )

    assert pair.means == pytest.approx((0.6, 0.5))
