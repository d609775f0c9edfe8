"""`pack` and `unpack`."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from nnunet_bridge.cli.options import (
    CONFIGURATIONS,
    FILE,
    dataset_argument,
    finished_budget_option,
    finished_model_option,
)
from nnunet_bridge.cli.session import Session, bridge_command
from nnunet_bridge.core.summary import Summary


@click.command()
@dataset_argument
@click.option(
    "-o", "--out", "out_file", type=FILE, required=True, help="The zip to write."
)
@click.option(
    "-c",
    "--configuration",
    type=click.Choice(CONFIGURATIONS),
    default=None,
    help="[default: the better one on its own validation]",
)
@click.option(
    "-f",
    "--fold",
    "folds",
    multiple=True,
    metavar="FOLD",
    help="0, 1, ... once for each, or all. [default: all that have finished]",
)
@finished_model_option
@finished_budget_option
@bridge_command
def pack(
    session: Session,
    dataset: str,
    out_file: Path,
    configuration: str | None,
    folds: tuple[str, ...],
    model: str | None,
    budget: str | None,
) -> Summary:
    """Write a finished model to one file, without a path or a name of anybody in it.

    Example:  nnunet-bridge pack 1 -o tibia.zip
    """
    from nnunet_bridge.nnunet.names import Workspace, find_dataset
    from nnunet_bridge.pipeline.models.pack import pack_model

    workspace = Workspace.at(session.root)
    with session.progress() as progress:
        return pack_model(
            workspace,
            find_dataset(workspace, dataset),
            out_file,
            configuration=configuration,
            folds=folds,
            budget=budget,
            model=model,
            progress=progress,
        )


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--replace", is_flag=True, help="Put it in place of the one that is there."
)
@bridge_command
def unpack(session: Session, file: Path, *, replace: bool) -> Summary:
    """Judge a model from elsewhere, then put it among the results.

    Nothing of it runs before all of it has passed.

    Example:  nnunet-bridge unpack tibia.zip
    """
    from nnunet_bridge.nnunet.names import Workspace
    from nnunet_bridge.pipeline.models.pack import unpack_model

    workspace = Workspace.at(session.root)
    with session.progress() as progress:
        return unpack_model(workspace, file, replace=replace, progress=progress)
