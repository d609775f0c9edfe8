"""Interpolate an irregular or sheared stack onto a regular, upright grid.

Only on request: interpolated voxels are not what the scanner measured (FAULTS G06,
G07).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.image import VoxelArray
from nnunet_bridge.ops.planes import position_tolerance_mm

_WHOLE = 1e-3
"""A shift this near to whole pixels is rounded, so that nothing is interpolated."""


@dataclass(frozen=True, slots=True, eq=False)
class Restack:
    """The map of the slices of a stack onto a regular, upright grid."""

    affine: FloatArray
    """(4, 4) affine of the new grid; its first voxel may lie outside the old stack."""

    heights_mm: FloatArray
    """(K,) heights of the old slices above the first, along the normal."""

    shifts: FloatArray
    """(K, 2) columns and rows from the first voxel of the new grid to that of each old
    slice; not negative."""

    new_heights_mm: FloatArray  # (L,) heights of the new slices
    shape: tuple[int, int, int]  # shape of the new grid
    interpolated: tuple[int, ...]  # new slices that do not coincide with an old one


def plan_restack(
    affine: FloatArray, positions_mm: FloatArray, shape: tuple[int, int, int]
) -> Restack:
    """Plan the interpolation of a stack onto a regular, upright grid.

    Only the in-plane axes of the `affine` are used. `positions_mm` are (K, 3), of the
    first voxel of every slice, ascending along the normal.

    The new spacing divides the height of the stack evenly and is as near as possible
    to the usual gap. The new grid of a sheared stack is wider: it holds all old voxels.
    """
    # In-plane axes of one pixel, and the unit normal of the slices.
    across, down = affine[:3, 0], affine[:3, 1]
    sizes = np.linalg.norm([across, down], axis=1)
    normal = np.cross(across, down) / sizes.prod()
    # Split the offset of every slice from the first one: a height along the normal, and
    # a shift within the plane in pixels.
    offsets = positions_mm - positions_mm[0]
    heights = offsets @ normal
    shifts = np.stack([offsets @ across, offsets @ down], axis=1) / sizes**2
    shifts = np.where(
        np.abs(shifts - np.rint(shifts)) < _WHOLE, np.rint(shifts), shifts
    )
    # The new grid starts at the smallest shift and is as much wider as the slices are
    # shifted against each other.
    start = np.floor(shifts.min(axis=0))
    shifts = shifts - start
    wider = np.ceil(shifts.max(axis=0)).astype(int)

    # Divide the height of the stack evenly, as near as possible to the usual gap: the
    # lower median, which the few large gaps of missing slices do not change.
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
    """Interpolate the voxels of a stack onto its new grid.

    The result has `plan.shape` and the same type, integers rounded, Fortran-ordered.
    Voxels outside the old slices get the smallest value.
    """
    fill = voxels.min()
    new = np.empty(plan.shape, voxels.dtype, order="F")
    above = np.clip(
        np.searchsorted(plan.heights_mm, plan.new_heights_mm),
        1,
        len(plan.heights_mm) - 1,
    )
    # Each new slice is the mean of the two old slices around it, weighted by distance.
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
    """Return slice `k` at its position on the new grid, by bilinear interpolation.

    Whole pixels are copied to their place; the remaining part of a pixel is a weighted
    mean with the previous pixel, axis by axis.
    """
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
