"""A range of slices of a scan: requested, cut out, and put back on the whole scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_bridge.core.errors import GeometryError, UsageError
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.core.grid import FloatArray, Grid
from nnunet_bridge.core.image import Labelmap, Volume

MARGIN_MM = 20.0  # default margin on both sides of what the first pass finds

_FROM_MM_TO_SLICE = 1e-3
"""A slice whose centre lies this little outside a range still belongs to it."""


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A range of slices of a grid."""

    first: int  # the first slice that is kept, counted from 0
    end: int  # one past the last slice that is kept
    whole: Grid  # of the scan before it was cropped

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


@dataclass(frozen=True, slots=True)
class RegionRequest:
    """The slices to predict, by number, by position, or found automatically.

    All slices by default.
    """

    first: int | None = None  # the first slice, counted from 0 as `convert` counts
    end: int | None = None  # one past the last slice
    from_mm: float | None = None
    """Lowest position of a slice centre; see `slice_positions_mm`."""

    to_mm: float | None = None  # highest position of a slice centre
    auto: bool = False  # whether a first pass finds the slices
    margin_mm: float = MARGIN_MM  # margin on both sides of what the first pass finds

    def __post_init__(self) -> None:
        """Refuse a range that is empty, and more than one kind of range."""
        by_number = self.first is not None or self.end is not None
        if by_number + self._by_position + self.auto > 1:
            raise UsageError(
                "Give slice numbers (--slices), positions (--from-mm, --to-mm) or "
                "--region auto, not several of them."
            )
        if (self.first or 0) < 0 or (self.end is not None and self.end < 1):
            raise UsageError("Slices are counted from 0: --slices 400:1015.")
        if self.end is not None and self.end <= (self.first or 0):
            raise UsageError(f"--slices {self.describe()} holds no slice.")
        low = -np.inf if self.from_mm is None else self.from_mm
        if self.to_mm is not None and self.to_mm < low:
            raise UsageError(f"--from-mm {low:g} lies beyond --to-mm.")

    @classmethod
    def from_words(
        cls,
        *,
        slices: str | None = None,
        **options: Any,  # noqa: ANN401 - the fields
    ) -> RegionRequest:
        """Parse the options of a command; an option of None is not given.

        Raises UsageError if a word is not valid, or the options exclude each other.
        """
        given = {name: value for name, value in options.items() if value is not None}
        if "margin_mm" in given and "auto" not in given:
            raise UsageError("--margin-mm needs --region auto.")
        if slices is None:
            return cls(**given)
        first, colon, end = slices.replace(" ", "").partition(":")
        if not colon or any(part and not part.isdecimal() for part in (first, end)):
            raise UsageError(
                f"--slices {slices} is not a range: write the first slice and one past "
                "the last, such as 400:1015, 400: or :615."
            )
        return cls(int(first) if first else 0, int(end) if end else None, **given)

    @property
    def _by_position(self) -> bool:
        return self.from_mm is not None or self.to_mm is not None

    @property
    def is_everything(self) -> bool:
        """Whether all slices are requested."""
        return self == RegionRequest(margin_mm=self.margin_mm)

    def describe(self) -> str:
        """Return the request as text, such as ``400:1015`` or ``-20..35 mm``."""
        if self.auto:
            return f"auto, {self.margin_mm:g} mm margin"
        if self._by_position:
            low = "" if self.from_mm is None else f"{self.from_mm:g}"
            high = "" if self.to_mm is None else f"{self.to_mm:g}"
            return f"{low}..{high} mm"
        return f"{self.first or 0}:{'' if self.end is None else self.end}"

    def resolve(self, grid: Grid) -> Region:
        """Return the requested slices of an image; not for `auto`.

        Raises Refused (K20) if the image has no such slices; names those that it has.
        """
        if self._by_position:
            return self._by_positions_of(grid)
        slices = grid.shape[2]
        first, end = self.first or 0, slices if self.end is None else self.end
        if first >= slices or end > slices:
            raise Refused.because(
                "K20",
                f"--slices {self.describe()} is not in the image: it has the slices 0 "
                f"to {slices - 1}, all of which are 0:{slices}.",
            )
        return Region(first, end, grid)

    def _by_positions_of(self, grid: Grid) -> Region:
        positions_mm = slice_positions_mm(grid)
        low = -np.inf if self.from_mm is None else self.from_mm - _FROM_MM_TO_SLICE
        high = np.inf if self.to_mm is None else self.to_mm + _FROM_MM_TO_SLICE
        kept = np.flatnonzero((positions_mm >= low) & (positions_mm <= high))
        if not kept.size:
            raise Refused.because(
                "K20",
                f"No slice lies at {self.describe()}: the slices of the image lie from "
                f"{positions_mm.min():.1f} to {positions_mm.max():.1f} mm.",
            )
        return Region(int(kept[0]), int(kept[-1]) + 1, grid)


def slice_positions_mm(grid: Grid) -> FloatArray:
    """Return the (K,) position of every slice along the nearest axis of the patient.

    The coordinate of the centre of each slice, LPS+: z (towards the head) of axial
    slices, y (towards the back) of coronal, x (towards the left) of sagittal ones. An
    oblique stack has the same coordinate of each slice's centre.
    """
    axis_of, _ = grid.array_axes
    middle = [(size - 1) / 2 for size in grid.shape[:2]]
    centres = [[*middle, k] for k in range(grid.shape[2])]
    positions: FloatArray = grid.to_patient(centres)[:, axis_of.index(2)]
    return positions


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

    Raises GeometryError if the labelmap does not lie on the kept slices.
    """
    if not labelmap.grid.matches(region.grid):
        raise GeometryError(
            f"A labelmap of {labelmap.grid.shape} voxels does not lie on slices "
            f"{region.first} to {region.end} of the scan."
        )
    voxels = np.zeros(region.whole.shape, labelmap.voxels.dtype, order="F")
    voxels[:, :, region.first : region.end] = labelmap.voxels
    return Labelmap(region.whole, voxels, labelmap.labels)
