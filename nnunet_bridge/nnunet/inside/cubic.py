"""Cubic resampling of an image, equal to nnU-Net's but for the last bit of few voxels.

nnU-Net calls scikit-image, which weighs 64 neighbours for every voxel of a volume. The
rule is separable: here each axis is a product with a matrix, whose columns are what
SciPy makes of a single voxel. In double precision both differ by 1e-15 of the range.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.preprocessing.resampling import default_resampling
from scipy.ndimage import zoom
from skimage.transform import resize

_CUBIC = 3
_Image = npt.NDArray[np.float64]


@contextmanager
def images_by_axis() -> Iterator[None]:
    """Let nnU-Net's preprocessing call `resized`, until the block ends."""
    own = default_resampling.resize
    default_resampling.resize = resized
    try:
        yield
    finally:
        default_resampling.resize = own


def resized(image: _Image, shape: Sequence[int], order: int, **options: Any) -> _Image:  # noqa: ANN401 - scikit-image's
    """Return a 2D or 3D image in another shape, as `skimage.transform.resize` does.

    What nnU-Net does not do with images is left to scikit-image: other orders than 3
    and other options.
    """
    if order != _CUBIC or options != {"mode": "edge", "anti_aliasing": False}:
        theirs: Any = resize
        return np.asarray(theirs(image, shape, order, **options))
    *depth, rows, columns = map(_weights, image.shape, map(int, shape))
    planes = torch.from_numpy(image).reshape(-1, *image.shape[-2:])
    if depth and image.shape[0] != shape[0]:
        planes = torch.tensordot(depth[0], planes, 1)
    result = torch.empty(tuple(map(int, shape)), dtype=torch.double)
    for plane, out in zip(planes, result.view(-1, *result.shape[-2:]), strict=True):
        torch.linalg.multi_dot([rows, plane, columns.T], out=out)
    return np.asarray(result.clamp_(image.min(), image.max()))


@lru_cache(maxsize=8)
def _weights(seen: int, wanted: int) -> torch.Tensor:
    """Return the (wanted, seen) weights of the voxels of an axis."""
    factor = wanted / seen
    of_each = [
        zoom(one, factor, mode="nearest", grid_mode=True) for one in np.eye(seen)
    ]
    return torch.from_numpy(np.stack(of_each, axis=1))
