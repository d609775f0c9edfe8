"""Merge the masks of single structures into one labelmap and report every overlap.

A voxel stores the structures that claim it as a pattern of bits, so that every
combination is distinct (sums of label values are not: tibia 1 + femur 2 is fibula 3).
The result does not depend on the order of the masks (FAULTS K16).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.findings import Finding, Outcome, refusal
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import BoolArray, Label, LabelArray, Labelmap, LabelTable

OverlapPolicy: TypeAlias = Literal["background", "priority", "refuse"]

_MM3_PER_CM3 = 1000.0
_MOST_LABELS = 64
_BYTE = 255
_BLOCK_VOXELS = 1 << 18
"""Voxels processed together: few enough for the cache of the processor."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two structures that claim the same voxels."""

    first: str
    second: str
    voxels: int
    volume_cm3: float
    percent_of_smaller: float

    @property
    def structures(self) -> tuple[str, str]:
        """Both names."""
        return self.first, self.second


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """One labelmap, and the overlaps of its structures."""

    labelmap: Labelmap
    drawn: dict[str, int]
    """Structure -> voxels of its masks, before overlaps are resolved."""

    overlaps: tuple[Overlap, ...]
    findings: tuple[Finding, ...]


class MaskMerger:
    """Merges masks of at most 64 structures on one grid; one in memory at a time."""

    def __init__(self, grid: Grid, labels: LabelTable) -> None:
        if len(labels) > _MOST_LABELS:
            raise InputError(f"At most {_MOST_LABELS} structures can be merged.")
        self._grid, self._labels = grid, labels
        patterns = np.min_scalar_type(2 ** len(labels) - 1)
        self._claims = np.zeros(grid.shape, patterns, order="F")

    def add(self, label: Label, mask: BoolArray) -> None:
        """Add an (I, J, K) mask; several masks of one label are united."""
        _claim(self._claims, mask, 1 << (label.value - 1))

    def merged(
        self,
        *,
        policy: OverlapPolicy = "background",
        priority: Sequence[str] = (),
        limit_percent: float = 0.5,
    ) -> Merged:
        """Return the labelmap; call it once, after the last mask.

        `policy` decides about voxels that several structures claim; labels that
        `priority` does not name come last, in the order of their values. An overlap
        above `limit_percent` of the smaller structure is refused.
        """
        labels = self._labels
        voxels, counts = _settled(self._claims, labels, policy, priority)
        drawn = {
            label.name: sum(n for p, n in counts.items() if p >> (label.value - 1) & 1)
            for label in labels
        }
        overlaps = _overlaps(labels, counts, drawn, self._grid.voxel_volume_mm3)
        findings = [
            _overlap_finding(overlap, policy, limit_percent) for overlap in overlaps
        ]
        labelmap = Labelmap(self._grid, voxels, labels)
        return Merged(labelmap, drawn, tuple(overlaps), tuple(findings))


def _claim(claims: npt.NDArray[Any], mask: BoolArray, bit: int) -> None:
    """Set the bit of a structure in every voxel of its mask."""
    if mask.shape != claims.shape:
        raise InputError(
            f"A mask of the shape {mask.shape} does not fit {claims.shape}."
        )
    kind = claims.dtype
    flat, drawn = claims.ravel(order="F"), mask.ravel(order="F")
    for here in _blocks_with_any(drawn):
        places = np.flatnonzero(drawn[here])  # only these few voxels are written
        flat[here][places] |= kind.type(bit)


