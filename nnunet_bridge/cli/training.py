"""`plan`, `train` and `status`."""

from __future__ import annotations

import rich_click as click

from nnunet_bridge.cli.options import (
    BOTH,
    budget_option,
    configurations_option,
    dataset_argument,
    device_option,
    folds_option,
    force_option,
    model_option,
)
from nnunet_bridge.cli.session import Session, bridge_command
from nnunet_bridge.core.summary import Summary


@click.command()
@dataset_argument
@configurations_option
@force_option
@bridge_command
def plan(
    session: Session, dataset: str, configurations: tuple[str, ...], *, force: bool
) -> Summary:
    """Verify, plan and preprocess a dataset; split it by patient.

    Example:  nnunet-bridge plan 1
    """
    from nnunet_bridge.nnunet.names import Workspace, find_dataset
    from nnunet_bridge.pipeline.plan import plan_dataset

    workspace = Workspace.at(session.root)
    name, asked = find_dataset(workspace, dataset), configurations or BOTH
    with session.progress() as progress:
        return plan_dataset(workspace, name, asked, force=force, progress=progress)


@click.command()
@dataset_argument
@configurations_option
@folds_option
@model_option
@budget_option
@device_option
@click.option("--gpus", type=click.IntRange(1), default=1, help="GPUs for each run.")
@click.option(
    "--resume/--restart", default=True, help="Go on from checkpoints, or forget them."
)
@bridge_command
def train(
    session: Session,
    dataset: str,
    configurations: tuple[str, ...],
    folds: tuple[str, ...],
    model: str,  # noqa: ARG001 - there is one so far
    budget: str,
    device: str,
    gpus: int,
    *,
    resume: bool,
) -> Summary:
    """Train every configuration and fold that is not done yet.

    Example:  nnunet-bridge train 1 -c 2d -c 3d_fullres -f all5
    """
    from nnunet_bridge.nnunet.names import Workspace, find_dataset
    from nnunet_bridge.nnunet.plans import BUDGETS
    from nnunet_bridge.pipeline.train import train_dataset

    workspace = Workspace.at(session.root)
    with session.progress() as progress:
        return train_dataset(
            workspace,
            find_dataset(workspace, dataset),
            configurations or BOTH,
            folds or ("0",),
            budget=BUDGETS[budget],
            device=device,
            gpus=gpus,
            restart=not resume,
            progress=progress,
        )


@click.command()
@dataset_argument
@bridge_command
def status(session: Session, dataset: str) -> Summary:
    """Say what is planned, running, done or failed, from the files alone.

    Example:  nnunet-bridge status 1
    """
    from nnunet_bridge.nnunet.names import Workspace, find_dataset
    from nnunet_bridge.pipeline.train import status_of

    workspace = Workspace.at(session.root)
    return status_of(workspace, find_dataset(workspace, dataset))
