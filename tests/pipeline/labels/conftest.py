"""Folders of labelmaps for the tests of scoring, cleaning and meshing."""

import json

import numpy as np
import pytest
from some_labelmaps import labelmap

from nnunet_bridge.formats.nifti import write_labelmap


@pytest.fixture
def folders(tmp_path):
    """Return predictions and references of three cases, and their dataset.json."""
    predictions, references = tmp_path / "predictions", tmp_path / "labelsTs"
    for seed in range(3):
        reference = labelmap(seed)
        moved = reference.with_voxels(np.roll(reference.voxels, 1, axis=0))
        write_labelmap(predictions / f"msk_{seed:03d}.nii.gz", moved)
        write_labelmap(references / f"msk_{seed:03d}.nii.gz", reference)
    labels = {"background": 0, "tibia": 1, "femur": 2}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    return predictions, references, tmp_path / "scores"
