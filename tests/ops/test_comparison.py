"""The comparison against scipy, closed forms, and its own promises."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nnunet_bridge.core.comparison import ALL_STRUCTURES
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.ops.comparison import compare_models, verdict
from nnunet_bridge.ops.paired import (
    clustered_intervals,
    holm,
    rank_biserial,
    signed_rank_p,
    smallest_p,
)

STRUCTURES = ("tibia", "femur")
distinct = st.lists(
    st.integers(-1000, 1000).filter(bool), min_size=1, max_size=25, unique_by=abs
)


def score(  # noqa: PLR0913 - the fields of a score
    case, structure, model, dice, *, state="scored", hd95=3.0, volume=1100.0
):
    hd95 = hd95 if state == "scored" else None
    return BoneScore(case, structure, model, state, dice, hd95, hd95, dice, 1e3, volume)


def models(*shifts, cases=8, spread=0.01, seed=1):
    """Return scores of models m0, m1, ...: the same cases, shifted in Dice."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0, 0.05, cases)
    return {
        f"m{number}": [
            score(f"c{case}", name, f"m{number}", dice)
            for case in range(cases)
            for name in STRUCTURES
            for dice in [0.8 + difficulty[case] + shift + rng.normal(0, spread)]
        ]
        for number, shift in enumerate(shifts)
    }


def own_patients(scores):
    return {
        one.case_id: f"p-{one.case_id}" for found in scores.values() for one in found
    }


def compared(scores, patients=None):
    return compare_models(scores, patients=patients or own_patients(scores))


# ------------------------------------------------------------------------- kernels


@given(distinct)
def test_p_is_scipys_exact_p_where_no_two_ranks_are_tied(differences):
    expected = stats.wilcoxon(differences, method="exact").pvalue

    assert signed_rank_p(differences) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_p_with_ties_is_the_share_of_sign_patterns_at_least_as_extreme(differences):
    values = [value for value in differences if value]
    ranks = stats.rankdata(np.abs(values)) if values else []
    sums = [
        sum(rank for rank, up in zip(ranks, signs, strict=True) if up)
        for signs in product([False, True], repeat=len(values))
    ]
    centre = sum(ranks) / 2
    observed = sum(rank for rank, value in zip(ranks, values, strict=True) if value > 0)
    distances = np.abs(np.array(sums) - centre)
    share = np.mean(distances >= abs(observed - centre) - 1e-9)

    assert signed_rank_p(differences) == pytest.approx(share)


@pytest.mark.parametrize(("pairs", "least"), [(3, 0.25), (5, 0.0625), (6, 0.03125)])
def test_the_smallest_p_of_so_many_pairs_is_reached_by_one_sided_differences(
    pairs, least
):
    assert signed_rank_p(range(1, pairs + 1)) == smallest_p(pairs) == least


@given(distinct)
def test_the_effect_is_the_rank_sum_for_minus_the_rank_sum_against(differences):
    ranks = stats.rankdata(np.abs(differences))
    signed = np.sum(ranks * np.sign(differences)) / ranks.sum()

    assert rank_biserial(differences) == pytest.approx(signed)


def test_differences_that_are_equal_but_for_rounding_share_a_rank():
    noisy = [0.9 - 0.8, 0.8 - 0.7, -(0.5 - 0.4)]

    assert rank_biserial(noisy) == pytest.approx(1 / 3)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_never_exceeds_one_and_keeps_the_order():
    corrected = holm([0.9, 0.5, 0.8])

    assert corrected == [1.0, 1.0, 1.0]


def test_five_patients_are_too_few_for_an_interval_and_six_are_enough():
    """The range of five values covers their median in 93.75 % of all samples."""
    assert clustered_intervals([1, 2, 3, 4, 10], list("abcde")) is None
    assert clustered_intervals([1, 2, 3, 4, 10] * 2, list("abcde") * 2) is None

    low, high = clustered_intervals([1, 2, 3, 4, 5, 10], list("abcdef")).median

    assert 1 <= low < 3.5 < high <= 10


def test_copies_of_a_patients_case_do_not_narrow_the_interval():
    values, patients = [1.0, 2.0, 4.0, 8.0, 9.0, 11.0], list("abcdef")

    once = clustered_intervals(values, patients)
    thrice = clustered_intervals(values * 3, patients * 3)

    assert thrice.mean == pytest.approx(once.mean)


