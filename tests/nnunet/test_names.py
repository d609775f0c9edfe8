"""Where things lie, and how a dataset is found."""

from dataclasses import replace

import pytest

from nnunet_bridge.core.errors import EnvironmentFault, InputError, UsageError
from nnunet_bridge.nnunet.names import Dataset, Run, Workspace, number_of

DATASET = "Dataset001_Tibia"


def run_in(workspace):
    dataset = Dataset(workspace, DATASET)
    return Run(dataset, "2d", 0, "nnUNetTrainer", "nnUNetPlans")


@pytest.fixture
def workspace(tmp_path):
    return Workspace.at(tmp_path, environment={})


def test_a_run_lies_where_nnunet_looks_for_it(workspace, tmp_path):
    assert run_in(workspace).fold_dir == (
        tmp_path
        / "nnUNet_results/Dataset001_Tibia/nnUNetTrainer__nnUNetPlans__2d/fold_0"
    )


def test_each_of_nnunets_own_variables_wins_for_its_folder(tmp_path):
    workspace = Workspace.at(tmp_path, environment={"nnUNet_raw": "/somewhere/raw"})

    assert str(workspace.raw_dir) == "/somewhere/raw"
    assert workspace.results_dir == tmp_path / "nnUNet_results"


def test_a_workspace_that_is_not_there_is_an_environment_fault(tmp_path):
    with pytest.raises(EnvironmentFault, match="is not a folder: make it"):
        Workspace.at(tmp_path / "nowhere")


@pytest.mark.parametrize("asked", ["1", "001", "Dataset001_Tibia"])
def test_a_dataset_is_found_by_number_and_by_name(workspace, asked):
    Dataset(workspace, "Dataset001_Tibia").raw_dir.mkdir(parents=True)

    assert Dataset.find(workspace, asked).name == "Dataset001_Tibia"


def test_an_unknown_dataset_names_those_there_are(workspace):
    Dataset(workspace, "Dataset001_Tibia").raw_dir.mkdir(parents=True)

    with pytest.raises(UsageError, match=r"no dataset 7 .* one of Dataset001_Tibia"):
        Dataset.find(workspace, "7")


def test_N07_two_datasets_with_one_number_are_refused(workspace):
    Dataset(workspace, "Dataset005_a").raw_dir.mkdir(parents=True)
    Dataset(workspace, "Dataset005_b").raw_dir.mkdir(parents=True)

    with pytest.raises(InputError, match="Dataset005_a and Dataset005_b") as caught:
        Dataset.find(workspace, "5")

    assert caught.value.code == "N07"


def test_a_name_without_a_number_is_no_dataset():
    with pytest.raises(UsageError, match="no dataset name"):
        number_of("Tibia")


@pytest.mark.parametrize("fold", [0, 4, 17, "all"])
def test_a_fold_is_a_number_from_0_or_all(workspace, fold):
    assert replace(run_in(workspace), fold=fold).fold == fold


@pytest.mark.parametrize("fold", [-1, "0", "", "best", None, True, 1.0])
def test_any_other_fold_is_refused_by_name(workspace, fold):
    with pytest.raises(InputError, match=r"Unknown fold .* Give a number from 0"):
        replace(run_in(workspace), fold=fold)


@pytest.mark.parametrize("name", ["configuration", "trainer", "plans"])
def test_an_empty_name_of_a_run_is_refused(workspace, name):
    with pytest.raises(InputError, match="four names"):
        replace(run_in(workspace), **{name: ""})
