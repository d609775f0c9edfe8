"""Solids in closed form: balls, tubes, lofts and their unions.

A *solid* is a function from points to distances in mm: negative inside, positive
outside, exact only near the surface.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

from nnunet_bridge.core.grid import FloatArray

Solid: TypeAlias = Callable[[FloatArray], FloatArray]
"""From (N, 3) points to their (N,) distances in mm."""

FAR_MM = 1e3  # distance of points outside the box of a solid


def ball(points: FloatArray, centre: npt.ArrayLike, radii: npt.ArrayLike) -> FloatArray:
    """Return the (N,) distance in mm to an ellipsoid (a first-order estimate)."""
    offset = points - np.asarray(centre, dtype=np.float64)
    semi_axes = np.broadcast_to(np.asarray(radii, dtype=np.float64), 3)
    level = np.linalg.norm(offset / semi_axes, axis=-1)
    slope = np.linalg.norm(offset / semi_axes**2, axis=-1)
    distance: FloatArray = level * (level - 1) / np.maximum(slope, 1e-9)
    return distance


def tube(points: FloatArray, stations: npt.ArrayLike) -> FloatArray:
    """Return the (N,) distance in mm of (N, 3) points to a bent tube.

    `stations` are (M, 4): lateral, posterior, up and radius along the tube, in mm.
    """
    rows = np.asarray(stations, dtype=np.float64)
    parts = []
    for start, end in pairwise(rows):
        along = end[:3] - start[:3]
        share = np.clip((points - start[:3]) @ along / (along @ along), 0, 1)
        axis = start[:3] + share[:, None] * along
        radius = start[3] + share * (end[3] - start[3])
        parts.append(np.linalg.norm(points - axis, axis=-1) - radius)
    return union(parts, blend_mm=2.0)


def union(parts: Iterable[FloatArray], *, blend_mm: float) -> FloatArray:
    """Return the distance to all parts together, with fillets of about `blend_mm`."""
    first, *others = parts
    joined = first
    for part in others:
        overlap = np.maximum(blend_mm - np.abs(joined - part), 0) / blend_mm
        joined = np.minimum(joined, part) - overlap**2 * blend_mm / 4
    return joined


@dataclass(frozen=True, eq=False)
class Loft:
    """A solid spanned by elliptical cross sections, smooth from one to the next."""

    up: tuple[float, ...]  # height of each cross section, rising
    lateral: tuple[float, ...]
    posterior: tuple[float, ...]
    half_width: tuple[float, ...]
    half_depth: tuple[float, ...]
    squareness: float = 2.0
    """Exponent of the superellipse: 2 is an ellipse, 4 nearly a box."""

    crest: float = 0.0
    """Degree to which the section is a triangle; its edge points forwards."""

    @cached_property
    def _profile(self) -> PchipInterpolator:
        centre, halves = (
            (self.lateral, self.posterior),
            (self.half_width, self.half_depth),
        )
        return PchipInterpolator(
            self.up, np.transpose([*centre, *halves]).astype(float)
        )

    def section(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return (N, 2) positions in units of the half axes, and (N, 2) half axes."""
        profile = self._profile(np.clip(points[:, 2], self.up[0], self.up[-1]))
        half_axes: FloatArray = profile[:, 2:]
        return (points[:, :2] - profile[:, :2]) / half_axes, half_axes

    def distance(self, points: FloatArray) -> FloatArray:
        """Return the (N,) distance in mm; the ends are flat."""
        place, half_axes = self.section(points)
        level = (np.abs(place) ** self.squareness).sum(axis=1) ** (1 / self.squareness)
        if self.crest:
            angle = np.arctan2(place[:, 0], -place[:, 1])
            level = level / (1 + self.crest * np.cos(3 * angle))
        lowest, highest = self.up[0], self.up[-1]
        beyond_ends = np.abs(points[:, 2] - (lowest + highest) / 2)
        beyond_ends -= (highest - lowest) / 2
        inside = (level - 1) * half_axes.min(axis=1)
        distance: FloatArray = np.maximum(inside, beyond_ends)
        return distance


def within(solid: Solid, points: FloatArray, box_mm: npt.ArrayLike) -> FloatArray:
    """Return the distance to `solid` inside a (2, 3) box, and `FAR_MM` elsewhere."""
    low, high = np.asarray(box_mm, dtype=np.float64)
    near = np.ones(len(points), dtype=np.bool_)
    for axis in range(3):
        near &= (points[:, axis] > low[axis]) & (points[:, axis] < high[axis])
    distance = np.full(len(points), FAR_MM)
    distance[near] = solid(points[near])
    return distance