def test_one_patient_has_no_interval():
    assert clustered_intervals([1, 2, 3], ["a", "a", "a"]) is None


@pytest.mark.parametrize("kind", ["median", "mean"])
def test_intervals_of_twenty_patients_cover_the_truth_about_95_times_in_100(kind):
    rng = np.random.default_rng(11)
    patients = [str(number) for number in range(20)]
    trials = 400

    covered = 0
    for _ in range(trials):
        found = clustered_intervals(rng.normal(0, 1, 20), patients, resamples=1000)
        low, high = getattr(found, kind)
        covered += low <= 0 <= high

    assert 0.92 <= covered / trials <= 0.98


# ---------------------------------------------------------------------- comparison


def test_a_difference_is_second_minus_first_and_says_whom_it_favours():
    comparison = compared(models(0.0, 0.02))

    row = comparison.row("dice", "tibia")

    assert (row.first, row.second, row.favours) == ("m0", "m1", "m1")
    assert row.median_difference == pytest.approx(np.median(row.differences))
    assert row.mean_difference == pytest.approx(np.mean(row.differences))
    assert row.interval_95[0] <= row.median_difference <= row.interval_95[1]


def test_lower_distances_are_better_and_volume_errors_rank_nobody():
    scores = {
        name: [
            score(f"c{n}", "tibia", name, 0.9, hd95=hd95 + n / 10, volume=1000 + hd95)
            for n in range(6)
        ]
        for name, hd95 in (("m0", 5.0), ("m1", 3.0))
    }

    comparison = compared(scores)

    assert comparison.row("hd95_mm").favours == "m1"
    assert comparison.row("volume_error_cm3").median_difference < 0
    assert comparison.row("volume_error_cm3").favours == ""


def test_all_structures_is_the_mean_over_the_structures_of_each_case():
    comparison = compared(models(0.0, 0.02))

    total = comparison.row("dice", ALL_STRUCTURES)
    each = [comparison.row("dice", name).second_values for name in STRUCTURES]

    np.testing.assert_allclose(total.second_values, np.mean(each, axis=0))


def test_holm_runs_over_every_row_of_the_comparison():
    comparison = compared(models(0.0, 0.02))

    tested = [row for row in comparison.rows if row.p is not None]
    expected = holm([row.p for row in tested])

    assert [row.p_holm for row in tested] == expected


def test_the_same_seed_gives_the_same_comparison():
    assert compared(models(0.0, 0.02)) == compared(models(0.0, 0.02))


def test_the_test_uses_one_difference_a_patient():
    scores = models(0.0, 0.02, cases=8)
    patients = {f"c{n}": f"p{n // 2}" for n in range(8)}

    row = compared(scores, patients).row("dice")

    assert (row.n, row.patients) == (8, 4)
    assert row.p >= smallest_p(4)


def test_cases_that_only_one_model_has_are_named_and_not_compared():
    scores = models(0.0, 0.02, cases=6)
    scores["m1"] = [one for one in scores["m1"] if one.case_id != "c3"]

    comparison = compared(scores)

    assert "c3" not in comparison.case_ids
    assert comparison.left_out == (("c3", "m0"),)
    assert comparison.row("dice").n == 5


def test_a_missed_structure_counts_as_dice_0_but_has_no_distance():
    scores = models(0.0, 0.02, cases=6)
    scores["m0"][0] = score("c0", "tibia", "m0", 0.0, state="missed")

    comparison = compared(scores)

    assert 0.0 in comparison.row("dice", "tibia").first_values
    assert comparison.row("hd95_mm", "tibia").left_out == ("c0",)
    assert comparison.misses[0].missed == 1


def test_a_structure_that_is_nowhere_says_nothing():
    scores = {
        name: [score("c0", "tibia", name, None, state="both_empty")]
        for name in ("m0", "m1")
    }

    row = compared(scores).row("dice", "tibia")

    assert (row.state, row.n, row.p, row.interval_95) == ("absent", 0, None, None)


