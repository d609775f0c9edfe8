"""`check` and `convert`: from a study to a raw dataset."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from nnunet_bridge.cli.options import EXISTING, force_option, recipe_option
from nnunet_bridge.cli.session import Session, bridge_command
from nnunet_bridge.core.summary import Summary


@click.command()
@click.argument("study", type=EXISTING)
@recipe_option
@bridge_command
def check(session: Session, study: Path, recipe_name: str) -> Summary:
    """Do all that `convert` does, except writing.

    Example:  nnunet-bridge check knee_study -r dataset.toml
    """
    from nnunet_bridge.formats.recipe import read_recipe
    from nnunet_bridge.nnunet.names import Workspace
    from nnunet_bridge.pipeline.convert import check_study

    raw_dir = Workspace.at(session.root).raw_dir
    with session.progress() as progress:
        recipe = read_recipe(recipe_name)
        return check_study(study, recipe, raw_dir, progress=progress)


@click.command()
@click.argument("study", type=EXISTING)
@recipe_option
@force_option
@bridge_command
def convert(session: Session, study: Path, recipe_name: str, *, force: bool) -> Summary:
    """Turn DICOM series and masks into a raw dataset of nnU-Net.

    Example:  nnunet-bridge convert knee_study -r dataset.toml -w /data/work
    """
    from nnunet_bridge.formats.recipe import read_recipe
    from nnunet_bridge.nnunet.names import Workspace
    from nnunet_bridge.pipeline.convert import convert_study

    raw_dir = Workspace.at(session.root).raw_dir
    with session.progress() as progress:
        recipe = read_recipe(recipe_name)
        return convert_study(study, recipe, raw_dir, force=force, progress=progress)
