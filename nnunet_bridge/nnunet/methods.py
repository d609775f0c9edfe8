"""Methods: a model at a budget, as a trainer and plans of nnU-Net.

A model is a network with the way it learns; a budget is the length of its training.
Each pair has a trainer and plans of its own name, so that every training has a folder
of its own and any two can be compared.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.words import (
    ALWAYS_PLANNED,
    BudgetName,
    Configuration,
    Fold,
    ModelName,
    PlannerName,
)
from nnunet_bridge.nnunet.names import BETWEEN, Dataset, Run
from nnunet_bridge.nnunet.plans import (
    BUDGETS,
    CONFIGURATIONS,
    PLANNERS,
    STOCK_PLANS,
    Budget,
    Plans,
    planner_of,
    plans_for,
)
from nnunet_bridge.nnunet.report_plans import RESNET_34, UNET_2D, ReportNetwork

DEFAULT_MODEL = ModelName.NNUNET
STOCK_TRAINER = "nnUNetTrainer"

_REPORT_NETWORKS = {
    ModelName.UNET_2D: ("BridgeUNet2dTrainer", UNET_2D),
    ModelName.RESNET_34: ("BridgeResNet34Trainer", RESNET_34),
    ModelName.RESNET_34_FROZEN: ("BridgeResNet34FrozenTrainer", RESNET_34),
}
"""Model -> trainer and network."""

REPORT_NETWORK_OF = dict(_REPORT_NETWORKS.values())
"""Trainer -> the report's network that it builds."""


@dataclass(frozen=True, slots=True)
class Method:
    """A model at a budget."""

    model: str
    """A `ModelName`; for a trainer of others ``TRAINER__PLANS``."""

    budget: Budget
    trainer: str  # nnU-Net finds the class by this name
    stock_plans: str = STOCK_PLANS
    """Name of the plans of nnU-Net's planner, from which its own are made."""

    configurations: tuple[Configuration, ...] = CONFIGURATIONS
    """Configurations that it can be trained in."""

    report_network: ReportNetwork | None = None
    """The network, if it is one of the source report's."""

    @property
    def name(self) -> str:
        """Budget, such as ``smoke``; after the model unless that is nnU-Net's own."""
        if self.model == DEFAULT_MODEL:
            return str(self.budget.name)
        return f"{self.model}-{self.budget.name}"

    @property
    def plans(self) -> str:
        """Name of its plans, without ending."""
        network = self.report_network.suffix if self.report_network else ""
        return f"{self.stock_plans}{network}{self.budget.suffix}"

    @property
    def planner(self) -> PlannerName:
        """The planner that writes its stock plans."""
        return planner_of(self.stock_plans).word

    @property
    def has_resnet(self) -> bool:
        """Whether its encoder takes initial weights from a file."""
        return self.model in (ModelName.RESNET_34, ModelName.RESNET_34_FROZEN)

    @property
    def own(self) -> bool:
        """Whether the model is one of ours."""
        return self.model in tuple(ModelName)

    @property
    def asked_budget(self) -> str | None:
        """The budget of its trainings; None if a trainer of others decides that."""
        return self.budget.name if self.own else None

    @property
    def usual_configurations(self) -> tuple[Configuration, ...]:
        """Configurations that are trained by default."""
        return tuple(name for name in self.configurations if name in ALWAYS_PLANNED)

    @property
    def needs_own_plans(self) -> bool:
        """Whether it needs other plans than those of nnU-Net's planner."""
        return self.plans != self.stock_plans

    def plans_from(self, stock: Plans) -> Plans:
        """Return its plans, from those of the planner, which stay unchanged."""
        if self.report_network is not None:
            return self.report_network.plans_from(self.budget, stock)
        return plans_for(self.budget, stock)

    def run(self, dataset: Dataset, configuration: str, fold: Fold) -> Run:
        """Return one training.

        Raises `UsageError` if the model cannot be trained in that configuration.
        """
        if configuration not in self.configurations:
            raise UsageError(
                f"--model {self.model} trains {' and '.join(self.configurations)}, not "
                f"{configuration}: name one of them with -c."
            )
        return Run(dataset, configuration, fold, self.trainer, self.plans)


def _methods() -> Iterator[Method]:
    """Yield every model at every budget; `trainers` has the classes of these names."""
    two_d = (Configuration.TWO_D,)
    for budget in BUDGETS.values():
        suffix = budget.suffix
        own = f"Bridge{suffix}Trainer" if suffix else STOCK_TRAINER
        yield Method(DEFAULT_MODEL, budget, own)
        # A full training of the report's networks is shorter than `standard`.
        short = {} if budget.name == BudgetName.STANDARD else _REPORT_NETWORKS
        for model, (trainer, network) in short.items():
            yield Method(model, budget, trainer, STOCK_PLANS, two_d, network)
        augmented = f"BridgeReportAugmentation{suffix}Trainer"
        yield Method(ModelName.REPORT_AUGMENTATION, budget, augmented)
        for model in (ModelName.RESENC_M, ModelName.RESENC_L):  # named as planners
            yield Method(model, budget, own, PLANNERS[model].plans)


METHODS: dict[tuple[str, str], Method] = {
    (method.model, method.budget.name): method for method in _methods()
}
"""Model and budget -> method."""


def method_of(model: str, budget: str) -> Method:
    """Return the method of a model and a budget.

    Raises `UsageError` if one of them is unknown.
    """
    if (model, budget) not in METHODS:
        raise UsageError(
            f"There is no model {model} with the budget {budget}: models are "
            f"{', '.join(ModelName)}, budgets {', '.join(BUDGETS)}."
        )
    return METHODS[model, budget]


def method_named(word: str, budget: str) -> Method:
    """Return the method of a word of `--model`: a model of ours, or TRAINER__PLANS.

    A trainer of others sets the length of its training itself; nnU-Net finds its class.

    Raises `UsageError` if the model is unknown, or its plans are not of a planner that
    `plan` can call.
    """
    trainer, _, plans = word.partition(BETWEEN)
    if not plans:
        return method_of(word, budget)
    known = _BY_NAMES.get((trainer, plans))
    if known is not None:
        return known
    if budget != BudgetName.FULL:
        raise UsageError(f"{trainer} sets its own number of steps: omit --budget.")
    stock = [planner.plans for planner in PLANNERS.values()]
    if plans not in stock:
        raise UsageError(
            f"`train` takes the plans of nnU-Net's planners ({', '.join(stock)}), not "
            f"{plans}: train with nnUNetv2_train; all other commands know the result."
        )
    return Method(word, BUDGETS[BudgetName.FULL], trainer, plans)


def trained_in(model: str) -> tuple[Configuration, ...]:
    """Return the configurations of a model; all of them for an unknown one."""
    known = [m.configurations for m in METHODS.values() if m.model == model]
    return known[0] if known else CONFIGURATIONS


def method_of_run(run: Run) -> Method | None:
    """Return the method of a training; None for a model from elsewhere."""
    return _BY_NAMES.get((run.trainer, run.plans))


_BY_NAMES = {(method.trainer, method.plans): method for method in METHODS.values()}
