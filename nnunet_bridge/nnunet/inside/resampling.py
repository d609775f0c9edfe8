"""Resample logits to the grid of the image, plane by plane.

nnU-Net resamples logits linearly along every axis or, where the voxels are much longer
along one axis, linearly in the planes across it and by the nearest plane along it; in
double precision, rounded to half. Both rules are separable, so a plane of the result
needs at most two planes of the logits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.preprocessing.resampling.default_resampling import (
    determine_do_sep_z_and_axis,
    resample_data_or_seg_to_shape,
)
from scipy.ndimage import map_coordinates


@dataclass(frozen=True, slots=True)
class Resampling:
    """The way from the shape that the network saw to that of the cropped image."""

    function: partial[Any]  # nnU-Net's function, as the plans name it, with its options
    shape: tuple[int, int, int]  # shape of the result
    spacing_seen_mm: tuple[float, float, float]
    spacing_mm: tuple[float, float, float]  # spacing of the result

    def planes(
        self, logits: Iterator[torch.Tensor], shape_seen: Sequence[int]
    ) -> Iterator[torch.Tensor]:
        """Yield the (heads, height, width) planes of the result.

        `logits` are (heads, Y, X) tensors, in order, half or single as the result; all
        are consumed. If the plans name another function than nnU-Net's default, planes
        have the type that it returns, after all of them were in memory at once.
        """
        if tuple(shape_seen) == self.shape:
            yield from logits
        elif self.is_by_axis:
            yield from self._by_axis(logits, shape_seen)
        else:
            yield from self._at_once(logits)
        for _ in logits:  # count the overlaps of the last planes too
            pass

    @property
    def is_by_axis(self) -> bool:
        """Whether the function is nnU-Net's default, which is separable."""
        options = self.function.keywords
        return (
            self.function.func is resample_data_or_seg_to_shape
            and options.get("is_seg", False) is False
            and options.get("order", 3) == 1
            and options.get("order_z", 0) == 0
        )

    def _at_once(self, logits: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Call nnU-Net's function, which needs the whole volume."""
        whole = torch.stack([plane.cpu() for plane in logits], dim=1)
        result = self.function(whole, self.shape, self.spacing_seen_mm, self.spacing_mm)
        for plane in range(self.shape[0]):
            yield torch.as_tensor(result[:, plane])

    def _by_axis(
        self, logits: Iterator[torch.Tensor], shape_seen: Sequence[int]
    ) -> Iterator[torch.Tensor]:
        """Resample in the planes first, then between two neighbouring planes.

        `held` has the resampled planes that the current plane of the result needs, and
        no earlier one: `source` only moves forwards.
        """
        nearest = self._nearest_axis()
        source = _source_planes(shape_seen[0], self.shape[0], nearest=nearest == 0)
        held: dict[int, torch.Tensor] = {}
        taken = 0
        for below, above, share in source:
            while taken <= above:
                plane = next(logits)
                kind = plane.dtype
                if taken >= below:
                    held[taken] = self._in_plane(plane, nearest)
                taken += 1
            held = {at: plane for at, plane in held.items() if at >= below}
            result = held[below]
            if share:
                result = torch.lerp(result, held[above], share)
            yield result.to(kind)

    def _nearest_axis(self) -> int | None:
        options = self.function.keywords
        threshold = options.get("separate_z_anisotropy_threshold")
        separate, axis = determine_do_sep_z_and_axis(
            options.get("force_separate_z", False),
            self.spacing_seen_mm,
            self.spacing_mm,
            *([] if threshold is None else [threshold]),
        )
        return int(axis) if separate else None

    def _in_plane(self, plane: torch.Tensor, nearest: int | None) -> torch.Tensor:
        """Return (heads, Y, X) logits as (heads, height, width) doubles."""
        size = list(self.shape[1:])
        if nearest in (1, 2):
            size[nearest - 1] = plane.shape[nearest]
        result = plane.double()
        if tuple(size) != tuple(plane.shape[1:]):
            result = torch.nn.functional.interpolate(
                result[None], size, mode="bilinear", align_corners=False
            )[0]
        if nearest in (1, 2):
            chosen = _nearest(plane.shape[nearest], self.shape[nearest])
            index = torch.as_tensor(chosen, device=result.device)
            result = result.index_select(nearest, index)
        return result


def _source_planes(
    seen: int, wanted: int, *, nearest: bool
) -> Iterator[tuple[int, int, float]]:
    """Yield, for every wanted plane, the planes below and above and the share of above.

    As torch's ``align_corners=False``: the extents of both volumes coincide, not the
    outermost centres; beyond those, the outermost plane is repeated.
    """
    if nearest:
        yield from ((int(at), int(at), 0.0) for at in _nearest(seen, wanted))
        return
    for at in _places(seen, wanted).clip(0, seen - 1):
        below = int(at)
        above = min(below + 1, seen - 1)
        share = float(at) - below
        yield below, above if share else below, share


def _nearest(seen: int, wanted: int) -> npt.NDArray[np.int64]:
    """Return the index of the seen plane nearest to every wanted one.

    `scipy.ndimage` decides ties, because it does so in nnU-Net.
    """
    if seen == wanted:
        return np.arange(seen)
    planes = np.arange(seen, dtype=np.float64)
    chosen = map_coordinates(planes, [_places(seen, wanted)], order=0, mode="nearest")
    return chosen.astype(np.int64)


def _places(seen: int, wanted: int) -> npt.NDArray[np.float64]:
    """Return the centres of the wanted planes in units of the seen planes."""
    places = float(seen) / wanted * (np.arange(wanted, dtype=np.float64) + 0.5) - 0.5
    return np.asarray(places, dtype=np.float64)
