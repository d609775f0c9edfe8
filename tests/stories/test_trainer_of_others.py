"""A dataset that plain nnU-Net planned, trained and predicted is taken up by us."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from command import bridge
from file_states import file_states
from their_dataset import write_dataset

pytestmark = pytest.mark.training

NAME, MODEL = "Dataset001_Theirs", "LabTrainer__nnUNetPlans"
TRAINERS = Path(__file__).parents[1] / "lab_trainers"
PLAIN = Path(__file__).parents[1] / "plain_nnunet.py"
PARTS = ("raw", "preprocessed", "results")


def write_theirs(folder):
    """Plan, train and predict by nnU-Net's own commands, with a trainer of a lab."""
    write_dataset(folder / "nnUNet_raw" / NAME, ".nrrd")
    images = folder / "nnUNet_raw" / NAME / "imagesTs"
    subprocess.run(
        [sys.executable, PLAIN, images, folder / "predicted"],
        env={
            **os.environ,
            **{f"nnUNet_{part}": str(folder / f"nnUNet_{part}") for part in PARTS},
            "nnUNet_extTrainer": str(TRAINERS),
            "LAB_TRAINER_WAS_IMPORTED": str(folder / "imported"),
            "nnUNet_def_n_proc": "1",
            "nnUNet_n_proc_DA": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        },
        capture_output=True,
        timeout=600,
        check=True,
    )


@pytest.fixture(scope="module")
def theirs(once, tmp_path_factory):
    folder = tmp_path_factory.mktemp("theirs")
    shutil.copytree(once(write_theirs), folder, dirs_exist_ok=True)
    (folder / "imported").unlink()
    return folder


@pytest.fixture
def lab(theirs, monkeypatch):
    """A person who has the trainers of the lab in the environment."""
    monkeypatch.setenv("nnUNet_extTrainer", str(TRAINERS))
    monkeypatch.setenv("LAB_TRAINER_WAS_IMPORTED", str(theirs / "imported"))
    return lambda *words, **more: bridge(*words, "-w", theirs, **more)


def answer(result):
    return json.loads(result.stdout)


def test_status_has_epochs_losses_times_and_dice_of_their_training(lab, theirs):
    (found,) = answer(lab("status", "1", "--json"))["runs"]

    assert (found["model"], found["budget"], found["state"]) == (MODEL, "smoke", "done")
    assert (found["epochs"], found["epochs_planned"]) == (3, 3)
    fold = theirs / "nnUNet_results" / NAME / f"{MODEL}__2d" / "fold_0"
    (log,) = fold.glob("training_log_*.txt")
    last = [line for line in log.read_text().splitlines() if "train_loss" in line][-1]
    assert found["train_loss"] == pytest.approx(float(last.split()[-1]), abs=1e-4)
    assert found["seconds"] > 0
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    assert found["mean_dice"] == pytest.approx(summary["foreground_mean"]["Dice"])


def test_plans_are_adopted_and_scores_equal_those_of_nnunet(lab, theirs):
    before = file_states(theirs / "nnUNet_preprocessed")
    fold = theirs / "nnUNet_results" / NAME / f"{MODEL}__2d" / "fold_0"
    labels = theirs / "nnUNet_raw" / NAME / "labelsTr"

    planned = answer(lab("plan", "1", "-c", "2d", "--json"))
    out = "-o", theirs / "scores", "--json"
    scored = answer(bridge("score", fold / "validation", labels, *out, check=False))

    assert "nnUNetPlans_2d" in planned["warnings"][0]
    assert file_states(theirs / "nnUNet_preprocessed") == before
    mean = json.loads((fold / "validation" / "summary.json").read_text())["mean"]
    for value, name in (("1", "ball"), ("2", "cube")):
        dice = mean[value]["Dice"]
        assert scored["mean"][name]["dice"] == pytest.approx(dice, abs=1e-6)


def test_six_steps_of_any_trainer_get_no_verdict_and_a_choice_with_a_caveat(
    lab, theirs
):
    results = theirs / "nnUNet_results" / NAME
    stock = results / "nnUNetTrainer__nnUNetPlans__2d"
    shutil.copytree(results / f"{MODEL}__2d", stock)
    models = (f"--model={MODEL}", "--model=nnUNetTrainer__nnUNetPlans")
    try:
        out = ("-c", "2d", "-o", theirs / "page", "--json")
        compared = answer(lab("compare", "1", *models, *out))
        selected = lab("select", "1")
    finally:
        shutil.rmtree(stock)

    assert compared["verdict"]["sentences"][0].startswith("No verdict: ")
    assert "nnUNetTrainer__nnUNetPlans 2d was trained for 6 steps." in compared["notes"]
    assert "its scores are not results" in selected.output
    page = json.loads((theirs / "page" / "comparison.json").read_text())
    assert [len(curve["epochs"]) for curve in page["curves"]] == [3, 3]
    assert set(page["settings"]["trainer"].values()) == {"LabTrainer", "nnUNetTrainer"}


def test_S09_their_code_runs_only_if_the_model_is_named(lab, theirs, tmp_path):
    image = theirs / "nnUNet_raw" / NAME / "imagesTs" / "c5_0000.nrrd"
    words = ("predict", "1", image, "-o", tmp_path, "--device", "cpu")
    lab("select", "1")  # its choice names the model, but no person did

    refused = lab(*words, check=False)
    packed = lab("pack", "1", "-o", tmp_path / "m.zip", "--model", MODEL, check=False)

    assert refused.exit_code == 6
    assert f"name the model (“{MODEL}”) with --model" in refused.stderr
    assert packed.exit_code == 3
    assert "a packed model holds no code" in packed.stderr
    assert not (theirs / "imported").exists()

    lab(*words, "--model", MODEL)

    assert (theirs / "imported").exists()
    ours = np.asarray(nibabel.load(tmp_path / "c5" / "labels.nii.gz").dataobj)
    their = _nrrd(theirs / "predicted" / "c5.nrrd")
    assert np.mean(ours != their) < 1e-3


def _nrrd(file):
    import SimpleITK

    image = SimpleITK.ReadImage(str(file))
    return SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)


def test_train_goes_on_with_their_trainer_and_plans(lab, theirs):
    lab("plan", "1", "-c", "2d")
    words = ("1", "-c", "2d", "-f", "1", "--device", "cpu", "--model", MODEL)

    refused = lab("train", *words, "--budget", "smoke", check=False)
    trained = answer(lab("train", *words, "--json"))["runs"]

    assert "LabTrainer sets its own number of steps" in refused.stderr
    assert [(r["fold"], r["model"], r["state"]) for r in trained] == [
        (1, MODEL, "done")
    ]
    assert (trained[0]["epochs"], trained[0]["budget"]) == (3, "smoke")
    assert (theirs / "imported").exists()
