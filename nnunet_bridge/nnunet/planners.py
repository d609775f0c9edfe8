"""nnU-Net's planners: who makes the plans that trainings are made from."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_PLANNER = "default"


@dataclass(frozen=True, slots=True)
class Planner:
    """One of nnU-Net's planners."""

    word: str
    """As `--planner` calls it."""

    class_name: str
    """nnU-Net finds the class by this name."""

    plans: str
    """Name of the plans that it writes, without ending."""


PLANNERS = {
    planner.word: planner
    for planner in (
        Planner(DEFAULT_PLANNER, "ExperimentPlanner", "nnUNetPlans"),
        Planner("resenc-m", "nnUNetPlannerResEncM", "nnUNetResEncUNetMPlans"),
        Planner("resenc-l", "nnUNetPlannerResEncL", "nnUNetResEncUNetLPlans"),
        Planner("resenc-xl", "nnUNetPlannerResEncXL", "nnUNetResEncUNetXLPlans"),
    )
}
"""Word -> planner: the stock network, and residual encoders for larger GPUs."""


def planner_of(plans: str) -> Planner:
    """Return who writes the plans of a name.

    Examples
    --------
    >>> planner_of("nnUNetResEncUNetMPlans").word
    'resenc-m'
    """
    return next(planner for planner in PLANNERS.values() if planner.plans == plans)


def plan_words(dataset: str, plans: str) -> str:
    """Return the command that makes the plans of a name.

    Examples
    --------
    >>> plan_words("Dataset001_Tibia", "nnUNetPlans")
    'nnunet-bridge plan Dataset001_Tibia'
    """
    planner = planner_of(plans).word
    chosen = "" if planner == DEFAULT_PLANNER else f" --planner {planner}"
    return f"nnunet-bridge plan {dataset}{chosen}"
