"""Where the slices of a stack lie: from their positions to one affine.

A slice is placed by *Image Orientation (Patient)*, *Image Position (Patient)* and
*Pixel Spacing* and by nothing else: not by its file name, its number, its thickness,
or how the patient lay in the scanner (FAULTS G01, G08, G18).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import GeometryError
from nnunet_bridge.core.findings import Finding, Outcome, worst
from nnunet_bridge.core.grid import FloatArray

POSITION_TOLERANCE_MM = 0.1
"""A slice further than this from where the affine puts it is worth a warning ..."""

POSITION_TOLERANCE = 0.02
"""... and so is one further than this share of the slice spacing, if that is less."""

UNEVEN_LIMIT = 0.10
"""Beyond this share of the slice spacing, a stack is no regular grid."""

SAME_ORIENTATION = 1e-4
"""Cosines this near are equal: 0.04 mm over 384 mm."""

SIMILAR_ORIENTATION = 1e-3
"""Cosines this near still belong to one stack, with a warning."""

PIXEL_SPACING_RANGE_MM = (0.05, 10.0)
SLICE_SPACING_RANGE_MM = (0.1, 20.0)

_FEWEST_SLICES = 2
_ROUNDING = 1e-5
_COINCIDE_MM = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class StackPlacement:
    """Where a stack lies, how well that describes it, and what was noticed."""

    affine: FloatArray
    """(4, 4) maps (column, row, slice, 1) to (x, y, z, 1) in mm, LPS+."""

    max_error_mm: float
    """Largest distance of a slice from where the affine puts it."""

    findings: tuple[Finding, ...]
    """A refusal among them means that no affine describes this stack."""


def common_orientation(
    orientations: npt.ArrayLike,
) -> tuple[FloatArray, tuple[Finding, ...]]:
    """Return the one orientation of a stack, orthonormal.

    Parameters
    ----------
    orientations : (K, 6) array_like
        *Image Orientation (Patient)* of every slice.

    Returns
    -------
    orientation : (6,) float64
        The mean, made of two perpendicular unit vectors.
    findings : tuple of Finding
        G10 if the slices differ, G11 if their cosines had to be corrected or cannot be.
    """
    cosines = np.asarray(orientations, dtype=np.float64).reshape(-1, 6)
    findings = [*_varying(cosines), *_skewed(cosines)]
    along_row, down_column = cosines.mean(axis=0).reshape(2, 3)
    if worst(findings) is Outcome.REFUSED:
        return np.concatenate([along_row, down_column]), tuple(findings)
    # The polar factor is the orthonormal pair nearest to the measured one.
    left, _, right = np.linalg.svd(
        np.stack([along_row, down_column], axis=1), full_matrices=False
    )
    return (left @ right).T.reshape(6), tuple(findings)


def place_stack(
    orientation: npt.ArrayLike,
    pixel_spacing_mm: npt.ArrayLike,
    positions_mm: npt.ArrayLike,
) -> StackPlacement:
    """Fit one affine to a stack of parallel slices and say how well it fits.

    Parameters
    ----------
    orientation : (6,) array_like
        Perpendicular unit vectors along a row, then down a column.
    pixel_spacing_mm : (2,) array_like
        *Pixel Spacing*: between rows, then between columns — in that order.
    positions_mm : (K, 3) array_like
        *Image Position (Patient)* of every slice, K >= 2, ascending along
        row x column, so that the affine is right-handed.

    Returns
    -------
    placement : StackPlacement
        With G03 (missing slice), G06 (uneven), G07 (sheared), G13 (spacing out of
        range) or G17 (all in one place) among its findings where they apply.

    Notes
    -----
    DICOM PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1. The spacing is the distance of the
    last slice from the first, divided by the number of gaps: a single jittered gap
    cannot tilt the result (G05).

    Examples
    --------
    >>> place_stack([1, 0, 0, 0, 1, 0], [0.7, 0.5], [[0, 0, 0], [0, 0, 3]]).affine
    array([[0.5, 0. , 0. , 0. ],
           [0. , 0.7, 0. , 0. ],
           [0. , 0. , 3. , 0. ],
           [0. , 0. , 0. , 1. ]])
    """
    along_row, down_column = np.asarray(orientation, dtype=np.float64).reshape(2, 3)
    between_rows, between_columns = np.asarray(pixel_spacing_mm, dtype=np.float64)
    positions = np.asarray(positions_mm, dtype=np.float64).reshape(-1, 3)
    if len(positions) < _FEWEST_SLICES:
        raise GeometryError(
            "A volume needs at least two slices; the series has one.", code="D15"
        )

    normal = np.cross(along_row, down_column)
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    affine = np.eye(4)
    affine[:3, 0] = along_row * between_columns
    affine[:3, 1] = down_column * between_rows
    affine[:3, 2] = normal * (step @ normal)
    affine[:3, 3] = positions[0]

    fitted = positions[0] + np.outer(np.arange(len(positions)), affine[:3, 2])
    error_mm = float(np.linalg.norm(positions - fitted, axis=1).max())
    findings = _unusable_spacing(between_rows, between_columns)
    findings += _misfits(positions, normal, step)
    return StackPlacement(affine, error_mm, tuple(findings))


def stack_affine(
    orientation: npt.ArrayLike,
    pixel_spacing_mm: npt.ArrayLike,
    positions_mm: npt.ArrayLike,
) -> FloatArray:
    """Return the affine of a stack of parallel, equally spaced slices, or refuse.

    Parameters
    ----------
    orientation, pixel_spacing_mm, positions_mm
        As `place_stack` takes them.

    Returns
    -------
    affine : (4, 4) float64
        Maps (column, row, slice, 1) to (x, y, z, 1) in mm, LPS+.

    Raises
    ------
    GeometryError
        If `place_stack` has anything to say about the stack.

    Examples
    --------
    >>> stack_affine([1, 0, 0, 0, 1, 0], [1, 1], [[0, 0, 0], [0, 0, 3], [0, 0, 9]]
    ... )  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    nnunet_bridge.core.errors.GeometryError: Slices 1 and 2 are 6.00 mm apart, ...
    """
    placement = place_stack(orientation, pixel_spacing_mm, positions_mm)
    if placement.findings:
        raise GeometryError(
            "\n".join(finding.message for finding in placement.findings),
            code=placement.findings[0].code,
        )
    return placement.affine


def position_tolerance_mm(spacing_mm: float) -> float:
    """Return how far a slice may lie from its place without a word (FAULTS R1)."""
    return min(POSITION_TOLERANCE_MM, POSITION_TOLERANCE * abs(spacing_mm))


def _varying(cosines: FloatArray) -> list[Finding]:
    spread = float(np.ptp(cosines, axis=0).max())
    if spread <= SAME_ORIENTATION + _ROUNDING:
        return []
    return [
        Finding(
            "G10",
            Outcome.WARNED if spread <= 2 * SIMILAR_ORIENTATION else Outcome.REFUSED,
            f"The slices are not quite parallel: their direction cosines differ by up "
            f"to {spread:.1e}; the mean is used.",
        )
    ]


def _skewed(cosines: FloatArray) -> list[Finding]:
    rows, columns = cosines[:, :3], cosines[:, 3:]
    lengths = np.linalg.norm(np.stack([rows, columns]), axis=2)
    error = float(
        max(
            np.abs(lengths - 1).max(),
            np.abs(np.einsum("ki,ki->k", rows, columns)).max(),
        )
    )
    if error <= _ROUNDING:
        return []
    if error <= SIMILAR_ORIENTATION:
        return [
            Finding(
                "G11",
                Outcome.FIXED,
                f"The direction cosines were off by {error:.1e} and were made "
                "perpendicular unit vectors.",
            )
        ]
    return [
        Finding(
            "G11",
            Outcome.REFUSED,
            f"The direction cosines are not perpendicular unit vectors (off by "
            f"{error:.2g}, limit {SIMILAR_ORIENTATION}): export the series again.",
        )
    ]


def _unusable_spacing(between_rows: float, between_columns: float) -> list[Finding]:
    low, high = PIXEL_SPACING_RANGE_MM
    if low <= between_rows <= high and low <= between_columns <= high:
        return []
    return [
        Finding(
            "G13",
            Outcome.REFUSED,
            f"Pixel Spacing is {between_rows:g} x {between_columns:g} mm; between "
            f"{low:g} and {high:g} mm is possible. Export the series again.",
        )
    ]


def _misfits(
    positions: FloatArray, normal: FloatArray, step: FloatArray
) -> list[Finding]:
    """Name what keeps the slices from being a regular, upright stack."""
    heights = (positions - positions[0]) @ normal
    spacing = float(step @ normal)
    low, high = SLICE_SPACING_RANGE_MM
    if np.ptp(positions, axis=0).max() < _COINCIDE_MM:
        return [
            Finding(
                "G17",
                Outcome.REFUSED,
                f"All {len(positions)} slices have the same Image Position (Patient): "
                "nothing says in which order they lie. Export the series again.",
            )
        ]
    if not low <= spacing <= high:
        return [
            Finding(
                "G13",
                Outcome.REFUSED,
                f"The slices are {spacing:.3g} mm apart on average; between {low:g} "
                f"and {high:g} mm is possible. Export the series again.",
            )
        ]
    return [*_sheared(step, normal, len(positions)), *_uneven(heights, positions, step)]


def _sheared(step: FloatArray, normal: FloatArray, count: int) -> list[Finding]:
    sideways = float(np.linalg.norm(step - (step @ normal) * normal))
    if sideways * (count - 1) <= position_tolerance_mm(float(step @ normal)):
        return []
    angle = float(np.degrees(np.arctan2(sideways, step @ normal)))
    return [
        Finding(
            "G07",
            Outcome.REFUSED,
            f"The stack is sheared: each slice lies {sideways:.3f} mm beside the one "
            f"before ({angle:.1f} degrees, {sideways * (count - 1):.2f} mm over the "
            "stack). NIfTI readers disagree about sheared images: resample it onto an "
            "upright grid first.",
        )
    ]


def _uneven(
    heights: FloatArray, positions: FloatArray, step: FloatArray
) -> list[Finding]:
    """Find missing slices (G03), two interleaved stacks (D10) and jitter (G06)."""
    regular = positions[0] + np.outer(np.arange(len(positions)), step)
    error = float(np.linalg.norm(positions - regular, axis=1).max())
    spacing = float(np.linalg.norm(step))
    if error <= position_tolerance_mm(spacing):
        return []
    gaps = np.diff(heights)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])  # of two, the smaller
    holes = np.flatnonzero(gaps > 1.5 * usual)
    rest = np.delete(gaps, holes)
    if len(holes) and np.abs(rest - usual).max(initial=0.0) <= UNEVEN_LIMIT * usual:
        if len(holes) <= max(1, len(gaps) // 4):
            return [_missing(heights, gaps, usual, list(holes))]
    elif _two_stations(heights):
        return [
            Finding(
                "D10",
                Outcome.REFUSED,
                "The series holds two stacks that overlap without sharing a grid: gaps "
                f"of {gaps.min():.2f} to {gaps.max():.2f} mm alternate. Export the "
                "composed series of the scanner, or each station on its own.",
            )
        ]
    return [_irregular(heights, gaps, usual, error)]


def _missing(
    heights: FloatArray, gaps: FloatArray, usual: float, holes: list[int]
) -> Finding:
    count = int(sum(round(gaps[hole] / usual) - 1 for hole in holes))
    first = holes[0]
    further = f" (and {len(holes) - 1} more such gaps)" if len(holes) > 1 else ""
    return Finding(
        "G03",
        Outcome.REFUSED,
        f"Slices {first} and {first + 1} are {gaps[first]:.2f} mm apart, the others "
        f"{usual:.2f} mm: {count} slice{' is' if count == 1 else 's are'} missing "
        f"between {heights[first]:.2f} and {heights[first + 1]:.2f} mm from the first "
        f"slice{further}. Export the whole series again.",
    )


def _irregular(
    heights: FloatArray, gaps: FloatArray, usual: float, error: float
) -> Finding:
    spacing = float(heights[-1]) / (len(heights) - 1)
    hopeless = error > UNEVEN_LIMIT * spacing
    far = int(np.abs(gaps - usual).argmax())
    return Finding(
        "G06",
        Outcome.REFUSED if hopeless else Outcome.WARNED,
        f"Slices {far} and {far + 1} are {gaps[far]:.2f} mm apart, most others "
        f"{usual:.2f} mm: the spacing varies, and a regular grid of {spacing:.3f} mm "
        f"misplaces a slice by {error:.2f} mm"
        + (
            f" (limit {UNEVEN_LIMIT * spacing:.2f} mm). A slice may be missing or "
            "repeated: export the series again."
            if hopeless
            else "."
        ),
    )


def _two_stations(heights: FloatArray) -> bool:
    """Whether two regular stacks interleave, each of them alone at one end."""
    gaps = np.diff(heights)
    period = float(gaps.max())
    if gaps.min() > (1 - UNEVEN_LIMIT) * period:
        return False
    phases = np.mod(heights - heights[0], period)
    off_grid = np.minimum(phases, period - phases) > UNEVEN_LIMIT * period
    if off_grid[1] or not off_grid[-2:].all():
        return False
    return all(
        bool(
            np.all(
                np.abs(np.diff(heights[part]) - period) <= POSITION_TOLERANCE * period
            )
        )
        for part in (off_grid, ~off_grid)
    )
