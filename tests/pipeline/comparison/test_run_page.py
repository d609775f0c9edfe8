"""Every finished training gets its page, and no training fails because of it."""

import json
import os
import re

import numpy as np
import pytest

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.formats.nifti import write_labelmap, write_volume
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.planned import Planned
from nnunet_bridge.nnunet.runs import run_state, write_record
from nnunet_bridge.nnunet.training_options import TrainingOptions
from nnunet_bridge.ops.metrics import bone_scores
from nnunet_bridge.pipeline.comparison.run_page import (
    acquired_view,
    write_run_page,
    write_run_pages,
)
from nnunet_bridge.pipeline.training.planned_data import dataset_state
from nnunet_bridge.pipeline.training.request import TrainingRequest
from nnunet_bridge.pipeline.training.train import train_dataset

DATASET = "Dataset001_Tibia"
TABLE = LabelTable.from_names(["tibia", "femur"])
CASES = ("msk_001", "msk_002", "msk_003")


def run_in(workspace):
    return method_of("nnunet", "full").run(Dataset(workspace, DATASET), "2d", 0)


THICK = Grid((24, 20, 12), np.diag([1.0, 1.0, 4.0, 1.0]))


def drawn(number):
    voxels = np.zeros(THICK.shape, np.uint8)
    voxels[3:11, 4 : 12 + number, 2:10] = 1
    voxels[13:21, 4:14, 2:10] = 2
    return Labelmap(THICK, voxels, TABLE)


def predicted(number):
    """Return the reference, moved by one voxel; slice 7 of the last case is empty."""
    voxels = np.roll(drawn(number).voxels, 1, axis=0)
    if number == len(CASES) - 1:
        voxels[..., 7] = 0
    return drawn(number).with_voxels(voxels)


@pytest.fixture
def workspace(tmp_path):
    """Three cases and one training that has ended, as its files say."""
    workspace = Workspace.at(tmp_path, {})
    raw, validation = Dataset(workspace, DATASET).raw_dir, run_in(workspace).fold_dir
    for number, case in enumerate(CASES):
        image = Volume(THICK, drawn(number).voxels.astype(np.int16) * 100)
        write_volume(raw / f"imagesTr/{case}_0000.nii.gz", image)
        write_labelmap(raw / f"labelsTr/{case}.nii.gz", drawn(number))
        write_labelmap(validation / f"validation/{case}.nii.gz", predicted(number))
    (raw / "dataset.json").write_text(
        json.dumps(
            {
                "labels": {"background": 0, "tibia": 1, "femur": 2},
                "channel_names": {"0": "MRI"},
                "numTraining": 3,
                "file_ending": ".nii.gz",
            }
        )
    )
    means = {"1": {"Dice": 0.8}, "2": {"Dice": 0.9}}
    (validation / "validation/summary.json").write_text(json.dumps({"mean": means}))
    (validation / "checkpoint_final.pth").write_bytes(b"weights")
    write_record(
        run_in(workspace), state="done", trainer=run_in(workspace).trainer, patients=7
    )
    events = [
        {"event": "start", "time": 1.0, "epochs": 2, "architecture": "PlainConvUNet",
         "loss": "DC_and_CE_loss", "batch_size": 12, "validation_cases": 3},
        {"event": "epoch", "epoch": 0, "train_loss": 0.1, "val_loss": 0.2,
         "pseudo_dice": [0.5, 0.6], "seconds": 40.0},
        {"event": "epoch", "epoch": 1, "train_loss": -0.1, "val_loss": 0.0,
         "pseudo_dice": [0.7, 0.8], "seconds": 50.0},
    ]  # fmt: skip
    text = "\n".join(json.dumps(event) for event in events)
    run_in(workspace).events_file.write_text(text)
    return workspace


def state_of(workspace):
    return run_state(run_in(workspace))


