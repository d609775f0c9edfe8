"""What can be trained: a model at a budget, as a trainer and plans of nnU-Net.

A model is a network with the way it learns; a budget is how much of that it gets. Each
pair has a trainer and plans of its own name, so that every training has a folder of its
own and any two can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.words import Fold
from nnunet_bridge.nnunet.names import Dataset, Run
from nnunet_bridge.nnunet.plans import (
    BUDGETS,
    CONFIGURATIONS,
    STOCK_PLANS,
    Budget,
    Plans,
    plans_for,
)
from nnunet_bridge.nnunet.report_plans import RESNET_34, UNET_2D, ReportNetwork

DEFAULT_MODEL = "nnunet"
USUAL = ("2d", "3d_fullres")
"""Configurations that every dataset has."""

RESNET = "resnet34"
FROZEN_RESNET = "resnet34-frozen"

_TRAINERS = {
    "full": "nnUNetTrainer",
    "quick": "BridgeQuickTrainer",
    "smoke": "BridgeSmokeTrainer",
}
"""Budget -> trainer of nnU-Net's own networks."""

_REPORT_AUGMENTATION = {
    "full": "BridgeReportAugmentationTrainer",
    "quick": "BridgeReportAugmentationQuickTrainer",
    "smoke": "BridgeReportAugmentationSmokeTrainer",
}
"""Budget -> trainer of nnU-Net's own networks with the report's augmentation."""

_REPORT_NETWORKS = {
    "unet2d": ("BridgeUNet2dTrainer", UNET_2D),
    RESNET: ("BridgeResNet34Trainer", RESNET_34),
    FROZEN_RESNET: ("BridgeResNet34FrozenTrainer", RESNET_34),
}
"""Model -> trainer and network."""

REPORT_NETWORK_OF = dict(_REPORT_NETWORKS.values())
"""Trainer -> the report's network that it builds."""

_RESIDUAL = {
    "resenc-m": "nnUNetResEncUNetMPlans",
    "resenc-l": "nnUNetResEncUNetLPlans",
}
"""Model, which is also the word of `plan --planner` -> plans that it writes."""


@dataclass(frozen=True, slots=True)
class Method:
    """A model at a budget."""

    model: str
    """``nnunet``, ... as `--model` calls it."""

    budget: Budget

    trainer: str
    """nnU-Net finds the class by this name."""

    stock_plans: str = STOCK_PLANS
    """Name of the plans of nnU-Net's planner that ours are made from."""

    configurations: tuple[str, ...] = CONFIGURATIONS
    """Those that it can be trained in."""

    report_network: ReportNetwork | None = None
    """The network, where it is one of the source report's."""

    @property
    def name(self) -> str:
        """Such as ``smoke``; with the model where it is not nnU-Net's own."""
        if self.model == DEFAULT_MODEL:
            return self.budget.name
        return f"{self.model}-{self.budget.name}"

    @property
    def plans(self) -> str:
        """Name of its plans, without ending."""
        network = self.report_network.suffix if self.report_network else ""
        return f"{self.stock_plans}{network}{self.budget.suffix}"

    @property
    def planner(self) -> str:
        """Word of `plan --planner` that makes the plans which it begins with."""
        return self.model if self.stock_plans != STOCK_PLANS else "default"

    @property
    def has_resnet(self) -> bool:
        """Whether its encoder begins with the weights of a file."""
        return self.model in (RESNET, FROZEN_RESNET)

    @property
    def family(self) -> str:
        """What the folders of its models begin with."""
        return f"{self.trainer}__{self.plans}__"

    @property
    def usual_configurations(self) -> tuple[str, ...]:
        """Those that are trained unless something else is asked for."""
        return tuple(name for name in self.configurations if name in USUAL)

    @property
    def needs_own_plans(self) -> bool:
        """Whether the plans of nnU-Net's planner do not serve as they are."""
        return self.plans != self.stock_plans

    def plans_from(self, stock: Plans) -> Plans:
        """Return its plans, made from those of the planner, which are not changed."""
        if self.report_network is not None:
            return self.report_network.plans_from(self.budget, stock)
        return plans_for(self.budget, stock)

    def run(self, dataset: Dataset, configuration: str, fold: Fold) -> Run:
        """Return one training.

        Raises
        ------
        UsageError
            If the model knows no such configuration.
        """
        if configuration not in self.configurations:
            raise UsageError(
                f"--model {self.model} trains {' and '.join(self.configurations)}, not "
                f"{configuration}: name it with -c."
            )
        return Run(dataset, configuration, fold, self.trainer, self.plans)


def _methods() -> Iterator[Method]:
    budgets = BUDGETS.values()
    for budget in budgets:
        yield Method(DEFAULT_MODEL, budget, _TRAINERS[budget.name])
    for model, (trainer, network) in _REPORT_NETWORKS.items():
        for budget in budgets:
            yield Method(
                model, budget, trainer, configurations=("2d",), report_network=network
            )
    for budget in budgets:
        trainer = _REPORT_AUGMENTATION[budget.name]
        yield Method("report-augmentation", budget, trainer)
    for model, stock_plans in _RESIDUAL.items():
        for budget in budgets:
            yield Method(model, budget, _TRAINERS[budget.name], stock_plans)


METHODS = {(method.model, method.budget.name): method for method in _methods()}
"""Model and budget -> method."""

MODELS = tuple(dict.fromkeys(model for model, _ in METHODS))
"""Words of `--model`, the default first."""


def method_of(model: str, budget: str) -> Method:
    """Return the method that two words name.

    Raises
    ------
    UsageError
        If one of them is unknown.

    Examples
    --------
    >>> method_of("nnunet", "smoke").plans
    'nnUNetPlansSmoke'
    """
    if (model, budget) not in METHODS:
        raise UsageError(
            f"There is no model {model} with the budget {budget}: models are "
            f"{', '.join(MODELS)}, budgets {', '.join(BUDGETS)}."
        )
    return METHODS[model, budget]


def trained_in(model: str) -> tuple[str, ...]:
    """Return the configurations that a model can be trained in; every one if unknown.

    Examples
    --------
    >>> trained_in("nnunet")
    ('2d', '3d_fullres', '3d_lowres', '3d_cascade_fullres')
    """
    known = [m.configurations for m in METHODS.values() if m.model == model]
    return known[0] if known else CONFIGURATIONS


def method_of_run(run: Run) -> Method | None:
    """Return the method of a training; None if it is none of ours."""
    return _BY_NAMES.get((run.trainer, run.plans))


_BY_NAMES = {(method.trainer, method.plans): method for method in METHODS.values()}
