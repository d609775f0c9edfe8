"""A stack that is no regular, upright grid becomes one: by linear interpolation.

Nothing here happens unless a user asked for it: interpolated voxels are not what the
scanner measured (FAULTS G06, G07).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.image import VoxelArray
from nnunet_bridge.ops.planes import position_tolerance_mm

_WHOLE = 1e-3
"""A shift this near to a whole number of pixels is one: nothing is interpolated."""


@dataclass(frozen=True, slots=True, eq=False)
class Restack:
    """How the slices of a stack come onto a regular, upright grid."""

    affine: FloatArray
    """(4, 4) of the new grid; its voxel (0, 0, 0) need not be one of the old."""

    heights_mm: FloatArray
    """(K,) of the old slices above the first, along the normal."""

    shifts: FloatArray
    """(K, 2) columns and rows by which each old slice lies further than the first of
    the new grid; not negative."""

    new_heights_mm: FloatArray
    """(L,) of the new slices."""

    shape: tuple[int, int, int]
    """Of the new grid."""

    interpolated: tuple[int, ...]
    """New slices that lie at no old one's place."""


def plan_restack(
    affine: FloatArray, positions_mm: FloatArray, shape: tuple[int, int, int]
) -> Restack:
    """Return the regular, upright grid of a stack, and the way onto it.

    Parameters
    ----------
    affine : (4, 4) float64
        Of the stack as if it were regular: only its in-plane axes and its first
        position count.
    positions_mm : (K, 3) float64
        Where the first voxel of every slice lies, ascending along the normal.
    shape : (int, int, int)
        Columns, rows, slices.

    Notes
    -----
    The new spacing divides the height of the stack evenly and is as near as possible
    to the usual gap. The new grid of a sheared stack is wider: it holds all old voxels.
    """
    across, down = affine[:3, 0], affine[:3, 1]
    sizes = np.linalg.norm([across, down], axis=1)
    normal = np.cross(across, down) / sizes.prod()
    offsets = positions_mm - positions_mm[0]
    heights = offsets @ normal
    shifts = np.stack([offsets @ across, offsets @ down], axis=1) / sizes**2
    shifts = np.where(
        np.abs(shifts - np.rint(shifts)) < _WHOLE, np.rint(shifts), shifts
    )
    start = np.floor(shifts.min(axis=0))
    shifts = shifts - start
    wider = np.ceil(shifts.max(axis=0)).astype(int)

    gaps = np.diff(heights)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    new_heights = np.linspace(0, heights[-1], round(heights[-1] / usual) + 1)
    spacing = float(new_heights[1])
    away = np.abs(new_heights[:, None] - heights[None, :]).min(axis=1)
    upright = np.array(affine)
    upright[:3, 2] = normal * spacing
    upright[:3, 3] = positions_mm[0] + across * start[0] + down * start[1]
    return Restack(
        upright,
        heights,
        shifts,
        new_heights,
        (shape[0] + int(wider[0]), shape[1] + int(wider[1]), len(new_heights)),
        tuple(np.flatnonzero(away > position_tolerance_mm(spacing)).tolist()),
    )


def restacked(voxels: VoxelArray, plan: Restack) -> VoxelArray:
    """Return the voxels on the new grid.

    Parameters
    ----------
    voxels : (I, J, K) array
        As the scanner stacked them.
    plan : Restack
        From `plan_restack`.

    Returns
    -------
    voxels : array of `plan.shape`
        Of the same type, whole numbers rounded; Fortran-ordered. Where no old slice
        reaches: the smallest value.
    """
    fill = voxels.min()
    new = np.empty(plan.shape, voxels.dtype, order="F")
    above = np.clip(
        np.searchsorted(plan.heights_mm, plan.new_heights_mm),
        1,
        len(plan.heights_mm) - 1,
    )
    for index, height in enumerate(plan.new_heights_mm):
        upper = int(above[index])
        low, high = plan.heights_mm[upper - 1 : upper + 1]
        weight = min(1.0, max(0.0, float((height - low) / (high - low))))
        plane = np.zeros(plan.shape[:2])
        for k, share in ((upper - 1, 1 - weight), (upper, weight)):
            if share > 0:
                plane += share * _shifted(voxels[:, :, k], plan, k, fill)
        new[:, :, index] = np.rint(plane) if new.dtype.kind in "iu" else plane
    return new


def _shifted(plane: VoxelArray, plan: Restack, k: int, fill: Any) -> FloatArray:  # noqa: ANN401 - one voxel's value
    """Return slice `k` where it lies on the new grid, by bilinear interpolation."""
    columns, rows = plane.shape
    whole = np.floor(plan.shifts[k]).astype(int)
    part = plan.shifts[k] - whole
    moved: npt.NDArray[np.float64] = np.full(plan.shape[:2], fill, np.float64)
    target = moved[whole[0] : whole[0] + columns, whole[1] : whole[1] + rows]
    target[...] = plane
    for axis in (0, 1):
        if part[axis] > 0:
            before = np.roll(moved, 1, axis)
            before[(slice(None),) * axis + (0,)] = fill
            moved = (1 - part[axis]) * moved + part[axis] * before
    return moved
