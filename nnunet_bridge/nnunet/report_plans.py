"""Plans of the source report's networks, made from nnU-Net's.

They keep nnU-Net's spacing, normalisation and preprocessed data, so that all networks
see the same data. Patch and batch are nnU-Net's as far as the networks allow. The
report's features, steps and learning rate are under the key ``nnunet_bridge``, from
which the trainers read them.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from nnunet_bridge.core.words import BudgetName, Configuration
from nnunet_bridge.nnunet.plans import QUICK_STEPS, SMOKE_SIZES, Budget, patch_within

FULL_STEPS = {"epochs": 50, "iterations": 250, "validation_iterations": 50}
"""The report's epochs, each as long as one of nnU-Net's."""

PATIENCE = 20
CONFIGURATION = Configuration.TWO_D
SMALLEST_BATCH = 2
"""Batch normalisation needs two images where the deepest level has one pixel."""


@dataclass(frozen=True, slots=True)
class ReportNetwork:
    """One of the report's networks."""

    suffix: str  # ending of the names of its plans
    divisor: int  # the edges of a patch are multiples of it, because of the poolings
    batch_size: int
    """The report's; nnU-Net's own if smaller, because its planner knows the memory."""

    learning_rate: float
    learning_rate_fall: float
    size: Mapping[str, list[int]]  # entries of the plans that define the network
    smoke_size: Mapping[str, list[int]]
    smoke_learning_rate: float
    smoke_steps: Mapping[str, int]

    def plans_from(self, budget: Budget, stock: dict[str, Any]) -> dict[str, Any]:
        """Return its plans at a budget; nnU-Net's `stock` stays unchanged."""
        plans = deepcopy(stock)
        plans["plans_name"] = f"{stock['plans_name']}{self.suffix}{budget.suffix}"
        planned = plans["configurations"].get(CONFIGURATION)
        plans["configurations"] = {str(CONFIGURATION): planned} if planned else {}
        if not planned:
            return plans
        smoke = SMOKE_SIZES[CONFIGURATION] if budget.name == BudgetName.SMOKE else None
        batch = smoke.batch_size if smoke else self.batch_size
        planned["batch_size"] = max(min(batch, planned["batch_size"]), SMALLEST_BATCH)
        divisor = self.divisor
        patch = [-(-edge // divisor) * divisor for edge in planned["patch_size"]]
        if smoke:
            patch = patch_within(smoke.largest_patch, patch, [divisor] * len(patch))
        planned["patch_size"] = patch
        plans["nnunet_bridge"] = {str(CONFIGURATION): self._written(budget)}
        return plans

    def _written(self, budget: Budget) -> dict[str, Any]:
        """Return the entry under ``nnunet_bridge``."""
        smoke = budget.name == BudgetName.SMOKE
        steps = FULL_STEPS if budget.name == BudgetName.FULL else QUICK_STEPS
        rate = self.smoke_learning_rate if smoke else self.learning_rate
        size = self.smoke_size if smoke else self.size
        written: dict[str, Any] = {
            **(self.smoke_steps if smoke else steps),
            "patience": PATIENCE,
            "learning_rate": rate,
            "learning_rate_fall": self.learning_rate_fall * rate / self.learning_rate,
            **{key: list(features) for key, features in size.items()},
        }
        if smoke:
            share = SMOKE_SIZES[CONFIGURATION].steps["foreground_share"]
            written["foreground_share"] = share
        return written


UNET_2D = ReportNetwork(
    suffix="UNet2d",
    divisor=16,
    batch_size=30,
    learning_rate=1e-4,
    learning_rate_fall=0,
    size={"features": [32, 64, 128, 256, 480]},
    smoke_size={"features": [16, 32, 64, 128, 240]},
    smoke_learning_rate=1e-3,
    smoke_steps={"epochs": 10, "iterations": 50, "validation_iterations": 4},
)

RESNET_34 = ReportNetwork(
    suffix="ResNet34",
    divisor=32,
    batch_size=24,
    learning_rate=1e-4,
    learning_rate_fall=1e-6,
    size={"decoder": [256, 128, 64, 32, 16]},
    smoke_size={"decoder": [128, 64, 32, 16, 16]},
    smoke_learning_rate=1e-3,
    smoke_steps={"epochs": 6, "iterations": 20, "validation_iterations": 4},
)
