"""Clean predicted labelmaps: fill holes, remove stray pieces, account for every change.

Each structure is cleaned separately, from the input. A voxel that one result claims
gets that structure. A voxel that several claim is contested: it keeps its input label
if that structure is among them, and becomes background otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.cleaning import UNCLEANED, Cleaned, CleaningRule
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import BoolArray, Label, LabelArray, Labelmap
from nnunet_bridge.core.words import Rule
from nnunet_bridge.ops.components import Components, IndexArray, connected
from nnunet_bridge.ops.occupancy import label_boxes

_ROUNDING_MM = 1e-6
"""Distance from the middle of the image up to which a point lies on it."""

_SLICES_AT_ONCE = 64
"""Slices processed together: few enough for the cache of the processor."""


def clean_alike(labelmap: Labelmap, rule: CleaningRule) -> Cleaned:
    """Clean every structure by the same rule."""
    return clean_structures(labelmap, dict.fromkeys(labelmap.labels.names, rule))


def clean_structures(labelmap: Labelmap, rules: Mapping[str, CleaningRule]) -> Cleaned:
    """Clean every structure by its own rule.

    A structure without a rule stays unchanged and keeps voxels that another would fill.
    Raises InputError for a structure that is not in the table.

    The slice rule (of the source report) applies to every slice ``[:, :, k]``,
    4-connected, with ``limit = int(ratio * area)`` and the area in pixels before any
    change: components of the complement below `limit` pixels become structure (the
    outer background is a component like any other), then components of the result below
    `limit` pixels are removed.

    The volume rule is 6-connected: enclosed cavities of any size are filled; pieces
    below `min_volume_mm3` are removed (one of exactly this volume stays), and all but
    the `keep_largest` largest, of equal ones the first by k, j, i. With `each_side`,
    the centroid of a piece decides about its side; the middle itself is left.
    """
    strangers = sorted(set(rules) - set(labelmap.labels.names))
    if strangers:
        raise InputError(
            f"Unknown structures in the cleaning rules: {', '.join(strangers)}. The "
            f"labels are {', '.join(labelmap.labels.names)}."
        )
    changes = [
        change
        for label, crop in _found(labelmap)
        for change in _changes(labelmap, label, crop, rules.get(label.name, UNCLEANED))
    ]
    return _merged(labelmap, changes, rule=_rules_text(rules))


def _rules_text(rules: Mapping[str, CleaningRule]) -> str:
    """Return the common rule, or the rule of every structure, as text."""
    words = {name: rule.as_text() for name, rule in rules.items()}
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    return ". ".join(f"{name}: {text}" for name, text in words.items()) or "none"


@dataclass(frozen=True, slots=True)
class _Crop:
    """Ranges of k, j and i around a structure: its box, wider by one where possible.

    Arrays are indexed [k, j, i] here (planes, lines, voxels of a line): most lie in
    memory in this order.
    """

    planes: tuple[int, int]
    lines: tuple[int, int]
    voxels: tuple[int, int]
    full: tuple[int, int, int]  # (K, J, I) of the whole labelmap

    @property
    def ranges(self) -> tuple[slice, slice, slice]:
        """The crop as an index of a (K, J, I) array."""
        return slice(*self.planes), slice(*self.lines), slice(*self.voxels)

    def whole_slices(self) -> _Crop:
        """Return the whole slices of the same planes."""
        _, lines, voxels = self.full
        return _Crop(self.planes, (0, lines), (0, voxels), self.full)

    def places(self, local: IndexArray) -> IndexArray:
        """Map flat indices of the crop to flat indices of the (K, J, I) array."""
        ranges = self.planes, self.lines, self.voxels
        k, j, i = np.unravel_index(local, [end - begin for begin, end in ranges])
        _, lines, voxels = self.full
        rows = (k + self.planes[0]) * lines + j + self.lines[0]
        places: IndexArray = rows * voxels + i + self.voxels[0]
        return places


@dataclass(frozen=True, slots=True, eq=False)
class _Change:
    """The changes of one structure, as flat indices of the (K, J, I) array."""

    value: int
    filled: IndexArray
    removed: IndexArray


def _found(labelmap: Labelmap) -> Iterator[tuple[Label, _Crop]]:
    """Yield the structures of the labelmap with their crops."""
    size_i, size_j, size_k = labelmap.grid.shape
    full = size_k, size_j, size_i
    for label, box in zip(labelmap.labels, label_boxes(labelmap), strict=True):
        if box is not None:
            k, j, i = (
                (max(along.start - 1, 0), min(along.stop + 1, size))
                for along, size in zip(box[::-1], full, strict=True)
            )
            yield label, _Crop(k, j, i, full)


def _changes(
    labelmap: Labelmap, label: Label, crop: _Crop, rule: CleaningRule
) -> Iterator[_Change]:
    """Yield the changes of one structure by a rule."""
    if rule.name is Rule.SLICE:
        yield from _slice_changes(labelmap, label, crop, rule.ratio)
    elif rule.name is Rule.VOLUME:
        yield _volume_change(labelmap, label, crop, rule)


def _slice_changes(
    labelmap: Labelmap, label: Label, crop: _Crop, ratio: float
) -> Iterator[_Change]:
    """Yield the changes of one structure by the slice rule, some slices at a time."""
    for begin in range(*crop.planes, _SLICES_AT_ONCE):
        end = min(begin + _SLICES_AT_ONCE, crop.planes[1])
        part = _Crop((begin, end), crop.lines, crop.voxels, crop.full)
        mask = labelmap.voxels.T[part.ranges] == label.value
        areas = np.count_nonzero(mask.reshape(end - begin, -1), axis=1)
        limits = (ratio * areas).astype(np.int64)
        # A limit of 1 changes nothing: no component is smaller than one pixel.
        busy = np.flatnonzero(limits > 1)
        if not len(busy):
            continue
        busy_cleaned = _cleaned_slices(mask[busy], limits[busy], part)
        if busy_cleaned is None:  # the fill leaves the crop: repeat on whole slices
            yield from _slice_changes(labelmap, label, part.whole_slices(), ratio)
        else:
            cleaned = mask.copy()
            cleaned[busy] = busy_cleaned
            yield _change(label, mask, cleaned, part)


def _cleaned_slices(
    mask: BoolArray, limits: IndexArray, crop: _Crop
) -> BoolArray | None:
    """Return the (P, R, L) mask after the rule of the source.

    None if a component of the background is filled that continues beyond the crop.
    """
    # Step 1: fill components of the background that are small in the whole slice.
    holes = connected(~mask, across_planes=False)
    sizes = holes.sizes(_whole_lengths(holes, crop))
    small = sizes < limits[holes.plane_of_each()]
    if np.any(holes.sizes()[small] < sizes[small]):
        return None
    cleaned = mask.copy()
    flat = cleaned.ravel()
    flat[holes.places(small)] = True
    # Step 2: remove small pieces of the result.
    pieces = connected(cleaned, across_planes=False)
    flat[pieces.places(pieces.sizes() < limits[pieces.plane_of_each()])] = False
    return cleaned


def _whole_lengths(background: Components, crop: _Crop) -> IndexArray:
    """Return the pixels that each run of background has in the whole slice.

    The crop is one pixel wider than the structure, so its outermost lines and columns
    hold background only, and so does the slice beyond them. The sizes of components in
    the whole slice follow from the crop alone:

    - a run that begins at the first (ends at the last) column of the crop continues to
      the border of the image: the columns outside are added;
    - the first (last) line of the crop is a single run of background, connected to all
      lines before (after) it: their pixels are added.

    Where the crop ends at the border of the image, nothing is outside and 0 is added.
    """
    _, lines, length = background.shape
    _, full_lines, full_length = crop.full
    first, last = background.first, background.first + background.lengths
    lengths = (
        background.lengths
        + np.where(first == 0, crop.voxels[0], 0)
        + np.where(last == length, full_length - crop.voxels[1], 0)
        + np.where(background.lines == 0, crop.lines[0] * full_length, 0)
    )
    beyond = (full_lines - crop.lines[1]) * full_length
    whole: IndexArray = lengths + np.where(background.lines == lines - 1, beyond, 0)
    return whole


def _volume_change(
    labelmap: Labelmap, label: Label, crop: _Crop, rule: CleaningRule
) -> _Change:
    mask = labelmap.voxels.T[crop.ranges] == label.value
    cleaned = mask.copy()
    flat = cleaned.ravel()
    # Fill cavities: components of the background that do not reach the border of the
    # crop, which is one voxel wider than the structure or ends with the image.
    cavities = connected(~mask, across_planes=True)
    flat[cavities.places(~cavities.at_border())] = True
    # Remove small pieces, then all but the largest, on each side or altogether.
    pieces = connected(cleaned, across_planes=True)
    sizes = pieces.sizes()
    gone = sizes < rule.min_volume_mm3 / labelmap.grid.voxel_volume_mm3
    if rule.keep_largest is not None:
        left = _on_the_left(pieces, crop, labelmap.grid)
        for side in (left, ~left) if rule.each_side else (np.ones_like(left),):
            here = np.flatnonzero(side)
            largest_first = here[np.argsort(-sizes[here], kind="stable")]
            gone[largest_first[rule.keep_largest :]] = True
    flat[pieces.places(gone)] = False
    return _change(label, mask, cleaned, crop)


def _on_the_left(pieces: Components, crop: _Crop, grid: Grid) -> BoolArray:
    """Return the (count,) mask of pieces with their centroid on the patient's left."""
    begins = [begin for begin, _ in (crop.planes, crop.lines, crop.voxels)]
    centres_mm = grid.to_patient((pieces.centres() + begins)[:, ::-1])
    left: BoolArray = centres_mm[:, 0] > grid.middle_mm[0] - _ROUNDING_MM
    return left


