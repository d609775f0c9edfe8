"""Where the slices of a stack lie: from their positions to one affine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import GeometryError
from nnunet_bridge.core.grid import FloatArray

SLICE_TOLERANCE_MM = 1e-2
"""No slice may lie further than this from where the affine puts it."""


def stack_affine(
    orientation: npt.ArrayLike,
    pixel_spacing_mm: npt.ArrayLike,
    positions_mm: npt.ArrayLike,
) -> FloatArray:
    """Return the affine of a stack of parallel, equally spaced slices.

    Parameters
    ----------
    orientation : (6,) array_like
        *Image Orientation (Patient)*: unit vector along a row, then down a column.
    pixel_spacing_mm : (2,) array_like
        *Pixel Spacing*: between rows, then between columns — in that order.
    positions_mm : (K, 3) array_like
        *Image Position (Patient)* of every slice, in stacking order, K >= 2.

    Returns
    -------
    affine : (4, 4) float64
        Maps (column, row, slice, 1) to (x, y, z, 1) in mm, LPS+.

    Raises
    ------
    GeometryError
        If there are fewer than two slices, or the affine would misplace one by more
        than `SLICE_TOLERANCE_MM`: a slice is missing or repeated.

    Notes
    -----
    DICOM PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1, with the step between slices as
    third column.

    Examples
    --------
    >>> stack_affine([1, 0, 0, 0, 1, 0], [0.7, 0.5], [[0, 0, 0], [0, 0, 3]])
    array([[0.5, 0. , 0. , 0. ],
           [0. , 0.7, 0. , 0. ],
           [0. , 0. , 3. , 0. ],
           [0. , 0. , 0. , 1. ]])
    """
    along_row, down_column = np.asarray(orientation, dtype=np.float64).reshape(2, 3)
    between_rows, between_columns = np.asarray(pixel_spacing_mm, dtype=np.float64)
    positions = np.asarray(positions_mm, dtype=np.float64)

    affine = np.eye(4)
    affine[:3, 0] = along_row * between_columns
    affine[:3, 1] = down_column * between_rows
    affine[:3, 2] = _common_step(positions)
    affine[:3, 3] = positions[0]
    return affine


def _common_step(positions: FloatArray) -> FloatArray:
    """Return the (3,) step in mm that carries the first slice to every other one."""
    if len(positions) < 2:  # noqa: PLR2004 - a step needs two ends
        raise GeometryError("A volume needs at least two slices; the series has one.")
    step: FloatArray = (positions[-1] - positions[0]) / (len(positions) - 1)
    expected = positions[0] + np.outer(np.arange(len(positions)), step)
    drift_mm = np.linalg.norm(positions - expected, axis=1).max()
    if drift_mm > SLICE_TOLERANCE_MM:
        raise GeometryError(_describe_uneven(positions))
    return step


def _describe_uneven(positions: FloatArray) -> str:
    """Name the gap that differs most from the usual one."""
    gaps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    usual = np.median(gaps)
    worst = int(np.abs(gaps - usual).argmax())
    return (
        f"Slices {worst} and {worst + 1} are {gaps[worst]:.2f} mm apart, the others "
        f"{usual:.2f} mm: a slice is missing or repeated, or the spacing varies."
    )
