"""The voxel grid: the position of an image in the patient.

One rule holds everywhere in this package: **axis n of an array runs along column n
of the affine**. Arrays are indexed ``[i, j, k]`` (column, row, slice); positions are
millimetres in LPS+, the patient coordinate system of DICOM, ITK and NRRD.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import GeometryError

FloatArray: TypeAlias = npt.NDArray[np.float64]

GRID_TOLERANCE_MM = 1e-3  # two grids match when no voxel centre moves by more than this


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A regular lattice of voxel centres in patient space.

    Grids have no ``==``: positions are measured, so they are compared with
    `matches`, within a stated distance.

    Examples
    --------
    >>> grid = Grid((4, 4, 2), np.diag([0.5, 0.5, 3.0, 1.0]))
    >>> grid.spacing_mm.tolist(), grid.voxel_volume_mm3
    ([0.5, 0.5, 3.0], 0.75)
    """

    shape: tuple[int, int, int]  # number of voxels along i, j and k; each at least 1
    affine: FloatArray
    """(4, 4), read-only. Maps (i, j, k, 1) to (x, y, z, 1) in mm, LPS+."""

    def __post_init__(self) -> None:
        """Freeze the affine and refuse a grid no medical image format can store."""
        affine = np.array(self.affine, dtype=np.float64)
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        if len(self.shape) != 3 or min(self.shape) < 1:  # noqa: PLR2004 - space has three axes
            text = f"A grid needs three positive sizes, got {self.shape}."
            raise GeometryError(text)
        _check_affine(affine)

    @property
    def spacing_mm(self) -> FloatArray:
        """(3,) distance in mm between neighbouring voxel centres along i, j and k."""
        spacing: FloatArray = np.linalg.norm(self.affine[:3, :3], axis=0)
        return spacing

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in cubic millimetres."""
        return float(np.prod(self.spacing_mm))

    @property
    def array_axes(self) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Array axis nearest to x, y and z, and whether each points the same way."""
        directions = self.affine[:3, :3] / self.spacing_mm
        axis_of = max(
            permutations(range(3)),
            key=lambda axes: sum(abs(directions[x, axes[x]]) for x in range(3)),
        )
        return axis_of, tuple(bool(directions[x, axis_of[x]] > 0) for x in range(3))

    @property
    def axis_letters(self) -> str:
        """Side of the patient to which i, j and k run, such as ``"LPS"``.

        Examples
        --------
        >>> Grid((4, 4, 2), np.diag([-0.5, 0.5, 3.0, 1.0])).axis_letters
        'RPS'
        """
        axis_of, runs_forwards = self.array_axes
        letters = [""] * 3
        for x, forwards in enumerate(runs_forwards):
            letters[axis_of[x]] = "LPS"[x] if forwards else "RAI"[x]
        return "".join(letters)

    def to_patient(self, indices: npt.ArrayLike) -> FloatArray:
        """Map (..., 3) voxel indices to (..., 3) positions in mm, LPS+."""
        rotation_and_scale, origin = self.affine[:3, :3], self.affine[:3, 3]
        return np.asarray(indices, dtype=np.float64) @ rotation_and_scale.T + origin

    @property
    def middle_mm(self) -> FloatArray:
        """(3,) position in mm, LPS+, of the middle of the image."""
        return self.to_patient((np.array(self.shape) - 1) / 2)

    def to_voxel(self, positions_mm: npt.ArrayLike) -> FloatArray:
        """Map (..., 3) positions in mm, LPS+, to (..., 3) fractional voxel indices."""
        inverse = np.linalg.inv(self.affine)
        positions = np.asarray(positions_mm, dtype=np.float64)
        indices: FloatArray = positions @ inverse[:3, :3].T + inverse[:3, 3]
        return indices

    def displacement_mm(self, other: Grid) -> float:
        """Return the largest distance in mm between voxel centres of the same index.

        The difference of two affine maps is affine and its length is convex, so the
        worst voxel of a box is always one of its eight corners.
        """
        corners = list(product(*((0, size - 1) for size in self.shape)))
        offsets = self.to_patient(corners) - other.to_patient(corners)
        return float(np.linalg.norm(offsets, axis=-1).max())

    def matches(self, other: Grid, *, tolerance_mm: float = GRID_TOLERANCE_MM) -> bool:
        """Whether both grids have the same voxels at the same positions."""
        return self.shape == other.shape and self.displacement_mm(other) <= tolerance_mm


def plane_of(axis_letters: str) -> str:
    """Return the plane of the slices: ``axial``, ``coronal`` or ``sagittal``.

    Examples
    --------
    >>> plane_of("LPS"), plane_of("LIP")
    ('axial', 'coronal')
    """
    planes = {"L": "sagittal", "R": "sagittal", "P": "coronal", "A": "coronal"}
    return planes.get(axis_letters[2], "axial")


def _check_affine(affine: FloatArray) -> None:
    if affine.shape != (4, 4) or not np.array_equal(affine[3], [0, 0, 0, 1]):
        raise GeometryError(f"Expected a 4 x 4 affine ending in 0 0 0 1, got\n{affine}")
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not np.all(np.isfinite(affine)) or np.any(lengths == 0):
        raise GeometryError(f"The affine does not span the patient:\n{affine}")
    cosines = (axes / lengths).T @ (axes / lengths)
    if not np.allclose(cosines, np.eye(3), atol=1e-4):
        raise GeometryError(
            "The voxel axes are not perpendicular, so NIfTI and NRRD readers would "
            f"disagree about them (a tilted CT gantry?); cosines:\n{cosines.round(4)}"
        )