def _settled(
    claims: npt.NDArray[Any],
    labels: LabelTable,
    policy: OverlapPolicy,
    priority: Sequence[str],
) -> tuple[LabelArray, dict[int, int]]:
    """Replace every pattern of claims by its label, and count the patterns.

    If its type can hold the labels, `claims` is overwritten to save a second volume.
    The counts are pattern -> voxels, without the empty pattern.
    """
    kind = np.uint8 if len(labels) < _BYTE else np.uint16
    voxels = claims if claims.dtype == kind else np.zeros(claims.shape, kind, order="F")
    order = _order(labels, priority)
    counts: dict[int, int] = {}
    flat, settled = (array.ravel(order="F") for array in (claims, voxels))
    # Few patterns occur in a block, so the label is decided once a pattern and then
    # looked up for every voxel.
    for here in _blocks_with_any(flat):
        places = np.flatnonzero(flat[here] != 0)
        found = flat[here][places]
        patterns, which, numbers = _patterns(found)
        winners = [_winner(pattern, policy, order) for pattern in patterns]
        settled[here][places] = np.array(winners, kind)[which]
        for pattern, number in zip(patterns, numbers, strict=True):
            counts[pattern] = counts.get(pattern, 0) + number
    return voxels, counts


def _patterns(
    found: npt.NDArray[Any],
) -> tuple[list[int], npt.NDArray[np.intp], list[int]]:
    """Return the patterns, the index of the pattern of each voxel, and the counts.

    Up to 256 possible patterns are counted in a table, more are sorted.
    """
    if found.dtype == np.uint8:
        numbers = np.bincount(found)
        patterns = np.flatnonzero(numbers)
        place = np.zeros(len(numbers), np.intp)
        place[patterns] = np.arange(len(patterns))
        return patterns.tolist(), place[found], numbers[patterns].tolist()
    patterns, which, numbers = np.unique(found, return_inverse=True, return_counts=True)
    return patterns.tolist(), which.ravel(), numbers.tolist()


def _blocks_with_any(flat: npt.NDArray[Any]) -> Iterator[slice]:
    """Yield the blocks that hold a claim; most voxels are background."""
    for begin in range(0, flat.size, _BLOCK_VOXELS):
        here = slice(begin, begin + _BLOCK_VOXELS)
        block = flat[here]
        if (block.view(np.uint8) if block.dtype == np.bool_ else block).max():
            yield here


def _order(labels: LabelTable, priority: Sequence[str]) -> list[int]:
    """Return label values, the strongest first."""
    rank = {name: place for place, name in enumerate(priority)}

    def strength(label: Label) -> tuple[int, int]:
        whole = label.name.removesuffix(f"_{label.side}") if label.side else label.name
        place = rank.get(label.name, rank.get(whole, len(rank)))
        return place, label.value

    return [label.value for label in sorted(labels, key=strength)]


def _winner(pattern: int, policy: OverlapPolicy, order: Sequence[int]) -> int:
    claimants = [value for value in order if pattern >> (value - 1) & 1]
    if len(claimants) == 1 or policy == "priority":
        return claimants[0]
    return 0


def _overlaps(
    labels: LabelTable,
    counts: dict[int, int],
    drawn: dict[str, int],
    voxel_volume_mm3: float,
) -> list[Overlap]:
    found = []
    for first, second in combinations(labels, 2):
        both = 1 << (first.value - 1) | 1 << (second.value - 1)
        voxels = sum(n for pattern, n in counts.items() if pattern & both == both)
        if voxels:
            percent = 100.0 * voxels / min(drawn[first.name], drawn[second.name])
            cm3 = voxels * voxel_volume_mm3 / _MM3_PER_CM3
            found.append(Overlap(first.name, second.name, voxels, cm3, percent))
    return found


def _overlap_finding(
    overlap: Overlap, policy: OverlapPolicy, limit_percent: float
) -> Finding:
    what = (
        f"{overlap.first} and {overlap.second} overlap in {overlap.voxels} voxels "
        f"({overlap.volume_cm3:.3f} cm3, {overlap.percent_of_smaller:.2f} % of the "
        "smaller)"
    )
    if policy == "refuse":
        text = f"{what}, and the recipe allows no overlap. Correct the masks."
        return refusal("K16", text)
    if overlap.percent_of_smaller > limit_percent:
        return refusal(
            "K16",
            f"{what}; the limit is {limit_percent:g} %. Correct the masks, or raise "
            "`overlap_limit_percent` in [merge].",
        )
    became = "background" if policy == "background" else "the first by priority"
    return Finding("K16", Outcome.FIXED, f"{what}; these are now {became}.")
