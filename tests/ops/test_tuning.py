"""The choice of a cleaning: better somewhere, worse nowhere, or none at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_bridge.core.cleaning import UNCLEANED, CleaningRule
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.ops.tuning import (
    CANDIDATES,
    MeanChange,
    chosen_rules,
    nested_changes,
    still_good,
    tried,
)

SLICE = CleaningRule("slice")
VOLUME = CleaningRule("volume")
LARGEST = CleaningRule("volume", min_volume_mm3=0.0, keep_largest=1)


def score(case, dice, hd95_mm, state="scored", structure="tibia"):
    return BoneScore(case, structure, "", state, dice, hd95_mm, None, None, 1e3, 1e3)


def folds(*pairs):
    """Return one case a fold, with the (Dice, HD95) given."""
    return {
        str(fold): [score(f"c{fold}", dice, hd95_mm)]
        for fold, (dice, hd95_mm) in enumerate(pairs)
    }


def trial(before, after, rule=VOLUME):
    (only,) = tried(before, after, {"tibia": rule})
    return only


BEFORE = folds((0.9, 5.0), (0.8, 7.0))


@pytest.mark.parametrize(
    "after",
    [
        folds((0.91, 5.0), (0.8, 7.0)),  # Dice in one fold
        folds((0.9, 5.0), (0.8, 6.0)),  # HD95 in one fold
        folds((0.95, 1.0), (0.9, 2.0)),
    ],
)
def test_what_is_better_somewhere_and_worse_nowhere_is_accepted(after):
    assert trial(BEFORE, after).accepted


@pytest.mark.parametrize(
    "after",
    [
        BEFORE,
        folds((0.99, 1.0), (0.79, 7.0)),  # Dice of one fold pays for the other
        folds((0.99, 1.0), (0.8, 7.1)),  # HD95 of one fold pays for the other
        folds((0.99, 5.1), (0.99, 7.1)),  # Dice is bought with HD95
        folds((0.89, 1.0), (0.79, 1.0)),  # HD95 is bought with Dice
    ],
)
def test_what_is_not_better_or_worse_on_any_fold_is_not_accepted(after):
    assert not trial(BEFORE, after).accepted


def test_a_fold_is_judged_by_its_mean_and_not_by_each_case():
    before = {"0": [score("a", 0.9, 5.0), score("b", 0.9, 5.0)]}
    after = {"0": [score("a", 0.99, 5.0), score("b", 0.89, 5.0)]}

    assert trial(before, after).accepted


def test_rounding_is_neither_better_nor_worse():
    after = folds((0.9 + 1e-12, 5.0 - 1e-12), (0.8 - 1e-12, 7.0 + 1e-12))

    found = trial(BEFORE, after)

    assert not found.overall.improves
    assert found.never_worse


def test_a_rule_that_loses_a_structure_is_never_worth_it():
    before = {"0": [score("a", 0.0, 90.0), score("b", 0.9, 5.0)]}
    after = {"0": [score("a", 0.0, None, "missed"), score("b", 0.95, 4.0)]}

    found = trial(before, after)

    assert found.overall.lost == 1
    assert found.overall.hd95_before_mm == 5.0  # the same cases before and after
    assert not found.accepted


def test_removing_what_was_invented_is_an_improvement():
    before = {"0": [score("a", 0.0, None, "invented"), score("b", 0.9, 5.0)]}
    after = {"0": [score("a", None, None, "both_empty"), score("b", 0.9, 5.0)]}

    found = trial(before, after)

    assert (found.overall.dice_before, found.overall.dice_after) == (0.45, 0.95)
    assert found.accepted


def test_a_fold_that_lacks_the_structure_does_not_count():
    nothing = {"1": [score("z", None, None, "both_empty")]}
    before = folds((0.9, 5.0)) | nothing
    after = folds((0.95, 5.0)) | nothing

    found = trial(before, after)

    assert found.folds["1"].dice_before is None
    assert found.accepted


def test_only_the_structures_that_have_a_rule_are_tried():
    before = {"0": [score("a", 0.9, 5.0), score("a", 0.5, 5.0, structure="femur")]}
    after = {"0": [score("a", 0.9, 5.0), score("a", 0.6, 5.0, structure="femur")]}

    (only,) = tried(before, after, {"femur": VOLUME})

    assert (only.structure, only.accepted) == ("femur", True)


def test_scores_of_other_cases_are_refused():
    with pytest.raises(InputError, match=r"Fold 1: tibia was not scored .* in c1"):
        trial(BEFORE, folds((0.9, 5.0)))


def test_the_smallest_distance_wins_then_the_largest_dice_then_the_first():
    good = trial(BEFORE, folds((0.95, 4.0), (0.8, 7.0)), SLICE)
    nearer = trial(BEFORE, folds((0.9, 3.0), (0.8, 7.0)), VOLUME)
    also_nearer = trial(BEFORE, folds((0.91, 3.0), (0.8, 7.0)), LARGEST)

    assert chosen_rules([good, nearer]) == {"tibia": VOLUME}
    assert chosen_rules([good, nearer, also_nearer]) == {"tibia": LARGEST}
    alike = trial(BEFORE, folds((0.9, 3.0), (0.8, 7.0)), LARGEST)
    assert chosen_rules([nearer, alike]) == {"tibia": VOLUME}
    assert chosen_rules([alike, nearer]) == {"tibia": LARGEST}


def test_a_structure_that_no_rule_improves_stays_as_it_is():
    assert chosen_rules([trial(BEFORE, BEFORE, SLICE)]) == {"tibia": UNCLEANED}


def test_a_rule_that_is_not_good_beside_the_others_is_given_up():
    before = {"0": [score("a", 0.9, 5.0), score("a", 0.5, 5.0, structure="femur")]}
    after = {"0": [score("a", 0.8, 5.0), score("a", 0.6, 5.0, structure="femur")]}
    together = tried(before, after, {"tibia": SLICE, "femur": VOLUME})

    assert still_good(together) == {"tibia": UNCLEANED, "femur": VOLUME}


measures = st.tuples(st.floats(0, 1), st.floats(0, 100))


@given(pairs=st.lists(st.tuples(measures, measures), min_size=1, max_size=5))
def test_an_accepted_rule_is_never_worse_on_any_fold(pairs):
    before, after = (folds(*side) for side in zip(*pairs, strict=True))

    found = trial(before, after)

    if found.accepted:
        for (dice, hd95_mm), (new_dice, new_hd95_mm) in pairs:
            assert new_dice >= dice - 1e-9
            assert new_hd95_mm <= hd95_mm + 1e-9


def test_the_record_of_a_trial_holds_the_rule_the_means_and_every_fold():
    content = trial(BEFORE, folds((0.95, 4.0), (0.8, 7.0)), LARGEST).as_json()

    assert (content["rule"], content["keep_largest"]) == ("volume", 1)
    assert content["dice_before"] == pytest.approx(0.85)
    assert content["dice_after"] == pytest.approx(0.875)
    assert (content["hd95_before_mm"], content["hd95_after_mm"]) == (6.0, 5.5)
    assert content["accepted"]
    assert content["folds"]["0"]["dice_after"] == 0.95


def test_no_candidate_is_tried_twice():
    assert len(set(CANDIDATES)) == len(CANDIDATES)
    assert UNCLEANED not in CANDIDATES


@pytest.mark.parametrize(("gain", "counts"), [(1e-9, False), (1.1e-9, True)])
def test_means_that_differ_by_a_billionth_are_equal(gain, counts):
    nearer = MeanChange(None, None, gain, 0.0, lost=0)
    higher = MeanChange(0.0, gain, None, None, lost=0)

    assert nearer.improves == higher.improves == counts
    assert MeanChange(gain, 0.0, None, None, lost=0).worsens == counts
    assert MeanChange(None, None, 0.0, gain, lost=0).worsens == counts


def test_a_distance_that_only_one_side_has_is_in_no_mean():
    before = {"0": [score("a", 0.5, 5.0), score("b", 0.0, None, "invented")]}
    after = {"0": [score("a", 0.6, 4.0), score("b", 0.0, None, "invented")]}

    found = trial(before, after).overall

    assert (found.hd95_before_mm, found.hd95_after_mm) == (5.0, 4.0)


def test_the_candidates_go_from_the_mildest_to_the_strictest():
    texts = [rule.as_text() for rule in CANDIDATES]

    assert [rule.min_volume_mm3 for rule in CANDIDATES[1:5]] == [100, 500, 1000, 5000]
    for rule in CANDIDATES[5:]:
        assert rule.min_volume_mm3 == 0  # a piece is kept whatever its size
    assert [rule.keep_largest for rule in CANDIDATES[5:]] == [2, 1, 1]
    assert [rule.each_side for rule in CANDIDATES[5:]] == [False, True, False]
    assert texts[0].startswith("slice")


def test_a_fold_takes_no_part_in_the_choice_that_it_tests():
    """Only the first fold gains by the rule, so only the others would choose it."""
    after = folds((0.95, 5.0), (0.8, 7.0))

    found = nested_changes(BEFORE, [after], [{"tibia": VOLUME}])["tibia"]

    assert chosen_rules([trial(BEFORE, after)]) == {"tibia": VOLUME}
    assert (found.dice_before, found.dice_after) == pytest.approx((0.85, 0.85))
