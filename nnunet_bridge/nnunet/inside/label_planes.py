"""Labels of resampled logits; logits are computed only where the label can change.

A resampled logit is a mean of its neighbours', with weights of at least 0. So where one
class leads at every neighbour by more than rounding can take away, it leads between.
Elsewhere, near the surfaces of structures, logits are resampled in single precision;
where two are still too close, once more as SciPy does for nnU-Net. Labels are equal.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import iadd
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

_Indices: TypeAlias = npt.NDArray[np.intp]
_Labels: TypeAlias = npt.NDArray[np.uint8]
_Weights: TypeAlias = npt.NDArray[np.float64]
_Logits: TypeAlias = npt.NDArray[np.float32]

_OPEN = 255  # in place of a label where no class leads by enough
_AT_ONCE = 1 << 15  # voxels whose logits are computed at once: they stay in the cache
_ROUNDING = 2.0**-18
"""Of a difference of logits in single precision, by the largest logit of a plane: at
most 32 steps are each rounded by 2**-24."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Where the voxels of the result lie between those that the network saw."""

    below: _Indices
    above: _Indices  # the next one; `below` itself beyond the outermost
    share: _Weights  # weight of `above`, 0 to 1

    @classmethod
    def of(cls, places: Iterable[tuple[int, int, float]]) -> Self:
        """Return an axis from the places of its voxels: below, above and share."""
        below, above, share = zip(*places, strict=True)
        return cls(np.array(below), np.array(above), np.array(share, dtype=np.float64))

    @property
    def neighbours(self) -> list[tuple[_Indices, _Weights]]:
        """The neighbours of every voxel and their weights, as SciPy computes them."""
        both = [(self.below, 1 - self.share), (self.above, self.share)]
        return both if self.share.any() else both[:1]


@dataclass(frozen=True, slots=True)
class Seen:
    """A plane of logits that the network saw."""

    logits: _Logits  # (heads, Y, X)
    kind: torch.dtype  # to which results are rounded: half or single
    largest: float  # without its sign

    @classmethod
    def of(cls, plane: torch.Tensor) -> Self:
        """Return a (heads, Y, X) half or single plane on the host."""
        logits = plane.float().numpy()
        largest = max(float(logits.max()), -float(logits.min()))
        return cls(logits, plane.dtype, largest)


@dataclass(frozen=True, slots=True)
class Between:
    """A plane of the result: between two of the network's, or one of them."""

    depth: tuple[tuple[Seen, float], ...]  # planes and their weights
    rows: Axis
    columns: Axis

    @classmethod
    def of(
        cls, below: Seen, above: Seen, share: float, rows: Axis, columns: Axis
    ) -> Self:
        """Return the plane with that share of `above`."""
        both = (below, 1 - share), (above, share)
        return cls(both if share else both[:1], rows, columns)

    def labels(self) -> _Labels:
        """Return the (height, width) labels, equal to nnU-Net's."""
        logits = reduce(iadd, (seen.logits * np.float32(w) for seen, w in self.depth))
        leading = self._leading(logits)
        if self.rows.share.any():
            _close(leading[:-1], leading[:-1] != leading[1:])
        if self.columns.share.any():
            _close(leading[:, :-1], leading[:, :-1] != leading[:, 1:])
        labels = leading[self.rows.below].take(self.columns.below, axis=1)
        rows, columns = np.nonzero(labels == _OPEN)
        for begin in range(0, len(rows), _AT_ONCE):
            part = slice(begin, begin + _AT_ONCE)
            place = rows[part], columns[part]
            labels[place] = self._labels_at(logits, *place)
        return labels

    def _labels_at(self, logits: _Logits, rows: _Indices, columns: _Indices) -> _Labels:
        """Return the labels of voxels of the plane, from its logits before resizing."""
        flat = logits.reshape(len(logits), -1)
        between: _Logits = np.zeros((len(flat), len(rows)), dtype=np.float32)
        for at, row_weight, column_weight in self._near(rows, columns):
            weight = (row_weight * column_weight).astype(np.float32)
            between += flat.take(at, axis=1) * weight
        labels = self._leading(between)
        close = np.flatnonzero(labels == _OPEN)
        labels[close] = labels_of(self._logits_at(rows[close], columns[close]))
        return labels

    def _logits_at(self, rows: _Indices, columns: _Indices) -> torch.Tensor:
        """Return (heads, voxels) logits, computed as by `scipy.ndimage.zoom`.

        Weights are multiplied and products added in the order of the axes, in double.
        """
        heads = len(self.depth[0][0].logits)
        logits = np.zeros((heads, len(rows)), dtype=np.float64)
        for seen, weight in self.depth:
            flat = seen.logits.reshape(len(seen.logits), -1)
            for at, row_weight, column_weight in self._near(rows, columns):
                term = flat.take(at, axis=1) * np.float64(weight)
                logits += term * row_weight * column_weight
        kind = np.float16 if self.depth[0][0].kind == torch.half else np.float32
        return torch.from_numpy(logits.astype(kind))

    def _near(
        self, rows: _Indices, columns: _Indices
    ) -> Iterable[tuple[_Indices, _Weights, _Weights]]:
        """Yield flat indices in the network's planes, weights of row and of column."""
        width = self.depth[0][0].logits.shape[-1]
        for row, row_weight in self.rows.neighbours:
            for column, column_weight in self.columns.neighbours:
                at = row[rows] * width + column[columns]
                yield at, row_weight[rows], column_weight[columns]

    def _leading(self, logits: _Logits) -> _Labels:
        """Return the labels of the logits that lead by enough, elsewhere `_OPEN`.

        Rounding moves a mean by half of ``eps`` times its size at most, or by half of
        the smallest number, where the other mean is not further away than that.
        """
        kind = torch.finfo(self.depth[0][0].kind)
        error = _ROUNDING * max(seen.largest for seen, _ in self.depth)
        best, second = logits[0].copy(), np.full(logits.shape[1:], -np.inf, np.float32)
        labels = np.zeros(best.shape, dtype=np.uint8)
        for label, of_label in enumerate(logits[1:], start=1):
            np.maximum(second, np.minimum(best, of_label), out=second)
            np.putmask(labels, of_label > best, label)
            np.maximum(best, of_label, out=best)
        enough = 2 * kind.eps * np.abs(best) + np.float32(error + kind.smallest_normal)
        _close(labels, best - second <= enough)
        return labels


def labels_of(logits: torch.Tensor) -> _Labels:
    """Return the label of the largest logit; among equals the lowest, as in nnU-Net."""
    labels: _Labels = logits.argmax(0).to(torch.uint8).cpu().numpy()
    return labels


def _close(labels: _Labels, where: npt.NDArray[np.bool_]) -> None:
    """Leave the labels of some places open."""
    np.putmask(labels, where, _OPEN)
