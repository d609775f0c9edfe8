"""The comparison against scipy, closed forms, and its own promises."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from nnunet_bridge.core.comparison import ALL_STRUCTURES, margins_from
from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.ops.agreement import limits_of_agreement
from nnunet_bridge.ops.comparison import compare_models
from nnunet_bridge.ops.paired import (
    clustered_intervals,
    detectable_difference,
    equivalence,
    fold_intervals,
    holm,
    rank_biserial,
    signed_rank_p,
    smallest_p,
)
from nnunet_bridge.ops.verdict import verdict

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
            for dice in [0.6 + difficulty[case] + shift + rng.normal(0, spread)]
        ]
        for number, shift in enumerate(shifts)
    }


def own_patients(scores):
    return {
        one.case_id: f"p-{one.case_id}" for found in scores.values() for one in found
    }


def compared(scores, patients=None, **margins):
    return compare_models(
        scores, patients=patients or own_patients(scores), margins=margins
    )


# ------------------------------------------------------------------------- kernels


@given(distinct)
def test_p_is_scipys_exact_p_where_no_two_ranks_are_tied(differences):
    expected = stats.wilcoxon(differences, method="exact").pvalue

    assert signed_rank_p(differences) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
@example([-1, -1, -2, 3])  # the rank sums 4 and 4.5 follow each other
@example([1, 1, 2, -3])
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


@pytest.mark.parametrize(("apart", "effect"), [(4e-13, 0.0), (2e-12, -1 / 3)])
def test_differences_are_equal_to_twelve_decimals(apart, effect):
    assert rank_biserial([0.1, -0.1 - apart]) == pytest.approx(effect)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40, unique=True))
def test_holm_is_its_definition_the_largest_step_up_to_each_rank(p_values):
    """Holm 1979 in closed form: the maximum over all smaller p of (m - j + 1) p_(j)."""
    ordered = sorted(p_values)
    steps = [(len(ordered) - j) * p for j, p in enumerate(ordered)]
    expected = [min(1, max(steps[: ordered.index(p) + 1])) for p in p_values]

    assert holm(p_values) == pytest.approx(expected)
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_five_patients_are_too_few_for_an_interval_and_six_are_enough():
    """The range of five values covers their median in 93.75 % of all samples."""
    assert clustered_intervals([1, 2, 3], ["a", "a", "a"]) is None
    assert clustered_intervals([1, 2, 3, 4, 10], list("abcde")) is None
    assert clustered_intervals([1, 2, 3, 4, 10] * 2, list("abcde") * 2) is None

    low, high = clustered_intervals([1, 2, 3, 4, 5, 10], list("abcdef")).median

    assert 1 <= low < 3.5 < high <= 10


def test_copies_of_a_patients_case_do_not_narrow_the_interval():
    values, patients = [1.0, 2.0, 4.0, 8.0, 9.0, 11.0], list("abcdef")

    once = clustered_intervals(values, patients)
    thrice = clustered_intervals(values * 3, patients * 3)

    assert thrice.mean == pytest.approx(once.mean)


def test_every_difference_belongs_to_a_patient():
    with pytest.raises(ValueError, match="shorter"):
        clustered_intervals([1, 2, 3], ["a", "b"])


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


def test_intervals_of_patients_with_two_cases_cover_the_truth_as_often():
    """Two cases of a patient share most of their error; resampling cases would not."""
    rng = np.random.default_rng(12)
    patients = [str(number // 2) for number in range(40)]
    trials = 400

    covered = narrow = 0
    for _ in range(trials):
        values = np.repeat(rng.normal(0, 1, 20), 2) + rng.normal(0, 0.2, 40)
        low, high = clustered_intervals(values, patients, resamples=1000).mean
        covered += low <= 0 <= high
        alone = [str(number) for number in range(40)]
        low, high = clustered_intervals(values, alone, resamples=1000).mean
        narrow += low <= 0 <= high

    assert 0.92 <= covered / trials <= 0.98
    assert narrow / trials < 0.90


@pytest.mark.parametrize("kind", ["median", "mean"])
def test_intervals_are_scipys_percentile_bootstrap(kind):
    """Of the mean: with the tail widened as Hesterberg 2015 gives it."""
    values = np.random.default_rng(7).gamma(2, 1, 24)
    reach = stats.t.ppf(0.975, 23) * np.sqrt(24 / 23)
    level = {"median": 0.95, "mean": 1 - 2 * stats.norm.cdf(-reach)}[kind]
    expected = stats.bootstrap(
        (values,),
        getattr(np, kind),
        confidence_level=level,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(8),
    ).confidence_interval

    found = getattr(
        clustered_intervals(values, [str(n) for n in range(24)], resamples=20_000), kind
    )

    assert found == pytest.approx(tuple(expected), abs=0.03 * values.std())


# ----------------------------------------------------------------------- agreement

finite = st.lists(st.floats(-100, 100), min_size=2, max_size=30)


@given(finite)
def test_bias_and_its_interval_are_scipys_mean_and_t_interval(differences):
    found = limits_of_agreement(differences)
    mean, error = np.mean(differences), stats.sem(differences)
    low, high = stats.t.interval(0.95, len(differences) - 1, mean, error or 1e-300)

    assert found.bias == pytest.approx(mean, abs=1e-9)
    assert found.bias_interval_95 == pytest.approx((low, high), abs=1e-6)


def test_limits_are_those_of_bland_and_altman_1999():
    """Their systolic pressures: 85 pairs, mean -16.29, SD 19.61 mmHg."""
    unit = stats.norm.ppf((np.arange(85) + 0.5) / 85)
    differences = -16.29 + 19.61 * (unit - unit.mean()) / unit.std(ddof=1)

    found = limits_of_agreement(differences)

    assert found.limits == pytest.approx((-54.7, 22.1), abs=0.06)
    assert found.bias_interval_95 == pytest.approx((-20.5, -12.1), abs=0.06)
    assert found.lower_interval_95 == pytest.approx((-61.9, -47.5), abs=0.15)
    assert found.upper_interval_95 == pytest.approx((14.9, 29.3), abs=0.15)


def test_limits_of_three_differences_are_those_of_the_closed_form():
    """Of -1, 0 and 1 the variance with n - 1 is 1, with n it is 2/3."""
    z, t = stats.norm.ppf(0.975), stats.t.ppf(0.975, 2)

    found = limits_of_agreement([-1.0, 0.0, 1.0])

    assert found.limits == pytest.approx((-z, z))
    assert found.bias_interval_95[1] == pytest.approx(t * np.sqrt(1 / 3))
    reach = t * np.sqrt(1 / 3 + z**2 / (2 * 2))
    assert found.upper_interval_95 == pytest.approx((z - reach, z + reach))
    assert found.lower_interval_95 == pytest.approx((-z - reach, -z + reach))


def test_one_difference_has_no_limits_and_equal_ones_have_no_width():
    assert limits_of_agreement([1.0]) is None
    assert limits_of_agreement([]) is None
    assert limits_of_agreement([2.0, 2.0, 2.0]).limits == (2.0, 2.0)


def test_volumes_agree_by_prediction_minus_reference_in_cubic_centimetres():
    scores = {
        "m0": [
            score(f"c{n}", "tibia", "m0", 0.9, volume=1000.0 + 500 * n)
            for n in range(4)
        ]
    }

    (found,) = compared(scores).agreements

    assert found.differences_cm3 == pytest.approx((0.0, 0.5, 1.0, 1.5))
    assert found.means_cm3 == pytest.approx((1.0, 1.25, 1.5, 1.75))
    assert found.bias_cm3 == pytest.approx(0.75)
    assert found.bias_interval_95 is not None


def test_limits_of_cases_of_the_same_patient_have_no_interval():
    """Their differences are not independent, which Student's t takes for granted."""
    scores = {"m0": [score(f"c{n}", "tibia", "m0", 0.9, volume=n) for n in range(4)]}

    (found,) = compared(scores, {f"c{n}": f"p{n // 2}" for n in range(4)}).agreements

    assert found.limits_cm3 is not None
    assert found.bias_interval_95 is None


