"""Put a channel of an image on the grid of the first one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_bridge.core.findings import Finding, Outcome, Refused
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.ops.regrid import SAME_WITHIN, SNAP_WITHIN
from nnunet_bridge.ops.turn import Turn

COVERED = 0.5  # a channel must cover this share of the first one's voxels
_TIE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class PlacedChannel:
    """A channel on the grid of the first, and how it came there."""

    volume: Volume
    placed: str  # ``as it is``, ``turned`` or ``resampled``
    share_outside: float = 0.0  # of the grid's voxels, which the channel does not cover
    findings: tuple[Finding, ...] = ()


def placed_channel(
    first: Grid, channel: Volume, name: str, *, resample: bool
) -> PlacedChannel:
    """Return a channel on the grid of the first one.

    Axes that are only swapped or flipped lose nothing. Another grid is interpolated
    linearly if `resample` allows it; outside the channel its lowest value stands.

    Raises `Refused` if it lies on another grid, or hardly where the first one lies
    (G21).
    """
    turn = Turn.onto(channel.grid, first)
    turned = channel if turn.is_none else turn.volume(channel)
    off = np.inf
    if turned.grid.shape == first.shape:
        off = turned.grid.displacement_mm(first) / first.spacing_mm.min() - _TIE
    if off <= SNAP_WITHIN:
        findings = []
        if off > SAME_WITHIN:
            text = f"lies {off:.1%} of a voxel beside the first channel and is moved."
            findings.append(Finding("G21", Outcome.WARNED, f"Channel {name} {text}"))
        if not turn.is_none:
            text = f"The axes of channel {name} were turned to those of the first one."
            findings.append(Finding("G21", Outcome.FIXED, text))
        placed = "as it is" if turn.is_none else "turned"
        on_first = Volume(first, turned.voxels)
        return PlacedChannel(on_first, placed, findings=tuple(findings))
    if not resample:
        raise Refused.because(
            "G21",
            f"Channel {name} has {_grid(channel.grid)}, the first channel "
            f"{_grid(first)}: they are not on one grid. To interpolate it onto that of "
            "the first, set `resample_channels = true` in [dataset].",
        )
    return _resampled(first, channel, name)


def _resampled(first: Grid, channel: Volume, name: str) -> PlacedChannel:
    """Interpolate a channel linearly at the voxel centres of the first grid."""
    from scipy.ndimage import affine_transform

    to_channel = np.linalg.inv(channel.grid.affine) @ first.affine
    matrix, offset = to_channel[:3, :3], to_channel[:3, 3]
    source, shape = channel.voxels.astype(np.float32), first.shape
    voxels = affine_transform(
        source,
        matrix,
        offset,
        output_shape=shape,
        output=np.float32,
        order=1,
        mode="nearest",
    )
    ends = np.array(channel.grid.shape) - 0.5
    plane = np.stack(np.meshgrid(*map(np.arange, shape[:2]), indexing="ij"), -1)
    in_plane, outside = plane @ matrix[:, :2].T, 0
    for k in range(shape[2]):  # slice by slice, to limit the memory
        centres = in_plane + matrix[:, 2] * k + offset
        beyond = ((centres < -0.5 - _TIE) | (centres > ends + _TIE)).any(axis=-1)
        voxels[:, :, k][beyond] = source.min()
        outside += int(beyond.sum())
    share = outside / voxels.size
    if 1 - share < COVERED:
        raise Refused.because(
            "G21",
            f"Channel {name} covers only {1 - share:.0%} of the first channel: it is "
            "of another place. Leave it out, or name the right images.",
        )
    text = f"Channel {name}, {_grid(channel.grid)}, was interpolated onto the grid of"
    rest = f"; it does not cover {share:.1%} of it." if share else "."
    finding = Finding("G21", Outcome.WARNED, f"{text} the first channel{rest}")
    return PlacedChannel(Volume(first, voxels), "resampled", share, (finding,))


def _grid(grid: Grid) -> str:
    shape = " x ".join(map(str, grid.shape))
    spacing = " x ".join(f"{size:.3g}" for size in grid.spacing_mm)
    return f"{shape} voxels of {spacing} mm"
