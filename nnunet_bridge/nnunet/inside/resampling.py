"""Resample logits to the grid of the image, plane by plane.

nnU-Net resamples logits linearly along every axis or, where the voxels are much longer
along one axis, linearly in the planes across it and by the nearest plane along it; in
double precision, rounded to half. Both rules are separable, so a plane of the result
needs at most two planes of the logits.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import floor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.preprocessing.resampling.default_resampling import (
    determine_do_sep_z_and_axis,
    resample_data_or_seg_to_shape,
)
from scipy.ndimage import map_coordinates

from nnunet_bridge.nnunet.inside.label_planes import (
    Axis,
    Between,
    Seen,
    labels_of,
)

_Plane = TypeVar("_Plane")


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

    def labels(
        self, logits: Iterator[torch.Tensor], shape_seen: Sequence[int]
    ) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the (height, width) labels of the planes of the result.

        `logits` as in `planes`; on the host, only those that can change a label are
        resampled.
        """
        first = next(logits)
        logits = chain([first], logits)
        on_host = first.device.type == "cpu"
        if on_host and self.is_by_axis and tuple(shape_seen) != self.shape:
            yield from self._labels_by_axis(logits, shape_seen)
        else:
            yield from map(labels_of, self.planes(logits, shape_seen))
        for _ in logits:
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
        """Resample in the planes first, then between two neighbouring planes."""
        nearest = self._nearest_axis()
        source = _source_planes(shape_seen[0], self.shape[0], nearest=nearest == 0)
        first = next(logits)
        in_plane = partial(self._in_plane, nearest=nearest)
        for below, above, share in _held(chain([first], logits), source, in_plane):
            result = torch.lerp(below, above, share) if share else below
            yield result.to(first.dtype)

    def _labels_by_axis(
        self, logits: Iterator[torch.Tensor], shape_seen: Sequence[int]
    ) -> Iterator[npt.NDArray[np.uint8]]:
        """As `_by_axis`, of labels."""
        nearest = self._nearest_axis()
        sizes = enumerate(zip(shape_seen, self.shape, strict=True))
        source, *in_plane = (
            list(_source_planes(seen, wanted, nearest=nearest == axis))
            for axis, (seen, wanted) in sizes
        )
        rows, columns = map(Axis.of, in_plane)
        for below, above, share in _held(logits, source, Seen.of):
            yield Between.of(below, above, share, rows, columns).labels()

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


@dataclass(frozen=True, slots=True)
class Resampled:
    """Logits of a network on their way to the grid of the image, to be taken once."""

    resampling: Resampling
    seen: Iterator[torch.Tensor]  # the (heads, Y, X) planes of the network, in order
    shape_seen: Sequence[int]

    def logits(self) -> Iterator[torch.Tensor]:
        """Yield the (heads, height, width) logits of every plane of the image."""
        return self.resampling.planes(self.seen, self.shape_seen)

    def labels(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the (height, width) labels of every plane of the image."""
        return self.resampling.labels(self.seen, self.shape_seen)


def _held(
    logits: Iterator[torch.Tensor],
    source: Iterable[tuple[int, int, float]],
    prepare: Callable[[torch.Tensor], _Plane],
) -> Iterator[tuple[_Plane, _Plane, float]]:
    """Yield the prepared planes below and above every wanted one, and the share.

    `held` has the planes that the current one needs, and no earlier one: `source` only
    moves forwards.
    """
    held: dict[int, _Plane] = {}
    taken = 0
    for below, above, share in source:
        while taken <= above:
            plane = next(logits)
            if taken >= below:
                held[taken] = prepare(plane)
            taken += 1
        held = {at: plane for at, plane in held.items() if at >= below}
        yield held[below], held[above], share


def _source_planes(
    seen: int, wanted: int, *, nearest: bool
) -> Iterator[tuple[int, int, float]]:
    """Yield, for every wanted plane, the planes below and above and the share of above.

    As torch's ``align_corners=False``: the extents of both volumes coincide, not the
    outermost centres; beyond those, the outermost plane is both planes.
    """
    if nearest:
        yield from ((int(at), int(at), 0.0) for at in _nearest(seen, wanted))
        return
    for at in _places(seen, wanted):
        before = floor(at)
        below, above = (min(max(n, 0), seen - 1) for n in (before, before + 1))
        share = float(at) - before
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
