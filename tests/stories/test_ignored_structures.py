"""K15: a structure that was not drawn, ignored in training, from masks to the plan."""

import pytest
from small_study import MASKS, patient, recipe

from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.pipeline.ingest.convert import convert_study
from nnunet_bridge.pipeline.training.plan import PlanningOptions, plan_dataset

DATASET = "Dataset001_Tibia"


@pytest.fixture
def work(tmp_path):
    """A dataset of five patients; the femur of two of them was not drawn."""
    for index in range(1, 6):
        patient(tmp_path / "study", index, f"{index}A")
    for index in (1, 2):
        (tmp_path / "study" / MASKS / f"{index}_femur_{index}A.nii.gz").unlink()
    ignoring = recipe(merge={"missing": "ignore"})
    convert_study(tmp_path / "study", ignoring, tmp_path / "nnUNet_raw")
    return Workspace.at(tmp_path, environment={})


def test_K15_a_dataset_with_ignored_voxels_passes_the_check_before_planning(work):
    holds = RawDataset.open(Dataset(work, DATASET).raw_dir).check()

    assert holds["msk_001"] == {"tibia"}
    assert holds["msk_003"] == {"tibia", "femur"}


@pytest.mark.training
def test_K15_nnunet_plans_and_preprocesses_a_dataset_with_ignored_voxels(work):
    dataset = Dataset(work, DATASET)

    plan_dataset(dataset, PlanningOptions(("2d",)))

    folder = dataset.planned_dir
    assert (folder / "nnUNetPlans.json").is_file()
    assert len(list((folder / "nnUNetPlans_2d").glob("msk_*.pkl"))) == 5
