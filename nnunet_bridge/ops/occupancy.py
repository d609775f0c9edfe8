"""Counts and bounding boxes of the labels of a labelmap, at the speed of memory.

Most voxels are background. Arrays are therefore read in memory order, in words of eight
bytes, and only words that are not zero are examined voxel by voxel. Working in blocks
limits the memory.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.image import LabelArray, Labelmap

Box: TypeAlias = tuple[slice, slice, slice]  # ranges of i, j and k

CountArray: TypeAlias = npt.NDArray[np.int64]

_WORD_BYTES = 8
_BLOCK_VOXELS = 1 << 22


def label_boxes(labelmap: Labelmap) -> tuple[Box | None, ...]:
    """Return the bounding box of every label by value; None for an absent label.

    Ignored voxels have no box.
    """
    order = _memory_order(labelmap.voxels)
    lowest, highest = _extents(labelmap.voxels.transpose(order), len(labelmap.labels))
    back = np.argsort(order)
    boxes: list[Box | None] = []
    for first, last in zip(lowest[:, back], highest[:, back], strict=True):
        i, j, k = (slice(int(a), int(b) + 1) for a, b in zip(first, last, strict=True))
        boxes.append((i, j, k) if i.stop > i.start else None)
    return tuple(boxes)


def label_counts(labelmap: Labelmap) -> CountArray:
    """Return the (n + 1,) number of voxels of background and every label."""
    return pair_counts(labelmap, labelmap).diagonal().copy()


def pair_counts(prediction: Labelmap, reference: Labelmap) -> CountArray:
    """Return the (n + 1, n + 1) counts of every pair of labels in one voxel.

    ``counts[p, r]`` voxels are `p` in the prediction and `r` in the reference; ignored
    voxels are not counted. Both labelmaps have the same shape, and tables of the same
    length n; this is not checked.
    """
    structures = len(reference.labels) + 1
    sizes = max(prediction.labels.highest_value, reference.labels.highest_value) + 1
    order = _memory_order(reference.voxels)
    predicted = prediction.voxels.transpose(order).ravel()
    drawn = reference.voxels.transpose(order).ravel()
    counts = np.zeros(sizes * sizes, dtype=np.int64)
    for begin in range(0, drawn.size, _BLOCK_VOXELS):
        block = slice(begin, begin + _BLOCK_VOXELS)
        # A pair (p, r) has the code p * n + r; pairs of background are not counted here
        # but are the rest, below.
        some_predicted, some_drawn = _where_any(predicted[block], drawn[block])
        codes = some_predicted.astype(np.intp) * sizes + some_drawn
        counts += np.bincount(codes, minlength=sizes * sizes)
    counts[0] = drawn.size - counts[1:].sum()
    return counts.reshape(sizes, sizes)[:structures, :structures]


def _memory_order(voxels: npt.NDArray[Any]) -> tuple[int, ...]:
    """Return the axes from the slowest to the fastest in memory."""
    return tuple(int(axis) for axis in np.argsort([-abs(s) for s in voxels.strides]))


def _extents(voxels: LabelArray, labels: int) -> tuple[CountArray, CountArray]:
    """Return the (n, 3) first and last index of every label; -1 the last if absent."""
    lowest = np.full((labels, 3), np.iinfo(np.int64).max)
    highest = np.full((labels, 3), -1)
    flat = voxels.ravel()
    for begin in range(0, flat.size, _BLOCK_VOXELS):
        block = flat[begin : begin + _BLOCK_VOXELS]
        places = _places_of_any(block)
        values = block[places]
        counts = np.bincount(values)[1 : labels + 1]  # not the ignored
        for value in np.flatnonzero(counts) + 1:
            found = places[values == value] + begin
            index = np.stack(np.unravel_index(found, voxels.shape))
            row = value - 1
            lowest[row] = np.minimum(lowest[row], index.min(axis=1))
            highest[row] = np.maximum(highest[row], index.max(axis=1))
    return lowest, highest


def _places_of_any(block: LabelArray) -> npt.NDArray[np.int64]:
    """Return the flat indices of all labelled voxels of a block, ascending.

    The block is read as words of eight bytes; words that are not zero expand to the
    indices of their voxels, of which those of background are dropped.
    """
    width = _WORD_BYTES // block.itemsize
    if block.size % width:
        return np.flatnonzero(block)
    words = np.flatnonzero(np.ascontiguousarray(block).view(np.uint64))
    places = (words[:, np.newaxis] * width + np.arange(width)).ravel()
    labelled: npt.NDArray[np.int64] = places[block[places] != 0]
    return labelled


def _where_any(
    predicted: LabelArray, drawn: LabelArray
) -> tuple[LabelArray, LabelArray]:
    """Return the voxels of both arrays in all words in which either has a label."""
    width = _WORD_BYTES // drawn.itemsize
    if predicted.dtype != drawn.dtype or drawn.size % width:
        some = (predicted != 0) | (drawn != 0)
        return predicted[some], drawn[some]
    words = np.ascontiguousarray(predicted).view(np.uint64)
    others = np.ascontiguousarray(drawn).view(np.uint64)
    some = np.flatnonzero(words | others)
    return words[some].view(predicted.dtype), others[some].view(drawn.dtype)
