"""The plans of the budgets, made from nnU-Net's own."""

from copy import deepcopy
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.plans import BUDGETS, SMOKE_SIZES, patch_within, resolved


def planned(patch, strides, features=(32, 64, 128, 256, 320)):
    stages = len(strides)
    return {
        "data_identifier": "nnUNetPlans_x",
        "batch_size": 2,
        "patch_size": list(patch),
        "architecture": {
            "arch_kwargs": {
                "n_stages": stages,
                "features_per_stage": list(features[:stages]),
                "kernel_sizes": [[3] * len(patch)] * stages,
                "strides": strides,
                "n_conv_per_stage": [2] * stages,
                "n_conv_per_stage_decoder": [2] * (stages - 1),
            }
        },
    }


@pytest.fixture
def stock():
    return {
        "plans_name": "nnUNetPlans",
        "configurations": {
            "2d": planned([256, 224], [[1, 1], [2, 2], [2, 2], [2, 2], [2, 2]]),
            "3d_fullres": planned(
                [64, 128, 112], [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
            ),
            "3d_lowres": planned(
                [64, 112, 96], [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
            ),
            "3d_cascade_fullres": {
                "inherits_from": "3d_fullres",
                "previous_stage": "3d_lowres",
            },
        },
    }


def test_the_stock_plans_are_never_changed(stock):
    before = deepcopy(stock)

    for budget in BUDGETS.values():
        method_of("nnunet", budget.name).plans_from(stock)

    assert stock == before


@pytest.mark.parametrize("name", list(BUDGETS))
def test_a_budget_preprocesses_nothing_of_its_own(stock, name):
    plans = method_of("nnunet", name).plans_from(stock)

    for configuration in stock["configurations"]:
        now, was = resolved(plans, configuration), resolved(stock, configuration)
        assert now["data_identifier"] == was["data_identifier"]


def test_full_is_the_plan_of_nnunet_itself(stock):
    assert method_of("nnunet", "full").plans_from(stock) == stock


@pytest.mark.parametrize(("budget", "share"), [("standard", 0.25), ("quick", 0.02)])
def test_standard_and_quick_change_only_the_number_of_steps(stock, budget, share):
    plans = method_of("nnunet", budget).plans_from(stock)

    assert plans["configurations"] == stock["configurations"]
    steps = plans["nnunet_bridge"]["2d"]
    assert steps["epochs"] * steps["iterations"] == share * 1000 * 250


def test_smoke_keeps_the_first_strides_so_that_thick_slices_stay_whole(stock):
    small = method_of("nnunet", "smoke").plans_from(stock)["configurations"][
        "3d_fullres"
    ]

    kwargs = small["architecture"]["arch_kwargs"]
    assert kwargs["strides"] == [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]
    assert kwargs["features_per_stage"] == [16, 32, 64, 128]
    assert len(kwargs["n_conv_per_stage_decoder"]) == kwargs["n_stages"] - 1


@pytest.mark.parametrize("configuration", list(SMOKE_SIZES))
def test_a_smoke_patch_is_small_and_the_strides_divide_it(stock, configuration):
    small = resolved(method_of("nnunet", "smoke").plans_from(stock), configuration)

    strides = small["architecture"]["arch_kwargs"]["strides"]
    assert prod(small["patch_size"]) <= SMOKE_SIZES[configuration].largest_patch
    for edge, steps in zip(
        small["patch_size"], zip(*strides, strict=True), strict=True
    ):
        assert edge % prod(steps) == 0


@given(
    edges=st.lists(st.integers(1, 200), min_size=2, max_size=3),
    divisor=st.sampled_from([1, 2, 4, 8, 16]),
    largest=st.integers(1000, 100_000),
)
def test_a_patch_never_outgrows_its_limit_nor_loses_its_divisor(
    edges, divisor, largest
):
    divisors = [divisor] * len(edges)

    patch = patch_within(largest, edges, divisors)

    assert all(edge % divisor == 0 and edge >= divisor for edge in patch)
    assert prod(patch) <= largest or patch == divisors
    assert all(new <= max(old, divisor) for new, old in zip(patch, edges, strict=True))
