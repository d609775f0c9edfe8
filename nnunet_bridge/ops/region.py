"""The slices of a scan that a dataset keeps, and the way back to the whole scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_bridge.core.errors import GeometryError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, Volume


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A range of slices of a grid.

    Examples
    --------
    >>> region = Region(2, 5, Grid((4, 4, 9), np.diag([1.0, 1.0, 3.0, 1.0])))
    >>> region.grid.shape, region.grid.to_patient([0, 0, 0]).tolist()
    ((4, 4, 3), [0.0, 0.0, 6.0])
    """

    first: int
    """The first slice that is kept, counted from 0."""

    end: int
    """One past the last slice that is kept."""

    whole: Grid
    """Of the scan before it was cropped."""

    def __post_init__(self) -> None:
        """Refuse slices that the scan does not have."""
        if not 0 <= self.first < self.end <= self.whole.shape[2]:
            raise GeometryError(
                f"Slices {self.first} to {self.end} are no part of a scan of "
                f"{self.whole.shape[2]} slices."
            )

    @property
    def is_everything(self) -> bool:
        """Whether no slice is left out."""
        return (self.first, self.end) == (0, self.whole.shape[2])

    @property
    def grid(self) -> Grid:
        """Where the kept slices lie."""
        affine = self.whole.affine.copy()
        affine[:3, 3] = self.whole.to_patient([0, 0, self.first])
        size_i, size_j, _ = self.whole.shape
        return Grid((size_i, size_j, self.end - self.first), affine)


def cropped_volume(volume: Volume, region: Region) -> Volume:
    """Return the kept slices of an image on the whole grid."""
    if region.is_everything:
        return volume
    return Volume(region.grid, volume.voxels[:, :, region.first : region.end])


def cropped_labelmap(labelmap: Labelmap, region: Region) -> Labelmap:
    """Return the kept slices of a labelmap on the whole grid."""
    if region.is_everything:
        return labelmap
    kept = labelmap.voxels[:, :, region.first : region.end]
    return Labelmap(region.grid, kept, labelmap.labels)


def put_back(labelmap: Labelmap, region: Region) -> Labelmap:
    """Return a labelmap of the kept slices on the whole grid, background elsewhere.

    Raises
    ------
    GeometryError
        If the labelmap does not lie on the kept slices.
    """
    if not labelmap.grid.matches(region.grid):
        raise GeometryError(
            f"A labelmap of {labelmap.grid.shape} voxels does not lie on slices "
            f"{region.first} to {region.end} of the scan."
        )
    voxels = np.zeros(region.whole.shape, labelmap.voxels.dtype, order="F")
    voxels[:, :, region.first : region.end] = labelmap.voxels
    return Labelmap(region.whole, voxels, labelmap.labels)
