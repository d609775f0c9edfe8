"""Choosing a model: the laws of the rule."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.ops.choice import CHOOSING, Candidate, choose, choose_nested

DICE = CHOOSING["dice"]


def score(case, value, metric="dice", *, state="scored", structure="tibia"):
    known = dict.fromkeys(("dice", "hd95_mm", "assd_mm", "nsd"))
    if state != "scored":
        known["dice"] = 0.0
    else:
        known[metric] = value
    return BoneScore(
        case_id=case,
        structure=structure,
        configuration="",
        state=state,
        volume_reference_mm3=1.0,
        volume_prediction_mm3=1.0,
        **known,
    )


def candidate(name, values, cost=1.0, metric="dice"):
    return Candidate(
        name, tuple(score(f"c{n}", v, metric) for n, v in enumerate(values)), cost
    )


values = st.floats(0.1, 0.9)


@st.composite
def fields(draw):
    cases = draw(st.integers(1, 9))
    several = st.lists(values, min_size=cases, max_size=cases)
    count = draw(st.integers(1, 4))
    return [
        candidate(f"m{n}", draw(several), cost=draw(st.floats(0.1, 100)))
        for n in range(count)
    ]


@given(fields())
def test_what_is_chosen_costs_no_more_than_the_best(candidates):
    choice = choose(candidates, DICE, {})

    cost = {c.name: c.cost for c in candidates}
    best = next(s for s in choice.standings if s.verdict == "best")
    assert cost[choice.chosen] <= cost[best.name]
    assert best.mean == max(s.mean for s in choice.standings)


@given(fields(), st.randoms())
def test_the_order_of_the_candidates_decides_nothing(candidates, chance):
    shuffled = list(candidates)
    chance.shuffle(shuffled)

    assert choose(shuffled, DICE, {}) == choose(candidates, DICE, {})


@given(st.lists(values, min_size=6, max_size=9), st.floats(0.001, 0.05))
def test_one_that_is_better_in_every_case_by_as_much_wins_at_any_price(low, more):
    cheap = candidate("cheap", low, cost=1)
    dear = candidate("dear", [value + more for value in low], cost=1000)

    assert choose([cheap, dear], DICE, {}).chosen == "dear"


@given(st.lists(values, min_size=1, max_size=9))
def test_of_two_that_are_equal_the_cheaper_is_chosen(same):
    cheap, dear = candidate("z", same, cost=1), candidate("a", same, cost=2)

    assert choose([cheap, dear], DICE, {}).chosen == "z"


@given(fields())
def test_a_distance_chooses_as_its_mirror_image_would(candidates):
    """Less millimetres are better: 1 - Dice read as a distance chooses the same."""
    mirrored = [
        Candidate(
            c.name,
            tuple(score(s.case_id, 1 - s.dice, "hd95_mm") for s in c.scores),
            c.cost,
        )
        for c in candidates
    ]
    means = [s.mean for s in choose(candidates, DICE, {}).standings]
    assume(all(abs(a - b) > 1e-6 for a, b in itertools.pairwise(means)))

    found = choose(mirrored, CHOOSING["hd95"], {})

    assert found.chosen == choose(candidates, DICE, {}).chosen


def test_a_difference_within_the_noise_leaves_the_cheaper_one():
    cheap = candidate("2d", [0.80, 0.82, 0.84, 0.86, 0.88, 0.90, 0.85, 0.83], 2e9)
    dear = candidate("3d", [0.83, 0.80, 0.86, 0.84, 0.90, 0.89, 0.84, 0.85], 9e9)

    choice = choose([cheap, dear], DICE, {})

    assert choice.chosen == "2d"
    assert (
        "2d is cheaper (2 billion multiply-adds a case) than 3d (9 billion"
        in choice.reason
    )
    assert "not better beyond the noise: by +0.004 (95 % interval" in choice.reason


@pytest.mark.parametrize("patients", [1, 2, 5])
def test_below_six_patients_nothing_can_be_told_and_the_cheaper_is_taken(patients):
    cheap = candidate("2d", [0.10] * patients, 2.0)
    dear = candidate("3d", [0.81 + n / 100 for n in range(patients)], 9.0)

    choice = choose([cheap, dear], DICE, {})

    assert choice.chosen == "2d"
    assert "cannot tell the candidates apart" in choice.reason
    assert [s.verdict for s in choice.standings] == ["best", "too few patients to tell"]


def in_folds(name, values, cost=1.0, folds=3):
    found = candidate(name, values, cost)
    scores = [replace(s, fold=str(n % folds)) for n, s in enumerate(found.scores)]
    return Candidate(name, tuple(scores), cost)


def test_nested_scores_each_fold_by_what_the_others_choose():
    rng = np.random.default_rng(3)
    first, second = rng.uniform(0.5, 0.9, (2, 24))
    second[1::3] = first[1::3] + 0.1
    field = [in_folds("a", first, 1.0), in_folds("b", second, 2.0)]

    nested = choose_nested(field, DICE, {})

    expected, chosen = [], {}
    for fold in range(3):
        others = [
            Candidate(c.name, tuple(s for s in c.scores if s.fold != str(fold)), c.cost)
            for c in field
        ]
        chosen[str(fold)] = choose(others, DICE, {}).chosen
        values = {"a": first, "b": second}[chosen[str(fold)]]
        expected += list(values[fold::3])
    assert nested.chosen == chosen
    assert nested.n == 24
    assert nested.mean == pytest.approx(np.mean(expected))


def test_the_score_of_the_chosen_of_equals_is_optimistic_and_the_nested_is_not():
    """Six candidates with a true mean of 0.7 each."""
    rng = np.random.default_rng(4)
    chosen, nested = [], []
    for _ in range(20):
        field = [in_folds(f"m{n}", rng.normal(0.7, 0.05, 9)) for n in range(6)]
        best = max(choose(field, DICE, {}).standings, key=lambda s: s.mean)
        chosen.append(best.mean)
        nested.append(choose_nested(field, DICE, {}).mean)

    assert np.mean(chosen) > 0.715
    assert np.mean(nested) == pytest.approx(0.7, abs=0.011)


def test_nested_needs_two_folds_that_all_share():
    one = in_folds("a", [0.5] * 4)
    other = in_folds("b", [0.5] * 4, folds=2)

    with pytest.raises(InputError, match="two folds"):
        choose_nested([one, other], DICE, {})
    with pytest.raises(InputError, match="two folds"):
        choose_nested([candidate("a", [0.5] * 4)], DICE, {})


def test_two_cases_of_a_patient_are_one_voice():
    cheap = candidate("2d", [0.80] * 12, 2.0)
    dear = candidate("3d", [0.81, 0.79] * 6, 9.0)
    one_each = {f"c{n}": f"p{n}" for n in range(12)}
    in_pairs = {f"c{n}": f"p{n // 2}" for n in range(12)}

    assert choose([cheap, dear], DICE, one_each).patients == 12
    assert choose([cheap, dear], DICE, in_pairs).patients == 6


def test_p_is_of_one_difference_a_patient_and_corrected_for_every_pair():
    """Six patients with two equal cases each, four candidates: six pairs."""
    names = ("best", "second", "third", "fourth")
    several = [candidate(name, [0.9 - n / 10] * 12) for n, name in enumerate(names)]
    in_pairs = {f"c{n}": f"p{n // 2}" for n in range(12)}

    of_two = choose(several[:2], DICE, in_pairs).standings[1]
    of_four = choose(several, DICE, {}).standings[1]

    assert of_two.p == pytest.approx(2 / 2**6)
    assert of_four.p == pytest.approx(6 * 2 / 2**12)


def test_a_small_p_alone_is_not_worse():
    """One case of 20 is so much better that the means hardly differ."""
    best = candidate("best", [0.8] * 20)
    other = candidate("other", [0.79] * 19 + [0.98], 0.5)

    found = choose([best, other], DICE, {}).standings[1]

    assert (found.name, found.verdict) == ("other", "within the noise")
    assert found.p < 0.05
    assert found.interval_95[0] < 0 < found.behind


def test_by_a_distance_the_best_wins_more_cases_and_may_not_be_better_beyond_noise():
    """It is nearer in 21 of 40 cases and fails in the others: ranks speak against."""
    metric = CHOOSING["hd95"]
    other = candidate("other", [3.0] * 40, metric="hd95_mm")
    nearer = [score(f"c{n}", 2.9, "hd95_mm") for n in range(21)]
    failed = [score(f"c{n}", 0, state="missed") for n in range(21, 40)]
    best = Candidate("best", (*nearer, *failed), 1.0)

    first, second = choose([best, other], metric, {}).standings

    assert (first.name, first.mean) == ("best", None)
    assert second.p < 0.05
    assert second.verdict == "within the noise"


def test_only_cases_that_all_have_validated_are_compared():
    one = candidate("2d", [0.9, 0.9, 0.1])
    other = candidate("3d", [0.8, 0.8])

    choice = choose([one, other], DICE, {})

    assert choice.case_ids == ("c0", "c1")
    assert choice.chosen == "2d"


def test_without_a_common_case_nothing_is_chosen():
    far = Candidate("3d", (score("other", 0.9),))

    with pytest.raises(InputError, match=r"validated by every candidate: 2d, 3d\."):
        choose([candidate("2d", [0.9]), far], DICE, {})
    with pytest.raises(InputError, match="there is none"):
        choose([], DICE, {})


@pytest.mark.parametrize("state", ["missed", "invented"])
def test_a_structure_that_is_missed_counts_as_nothing_found(state):
    whole = Candidate("whole", (score("c0", 0.7, "nsd"), score("c1", 0.7, "nsd")))
    holes = Candidate(
        "holes", (score("c0", 0.9, "nsd"), score("c1", None, state=state)), cost=0.1
    )
    choice = choose([whole, holes], CHOOSING["nsd"], {})

    assert {s.name: s.mean for s in choice.standings} == {"whole": 0.7, "holes": 0.45}


def test_by_a_distance_a_failure_is_worse_than_any_distance():
    whole = candidate("whole", [9.0] * 12, 2.0, "hd95_mm")
    holes = Candidate(
        "holes",
        tuple(
            score(f"c{n}", 1, "hd95_mm") if n < 3 else score(f"c{n}", None, state=state)
            for n, state in enumerate(["missed", "invented"] * 6)
        ),
        1.0,
    )

    choice = choose([whole, holes], CHOOSING["hd95"], {})

    assert choice.chosen == "whole"
    assert [s.verdict for s in choice.standings] == ["best", "worse"]
    assert choice.standings[1].mean is choice.standings[1].behind is None


def test_a_lone_candidate_is_chosen_and_said_to_be_alone():
    choice = choose([candidate("2d", [0.9, 0.8], math.inf)], DICE, {})

    assert choice.reason == (
        "2d is the only candidate (Dice 0.850 over 2 cases of 2 patients)."
    )
    assert choice.standings[0].as_json()["multiply_adds"] is None


def test_a_structure_that_nobody_holds_is_in_no_mean():
    absent = replace(score("c1", 0.5), state="both_empty", dice=None)
    candidates = [Candidate(name, (score("c0", 0.8), absent)) for name in "ab"]

    choice = choose(candidates, DICE, {})

    assert choice.case_ids == ("c0",)
    assert {standing.mean for standing in choice.standings} == {0.8}
