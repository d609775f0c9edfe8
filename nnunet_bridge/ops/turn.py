"""Permute and flip the axes of an image, and put labels back: no voxel is lost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume, VoxelArray

AXIS_OF = {"L": 0, "R": 0, "P": 1, "A": 1, "S": 2, "I": 2}
"""Letter of `Grid.axis_letters` -> axis of the patient."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A permutation of the axes of an image, then flips."""

    axes: tuple[int, ...]  # (3,) axis of the image that becomes axis n
    flips: tuple[int, ...]  # the new axes that run the other way

    @classmethod
    def between(cls, letters: str, wanted: str) -> Turn:
        """Return the turn from one order of axes to another.

        Examples
        --------
        >>> Turn.between("RSP", "LPS")
        Turn(axes=(0, 2, 1), flips=(0,))
        """
        patient = [AXIS_OF[letter] for letter in letters]
        axes = tuple(patient.index(AXIS_OF[letter]) for letter in wanted)
        flips = (n for n in range(3) if letters[axes[n]] != wanted[n])
        return cls(axes, tuple(flips))

    @classmethod
    def onto(cls, grid: Grid, wanted: Grid) -> Turn:
        """Return the turn to the axes of another grid that are nearest in direction.

        Letters are those nearest to the patient's axes. Of a grid that is tilted by
        half a right angle they depend on rounding, so they are not asked here.
        """
        here, there = (one.affine[:3, :3] / one.spacing_mm for one in (grid, wanted))
        cosines = there.T @ here
        axes = max(
            permutations(range(3)),
            key=lambda axes: sum(abs(cosines[n, axes[n]]) for n in range(3)),
        )
        return cls(axes, tuple(n for n in range(3) if cosines[n, axes[n]] < 0))

    @property
    def is_none(self) -> bool:
        """Whether nothing is turned."""
        return self == Turn((0, 1, 2), ())

    def grid(self, grid: Grid) -> Grid:
        """Return the grid of the turned image; its voxels stay where they are."""
        first, second, third = (grid.shape[axis] for axis in self.axes)
        shape = first, second, third
        corner = [0, 0, 0]
        affine = grid.affine[:, [*self.axes, 3]]
        for n in self.flips:
            corner[self.axes[n]] = shape[n] - 1
            affine[:3, n] *= -1
        affine[:3, 3] = grid.to_patient(corner)
        return Grid(shape, affine)

    def volume(self, volume: Volume) -> Volume:
        """Return the turned image."""
        return Volume(self.grid(volume.grid), self.voxels(volume.voxels))

    def voxels(self, voxels: VoxelArray) -> VoxelArray:
        """Return the voxels of the turned image."""
        return np.asfortranarray(np.flip(voxels.transpose(self.axes), self.flips))

    def voxels_back(self, voxels: VoxelArray) -> VoxelArray:
        """Return the voxels of a turned image on the grid of the image."""
        inverse = np.argsort(self.axes)
        return np.asfortranarray(np.flip(voxels, self.flips).transpose(inverse))


def turn_towards(grid: Grid, orders: Iterable[str] | None) -> Turn | None:
    """Return the turn to the nearest of some orders of axes; None if there is no need.

    `orders` are those of the training cases, as `Grid.axis_letters`. The nearest has
    the same slice axis, then most axes alike.
    """
    letters, known = grid.axis_letters, sorted(orders or ())
    if not known or letters in known:
        return None

    def distance(order: str) -> tuple[bool, int]:
        other_plane = AXIS_OF[order[2]] != AXIS_OF[letters[2]]
        return other_plane, sum(a != b for a, b in zip(order, letters, strict=True))

    return Turn.between(letters, min(known, key=distance))
