"""Read from the values of a mask file which voxels were drawn (FAULTS K06, K07)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.findings import Finding, Outcome, Refused
from nnunet_bridge.core.image import BoolArray, VoxelArray
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.units import some_of

_MOST_LABELS = 2**16
_BLOCK_VOXELS = 2**20
WHOLE_WITHIN = 1e-3
"""Largest distance of a value from the whole number that it stands for."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """The user's reading of values that are not clearly yes or no."""

    values: tuple[int, ...] = ()
    """The values that mean the structure, in a file that holds several (K06)."""

    threshold: float | None = None  # least probability that counts as drawn (K07)


@dataclass(frozen=True, slots=True)
class MaskValues:
    """Reads the values of one mask file, and collects findings about them.

    Every method returns (I, J, K) voxels, true where the structure is, and how the
    values were read: ``yes or no``, ``one value``, ``rounded``, ``threshold 0.5`` or
    ``values 3, 7``. It raises `Refused` where that is not clear.
    """

    name: str  # file name, for messages
    meaning: Meaning
    findings: list[Finding]

    def read(self, values: VoxelArray) -> tuple[BoolArray, str]:
        """Read values of any type."""
        alone = _only_value(values)
        if alone is not None and abs(alone - max(1.0, round(alone))) > WHOLE_WITHIN:
            self._note(
                "K06", Outcome.FIXED, f"marks its structure with {alone:g}, not 1"
            )
            return np.asfortranarray(values != 0), "one value"
        whole, away = self._rounded(values)
        if away > WHOLE_WITHIN:
            return self._read_probabilities(values, away)
        return self._read_whole(whole, "rounded" if away else "yes or no")

    def read_labels(self, values: VoxelArray) -> VoxelArray:
        """Return values that stand for structures, as whole numbers."""
        whole, away = self._rounded(values)
        if away > WHOLE_WITHIN:
            far = f"not labels (up to {away:.3g} from a whole number)"
            raise self._refusal("K07", f"holds fractions, {far}: export it again")
        return whole

    def _rounded(self, values: VoxelArray) -> tuple[VoxelArray, float]:
        """Return whole numbers, and how far the values were from them."""
        if values.dtype.kind != "f":
            return values, 0.0
        if not np.isfinite(values).all():
            raise self._refusal("K07", "holds NaN or infinite values: export it again")
        rounded = np.rint(values)
        away = float(np.abs(values - rounded).max(initial=0.0))
        if 0 < away <= WHOLE_WITHIN:
            moved = f"values up to {away:.1e} from whole numbers; they were rounded"
            self._note("K07", Outcome.FIXED, f"holds {moved}")
        return rounded, away

    def _read_whole(self, values: VoxelArray, how: str) -> tuple[BoolArray, str]:
        """Read whole numbers: one value besides 0, or those that the user names."""
        voxels = np.asfortranarray(values != 0)
        # Flattened in memory order, no copy of the volume is made.
        in_memory_order = values.ravel(order="K")
        drawn = in_memory_order[in_memory_order != 0]
        if drawn.size == 0:
            return voxels, "yes or no"
        low, high = drawn.min(), drawn.max()
        if low == high == 1:
            return voxels, how
        if self.meaning.values:
            return self._read_named(values)
        if low != high:
            held = listed(np.unique(drawn))
            raise self._refusal(
                "K06",
                f"should hold one structure, but holds the values {held}: export each "
                "structure alone, or a .seg.nrrd, or name the values that are meant in "
                "`masks.values`",
            )
        self._note("K06", Outcome.FIXED, f"marks its structure with {low:g}, not 1")
        return voxels, "one value"

    def _read_named(self, values: VoxelArray) -> tuple[BoolArray, str]:
        """Read several values, some of which mean the structure (K06)."""
        meant = self.meaning.values
        words = ", ".join(map(str, meant))
        held, counts = np.unique(values[values != 0], return_counts=True)
        others = ~np.isin(held, meant)
        if others.all():
            wrong = f"holds the values {listed(held)}, but `masks.values` is {words}"
            raise self._refusal("K06", f"{wrong}: correct one of them")
        taken, left = int(counts[~others].sum()), int(counts[others].sum())
        rest = f", and {left} voxels of other values were left out" if left else ""
        by = f"holds the values {listed(held)}; by `masks.values` {words} was taken"
        outcome = Outcome.WARNED if left else Outcome.FIXED
        self._note("K06", outcome, f"{by} ({taken} voxels){rest}")
        return np.asfortranarray(np.isin(values, meant)), f"values {words}"

    def _read_probabilities(
        self, values: VoxelArray, away: float
    ) -> tuple[BoolArray, str]:
        """Read fractions as probabilities if the user names a threshold (K07)."""
        threshold = self.meaning.threshold
        if threshold is None:
            raise self._refusal(
                "K07",
                f"holds fractions (up to {away:.3g} from a whole number), not a mask: "
                "export it as a binary labelmap, or name the least probability that "
                "counts in `masks.threshold`",
            )
        low, high = float(values.min()), float(values.max())
        if low < -WHOLE_WITHIN or high > 1 + WHOLE_WITHIN:
            raise self._refusal(
                "K07",
                f"holds fractions from {low:.3g} to {high:.3g}. They are not "
                "probabilities, so `masks.threshold` cannot be used: export it as a "
                "binary labelmap",
            )
        voxels = np.asfortranarray(values >= threshold)
        count = int(np.count_nonzero(voxels))
        taken = f"the {count} voxels from {threshold:g} on were taken"
        message = f"holds probabilities; {taken} (`masks.threshold`)"
        self._note("K07", Outcome.FIXED, message)
        return voxels, f"threshold {threshold:g}"

    def _note(self, code: str, outcome: Outcome, what: str) -> None:
        self.findings.append(Finding(code, outcome, f"{quoted(self.name)} {what}."))

    def _refusal(self, code: str, what: str) -> Refused:
        return Refused.because(code, f"{quoted(self.name)} {what}.")


def _only_value(values: VoxelArray) -> float | None:
    """Return the only value beside 0 of a file of fractions, if it is positive."""
    if values.dtype.kind != "f":
        return None
    drawn = values[values != 0]
    if not 0 < drawn.size < values.size or drawn.min() != drawn.max():
        return None
    return float(drawn[0]) if 0 < drawn[0] < np.inf else None


def distinct_labels(values: VoxelArray) -> npt.NDArray[Any]:
    """Return the different values of a file of whole numbers, sorted."""
    low, high = values.min(initial=0), values.max(initial=0)
    if low < 0 or high > _MOST_LABELS:
        return np.unique(values)
    found = np.zeros(int(high) + 1, bool)
    flat = values.ravel(order="K")
    for begin in range(0, flat.size, _BLOCK_VOXELS):  # indices take 8 bytes a voxel
        found[flat[begin : begin + _BLOCK_VOXELS].astype(np.intp)] = True
    return np.flatnonzero(found)


def are_labels(values: VoxelArray, most: int) -> bool:
    """Whether values are whole numbers: background 0, and `most` different at most."""
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        return False
    found = distinct_labels(values)
    return bool(found.size <= most and found[0] == 0)


def listed(values: npt.NDArray[Any]) -> str:
    """Return the first values as a message shows them."""
    return some_of([f"{value:g}" for value in values], 6)
