"""`plan`, `train`, `status` and `select`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from nnunet_bridge.cli import options as shared
from nnunet_bridge.cli.fields import argument, option
from nnunet_bridge.cli.session import Session, command
from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.summary import Summary

if TYPE_CHECKING:
    from nnunet_bridge.nnunet.splits import Splitting
    from nnunet_bridge.pipeline.training.cluster import ClusterOptions
    from nnunet_bridge.pipeline.training.plan import PlanningOptions
    from nnunet_bridge.pipeline.training.request import TrainingRequest

_MODEL = "use --model and --budget"
_WORKERS = "the number of workers follows the free memory"
_LOG = "the output of nnU-Net is in plan.log"

OF_PLANNING = {
    "-gpu_memory_target": "use --gpu-memory-target",
    "-overwrite_target_spacing": "use --target-spacing",
    "-d": "the dataset is the first argument",
    "-c": "use -c before `--`",
    "-pl": "use --planner",
    "-np": _WORKERS,
    "-npfp": _WORKERS,
    "-overwrite_plans_name": "trainings find plans by nnU-Net's names for them",
    "-preprocessor_name": "planners share the preprocessed data",
    "-fpe": "planners share the fingerprint",
    "--clean": "the fingerprint is always that of the current dataset",
    "--no_pp": "training needs the preprocessed data",
    "--verify_dataset_integrity": "this is always done",
    "--verbose": _LOG,
    "--no_pbar": _LOG,
}
"""Argument of ``nnUNetv2_plan_and_preprocess`` -> what to do instead."""

OF_TRAINING = {
    "--npz": "use --probabilities",
    "--val_best": "use --validate-best",
    "-pretrained_weights": "use --pretrained",
    "-tr": _MODEL,
    "-p": _MODEL,
    "-num_gpus": "use --gpus",
    "-device": "use --device",
    "--c": "use --resume or --restart",
    "--val": "run train again: it makes up for a missing validation",
    "--disable_checkpointing": "a training without checkpoints leaves no model",
}
"""Argument of ``nnUNetv2_train`` -> what to do instead."""

_own_arguments_field = partial(argument, nargs=-1, type=click.UNPROCESSED, metavar="")
"""What follows ``--``, to refuse it by name."""


def refuse_own_arguments(words: Sequence[str], instead: Mapping[str, str]) -> None:
    """Refuse every argument of nnU-Net by name; `words` are all after ``--``.

    Raises `UsageError` if there are any.
    """
    if not words:
        return
    named = [word for word in words if re.match("--?[A-Za-z]", word)] or words
    faults = [f"{word}: {instead.get(word, 'unknown')}." for word in named]
    raise UsageError("Arguments of nnU-Net are not passed on:\n" + "\n".join(faults))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    dataset: str = shared.dataset_field()
    own_arguments: tuple[str, ...] = _own_arguments_field()
    configurations: tuple[str, ...] = shared.configurations_field()
    planners: tuple[str, ...] = shared.model_option(
        "--planner",
        f"nnU-Net's planner: {', '.join(shared.PLANNERS)}. Repeat for several. "
        "[default: default]",
        choices=shared.PLANNERS,
        metavar="NAME",
    )
    folds: int | None = option(
        "--folds",
        "Number of folds; fewer if there are fewer patients. [default: 5]",
        type=click.IntRange(2),
    )
    leave_one_out: bool = option(
        "--leave-one-out", "One fold per patient, for few cases."
    )
    splits: Path | None = option(
        "--splits",
        "Your own folds, in the format of nnU-Net's splits_final.json.",
        type=shared.EXISTING,
    )
    gpu_memory_gb: float | None = shared.model_option(
        "--gpu-memory-target",
        "GPU memory for which nnU-Net plans patch and batch. All trainings of the "
        "dataset start again. [default: 8, or that of the planner]",
        type=shared.POSITIVE,
        metavar="GB",
    )
    target_spacing: tuple[float, float, float] | None = shared.model_option(
        "--target-spacing",
        "Spacing of 3d_fullres in mm: slices, rows, columns. All trainings of the "
        "dataset start again. [default: chosen by nnU-Net]",
        type=shared.POSITIVE,
        nargs=3,
        metavar="MM MM MM",
    )
    force: bool = shared.force_field(
        "Plan again, and replace plans, data and splits that `plan` did not write."
    )

    def options(self) -> PlanningOptions:
        from nnunet_bridge.pipeline.training.plan import PlanningOptions

        refuse_own_arguments(self.own_arguments, OF_PLANNING)
        return PlanningOptions(
            self.configurations or shared.BOTH,
            tuple(dict.fromkeys(self.planners)) or shared.PLANNERS[:1],
            self._splitting(),
            self._for_nnunet() or None,
            self.force,
        )

    def _for_nnunet(self) -> tuple[str, ...]:
        """Return nnU-Net's own arguments, as the record of a plan keeps them."""
        words: list[str] = []
        if self.gpu_memory_gb is not None:
            words += ["-gpu_memory_target", f"{self.gpu_memory_gb:g}"]
        if self.target_spacing is not None:
            spacing = [f"{size:g}" for size in self.target_spacing]
            words += ["-overwrite_target_spacing", *spacing]
        return tuple(words)

    def _splitting(self) -> Splitting | None:
        from nnunet_bridge.nnunet.splits import Splitting

        given = [self.folds is not None, self.leave_one_out, self.splits is not None]
        if sum(given) > 1:
            raise UsageError(
                "--folds, --leave-one-out and --splits exclude each other."
            )
        if not any(given):
            return None
        return Splitting(self.folds or 0, file=self.splits)


