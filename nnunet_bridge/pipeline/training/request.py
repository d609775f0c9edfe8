"""The runs that a command asks for, in their order; options that exclude each other.

``3d_cascade_fullres`` learns from what ``3d_lowres`` predicted for every case. Each
fold predicts the cases that it was not trained on, so all folds are needed first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from nnunet_bridge.core.errors import EnvironmentFault, InputError, UsageError
from nnunet_bridge.core.words import ALL_CASES, Fold, ModelName
from nnunet_bridge.formats.files import read_json
from nnunet_bridge.nnunet.machine import Machine
from nnunet_bridge.nnunet.methods import Method
from nnunet_bridge.nnunet.names import ALL_NUMBERED, Dataset, Run
from nnunet_bridge.nnunet.plans import CASCADE, LOWRES, resolved
from nnunet_bridge.nnunet.runs import run_state
from nnunet_bridge.nnunet.splits import Splits
from nnunet_bridge.nnunet.training_options import TrainingOptions


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """Train each configuration and fold of a model."""

    method: Method
    configurations: tuple[str, ...] = ()  # by default the usual ones of the model
    folds: tuple[str, ...] = ("0",)  # words of `-f`
    options: TrainingOptions = field(default_factory=TrainingOptions)
    repeat: int = 1  # trainings of each fold, each with its own random numbers

    def __post_init__(self) -> None:
        """Fill in the usual configurations."""
        if not self.configurations:
            usual = self.method.usual_configurations
            object.__setattr__(self, "configurations", usual)

    def check(self) -> None:
        """Refuse options that do not fit the model or one another, by name."""
        options, method = self.options, self.method
        encoder = "--weights" if options.weights else ""
        encoder = "--from-scratch" if options.from_scratch else encoder
        if encoder and not method.has_resnet:
            raise UsageError(f"{encoder} is for --model resnet34, not {method.model}.")
        if options.weights and options.from_scratch:
            raise UsageError("--weights and --from-scratch exclude each other.")
        if options.pretrained and encoder:
            raise UsageError(f"--pretrained and {encoder} exclude each other.")
        if options.from_scratch and method.model == ModelName.RESNET_34_FROZEN:
            raise UsageError(
                "A frozen encoder does not learn, so random weights stay random: give "
                "it --weights FILE, or train it without --freeze-encoder."
            )
        if self.repeat > 1 and CASCADE in self.configurations:
            raise UsageError(f"--repeat cannot train {CASCADE}: omit one of both.")
        if options.gpus > 1:
            self._check_several_gpus()

    def _check_several_gpus(self) -> None:
        """Refuse what is untested in nnU-Net's processes on several GPUs."""
        untested = {
            "--patience": self.options.patience is not None,
            f"--model {self.method.model}": self.method.report_network is not None,
        }
        for option, given in untested.items():
            if given:
                raise UsageError(f"{option} needs one GPU per run: omit --gpus.")


def require_gpus(gpus: int, device: str, machine: Machine) -> None:
    """Refuse more GPUs than there are."""
    if gpus > 1 and device != "cuda":
        raise UsageError(f"--gpus {gpus} needs --device cuda, not {device}.")
    if gpus > 1 and gpus > machine.gpus:
        raise EnvironmentFault(
            f"--gpus {gpus} was requested, but this machine has {machine.gpus}: "
            "request fewer."
        )


def require_patches(gpus: int, todo: Iterable[Run]) -> None:
    """Refuse more GPUs than a batch has patches."""
    for run in todo:
        planned = resolved(read_json(run.plans_file), run.configuration)
        if gpus > planned["batch_size"]:
            raise UsageError(
                f"--gpus {gpus} needs a batch of at least {gpus} patches, but "
                f"{run.configuration} has {planned['batch_size']}: request fewer GPUs."
            )


def chosen_folds(words: Iterable[str], splits: Splits) -> list[Fold]:
    """Return the folds that the words of `-f` mean.

    Examples
    --------
    >>> chosen_folds(["all5"], [{}, {}, {}])
    [0, 1, 2]
    >>> chosen_folds(["1", "all"], [{}, {}])
    [1, 'all']
    """
    folds: list[Fold] = []
    for word in words:
        if word == ALL_NUMBERED:
            folds += range(len(splits))
        elif word == ALL_CASES:
            folds.append(ALL_CASES)
        elif word.isdigit() and int(word) < len(splits):
            folds.append(int(word))
        else:
            raise UsageError(
                f"There is no fold {word}: the dataset has folds 0 to "
                f"{len(splits) - 1}. `{ALL_NUMBERED}` means each of them, "
                f"`{ALL_CASES}` trains on every case."
            )
    return list(dict.fromkeys(folds))


def requested_runs(dataset: Dataset, request: TrainingRequest) -> list[Run]:
    """Return the runs that a request means, those that others build upon first.

    Raises `UsageError` if there is no such fold, or its model has no such
    configuration.
    """
    folds = chosen_folds(request.folds, read_json(dataset.splits_file))
    run = request.method.run
    asked = [
        replace(run(dataset, configuration, fold), repeat=number)
        for configuration in request.configurations
        for number in range(request.repeat)
        for fold in folds
    ]
    first, cascade = in_stages(asked)
    return [*first, *cascade]


def in_stages(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Return the runs that need no other, and those of the cascade."""
    cascade = [run for run in runs if run.configuration == CASCADE]
    return [run for run in runs if run not in cascade], cascade


def require_previous_stages(todo: Sequence[Run], *, now: bool = False) -> None:
    """Refuse runs of the cascade whose first stage is not trained; name the folds.

    A first stage among `todo` is trained in time, unless it must be done `now`.
    """
    in_time = set() if now else set(todo)
    faults = []
    for run in todo:
        missing = [
            str(first.fold)
            for first in _first_stages(run)
            if first not in in_time and not run_state(first).done
        ]
        if missing:
            folds = ALL_CASES if run.fold == ALL_CASES else ALL_NUMBERED
            faults.append(
                f"{CASCADE} fold {run.fold} needs {LOWRES} of every fold; not trained: "
                f"fold {', '.join(missing)}. Train `-c {LOWRES} -f {folds}` first"
                f"{'' if now else ', or both at once'}."
            )
    if faults:
        raise InputError("\n".join(faults))


def _first_stages(run: Run) -> list[Run]:
    """Return the runs whose predictions a run of the cascade learns from."""
    if run.configuration != CASCADE:
        return []
    splits: Splits = read_json(run.dataset.splits_file)
    folds: Sequence[Fold] = range(len(splits))
    if run.fold == ALL_CASES:
        folds = [ALL_CASES]
    return [replace(run, configuration=LOWRES, fold=fold) for fold in folds]
