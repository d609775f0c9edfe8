"""A study to a raw dataset: `init`, `check`, `convert`; one series alone: `image`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from nnunet_bridge.cli.options import (
    EXISTING,
    FILE,
    force_option,
    recipe_option,
    scan_options,
)
from nnunet_bridge.cli.session import Session, bridge_command
from nnunet_bridge.core.summary import Summary


@click.command()
@click.argument("study", type=EXISTING)
@click.option(
    "-o",
    "--out",
    type=FILE,
    default="dataset.toml",
    show_default=True,
    help="The recipe to write.",
)
@click.option("--force", is_flag=True, help="Write over a recipe that is there.")
@bridge_command
def init(session: Session, study: Path, out: Path, *, force: bool) -> Summary:  # noqa: ARG001 - every command has one
    """Write the recipe of a study, from its names and headers.

    Example:  nnunet-bridge init knee_study -o knee.toml
    """
    from nnunet_bridge.pipeline.ingest.init import write_recipe

    return write_recipe(study, out, force=force)


@click.command()
@click.argument("study", type=EXISTING)
@recipe_option
@scan_options
@bridge_command
def check(
    session: Session, study: Path, recipe_name: str, scans: dict[str, Any]
) -> Summary:
    """Do all that `convert` does, except writing.

    Example:  nnunet-bridge check knee_study -r dataset.toml
    """
    from nnunet_bridge.formats.recipe import read_recipe
    from nnunet_bridge.nnunet.names import Workspace
    from nnunet_bridge.pipeline.ingest.convert import check_study

    raw_dir = Workspace.at(session.root).raw_dir
    with session.progress() as progress:
        recipe = read_recipe(recipe_name).with_scans(**scans)
        return check_study(study, recipe, raw_dir, progress=progress)


@click.command()
@click.argument("study", type=EXISTING)
@recipe_option
@scan_options
@force_option
@bridge_command
def convert(
    session: Session,
    study: Path,
    recipe_name: str,
    scans: dict[str, Any],
    *,
    force: bool,
) -> Summary:
    """Turn DICOM series and masks into a raw dataset of nnU-Net.

    Example:  nnunet-bridge convert knee_study -r dataset.toml -w /data/work
    """
    from nnunet_bridge.formats.recipe import read_recipe
    from nnunet_bridge.nnunet.names import Workspace
    from nnunet_bridge.pipeline.ingest.convert import convert_study

    raw_dir = Workspace.at(session.root).raw_dir
    with session.progress() as progress:
        recipe = read_recipe(recipe_name).with_scans(**scans)
        return convert_study(study, recipe, raw_dir, force=force, progress=progress)


@click.command()
@click.argument("dicom", type=EXISTING)
@click.option("-o", "--out", type=FILE, required=True, metavar="FILE.nii.gz")
@scan_options
@force_option
@bridge_command
def image(
    session: Session,
    dicom: Path,
    out: Path,
    scans: dict[str, Any],
    *,
    force: bool,
) -> Summary:
    """Write one series of a DICOM folder as NIfTI, checked as `convert` does.

    Example:  nnunet-bridge image scan_folder -o scan.nii.gz --series 6
    """
    from nnunet_bridge.formats.dicom import SeriesOptions
    from nnunet_bridge.pipeline.ingest.image import write_image

    options = SeriesOptions(**scans)
    with session.progress() as progress:
        return write_image(dicom, out, options, force=force, progress=progress)
