"""A study of small patients, built file by file, for tests that spoil one of them.

`write_lab` writes a whole study with its recipe, and plans it, for tests that train.
"""

import numpy as np
from dicom_base import base, save

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.nifti import write_volume
from nnunet_bridge.formats.recipe import read_recipe, recipe_from
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.pipeline.ingest.convert import convert_study
from nnunet_bridge.pipeline.training.plan import plan_dataset

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


RECIPE = f"""
[dataset]
id = 1
name = "Tibia"
case = "msk_{{index:03d}}"
[scans]
folder = "{SCANS}"
[masks]
folder = "{MASKS}"
%s
[labels]
tibia = 1
femur = 2
"""
"""The same as a file; with a place for one more line about the masks."""

LAB, LAB_PATIENTS = "Dataset001_Tibia", 5
SLURM = """
[slurm]
time = "02:00:00"
gpus = 1
cpus = 1
memory_gb = 4
"""


def box(i, j=slice(8, 14), k=slice(3, 9)):
    mask = np.zeros(GRID.shape, np.uint8)
    mask[i, j, k] = 1
    return mask


TIBIA, FEMUR = box(slice(4, 12)), box(slice(20, 28))


def draw(study, name, mask, folder=MASKS, grid=GRID):
    write_volume(study / folder / f"{name}.nii.gz", Volume(grid, mask))


def scan(study, index, code, slices=None):
    """Write a scan; by default with pixels of its own, as each patient has."""
    folder = study / SCANS / f"{index}_AutoBindWATER_650_{code}"
    save(slices or of_patient(base(), index), folder)
    return folder


def of_patient(slices, index):
    """Return slices whose first voxel differs from those of other patients."""
    first = slices[0]
    own = (99 + index).to_bytes(2, "little")
    first.PixelData = own + first.PixelData[2:]
    return slices


def patient(study, index, code, folder=MASKS):
    scan(study, index, code)
    draw(study, f"{index}_tibia_{code}", TIBIA, folder)
    draw(study, f"{index}_femur_{code}", FEMUR, folder)


def write_lab(folder):
    """Write five patients to ``study``; convert and plan them in ``work``."""
    study, rng = folder / "study", np.random.default_rng(0)
    for index in range(1, LAB_PATIENTS + 1):
        scan(study, index, f"{index}A")
        for name, low in (("tibia", 4), ("femur", 20)):
            begin = low + int(rng.integers(0, 3))
            draw(study, f"{index}_{name}_{index}A", box(slice(begin, begin + 8)))
    (study / "dataset.toml").write_text(RECIPE % "" + SLURM)
    (folder / "work").mkdir()
    work = Workspace.at(folder / "work", environment={})
    convert_study(study, read_recipe(study / "dataset.toml"), work.raw_dir)
    plan_dataset(Dataset(work, LAB))


def four_patients(root):
    """Write two patients for training, one for testing, one without masks."""
    patient(root, 1, "1A")
    patient(root, 2, "2B")
    patient(root, 3, "3C", TEST)
    scan(root, 4, "4D")
    return root
