"""Join overlapping stations of one scan: find the images at one place (FAULTS D09).

A long stack is scanned in stations, table position by table position. Where two
stations overlap, a place has two images. They are joined only if a user says how, and
only if both stations lie on one grid.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np

from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.formats.dicom.contrasts import find_shared_positions, places_of
from nnunet_bridge.formats.dicom.groups import FEWEST_SLICES
from nnunet_bridge.formats.dicom.headers import SliceHeader
from nnunet_bridge.formats.dicom.options import SeriesOptions
from nnunet_bridge.ops.planes import position_tolerance_mm

Slices: TypeAlias = tuple[SliceHeader, ...]
Key: TypeAlias = Callable[[SliceHeader], object]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Slice number -> images of further stations at its place."""

    others: Mapping[int, Slices] = field(default_factory=lambda: MappingProxyType({}))
    how: Literal["refuse", "first", "mean"] = "refuse"
    stations: int = 1

    @property
    def headers(self) -> Slices:
        """All of those images."""
        return tuple(header for slices in self.others.values() for header in slices)


def split_overlap(
    ordered: Slices, normal: FloatArray, options: SeriesOptions
) -> tuple[Slices, Overlap]:
    """Return one image for each place, in stacking order, and the other images.

    `ordered` is in stacking order, along `normal`, (3,) float64.

    All slices are returned, and no others, if nothing overlaps, or the headers do not
    tell stations apart, each with places of its own. The others are the images at
    places that an earlier station holds; the first station is the lowest one.
    """
    if len(ordered) < 2 * FEWEST_SLICES:
        return ordered, Overlap()
    heights = {id(header): float(_position(header) @ normal) for header in ordered}
    gaps = np.diff(sorted(heights.values()))
    apart = gaps[gaps > gaps.max() / 10] if gaps.max() > 0 else gaps
    spacing = float(np.median(apart))
    tolerance = position_tolerance_mm(spacing)
    stations = _stations(ordered, heights, spacing) if spacing else []
    if not stations:
        return ordered, Overlap()
    places: list[SliceHeader] = []
    doubles: dict[int, list[SliceHeader]] = defaultdict(list)
    # Station by station, from the lowest: an image takes a free place, or counts as a
    # further image of the place that an earlier station has taken.
    for station in sorted(stations, key=lambda part: heights[id(part[0])]):
        known = np.array([_position(header) for header in places]).reshape(-1, 3)
        new = []
        for header in station:
            away = np.linalg.norm(known - _position(header), axis=1)
            if away.size and away.min() <= tolerance:
                doubles[id(places[int(away.argmin())])].append(header)
            else:
                new.append(header)
        places += new
    places.sort(key=lambda header: heights[id(header)])
    numbered = ((k, doubles.get(id(header))) for k, header in enumerate(places))
    others = {k: tuple(headers) for k, headers in numbered if headers}
    if not others:
        return ordered, Overlap()
    return tuple(places), Overlap(others, options.overlap, len(stations))


def _position(header: SliceHeader) -> FloatArray:
    return np.array(header.plane.position_mm, np.float64)


def _stations(
    ordered: Slices, heights: Mapping[int, float], spacing: float
) -> list[list[SliceHeader]]:
    """Split slices by the first attribute that separates stations; empty without."""
    index = {key: round(height / spacing) for key, height in heights.items()}
    keys: tuple[Key, ...] = (
        lambda h: h.identity.series,
        lambda h: h.contrast.acquisition,
        lambda h: h.contrast.temporal_position,
        lambda h: h.contrast.trigger_time,
        lambda h: index[id(h)] - (h.instance_number or 0),  # counted with the stack
        lambda h: index[id(h)] + (h.instance_number or 0),  # counted against it
    )
    for key in keys:
        parts: dict[object, list[SliceHeader]] = defaultdict(list)
        for header in ordered:
            parts[key(header)].append(header)
        stations = list(parts.values())
        whole = all(len(part) >= FEWEST_SLICES for part in stations)
        places = [places_of(part) for part in stations]
        # Stations reach further than each other; else they are contrasts or repeats.
        nested = any(a <= b for a in places for b in places if a is not b)
        if (
            len(stations) > 1
            and whole
            and not nested
            and not any(map(find_shared_positions, stations))
        ):
            return stations
    return []
