"""From the positions of the slices of a stack to one affine.

*Image Orientation (Patient)*, *Image Position (Patient)* and *Pixel Spacing* alone
determine the position of a slice: not its file name, number or thickness, or how the
patient lies in the scanner (FAULTS G01, G08, G18).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import GeometryError
from nnunet_bridge.core.findings import Finding, Outcome, worst
from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.units import counted

POSITION_TOLERANCE_MM = 0.1
"""A slice further than this from its place on the affine causes a warning ..."""

POSITION_TOLERANCE = 0.02
"""... and so does one further than this share of the slice spacing, if less."""

UNEVEN_LIMIT = 0.10
"""A stack with a larger error, as a share of the slice spacing, is refused."""

SAME_ORIENTATION = 1e-4
"""Cosines with a smaller difference are equal: 0.04 mm over 384 mm."""

SIMILAR_ORIENTATION = 1e-3
"""Cosines with a smaller difference belong to one stack, with a warning."""

PIXEL_SPACING_RANGE_MM = (0.05, 10.0)
SLICE_SPACING_RANGE_MM = (0.1, 20.0)

_FEWEST_SLICES = 2
_ROUNDING = 1e-5
_COINCIDE_MM = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class StackPlacement:
    """The affine of a stack, its largest error, and the findings."""

    affine: FloatArray
    """(4, 4) maps (column, row, slice, 1) to (x, y, z, 1) in mm, LPS+."""

    max_error_mm: float  # largest distance of a slice from its place on the affine
    findings: tuple[Finding, ...]
    """A refusal among them: no affine describes this stack."""


def common_orientation(
    orientations: npt.ArrayLike,
) -> tuple[FloatArray, tuple[Finding, ...]]:
    """Return the (6,) mean orientation of a stack, as two perpendicular unit vectors.

    `orientations` are (K, 6): *Image Orientation (Patient)* of every slice. Findings:
    G10 if the slices differ, G11 if their cosines had to be corrected or cannot be.
    """
    cosines = np.asarray(orientations, dtype=np.float64)
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
    """Fit one affine to a stack of parallel slices and report its errors.

    Parameters
    ----------
    orientation : (6,) array_like
        Perpendicular unit vectors along a row, then down a column.
    pixel_spacing_mm : (2,) array_like
        *Pixel Spacing*: between rows, then between columns — in that order.
    positions_mm : (K, 3) array_like
        *Image Position (Patient)* of every slice, K >= 2, ascending along
        row x column, so that the affine is right-handed.

    Notes
    -----
    Findings: G03 (missing slice), G06 (uneven), G07 (sheared), G13 (spacing out of
    range), G17 (all in one place).

    DICOM PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1. The spacing is the distance of the
    last slice from the first, divided by the number of gaps, so that a single jittered
    gap does not tilt the result (G05).
    """
    along_row, down_column = np.asarray(orientation, dtype=np.float64).reshape(2, 3)
    between_rows, between_columns = np.asarray(pixel_spacing_mm, dtype=np.float64)
    positions = np.asarray(positions_mm, dtype=np.float64)
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
    findings = [*_unusable_spacing(between_rows, between_columns)]
    findings += _misfits(positions, normal, step)
    return StackPlacement(affine, error_mm, tuple(findings))


def position_tolerance_mm(spacing_mm: float) -> float:
    """Return the largest distance of a slice from its place without a warning (R1)."""
    return min(POSITION_TOLERANCE_MM, POSITION_TOLERANCE * abs(spacing_mm))


def _varying(cosines: FloatArray) -> Iterator[Finding]:
    spread = float(np.ptp(cosines, axis=0).max())
    text = (
        f"The slices are not parallel: their direction cosines differ by {spread:.1e}"
    )
    if spread > 2 * SIMILAR_ORIENTATION:
        yield Finding("G10", Outcome.REFUSED, f"{text}. Export the series again.")
    elif spread > SAME_ORIENTATION + _ROUNDING:
        yield Finding("G10", Outcome.WARNED, f"{text}; the mean is used.")


def _skewed(cosines: FloatArray) -> Iterator[Finding]:
    rows, columns = cosines[:, :3], cosines[:, 3:]
    lengths = np.linalg.norm(np.stack([rows, columns]), axis=2)
    error = float(
        max(
            np.abs(lengths - 1).max(),
            np.abs(np.einsum("ki,ki->k", rows, columns)).max(),
        )
    )
    if error > SIMILAR_ORIENTATION:
        yield Finding(
            "G11",
            Outcome.REFUSED,
            f"The direction cosines are not perpendicular unit vectors (off by "
            f"{error:.2g}, limit {SIMILAR_ORIENTATION}). Export the series again.",
        )
    elif error > _ROUNDING:
        yield Finding(
            "G11",
            Outcome.FIXED,
            f"The direction cosines were off by {error:.1e} and were made "
            "perpendicular unit vectors.",
        )


def _unusable_spacing(between_rows: float, between_columns: float) -> Iterator[Finding]:
    low, high = PIXEL_SPACING_RANGE_MM
    if low <= between_rows <= high and low <= between_columns <= high:
        return
    yield Finding(
        "G13",
        Outcome.REFUSED,
        f"Pixel Spacing is {between_rows:g} x {between_columns:g} mm, outside the "
        f"possible {low:g} to {high:g} mm. Export the series again.",
    )


def _misfits(
    positions: FloatArray, normal: FloatArray, step: FloatArray
) -> Iterator[Finding]:
    """Yield the deviations of the slices from a regular, upright stack."""
    heights = (positions - positions[0]) @ normal
    spacing = float(step @ normal)
    low, high = SLICE_SPACING_RANGE_MM
    if np.ptp(positions, axis=0).max() < _COINCIDE_MM:
        yield Finding(
            "G17",
            Outcome.REFUSED,
            f"All {len(positions)} slices have the same Image Position (Patient), so "
            "their order is unknown. Export the series again.",
        )
    elif not low <= spacing <= high:
        yield Finding(
            "G13",
            Outcome.REFUSED,
            f"The slices are {spacing:.3g} mm apart on average, outside the possible "
            f"{low:g} to {high:g} mm. Export the series again.",
        )
    else:
        yield from _sheared(step, normal, len(positions))
        yield from _uneven(heights, positions, step)


def _sheared(step: FloatArray, normal: FloatArray, count: int) -> Iterator[Finding]:
    sideways = float(np.linalg.norm(step - (step @ normal) * normal))
    if sideways * (count - 1) <= position_tolerance_mm(float(step @ normal)):
        return
    angle = float(np.degrees(np.arctan2(sideways, step @ normal)))
    yield Finding(
        "G07",
        Outcome.REFUSED,
        f"The stack is sheared: each slice lies {sideways:.3f} mm beside the one "
        f"before ({angle:.1f} degrees, {sideways * (count - 1):.2f} mm over the "
        "stack). NIfTI readers disagree about sheared images. Resample it onto an "
        "upright grid first.",
    )


def _uneven(
    heights: FloatArray, positions: FloatArray, step: FloatArray
) -> Iterator[Finding]:
    """Yield missing slices (G03), two interleaved stacks (D10) or jitter (G06)."""
    regular = positions[0] + np.outer(np.arange(len(positions)), step)
    error = float(np.linalg.norm(positions - regular, axis=1).max())
    spacing = float(np.linalg.norm(step))
    if error <= position_tolerance_mm(spacing):
        return
    gaps = np.diff(heights)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])  # the smaller of two
    holes = np.flatnonzero(gaps > 1.5 * usual)
    rest = np.delete(gaps, holes)
    regular_but_for_holes = (
        len(holes) > 0 and np.abs(rest - usual).max(initial=0.0) <= UNEVEN_LIMIT * usual
    )
    if regular_but_for_holes and len(holes) <= max(1, len(gaps) // 4):
        yield _missing(heights, gaps, usual, list(holes))
    elif not regular_but_for_holes and _two_stations(heights):
        yield Finding(
            "D10",
            Outcome.REFUSED,
            "The series holds two stacks that overlap without a common grid: gaps of "
            f"{gaps.min():.2f} to {gaps.max():.2f} mm alternate. Export the composed "
            "series of the scanner, or each station on its own.",
        )
    else:
        yield _irregular(heights, gaps, usual, error)


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
        f"{usual:.2f} mm: {counted(count, 'slice', ('is', 'are'))} missing "
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
    """Whether two regular stacks interleave, each of them alone at one end.

    The largest gap is the spacing of both. The stack that starts first has the phase 0;
    the other one has any phase between two of its slices.
    """
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
