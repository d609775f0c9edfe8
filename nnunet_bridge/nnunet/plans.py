"""Planners, budgets, and the plans that a training follows.

A planner is nnU-Net's own and writes the stock plans. A budget is the length of a
training: `full` is nnU-Net unchanged, `standard` and `quick` its plan and trainer with
a quarter and 2 % of its steps, `smoke` a small network with few steps that checks the
pipeline on a CPU.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeAlias

from nnunet_bridge.core.words import (
    ALWAYS_PLANNED,
    BudgetName,
    Configuration,
    PlannerName,
)

Plans: TypeAlias = dict[str, Any]

STOCK_PLANS = "nnUNetPlans"
LOWRES, CASCADE = Configuration.LOWRES, Configuration.CASCADE
"""Planned only where images are large; the cascade refines what LOWRES predicts."""

CONFIGURATIONS = tuple(Configuration)


@dataclass(frozen=True, slots=True)
class Planner:
    """One of nnU-Net's planners."""

    word: PlannerName
    class_name: str  # nnU-Net finds the class by this name
    plans: str  # name of the plans that it writes, without ending


_CLASS_AND_PLANS = {
    PlannerName.DEFAULT: ("ExperimentPlanner", STOCK_PLANS),
    PlannerName.RESENC_M: ("nnUNetPlannerResEncM", "nnUNetResEncUNetMPlans"),
    PlannerName.RESENC_L: ("nnUNetPlannerResEncL", "nnUNetResEncUNetLPlans"),
    PlannerName.RESENC_XL: ("nnUNetPlannerResEncXL", "nnUNetResEncUNetXLPlans"),
}
PLANNERS: dict[str, Planner] = {
    word: Planner(word, *names) for word, names in _CLASS_AND_PLANS.items()
}


def planner_of(plans: str) -> Planner:
    """Return the planner that writes the plans of a name."""
    return next(planner for planner in PLANNERS.values() if planner.plans == plans)


def plan_words(dataset: str, plans: str) -> str:
    """Return the command that makes the plans of a name."""
    planner = planner_of(plans).word
    chosen = "" if planner == PlannerName.DEFAULT else f" --planner {planner}"
    return f"nnunet-bridge plan {dataset}{chosen}"


@dataclass(frozen=True, slots=True)
class Budget:
    """The length of a training."""

    name: BudgetName
    suffix: str  # ending of the names of its plans
    caveat: str
    """What a reader must know about scores of such a training; empty for none."""


_QUICK = "this quick run has 2 % of nnU-Net's steps; its scores are preliminary"
_SMOKE = "this smoke test checks the pipeline; its scores are not results"
BUDGETS: dict[str, Budget] = {
    BudgetName.FULL: Budget(BudgetName.FULL, "", ""),
    BudgetName.STANDARD: Budget(BudgetName.STANDARD, "Standard", ""),
    BudgetName.QUICK: Budget(BudgetName.QUICK, "Quick", _QUICK),
    BudgetName.SMOKE: Budget(BudgetName.SMOKE, "Smoke", _SMOKE),
}

FEWEST_STEPS = {BudgetName.FULL: 12_500, BudgetName.QUICK: 5_000}
"""The shortest training of each budget: 50 epochs of 250 steps (the report's networks),
and 50 of 100. Fewer steps are those of a smoke test."""


def budget_of(steps: int) -> BudgetName:
    """Return the budget of a training by the steps that it took.

    Examples
    --------
    >>> [str(budget_of(steps)) for steps in (250_000, 12_500, 5_000, 6)]
    ['full', 'full', 'quick', 'smoke']
    """
    fits = (name for name, fewest in FEWEST_STEPS.items() if steps >= fewest)
    return next(fits, BudgetName.SMOKE)


QUICK_STEPS = {"epochs": 50, "iterations": 100, "validation_iterations": 20}
STOCK_NETWORK_STEPS: dict[str, dict[str, int]] = {
    BudgetName.STANDARD: {
        "epochs": 250,
        "iterations": 250,
        "validation_iterations": 50,
    },
    BudgetName.QUICK: QUICK_STEPS,
}
"""Budgets that shorten the training and leave nnU-Net's network as it is."""


@dataclass(frozen=True, slots=True)
class SmokeSize:
    """The small network of a smoke test, and its steps."""

    features: tuple[int, ...]
    convolutions: int
    """Convolutions in every stage of the encoder; the decoder has one. A residual
    encoder has one block instead, of two convolutions."""

    batch_size: int
    largest_patch: int  # most voxels of a patch
    steps: dict[str, float]