def test_a_missed_structure_is_a_volume_error_and_an_absent_one_is_none():
    scores = {
        "m0": [
            score("c0", "tibia", "m0", 0.0, state="missed", volume=0.0),
            score("c1", "tibia", "m0", None, state="both_empty", volume=0.0),
        ]
    }

    (found,) = compared(scores).agreements

    assert (found.case_ids, found.differences_cm3) == (("c0",), (-1.0,))
    assert found.limits_cm3 is None


def test_of_several_trainings_the_volume_of_the_first_is_compared():
    first = score("c0", "tibia", "m0", 0.9, volume=1100.0)
    later = replace(first, repeat=1, volume_prediction_mm3=1900.0)

    (found,) = compared({"m0": [first, later]}).agreements

    assert found.differences_cm3 == pytest.approx((0.1,))


def test_volumes_of_models_side_by_side_are_of_the_same_cases():
    """What one model invents, the other rightly leaves empty: an error of 0."""
    empty, invented = (0.0, "both_empty"), (300.0, "invented")
    scores = {
        name: [
            score("c0", "tibia", name, 0.9),
            replace(
                score("c1", "tibia", name, dice, state=state, volume=volume),
                volume_reference_mm3=0.0,
            ),
        ]
        for name, dice, (volume, state) in (("m0", None, empty), ("m1", 0.0, invented))
    }

    first, second = compared(scores).agreements

    assert first.case_ids == second.case_ids == ("c0", "c1")
    assert first.differences_cm3 == pytest.approx((0.1, 0.0))
    assert second.differences_cm3 == pytest.approx((0.1, 0.3))


