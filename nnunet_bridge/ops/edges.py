"""The strength of the edges of an image, which blurring and averaging weaken.

Borders of two anatomies do not coincide, so the average of two images has them at half
their strength, while its range of intensities remains.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.image import Labelmap, Volume
from nnunet_bridge.ops.occupancy import label_boxes

SMOOTHING_VOXELS = 0.7  # standard deviation of the Gaussian before the gradient
MARGIN_VOXELS = 8  # around the structures
MOST_VOXELS = 1 << 24  # of a larger part, every n-th slice is measured

_OF_IMAGE, _NEAR_STRUCTURES = 99, 95  # percentiles of the gradient
_RANGE = (2, 98)  # percentiles of the intensities


def edge_strength(image: Volume, labelmap: Labelmap) -> float | None:
    """Return the strength of the strongest edges; None without a structure or an edge.

    `labelmap` lies on the grid of the image. It does not depend on the unit or the
    offset of intensities.

    Notes
    -----
    The geometric mean of two shares: the 99th percentile of the gradient of the whole
    image and the 95th near its structures, each by the range of intensities there. The
    gradient is that within slices, a voxel.
    """
    boxes = [box for box in label_boxes(labelmap) if box]
    if not boxes:
        return None
    near = tuple(
        slice(
            max(0, min(box[axis].start for box in boxes) - MARGIN_VOXELS),
            max(box[axis].stop for box in boxes) + MARGIN_VOXELS,
        )
        for axis in range(3)
    )
    through = 2 - int(np.argmax(image.grid.spacing_mm[::-1]))
    slices = np.moveaxis(image.voxels, through, 0)
    shares = (
        _share(slices, _OF_IMAGE),
        _share(np.moveaxis(image.voxels[near], through, 0), _NEAR_STRUCTURES),
    )
    return float(np.sqrt(np.prod(shares))) or None


def _share(slices: npt.NDArray[np.generic], percent: float) -> float:
    """Return a percentile of the gradient by the range of intensities, 0 if flat."""
    found: FloatArray = slices[:: 1 + slices.size // MOST_VOXELS].astype(np.float32)
    low, high = np.percentile(found, _RANGE)
    if high <= low:
        return 0.0
    smoothing = (0, SMOOTHING_VOXELS, SMOOTHING_VOXELS)
    along = (gaussian_filter(found, smoothing, order=n) for n in ((0, 1, 0), (0, 0, 1)))
    return float(np.percentile(np.hypot(*along), percent) / (high - low))