def test_the_record_shows_curves_settings_scores_and_two_slices_by_itself(workspace):
    page = write_run_page(state_of(workspace)).read_text()
    wrong = np.count_nonzero(predicted(2).voxels[..., 7] != drawn(2).voxels[..., 7])

    for words in ("PlainConvUNet", "DC_and_CE_loss", "derived IoU", "batch size",
                  "patients", "Worst slice: msk_003, axial 7", "Random slice",
                  f"differs from the reference: {wrong} mm² differ", "1 min 30 s",
                  *CASES):  # fmt: skip
        assert words in page
    assert state_of(workspace).page == run_in(workspace).page_file
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert "const showSurfaces =" not in page


def test_the_scores_of_the_record_are_those_of_the_metrics(workspace):
    page = write_run_page(state_of(workspace)).read_text()
    score = bone_scores(predicted(0), drawn(0), case_id=CASES[0])[0]
    row = re.search(rf'<th scope="row">{CASES[0]}</th>.*?tibia.*?</tr>', page).group()

    cells = re.findall(r"<td>(.*?)</td>", row)

    assert cells[:2] == [f"{score.dice:.3f}", f"{score.iou:.3f}"]
    assert cells[2] == f"{score.hd95_mm:.2f}"


def test_writing_it_again_draws_the_same_slice(workspace):
    pages = [write_run_page(state_of(workspace)).read_text() for _ in range(2)]

    first, second = (re.findall(r'<h2 id="slice-2">(.*?)</h2>', p) for p in pages)
    assert first == second != []


def test_slices_are_those_of_the_acquisition():
    """Thick slices from left to right are sagittal ones."""
    sagittal = Grid((12, 20, 24), np.diag([4.0, 1.0, 1.0, 1.0]))

    assert acquired_view(sagittal).plane == "sagittal"
    assert acquired_view(THICK).plane == "axial"
    assert acquired_view(Grid((9, 9, 9), np.eye(4))).plane == "axial"


def test_without_images_the_record_has_its_scores_but_no_slices(workspace):
    for file in (Dataset(workspace, DATASET).raw_dir / "imagesTr").iterdir():
        file.unlink()

    page = write_run_page(state_of(workspace)).read_text()

    assert "Worst slice" not in page
    assert 'id="scores"' in page


def test_only_what_is_missing_or_older_than_the_validation_is_written(workspace):
    states = [state_of(workspace)]
    write_run_pages(states)
    page = run_in(workspace).page_file
    page.write_text("kept")

    write_run_pages(states)
    kept = page.read_text()
    os.utime(page, (0, 0))
    write_run_pages(states)

    assert kept == "kept"
    assert "PlainConvUNet" in page.read_text()


def test_a_record_that_cannot_be_written_is_a_note(workspace):
    (Dataset(workspace, DATASET).raw_dir / f"labelsTr/{CASES[1]}.nii.gz").write_bytes(
        b"x"
    )

    notes = write_run_pages([state_of(workspace)])

    assert len(notes) == 1
    assert "page of 2d fold 0 could not be written" in notes[0]
    assert "The training is complete" in notes[0]
    assert not run_in(workspace).page_file.exists()


@pytest.mark.parametrize("breaks", [False, True])
def test_training_ends_with_pages_and_does_not_fail_without_them(workspace, breaks):
    """The run is done, so nothing is trained; only its page is missing."""
    dataset, method = Dataset(workspace, DATASET), method_of("nnunet", "full")
    splits = [{"train": list(CASES[:2]), "val": [CASES[2]]}]
    dataset.planned_dir.mkdir(parents=True)
    dataset.splits_file.write_text(json.dumps(splits))
    plans = {"configurations": {"2d": {"data_identifier": "nnUNetPlans_2d"}}}
    dataset.plans_file(method.plans).write_text(json.dumps(plans))
    if breaks:
        (dataset.raw_dir / f"labelsTr/{CASES[1]}.nii.gz").write_bytes(b"x")
    Planned(dataset_state(dataset), {"default": ("2d",)}).write(dataset)

    summary = train_dataset(
        dataset, TrainingRequest(method, ("2d",), options=TrainingOptions("cpu"))
    )

    assert summary.exit_code == 0
    found = summary.as_json()
    assert (found["runs"][0]["page"] is None) == breaks
    assert bool(found["warnings"]) == breaks
    assert ("could not be written" in summary.as_text()) == breaks
