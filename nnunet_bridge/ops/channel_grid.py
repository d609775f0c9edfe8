"""Put a channel of an image on the grid of the first one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_bridge.core.findings import Finding, Outcome, Refused
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.ops.regrid import SAME_WITHIN, SNAP_WITHIN, signed_permutation

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
    turned = _turned(first, channel)
    if turned is not None:
        volume, apart_mm = turned
        placed = "as it is" if volume is channel else "turned"
        findings = []
        if apart_mm > (SAME_WITHIN + _TIE) * first.spacing_mm.min():
            text = f"lies {apart_mm:.3f} mm beside the voxels of the first channel and"
            warned = f"Channel {name} {text} is moved onto them."
            findings.append(Finding("G21", Outcome.WARNED, warned))
        if placed == "turned":
            text = f"The axes of channel {name} were turned to those of the first one."
            findings.append(Finding("G21", Outcome.FIXED, text))
        on_first = Volume(first, volume.voxels)
        return PlacedChannel(on_first, placed, findings=tuple(findings))
    if not resample:
        raise Refused.because(
            "G21",
            f"Channel {name} has {_grid(channel.grid)}, the first channel "
            f"{_grid(first)}: they are not on one grid. To interpolate it onto that of "
            "the first, set `resample_channels = true` in [dataset].",
        )
    return _resampled(first, channel, name)


def _turned(first: Grid, channel: Volume) -> tuple[Volume, float] | None:
    """Return a channel with the axes of the first grid; None if it is another grid.

    And how far, in mm, its voxels lie from those of the first.
    """
    turn = signed_permutation(np.linalg.inv(first.affine) @ channel.grid.affine)
    if turn is None:
        return None
    order = [int(np.abs(turn[axis, :3]).argmax()) for axis in range(3)]
    flipped = tuple(axis for axis in range(3) if turn[axis, order[axis]] < 0)
    voxels = np.flip(channel.voxels.transpose(order), flipped)
    affine = channel.grid.affine.copy()
    affine[:3, :3] = channel.grid.affine[:3, order]
    for axis in flipped:
        affine[:3, 3] += (voxels.shape[axis] - 1) * affine[:3, axis]
        affine[:3, axis] *= -1
    size_i, size_j, size_k = voxels.shape
    grid = Grid((size_i, size_j, size_k), affine)
    apart_mm = grid.displacement_mm(first)
    if grid.shape != first.shape or (
        apart_mm > (SNAP_WITHIN + _TIE) * first.spacing_mm.min()
    ):
        return None
    plain = order == [0, 1, 2] and not flipped
    return (channel if plain else Volume(grid, voxels)), apart_mm


def _resampled(first: Grid, channel: Volume, name: str) -> PlacedChannel:
    """Interpolate a channel linearly at the voxel centres of the first grid."""
    from scipy.ndimage import affine_transform

    to_channel = np.linalg.inv(channel.grid.affine) @ first.affine
    matrix, offset = to_channel[:3, :3], to_channel[:3, 3]
    lowest = np.float32(channel.voxels.min())
    voxels = affine_transform(
        channel.voxels.astype(np.float32),
        matrix,
        offset,
        output_shape=first.shape,
        output=np.float32,
        order=1,
        mode="nearest",
    )
    ends = np.array(channel.grid.shape) - 0.5
    plane = np.stack(np.meshgrid(*map(np.arange, first.shape[:2]), indexing="ij"), -1)
    in_plane, covered = plane @ matrix[:, :2].T, 0
    for k in range(first.shape[2]):  # slice by slice, to limit the memory
        centres = in_plane + matrix[:, 2] * k + offset
        inside = ((centres >= -0.5 - _TIE) & (centres <= ends + _TIE)).all(axis=-1)
        covered += int(inside.sum())
        voxels[:, :, k][~inside] = lowest
    share = covered / voxels.size
    if share < COVERED:
        raise Refused.because(
            "G21",
            f"Channel {name} covers only {share:.0%} of the first channel: it shows "
            "another place. Leave it out, or name the right images.",
        )
    text = f"Channel {name}, {_grid(channel.grid)}, was interpolated onto the grid of"
    rest = f"; it does not cover {1 - share:.1%} of it." if share < 1 else "."
    finding = Finding("G21", Outcome.WARNED, f"{text} the first channel{rest}")
    return PlacedChannel(Volume(first, voxels), "resampled", 1 - share, (finding,))


def _grid(grid: Grid) -> str:
    shape = " x ".join(map(str, grid.shape))
    spacing = " x ".join(f"{size:.3g}" for size in grid.spacing_mm)
    return f"{shape} voxels of {spacing} mm"