# --------------------------------------------------------------------- equivalence


@given(low=st.floats(-1, 1), width=st.floats(0, 1), margin=st.floats(0.01, 1))
def test_the_answer_to_a_margin_turns_with_the_sign_and_never_with_the_unit(
    low, width, margin
):
    high = low + width
    found = equivalence((low, high), margin)

    assert found == equivalence((-high, -low), margin)
    assert found == equivalence((low * 8, high * 8), margin * 8)


def test_a_wider_margin_never_takes_equivalence_back():
    answers = [equivalence((-0.004, 0.008), margin / 1000) for margin in range(1, 20)]

    assert answers == ["undecided"] * 8 + ["equivalent"] * 11


def test_equivalence_is_declared_of_truly_different_models_in_at_most_5_of_100():
    """The true difference is the margin itself, where the error is largest."""
    rng = np.random.default_rng(13)
    patients = [str(number) for number in range(20)]
    declared = sum(
        equivalence(
            clustered_intervals(rng.normal(1, 1, 20), patients, resamples=500).median, 1
        )
        == "equivalent"
        for _ in range(400)
    )

    assert declared / 400 <= 0.05


@pytest.mark.parametrize(
    ("shift", "margin", "answer"),
    [(0.1, 0.01, "better"), (-0.1, 0.01, "worse"), (0.0, 0.05, "equivalent"),
     (0.0, 0.0001, "undecided"), (0.1, 0.5, "equivalent")],
)  # fmt: skip
def test_the_second_model_is_better_worse_equivalent_or_undecided(
    shift, margin, answer
):
    comparison = compared(models(0.0, shift, cases=12), dice=margin)

    row = comparison.row("dice")

    assert (row.answer, row.margin) == (answer, margin)
    assert comparison.row("nsd").answer is None


def test_fewer_distance_is_better_and_a_volume_shift_ranks_nobody():
    scores = {
        name: [
            score(f"c{n}", "tibia", name, 0.9, hd95=hd95 + n / 10, volume=900 + hd95)
            for n in range(12)
        ]
        for name, hd95 in (("m0", 5.0), ("m1", 3.0))
    }

    comparison = compared(scores, hd95_mm=0.1, volume_error_cm3=0.0001)

    distance, volume = comparison.row("hd95_mm"), comparison.row("volume_error_cm3")
    assert (distance.answer, distance.favours) == ("better", "m1")
    assert (volume.answer, volume.favours) == ("undecided", "")
    assert volume.median_difference < 0


@pytest.mark.parametrize(
    ("second", "cases", "answer"),
    [(0.5, 8, "equivalent"), (0.75, 8, "undecided"), (0.75, 12, "better"),
     (0.5, 5, "undecided")],
)  # fmt: skip
def test_differences_without_spread_are_judged_by_their_one_value(
    second, cases, answer
):
    """Eight equal differences have p 0.0078, which Holm's correction takes away."""
    scores = {
        name: [score(f"c{n}", "tibia", name, dice) for n in range(cases)]
        for name, dice in (("m0", 0.5), ("m1", second))
    }

    assert compared(scores, dice=0.01).row("dice").answer == answer


