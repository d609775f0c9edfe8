"""`plan`, `train` and `status`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from nnunet_bridge.cli.options import (
    BOTH,
    EXISTING,
    MODELS,
    PLANNERS,
    budget_option,
    configurations_option,
    dataset_argument,
    device_option,
    finished_budget_option,
    folds_option,
    force_option,
    model_option,
    own_arguments_argument,
    weighed_configurations_option,
)
from nnunet_bridge.cli.session import Session, bridge_command
from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.summary import Summary

if TYPE_CHECKING:
    from nnunet_bridge.formats.recipe import SlurmPart
    from nnunet_bridge.nnunet.splits import Splitting


@click.command()
@dataset_argument
@own_arguments_argument
@configurations_option
@click.option(
    "--planner",
    "planners",
    multiple=True,
    type=click.Choice(PLANNERS),
    help="nnU-Net's planner, once for each. [default: default]",
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    default=None,
    help="How many folds, patients permitting.  [default: 5]",
)
@click.option(
    "--leave-one-out", is_flag=True, help="A fold for every patient: for few cases."
)
@click.option(
    "--splits",
    "splits_file",
    type=EXISTING,
    default=None,
    help="Your own folds, in the form of nnU-Net's splits_final.json.",
)
@force_option
@bridge_command
def plan(
    session: Session,
    dataset: str,
    configurations: tuple[str, ...],
    planners: tuple[str, ...],
    folds: int | None,
    splits_file: Path | None,
    own_arguments: tuple[str, ...],
    *,
    leave_one_out: bool,
    force: bool,
) -> Summary:
    """Verify, plan and preprocess a dataset; split it by patient.

    Example:  nnunet-bridge plan 1

    Example:  nnunet-bridge plan 1 --planner resenc-m

    Example:  nnunet-bridge plan 1 -- -gpu_memory_target 16
    """
    from nnunet_bridge.nnunet.names import Workspace, find_dataset
    from nnunet_bridge.nnunet.own_arguments import PLANNING
    from nnunet_bridge.pipeline.training.plan import PlanningOptions, plan_dataset

    workspace = Workspace.at(session.root)
    options = PlanningOptions(
        tuple(dict.fromkeys(planners)) or ("default",),
        _splitting(folds, splits_file, leave_one_out=leave_one_out),
        PLANNING.checked(own_arguments) if own_arguments else None,
        force,
    )
    with session.progress() as progress:
        return plan_dataset(
            workspace,
            find_dataset(workspace, dataset),
            configurations or BOTH,
            options,
            progress=progress,
        )


def _splitting(
    folds: int | None, file: Path | None, *, leave_one_out: bool
) -> Splitting | None:
    """Return what the words of the command mean; None if they say nothing."""
    from nnunet_bridge.nnunet.splits import Splitting

    said = [folds is not None, leave_one_out, file is not None]
    if sum(said) > 1:
        raise UsageError("--folds, --leave-one-out and --splits exclude each other.")
    if not any(said):
        return None
    return Splitting(folds or 0, file=file)


@click.command()
@dataset_argument
@own_arguments_argument
@configurations_option
@folds_option
@model_option
@budget_option
@device_option
@click.option(
    "--gpus",
    type=click.IntRange(1),
    default=None,
    help="Of each run.  [default: 1]",
)
@click.option(
    "--on",
    "place",
    type=click.Choice(["local", "slurm", "script"]),
    default="local",
    show_default=True,
    help="slurm: hand the runs to the cluster. script: write a file for sbatch.",
)
@click.option(
    "-r",
    "--recipe",
    "recipe_name",
    default=None,
    metavar="RECIPE",
    help="Whose table [slurm] says what a job asks for.",
)
@click.option(
    "--probabilities",
    is_flag=True,
    help="Keep those of the validation: nnU-Net's own choice of ensembles needs them.",
)
@click.option(
    "--resume/--restart", default=True, help="Go on from checkpoints, or forget them."
)
@click.option(
    "--patience",
    type=click.IntRange(1),
    default=None,
    metavar="N",
    help="End after N epochs without a lower validation loss.  [default: 20 for the "
    "report's networks, else never]",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="What a ResNet34's encoder begins with.  [default: ImageNet's, downloaded]",
)
@click.option(
    "--from-scratch", is_flag=True, help="Begin such an encoder with random weights."
)
@click.option(
    "--freeze-encoder", is_flag=True, help="As --model resnet34-frozen, of resnet34."
)
@click.option(
    "--pretrained",
    default="",
    metavar="MODEL",
    help="Begin with a trained model: a packed file, or another dataset, as 2 or "
    "2:3d_fullres.",
)
@bridge_command
def train(
    session: Session,
    dataset: str,
    configurations: tuple[str, ...],
    folds: tuple[str, ...],
    model: str,
    budget: str,
    device: str,
    gpus: int | None,
    place: str,
    recipe_name: str | None,
    own_arguments: tuple[str, ...],
    patience: int | None,
    weights: Path | None,
    pretrained: str,
    *,
    probabilities: bool,
    resume: bool,
    from_scratch: bool,
    freeze_encoder: bool,
) -> Summary:
    """Train every configuration and fold that is not done yet.

    Example:  nnunet-bridge train 1 -c 2d -c 3d_fullres -f all5

    Example:  nnunet-bridge train 1 -f all5 --on slurm -r dataset.toml

    Example:  nnunet-bridge train 1 -c 2d -- --npz --val_best
    """
    from nnunet_bridge.nnunet.methods import method_of
    from nnunet_bridge.nnunet.names import Workspace, find_dataset
    from nnunet_bridge.nnunet.own_arguments import TRAINING
    from nnunet_bridge.nnunet.training_options import TrainingOptions
    from nnunet_bridge.pipeline.training.train import train_dataset

    workspace = Workspace.at(session.root)
    asked = TRAINING.checked(own_arguments) if own_arguments else None
    method = method_of(_frozen(model) if freeze_encoder else model, budget)
    options = TrainingOptions(
        device,
        gpus or 1,
        restart=not resume,
        probabilities=probabilities,
        own_arguments=asked,
        patience=patience,
        weights=None if weights is None else weights.absolute(),
        from_scratch=from_scratch,
        pretrained=_absolute(pretrained),
    )
    if place != "local":
        from nnunet_bridge.pipeline.training.cluster import (
            ClusterOptions,
            train_on_cluster,
        )

        on_cluster = ClusterOptions(
            _cluster_settings(recipe_name, gpus),
            only_script=place == "script",
            training=options,
        )
        return train_on_cluster(
            workspace,
            find_dataset(workspace, dataset),
            configurations or method.usual_configurations,
            folds or ("0",),
            method=method,
            options=on_cluster,
        )
    with session.progress() as progress:
        return train_dataset(
            workspace,
            find_dataset(workspace, dataset),
            configurations or method.usual_configurations,
            folds or ("0",),
            method=method,
            options=options,
            progress=progress,
        )


def _absolute(model: str) -> str:
    """Return a file's name as a job on a cluster finds it; a dataset's as it is."""
    return str(Path(model).absolute()) if Path(model).is_file() else model


def _frozen(model: str) -> str:
    """Return the model that keeps its encoder as it is."""
    if not model.startswith("resnet34"):
        raise UsageError(f"--freeze-encoder is for --model resnet34, not {model}.")
    return "resnet34-frozen"


def _cluster_settings(recipe_name: str | None, gpus: int | None) -> SlurmPart:
    """Return what a job asks for, by the recipe and the words of the command."""
    from nnunet_bridge.formats.recipe import SlurmPart, read_recipe

    settings = read_recipe(recipe_name).slurm if recipe_name else SlurmPart()
    return settings if gpus is None else settings.model_copy(update={"gpus": gpus})


@click.command()
@dataset_argument
@click.option(
    "--watch",
    "every_s",
    type=click.FloatRange(0.5),
    is_flag=False,
    flag_value=5.0,
    default=None,
    metavar="[SECONDS]",
    help="Look again every so many seconds until all have ended.  [5 if not said]",
)
@bridge_command
def status(session: Session, dataset: str, every_s: float | None) -> Summary:
    """Say what is planned, running, done or failed, from the files alone.

    Example:  nnunet-bridge status 1

    Example:  nnunet-bridge status 1 --watch
    """
    from nnunet_bridge.nnunet.names import Workspace, find_dataset
    from nnunet_bridge.pipeline.training.train import status_of, watched_status

    workspace = Workspace.at(session.root)
    name = find_dataset(workspace, dataset)
    if every_s is None:
        return status_of(workspace, name)
    with session.progress() as progress:
        return watched_status(workspace, name, every_s, progress)


@click.command()
@dataset_argument
@weighed_configurations_option
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Choice(MODELS),
    help="Once for each. [default: all that have finished folds]",
)
@finished_budget_option
@click.option(
    "--metric",
    type=click.Choice(["dice", "nsd", "hd95", "assd"]),
    default="dice",
    show_default=True,
    help="By what to choose: mean over structures and cases.",
)
@click.option(
    "--tolerance-mm",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="Of the NSD.",
)
@click.option(
    "--ensembles",
    is_flag=True,
    help="Weigh means of two configurations too: predicts the cases held out again.",
)
@device_option
@bridge_command
def select(
    session: Session,
    dataset: str,
    configurations: tuple[str, ...],
    models: tuple[str, ...],
    budget: str | None,
    metric: str,
    tolerance_mm: float,
    device: str,
    *,
    ensembles: bool,
) -> Summary:
    """Choose among finished models by the cases that their folds held out.

    The cheapest that the best one does not beat beyond the noise.

    Example:  nnunet-bridge select 1

    Example:  nnunet-bridge select 1 --metric nsd --ensembles
    """
    from nnunet_bridge.nnunet.names import Workspace, find_dataset
    from nnunet_bridge.pipeline.models.select import Wishes, select_model

    workspace = Workspace.at(session.root)
    wishes = Wishes(
        *(configurations, models, budget, metric, ensembles, device, tolerance_mm)
    )
    with session.progress() as progress:
        return select_model(
            workspace, find_dataset(workspace, dataset), wishes, progress=progress
        )