@command(_Plan)
def plan(session: Session, asked: _Plan) -> Summary:
    """Verify, plan and preprocess a dataset; split it by patient.

    Example:  nnunet-bridge plan 1

    Example:  nnunet-bridge plan 1 --planner resenc-m

    Example:  nnunet-bridge plan 1 --gpu-memory-target 16
    """
    from nnunet_bridge.pipeline.training.plan import plan_dataset

    dataset = session.dataset(asked.dataset)
    with session.progress() as progress:
        return plan_dataset(dataset, asked.options(), progress=progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Train:
    dataset: str = shared.dataset_field()
    own_arguments: tuple[str, ...] = _own_arguments_field()
    configurations: tuple[str, ...] = shared.configurations_field()
    folds: tuple[str, ...] = shared.folds_field()
    repeat: int = option(
        "--repeat",
        "Trainings of each fold, each with its own random numbers; `compare` uses all.",
        type=shared.COUNT,
        default=1,
    )
    resume: bool = option(
        "--resume/--restart",
        "Resume from checkpoints, or train again from the start.",
        default=True,
    )
    model: str = shared.model_field()
    budget: str = shared.budget_field()
    patience: int | None = shared.model_option(
        "--patience",
        "Stop after N epochs without a lower validation loss. [default: 20 for "
        "the report's networks, else never]",
        type=shared.COUNT,
    )
    pretrained: str = shared.model_option(
        "--pretrained",
        "Start from a trained model: a packed file, a checkpoint (.pth) or "
        "another dataset, e.g. 2 or 2:3d_fullres.",
        default="",
        metavar="MODEL",
    )
    weights: Path | None = shared.model_option(
        "--weights",
        "Initial encoder weights (ResNet34). [default: ImageNet, downloaded]",
        type=shared.FILE,
    )
    from_scratch: bool = shared.model_option(
        "--from-scratch", "Start from random encoder weights (ResNet34)."
    )
    freeze_encoder: bool = shared.model_option(
        "--freeze-encoder", "Freeze the encoder (same as --model resnet34-frozen)."
    )
    probabilities: bool = shared.output_option(
        "--probabilities",
        "Save validation probabilities (needed for nnU-Net's ensemble choice).",
    )
    validate_best: bool = shared.output_option(
        "--validate-best",
        "Validate the checkpoint with the best pseudo-Dice, not the last one.",
    )
    device: str = shared.device_field()
    gpus: int | None = shared.machine_option(
        "--gpus", "GPUs per training run. [default: 1]", type=shared.COUNT
    )
    place: str = shared.machine_option(
        "--on",
        "slurm: submit the runs to the cluster. script: write a file for sbatch.",
        choices=("local", "slurm", "script"),
    )
    yes: bool = shared.yes_field()
    recipe: str | None = shared.slurm_recipe_field()

    def request(self) -> TrainingRequest:
        from nnunet_bridge.nnunet.methods import method_named
        from nnunet_bridge.nnunet.training_options import TrainingOptions
        from nnunet_bridge.pipeline.training.request import TrainingRequest

        refuse_own_arguments(self.own_arguments, OF_TRAINING)
        return TrainingRequest(
            method_named(self._model(), self.budget),
            self.configurations,
            self.folds or ("0",),
            TrainingOptions(
                self.device,
                self.gpus or 1,
                restart=not self.resume,
                probabilities=self.probabilities,
                validate_best=self.validate_best,
                patience=self.patience,
                weights=None if self.weights is None else self.weights.absolute(),
                from_scratch=self.from_scratch,
                pretrained=self._absolute_pretrained(),
            ),
            self.repeat,
        )

    def on_cluster(self) -> ClusterOptions:
        from nnunet_bridge.formats.recipe import SlurmPart, read_recipe
        from nnunet_bridge.pipeline.training.cluster import ClusterOptions

        settings = read_recipe(self.recipe).slurm if self.recipe else SlurmPart()
        if self.gpus is not None:
            settings = settings.model_copy(update={"gpus": self.gpus})
        return ClusterOptions(settings, only_script=self.place == "script")

    def _model(self) -> str:
        if not self.freeze_encoder:
            return self.model
        if not self.model.startswith("resnet34"):
            message = f"--freeze-encoder is for --model resnet34, not {self.model}."
            raise UsageError(message)
        return "resnet34-frozen"

    def _absolute_pretrained(self) -> str:
        """Return a file as a job on a cluster finds it; a dataset as it is."""
        file = Path(self.pretrained)
        return str(file.absolute()) if file.is_file() else self.pretrained


@command(_Train)
def train(session: Session, asked: _Train) -> Summary:
    """Train every configuration and fold that is not done yet.

    Example:  nnunet-bridge train 1 -c 2d -c 3d_fullres -f all5

    Example:  nnunet-bridge train 1 -f all5 --on slurm -r dataset.toml

    Example:  nnunet-bridge train 1 -c 2d --probabilities --validate-best
    """
    from nnunet_bridge.pipeline.training.cluster import train_on_cluster
    from nnunet_bridge.pipeline.training.train import train_dataset

    dataset, request = session.dataset(asked.dataset), asked.request()
    if asked.place != "local":
        return train_on_cluster(dataset, request, asked.on_cluster())
    with session.progress() as progress:
        consent = session.consent(progress, yes=asked.yes)
        return train_dataset(dataset, request, progress=progress, consent=consent)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Status:
    dataset: str = shared.dataset_field()
    every_s: float | None = option(
        "--watch",
        "Refresh until all runs have ended or you press Ctrl-C, every 5 seconds unless "
        "you give a number.",
        type=click.FloatRange(0.5),
        is_flag=False,
        flag_value=5.0,
        metavar="[SECONDS]",
    )


@command(_Status)
def status(session: Session, asked: _Status) -> Summary:
    """Show which runs are planned, running, done or failed, from their files.

    Example:  nnunet-bridge status 1

    Example:  nnunet-bridge status 1 --watch
    """
    from nnunet_bridge.pipeline.training.status import status_of, watched_status

    dataset = session.dataset(asked.dataset)
    if asked.every_s is None:
        return status_of(dataset)
    with session.progress() as progress:
        return watched_status(dataset, asked.every_s, progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Select:
    dataset: str = shared.dataset_field()
    configurations: tuple[str, ...] = shared.configurations_field(
        "Repeat for several. [default: all that have finished folds]"
    )
    metric: str = option(
        "--metric",
        "Measure that decides: its mean over structures and cases.",
        choices=("dice", "nsd", "hd95", "assd"),
    )
    tolerance_mm: float = shared.tolerance_field("Tolerance of the NSD.")
    ensembles: bool = option(
        "--ensembles",
        "Also try the mean of two configurations; predicts the held-out cases again.",
    )
    nested: bool = option(
        "--nested",
        "Also score each fold by the model that the other folds choose: the unbiased "
        "score of the choice.",
    )
    fast: bool = option(
        "--fast",
        "Also measure what `predict --fast` costs in Dice; predicts the held-out cases "
        "that way.",
    )
    models: tuple[str, ...] = shared.models_field(
        "Repeat for several. [default: all that have finished folds]"
    )
    budget: str | None = shared.finished_budget_field()
    device: str = shared.device_field()


@command(_Select)
def select(session: Session, asked: _Select) -> Summary:
    """Choose among finished models by the cases that their folds held out.

    Chooses the cheapest model that is not worse than the best beyond the noise.

    Example:  nnunet-bridge select 1

    Example:  nnunet-bridge select 1 --metric nsd --ensembles
    """
    from nnunet_bridge.pipeline.models.select import SelectionOptions, select_model

    words = asdict(asked)
    dataset = session.dataset(words.pop("dataset"))
    with session.progress() as progress:
        return select_model(dataset, SelectionOptions(**words), progress=progress)