def _change(label: Label, before: BoolArray, after: BoolArray, crop: _Crop) -> _Change:
    differing = np.flatnonzero(before != after)
    gained = after.ravel()[differing]
    return _Change(
        value=label.value,
        filled=crop.places(differing[gained]),
        removed=crop.places(differing[~gained]),
    )


def _merged(labelmap: Labelmap, changes: Iterable[_Change], *, rule: str) -> Cleaned:
    """Merge the results of all structures and account for the differences."""
    before = labelmap.voxels.T
    after: LabelArray = np.array(before, order="C")
    flat = after.ravel()
    removed = _joined(change.removed for change in changes)
    flat[removed] = 0
    # A voxel is filled if it is background now and one structure claims it; a voxel
    # that another structure keeps is contested as well.
    claims = _Claims.of(changes)
    free = (claims.claimants == 1) & (flat[claims.places] == 0)
    flat[claims.places[free]] = claims.values[free]

    touched = np.union1d(removed, claims.places[free])
    old, new = before.ravel()[touched], flat[touched]
    return Cleaned(
        labelmap=labelmap.with_voxels(after.T),
        removed_mm3=_volumes_mm3(labelmap, old[old != new]),
        filled_mm3=_volumes_mm3(labelmap, new[old != new]),
        contested_voxels=int(np.count_nonzero(~free)),
        rule=rule,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Claims:
    """The voxels that structures would fill."""

    places: IndexArray  # (N,) flat indices, each once, ascending
    values: npt.NDArray[Any]  # (N,) label of one of the structures that claim it
    claimants: IndexArray  # (N,) number of structures that claim it

    @classmethod
    def of(cls, changes: Iterable[_Change]) -> _Claims:
        """Gather the claims of all changes."""
        changes = list(changes)
        values = [np.full(len(change.filled), change.value) for change in changes]
        places, first, claimants = np.unique(
            _joined(change.filled for change in changes),
            return_index=True,
            return_counts=True,
        )
        return cls(places, _joined(values)[first], claimants)


def _joined(arrays: Iterable[IndexArray]) -> IndexArray:
    return np.concatenate([np.zeros(0, dtype=np.int64), *arrays])


def _volumes_mm3(labelmap: Labelmap, values: LabelArray) -> dict[str, float]:
    """Return the volume of the given voxels by structure."""
    counts = np.bincount(values, minlength=len(labelmap.labels) + 1)
    return {
        label.name: float(counts[label.value]) * labelmap.grid.voxel_volume_mm3
        for label in labelmap.labels
    }
