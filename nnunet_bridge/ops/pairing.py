"""Pair drawn structures with the scans they were drawn on, by evidence.

The strongest comes first: a mask lies on the grid of its scan, then in the folder of
its patient, then its name and that of the scan share a number or a word. Weaker
evidence only decides where stronger leaves several scans.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeAlias

import numpy as np

from nnunet_bridge.core.grid import FloatArray, Grid
from nnunet_bridge.ops.naming import marks, number_in, plain_word, words_of

OFF_GRID = 0.1  # largest distance in voxels of a slice from the grid on which it lies
_PAIR_WEIGHT = 2.0  # of `p1` or `knee 101`, against 1 of a lone number or word
_USUAL = 0.75
"""Share of the names that must repeat all of a scan's marks, to expect it of others."""

_FEWEST_NAMES = 4
_FIXED_AXES = 2

Path: TypeAlias = tuple[str, ...]
Splitter: TypeAlias = Callable[[str], tuple[str, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where the slices of an image lie, as far as it is known."""

    matrix: tuple[int, int]  # voxels of a slice along both axes
    slices: int  # 0 if unknown
    corners_mm: FloatArray
    """(P, 2, 3) first and last voxel of some slices, or of the whole image; LPS+."""

    @classmethod
    def of_grid(cls, grid: Grid) -> Place:
        """Return the place of a whole image."""
        last = np.array(grid.shape) - 1
        corners = grid.to_patient(np.array([[[0, 0, 0], last]]))
        return cls((grid.shape[0], grid.shape[1]), grid.shape[2], corners)

    def lies_on(self, grid: Grid) -> bool:
        """Whether these slices are slices of the grid, in any order of its axes."""
        left = list(grid.shape)
        for size in (*self.matrix, *([self.slices] if self.slices else [])):
            if size not in left:
                return False
            left.remove(size)
        places = grid.to_voxel(self.corners_mm)
        lows, highs = places.min(axis=1), places.max(axis=1)
        last = np.array(grid.shape) - 1
        whole = np.abs(places - np.rint(places)).max() <= OFF_GRID
        inside = lows.min() >= -OFF_GRID and (highs <= last + OFF_GRID).all()
        spans = (np.abs(lows) <= OFF_GRID) & (np.abs(highs - last) <= OFF_GRID)
        return bool(whole and inside and (spans.sum(axis=1) >= _FIXED_AXES).all())


@dataclass(frozen=True, slots=True, eq=False)
class ScanNames:
    """A patient at a visit: the images that may be the scan, and their names."""

    paths: tuple[Path, ...]  # folders, and the name without its ending
    places: tuple[Place | None, ...]
    folders: tuple[Path, ...]
    """The folder that holds each image; of DICOM files the folder that they fill."""


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """A file with drawn structures."""

    path: Path  # folders, and the name without its ending
    grid: Grid | None  # None for surfaces and for files without a place


@dataclass(frozen=True, slots=True)
class Pairing:
    """The scan of a drawing, and why."""

    scan: int | None  # index of the scan; None if it could not be placed
    why: str
    by_name: bool = False
    on_grid: tuple[int, ...] = ()
    """The images of this scan with the same grid, if that is evidence."""


def pair_all(
    drawings: Sequence[Drawing],
    scans: Sequence[ScanNames],
    split: Splitter = words_of,
) -> tuple[Pairing, ...]:
    """Return the scan of each drawing; `split` gives the words of a name."""
    names = _Names(scans, [one.path for one in drawings], split)
    grids = _Grids(scans)
    found = [_paired(one, scans, names, grids.fitting(one.grid)) for one in drawings]
    return tuple(names.without_contradictions(drawings, found))


def _paired(
    drawing: Drawing,
    scans: Sequence[ScanNames],
    names: _Names,
    fitting: Mapping[int, tuple[int, ...]],
) -> Pairing:
    everyone = set(range(len(scans)))
    on_grid = set(fitting)
    chosen = on_grid if on_grid and on_grid != everyone else everyone

    def pairing(scan: int, why: str, *, by_name: bool = False) -> Pairing:
        # With one scan, the grid still decides which of its images it is.
        return Pairing(scan, why, by_name, tuple(fitting.get(scan, ())))

    if len(chosen) == 1:
        only = next(iter(chosen))
        return pairing(only, "the only scan" if len(scans) == 1 else "same grid")
    why = "same grid and " if chosen != everyone else ""
    for depth in range(len(drawing.path) - 1, 0, -1):
        here = drawing.path[:depth]
        inside = {n for n in chosen if any(f[:depth] == here for f in scans[n].folders)}
        if len(inside) == 1 and not names.contradict(drawing.path, inside, chosen):
            return pairing(inside.pop(), f"{why}same folder {'/'.join(here)}")
        if len(inside) > 1:
            chosen = inside
            break
    best, shared = names.best(drawing.path, chosen)
    if len(best) == 1:
        return pairing(best[0], f"{why}same name {shared}", by_name=True)
    if not best:
        which = f"no word or number of {len(chosen)} scans is in its name"
        return Pairing(None, which)
    several = " and ".join("/".join(scans[n].paths[0]) for n in best[:2])
    return Pairing(None, f"it fits {several} equally")


class _Grids:
    """The places of all images, found by the size of their grid."""

    def __init__(self, scans: Sequence[ScanNames]) -> None:
        self._by_matrix: dict[int, list[tuple[int, int, Place]]] = defaultdict(list)
        for n, scan in enumerate(scans):
            for image, place in enumerate(scan.places):
                if place is not None:
                    self._by_matrix[place.matrix[0]].append((n, image, place))
        self._known: dict[object, dict[int, tuple[int, ...]]] = {}

    def fitting(self, grid: Grid | None) -> Mapping[int, tuple[int, ...]]:
        """Return the scans with images on a grid, and these images."""
        if grid is None:
            return {}
        key = grid.shape, np.round(grid.affine, 4).tobytes()
        if key not in self._known:
            found: dict[int, list[int]] = defaultdict(list)
            for size in set(grid.shape):
                for n, image, place in self._by_matrix[size]:
                    if image not in found.get(n, ()) and place.lies_on(grid):
                        found[n].append(image)
            self._known[key] = {n: tuple(images) for n, images in found.items()}
        return self._known[key]


class _Names:
    """What the names of scans have in common, and what only one of them has."""

    def __init__(
        self, scans: Sequence[ScanNames], drawings: Sequence[Path], split: Splitter
    ) -> None:
        self._split = cache(split)
        self._drawings = len(drawings)
        self._drawn = Counter(
            mark for path in drawings for mark in self._marks_of(path)
        )
        self._marks = [self._marks_of(*scan.paths) for scan in scans]
        self._often = Counter(mark for each in self._marks for mark in each)
        self._words = [self._words_of(*scan.paths) for scan in scans]
        often = Counter(word for each in self._words for word in each)
        self._own = [{w for w in words if often[w] == 1} for words in self._words]

    def _marks_of(self, *paths: Path) -> frozenset[str]:
        words = (self._split(part) for path in paths for part in path)
        return frozenset(mark for each in words for mark in marks(each))

    def _words_of(self, *paths: Path) -> frozenset[str]:
        """Return the words of paths, with numbers of any padding as one."""
        words = (w for path in paths for part in path for w in self._split(part))
        return frozenset(map(plain_word, words))

    def best(self, path: Path, among: set[int]) -> tuple[list[int], str]:
        """Return the scans that share most with a name, and what they share."""
        own = self._marks_of(path)
        scores = {n: sum(map(self._weight, own & self._marks[n])) for n in among}
        top = max(scores.values(), default=0.0)
        if top <= 0:
            return [], ""
        best = [n for n, score in scores.items() if math.isclose(score, top)]
        shared = own & self._marks[best[0]]
        return sorted(best), max(sorted(shared), key=self._weight).removeprefix("#")

    def contradict(self, path: Path, inside: set[int], among: set[int]) -> bool:
        """Whether a name has nothing of the scan in its folder, but of another one.

        Such a scan lies in the folder of all masks by accident.
        """
        own = self._marks_of(path)
        if any(self._weight(mark) for n in inside for mark in own & self._marks[n]):
            return False
        return len(self.best(path, among)[0]) == 1

    def _weight(self, mark: str) -> float:
        """Return the weight of a mark: low if many scans or drawings have it."""
        rarity = math.log(len(self._marks) / self._often[mark])
        rarity *= math.log((self._drawings + 1) / self._drawn[mark])
        telling = " " in mark or (number_in(mark) and not mark.isdigit())
        return rarity * (_PAIR_WEIGHT if telling else 1.0)

    def without_contradictions(
        self, drawings: Sequence[Drawing], found: Sequence[Pairing]
    ) -> list[Pairing]:
        """Take back pairings by name where a name contradicts itself.

        If names repeat all that is unique to their scan (number and code), a name that
        has only a part of it, and something of another scan, fits neither (K17).
        """
        named = [(d, p) for d, p in zip(drawings, found, strict=True) if p.by_name]
        lacks = [
            self._own[p.scan] - self._words_of(d.path)
            for d, p in named
            if p.scan is not None
        ]
        usual = len(named) >= _FEWEST_NAMES and sum(not lack for lack in lacks) >= (
            _USUAL * len(named)
        )
        if not usual:
            return list(found)
        return [
            self._kept(d, p) if p.by_name else p
            for d, p in zip(drawings, found, strict=True)
        ]

    def _kept(self, drawing: Drawing, pairing: Pairing) -> Pairing:
        if pairing.scan is None:
            return pairing
        words = self._words_of(drawing.path)
        lacking = self._own[pairing.scan] - words
        everyone = set().union(*self._own)
        strange = {w for w in words - self._words[pairing.scan] if number_in(w)}
        if not lacking or not strange:
            return pairing
        has = ", ".join(sorted(self._own[pairing.scan] & words or everyone & words))
        lack = ", ".join(sorted(lacking))
        text = f"its name has {has} of a scan, but not {lack}"
        return replace(pairing, scan=None, why=text)
