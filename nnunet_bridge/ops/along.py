"""Where along a structure a prediction differs from its reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.image import Label, Labelmap
from nnunet_bridge.core.mesh import Mesh

PARTS = 20  # equal parts of the length of a structure
ENDS = (("right", "left"), ("front", "back"), ("feet", "head"))

Parts: TypeAlias = npt.NDArray[np.float64]
"""(PARTS,) one value a part, from the first end to the other; NaN where it has none."""


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """One structure and model along the length of the structure, mean over cases."""

    structure: str
    model: str
    ends: tuple[str, str]  # what lies at 0 % and at 100 %
    cases: int
    dice: Parts
    error_mm: Parts  # mean distance of the predicted surface from the reference's


def distances_mm(mesh: Mesh, reference: Mesh | None, drawn: Labelmap) -> FloatArray:
    """Return the (V,) distances of a surface from the reference, negative inside it.

    They are those to the nearest vertex of the reference's surface; infinite without a
    reference. `drawn` is the labelmap of the reference.
    """
    if reference is None:
        return np.full(len(mesh.vertices_mm), np.inf)
    from scipy.spatial import cKDTree

    found, _ = cKDTree(reference.vertices_mm).query(mesh.vertices_mm)
    places = drawn.grid.to_voxel(mesh.vertices_mm).T
    low = np.maximum(np.floor(places.min(axis=1)).astype(int) - 1, 0)
    high = np.ceil(places.max(axis=1)).astype(int) + 2
    box = tuple(map(slice, low, high))
    mask = (drawn.voxels[box] == mesh.label.value).astype(np.float32)
    inside = map_coordinates(mask, places - low[:, None], order=1, mode="constant")
    distances: FloatArray = np.where(inside > 0.5, -found, found)  # noqa: PLR2004 - half a voxel
    return distances


def longest_axis(drawn: Labelmap, label: Label) -> int:
    """Return the patient axis (0 to 2: x, y, z) along which a structure is longest.

    Empty planes do not count: a label may hold the bones of both legs.
    """
    mask = drawn.voxels == label.value
    lengths_mm = []
    for axis in drawn.grid.array_axes[0]:
        others = tuple(other for other in range(3) if other != axis)
        planes = np.count_nonzero(mask.any(axis=others))
        lengths_mm.append(planes * drawn.grid.spacing_mm[axis])
    return int(np.argmax(lengths_mm))


def along_length(
    drawn: Labelmap, found: Labelmap, label: Label, axis: int, surface: Mesh | None,
    errors_mm: FloatArray,
) -> tuple[Parts, Parts]:  # fmt: skip
    """Return Dice and mean distance in each part of the reference's length.

    What lies beyond an end counts to the last part. `errors_mm` are the `distances_mm`
    of the predicted `surface`.
    """
    array_axis, forwards = (of[axis] for of in drawn.grid.array_axes)
    others = tuple(other for other in range(3) if other != array_axis)
    masks = (drawn.voxels == label.value, found.voxels == label.value)
    both = np.count_nonzero(masks[0] & masks[1], axis=others)
    sizes = [np.count_nonzero(mask, axis=others) for mask in masks]
    held = np.flatnonzero(sizes[0])
    length = held[-1] + 1 - held[0]

    def part(places: npt.ArrayLike) -> npt.NDArray[np.intp]:
        """Return the part of each place along the axis, in voxels."""
        share = (np.asarray(places) + 0.5 - held[0]) / length
        share = share if forwards else 1 - share
        places_of: npt.NDArray[np.intp] = np.clip(share * PARTS, 0, PARTS - 1).astype(
            np.intp
        )
        return places_of

    of_slice = part(np.arange(len(both)))
    total = np.bincount(of_slice, sizes[0] + sizes[1], PARTS)
    dice = _ratio(2 * np.bincount(of_slice, both, PARTS), total)
    if surface is None or not np.isfinite(errors_mm).all():
        return dice, np.full(PARTS, np.nan)
    of_vertex = part(drawn.grid.to_voxel(surface.vertices_mm)[:, array_axis])
    sums = np.bincount(of_vertex, np.abs(errors_mm), PARTS)
    return dice, _ratio(sums, np.bincount(of_vertex, minlength=PARTS))


def mean_profiles(
    found: Mapping[tuple[str, str], Sequence[tuple[Parts, Parts]]],
    axes: Mapping[str, int],
) -> tuple[Profile, ...]:
    """Return the means over cases; `found` is by structure and model."""
    return tuple(
        Profile(structure, model, ENDS[axes[structure]], len(cases), *means)
        for (structure, model), cases in found.items()
        for means in [[_mean(kind) for kind in zip(*cases, strict=True)]]
    )


def _mean(cases: Sequence[Parts]) -> Parts:
    values = np.array(cases)
    known = np.isfinite(values)
    return _ratio(np.where(known, values, 0).sum(axis=0), known.sum(axis=0))


def _ratio(above: npt.ArrayLike, below: npt.NDArray[np.generic]) -> Parts:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(above, dtype=np.float64) / np.where(below, below, np.nan)
