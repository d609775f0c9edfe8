"""Labelmaps of three cases, as several tests of this folder need them."""

import numpy as np
from scipy import ndimage

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable

TABLE = LabelTable.from_names(["tibia", "femur"])
AFFINE = np.diag([0.8, 0.8, 3.0, 1.0])


def labelmap(seed=0, shape=(40, 36, 12), affine=AFFINE):
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.normal(size=shape), 3) for _ in range(3)]
    voxels = np.argmax(fields, axis=0).astype(np.uint8)
    return Labelmap(Grid(shape, affine), voxels, TABLE)


def mtimes(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {file: file.stat().st_mtime_ns for file in files}
