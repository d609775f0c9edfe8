"""Where an image shows a body: windows far away from it need not be computed.

A block of voxels is body a quarter of the way from the mean of the dark blocks to that
of the bright ones, which Otsu's method parts, in any channel. A window is left out if
its box, grown by half a patch on every side, holds no such block. So every window that
covers a voxel of the body, or one within half a patch of it, is computed, and the
logits there are the same; voxels that no window covers are background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from skimage import filters

BLOCK = 4  # edge of a block in voxels; the mean of a block has little noise
_DARKEST_BODY = 0.25


@dataclass(frozen=True, slots=True)
class Body:
    """The blocks of a volume that show a body."""

    counts: npt.NDArray[np.int64]
    """(Z + 1, Y + 1, X + 1): blocks of the body before a corner, along every axis."""

    @classmethod
    def of(cls, volume: torch.Tensor) -> Body:
        """Find the body in a preprocessed volume, (channels, Z, Y, X).

        All of it is body if no channel shows a difference.
        """
        edges = [min(BLOCK, size) for size in volume.shape[1:]]
        means = torch.nn.functional.avg_pool3d(
            volume[None], edges, BLOCK, ceil_mode=True, count_include_pad=False
        )[0].numpy()
        body = np.any([_body_of(channel) for channel in means], axis=0)
        body |= not body.any()
        counts: npt.NDArray[np.int64] = np.pad(body, (1, 0)).astype(np.int64)
        for axis in range(3):
            counts = counts.cumsum(axis)
        return cls(counts)

    def is_near(self, begin: Sequence[int], patch: Sequence[int]) -> bool:
        """Whether the window at `begin`, grown by half a patch, shows some of it."""
        size = [count - 1 for count in self.counts.shape]
        first = [max(b - p // 2, 0) // BLOCK for b, p in zip(begin, patch, strict=True)]
        ends = (
            -((-b - p - p // 2) // BLOCK) for b, p in zip(begin, patch, strict=True)
        )
        last = [max(min(pair), 0) for pair in zip(ends, size, strict=True)]
        corners = self.counts
        for low, high in zip(first, last, strict=True):
            if low >= high:
                return False
            corners = corners[high] - corners[low]
        return bool(corners)


def _body_of(blocks: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return the blocks of a body; none of them if no two differ."""
    if blocks.min() == blocks.max():
        return np.zeros(blocks.shape, dtype=np.bool_)
    otsu_of: Any = filters.threshold_otsu  # its stub has no types
    bright = blocks > otsu_of(blocks)
    dark, light = blocks[~bright].mean(), blocks[bright].mean()
    body: npt.NDArray[np.bool_] = blocks > dark + _DARKEST_BODY * (light - dark)
    return body