def test_margins_are_read_with_short_names():
    words = ["dice=0.01", "HD95=0.5", "assd = 1", "volume=2e-1"]

    assert margins_from(words) == {
        "dice": 0.01,
        "hd95_mm": 0.5,
        "assd_mm": 1.0,
        "volume_error_cm3": 0.2,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [(["iou=1"], "Unknown metric"), (["dice"], "positive number"),
     (["dice=-1"], "positive number"), (["dice=nan"], "positive number"),
     (["hd95=1", "hd95_mm=2"], "given twice")],
)  # fmt: skip
def test_a_margin_that_is_none_is_refused_and_shown(words, message):
    with pytest.raises(UsageError, match=message):
        margins_from(words)


# --------------------------------------------------------------------------- ranks


def test_ranks_are_scipys_within_each_case_and_add_up():
    comparison = compared(models(0.0, 0.02, 0.05, cases=9))
    table = np.array(
        [
            comparison.row("dice", pair=0).first_values,
            comparison.row("dice", pair=0).second_values,
            comparison.row("dice", pair=1).second_values,
        ]
    )
    expected = stats.rankdata(-table, axis=0).mean(axis=1)

    found = [rank for rank in comparison.ranks if rank.metric == "dice"]

    assert [rank.mean_rank for rank in found] == pytest.approx(expected)
    assert sum(rank.mean_rank for rank in found) == pytest.approx(6)
    assert {rank.n for rank in found} == {9}


def test_equal_models_share_their_rank_and_the_first_place():
    found = compared({name: models(0.0)["m0"] for name in ("a", "b")}).ranks

    assert {(rank.mean_rank, rank.firsts) for rank in found} == {(1.5, 8)}


def test_the_smaller_volume_error_ranks_first_whatever_its_sign():
    scores = {
        name: [score("c0", "tibia", name, 0.9, volume=volume)]
        for name, volume in (("m0", 900.0), ("m1", 1050.0))
    }

    ranks = compared(scores).ranks

    assert [r.mean_rank for r in ranks if r.metric == "volume_error_cm3"] == [2.0, 1.0]


# ---------------------------------------------------------------------- comparison


def test_a_difference_is_second_minus_first_and_says_whom_it_favours():
    comparison = compared(models(0.0, 0.02))

    row = comparison.row("dice", "tibia")

    assert (row.first, row.second, row.favours) == ("m0", "m1", "m1")
    assert row.median_difference == pytest.approx(np.median(row.differences))
    assert row.mean_difference == pytest.approx(np.mean(row.differences))
    assert row.interval_95[0] <= row.median_difference <= row.interval_95[1]


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


def held(state, model, dice=0.8, hd95=3.0, case="c0", structure="fibula"):
    """Return a score of any state, as `score` reports it."""
    known = {"scored": dice, "missed": 0.0, "invented": 0.0}.get(state)
    hd95 = hd95 if state == "scored" else None
    drawn = 1000.0 if state in ("scored", "missed") else 0.0
    found = 1000.0 if state in ("scored", "invented") else 0.0
    return BoneScore(
        case, structure, model, state, known, hd95, hd95, known, drawn, found
    )


@pytest.mark.parametrize(
    ("first", "second", "dice", "distances"),
    [
        ("scored", "scored", (0.8, 0.8), (3.0, 3.0)),
        ("missed", "scored", (0.0, 0.8), (np.inf, 3.0)),
        ("missed", "missed", (0.0, 0.0), (np.inf, np.inf)),
        ("both_empty", "invented", (1.0, 0.0), (0.0, np.inf)),
        ("invented", "invented", (0.0, 0.0), (np.inf, np.inf)),
        ("both_empty", "both_empty", None, None),
        ("not_drawn", "not_drawn", None, None),
        ("not_drawn", "invented", None, None),
    ],
)
def test_a_structure_counts_where_the_reference_or_any_model_holds_it(
    first, second, dice, distances
):
    comparison = compared({"m0": [held(first, "m0")], "m1": [held(second, "m1")]})

    for metric, expected in (("dice", dice), ("nsd", dice), ("hd95_mm", distances)):
        row = comparison.row(metric, "fibula")
        assert row.n == (expected is not None)
        if expected is not None:
            assert (*row.first_values, *row.second_values) == expected


