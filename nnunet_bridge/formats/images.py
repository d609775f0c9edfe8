"""Read images and labelmaps of a raw dataset, whatever ending its files have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_bridge.core.image import Labelmap, LabelTable, Volume, VoxelArray
from nnunet_bridge.formats import nifti

if TYPE_CHECKING:
    from nnunet_bridge.core.findings import Finding
    from nnunet_bridge.core.grid import Grid

NIFTI = (".nii.gz", ".nii")
ENDINGS = (*NIFTI, ".nrrd", ".mha")
"""Endings of the files of a raw dataset that are read."""


def is_labelmap(name: str) -> bool:
    """Whether a file name is that of one labelmap, not of a segmentation of Slicer."""
    return name.endswith(ENDINGS) and not name.startswith(".") and ".seg." not in name


def read_values(file: Path) -> tuple[Grid, VoxelArray]:
    """Read grid and (I, J, K) voxels of an image or labelmap, as stored.

    Raises `Refused` if it is damaged (K19), has no place (K11), or is not 3-D (K08).
    """
    if file.name.endswith(NIFTI):
        return nifti.read_array(file)
    from nnunet_bridge.formats import slicer

    return slicer.read_values(file)[:2]


def read_volume(file: Path) -> Volume:
    """Read a 3-D image; raises as `read_values`."""
    return Volume(*read_values(file))


def read_labelmap(
    file: Path, labels: LabelTable, findings: list[Finding] | None = None
) -> Labelmap:
    """Read a labelmap; `findings` gets what was rounded (K07).

    Raises `Refused` as `read_values`, or if a value is not a label (K06, K07).
    """
    return nifti.labelmap_of(file.name, *read_values(file), labels, findings)


def read_grid(file: Path) -> Grid:
    """Read the grid of an image without its voxels; `Refused` if it has none (K11)."""
    if file.name.endswith(NIFTI):
        return nifti.read_grid(file)
    from nnunet_bridge.formats.volume_header import read_volume_header

    grid = read_volume_header(file).grid
    if grid is None:
        raise nifti.refused("K11", file, "has no place in the patient")
    return grid
