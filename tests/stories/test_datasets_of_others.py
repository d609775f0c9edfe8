"""Raw datasets and results in every form that nnU-Net has, made without us."""

import json

import numpy as np
import pytest
from command import bridge
from their_dataset import LABELS, SHAPE, dice, drawn, write_dataset, write_image
from tiny_model import pickled_checkpoint

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.pipeline.training.planned_data import dataset_state

NAME = "Dataset005_Theirs"
ENDINGS = [".nii.gz", ".nii", ".nrrd", ".mha"]


def predicted(number, moved):
    return np.roll(drawn(number), moved, axis=2)


def write_results(root, trainer, ending, moved, epochs, labels=LABELS):
    """Write a finished fold that held out three cases, with labels moved by voxels."""
    results = Workspace.at(root, environment={}).results_dir
    fold = results / NAME / f"{trainer}__nnUNetPlans__2d" / "fold_0"
    for number in range(3):
        file = fold / "validation" / f"c{number}{ending}"
        write_image(file, predicted(number, moved))
    (fold / "validation" / "summary.json").write_text('{"mean": {"1": {"Dice": 0.5}}}')
    checkpoint = pickled_checkpoint({"current_epoch": epochs})
    (fold / "checkpoint_final.pth").write_bytes(checkpoint)
    (fold.parent / "dataset.json").write_text(json.dumps({"labels": labels}))
    return fold


@pytest.fixture
def raw_dir(tmp_path):
    return Workspace.at(tmp_path, environment={}).raw_dir / NAME


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_dataset_of_any_ending_is_checked_and_its_changes_are_seen(
    tmp_path, raw_dir, ending
):
    write_dataset(raw_dir, ending, cases=2, channels=2)
    dataset = Dataset(Workspace.at(tmp_path, environment={}), NAME)
    before = dataset_state(dataset)

    assert RawDataset.open(raw_dir).check() == dict.fromkeys(
        ("c0", "c1"), frozenset({"ball", "cube"})
    )
    write_image(raw_dir / "labelsTr" / f"c1{ending}", drawn(1), origin=(5, -3, 15))
    assert dataset_state(dataset) != before
    with pytest.raises(InputError, match=r"c1: image and label lie 5\.000 mm apart"):
        RawDataset.open(raw_dir).check()


@pytest.mark.parametrize("ending", ENDINGS)
def test_results_of_any_ending_are_scored_and_compared(tmp_path, raw_dir, ending):
    write_dataset(raw_dir, ending, cases=3)
    write_results(tmp_path, "LabTrainer", ending, 1, 1000)
    fold = write_results(tmp_path, "LabTrainerB", ending, 3, 1000)
    expected = [
        np.mean([dice(predicted(n, 3) == value, drawn(n) == value) for n in range(3)])
        for value in (1, 2)
    ]

    words = fold / "validation", raw_dir / "labelsTr", "-o", tmp_path / "scores"
    scored = json.loads(bridge("score", *words, "--json").stdout)
    models = [f"--model={name}__nnUNetPlans" for name in ("LabTrainer", "LabTrainerB")]
    out = ("-c", "2d", "-o", tmp_path / "page", "-w", tmp_path, "--json")
    compared = json.loads(bridge("compare", "5", *models, *out).stdout)

    means = [scored["mean"][name]["dice"] for name in ("ball", "cube")]
    assert means == pytest.approx(expected, abs=1e-6)
    rows = {r["structure"]: r for r in compared["results"] if r["metric"] == "dice"}
    found = [rows[name]["mean_second"] for name in ("ball", "cube")]
    assert found == pytest.approx(expected, abs=1e-6)
    assert "No verdict" not in compared["verdict"]["sentences"][0]


@pytest.mark.parametrize("epochs", [3, 49])
def test_trainings_of_few_steps_get_no_verdict_whatever_their_trainer_is_called(
    tmp_path, raw_dir, epochs
):
    write_dataset(raw_dir, ".nii.gz", cases=3)
    for trainer, moved in (("nnUNetTrainer", 0), ("nnUNetTrainer_250epochs", 4)):
        write_results(tmp_path, trainer, ".nii.gz", moved, epochs)
    out = ("-c", "2d", "-o", tmp_path / "page", "-w", tmp_path, "--json")
    names = "nnUNetTrainer__nnUNetPlans", "nnUNetTrainer_250epochs__nnUNetPlans"

    models = [f"--model={name}" for name in names]
    found = json.loads(bridge("compare", "5", *models, *out).stdout)
    full = bridge("compare", "5", "--budget", "full", *out, check=False)

    assert found["verdict"]["winner"] is None
    assert found["verdict"]["sentences"][0].startswith("No verdict")
    assert f"was trained for {epochs * 250:,} steps." in " ".join(found["notes"])
    assert full.exit_code == 3
    assert "no finished model nnunet" in full.stderr


def test_models_of_different_budgets_are_not_compared(tmp_path, raw_dir):
    write_dataset(raw_dir, ".nii.gz", cases=3)
    for trainer, epochs in (("LabTrainer", 3), ("LabTrainerB", 1000)):
        write_results(tmp_path, trainer, ".nii.gz", 1, epochs)
    models = [f"--model={name}__nnUNetPlans" for name in ("LabTrainer", "LabTrainerB")]
    words = ("5", "-c", "2d", *models, "-o", tmp_path / "page", "-w", tmp_path)

    found = bridge("compare", *words, check=False)

    assert found.exit_code == 3
    assert "LabTrainer__nnUNetPlans 2d: smoke, LabTrainerB" in found.stderr