def test_a_third_model_that_invents_makes_the_silence_of_two_others_right():
    scores = {
        name: [held(state, name)]
        for name, state in (("a", "both_empty"), ("b", "both_empty"), ("c", "invented"))
    }

    row = compared(scores).row("dice", "fibula", pair=0)

    assert (row.first, row.second, row.first_values) == ("a", "b", (1.0,))


def with_failures(failed, cases=12):
    """Return a model that misses the fibula of `failed` cases, and one that never does.

    In the other cases the first has the smaller distance.
    """
    return {
        name: [
            held("missed" if n < failed[name] else "scored", name, 0.8, hd95, f"c{n}")
            for n in range(cases)
            for hd95 in [base + n / 10]
        ]
        for name, base in (("m0", 2.0), ("m1", 2.2))
    }


def test_a_failure_is_further_than_any_distance_and_has_no_mean():
    comparison = compared(with_failures({"m0": 3, "m1": 0}), hd95_mm=1.0)

    row = comparison.row("hd95_mm", "fibula")

    assert min(row.differences) == -np.inf
    assert (row.failures, row.n, row.n_means) == ((3, 0), 12, 9)
    assert row.means == pytest.approx((2.7, 2.9))
    assert row.mean_difference is row.mean_interval_95 is None
    assert row.answer == "undecided"
    # three infinite differences rank 11 each, nine equal ones 5
    assert row.effect == pytest.approx((9 * 5 - 3 * 11) / 78)
    assert comparison.mean("m0", "fibula", "hd95_mm").n_failed == 3
    assert comparison.mean("m1", "fibula", "hd95_mm").mean == pytest.approx(2.9)


def test_one_failing_structure_makes_the_distance_of_the_case_a_failure():
    scores = with_failures({"m0": 1, "m1": 0}, cases=7)
    for name, found in scores.items():
        found += [
            held("scored", name, case=f"c{n}", structure="tibia") for n in range(7)
        ]

    row = compared(scores).row("hd95_mm")

    assert row.first_values[0] == np.inf
    assert np.isfinite(row.first_values[1:]).all()
    assert row.failures == (1, 0)


def test_two_failures_are_a_tie_and_no_evidence():
    row = compared(with_failures({"m0": 12, "m1": 12})).row("hd95_mm", "fibula")

    assert (row.state, row.p, row.means) == ("identical", 1.0, (None, None))


def test_a_model_that_invents_a_structure_everywhere_does_not_win():
    """The fibula is absent in all references; m1 draws it, and is a little better."""
    scores = models(0.0, 0.004, cases=12, spread=0.0001)
    for name, state in (("m0", "both_empty"), ("m1", "invented")):
        scores[name] += [held(state, name, case=f"c{n}") for n in range(12)]

    found = compared(scores)

    assert verdict(found).winner == "m0"
    assert [(one.model, one.invented, one.n) for one in found.misses] == [
        ("m1", 12, 12)
    ]


def test_equivalent_asks_equal_counts_of_failures():
    equal = with_failures({"m0": 1, "m1": 1})
    unequal = with_failures({"m0": 1, "m1": 0})

    assert compared(equal, dice=0.01).row("dice", "fibula").answer == "equivalent"
    assert compared(unequal, dice=0.9).row("dice", "fibula").answer == "undecided"


@pytest.mark.parametrize("shift", [-0.004, 0.0, 0.004])
def test_a_difference_within_the_margin_is_named_if_its_interval_leaves_out_0(shift):
    found = compared(models(0.0, shift, cases=12, spread=0.001), dice=0.02)

    low, high = found.row("dice").interval_95
    text = str(verdict(found))
    assert found.row("dice").answer == "equivalent"
    assert (low > 0 or high < 0) == bool(shift)
    assert ("a smaller difference exists" in text) == bool(shift)


def test_a_large_loss_in_a_quarter_of_patients_is_not_equivalent():
    """The median of the differences is nearly 0, their mean is -0.125."""
    scores = models(0.0, 0.0, cases=12, spread=0.0001)
    for n in (0, 4, 8):
        for place in (2 * n, 2 * n + 1):
            lost = scores["m1"][place]
            scores["m1"][place] = score(
                lost.case_id, lost.structure, "m1", lost.dice - 0.5
            )

    row = compared(scores, dice=0.01).row("dice")

    assert abs(row.median_difference) < 0.001
    assert row.answer == "undecided"


