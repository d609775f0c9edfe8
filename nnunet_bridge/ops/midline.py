"""The plane between the left and the right half of a body.

At every height the body has a left and a right flank, and a middle between them; a line
through most of these middles gives place and tilt of the plane. The main axis of the
cross-sections gives its turn about the body. Heights at which the body is cut by the
edge of the image do not count.
"""

from typing import Any

import numpy as np

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.image import BoolArray, Labelmap, Volume, VoxelArray
from nnunet_bridge.core.partly import Midline
from nnunet_bridge.core.words import Side

_LEVEL_MM = 5.0
_FEWEST_LEVELS = 3
_FEWEST_VOXELS = 50  # of a level
_MOST_CUT = 0.005  # share of the voxels of a level at the edge of the image
_FLANKS = (1.0, 99.0)  # percentiles of a level, so that single voxels count not
_MOST_TILT = 0.5  # of the plane against the patient's axis: 27 degrees
_ROUND = 1.3  # ratio of two main axes below which a body has no turn
_SAMPLES = 1 << 20  # voxels that are looked at


def midline_of(volume: Volume) -> Midline:
    """Return the midline of the body in an image.

    Raises `InputError` if the image does not show both flanks of it, or its middle is
    not upright.
    """
    places, at_edge = _body(volume)
    levels = np.round(places[:, 2] / _LEVEL_MM).astype(int)
    normal = np.array([1.0, 0.0, 0.0])
    for _ in range(2):  # the second time across the main axis
        across, heights = places @ normal, places[:, 2]
        place, tilt = _middle(across, heights, levels, at_edge)
        normal = _turned(normal, across - place - tilt * heights, places)
    if abs(tilt) > _MOST_TILT or normal[0] < 1 - _MOST_TILT:
        raise InputError("The midline of the body is not upright in its middle.")
    y, z = (float(value) for value in np.median(places[:, 1:], axis=0))
    x = (place + tilt * z - normal[1] * y) / normal[0]
    to_left = normal - [0.0, 0.0, tilt]
    nx, ny, nz = (round(float(n), 6) for n in to_left / np.linalg.norm(to_left))
    return Midline((round(float(x), 3), round(y, 3), round(z, 3)), (nx, ny, nz))


def _body(volume: Volume) -> tuple[FloatArray, BoolArray]:
    """Return (N, 3) places of voxels of the body in mm, and which lie at the edge.

    A voxel is body a quarter of the way from the mean of dark voxels to that of bright
    ones, which Otsu's method parts: skin and muscle are darker than fat.
    """
    from skimage import filters

    axis = int(np.argmax(np.abs(volume.grid.affine[0, :3])))
    step = max(1, round((volume.voxels.size / _SAMPLES) ** (1 / 3)))
    steps = [slice(None) if n == axis else slice(None, None, step) for n in range(3)]
    some = volume.voxels[tuple(steps)]
    otsu_of: Any = filters.threshold_otsu  # its stub has no types
    bright = some > otsu_of(some)
    dark = float(some[~bright].mean()) if not bright.all() else 0.0
    limit = dark + (float(some[bright].mean()) - dark) / 4 if bright.any() else dark
    indices = np.argwhere(some > limit)
    indices *= [1 if n == axis else step for n in range(3)]
    last = volume.grid.shape[axis] - 1
    return volume.grid.to_patient(indices), np.isin(indices[:, axis], [0, last])


def _middle(
    across: FloatArray, heights: FloatArray, levels: VoxelArray, at_edge: BoolArray
) -> tuple[float, float]:
    """Return (a, b) of the line a + b height through most middles of the levels."""
    found = []
    for level in np.unique(levels):
        here = levels == level
        if here.sum() >= _FEWEST_VOXELS and at_edge[here].mean() <= _MOST_CUT:
            flanks = np.percentile(across[here], _FLANKS)
            found.append((heights[here].mean(), flanks.mean()))
    if len(found) < _FEWEST_LEVELS:
        raise InputError(
            "The midline of the body cannot be found: too few heights show both of its "
            "flanks inside the image."
        )
    from scipy.stats import theilslopes

    height, middle = np.array(found).T
    line = theilslopes(middle, height)  # the median of the slopes of all pairs
    return float(line.intercept), float(line.slope)


def _turned(normal: FloatArray, away: FloatArray, places: FloatArray) -> FloatArray:
    """Return the normal along the main axis of the cross-sections.

    `away` is how far each place lies from the plane so far.
    """
    ahead = places @ [-normal[1], normal[0], 0.0]
    (wide, both), (_, deep) = np.cov(away, ahead)
    if max(wide, deep) < _ROUND**2 * min(wide, deep) or wide < deep:
        return normal
    turn = 0.5 * np.arctan2(2 * both, wide - deep)
    cosine, sine = np.cos(turn), np.sin(turn)
    x, y, _ = normal
    return np.array([cosine * x - sine * y, sine * x + cosine * y, 0.0])


def only_side(labelmap: Labelmap, volume: Volume, side: Side) -> Labelmap:
    """Return a labelmap without what lies beyond the midline of a side.

    Labels of the middle stay. Raises as `midline_of`.
    """
    grid = labelmap.grid
    middle = [one.value for one in labelmap.labels if one.side is Side.MIDDLE]
    far = midline_of(volume).beyond(side, grid.affine, grid.shape)
    kept = ~far | np.isin(labelmap.voxels, middle)
    return labelmap.with_voxels(np.where(kept, labelmap.voxels, 0))
