"""`plan`, `train` and `status`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from nnunet_bridge.cli.options import (
    BOTH,
    EXISTING,
    budget_option,
    configurations_option,
    dataset_argument,
    device_option,
    folds_option,
    force_option,
    model_option,
)
from nnunet_bridge.cli.session import Session, bridge_command
from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.summary import Summary

if TYPE_CHECKING:
    from nnunet_bridge.nnunet.splits import Splitting


@click.command()
@dataset_argument
@configurations_option
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
    folds: int | None,
    splits_file: Path | None,
    *,
    leave_one_out: bool,
    force: bool,
) -> Summary:
    """Verify, plan and preprocess a dataset; split it by patient.

    Example:  nnunet-bridge plan 1

    Example:  nnunet-bridge plan 1 --leave-one-out
    """
    from nnunet_bridge.nnunet.names import Workspace, find_dataset
    from nnunet_bridge.pipeline.plan import plan_dataset

    workspace = Workspace.at(session.root)
    with session.progress() as progress:
        return plan_dataset(
            workspace,
            find_dataset(workspace, dataset),
            configurations or BOTH,
            splitting=_splitting(folds, splits_file, leave_one_out=leave_one_out),
            force=force,
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