def test_a_structure_that_one_table_calls_not_drawn_fails_in_no_other():
    scores = {
        "m0": [score("c0", "fibula", "m0", None, state="not_drawn", volume=0.0)],
        "m1": [score("c0", "fibula", "m1", 0.0, state="invented", volume=300.0)],
    }

    found = compared(scores)

    assert found.misses == ()
    assert found.row("dice", "fibula").n == 0


def test_equivalent_asks_the_interval_of_the_mean_where_that_of_the_median_is_within():
    """A fifth of 20 patients loses 0.5: half of a sample of patients never does."""
    scores = models(0.0, 0.0, cases=20, spread=0.0001)
    scores["m1"] = [
        replace(one, dice=one.dice - 0.5) if int(one.case_id[1:]) % 5 == 0 else one
        for one in scores["m1"]
    ]

    row = compared(scores, dice=0.01).row("dice")

    assert -0.01 < row.interval_95[0] < row.interval_95[1] < 0.01
    assert row.mean_interval_95[0] < -0.1
    assert row.answer == "undecided"


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


def test_two_pairs_are_enough_for_a_test():
    row = compared(models(0.0, 0.02, cases=2)).row("dice")

    assert (row.state, row.n) == ("compared", 2)
    assert row.p >= smallest_p(2) == 0.5


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


def test_the_volume_error_of_an_absent_structure_is_what_is_drawn_of_it():
    """The rightly silent m0 has 0 cm3, m1 invents 1 cm3."""
    silent, invents = held("both_empty", "m0"), held("invented", "m1")

    row = compared({"m0": [silent], "m1": [invents]}).row("volume_error_cm3", "fibula")

    assert (row.first_values, row.second_values) == ((0.0,), (1.0,))
    assert invents.volume_error_percent is invents.volume_error_abs_percent is None
    assert held("missed", "m0").volume_error_percent == -100.0


# --------------------------------------------------------------------------- power


def test_six_patients_show_what_makes_all_six_differences_positive():
    """Only then is p below 0.05: 80 % = Phi(shift)^6, for a standard deviation of 1."""
    six = np.array([-1, -1, -1, 1, 1, 1]) / np.std([-1, -1, -1, 1, 1, 1], ddof=1)

    expected = stats.norm.ppf(0.8 ** (1 / 6))

    assert detectable_difference(six) == pytest.approx(expected, rel=0.03)
    assert detectable_difference(7 * six) == pytest.approx(7 * expected, rel=0.03)


