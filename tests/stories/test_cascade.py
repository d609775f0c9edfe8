"""nnU-Net's cascade: coarse images first, then fine ones with what that said.

Two folds of ``3d_lowres`` and one of the cascade are really trained on noisy balls
(about five CPU minutes); a planner that is given little GPU memory plans the coarse
stage for small images too.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from spheres import DATASET, TABLE, write_spheres

from nnunet_bridge.formats.nifti import read_labelmap

pytestmark = pytest.mark.training

CASCADE = "3d_cascade_fullres"


def bridge(work, *words, check=True):
    result = subprocess.run(
        [sys.executable, "-m", "nnunet_bridge", *map(str, words), "-w", str(work)],
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    if check:
        assert result.returncode == 0, result.stderr
    return result


def bridge_to_nnunet(work, *words):
    """Words after ``--`` come last."""
    at = words.index("--")
    return subprocess.run(
        [
            *(sys.executable, "-m", "nnunet_bridge", *map(str, words[:at])),
            *("-w", str(work), *words[at:]),
        ],
        capture_output=True,
        text=True,
        timeout=1800,
        check=True,
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cascade")
    write_spheres(folder, cases=4, size=64, unseen=1)
    bridge_to_nnunet(
        folder,
        *("plan", "7", "-c", CASCADE, "--folds", "2"),
        *("--gpu-memory-target", "0.08"),
    )
    return folder


def test_the_cascade_waits_for_all_folds_of_its_first_stage(work):
    words = ("train", "7", "-c", CASCADE, "--budget", "smoke", "--device", "cpu")

    result = bridge(work, *words, check=False)

    assert result.returncode == 3
    assert "needs 3d_lowres of every fold; not trained: fold 0, 1." in result.stderr


@pytest.fixture(scope="module")
def trained(work):
    words = ("--budget", "smoke", "--device", "cpu")
    bridge(work, "train", "7", "-c", "3d_lowres", "-f", "all5", *words)
    bridge(work, "train", "7", "-c", CASCADE, *words)
    return work


def test_the_first_stage_predicts_every_case_and_the_second_learns_from_it(trained):
    runs = json.loads(bridge(trained, "status", "7", "--json").stdout)["runs"]
    assert {(r["configuration"], r["fold"], r["state"]) for r in runs} == {
        ("3d_lowres", 0, "done"),
        ("3d_lowres", 1, "done"),
        (CASCADE, 0, "done"),
    }
    said = trained / "nnUNet_results" / DATASET
    (folder,) = said.glob(f"*__3d_lowres/predicted_next_stage/{CASCADE}")
    assert {file.name for file in folder.glob("*.b2nd")} == {
        f"ball_{n:03d}.b2nd" for n in range(4)
    }


def test_the_cascade_predicts_an_unseen_image(trained, tmp_path):
    """So short a training paints too much: nnU-Net's validation says 0.59 to 1.00."""
    raw = trained / "nnUNet_raw" / DATASET
    words = ("--device", "cpu", "--json")

    result = bridge(
        trained,
        *("predict", "7", raw / "imagesTs", "-o", tmp_path, "-c", CASCADE, *words),
    )

    (case,) = json.loads(result.stdout)["cases"]
    predicted = read_labelmap(tmp_path / case["case"] / "labels.nii.gz", TABLE)
    expected = read_labelmap(raw / "labelsTs" / "ball_004.nii.gz", TABLE)
    overlap = np.sum((predicted.voxels > 0) & (expected.voxels > 0))
    sizes = np.sum(predicted.voxels > 0) + np.sum(expected.voxels > 0)
    assert overlap > 0.9 * np.sum(expected.voxels > 0)
    assert 2 * overlap / sizes > 0.4


def test_the_cascade_without_its_first_stage_predicts_nothing(trained, tmp_path):
    (lowres,) = (trained / "nnUNet_results" / DATASET).glob("*__3d_lowres")
    image = trained / "nnUNet_raw" / DATASET / "imagesTs"
    hidden = Path(f"{lowres}.away")
    lowres.rename(hidden)
    try:
        result = bridge(
            trained, "predict", "7", image, "-o", tmp_path, "-c", CASCADE, check=False
        )
    finally:
        hidden.rename(lowres)

    assert result.returncode == 3
    assert "builds upon 3d_lowres, of which fold 0 is not here" in result.stderr
