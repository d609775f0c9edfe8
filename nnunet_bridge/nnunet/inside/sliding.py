"""A network over a volume, plane by plane: memory follows the patch, not the stack.

nnU-Net lays overlapping windows over the volume, adds what the network says of each,
weighted by a Gaussian, into one array as large as the volume, and divides by the sum of
the weights. Its windows come in the order of the first axis, so once a row of windows
is done, the planes before the next row are final. Here the array is only as deep as a
patch: final planes leave it, the rest moves up. Order, types and rounding of every
addition are nnU-Net's own (half precision), so the planes are the same to the bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import (
    compute_gaussian,
    compute_steps_for_sliding_window,
)

STEP = 0.5
"""nnU-Net's distance of neighbouring windows, as a share of the patch."""

_HIGHEST_WEIGHT = 10
_WIDTH = 1 / 8
"""Of the Gaussian, as nnU-Net's predictor sets them."""


@dataclass(frozen=True, slots=True)
class Networks:
    """The folds of one configuration, and how they are laid over a volume."""

    folds: tuple[torch.nn.Module, ...]
    patch: tuple[int, ...]
    """(2,) for a network that sees planes, (3,) for one that sees volumes."""

    heads: int
    """Classes, background included."""

    mirror_axes: tuple[int, ...]
    """Axes of the patch along which inputs are also mirrored; empty for none."""

    device: torch.device

    @property
    def sums_on(self) -> torch.device:
        """Where the sums of the windows are kept, if there is room."""
        return self.device if self.device.type == "cuda" else torch.device("cpu")

    def to_device(self) -> None:
        """Bring the networks to where they work."""
        for network in self.folds:
            network.to(self.device).eval()

    def to_host(self) -> None:
        """Bring the networks back, so that others find room."""
        for network in self.folds:
            network.to("cpu")


