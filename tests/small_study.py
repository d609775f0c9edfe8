"""A study of small patients, built file by file, for tests that spoil one of them."""

import numpy as np
from dicom_base import base, save

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.nifti import write_volume
from nnunet_bridge.formats.recipe import recipe_from

SCANS, MASKS, TEST = "Raw DICOM MRI Scans", "masks", "test_masks"
AFFINE = np.array([[0.75, 0, 0, -12], [0, 0.75, 0, -12], [0, 0, 4, -100], [0, 0, 0, 1]])
GRID = Grid((32, 32, 12), AFFINE)


CONTENT = {
    "dataset": {"id": 1, "name": "Tibia", "case": "msk_{index:03d}"},
    "scans": {"folder": SCANS},
    "masks": {"folder": MASKS, "test": TEST},
    "labels": {"tibia": 1, "femur": 2},
}


def recipe(**parts):
    return recipe_from({**CONTENT, **parts})


def box(i, j=slice(8, 14), k=slice(3, 9)):
    mask = np.zeros(GRID.shape, np.uint8)
    mask[i, j, k] = 1
    return mask


TIBIA, FEMUR = box(slice(4, 12)), box(slice(20, 28))


def draw(study, name, mask, folder=MASKS, grid=GRID):
    write_volume(study / folder / f"{name}.nii.gz", Volume(grid, mask))


def scan(study, index, code, slices=None):
    folder = study / SCANS / f"{index}_AutoBindWATER_650_{code}"
    save(slices or base(), folder)
    return folder


def patient(study, index, code, folder=MASKS):
    scan(study, index, code)
    draw(study, f"{index}_tibia_{code}", TIBIA, folder)
    draw(study, f"{index}_femur_{code}", FEMUR, folder)
