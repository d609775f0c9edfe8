"""Fill closed surfaces and outlines: find the voxels whose centres lie inside.

Rays run along i through the centres of all voxels. Where a ray enters the surface, a
count rises; where it leaves, it falls. Edges that triangles share are cut at bitwise
equal places, so each ray through a closed surface leaves as often as it enters. A
centre on the surface counts as inside where its ray enters, and as outside where it
leaves: bodies that share a face share no voxel.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.image import BoolArray, VoxelArray

_AT_ONCE = 1 << 19  # rows or crossings that are held in memory at once
_MOST_LAYERS = 64
"""A surface that rays cross more often than this on average is no surface of a bone."""

_FEWEST_LIMIT = 20_000_000
_CORNERS = 3

Integers = npt.NDArray[np.int64]
Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Filling:
    """The voxels inside a surface."""

    voxels: BoolArray  # (I, J, K), Fortran-ordered
    count: int  # of centres inside, also of voxels beyond the array
    twisted: int
    """Voxels that the surface encloses more than once, or turned inside out."""


def filled(shape: Shape, points: FloatArray, faces: npt.NDArray[np.integer]) -> Filling:
    """Return the voxels inside a closed surface whose faces agree about outside.

    Parameters
    ----------
    shape : (3,) tuple of int
        Size of the array.
    points : (V, 3) float64
        Vertices in indices of voxels.
    faces : (F, 3) int
        Vertices of each triangle; all turned outwards, or all inwards.

    Raises `InputError` if it has so many layers that filling it would take hours.
    """
    winding = np.zeros(shape, np.int8, order="F")
    count = 0
    for places, turns in _crossings(shape, points, faces):
        # A ray enters where the count rises, and the sum of all is the volume inside.
        count -= int((places[:, 0] * turns).sum())
        _add(winding, places, turns.astype(np.int8))
    np.cumsum(winding, axis=0, out=winding)
    if count < 0:
        np.negative(winding, out=winding)
    twisted = int(np.count_nonzero(winding < 0) + np.count_nonzero(winding > 1))
    voxels = winding.view(np.bool_)
    np.greater(winding, 0, out=voxels)
    return Filling(voxels, abs(count), twisted)


def filled_outlines(
    shape: Shape, starts: FloatArray, ends: FloatArray, slices: Integers
) -> BoolArray:
    """Return the voxels inside closed outlines in slices, by the even-odd rule.

    Parameters
    ----------
    shape : (3,) tuple of int
        Size of the array; the outlines lie in slices of its last axis.
    starts, ends : (E, 2) float64
        Both ends of each edge, in indices along the first two axes.
    slices : (E,) int64
        The slice of each edge, inside the array.
    """
    crossed = np.zeros(shape, np.int8, order="F")
    low, high = _sorted_by(1, np.stack([starts, ends], axis=1))
    for owner, row in _expanded(low[:, 1], high[:, 1]):
        i = _between(low[owner], high[owner], 1, row)[:, 0]
        places = np.stack([_index(i), row, slices[owner]], axis=1)
        _add(crossed, places, np.ones(len(places), np.int8))
    np.cumsum(crossed, axis=0, out=crossed)
    inside = crossed.view(np.bool_)
    np.bitwise_and(crossed, 1, out=crossed)
    return inside


def _crossings(
    shape: Shape, points: FloatArray, faces: npt.NDArray[np.integer]
) -> Iterator[tuple[Integers, Integers]]:
    """Yield (N, 3) first voxels behind crossings, and whether the rays enter (1)."""
    corners = points[faces]
    order = np.argsort(corners[:, :, 2], axis=1, kind="stable")
    low, middle, high = np.moveaxis(
        np.take_along_axis(corners, order[:, :, None], axis=1), 1, 0
    )
    # The triangle (low, middle, high) is turned as the face if its order is a cycle.
    turned = np.where((order[:, 1] - order[:, 0]) % _CORNERS == 1, 1, -1)
    sides = np.cross(middle - low, high - low)[:, 0]
    rows = float((np.ceil(high[:, 2]) - np.ceil(low[:, 2])).sum())
    limit = max(_MOST_LAYERS * shape[1] * shape[2], _FEWEST_LIMIT)
    if max(rows, float(np.abs(sides).sum()) / 2) > limit:
        raise InputError("The surface has too many layers.")
    for owner, k in _expanded(low[:, 2], high[:, 2]):
        long = _between(low[owner], high[owner], 2, k)
        upper = (k >= middle[owner, 2])[:, None]
        start = np.where(upper, middle[owner], low[owner])
        short = _between(start, np.where(upper, high[owner], middle[owner]), 2, k)
        left, right = _sorted_by(1, np.stack([long, short], axis=1))
        leaves = turned[owner] * np.where(long[:, 1] < short[:, 1], 1, -1)
        for row, j in _expanded(left[:, 1], right[:, 1]):
            i = _between(left[row], right[row], 1, j)[:, 0]
            yield np.stack([_index(i), j, k[row]], axis=1), -leaves[row]


def _sorted_by(axis: int, pairs: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the lower and the higher ends of (N, 2, ...) pairs."""
    swap = (pairs[:, 0, axis] > pairs[:, 1, axis])[:, None]
    low = np.where(swap, pairs[:, 1], pairs[:, 0])
    return low, np.where(swap, pairs[:, 0], pairs[:, 1])


def _between(low: FloatArray, high: FloatArray, axis: int, at: Integers) -> FloatArray:
    """Return the points of edges at a whole number of one axis."""
    # The formula sees an edge from its lower end, whichever triangle it belongs to.
    share = (at - low[:, axis]) / (high[:, axis] - low[:, axis])
    points: FloatArray = low + share[:, None] * (high - low)
    return points


def _index(places: FloatArray) -> Integers:
    return np.ceil(places).astype(np.int64)


def _expanded(
    lows: FloatArray, highs: FloatArray
) -> Iterator[tuple[Integers, Integers]]:
    """Yield the whole numbers from each low end up to its high end, and their owners.

    The high end does not belong to it.
    """
    first = _index(lows)
    counts = _index(highs) - first
    ends = np.cumsum(counts)
    begin = 0
    while begin < len(counts):
        done = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + _AT_ONCE, "right")))
        own = counts[begin:end]
        owner = np.repeat(np.arange(begin, end), own)
        number = np.arange(len(owner)) - np.repeat(ends[begin:end] - own - done, own)
        yield owner, first[owner] + number
        begin = end


def _add(array: VoxelArray, places: Integers, values: VoxelArray) -> None:
    """Add values at places of an array; those before it along i, to its first."""
    inside = (places[:, 0] < array.shape[0]) & (places[:, 1:] >= 0).all(axis=1)
    inside &= (places[:, 1:] < array.shape[1:]).all(axis=1)
    i, j, k = places[inside].T
    flat = i.clip(0) + array.shape[0] * (j + array.shape[1] * k)
    np.add.at(array.reshape(-1, order="F"), flat, values[inside])
