"""Decide from the image whether surfaces are stored in LPS or in RAS.

Both frames are tried. Where a surface belongs, the image differs between both sides of
its faces. Neighbouring faces are not independent, so the evidence is counted in blocks,
as in `ops.content`. All surfaces of a case come from one program and have one frame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.findings import Finding, Outcome, Refused
from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.image import Volume
from nnunet_bridge.ops.checks import AIR_SHARE, high_value

CLEARLY = 4.0
"""Smallest ratio of the mean gain in contrast to its standard error over blocks."""

_BLOCKS = 50
_MOST_PLACES = 20_000

Triangles = tuple[FloatArray, npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    frame: str
    inside: float  # share of the faces in the image
    body: float  # share of the faces in the image that are not in air
    steps: FloatArray  # (N,) change of the image across each face; 0 outside

    def __str__(self) -> str:
        return (
            f"{self.frame}: {self.inside:.0%} in the image, {self.body:.0%} in the body"
        )


def frame_by_image(
    volume: Volume,
    surfaces: Sequence[Triangles],
    frames: Mapping[str, tuple[float, float, float]],
) -> tuple[str, Finding]:
    """Return the frame in which surfaces fit an image, and a finding that says so.

    Parameters
    ----------
    volume : Volume
        The image.
    surfaces : sequence of (points, faces)
        Points as stored, in mm.
    frames : mapping of str to (3,) float
        The two frames, and the factors that turn their points into LPS+.

    Raises `Refused` if the surfaces lie outside the image in both frames (K05), or fit
    alike (K27).
    """
    first, second = (_fit(volume, surfaces, *frame) for frame in frames.items())
    if not (first.inside or second.inside):
        text = f"The surfaces lie outside the image in both frames, {first.frame} and"
        raise Refused.because("K05", f"{text} {second.frame}: are they of this scan?")
    z = _standard_errors(first.steps - second.steps)
    best, worse = (first, second) if z > 0 else (second, first)
    if abs(z) < CLEARLY:
        text = f"The surfaces fit the image in both frames alike ({best}; {worse})"
        raise Refused.because("K27", f'{text}: set `masks.frame` to "LPS" or "RAS".')
    text = f"The surfaces were read as {best.frame}, as they fit the image so ({best};"
    rest = f"{worse}; z = {abs(z):.0f}). `masks.frame` of the recipe sets the frame."
    return best.frame, Finding("K27", Outcome.FIXED, f"{text} {rest}")


def _fit(
    volume: Volume,
    surfaces: Sequence[Triangles],
    frame: str,
    signs: tuple[float, float, float],
) -> _Fit:
    every = 1 + sum(len(faces) for _, faces in surfaces) // _MOST_PLACES
    corners = np.concatenate([points[faces[::every]] for points, faces in surfaces])
    first, second, third = np.moveaxis(
        volume.grid.to_voxel(corners * np.array(signs)), 1, 0
    )
    centres = (first + second + third) / 3
    normals = np.cross(second - first, third - first)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    sides = [np.rint(centres + step * normals) for step in (-1, 1)]
    last = np.array(volume.grid.shape) - 1
    inside = np.all([((side >= 0) & (side <= last)).all(axis=1) for side in sides], 0)
    here, there = (
        volume.voxels[tuple(side[inside].astype(np.intp).T)].astype(np.float64)
        for side in sides
    )
    usual = high_value(volume.voxels)
    steps = np.zeros(len(centres))
    steps[inside] = np.log1p(np.abs(there - here) / max(AIR_SHARE * usual, 1e-30))
    shown = np.count_nonzero(np.maximum(here, there) >= AIR_SHARE * usual)
    return _Fit(frame, float(inside.mean()), shown / len(inside), steps)


def _standard_errors(gains: FloatArray) -> float:
    """Return the mean of gains, by its standard error over blocks of neighbours."""
    number = min(_BLOCKS, len(gains))
    blocks = np.array([block.mean() for block in np.array_split(gains, number)])
    error = float(blocks.std(ddof=1)) / len(blocks) ** 0.5
    return float(blocks.mean() / max(error, 1e-30))
