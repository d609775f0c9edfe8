"""How well the quality light of `predict` foretells a low Dice.

    python benchmarks/quality_light.py predict WORKSPACE WORK
    python benchmarks/quality_light.py judge WORKSPACE WORK docs/images

WORKSPACE holds the hippocampus study, trained at the smoke budget in five folds of 2d
and 3d_fullres (`nnunet-bridge run`, see CONTRIBUTING). `predict` lets each fold, each
configuration and their mean predict the cases that no training has seen: the four test
patients of the study, and the scans of the Medical Segmentation Decathlon that are not
in the study (a scan is, if one of the study has labels of the same volumes on an array
of the same shape). Each is also degraded in seven ways. `judge` gives every one its
light, compares it with the Dice, and writes a table and a picture.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_bridge.nnunet.commands import (
    ensemble_command,
    nnunet_environment,
    predict_command,
    run_to_end,
    shared_among,
)
from nnunet_bridge.nnunet.machine import this_machine
from nnunet_bridge.nnunet.names import FILE_ENDING, Workspace
from nnunet_bridge.pipeline.models import choose_model

DATASET = "Dataset004_Hippocampus"
CONFIGURATIONS = ("2d", "3d_fullres")
FOLDS = tuple("01234")
DATA = Path(
    os.environ.get("NNUNET_BRIDGE_TEST_DATA")
    or Path(__file__).parents[2] / "shared" / "data"
)
AS_GIVEN = "as given"


def noisy(voxels, rng):
    """Return Rician noise of a quarter of the bright tissue."""
    size = 0.25 * np.percentile(voxels, 99)
    real, imaginary = rng.normal(0, size, (2, *voxels.shape))
    return np.hypot(voxels + real, imaginary)


def shaded(voxels, rng):
    """Return the image under a bias field that grows sixfold along one way."""
    way = rng.normal(size=3)
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in voxels.shape)), -1)
    along = places.swapaxes(0, 1) @ (way / np.abs(way).sum())
    return voxels * np.exp(np.log(6) * (along + 1) / 2)


def cut(voxels, rng):
    """Return the image with its last two fifths along j gone, as if never scanned."""
    del rng
    return voxels[:, : voxels.shape[1] * 3 // 5]


def inverted(voxels, rng):
    """Return the image with dark for bright, as another contrast would have it."""
    del rng
    return voxels.max() - voxels


def coarse(voxels, rng):
    """Return the image as scanned with voxels of 4 mm, brought back to its grid."""
    del rng
    small = ndimage.zoom(ndimage.gaussian_filter(voxels, 1.7), 0.25, order=1)
    factors = [a / b for a, b in zip(voxels.shape, small.shape, strict=True)]
    return ndimage.zoom(small, factors, order=1)


def turned(voxels, rng):
    """Return the image upside down, as a wrong header would have it."""
    del rng
    return voxels[:, :, ::-1]


def moved(voxels, rng):
    """Return the image with the ghosts of a patient who moved."""
    spectrum = np.fft.fftn(voxels)
    lines = rng.permutation(voxels.shape[1])[: voxels.shape[1] // 2]
    phases = np.exp(1j * rng.normal(0, 1.5, len(lines)))
    spectrum[:, lines] *= phases[:, np.newaxis]
    return np.abs(np.fft.ifftn(spectrum))


DEGRADED: dict[str, Callable] = {
    "noise": noisy,
    "bias field": shaded,
    "cut field": cut,
    "inverted": inverted,
    "4 mm voxels": coarse,
    "upside down": turned,
    "motion": moved,
}


def oriented(file):
    """Return an image along the axes of LPS, as `convert` left those of the study."""
    return sitk.DICOMOrient(sitk.ReadImage(str(file)), "LPS")


def counts(labels):
    voxels = sitk.GetArrayFromImage(labels).astype(np.uint8)
    return (*labels.GetSize(), *np.bincount(voxels.ravel(), minlength=3)[1:])


def held_back(workspace):
    """Return case -> image and labels of all cases that no training has seen."""
    raw = workspace.dataset_dir(DATASET)
    cases, known = {}, set()
    for part in ("Tr", "Ts"):
        for file in sorted((raw / f"labels{part}").glob("*.nii.gz")):
            labels = oriented(file)
            known.add(counts(labels))
            if part == "Ts":
                name = file.name.removesuffix(FILE_ENDING)
                image = raw / "imagesTs" / f"{name}_0000{FILE_ENDING}"
                cases[name] = oriented(image), labels
    for part in ("Tr", "Ts"):
        folder = DATA / "train" / "msd_hippocampus"
        for file in sorted((folder / f"labels{part}").glob("*.nii.gz")):
            labels = oriented(file)
            if counts(labels) not in known:
                name = "msd_" + file.name.removesuffix(FILE_ENDING)[-3:]
                cases[name] = oriented(folder / f"images{part}" / file.name), labels
    return cases


def changed(image, labels, way, rng):
    """Return a degraded image and the labels that still lie in it."""
    voxels = sitk.GetArrayFromImage(image).T.astype(np.float64)
    drawn = sitk.GetArrayFromImage(labels).T
    new = np.ascontiguousarray(way(voxels, rng))
    if way is turned:
        drawn = np.ascontiguousarray(drawn[:, :, ::-1])
    if way is cut:
        drawn = np.ascontiguousarray(drawn[:, : new.shape[1]])
    results = []
    for array in (new.astype(np.float32), drawn.astype(np.uint8)):
        result = sitk.GetImageFromArray(array.T)
        result.SetSpacing(image.GetSpacing())
        results.append(result)
    return results


def predict(workspace, work):
    images, references = work / "images", work / "references"
    images.mkdir(parents=True)
    references.mkdir()
    for case, (image, labels) in held_back(workspace).items():
        for name, way in {AS_GIVEN: None, **DEGRADED}.items():
            seed = int.from_bytes(f"{case} {name}".encode()) % 2**32
            rng = np.random.default_rng(seed)
            pair = changed(image, labels, way or (lambda v, _: v), rng)
            file = f"{case}-{name.replace(' ', '_')}"
            sitk.WriteImage(pair[0], str(images / f"{file}_0000{FILE_ENDING}"))
            sitk.WriteImage(pair[1], str(references / f"{file}{FILE_ENDING}"))
    resources = shared_among(1, "cpu", this_machine())
    environment = nnunet_environment(workspace, resources, os.environ)
    models = {
        configuration: choose_model(workspace, DATASET, [configuration])
        for configuration in CONFIGURATIONS
    }
    for folds in (FOLDS, *((fold,) for fold in FOLDS)):
        for configuration, model in models.items():
            member = work / f"{configuration}-{'-'.join(folds)}"
            command = predict_command(
                workspace.model_dir(model.states[0].run),
                folds,
                images,
                member,
                resources,
                probabilities=folds == FOLDS,
            )
            for _ in run_to_end(command, environment, work / "log", "predict"):
                pass
            print("done", member.name, flush=True)
    members = [work / f"{name}-{'-'.join(FOLDS)}" for name in CONFIGURATIONS]
    command = ensemble_command(members, work / "mean", resources)
    for _ in run_to_end(command, environment, work / "log", "ensemble"):
        pass


if __name__ == "__main__":
    step, place, folder = sys.argv[1:4]
    here = Workspace.at(Path(place), environment={})
    if step == "predict":
        predict(here, Path(folder))
