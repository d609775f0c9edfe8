"""A raw dataset of noisy spheres, so small that nnU-Net plans and trains it at once."""

import numpy as np

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.formats.files import write_json
from nnunet_bridge.formats.nifti import write_labelmap, write_volume

DATASET = "Dataset007_Spheres"
TABLE = LabelTable.from_names(["ball"])


def sphere(size, seed):
    """Return an image with one bright ball in noise, and where the ball is."""
    rng = np.random.default_rng(seed)
    middle = size / 2 + rng.uniform(-size / 8, size / 8, 3)
    radius = size * rng.uniform(0.2, 0.3)
    places = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), -1)
    ball = np.linalg.norm(places - middle, axis=-1) < radius
    image = 100 * ball + rng.normal(200, 10, ball.shape)
    return image.astype(np.int16), ball.astype(np.uint8)


def write_spheres(work, *, cases=4, size=24, unseen=0):
    """Write the dataset into a workspace; return its raw folder."""
    folder = work / "nnUNet_raw" / DATASET
    grid = Grid((size,) * 3, np.eye(4))
    for number in range(cases + unseen):
        part = "Tr" if number < cases else "Ts"
        image, ball = sphere(size, number)
        name = f"ball_{number:03d}"
        write_volume(
            folder / f"images{part}" / f"{name}_0000.nii.gz", Volume(grid, image)
        )
        write_labelmap(
            folder / f"labels{part}" / f"{name}.nii.gz", Labelmap(grid, ball, TABLE)
        )
    write_json(
        folder / "dataset.json",
        {
            "channel_names": {"0": "MRI"},
            "labels": {"background": 0, "ball": 1},
            "numTraining": cases,
            "file_ending": ".nii.gz",
        },
    )
    return folder
