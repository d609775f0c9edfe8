"""The strength of the edges of an image, which blurring and averaging weaken.

Borders of two anatomies do not coincide, so the average of two images has them at half
their strength, while its range of intensities remains.
"""

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.image import Labelmap, Volume

SMOOTHING_VOXELS = 0.7  # standard deviation of the Gaussian before the gradient
MARGIN_VOXELS = 8  # around the structures
MOST_VOXELS = 1 << 24  # of a larger part, every n-th slice is measured
RANGE_PERCENT = (2, 98)  # percentiles of the intensities


def edge_strength(image: Volume, labelmap: Labelmap) -> float | None:
    """Return the strength of the strongest edges; None without a structure or an edge.

    `labelmap` lies on the grid of the image. Unit and offset of intensities do not
    matter: it is the geometric mean of two gradients a voxel, each divided by the range
    of intensities. They are the 99th percentile within slices of the whole image, and
    the 95th near the structures.
    """
    from scipy.ndimage import find_objects

    held = find_objects((labelmap.without_ignored().voxels > 0).astype(np.uint8))
    if not held:
        return None
    near = tuple(
        slice(max(0, one.start - MARGIN_VOXELS), one.stop + MARGIN_VOXELS)
        for one in held[0]
    )
    through = 2 - int(np.argmax(image.grid.spacing_mm[::-1]))
    whole = np.moveaxis(image.voxels, through, 0)
    part = np.moveaxis(image.voxels[near], through, 0)
    return float(np.sqrt(_gradient(whole, 99) * _gradient(part, 95))) or None


def _gradient(slices: npt.NDArray[np.generic], percent: float) -> float:
    """Return a percentile of the gradient by the range of intensities, 0 if flat."""
    from scipy.ndimage import gaussian_filter

    found: FloatArray = slices[:: 1 + slices.size // MOST_VOXELS].astype(np.float32)
    low, high = np.percentile(found, RANGE_PERCENT)
    if high <= low:
        return 0.0
    smoothing = (0, SMOOTHING_VOXELS, SMOOTHING_VOXELS)
    along = (gaussian_filter(found, smoothing, order=n) for n in ((0, 1, 0), (0, 0, 1)))
    return float(np.percentile(np.hypot(*along), percent) / (high - low))
