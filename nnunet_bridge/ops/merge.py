"""Masks of single structures -> one labelmap, with every overlap found exactly.

A voxel remembers as a pattern of bits which structures claim it, so that no two pairs
of structures can be taken for each other (a sum of label values can: tibia 1 + femur 2
is fibula 3). The result does not depend on the order of the masks (FAULTS K16).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.findings import Finding, Outcome
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import BoolArray, Label, LabelArray, Labelmap, LabelTable

OverlapPolicy: TypeAlias = Literal["background", "priority", "refuse"]

_MM3_PER_CM3 = 1000.0
_MOST_LABELS = 64
_BYTE = 255
_WORD_BYTES = 8
_BLOCK_VOXELS = 1 << 22


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two structures that claim the same voxels."""

    first: str
    second: str
    voxels: int
    volume_cm3: float
    percent_of_smaller: float


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """One labelmap, and what its structures fought about."""

    labelmap: Labelmap
    drawn: dict[str, int]
    """Voxels that each structure claimed, before overlaps were settled."""

    overlaps: tuple[Overlap, ...]
    findings: tuple[Finding, ...]


def merge_masks(
    grid: Grid,
    labels: LabelTable,
    masks: Iterable[tuple[Label, BoolArray]],
    *,
    policy: OverlapPolicy = "background",
    priority: Sequence[str] = (),
    limit_percent: float = 0.5,
) -> Merged:
    """Merge masks on one grid into one labelmap.

    Parameters
    ----------
    grid : Grid
        Where all masks lie.
    labels : LabelTable
        The structures; at most 64.
    masks : iterable of (Label, (I, J, K) bool)
        Taken one at a time, so that they need not all be in memory. Several masks of
        one label are united.
    policy : {'background', 'priority', 'refuse'}
        What a voxel becomes that several structures claim.
    priority : sequence of str
        Names of labels, the strongest first; labels that it does not name come last,
        in the order of their values.
    limit_percent : float
        A larger overlap, in percent of the smaller structure, is refused.

    Examples
    --------
    >>> table = LabelTable.from_names(["tibia", "femur"])
    >>> row = lambda *on: np.array(on, bool).reshape(4, 1, 1)
    >>> masks = [(table["tibia"], row(1, 1, 0, 0)), (table["femur"], row(0, 1, 1, 0))]
    >>> merged = merge_masks(Grid((4, 1, 1), np.eye(4)), table, masks)
    >>> merged.labelmap.voxels.ravel().tolist(), merged.overlaps[0].voxels
    ([1, 0, 2, 0], 1)
    """
    if len(labels) > _MOST_LABELS:
        raise InputError(f"At most {_MOST_LABELS} structures can be merged.")
    claims = np.zeros(grid.shape, np.min_scalar_type(2 ** len(labels) - 1), order="F")
    for label, mask in masks:
        bit = claims.dtype.type(1 << (label.value - 1))
        for k in _slices_with_any(mask):
            claims[:, :, k] |= np.multiply(mask[:, :, k], bit, dtype=claims.dtype)
    counts = _counts(claims)
    order = _order(labels, priority)
    winners = {pattern: _winner(int(pattern), policy, order) for pattern in counts}
    drawn = {
        label.name: sum(n for p, n in counts.items() if p >> (label.value - 1) & 1)
        for label in labels
    }
    overlaps = _overlaps(labels, counts, drawn, grid.voxel_volume_mm3)
    findings = [_judged(overlap, policy, limit_percent) for overlap in overlaps]
    return Merged(
        Labelmap(grid, _settled(claims, winners, len(labels)), labels),
        drawn,
        tuple(overlaps),
        tuple(findings),
    )


def _counts(claims: npt.NDArray[Any]) -> dict[int, int]:
    """Return how many voxels hold each pattern but the empty one."""
    counts: dict[int, int] = {}
    flat = claims.reshape(-1, order="F")
    for places in _claimed(flat):
        patterns, numbers = np.unique(flat[places], return_counts=True)
        for pattern, number in zip(patterns.tolist(), numbers.tolist(), strict=True):
            counts[pattern] = counts.get(pattern, 0) + number
    return counts


def _claimed(flat: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.int64]]:
    """Go through the places of all claimed voxels, those of a block at a time.

    Most voxels are claimed by nobody: eight bytes are looked at together, and closely
    only where they are not all zero.
    """
    width = _WORD_BYTES // flat.itemsize
    for begin in range(0, flat.size, _BLOCK_VOXELS):
        block = flat[begin : begin + _BLOCK_VOXELS]
        whole = block.size - block.size % width
        words = np.flatnonzero(block[:whole].view(np.uint64))
        near = (words[:, np.newaxis] * width + np.arange(width)).reshape(-1)
        near = np.concatenate([near, np.arange(whole, block.size)])
        yield near[block[near] != 0] + begin


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


def _settled(
    claims: npt.NDArray[Any], winners: dict[int, int], highest: int
) -> LabelArray:
    kind = np.uint8 if highest < _BYTE else np.uint16
    voxels = np.zeros(claims.shape, kind, order="F")
    patterns = np.array(sorted(winners), claims.dtype)
    values = np.array([winners[pattern] for pattern in sorted(winners)], kind)
    flat, settled = (array.reshape(-1, order="F") for array in (claims, voxels))
    for places in _claimed(flat):
        settled[places] = values[np.searchsorted(patterns, flat[places])]
    return voxels


def _slices_with_any(voxels: npt.NDArray[Any]) -> Iterator[int]:
    """Go through the k of those slices ``[:, :, k]`` that are not empty."""
    return (k for k in range(voxels.shape[2]) if voxels[:, :, k].any())


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
            smaller = min(drawn[first.name], drawn[second.name])
            found.append(
                Overlap(
                    first.name,
                    second.name,
                    voxels,
                    voxels * voxel_volume_mm3 / _MM3_PER_CM3,
                    100.0 * voxels / smaller,
                )
            )
    return found


def _judged(overlap: Overlap, policy: OverlapPolicy, limit_percent: float) -> Finding:
    what = (
        f"{overlap.first} and {overlap.second} overlap in {overlap.voxels} voxels "
        f"({overlap.volume_cm3:.3f} cm3, {overlap.percent_of_smaller:.2f} % of the "
        "smaller)"
    )
    if policy == "refuse":
        return Finding(
            "K16", Outcome.REFUSED, f"{what}, and the recipe refuses any overlap."
        )
    if overlap.percent_of_smaller > limit_percent:
        return Finding(
            "K16",
            Outcome.REFUSED,
            f"{what}; {limit_percent:g} % is the limit. Correct the masks, or raise "
            "`overlap_limit_percent` in [merge].",
        )
    became = "background" if policy == "background" else "the stronger by priority"
    return Finding("K16", Outcome.FIXED, f"{what}; these became {became}.")
