"""`init` writes a recipe whose `check` passes, and says what it did not understand."""

import json
import shutil

import pytest
from click.testing import CliRunner
from dicom_base import base, save
from small_study import FEMUR, GRID, MASKS, SCANS, TEST, TIBIA, draw, patient, scan

from nnunet_bridge.cli import main
from nnunet_bridge.formats.recipe import read_recipe
from nnunet_bridge.formats.slicer_write import write_segmentation
from nnunet_bridge.pipeline.ingest.convert import check_study
from nnunet_bridge.pipeline.ingest.init import write_recipe
from nnunet_bridge.pipeline.ingest.phantom_study import (
    PhantomParameters,
    write_phantom_study,
)

CODES = ("1A", "2B", "3C")


def checked(study, out):
    """Return the outcomes that `check` gives with the recipe that `init` wrote."""
    summary = check_study(study, read_recipe(out))
    assert summary.findings == ()
    return {case.case_id: str(case.outcome) for case in summary.cases}


def named(tmp_path, *names, folder="{index}_AutoBindWATER_650_{code}"):
    """Write a study whose masks have these names, two a patient."""
    study = tmp_path / "study"
    for index, letters in enumerate(CODES, start=1):
        words = {"index": index, "code": letters}
        save(base(), study / "MR" / folder.format(**words))
        for name, mask in zip(names, (FEMUR, TIBIA), strict=True):
            draw(study, name.format(**words), mask, "drawn")
    return study


@pytest.mark.parametrize(
    ("names", "structures"),
    [
        (("{index}_tibia_{code}", "{index}_femur_{code}"), ("tibia", "femur")),
        (("{index}_L_tibia_{code}", "{index}_R_tibia_{code}"), ("tibia",)),
        (("{index}_left_femur_{code}", "{index}_right_femur_{code}"), ("femur",)),
        (("{index}_femur_left_{code}", "{index}_femur_right_{code}"), ("femur",)),
        (("{code}-{index}-tibia", "{code}-{index}-Femur"), ("tibia", "femur")),
        (("{index}_thigh bone_{code}", "{index}_tibia_{code}"), ("tibia", "femur")),
        (("{index}_carpal_{code}", "{index}_tarsal_{code}"), ("carpal", "tarsal")),
        (("{index}_L1_{code}", "{index}_L2_{code}"), ("L1", "L2")),
    ],
)
def test_any_usual_way_to_name_masks_is_understood(tmp_path, names, structures):
    study = named(tmp_path, *names)

    summary = write_recipe(study, tmp_path / "dataset.toml")

    assert summary.structures == structures
    assert summary.unknown == ()
    assert [case["split"] for case in summary.cases] == ["train"] * 3
    assert set(checked(study, tmp_path / "dataset.toml").values()) == {"accepted"}


@pytest.mark.parametrize("folder", ["patient {index}", "{index}", "{index}_{code}"])
def test_scans_may_be_named_by_a_number_alone(tmp_path, folder):
    names = ("{index}_tibia", "{index}_femur")
    if "code" in folder:
        names = tuple(f"{name}_{{code}}" for name in names)
    study = named(tmp_path, *names, folder=folder)

    write_recipe(study, tmp_path / "dataset.toml")

    assert set(checked(study, tmp_path / "dataset.toml").values()) == {"accepted"}


def test_the_small_study_with_a_segmentation_and_test_masks_passes(tmp_path):
    study = tmp_path / "study"
    patient(study, 1, "1A")
    patient(study, 3, "3C", TEST)
    scan(study, 2, "2B")
    scan(study, 4, "4D")
    parts = [("Femur L", (1, 2, 3), FEMUR > 0), ("tibia", (4, 5, 6), TIBIA > 0)]
    write_segmentation(study / MASKS / "2_2B.seg.nrrd", GRID, parts)

    summary = write_recipe(study, tmp_path / "dataset.toml")

    assert summary.structures == ("tibia", "femur")
    splits = {case["case"]: case["split"] for case in summary.cases}
    assert splits == {
        "case_001": "train",
        "case_002": "train",
        "case_003": "test",
        "case_004": "test",
    }
    assert set(checked(study, tmp_path / "dataset.toml").values()) == {"accepted"}


def test_the_phantom_study_passes(tmp_path):
    study = write_phantom_study(tmp_path / "study", PhantomParameters(3, 1)).folder

    summary = write_recipe(study, tmp_path / "dataset.toml")

    assert summary.structures == ("tibia", "femur", "fibula", "pelvis")
    assert "refused" not in checked(study, tmp_path / "dataset.toml").values()


