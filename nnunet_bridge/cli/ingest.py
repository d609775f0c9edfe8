"""`init`, `check`, `convert` and `image`: from DICOM and masks to a raw dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_bridge.cli import options as shared
from nnunet_bridge.cli.fields import argument, given, option, part
from nnunet_bridge.cli.session import Session, command
from nnunet_bridge.core.summary import Summary

if TYPE_CHECKING:
    from nnunet_bridge.formats.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class _Init:
    study: Path = argument(type=shared.EXISTING)
    out: Path = option(
        "-o", "--out", "Recipe to write.", type=shared.FILE, default="dataset.toml"
    )
    update: bool = option(
        "--update", "Add new patients to the case table; keep its rows unchanged."
    )
    force: bool = shared.force_field("Overwrite an existing recipe and case table.")


@command(_Init)
def init(session: Session, asked: _Init) -> Summary:
    """Write a recipe and the case table of a study, from the files in its folder.

    Example:  nnunet-bridge init knee_study -o knee.toml
    """
    from nnunet_bridge.pipeline.ingest.init import InitOptions, write_recipe

    options = InitOptions(
        asked.out, asked.update, asked.force, session.new_workspace.nnunet_dirs
    )
    with session.progress() as progress:
        return write_recipe(asked.study, options, progress=progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Check:
    study: Path = argument(type=shared.EXISTING)
    recipe: str | None = shared.recipe_field()
    scans: shared.ScanChoice = part(shared.ScanChoice)

    def recipe_for(self, session: Session) -> Recipe:
        """Return the recipe of the study, with the options that were given."""
        recipe = session.recipe(self.recipe, self.study)
        return recipe.with_scans(**given(self.scans))


@command(_Check)
def check(session: Session, asked: _Check) -> Summary:
    """Read and check every case as `convert` does, without converting.

    Where one side was drawn, a picture shows the midline of each case.

    Example:  nnunet-bridge check knee_study -r dataset.toml
    """
    from nnunet_bridge.pipeline.ingest.convert import check_study

    workspace = session.new_workspace
    with session.progress() as progress:
        return check_study(
            asked.study,
            asked.recipe_for(session),
            workspace.raw_dir,
            other_places=workspace.nnunet_dirs,
            pictures_dir=workspace.runs_dir,
            progress=progress,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Convert(_Check):
    force: bool = shared.force_field(
        "Convert finished cases again; overwrite files changed by hand."
    )


@command(_Convert)
def convert(session: Session, asked: _Convert) -> Summary:
    """Convert DICOM series and masks to a raw dataset of nnU-Net.

    Example:  nnunet-bridge convert knee_study -r dataset.toml -w /data/work
    """
    from nnunet_bridge.pipeline.ingest.convert import convert_study

    workspace = session.new_workspace
    with session.progress() as progress:
        return convert_study(
            asked.study,
            asked.recipe_for(session),
            workspace.raw_dir,
            other_places=workspace.nnunet_dirs,
            force=asked.force,
            progress=progress,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    dicom: Path = argument(type=shared.EXISTING)
    out: Path = option(
        "-o", "--out", "Image to write.", type=shared.FILE, metavar="FILE.nii.gz"
    )
    scans: shared.ScanChoice = part(shared.ScanChoice)
    force: bool = shared.force_field("Replace a file that holds another image.")


@command(_Image)
def image(session: Session, asked: _Image) -> Summary:
    """Write one series of a DICOM folder as NIfTI, checked as in `convert`.

    Example:  nnunet-bridge image scan_folder -o scan.nii.gz --series 6
    """
    from nnunet_bridge.formats.dicom import SeriesOptions
    from nnunet_bridge.pipeline.ingest.image import write_image

    options = SeriesOptions(**given(asked.scans))
    with session.progress() as progress:
        return write_image(
            asked.dicom, asked.out, options, force=asked.force, progress=progress
        )
