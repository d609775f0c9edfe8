"""A network over a volume, plane by plane: memory follows the patch, not the stack.

nnU-Net lays overlapping windows over the volume, adds the logits of each, weighted by a
Gaussian, into one array as large as the volume, and divides by the sum of the weights.
Its windows come in the order of the first axis, so once a row of windows is done, the
planes before the next row are final. Here the array is only as deep as a patch: final
planes leave it and the others move up. Order, types and rounding of every addition are
nnU-Net's own (half precision), so the planes are equal to the bit.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import (
    compute_gaussian,
    compute_steps_for_sliding_window,
)

from nnunet_bridge.nnunet.estimates import STEP
from nnunet_bridge.nnunet.inside.body import Body

BACKGROUND_LOGIT = 10.0
"""Of the background where no window was computed; the others have 0."""

_HIGHEST_WEIGHT = 10
_WIDTH = 1 / 8  # height and relative width of the Gaussian, as in nnU-Net's predictor


_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class NotFiniteError(ArithmeticError):
    """An output is no number, or too large for its precision."""


@dataclass(frozen=True, slots=True)
class Manner:
    """Where and how exactly the windows of an image are computed."""

    sums_on: torch.device  # device of the weighted sums of the windows
    single: bool = False  # whether in single precision, instead of nnU-Net's half
    at_once: bool = False
    """Whether a window and its mirrored forms are one batch: faster on a GPU, but of
    another rounding, and it needs more memory."""

    @property
    def kind(self) -> torch.dtype:
        """The type of the sums."""
        return torch.float if self.single else torch.half


@dataclass(frozen=True, slots=True)
class Networks:
    """The networks of one configuration, and the size and kind of their windows."""

    folds: tuple[torch.nn.Module, ...]
    patch: tuple[int, ...]  # (2,) for a 2D network, (3,) for a 3D network
    heads: int  # classes, background included
    mirror_axes: tuple[int, ...]
    """Axes of the patch along which inputs are also mirrored; empty for none."""

    device: torch.device
    step: float = STEP  # distance of neighbouring windows, as a share of the patch

    @property
    def at_once(self) -> int:
        """The number of windows that are computed at the same time."""
        return min(getattr(network, "at_once", 1) for network in self.folds)

    @property
    def manners(self) -> tuple[Manner, ...]:
        """The ways to compute an image, the fastest first, the smallest last."""
        on_host, on_gpu = Manner(torch.device("cpu")), Manner(self.device)
        if self.device.type != "cuda":
            return (on_host,)
        return replace(on_gpu, at_once=True), on_gpu, on_host

    def to_device(self) -> None:
        """Move the networks to their device."""
        for network in self.folds:
            network.to(self.device).eval()

    def to_host(self) -> None:
        """Move the networks back, to make room for the next configuration."""
        for network in self.folds:
            network.to("cpu")


@dataclass(slots=True)
class _Sums:
    """Sums over the windows so far, for as many planes as a patch is deep."""

    logits: torch.Tensor
    """(folds, heads, depth, Y, X) of the manner's kind: weighted sums."""

    weights: torch.Tensor  # (depth, Y, X) of the same kind: sums of the weights
    gaussian: torch.Tensor  # (depth, y, x) half, of one window
    first: int = 0  # index in the volume of the first plane held
    sparse: bool = False  # whether there are voxels that no window covers

    @classmethod
    def zero(cls, networks: Networks, plane: Sequence[int], manner: Manner) -> _Sums:
        """Return sums of zero for planes of that size."""
        gaussian = compute_gaussian(
            networks.patch,
            sigma_scale=_WIDTH,
            value_scaling_factor=_HIGHEST_WEIGHT,
            device=manner.sums_on,
        )
        gaussian = gaussian.reshape(-1, *networks.patch[-2:])
        shape = (len(gaussian), *plane)
        zeros = partial(torch.zeros, dtype=manner.kind, device=manner.sums_on)
        logits = zeros((len(networks.folds), networks.heads, *shape))
        return cls(logits, zeros(shape), gaussian)

    def add(self, fold: int, logits: torch.Tensor, at: tuple[slice, slice]) -> None:
        """Add the (heads, depth, y, x) logits of a fold for the window at (y, x)."""
        logits *= self.gaussian
        self.logits[fold][(slice(None), slice(None), *at)] += logits

    def add_weights(self, at: tuple[slice, slice]) -> None:
        """Add the weights of the window at (y, x), once for all folds."""
        self.weights[(slice(None), *at)] += self.gaussian

    def final(self, plane: int) -> torch.Tensor:
        """Return the (folds, heads, Y, X) logits of a plane of the volume."""
        at = plane - self.first
        logits = torch.div(self.logits[:, :, at], self.weights[at])
        if self.sparse:
            empty = self.weights[at] == 0
            logits[:, :, empty] = 0
            logits[:, 0, empty] = BACKGROUND_LOGIT
        return logits

    def forget_before(self, plane: int) -> None:
        """Drop the planes before `plane` of the volume and move up the others."""
        # Plane by plane in place: source and target of one slice would overlap, and a
        # copy of the sums would double the memory.
        depth = len(self.weights)
        shift = min(plane - self.first, depth)
        for at in range(depth - shift):
            self.logits[:, :, at] = self.logits[:, :, at + shift]
            self.weights[at] = self.weights[at + shift]
        self.logits[:, :, depth - shift :] = 0
        self.weights[depth - shift :] = 0
        self.first = plane