@pytest.mark.parametrize(("patients", "most_negative"), [(20, 5), (50, 17)])
def test_many_patients_show_what_keeps_the_interval_of_the_median_above_0(
    patients, most_negative
):
    """The bootstrap's tail is binomial: P(Bin(n, k / n) >= n / 2) < 2.5 % up to k."""
    tail = stats.binom.sf(patients // 2 - 1, patients, most_negative / patients)
    assert tail < 0.025
    shifts = np.linspace(0.2, 1.5, 2000)
    power = stats.binom.cdf(most_negative, patients, stats.norm.cdf(-shifts))
    expected = shifts[np.argmax(power >= 0.8)]
    values = np.random.default_rng(1).normal(size=patients)

    found = detectable_difference(values) / values.std(ddof=1)

    assert found == pytest.approx(expected, rel=0.06)


def test_too_few_patients_or_no_spread_show_nothing():
    assert detectable_difference([1.0, 2.0, 3.0, 4.0, 5.0]) is None
    assert detectable_difference([1.0] * 8) is None
    assert detectable_difference([1.0] * 7 + [np.inf]) is None


def test_every_comparison_prints_what_it_could_have_shown():
    found = compared(models(0.0, 0.0, cases=12))
    row = found.row("dice")

    assert row.detectable_difference == pytest.approx(
        detectable_difference(row.differences)
    )
    expected = f"a difference of {row.detectable_difference:.3f} or more in 80 %"
    assert expected in str(verdict(found))


# --------------------------------------------------------------------------- folds


def in_folds(scores, folds=5, repeats=1, noise=0.0):
    """Return scores with folds; each training of a fold has a shift of its own."""
    rng = np.random.default_rng(6)
    found = {}
    for name, own in scores.items():
        shifts = rng.normal(0, noise, (repeats, folds))
        found[name] = [
            replace(
                one,
                dice=one.dice + shifts[repeat][int(one.case_id[1:]) % folds],
                fold=str(int(one.case_id[1:]) % folds),
                repeat=repeat,
            )
            for one in own
            for repeat in range(repeats)
        ]
    return found


def test_a_winner_needs_fold_means_that_agree():
    clear = compared(in_folds(models(0.0, 0.05, cases=20)))
    noisy = compared(in_folds(models(0.0, 0.03, cases=20), noise=0.03))

    assert verdict(clear).winner == "m1"
    assert clear.row("dice").winner == "m1"
    ends = noisy.row("dice").fold_interval_95
    assert ends[0] < 0 < ends[1]
    assert noisy.row("dice").interval_95[0] > 0
    assert (verdict(noisy).winner, noisy.row("dice").winner) == ("", "")
    assert "m1 is better for these 5 trainings each" in str(verdict(noisy))


def test_the_interval_of_folds_is_students_and_that_of_nadeau_and_bengio_is_wider():
    differences, folds = [1.0, 3.0, 4.0, 0.0, 9.0, 5.0], ["0", "0", "1", "1", "2", "2"]
    means = np.array([2.0, 2.0, 7.0])

    found = fold_intervals(differences, folds)

    t_interval = stats.t.interval(0.95, 2, means.mean(), stats.sem(means))
    assert found.plain == pytest.approx(t_interval)
    # Two thirds of the cases train and one third tests: n2 / n1 is 1 / 2.
    half = (t_interval[1] - means.mean()) * math.sqrt((1 / 3 + 1 / 2) / (1 / 3))
    assert found.corrected == pytest.approx((means.mean() - half, means.mean() + half))


def test_the_answer_to_a_margin_asks_the_folds_too():
    noisy = in_folds(models(0.0, 0.03, cases=20), noise=0.03)
    without = {m: [replace(s, fold="") for s in own] for m, own in noisy.items()}

    answers = [compared(s, dice=0.001).row("dice").answer for s in (noisy, without)]

    assert answers == ["undecided", "better"]


@pytest.mark.parametrize("folds", [1, None])
def test_with_one_fold_or_none_the_patients_answer_and_the_verdict_says_so(folds):
    scores = models(0.0, 0.05, cases=20)
    found = compared(in_folds(scores, folds) if folds else scores)

    assert found.row("dice").fold_interval_95 is None
    assert verdict(found).winner == "m1"
    assert "This is about the patients only" in str(verdict(found))


@pytest.mark.parametrize(
    ("other", "folds"), [(lambda fold: str(int(fold) // 2), 0), (lambda _: "-", 5)]
)
def test_models_with_other_folds_share_no_draw_but_one_without_trainings_does(
    other, folds
):
    scores = in_folds(models(0.0, 0.05, cases=20))
    scores["m1"] = [replace(one, fold=other(one.fold)) for one in scores["m1"]]

    assert compared(scores).row("dice").folds == folds


def test_of_several_trainings_the_mean_is_compared():
    scores = in_folds(models(0.0, 0.02, cases=6), repeats=3, noise=0.02)

    row = compared(scores).row("dice", "tibia")

    first = [
        np.mean([s.dice for s in scores["m0"] if (s.case_id, s.structure) == place])
        for place in [(f"c{n}", "tibia") for n in range(6)]
    ]
    assert row.n == 6
    assert row.first_values == pytest.approx(first)


def test_two_scores_of_one_training_are_refused():
    scores = in_folds(models(0.0), repeats=2)
    scores["m0"][1] = replace(scores["m0"][1], repeat=0)

    with pytest.raises(InputError, match="two scores"):
        compared(scores)


# --------------------------------------------------------------------- corrections


@pytest.mark.parametrize(
    ("interval", "p", "winner"),
    [
        ((0.001, 0.03), 0.049, "m1"),
        ((-0.03, -0.001), 0.049, "m1"),
        ((-0.001, 0.03), 0.001, ""),
        ((0.0, 0.03), 0.001, ""),
        ((0.001, 0.03), 0.05, ""),
        ((0.001, 0.03), None, ""),
        (None, 0.001, ""),
    ],
)
def test_a_winner_needs_an_interval_without_0_and_p_below_5_percent(
    interval, p, winner
):
    row = compared(models(0.0, 0.02)).row("dice")
    row = replace(row, interval_95=interval, p_holm=p)

    assert row.winner == row.winner_by(p) == winner


def test_a_mark_asks_the_corrected_p_and_not_the_interval_alone():
    """Of eight patients no p survives the correction for fifteen rows."""
    row = compared(models(0.0, 0.05, cases=8)).row("dice")

    assert row.interval_95[0] > 0
    assert row.p < 0.05 < row.p_holm
    assert row.winner == ""


# ------------------------------------------------------------------------- verdict


def test_a_clear_difference_in_enough_patients_has_a_winner():
    found = verdict(compared(models(0.0, 0.05, cases=10)))

    assert found.winner == "m1"
    assert found.sentences[0] == "m1 is better: Dice 0.661 against 0.609, n = 10."
    assert "95 % interval" in str(found)


@pytest.mark.parametrize(
    ("shifts", "more", "answer", "winner", "words"),
    [
        ((0.05, 0.0), {}, "better", "m0", "m0 is better"),
        ((0.1, 0.0, 0.2), {}, "better", "m2", "(m2 minus m0)"),
        ((0.0, 0.2), {"cases": 5}, "undecided", "", "no two-sided p below 0.0625"),
        ((0.0, 0.0), {"cases": 12}, "undecided", "", "not proof of equality"),
        ((0.0, 0.05), {"caveat": "a test"}, "none", "", "No verdict: a test."),
        ((0.0, 0.0), {"cases": 12, "dice": 0.05}, "equivalent", "",
         "m0 and m1 are equivalent within 0.05: Dice"),
        ((0.0, 0.02), {"cases": 12, "spread": 0.001, "dice": 0.05}, "equivalent", "",
         "a smaller difference exists, in favour of m1"),
        ((0.0, 0.0), {"cases": 12, "dice": 0.0001}, "undecided", "",
         "reaches beyond the margin of 0.0001"),
    ],
)  # fmt: skip
def test_a_verdict_has_an_answer_a_winner_or_none_and_its_reason(
    shifts, more, answer, winner, words
):
    options = {"cases": 10, **more}
    margins = {"dice": options.pop("dice")} if "dice" in more else {}
    caveat = options.pop("caveat", "")

    found = verdict(compared(models(*shifts, **options), **margins), caveat=caveat)

    assert (found.answer, found.winner) == (answer, winner)
    assert words in str(found)


def test_nobody_wins_whose_mean_is_the_lower_one():
    """One patient of 12 loses so much that the means point the other way."""
    scores = models(0.0, 0.02, cases=12, spread=0.001)
    scores["m1"] = [
        replace(one, dice=one.dice - 0.3) if one.case_id == "c0" else one
        for one in scores["m1"]
    ]

    found = compared(scores)
    row = found.row("dice")

    assert row.mean_difference < 0 < row.interval_95[0]
    assert row.p < 0.05
    assert (row.favours, row.winner, verdict(found).winner) == ("", "", "")
    assert verdict(found).sentences[0].startswith("Undecided between m0 and m1")


def without_spread(second):
    return {
        name: [score(f"c{n}", "tibia", name, dice) for n in range(8)]
        for name, dice in (("m0", 0.5), ("m1", second))
    }


def test_a_winner_of_three_models_needs_a_p_that_is_corrected_for_three_pairs():
    """Of six patients the smallest p is 0.031; three times that is no answer."""
    scores = models(0.0, 0.1, 0.2, cases=6, spread=0.001)
    of_two = {name: own for name, own in scores.items() if name != "m0"}

    assert verdict(compared(of_two)).winner == "m2"
    assert verdict(compared(scores)).winner == ""


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (without_spread(0.5), "the same Dice in every case"),
        (without_spread(0.75), "same in every"),
        (models(0.0), "m0 was scored alone"),
        ({}, "no model was scored alone"),
        (models(0.0, 0.02, cases=1), "One patient has no spread"),
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