@pytest.mark.parametrize("name", ["spine", "hippocampus"])
def test_the_real_studies_pass_as_with_their_own_recipe(test_data, tmp_path, name):
    study = test_data / f"study_{name}"
    if not study.is_dir():
        pytest.skip(f"{study} is absent")

    summary = write_recipe(study, tmp_path / "dataset.toml")

    assert summary.structures == read_recipe(name).structures
    assert summary.unknown == ()
    ours = check_study(study, read_recipe(tmp_path / "dataset.toml"))
    theirs = check_study(study, read_recipe(name))
    assert [c.outcome for c in ours.cases] == [c.outcome for c in theirs.cases]
    assert ours.files == theirs.files


def test_a_slip_of_the_pen_is_listed_with_the_nearest_name_and_proposed(tmp_path):
    study = named(tmp_path, "{index}_tibia_{code}", "{index}_femur_{code}")
    masks = study / "drawn"
    (masks / "2_femur_2B.nii.gz").rename(masks / "2_femurr_2B.nii.gz")
    shutil.copy(masks / "1_tibia_1A.nii.gz", masks / "notes of monday.nii.gz")
    out = tmp_path / "dataset.toml"

    words = ["init", str(study), "-o", str(out), "--json"]
    result = CliRunner().invoke(main, words)

    assert result.exit_code == 0
    content = json.loads(result.stdout)
    assert set(content) == {"recipe", "cases", "structures", "unknown"}
    assert content["structures"] == ["tibia", "femur"]
    assert content["unknown"] == [
        {"name": "femurr", "nearest": "femur", "file": "2_femurr_2B.nii.gz"},
        {
            "name": "notes of monday.nii.gz",
            "nearest": "",
            "file": "notes of monday.nii.gz",
        },
    ]
    assert 'femur = ["femurr"]' in out.read_text()


def test_a_mixed_series_gets_its_water_images_chosen(tmp_path):
    study = tmp_path / "study"
    patient(study, 1, "1A")
    folder = study / SCANS / "1_AutoBindWATER_650_1A"
    water, fat = base(), base()
    for kind, slices in (("WATER", water), ("FAT", fat)):
        for ds, like in zip(slices, water, strict=True):
            ds.ImageType = ["ORIGINAL", "PRIMARY", "M", kind]
            ds.StudyInstanceUID = like.StudyInstanceUID
            ds.SeriesInstanceUID = like.SeriesInstanceUID
            ds.FrameOfReferenceUID = like.FrameOfReferenceUID
    save(water, folder, prefix="IM")
    save(fat, folder, prefix="FT")

    write_recipe(study, tmp_path / "dataset.toml")

    assert read_recipe(tmp_path / "dataset.toml").scans.image_type == "WATER"
    assert checked(study, tmp_path / "dataset.toml") == {"case_001": "accepted"}


def test_a_recipe_that_is_there_is_kept_unless_force_is_asked_for(tmp_path):
    study = named(tmp_path, "{index}_tibia_{code}", "{index}_femur_{code}")
    out = tmp_path / "dataset.toml"
    out.write_text("mine")

    refused = CliRunner().invoke(main, ["init", str(study), "-o", str(out)])

    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert out.read_text() == "mine"
    forced = CliRunner().invoke(main, ["init", str(study), "-o", str(out), "--force"])
    assert forced.exit_code == 0
    assert read_recipe(out).structures == ("tibia", "femur")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dataset.toml", "study"]


def test_no_voxel_is_read(tmp_path):
    """Masks that hold no voxels at all are named as well as whole ones."""
    study = named(tmp_path, "{index}_tibia_{code}", "{index}_femur_{code}")
    for file in (study / "drawn").iterdir():
        file.write_bytes(b"")

    summary = write_recipe(study, tmp_path / "dataset.toml")

    assert summary.structures == ("tibia", "femur")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda s: shutil.rmtree(s / "MR"), "one DICOM folder per patient"),
        (lambda s: shutil.rmtree(s / "drawn"), "0 mask files"),
        (shutil.rmtree, "does not exist"),
    ],
)
def test_a_folder_that_is_no_study_says_what_is_missing(tmp_path, spoil, said):
    study = named(tmp_path, "{index}_tibia_{code}", "{index}_femur_{code}")
    spoil(study)

    result = CliRunner().invoke(
        main, ["init", str(study), "-o", str(tmp_path / "r.toml")]
    )

    assert result.exit_code in (2, 3)
    assert said in result.stderr
    assert not (tmp_path / "r.toml").exists()
