"""Do masks lie where the image has borders? Headers cannot tell, contents can.

A mask that was saved with the wrong orientation or slipped by some voxels still has a
header that fits. But its border no longer runs along edges of the image. So the
contrast across the border is compared with the contrast across the same border flipped
along an axis of the array, or moved by a few voxels (FAULTS K23).

Neighbouring places of a border are not independent, so evidence is counted in blocks:
the mean gain is divided by its standard error over blocks (`z` below). Three things
must hold before anybody is warned: the border fits clearly better elsewhere; it fits
better there than twice as far in the same direction, so that no mere slope of the image
is taken for a place; and it fits better there than all around.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.findings import Finding, Outcome
from nnunet_bridge.core.grid import FloatArray, Grid
from nnunet_bridge.core.image import BoolArray, Label, Labelmap, Volume, VoxelArray

CLEARLY = 2.0
"""Least z of the gain, all structures of a case together."""

CLEARLY_ALONE = 5.0
"""Least z of the gain of one structure; there are more of them to be wrong about."""

OPEN_SHARE = 0.6
"""A structure is judged alone if so much of its border is to no other structure, whose
edges it could be mistaken to belong to."""

STANDS_OUT = 1.5
"""Least z of the fit above that of the places around, and of those beyond."""

LEAST_GAIN = 0.02
"""Least gain of the mean contrast, which is about 0.7 for a random border."""

NEAREST, FARTHEST = 2, 6
"""Moves that are tried, in voxels; one voxel is within the doubt of who draws."""

_AROUND = 3
_MOST_PLACES = 20_000
_MOST_SLICES = 128
_FEWEST_BLOCKS, _MOST_BLOCKS = 30, 400
_BLOCK_VOXELS = 6
_AXES = "ijk"
_LEAST = 1e-30

Places: TypeAlias = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Move:
    """Another place of a border: flipped along axes of the array, then moved."""

    flipped: tuple[bool, bool, bool] = (False, False, False)
    by: tuple[int, int, int] = (0, 0, 0)
    """Voxels along i, j and k."""

    def along(self, axis: int, indices: Places, size: int) -> Places:
        """Return where indices along one axis of an array of so many voxels go."""
        moved = size - 1 - indices if self.flipped[axis] else indices
        return moved + self.by[axis] if self.by[axis] else moved

    def further(self, *by: int) -> Move:
        """Return the move that goes on by so many voxels."""
        i, j, k = (ours + more for ours, more in zip(self.by, by, strict=True))
        return Move(self.flipped, (i, j, k))

    def said(self, grid: Grid) -> str:
        """Return the move in words."""
        words = [
            f"flipped along {_AXES[axis]}" for axis in range(3) if self.flipped[axis]
        ]
        words += [
            f"moved by {self.by[axis]:+d} voxels along {_AXES[axis]} "
            f"({self.by[axis] * grid.spacing_mm[axis]:+.1f} mm)"
            for axis in range(3)
            if self.by[axis]
        ]
        return " and ".join(words) or "as given"


AS_GIVEN = Move()


@dataclass(frozen=True, slots=True)
class ContentFit:
    """How well borders fit an image as given, and where they would fit best."""

    blocks: int
    """Independent pieces of border that were looked at; 0 where there is none."""

    contrast: float
    """Mean over the border of log(1 + step / median step)."""

    best: Move
    """Where the border fits best; `AS_GIVEN` if nowhere clearly better."""

    best_contrast: float
    z: float
    """Gain of the best place over its standard error; 0 for `AS_GIVEN`."""

    @property
    def judged(self) -> bool:
        """Whether there was border enough to judge."""
        return self.blocks >= _FEWEST_BLOCKS


@dataclass(frozen=True, slots=True, eq=False)
class _Border:
    """Pairs of neighbouring voxels with different labels."""

    first: Places
    second: Places
    labels: npt.NDArray[np.int64]
    """(n, 2) labels of both."""


_NO_BORDER = _Border(
    np.empty((0, 3), np.intp), np.empty((0, 3), np.intp), np.empty((0, 2), np.int64)
)


class _Evidence:
    """Contrasts across one border at any place, each looked up once."""

    def __init__(self, voxels: VoxelArray, border: _Border) -> None:
        self.border = border
        self._voxels = voxels
        both = (border.first, border.second)
        self._ends = [np.ascontiguousarray(places.T) for places in both]
        self._known: dict[Move, tuple[FloatArray, BoolArray]] = {}
        self._scale = 1.0
        steps, seen = self._steps(AS_GIVEN)
        if seen.any():
            self._scale = max(float(np.median(steps[seen])), _LEAST)

    def at(self, move: Move) -> tuple[FloatArray, BoolArray]:
        """Return the (n,) contrasts at a place, and which of them lie in the image."""
        if move not in self._known:
            steps, seen = self._steps(move)
            self._known[move] = np.log1p(steps / self._scale), seen
        return self._known[move]

    def among(self, chosen: BoolArray, move: Move) -> tuple[FloatArray, BoolArray]:
        """Return what `at` does, of some places only."""
        contrasts, seen = self.at(move)
        return contrasts[chosen], seen[chosen]

    def _steps(self, move: Move) -> tuple[FloatArray, BoolArray]:
        values = []
        seen = np.ones(len(self.border.first), bool)
        for ends in self._ends:
            indices = []
            for axis, size in enumerate(self._voxels.shape):
                moved = move.along(axis, ends[axis], size)
                if move.by[axis]:
                    seen &= (moved >= 0) & (moved < size)
                    moved = moved.clip(0, size - 1)
                indices.append(moved)
            values.append(self._voxels[tuple(indices)].astype(np.float64))
        return np.abs(values[1] - values[0]), seen


def content_findings(
    volume: Volume, labelmap: Labelmap
) -> tuple[list[Finding], ContentFit]:
    """Warn of structures that fit the image better flipped or moved (K23).

    Parameters
    ----------
    volume : Volume
        The image.
    labelmap : Labelmap
        On the same grid; no voxel of it is to be ignored.

    Returns
    -------
    findings : list of Finding
        About all structures together, or else about single ones.
    fit : ContentFit
        Of all structures together.
    """
    thin = min(volume.grid.shape) <= 2 * _AROUND  # nowhere to look around
    border = _NO_BORDER if thin else _border_of(labelmap.voxels)
    evidence = _Evidence(volume.voxels, border)
    everything = np.ones(len(evidence.border.first), bool)
    fit = _fit(evidence, everything, CLEARLY)
    if fit.best != AS_GIVEN:
        return [_finding("The masks", fit, volume.grid)], fit
    findings = []
    for label in labelmap.labels if len(labelmap.labels) > 1 else ():
        alone = _fit(evidence, _open_border(evidence.border, label), CLEARLY_ALONE)
        if alone.best != AS_GIVEN:
            findings.append(_finding(f"The mask of {label.name}", alone, volume.grid))
    return findings, fit


def _open_border(border: _Border, label: Label) -> BoolArray:
    """Return where a structure ends at the background; nowhere if that is seldom."""
    own = (border.labels == label.value).any(axis=1)
    free: BoolArray = own & (border.labels == 0).any(axis=1)
    return free if free.sum() >= OPEN_SHARE * own.sum() else np.zeros_like(free)


def content_fit(volume: Volume, labelmap: Labelmap) -> ContentFit:
    """Return how well all structures of a labelmap fit its image.

    Examples
    --------
    >>> from nnunet_bridge.core.image import LabelTable
    >>> grid = Grid((40, 40, 40), np.eye(4))
    >>> voxels = np.zeros(grid.shape, np.uint8)
    >>> voxels[5:25, 8:30, 10:32] = 1
    >>> moved = Labelmap(grid, np.roll(voxels, 3, 0), LabelTable.from_names(["cube"]))
    >>> fit = content_fit(Volume(grid, voxels * np.int16(100)), moved)
    >>> fit.best.said(grid)
    'moved by -3 voxels along i (-3.0 mm)'
    """
    return content_findings(volume, labelmap)[1]


def _finding(who: str, fit: ContentFit, grid: Grid) -> Finding:
    verb = "fits" if who != "The masks" else "fit"
    return Finding(
        "K23",
        Outcome.WARNED,
        f"{who} {verb} the image better {fit.best.said(grid)}: the contrast across the "
        f"border would be {fit.best_contrast:.2f} instead of {fit.contrast:.2f} "
        f"(z = {fit.z:.1f}). Look at the case: is this its scan, and was the "
        "orientation kept on export?",
    )


def _moves() -> Iterator[Move]:
    """Go through the places that mistakes lead to."""
    for axis in range(3):
        yield Move((axis == 0, axis == 1, axis == 2))  # noqa: PLR2004 - the last axis
    for axis in range(3):
        for by in range(NEAREST, FARTHEST + 1):
            step = [by * (axis == n) for n in range(3)]
            yield AS_GIVEN.further(*step)
            yield AS_GIVEN.further(*(-size for size in step))


def _fit(evidence: _Evidence, chosen: BoolArray, clearly: float) -> ContentFit:
    """Return where the chosen part of a border fits best."""
    blocks = _blocks(evidence.border.first[chosen])
    count = int(blocks.max(initial=-1)) + 1
    values, seen = evidence.at(AS_GIVEN)
    contrast = float(values[chosen].mean()) if count else 0.0
    nowhere = ContentFit(count, contrast, AS_GIVEN, contrast, 0.0)
    if not nowhere.judged:
        return nowhere
    best = nowhere
    for move in _moves():
        moved, inside = evidence.at(move)
        both = (seen & inside)[chosen]
        if both.sum() < len(both) / 2:
            continue
        gain, z = _gain((moved - values)[chosen], both, blocks)
        if z < max(clearly, best.z) or gain < LEAST_GAIN:
            continue
        if _stands_out(evidence, chosen, blocks, move):
            best = ContentFit(count, contrast, move, contrast + gain, z)
    return best


def _stands_out(
    evidence: _Evidence, chosen: BoolArray, blocks: Places, move: Move
) -> bool:
    """Whether a border fits better at a place than around it, and than beyond it."""
    here, seen = evidence.among(chosen, move)
    if any(move.by):
        beyond, inside = evidence.among(chosen, move.further(*move.by))
        if _gain(here - beyond, seen & inside, blocks)[1] < STANDS_OUT:
            return False
    total, number = np.zeros(len(here)), np.zeros(len(here))
    for axis in range(3):
        for by in (-_AROUND, _AROUND):
            step = [by * (axis == n) for n in range(3)]
            around, inside = evidence.among(chosen, move.further(*step))
            total += np.where(inside, around, 0.0)
            number += inside
    enough = seen & (number >= 4)  # noqa: PLR2004 - most of the six
    gain = here - total / np.maximum(number, 1)
    return _gain(gain, enough, blocks)[1] >= STANDS_OUT


def _gain(gains: FloatArray, counted: BoolArray, blocks: Places) -> tuple[float, float]:
    """Return the mean of what is counted, and over its standard error over blocks."""
    numbers = np.bincount(blocks[counted], minlength=1)
    sums = np.bincount(blocks[counted], gains[counted], minlength=1)
    total = int(numbers.sum())
    if total == 0:
        return 0.0, 0.0
    mean = float(sums.sum()) / total
    error = float(np.sqrt(((sums - mean * numbers) ** 2).sum())) / total
    return mean, mean / max(error, _LEAST)


def _blocks(places: Places) -> Places:
    """Return the (n,) number of the block that each place lies in."""
    edge = float(_BLOCK_VOXELS)
    while True:
        i, j, k = np.floor_divide(places, round(edge)).T
        cubes = (i * (1 + j.max(initial=0)) + j) * (1 + k.max(initial=0)) + k
        found, numbers = np.unique(cubes, return_inverse=True)
        if len(found) <= _MOST_BLOCKS:
            return numbers.reshape(-1).astype(np.intp)
        edge *= 1.25


def _border_of(voxels: VoxelArray) -> _Border:
    """Return pairs of unlike neighbours, evenly from all slices and at most so many."""
    labelled = np.flatnonzero([voxels[:, :, k].any() for k in range(voxels.shape[2])])
    wanted = np.linspace(0, max(len(labelled) - 1, 0), min(len(labelled), _MOST_SLICES))
    parts = [part for n in np.rint(wanted) for part in _pairs(voxels, labelled[int(n)])]
    if not parts:
        return _NO_BORDER
    first, second, labels = (
        np.concatenate([part[n] for part in parts]) for n in range(3)
    )
    every = -(-len(first) // _MOST_PLACES)
    return _Border(first[::every], second[::every], labels[::every])


def _pairs(
    voxels: VoxelArray, k: int
) -> Iterator[tuple[Places, Places, npt.NDArray[np.int64]]]:
    """Go through the unlike neighbours of one slice, and between it and the others."""
    here = voxels[:, :, k]
    steps: list[tuple[tuple[int, int, int], VoxelArray, VoxelArray]] = [
        ((1, 0, 0), here[:-1], here[1:]),
        ((0, 1, 0), here[:, :-1], here[:, 1:]),
    ]
    if k + 1 < voxels.shape[2]:
        steps.append(((0, 0, 1), here, voxels[:, :, k + 1]))
    if k > 0 and not voxels[:, :, k - 1].any():
        steps.append(((0, 0, -1), here, voxels[:, :, k - 1]))
    for step, one, other in steps:
        i, j = np.nonzero(one != other)
        first = np.stack([i, j, np.full_like(i, k)], axis=1)
        labels = np.stack([one[i, j], other[i, j]], axis=1).astype(np.int64)
        yield first, first + np.array(step, np.intp), labels