@dataclass(slots=True)
class _Sums:
    """What the windows have said so far of as many planes as a patch is deep."""

    logits: torch.Tensor
    """(folds, heads, depth, Y, X) half: weighted sums."""

    weights: torch.Tensor
    """(depth, Y, X) half: sums of the weights."""

    gaussian: torch.Tensor
    """(depth, y, x) half, of one window."""

    first: int = 0
    """Which plane of the volume the first one is."""

    @classmethod
    def zero(
        cls, networks: Networks, plane: Sequence[int], device: torch.device
    ) -> _Sums:
        """Return empty sums for planes of that size."""
        gaussian = compute_gaussian(
            networks.patch,
            sigma_scale=_WIDTH,
            value_scaling_factor=_HIGHEST_WEIGHT,
            device=device,
        )
        gaussian = gaussian.reshape(-1, *networks.patch[-2:])
        shape = (len(gaussian), *plane)
        folds = len(networks.folds)
        half = {"dtype": torch.half, "device": device}
        return cls(
            torch.zeros((folds, networks.heads, *shape), **half),
            torch.zeros(shape, **half),
            gaussian,
        )

    def add(self, fold: int, said: torch.Tensor, where: tuple[slice, slice]) -> None:
        """Add what a fold says, (heads, depth, y, x), of the window at (y, x)."""
        said *= self.gaussian
        self.logits[fold][(slice(None), slice(None), *where)] += said

    def add_weights(self, where: tuple[slice, slice]) -> None:
        """Count the window at (y, x)."""
        self.weights[(slice(None), *where)] += self.gaussian

    def final(self, plane: int) -> torch.Tensor:
        """Return the (folds, heads, Y, X) logits of a plane of the volume."""
        at = plane - self.first
        return torch.div(self.logits[:, :, at], self.weights[at])

    def forget_before(self, plane: int) -> None:
        """Move up, so that `plane` of the volume is the first one."""
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
    volume: torch.Tensor
    """(channels, Z, Y, X) float32, padded to the patch."""

    inside: tuple[slice, slice, slice]
    """Where the volume lies in its padding."""

    sums_on: torch.device
    """Where the weighted sums are kept."""

    window_done: Callable[[], None] = field(default=lambda: None)
    """Called once a window."""

    @classmethod
    def over(
        cls,
        networks: Networks,
        volume: torch.Tensor,
        sums_on: torch.device,
        window_done: Callable[[], None],
    ) -> Sweep:
        """Return the sweep over a volume, (channels, Z, Y, X)."""
        padded, inside = pad_nd_image(
            volume,
            networks.patch,
            "constant",
            {"value": 0},
            return_slicer=True,
        )
        return cls(networks, padded, tuple(inside[1:]), sums_on, window_done)

    @property
    def rows(self) -> list[int]:
        """First planes of the rows of windows."""
        depth = self.volume.shape[1]
        return self._steps()[0] if self._is_3d else list(range(depth))

    @property
    def corners(self) -> list[tuple[int, int]]:
        """Where the windows of a row begin."""
        return list(itertools.product(*self._steps()[-2:]))

    @property
    def windows(self) -> int:
        """How many there are."""
        return len(self.rows) * len(self.corners)

    def planes(self) -> Iterator[torch.Tensor]:
        """Go through the final (folds, heads, Y, X) half logits of every plane.

        Raises
        ------
        RuntimeError
            If the network's answer is not a number or too large for half precision.
        """
        sums = _Sums.zero(self.networks, self.volume.shape[2:], self.sums_on)
        wanted, *in_plane = self.inside
        rows = self.rows
        for row, following in itertools.zip_longest(rows, rows[1:]):
            sums.forget_before(row)
            self._add_row(row, sums)
            end = self.volume.shape[1] if following is None else following
            for plane in range(max(row, wanted.start), min(end, wanted.stop)):
                logits = sums.final(plane)[(slice(None), slice(None), *in_plane)]
                if not torch.isfinite(logits).all():
                    raise RuntimeError(
                        "The network's output is not finite, so it has no meaning."
                    )
                yield logits

    @property
    def _is_3d(self) -> bool:
        return len(self.networks.patch) == self.volume.ndim - 1

    def _steps(self) -> list[list[int]]:
        patch = self.networks.patch
        steps: list[list[int]] = compute_steps_for_sliding_window(
            tuple(self.volume.shape[-len(patch) :]), patch, STEP
        )
        return steps

    def _add_row(self, row: int, sums: _Sums) -> None:
        """Add all windows that begin at plane `row`."""
        depth = len(sums.gaussian)
        slab = self.volume[:, row : row + depth].to(self.networks.device)
        height, width = self.networks.patch[-2:]
        for y, x in self.corners:
            where = (slice(y, y + height), slice(x, x + width))
            window = slab[(slice(None), slice(None), *where)]
            window = window if self._is_3d else window[:, 0]
            window = torch.clone(window[None], memory_format=torch.contiguous_format)
            for fold, network in enumerate(self.networks.folds):
                with _precision(self.networks.device):
                    said = _mirrored(network, window, self.networks.mirror_axes)[0]
                said = said.to(self.sums_on)
                sums.add(fold, said if self._is_3d else said[:, None], where)
            sums.add_weights(where)
            self.window_done()


def _mirrored(
    network: torch.nn.Module, window: torch.Tensor, mirror_axes: Sequence[int]
) -> torch.Tensor:
    """Return the mean answer over all ways to mirror the input, (1, heads, ...)."""
    axes = [axis + 2 for axis in mirror_axes]
    answer: torch.Tensor = network(window)
    count = 1
    for number in range(1, len(axes) + 1):
        for some in itertools.combinations(axes, number):
            answer += torch.flip(network(torch.flip(window, some)), some)
            count += 1
    if count > 1:
        answer /= count
    return answer


def _precision(device: torch.device) -> AbstractContextManager[object]:
    """Let a GPU of NVIDIA choose half precision, as nnU-Net does, and no other."""
    return torch.autocast("cuda") if device.type == "cuda" else nullcontext()