_SMOKE_3D = SmokeSize(
    features=(16, 32, 64, 128),
    convolutions=1,
    batch_size=2,
    largest_patch=96_000,
    steps={
        "epochs": 10,
        "iterations": 50,
        "validation_iterations": 4,
        "learning_rate": 3e-3,
        "foreground_share": 0.5,
    },
)
_SMOKE_2D = SmokeSize(
    features=_SMOKE_3D.features,
    convolutions=2,
    batch_size=12,
    largest_patch=128 * 128,
    steps={**_SMOKE_3D.steps, "epochs": 20},
)
SMOKE_SIZES: dict[str, SmokeSize] = {
    Configuration.TWO_D: _SMOKE_2D,
    **dict.fromkeys((Configuration.FULLRES, LOWRES, CASCADE), _SMOKE_3D),
}
"""The cascade has the network of ``3d_fullres``, from which its plan inherits."""


def plans_for(budget: Budget, stock: Plans) -> Plans:
    """Return the plans of a budget, from nnU-Net's `stock`, which stay unchanged.

    They share the preprocessed data of the stock plans (same ``data_identifier``), so
    another budget needs no new preprocessing.
    """
    plans = deepcopy(stock)
    plans["plans_name"] = f"{stock['plans_name']}{budget.suffix}"
    if budget.name in STOCK_NETWORK_STEPS:
        steps = STOCK_NETWORK_STEPS[budget.name]
        names = {*ALWAYS_PLANNED, *stock["configurations"]}
        trained = [str(name) for name in CONFIGURATIONS if name in names]
        plans["nnunet_bridge"] = {name: dict(steps) for name in trained}
    elif budget.name == BudgetName.SMOKE:
        plans["nnunet_bridge"] = {}
        for name, size in SMOKE_SIZES.items():
            if name in plans["configurations"]:
                if "architecture" in plans["configurations"][name]:
                    _make_small(plans["configurations"][name], size)
                plans["nnunet_bridge"][str(name)] = dict(size.steps)
    return plans


def resolved(plans: Plans, configuration: str) -> dict[str, Any]:
    """Return a planned configuration with what it inherits from another.

    Examples
    --------
    >>> a, b = {"batch_size": 2}, {"inherits_from": "a", "previous_stage": "c"}
    >>> resolved({"configurations": {"a": a, "b": b}}, "b")["batch_size"]
    2
    """
    own: dict[str, Any] = plans["configurations"][configuration]
    parent = own.get("inherits_from")
    return {**resolved(plans, parent), **own} if parent else own


def _make_small(configuration: dict[str, Any], size: SmokeSize) -> None:
    """Keep the first stages of a planned network, with their strides."""
    architecture = configuration["architecture"]["arch_kwargs"]
    stages = min(len(size.features), architecture["n_stages"])
    strides = [list(stride) for stride in architecture["strides"][:stages]]
    architecture["n_stages"] = stages
    architecture["features_per_stage"] = list(size.features[:stages])
    architecture["kernel_sizes"] = architecture["kernel_sizes"][:stages]
    architecture["strides"] = strides
    if "n_blocks_per_stage" in architecture:
        architecture["n_blocks_per_stage"] = [1] * stages
    else:
        architecture["n_conv_per_stage"] = [size.convolutions] * stages
    architecture["n_conv_per_stage_decoder"] = [1] * (stages - 1)
    configuration["batch_size"] = size.batch_size
    divisors = [math.prod(steps) for steps in zip(*strides, strict=True)]
    patch = patch_within(size.largest_patch, configuration["patch_size"], divisors)
    configuration["patch_size"] = patch


def patch_within(
    largest: int, planned: Sequence[int], divisors: Sequence[int]
) -> list[int]:
    """Return a patch of at most `largest` voxels whose edges the strides divide.

    The longest edge is shortened first, so that a patch stays close to a cube.

    Examples
    --------
    >>> patch_within(96_000, [40, 56, 40], [8, 8, 8])
    [40, 56, 40]
    >>> patch_within(96_000, [64, 48, 96], [8, 8, 8])
    [40, 48, 48]
    """
    edges = zip(planned, divisors, strict=True)
    patch = [max(edge // divisor, 1) * divisor for edge, divisor in edges]
    while math.prod(patch) > largest:
        shrinkable = [n for n, edge in enumerate(patch) if edge > divisors[n]]
        if not shrinkable:
            break
        longest = max(shrinkable, key=lambda n: patch[n])
        patch[longest] -= divisors[longest]
    return patch
