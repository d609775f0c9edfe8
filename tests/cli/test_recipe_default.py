"""`check`, `convert` and `run` find the recipe and make the workspace themselves."""

import json

import pytest
from any_lab import (
    RECIPE,
    dicom_folder,
    nifti_image,
    nifti_labelmap,
    nifti_masks,
    patient_rows,
    write_study,
)
from command import bridge

TITLES = {"study": "InStudy", "here": "Here", "work": "InWork"}


@pytest.fixture
def study(tmp_path):
    rows = [
        *patient_rows(tmp_path / "study", "anna", dicom_folder, nifti_masks),
        *patient_rows(tmp_path / "study", "bert", nifti_image, nifti_labelmap),
    ]
    write_study(tmp_path / "study", rows)
    return tmp_path / "study"


@pytest.mark.parametrize("lacking", [0, 1, 2])
def test_the_recipe_of_the_study_goes_before_others(
    lacking, study, tmp_path, monkeypatch
):
    places = {name: tmp_path / name for name in TITLES}
    for name, folder in places.items():
        folder.mkdir(exist_ok=True)
        table = study / "cases.csv"
        text = RECIPE.replace("Any", TITLES[name]).replace("cases.csv", str(table))
        (folder / "dataset.toml").write_text(text)
    for name in list(TITLES)[:lacking]:
        (places[name] / "dataset.toml").unlink()
    monkeypatch.chdir(places["here"])

    result = bridge("check", study, "-w", places["work"], "--json")

    found = json.loads(result.stdout)["dataset"]
    assert found == f"Dataset003_{list(TITLES.values())[lacking]}"


def test_without_any_recipe_the_way_to_one_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    result = bridge("check", tmp_path, check=False)

    assert result.exit_code == 2
    assert "run `nnunet-bridge init`" in result.stderr


def test_convert_makes_the_workspace_and_check_does_not(study, tmp_path):
    work = tmp_path / "new" / "work"

    bridge("check", study, "-w", work)
    assert not work.exists()
    bridge("convert", study, "-w", work)

    names = {file.name for file in (work / "nnUNet_raw" / "Dataset003_Any").iterdir()}
    assert {"imagesTr", "labelsTr", "dataset.json", "manifest.json"} <= names


def test_a_file_is_no_workspace(study, tmp_path):
    (tmp_path / "file").write_text("x")

    assert bridge("convert", study, "-w", tmp_path / "file", check=False).exit_code == 5
