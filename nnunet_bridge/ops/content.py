"""Check the position of masks by the content of the image.

A mask with the wrong orientation, or shifted by some voxels, can have a valid header,
but its border no longer follows edges of the image. Therefore the contrast across the
border is compared with the contrast across the same border flipped along an axis of the
array, or moved by a few voxels (FAULTS K23).

Neighbouring points of a border are not independent, so the evidence is counted in
blocks: `z` is the mean gain divided by its standard error over blocks. A warning needs
three conditions: the border fits clearly better at the other position; it fits better
there than twice as far in the same direction, so that a mere slope of the image does
not count; and it fits better there than at the positions around.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.findings import Finding, warning
from nnunet_bridge.core.grid import FloatArray, Grid
from nnunet_bridge.core.image import BoolArray, Label, Labelmap, Volume, VoxelArray

CLEARLY = 2.0  # smallest z of the gain for all structures of a case together

CLEARLY_ALONE = 5.0
"""Smallest z of the gain of a single structure; higher, as there are more of them."""

OPEN_SHARE = 0.6
"""A structure is tested alone if at least this share of its border is to background:
at a border with another structure, it could fit the edges of the other."""

STANDS_OUT = 1.5
"""Smallest z of the gain over the positions around, and over the position beyond."""

LEAST_GAIN = 0.02
"""Smallest gain of the mean contrast, which is about 0.7 for a random border."""

NEAREST, FARTHEST = 2, 6
"""Range of shifts in voxels; one voxel is within the precision of drawing."""

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
    """Another position of a border: flipped along axes of the array, then shifted."""

    flipped: tuple[bool, bool, bool] = (False, False, False)
    by: tuple[int, int, int] = (0, 0, 0)  # voxels along i, j and k

    def along(self, axis: int, indices: Places, size: int) -> Places:
        """Map indices along one axis of `size` voxels."""
        moved = size - 1 - indices if self.flipped[axis] else indices
        return moved + self.by[axis] if self.by[axis] else moved

    def further(self, *by: int) -> Move:
        """Return the move with a further shift by voxels."""
        i, j, k = (ours + more for ours, more in zip(self.by, by, strict=True))
        return Move(self.flipped, (i, j, k))

    def describe(self, grid: Grid) -> str:
        """Return the move as text."""
        flips = zip(_AXES, self.flipped, strict=True)
        words = [f"flipped along {axis}" for axis, flipped in flips if flipped]
        for axis, by, step_mm in zip(_AXES, self.by, grid.spacing_mm, strict=True):
            if by:
                mm = by * step_mm
                words.append(f"moved by {by:+d} voxels along {axis} ({mm:+.1f} mm)")
        return " and ".join(words) or "as given"


AS_GIVEN = Move()


@dataclass(frozen=True, slots=True)
class ContentFit:
    """The fit of borders to an image as given, and at the best other position."""

    blocks: int  # number of independent blocks of border; 0 without a border
    contrast: float  # mean over the border of log(1 + step / median step)
    best: Move  # best position; `AS_GIVEN` unless another one is clearly better
    best_contrast: float
    z: float  # gain of the best position by its standard error; 0 for `AS_GIVEN`

    @property
    def judged(self) -> bool:
        """Whether there is enough border to test."""
        return self.blocks >= _FEWEST_BLOCKS


@dataclass(frozen=True, slots=True, eq=False)
class _Border:
    """Pairs of neighbouring voxels with different labels."""

    first: Places
    second: Places
    labels: npt.NDArray[np.int64]  # (n, 2) labels of both


_NOWHERE = np.empty((0, 3), np.intp)
_NO_BORDER = _Border(_NOWHERE, _NOWHERE, np.empty((0, 2), np.int64))


class _Evidence:
    """Contrasts across one border at any position, each computed once."""

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
        """Return the (n,) contrasts at a position, and which lie in the image."""
        if move not in self._known:
            steps, seen = self._steps(move)
            self._known[move] = np.log1p(steps / self._scale), seen
        return self._known[move]

    def among(self, chosen: BoolArray, move: Move) -> tuple[FloatArray, BoolArray]:
        """Return the contrasts of the `chosen` points of the border."""
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

    The labelmap lies on the same grid and has no ignored voxels. Returns one finding
    for all structures together, or else one for each wrong structure; and the fit of
    all structures together.
    """
    thin = min(volume.grid.shape) <= 2 * _AROUND  # no room for the positions around
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
    """Return the border of a structure to background; empty if its share is low."""
    own = (border.labels == label.value).any(axis=1)
    free: BoolArray = own & (border.labels == 0).any(axis=1)
    return free if free.sum() >= OPEN_SHARE * own.sum() else np.zeros_like(free)


