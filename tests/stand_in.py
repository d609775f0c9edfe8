"""In place of nnU-Net: a network that labels every voxel from 1000 on as tibia."""

import time

import numpy as np
from tiny_model import DATASET, HARMLESS, run_of, write_model

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.formats.nifti import read_volume, write_labelmap, write_volume
from nnunet_bridge.nnunet.names import Workspace

TABLE = LabelTable.from_names(["tibia", "femur"])
BRIGHT = 1000
GRID = Grid((12, 10, 60), np.diag([1.0, 1.0, 2.0, 1.0]))


def finished_workspace(root, **words):
    """Return a workspace with one finished 2d model; its weights are nobody's."""
    root.mkdir(exist_ok=True)
    found = Workspace.at(root, environment={})
    write_model(run_of(found), HARMLESS, **words)
    return found


def image_with_bone(file, first, end, *, grid=GRID, seed=0):
    """Write an image in which slices `first` to `end` - 1 hold a bright block."""
    voxels = np.random.default_rng(seed).integers(0, 200, grid.shape, dtype=np.int16)
    voxels[3:9, 3:8, first:end] = 1500
    write_volume(file, Volume(grid, voxels))
    return file


class StandIn:
    """Predicts by brightness; remembers what it was shown."""

    def __init__(self, *, pause_s=0.0):
        self.calls = []
        self._pause_s = pause_s

    def __call__(self, model, work, _resources, *, advanced):
        images = sorted((work / "images").glob("*.nii.gz"))
        shapes = {}
        folder = work / model.configurations[0]
        for number, file in enumerate(images, start=1):
            volume = read_volume(file)
            case = file.name.removesuffix("_0000.nii.gz")
            shapes[case] = volume.grid.shape
            labels = (volume.voxels >= BRIGHT).astype(np.uint8)
            write_labelmap(
                folder / f"{case}.nii.gz", Labelmap(volume.grid, labels, TABLE)
            )
            for _ in range(2):  # a file is believed when it has stopped to grow
                advanced(number / len(images))
            time.sleep(self._pause_s)
        self.calls.append(shapes)
        return folder


__all__ = [
    "BRIGHT",
    "DATASET",
    "GRID",
    "TABLE",
    "StandIn",
    "finished_workspace",
    "image_with_bone",
]
