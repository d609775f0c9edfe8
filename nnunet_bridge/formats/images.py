"""Read images and labelmaps of a raw dataset in any format that nnU-Net writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.formats.nifti import labelmap_of, refused
from nnunet_bridge.formats.slicer import read_values
from nnunet_bridge.formats.volume_header import read_volume_header

if TYPE_CHECKING:
    from nnunet_bridge.core.findings import Finding

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Endings of the files of a raw dataset that are read."""


def read_volume(file: Path) -> Volume:
    """Read a 3-D image; raises `Refused` as `slicer.read_values`."""
    grid, voxels, _ = read_values(file)
    return Volume(grid, voxels)


def read_labelmap(
    file: Path, labels: LabelTable, findings: list[Finding] | None = None
) -> Labelmap:
    """Read a labelmap; `findings` gets what was rounded (K07).

    Raises `Refused` as `slicer.read_values`, or if a value is not a label (K06, K07).
    """
    grid, stored, _ = read_values(file)
    return labelmap_of(file.name, grid, stored, labels, findings)


def read_grid(file: Path) -> Grid:
    """Read the grid of an image without its voxels; `Refused` if it has none (K11)."""
    grid = read_volume_header(file).grid
    if grid is None:
        raise refused("K11", file, "has no place in the patient")
    return grid