def _finding(who: str, fit: ContentFit, grid: Grid) -> Finding:
    verb = "fits" if who != "The masks" else "fit"
    return warning(
        "K23",
        f"{who} {verb} the image better {fit.best.describe(grid)}: the contrast across "
        f"the border is {fit.best_contrast:.2f} there, {fit.contrast:.2f} as given "
        f"(z = {fit.z:.1f}). Check that the mask belongs to this scan and that the "
        "export kept its orientation.",
    )


def _moves() -> Iterator[Move]:
    """Yield the positions that usual mistakes lead to."""
    for axis in range(3):
        yield Move((axis == 0, axis == 1, axis == 2))  # noqa: PLR2004 - the last axis
    for axis in range(3):
        for by in range(NEAREST, FARTHEST + 1):
            step = [by * (axis == n) for n in range(3)]
            yield AS_GIVEN.further(*step)
            yield AS_GIVEN.further(*(-size for size in step))


def _fit(evidence: _Evidence, chosen: BoolArray, clearly: float) -> ContentFit:
    """Return the best position of the chosen part of a border."""
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
        # Compare only points inside the image at both positions, at least half of all.
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
    """Whether a border fits better at a position than beyond it and around it."""
    here, seen = evidence.among(chosen, move)
    if any(move.by):  # beyond: the same shift again
        beyond, inside = evidence.among(chosen, move.further(*move.by))
        if _gain(here - beyond, seen & inside, blocks)[1] < STANDS_OUT:
            return False
    # Around: the mean of the six neighbours at `_AROUND` voxels, where most exist.
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
    """Return the mean gain, and its ratio to its standard error over blocks (z)."""
    numbers = np.bincount(blocks[counted], minlength=1)
    sums = np.bincount(blocks[counted], gains[counted], minlength=1)
    total = int(numbers.sum())
    if total == 0:
        return 0.0, 0.0
    mean = float(sums.sum()) / total
    error = float(np.sqrt(((sums - mean * numbers) ** 2).sum())) / total
    return mean, mean / max(error, _LEAST)


def _blocks(places: Places) -> Places:
    """Return the (n,) number of the block of each point.

    The edge of the cubic blocks grows until there are at most `_MOST_BLOCKS`.
    """
    edge = float(_BLOCK_VOXELS)
    while True:
        i, j, k = np.floor_divide(places, round(edge)).T
        cubes = (i * (1 + j.max(initial=0)) + j) * (1 + k.max(initial=0)) + k
        found, numbers = np.unique(cubes, return_inverse=True)
        if len(found) <= _MOST_BLOCKS:
            return numbers.ravel().astype(np.intp)
        edge *= 1.25


def _border_of(voxels: VoxelArray) -> _Border:
    """Return pairs of neighbours with different labels, evenly from all slices."""
    labelled = np.flatnonzero([voxels[:, :, k].any() for k in range(voxels.shape[2])])
    wanted = np.linspace(0, len(labelled) - 1, min(len(labelled), _MOST_SLICES))
    parts = [part for n in np.rint(wanted) for part in _pairs(voxels, labelled[int(n)])]
    if not parts:
        return _NO_BORDER
    first, second, labels = (
        np.concatenate([part[n] for part in parts]) for n in range(3)
    )
    every = math.ceil(len(first) / _MOST_PLACES)
    return _Border(first[::every], second[::every], labels[::every])


def _pairs(
    voxels: VoxelArray, k: int
) -> Iterator[tuple[Places, Places, npt.NDArray[np.int64]]]:
    """Yield pairs of different neighbours in one slice and to the adjacent slices."""
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
