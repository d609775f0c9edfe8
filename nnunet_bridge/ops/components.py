"""Connected components of a mask, from its runs instead of its voxels.

A run is a stretch of True voxels along the last axis. A bone of a million voxels has
about thirty thousand runs, and two runs touch if they overlap in neighbouring lines.
The labelling is therefore one sparse graph of runs, and the same code connects
neighbours within each plane (4-connected) or also between planes (6-connected).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.image import BoolArray

IndexArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """The runs of a mask (P planes, R lines, L voxels) and their components."""

    shape: tuple[int, int, int]  # (P, R, L) of the mask
    planes: IndexArray
    """(N,) plane of each run; runs are ordered by plane, line and first voxel."""

    lines: IndexArray  # (N,) line of each run within its plane
    first: IndexArray  # (N,) place of the first voxel of each run in its line
    lengths: IndexArray  # (N,) number of voxels of each run
    owners: IndexArray  # (N,) component of each run, 0..count-1
    count: int  # number of components

    def sizes(self, lengths: IndexArray | None = None) -> IndexArray:
        """Return the (count,) voxels of each component.

        `lengths` are the (N,) weights of the runs, if not their numbers of voxels.
        """
        weights = self.lengths if lengths is None else lengths
        totals = np.bincount(self.owners, weights=weights, minlength=self.count)
        return totals.astype(np.int64)

    def plane_of_each(self) -> IndexArray:
        """Return the (count,) plane of each component; none may span several."""
        planes = np.zeros(self.count, dtype=np.int64)
        planes[self.owners] = self.planes
        return planes

    def centres(self) -> FloatArray:
        """Return the (count, 3) mean plane, line and voxel of each component."""
        middles = self.planes, self.lines, self.first + (self.lengths - 1) / 2
        sums = [
            np.bincount(
                self.owners, weights=self.lengths * middle, minlength=self.count
            )
            for middle in middles
        ]
        centres: FloatArray = np.stack(sums, axis=1) / self.sizes()[:, np.newaxis]
        return centres

    def at_border(self) -> BoolArray:
        """Return the (count,) mask of components that reach the border of the array."""
        last_plane, last_line, last_voxel = (size - 1 for size in self.shape)
        outer = (
            (self.planes == 0)
            | (self.planes == last_plane)
            | (self.lines == 0)
            | (self.lines == last_line)
            | (self.first == 0)
            | (self.first + self.lengths - 1 == last_voxel)
        )
        reached = np.zeros(self.count, dtype=np.bool_)
        reached[self.owners[outer]] = True
        return reached

    def places(self, chosen: BoolArray) -> IndexArray:
        """Return the flat indices of the voxels of the `chosen` components."""
        runs = np.flatnonzero(chosen[self.owners])
        _, lines, length = self.shape
        starts = (self.planes[runs] * lines + self.lines[runs]) * length
        return _ranges(starts + self.first[runs], self.lengths[runs])


def connected(mask: BoolArray, *, across_planes: bool) -> Components:
    """Return the face-connected components of a (P, R, L) mask.

    6-connected across planes, or else 4-connected in every plane on its own.
    """
    planes, lines, length = mask.shape
    # Write all lines one after the other, with a False voxel between them, so that no
    # run continues from one line to the next. Every change of value is an edge: the
    # even edges start a run, the odd ones end it (one past its last voxel).
    stride = length + 1
    spaced = np.zeros(planes * lines * stride + 1, dtype=np.bool_)
    spaced[1:].reshape(planes, lines, stride)[:, :, :length] = mask
    edges = np.flatnonzero(spaced[1:] != spaced[:-1])
    starts, ends = edges[::2], edges[1::2]
    # Two runs touch if they overlap after a shift by one line, or by one plane. The
    # last line of a plane has no next line in that plane.
    line_of_run = starts // stride
    last_line = line_of_run % lines == lines - 1
    touching = [_overlaps(starts, ends, stride, starting=~last_line)]
    if across_planes:
        everywhere = np.ones(len(starts), dtype=np.bool_)
        touching.append(_overlaps(starts, ends, stride * lines, starting=everywhere))
    one, other = np.concatenate(touching, axis=1)
    count, owners = _grouped(one, other, len(starts))
    return Components(
        shape=(planes, lines, length),
        planes=line_of_run // lines,
        lines=line_of_run % lines,
        first=starts - line_of_run * stride,
        lengths=ends - starts,
        owners=owners,
        count=count,
    )


def _overlaps(
    starts: IndexArray, ends: IndexArray, shift: int, *, starting: BoolArray
) -> IndexArray:
    """Return the (2, M) pairs of runs that overlap if the first moves by `shift`.

    Starts and ends ascend, so the partners of a run are consecutive: from the first run
    that ends after its start, up to the first run that starts at or after its end.
    """
    moved = np.flatnonzero(starting)
    first = np.searchsorted(ends, starts[moved] + shift, side="right")
    beyond = np.searchsorted(starts, ends[moved] + shift, side="left")
    met = np.maximum(beyond - first, 0)
    return np.stack([np.repeat(moved, met), _ranges(first, met)])


def _ranges(starts: IndexArray, lengths: IndexArray) -> IndexArray:
    """Return `lengths` consecutive numbers from every start, in one array.

    >>> _ranges(np.array([5, 20]), np.array([3, 2])).tolist()
    [5, 6, 7, 20, 21]
    """
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def _grouped(one: IndexArray, other: IndexArray, runs: int) -> tuple[int, IndexArray]:
    """Return the number of components, and the component of each run."""
    if not runs:
        return 0, np.zeros(0, dtype=np.int64)
    links = coo_array((np.ones(len(one), dtype=np.int8), (one, other)), (runs, runs))
    count, owners = connected_components(links.tocsr(), directed=False)
    return int(count), owners.astype(np.int64)
