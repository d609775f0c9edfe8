"""Means over cases: each over the cases in which its figure is defined."""

import pytest

from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.ops.means import mean_of, mean_scores

SCORES = [
    # case, structure, configuration, state, Dice, HD95, ASSD, NSD, volumes, IoU, HD
    ("a", "tibia", "", "scored", 0.9, 2.0, 1.0, 0.8, 4e3, 5e3, 0.6, 3.0),
    ("b", "tibia", "", "scored", 0.7, 4.0, 2.0, 0.4, 2e3, 1e3, 0.4, 5.0),
    ("c", "tibia", "", "missed", 0.0, None, None, 0.0, 1e3, 0.0, 0.0, None),
    ("d", "tibia", "", "invented", 0.0, None, None, 0.0, 0.0, 2e3, 0.0, None),
    ("e", "tibia", "", "both_empty", None, None, None, None, 0.0, 0.0, None, None),
    ("a", "femur", "", "both_empty", None, None, None, None, 0.0, 0.0, None, None),
]
FIFTH = ("f", "tibia", "", "scored", 1.0, 1.0, 0.5, 1.0, 1e3, 1e3, 1.0, 1.0)


def test_a_structure_that_nobody_holds_counts_in_no_mean():
    tibia, femur = mean_scores([BoneScore(*row) for row in SCORES])

    assert (tibia.structure, tibia.n, tibia.n_surface) == ("tibia", 4, 2)
    assert (femur.structure, femur.n, femur.n_surface) == ("femur", 0, 0)
    content = tibia.as_json()
    states = ("scored", "missed", "invented", "both_empty")
    assert [content[state] for state in states] == [2, 1, 1, 1]
    assert femur.dice is femur.volume_error_mm3 is None


def test_every_mean_is_over_the_cases_that_have_a_figure():
    tibia, _ = mean_scores([BoneScore(*row) for row in SCORES])

    assert tibia.dice == pytest.approx((0.9 + 0.7 + 0 + 0) / 4)
    assert tibia.iou == pytest.approx((0.6 + 0.4 + 0 + 0) / 4)
    assert tibia.nsd == pytest.approx((0.8 + 0.4 + 0 + 0) / 4)
    assert tibia.volume_error_mm3 == pytest.approx((1e3 - 1e3 - 1e3 + 2e3) / 4)
    assert tibia.volume_error_abs_mm3 == pytest.approx(5e3 / 4)
    assert tibia.volume_error_cm3_absolute == pytest.approx(5 / 4)
    assert tibia.volume_error_cm3 == pytest.approx(1 / 4)
    assert tibia.volume_error_abs_percent == pytest.approx((25 + 50 + 100) / 3)


def test_a_failure_has_no_distance_so_there_is_no_mean_of_one_but_a_median():
    tibia, femur = mean_scores([BoneScore(*row) for row in [*SCORES, FIFTH]])
    content = tibia.as_json()

    assert tibia.hd95_mm is tibia.assd_mm is tibia.hd_mm is None
    assert (content["n_found"], content["n_failed"]) == (3, 2)
    assert content["median"]["hd95_mm"] == 4.0  # of 1, 2, 4 and two failures
    assert content["iqr"]["hd95_mm"] == [2.0, None]
    assert content["median"]["dice"] == pytest.approx(0.7)  # of 0, 0, .7, .9 and 1
    assert content["iqr"]["dice"] == pytest.approx([0.0, 0.9])
    assert femur.as_json()["median"]["dice"] is None


def test_without_a_failure_a_distance_has_its_mean():
    tibia, _ = mean_scores(BoneScore(*row) for row in (*SCORES[:2], SCORES[-1]))

    assert (tibia.hd95_mm, tibia.assd_mm, tibia.hd_mm) == (3.0, 1.5, 4.0)


def test_the_mean_of_nothing_is_undefined():
    assert mean_of([]) is mean_of([None, None]) is None
    assert mean_of([None, 1.0, 3.0]) == 2
