"""Which slices of a new image are predicted: those that are named, or that are found.

A stack of a whole body holds many slices in which none of the structures can be. They
cost time and memory, and a network that never saw a chest invents bones in it. The
region is a range of slices; the labels are put back on all of them, background outside.

The first pass takes a slice every few millimetres and one fold, a 2d one if there is
one: it judges each slice by itself, so a tenth of the slices costs a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.core.grid import FloatArray, Grid
from nnunet_bridge.core.image import BoolArray, LabelTable, Volume
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.nifti import read_labelmap, write_volume
from nnunet_bridge.nnunet.commands import Resources
from nnunet_bridge.nnunet.names import FILE_ENDING, Workspace
from nnunet_bridge.ops.components import connected
from nnunet_bridge.ops.region import Region
from nnunet_bridge.pipeline.models.choose import Model, choose_model
from nnunet_bridge.pipeline.prediction.network import IMAGES, predict_folder

COARSE_MM = 5.0
"""The first pass takes a slice about every so many millimetres."""

MARGIN_MM = 20.0
"""How much is kept beyond what the first pass found, unless something else is said."""

_SPECK_SHARE = 0.01
"""A piece below this share of the largest one does not widen the region."""

_FROM_MM_TO_SLICE = 1e-3
"""A slice whose centre lies this little outside a range still belongs to it."""


@dataclass(frozen=True, slots=True)
class RegionWish:
    """Which slices are to be predicted; all of them if nothing is said."""

    first: int | None = None
    """The first slice, counted from 0 as `convert` counts."""

    end: int | None = None
    """One past the last slice."""

    from_mm: float | None = None
    """Slices whose centre lies at or beyond this place; see `slice_positions_mm`."""

    to_mm: float | None = None
    auto: bool = False
    """Whether a first pass finds the slices."""

    margin_mm: float = MARGIN_MM
    """What is kept on both sides of what the first pass found."""

    def __post_init__(self) -> None:
        """Refuse wishes that contradict each other or themselves."""
        by_slices = self.first is not None or self.end is not None
        if by_slices + self._by_place + self.auto > 1:
            raise UsageError(
                "Name slices (--slices), a place (--from-mm, --to-mm) or --region "
                "auto, not several of them."
            )
        if (self.first or 0) < 0 or (self.end is not None and self.end < 1):
            raise UsageError("Slices are counted from 0: --slices 400:1015.")
        if self.end is not None and self.end <= (self.first or 0):
            raise UsageError(f"--slices {self.said} holds no slice.")
        if self._by_place and (
            self.from_mm is not None
            and self.to_mm is not None
            and self.to_mm < self.from_mm
        ):
            raise UsageError(f"--from-mm {self.from_mm:g} lies beyond --to-mm.")

    @classmethod
    def from_words(cls, *, slices: str | None = None, **words: Any) -> RegionWish:  # noqa: ANN401 - the fields
        """Return the wish that the words of a command mean.

        Raises
        ------
        UsageError
            If they cannot be understood, or do not go together.

        Examples
        --------
        >>> RegionWish.from_words(slices="400:")
        RegionWish(first=400, end=None, from_mm=None, to_mm=None, auto=False, \
margin_mm=20.0)
        """
        given = {name: value for name, value in words.items() if value is not None}
        if "margin_mm" in given and "auto" not in given:
            raise UsageError("--margin-mm is for --region auto.")
        if slices is None:
            return cls(**given)
        first, colon, end = slices.replace(" ", "").partition(":")
        if not colon or any(part and not part.isdecimal() for part in (first, end)):
            raise UsageError(
                f"--slices {slices} is no range: write the first slice and one past "
                "the last, such as 400:1015, 400: or :615."
            )
        return cls(int(first) if first else 0, int(end) if end else None, **given)

    @property
    def _by_place(self) -> bool:
        return self.from_mm is not None or self.to_mm is not None

    @property
    def is_everything(self) -> bool:
        """Whether nothing was said."""
        return self == RegionWish(margin_mm=self.margin_mm)

    @property
    def said(self) -> str:
        """The wish in words."""
        if self.auto:
            return f"auto, {self.margin_mm:g} mm margin"
        if self._by_place:
            low = "" if self.from_mm is None else f"{self.from_mm:g}"
            high = "" if self.to_mm is None else f"{self.to_mm:g}"
            return f"{low}..{high} mm"
        return f"{self.first or 0}:{'' if self.end is None else self.end}"

    def region_of(self, grid: Grid) -> Region:
        """Return the slices of an image that are meant; not for a first pass.

        Raises
        ------
        Refused
            K20: if the image has no such slices; with those that it has.
        """
        slices = grid.shape[2]
        if not self._by_place:
            first, end = self.first or 0, slices if self.end is None else self.end
            if first >= slices or end > slices:
                raise Refused.because(
                    "K20",
                    f"--slices {self.said} is not in the image: it has the slices 0 to "
                    f"{slices - 1}, all of which are 0:{slices}.",
                )
            return Region(first, end, grid)
        places_mm = slice_positions_mm(grid)
        low = -np.inf if self.from_mm is None else self.from_mm - _FROM_MM_TO_SLICE
        high = np.inf if self.to_mm is None else self.to_mm + _FROM_MM_TO_SLICE
        kept = np.flatnonzero((places_mm >= low) & (places_mm <= high))
        outside = low > places_mm.max() or high < places_mm.min()
        if outside or not kept.size:
            raise Refused.because(
                "K20",
                f"No slice lies at {self.said}: those of the image lie from "
                f"{places_mm.min():.1f} to {places_mm.max():.1f} mm.",
            )
        return Region(int(kept[0]), int(kept[-1]) + 1, grid)


def slice_positions_mm(grid: Grid) -> FloatArray:
    """Return where every slice lies along the patient axis nearest to the stack.

    Returns
    -------
    positions_mm : (K,) float64
        The coordinate of the centre of each slice, LPS+: z (towards the head) of
        axial slices, y (towards the back) of coronal, x (towards the left) of sagittal
        ones. Of an oblique stack it is the same coordinate of the slice's centre.
    """
    axis_of, _ = grid.array_axes
    middle = [(size - 1) / 2 for size in grid.shape[:2]]
    centres = [[*middle, k] for k in range(grid.shape[2])]
    positions: FloatArray = grid.to_patient(centres)[:, axis_of.index(2)]
    return positions


def first_pass_model(workspace: Workspace, model: Model) -> Model:
    """Return the cheapest part of a model that can tell where the structures are.

    One fold: of 2d, if the same kind and budget has one that has finished, otherwise of
    the model itself.
    """
    try:
        flat = choose_model(
            workspace, model.dataset, ["2d"], budget=model.budget, kind=model.kind
        )
    except InputError:
        flat = model
    return replace(flat, states=flat.states[:1])


@dataclass(slots=True)
class FirstPass:
    """Finds where the structures of several images are, in one call of nnU-Net."""

    workspace: Workspace
    model: Model
    """Of one fold; see `first_pass_model`."""

    labels: LabelTable
    work: Path
    """A folder of its own; gets thinned images and their predictions."""

    margin_mm: float

    def add(self, case_id: str, volume: Volume) -> None:
        """Write every n-th slice of an image, to be predicted later."""
        name = f"{case_id}_0000{FILE_ENDING}"
        write_volume(self.work / IMAGES / name, thinned(volume))

    def regions(
        self,
        grids: Mapping[str, Grid],
        resources: Resources,
        advanced: Callable[[float], None],
    ) -> dict[str, Region | None]:
        """Predict what was added; return the slices of each image, None for no find.

        Raises
        ------
        NnUNetError
            If nnU-Net fails.
        """
        folder = predict_folder(
            self.workspace, self.model, self.work, resources, advanced=advanced
        )
        found = {}
        for case_id, grid in grids.items():
            thin = read_labelmap(folder / f"{case_id}{FILE_ENDING}", self.labels)
            found[case_id] = found_region(thin.voxels > 0, grid, self.margin_mm)
        return found

    def as_json(self) -> JsonObject:
        """Return what the record of a prediction says of it."""
        state = self.model.states[0]
        return {"model": state.name, "slice_every_mm": COARSE_MM}


def thinned(volume: Volume) -> Volume:
    """Return about one slice every `COARSE_MM`, the first among them."""
    step = _step(volume.grid)
    affine = volume.grid.affine.copy()
    affine[:3, 2] *= step
    voxels = volume.voxels[:, :, ::step]
    size_i, size_j, size_k = voxels.shape
    return Volume(Grid((size_i, size_j, size_k), affine), voxels)


def found_region(
    structures: BoolArray, grid: Grid, margin_mm: float = MARGIN_MM
) -> Region | None:
    """Return the slices around what was found in a thinned image.

    Parameters
    ----------
    structures : (I, J, M) bool
        What the first pass labelled in every n-th slice.
    grid : Grid
        Of the whole image.
    margin_mm : float
        Kept beyond the first and last slice that may hold a structure.

    Returns
    -------
    region : Region or None
        None if nothing was found.
    """
    if not structures.any():
        return None
    planes = np.ascontiguousarray(np.moveaxis(structures, 2, 0))
    pieces = connected(planes, across_planes=True)
    sizes = pieces.sizes()
    large = sizes[pieces.owners] >= _SPECK_SHARE * sizes.max()
    held, step = pieces.planes[large], _step(grid)
    margin = int(np.ceil(margin_mm / grid.spacing_mm[2]))
    first = int(held.min()) * step - (step - 1) - margin
    end = int(held.max()) * step + step + margin
    return Region(max(first, 0), min(end, grid.shape[2]), grid)


def _step(grid: Grid) -> int:
    """Return of how many slices the first pass takes one; three of them at least."""
    wanted = max(1, round(COARSE_MM / float(grid.spacing_mm[2])))
    return max(1, min(wanted, grid.shape[2] // 3))
