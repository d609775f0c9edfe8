"""A raw dataset of another lab, written by SimpleITK in any ending that nnU-Net has."""

import json

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its usual name

SPACING, ORIGIN = (1.0, 1.0, 2.0), (5.0, -3.0, 10.0)
LABELS = {"background": 0, "ball": 1, "cube": 2}
SHAPE = (24, 32, 32)  # k, j, i


def write_image(file, voxels, origin=ORIGIN):
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(SPACING)
    image.SetOrigin(origin)
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file))


def drawn(number):
    """Return the labels of a case: a ball and a cube, moved a little."""
    labels = np.zeros(SHAPE, np.uint8)
    k, j, i = np.indices(SHAPE) - 9 - number % 3
    labels[k**2 + j**2 + i**2 <= 25] = 1
    labels[15:21, 20:28, 20:28] = 2
    return labels


def write_dataset(folder, ending, *, cases=5, channels=1, labels=LABELS, **more):
    """Write cases ``c0``, ``c1``, ... for training, and one more for prediction."""
    rng = np.random.default_rng(0)
    for number in range(cases + 1):
        part = "Tr" if number < cases else "Ts"
        voxels = drawn(number)
        for channel in range(channels):
            image = rng.normal(0, 5, SHAPE) + 100 * (voxels == 1) + 200 * (voxels == 2)
            name = f"c{number}_{channel:04d}{ending}"
            write_image(folder / f"images{part}" / name, image.astype(np.int16))
        if part == "Tr":
            write_image(folder / "labelsTr" / f"c{number}{ending}", voxels)
    description = {
        "channel_names": {str(n): f"contrast{n}" for n in range(channels)},
        "labels": labels,
        "numTraining": cases,
        "file_ending": ending,
        **more,
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def dice(one, other):
    """Return the Dice of two masks by its definition."""
    return 2 * (one & other).sum() / (one.sum() + other.sum())
