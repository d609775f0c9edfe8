"""A study of water and fat, from DICOM to predictions, with nnU-Net's own networks."""

import json
import os
import re
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from command import bridge
from dicom_base import save
from dixon import dixon, shuffled
from small_study import MASKS, SCANS, box, draw

from nnunet_bridge.nnunet.commands import trainers_dir

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("few_steps")]

DATASET = "Dataset001_Thigh"
SMOKE = ("-c", "2d", "--budget", "smoke")
RECIPE = f"""
[dataset]
id = 1
name = "Thigh"
case = "msk_{{index:03d}}"
channels = ["water", "fat"]
[scans]
folder = "{SCANS}"
[masks]
folder = "{MASKS}"
[labels]
tibia = 1
femur = 2
"""
BY_NNUNET = """
import sys, torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
predictor = nnUNetPredictor(perform_everything_on_device=False,
    device=torch.device("cpu"), allow_tqdm=False)
model, out, *channels = sys.argv[1:]
predictor.initialize_from_trained_model_folder(model, (0,), "checkpoint_final.pth")
predictor.predict_from_files_sequential([channels], [out], save_probabilities=False)
"""


TIBIA, FEMUR = box(slice(4, 12)), box(slice(20, 28))


def patient(study, index):
    """Write a patient whose contrasts are noise, each its own."""
    rng, found = np.random.default_rng(index), dixon(index=index)
    for ds in (ds for own in found.values() for ds in own):
        ds.PixelData = rng.integers(50, 300, (32, 32)).astype("<u2").tobytes()
    save(shuffled(found, index), study / SCANS / f"{index}_Dixon_{index}A")
    draw(study, f"{index}_tibia_{index}A", TIBIA)
    draw(study, f"{index}_femur_{index}A", FEMUR)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, few_steps):  # noqa: ARG001 - it makes trainings short
    folder = tmp_path_factory.mktemp("thigh")
    for index in range(1, 6):
        patient(folder / "study", index)
    (folder / "study" / "dataset.toml").write_text(RECIPE)
    words = ("-w", folder / "work", "--json")
    bridge("convert", folder / "study", *words)
    bridge("plan", "1", "-c", "2d", *words)
    bridge("train", "1", *SMOKE, "--device", "cpu", *words)
    return folder


def labels(folder, case="knee"):
    return np.asarray(nibabel.load(folder / case / "labels.nii.gz").dataobj)


@pytest.fixture(scope="module")
def new_scan(trained):
    """A patient whom nobody has seen, in another order of files and series."""
    study = trained / "new"
    patient(study, 9)
    (scan,) = (study / SCANS).iterdir()
    return scan.rename(study / "knee")


@pytest.fixture(scope="module")
def predicted(trained, new_scan):
    words = ("-o", trained / "out", "-w", trained / "work", "--device", "cpu")
    bridge("predict", "1", new_scan, *SMOKE, *words)
    return trained / "out"


def test_a_new_dixon_scan_is_predicted_as_nnunet_predicts_its_channels(
    trained, new_scan, predicted, tmp_path
):
    # The channels of the same scan as files, by hand.
    for channel, word in enumerate(("W", "F")):
        bridge(
            *("image", new_scan, "-o", tmp_path / f"knee_{channel:04d}.nii.gz"),
            *("--image-type", word),
        )
    (model,) = (trained / "work" / "nnUNet_results" / DATASET).iterdir()
    subprocess.run(
        [sys.executable, "-c", BY_NNUNET, model, tmp_path / "plain.nii.gz"]
        + [tmp_path / f"knee_{channel:04d}.nii.gz" for channel in (0, 1)],
        env={**os.environ, "nnUNet_extTrainer": str(trainers_dir())},
        check=True,
        capture_output=True,
        timeout=300,
    )
    plain = np.asarray(nibabel.load(tmp_path / "plain.nii.gz").dataobj)
    found = labels(predicted)
    assert found.any(), "the network found nothing, so this shows nothing"
    assert np.array_equal(found, plain)


def test_a_packed_model_finds_the_channels_of_a_new_patient(
    trained, new_scan, predicted, tmp_path
):
    words = ("-w", trained / "work")
    bridge("pack", "1", *SMOKE, "-o", tmp_path / "model.zip", *words)
    (tmp_path / "there").mkdir()
    bridge("unpack", tmp_path / "model.zip", "-w", tmp_path / "there")

    words = ("-w", tmp_path / "there", "--device", "cpu")
    bridge("predict", "1", new_scan, "-o", tmp_path / "out", *words)

    assert np.array_equal(labels(tmp_path / "out"), labels(predicted))
    record = json.loads((tmp_path / "out" / "knee" / "prediction.json").read_text())
    before = json.loads((predicted / "knee" / "prediction.json").read_text())
    assert record["input_sha256"] == before["input_sha256"]
    assert [case["code"] for case in record["findings"]] == ["G01"]


def test_the_page_shows_the_channel_of_choice(trained, tmp_path):
    pages = {}
    for name in ("", "water", "fat"):
        words = (*SMOKE, "-o", tmp_path / f"page {name}", "-w", trained / "work")
        bridge("compare", "1", *words, *(("--channel", name) if name else ()))
        text = (tmp_path / f"page {name}" / "index.html").read_text()
        pages[name] = re.findall(r"data:image/[^\"')]+", text)

    assert len(pages[""]) > 0
    assert pages[""] == pages["water"] != pages["fat"]
    answer = bridge("compare", "1", *words, "--channel", "in", check=False)
    assert "There is no channel “in”; there is water, fat." in answer.stderr