@pytest.mark.parametrize(
    ("second", "state", "p", "effect"),
    [([0.5] * 6, "identical", 1.0, 0.0), ([0.75] * 6, "constant", 0.03125, 1.0)],
)
def test_differences_without_spread_have_a_test_but_no_interval(
    second, state, p, effect
):
    scores = {
        name: [score(f"c{n}", "tibia", name, dice) for n, dice in enumerate(values)]
        for name, values in (("m0", [0.5] * 6), ("m1", second))
    }

    row = compared(scores).row("dice", "tibia")

    assert (row.state, row.p, row.effect) == (state, p, effect)
    assert row.interval_95 is None


def test_one_pair_has_a_difference_and_nothing_more():
    row = compared(models(0.0, 0.02, cases=1)).row("dice")

    assert row.state == "too_few"
    assert row.median_difference is not None
    assert (row.p, row.effect, row.interval_95) == (None, None, None)


def test_cases_of_one_patient_have_no_interval_and_no_test():
    scores = models(0.0, 0.02, cases=4)

    row = compared(scores, {f"c{n}": "p" for n in range(4)}).row("dice")

    assert (row.state, row.p, row.interval_95) == ("one_patient", None, None)


def test_two_scores_for_one_case_are_refused_and_named():
    scores = models(0.0, 0.02)
    scores["m1"].append(scores["m1"][0])

    with pytest.raises(InputError, match=r"m1 has two scores .* c0"):
        compared(scores)


def test_a_case_without_a_patient_is_refused_and_named():
    scores = models(0.0, 0.02, cases=2)

    with pytest.raises(InputError, match="patients of c1"):
        compared(scores, {"c0": "p"})


def test_three_models_are_compared_in_all_pairs():
    comparison = compared(models(0.0, 0.02, 0.05))

    pairs = {(row.first, row.second) for row in comparison.rows}

    assert pairs == {("m0", "m1"), ("m0", "m2"), ("m1", "m2")}
    assert comparison.row("dice", pair=2).second == "m2"


def test_a_row_or_mean_nobody_computed_is_a_key_error():
    comparison = compared(models(0.0, 0.02))

    with pytest.raises(KeyError):
        comparison.row("dice", "skull")
    with pytest.raises(KeyError):
        comparison.mean("m0", "skull", "dice")


# ------------------------------------------------------------------------- verdict


def test_a_clear_difference_in_enough_patients_has_a_winner():
    found = verdict(compared(models(0.0, 0.05, cases=10)))

    assert found.winner == "m1"
    assert "m1 is better than m0 on Dice" in found.sentences[0]
    assert "95 % interval" in str(found)


def test_the_winner_may_be_the_first_model():
    assert verdict(compared(models(0.05, 0.0, cases=10))).winner == "m0"


def test_five_patients_cannot_decide_however_clear_they_look():
    found = verdict(compared(models(0.0, 0.2, cases=5)))

    assert found.winner == ""
    assert "no two-sided p below 0.0625" in found.sentences[1]


def test_no_difference_is_not_called_equality():
    found = verdict(compared(models(0.0, 0.0, cases=12)))

    assert found.winner == ""
    assert "not proof of equality" in found.sentences[1]


def test_a_smoke_run_names_no_winner():
    found = verdict(compared(models(0.0, 0.05, cases=10)), caveat="only a smoke run")

    assert found.winner == ""
    assert found.sentences[0] == "No verdict: only a smoke run."


def test_of_three_models_the_best_two_are_weighed():
    found = verdict(compared(models(0.1, 0.0, 0.2, cases=10)))

    assert found.winner == "m2"
    assert "than m0" in found.sentences[0]


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (models(0.0), "m0 was scored alone"),
        ({}, "no model was scored alone"),
        (models(0.0, 0.02, cases=1), "One patient shows no spread"),
    ],
)
def test_what_cannot_be_compared_is_said(scores, words):
    assert words in str(verdict(compared(scores, {"c0": "p", **own_patients(scores)})))


def test_models_without_a_common_value_are_undecided():
    scores = {
        name: [score("c0", "tibia", name, None, state="both_empty")]
        for name in ("m0", "m1")
    }

    assert "share no case" in str(verdict(compared(scores)))


@pytest.mark.parametrize(
    ("second", "words"), [(0.5, "the same Dice in every case"), (0.75, "same in every")]
)
def test_differences_without_spread_are_said_to_have_none(second, words):
    scores = {
        name: [score(f"c{n}", "tibia", name, dice) for n in range(8)]
        for name, dice in (("m0", 0.5), ("m1", second))
    }

    assert words in str(verdict(compared(scores)))