def test_one_class_and_ignored_voxels_are_known(raw_dir):
    labels = {"background": 0, "ball": 1, "ignore": 2}
    write_dataset(raw_dir, ".mha", cases=1, labels=labels)
    voxels = np.where(drawn(0) == 2, 2, drawn(0))

    raw = RawDataset.open(raw_dir)

    assert raw.labels.names == ("ball",)
    assert raw.labels.ignore_value == 2
    write_image(raw_dir / "labelsTr" / "c0.mha", voxels)
    assert raw.check() == {"c0": frozenset({"ball"})}


@pytest.mark.parametrize("command", ["plan", "score"])
def test_N01_gaps_of_label_values_are_refused_as_nnunet_refuses_them(
    tmp_path, raw_dir, command
):
    labels = {"background": 0, "ball": 1, "cube": 3}
    write_dataset(raw_dir, ".nrrd", cases=1, labels=labels)
    folder = raw_dir / "labelsTr"
    words = {
        "plan": ("5", "-w", tmp_path),
        "score": (folder, folder, "-o", tmp_path / "out"),
    }

    found = bridge(command, *words[command], check=False)

    assert found.exit_code == 3
    message = "[N01]", "without gap: 0, 1, 2, ..., not 0, 1, 3."
    assert all(words in found.stderr for words in message)


def test_files_of_other_endings_are_refused_by_name(tmp_path, raw_dir):
    write_dataset(raw_dir, ".nii.gz", cases=1, file_ending=".png")

    found = bridge("plan", "5", "-w", tmp_path, check=False)

    assert found.exit_code == 3
    assert "files that end in .png are not read" in found.stderr


REGIONS = {"background": 0, "whole": [1, 2], "cube": 2}


@pytest.fixture
def regions(tmp_path, raw_dir):
    more = {"labels": REGIONS, "regions_class_order": [1, 2]}
    write_dataset(raw_dir, ".nrrd", cases=3, **more)
    return write_results(tmp_path, "LabTrainer", ".nrrd", 3, 1000, REGIONS)


def test_regions_are_scored_as_their_unions(tmp_path, raw_dir, regions):
    words = regions / "validation", raw_dir / "labelsTr", "-o", tmp_path / "scores"

    found = json.loads(bridge("score", *words, "--json").stdout)

    for name, values in (("whole", (1, 2)), ("cube", (2,))):
        each = [
            dice(np.isin(predicted(n, 3), values), np.isin(drawn(n), values))
            for n in range(3)
        ]
        assert found["mean"][name]["dice"] == pytest.approx(np.mean(each), abs=1e-6)


def test_ignored_voxels_of_regions_count_on_no_side(tmp_path):
    reference = drawn(0)
    reference[:, :, 25:] = 3
    files = {}
    for name, voxels in (("labelsTr", reference), ("predicted", predicted(0, 1))):
        write_image(tmp_path / name / "c0.nrrd", voxels)
        files[name] = tmp_path / name
    labels = {"labels": {**REGIONS, "ignore": 3}}
    (tmp_path / "dataset.json").write_text(json.dumps(labels))
    words = files["predicted"], files["labelsTr"], "-o", tmp_path / "scores", "--json"

    found = json.loads(bridge("score", *words).stdout)

    seen = np.indices(SHAPE)[2] < 25
    expected = dice((predicted(0, 1) > 0) & seen, (drawn(0) > 0) & seen)
    assert found["mean"]["whole"]["dice"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.usefixtures("regions")
def test_regions_are_compared_and_seen_by_status(tmp_path):
    write_results(tmp_path, "LabTrainerB", ".nrrd", 1, 1000, REGIONS)
    models = [f"--model={name}__nnUNetPlans" for name in ("LabTrainer", "LabTrainerB")]
    out = ("-c", "2d", "-o", tmp_path / "page", "-w", tmp_path, "--json")

    found = json.loads(bridge("compare", "5", *models, *out).stdout)
    states = json.loads(bridge("status", "5", "-w", tmp_path, "--json").stdout)

    rows = {row["structure"] for row in found["results"] if row["metric"] == "dice"}
    assert rows >= {"whole", "cube"}
    assert {run["model"] for run in states["runs"]} == {
        "LabTrainer__nnUNetPlans",
        "LabTrainerB__nnUNetPlans",
    }


@pytest.mark.usefixtures("regions")
@pytest.mark.parametrize("command", ["plan", "predict", "select", "clean"])
def test_regions_are_refused_elsewhere_by_one_sentence(tmp_path, raw_dir, command):
    words = {
        "predict": ("5", raw_dir / "imagesTs", "-o", tmp_path / "out"),
        "clean": ("--tune", "5", "-c", "2d"),
    }.get(command, ("5",))

    found = bridge(command, *words, "-w", tmp_path, check=False)

    assert found.exit_code == 3
    assert "has regions of several labels (whole)." in found.stderr