@dataclass(frozen=True, slots=True)
class Sweep:
    """The windows over one preprocessed volume, in nnU-Net's order."""

    networks: Networks
    volume: torch.Tensor  # (channels, Z, Y, X) float32, padded to the patch
    inside: tuple[slice, slice, slice]  # the volume without its padding
    manner: Manner
    window_done: Callable[[], None] = field(default=lambda: None)
    """Called after every window."""

    body: Body | None = None  # windows far away from it are left out; None for all

    @classmethod
    def over(
        cls,
        networks: Networks,
        volume: torch.Tensor,
        manner: Manner,
        window_done: Callable[[], None],
        body: Body | None = None,
    ) -> Sweep:
        """Return the sweep over a volume, (channels, Z, Y, X)."""
        padded, inside = pad_nd_image(
            volume, networks.patch, "constant", {"value": 0}, return_slicer=True
        )
        return cls(networks, padded, tuple(inside[1:]), manner, window_done, body)

    @property
    def rows(self) -> list[int]:
        """First plane of every row of windows; a 2D network has a row a plane."""
        depth = self.volume.shape[1]
        return self._steps()[0] if self._is_3d else list(range(depth))

    def corners(self, row: int) -> list[tuple[int, int]]:
        """Return the first (y, x) of every window of a row that is computed."""
        rows, columns = self._steps()[-2:]
        corners = list(itertools.product(rows, columns))
        if self.body is None:
            return corners
        patch = (1, *self.networks.patch)[-3:]
        before = [part.start for part in self.inside]  # padding is no body
        places = [np.subtract((row, *corner), before) for corner in corners]
        near = [self.body.is_near(place.tolist(), patch) for place in places]
        return list(itertools.compress(corners, near))

    @property
    def windows(self) -> int:
        """The number of windows that are computed."""
        return sum(len(self.corners(row)) for row in self.rows)

    def planes(self) -> Iterator[torch.Tensor]:
        """Yield the final (folds, heads, Y, X) logits of every plane, half or single.

        Raises `NotFiniteError` if an output is no number or too large.
        """
        sums = _Sums.zero(self.networks, self.volume.shape[2:], self.manner)
        sums.sparse = self.body is not None
        wanted, *in_plane = self.inside
        rows = self.rows
        of_windows = self._of_windows()
        with weights_kept():
            for row, following in itertools.zip_longest(rows, rows[1:]):
                sums.forget_before(row)
                self._add_row(row, sums, of_windows)
                # No later window reaches the planes before the next row.
                end = self.volume.shape[1] if following is None else following
                for plane in range(max(row, wanted.start), min(end, wanted.stop)):
                    logits = sums.final(plane)[(slice(None), slice(None), *in_plane)]
                    if not torch.isfinite(logits).all():
                        raise NotFiniteError("The network's output is not finite.")
                    yield logits

    @property
    def _is_3d(self) -> bool:
        return len(self.networks.patch) == self.volume.ndim - 1

    def _steps(self) -> list[list[int]]:
        patch = self.networks.patch
        steps: list[list[int]] = compute_steps_for_sliding_window(
            tuple(self.volume.shape[-len(patch) :]), patch, self.networks.step
        )
        return steps

    def _add_row(
        self, row: int, sums: _Sums, of_windows: Iterator[Iterable[torch.Tensor]]
    ) -> None:
        """Add all windows whose first plane is `row`."""
        height, width = self.networks.patch[-2:]
        for y, x in self.corners(row):
            at = (slice(y, y + height), slice(x, x + width))
            for fold, logits in enumerate(next(of_windows)):
                summed = logits.to(self.manner.sums_on)
                sums.add(fold, summed if self._is_3d else summed[:, None], at)
            sums.add_weights(at)
            self.window_done()

    def _of_windows(self) -> Iterator[Iterable[torch.Tensor]]:
        """Yield the logits of every window, of each fold."""
        windows = (
            (slab, corner)
            for row, slab in self._slabs()
            for corner in self.corners(row)
        )
        if self.networks.at_once == 1:
            return map(self._of_folds, windows)
        return ahead(
            lambda window: list(self._of_folds(window)), windows, self.networks.at_once
        )

    def _slabs(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the first plane of every row of windows, and the row's part."""
        depth = self.networks.patch[0] if self._is_3d else 1
        for row in self.rows:
            yield row, self.volume[:, row : row + depth].to(self.networks.device)

    def _of_folds(
        self, window: tuple[torch.Tensor, tuple[int, int]]
    ) -> Iterator[torch.Tensor]:
        """Yield the logits of each fold for a row's part and a (y, x) in it."""
        slab, (y, x) = window
        height, width = self.networks.patch[-2:]
        part = slab[..., y : y + height, x : x + width]
        part = part if self._is_3d else part[:, 0]
        # A contiguous copy, as in nnU-Net: another memory layout selects another
        # algorithm of the convolutions, which rounds differently.
        part = torch.clone(part[None], memory_format=torch.contiguous_format)
        axes, at_once = self.networks.mirror_axes, self.manner.at_once
        for network in self.networks.folds:
            with _precision(self.networks.device, self.manner):
                (logits,) = mirrored(network, part, axes, at_once=at_once)
            yield logits


def ahead(
    function: Callable[[_Item], _Result], items: Iterable[_Item], at_once: int
) -> Iterator[_Result]:
    """Yield what a function returns for each item, in order; so many run at once."""
    with ThreadPoolExecutor(at_once) as threads:
        coming: deque[Future[_Result]] = deque()
        for item in items:
            coming.append(threads.submit(function, item))
            if len(coming) > at_once:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def mirrored(
    network: torch.nn.Module,
    window: torch.Tensor,
    mirror_axes: Sequence[int],
    *,
    at_once: bool,
) -> torch.Tensor:
    """Return the mean (1, heads, ...) logits over all mirrored inputs.

    `at_once` as in `Manner`.
    """
    axes = [axis + 2 for axis in mirror_axes]
    # In nnU-Net's order of the combinations: sums in half precision depend on it.
    flips = [
        some
        for number in range(1, len(axes) + 1)
        for some in itertools.combinations(axes, number)
    ]
    inputs = itertools.chain([window], (torch.flip(window, some) for some in flips))
    outputs: Iterator[torch.Tensor] = map(network, inputs)
    if at_once:
        outputs = iter(network(torch.cat(list(inputs))).split(1))
    logits = next(outputs)
    for some in flips:
        logits += torch.flip(next(outputs), some)
    if flips:
        logits /= len(flips) + 1
    return logits


@contextmanager
def weights_kept() -> Iterator[None]:
    """Keep the half-precision copies of the weights until the block is left.

    autocast makes them when a weight is first used, and drops them with its outermost
    block: without this, after every window.
    """
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()


def _precision(device: torch.device, manner: Manner) -> AbstractContextManager[object]:
    """Return autocast on an NVIDIA GPU only, as nnU-Net does."""
    half = device.type == "cuda" and not manner.single
    return torch.autocast("cuda") if half else nullcontext()
