"""`init` pairs the files of a study, whatever their names, and notes its guesses."""

import json
import shutil
import stat
from dataclasses import replace

import layouts
import nibabel
import numpy as np
import pytest
from click.testing import CliRunner
from command import bridge
from dicom_base import base, new_uids, save
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from layouts import Layout
from small_study import four_patients

from nnunet_bridge.cli import main
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.formats.case_table import read_case_table
from nnunet_bridge.formats.recipe import read_recipe
from nnunet_bridge.pipeline.ingest.init import InitOptions, write_recipe

IN_PATIENTS_FOLDER = ("patient", "patient masks", "nested", "beside")
PLACES = (*IN_PATIENTS_FOLDER, "flat", "structures", "bids", "site", "one folder")


def initialised(study, out, **options):
    """Run init on a study; return its summary and its rows."""
    summary = write_recipe(study, InitOptions(out / "dataset.toml", **options))
    return summary, read_case_table(out / "cases.csv")


def whole_layouts():
    """Return a strategy of all layouts that have every patient's name somewhere."""
    names = st.sampled_from([*layouts.NAMES, *layouts.OWN_NAMES])
    forms = (*layouts.MASKS, *layouts.SEVERAL, *layouts.SURFACES)
    return st.builds(
        Layout,
        words=st.sampled_from(list(layouts.WORDS)),
        ids=st.sampled_from(list(layouts.IDS)),
        name=names,
        place=st.sampled_from(PLACES),
        image=st.sampled_from(layouts.IMAGES),
        mask=st.sampled_from(forms),
        table=st.sampled_from(layouts.TABLES),
        one_grid=st.booleans(),
    ).filter(is_possible)


def is_possible(layout):
    """Whether nothing in a layout leaves its patients without a name."""
    own = layout.name in layouts.OWN_NAMES
    named = layout.place in IN_PATIENTS_FOLDER or not own
    return named and not (layout.place == "one folder" and layout.image == "dicom")


@examples(60)
@given(layout=whole_layouts())
def test_patients_structures_and_sides_are_right_in_any_layout(
    tmp_path_factory, layout
):
    out = tmp_path_factory.mktemp("any")
    truth = layout.write(out / "study")

    summary, rows = initialised(out / "study", out)

    assert layouts.wrong_rows(rows, truth) == []
    assert (summary.exit_code, summary.unused, summary.unknown) == (0, (), ())
    assert read_recipe(out / "dataset.toml").structures == tuple(layouts.BONES)
    shutil.rmtree(out)


@pytest.mark.parametrize("words", layouts.WORDS)
@pytest.mark.parametrize("name", ["id_bone_side", "camel"])
def test_every_language_is_understood(tmp_path, words, name):
    truth = Layout(words=words, name=name, image="nii.gz").write(tmp_path / "study")

    _, rows = initialised(tmp_path / "study", tmp_path)

    assert layouts.wrong_rows(rows, truth) == []


def test_the_table_is_private_and_the_recipe_names_it(tmp_path):
    Layout(patients=2).write(tmp_path / "study")

    summary, _ = initialised(tmp_path / "study", tmp_path)

    assert read_recipe(tmp_path / "dataset.toml").case_table == tmp_path / "cases.csv"
    assert stat.S_IMODE((tmp_path / "cases.csv").stat().st_mode) == 0o600
    assert [case["case"] for case in summary.cases] == ["msk_001", "msk_002"]


def test_the_json_says_what_was_found_and_what_was_not(tmp_path):
    study = tmp_path / "study"
    Layout(patients=2, one_grid=True).write(study)
    mask = next((study / "masks").iterdir())
    shutil.copy(mask, study / "masks" / "notes of monday.nii.gz")
    shutil.copy(mask, study / "masks" / "P02_sesamoid_L.nii.gz")

    result = bridge("init", study, "-o", tmp_path / "d.toml", "--json", check=False)

    content = json.loads(result.stdout)
    assert result.exit_code == 4
    assert set(content) == {
        *("recipe", "table", "cases", "structures", "unknown", "unused"),
    }
    assert content["table"] == str(tmp_path / "cases.csv")
    assert content["structures"] == [*layouts.BONES, "sesamoid"]
    assert content["unknown"] == [
        {"name": "sesamoid", "nearest": "", "file": "masks/P02_sesamoid_L.nii.gz"}
    ]
    assert [one["file"] for one in content["unused"]] == [
        "masks/notes of monday.nii.gz"
    ]


def test_a_misspelt_name_is_taken_as_the_nearest_and_listed(tmp_path):
    study = tmp_path / "study"
    Layout(words="en", ids="sub", patients=3).write(study)
    masks = study / "masks"
    (masks / "sub-02_femur_left.nii.gz").rename(masks / "sub-02_femurr_left.nii.gz")

    summary, rows = initialised(study, tmp_path)

    (row,) = (row for row in rows if "femurr" in row.file)
    assert (row.structure, row.side, row.patient) == ("femur", "left", "sub-02")
    assert "femurr" in row.note
    (one,) = summary.unknown
    assert (one.name, one.nearest, one.where) == ("femurr", "femur", row.file)
    assert summary.exit_code == 0


def test_a_value_without_a_name_is_described_so_that_a_person_can_name_it(tmp_path):
    study = tmp_path / "study"
    Layout(mask="labelmap", patients=2).write(study)
    (study / "labels.txt").unlink()

    summary, rows = initialised(study, tmp_path)

    values = [row for row in rows if row.role == "labelmap" and row.case == "msk_001"]
    assert [row.value for row in values] == list(range(1, 9))
    for row, voxels in zip(values, layouts.drawings(1).values(), strict=True):
        assert row.structure == ""
        volume = voxels.sum() * np.prod(layouts.SPACING)
        assert f"{volume:.0f} mm3" in row.note
        left = np.argwhere(voxels)[:, 0].mean() > layouts.SHAPE[0] / 2
        assert ("left" if left else "right") in row.note
        assert "50 % of the height" in row.note
    assert summary.exit_code == 4
    assert {one.name for one in summary.unknown} == {f"value {n}" for n in range(1, 9)}
    assert read_recipe(tmp_path / "dataset.toml")


@pytest.mark.parametrize("table", layouts.TABLES)
def test_a_file_beside_a_labelmap_names_its_values(tmp_path, table):
    layout = Layout(mask="labelmap", table=table, patients=2)
    truth = layout.write(tmp_path / "study")
    sidecar = {"EchoTrainLength": 4, "FlipAngle": 12.5, "Name": "x"}
    (tmp_path / "study" / "masks" / "P01.json").write_text(json.dumps(sidecar))

    _, rows = initialised(tmp_path / "study", tmp_path)

    assert layouts.wrong_rows(rows, truth) == []


def test_an_nnunet_dataset_is_read_as_it_is(tmp_path):
    study = tmp_path / "Dataset042_Legs"
    names = {"background": 0, "femur": 1, "tibia": 2}
    for number in range(1, 4):
        affine = Layout(one_grid=True).affine(number)
        split = "Ts" if number == 3 else "Tr"
        image = study / f"images{split}" / f"leg_{number:03d}_0000.nii.gz"
        layouts.write_volume(image, layouts.pixels(number).astype(np.int16), affine)
        labels = np.zeros(layouts.SHAPE, np.uint8)
        labels[2:4], labels[6:9] = 1, 2
        file = study / f"labels{split}" / f"leg_{number:03d}.nii.gz"
        layouts.write_volume(file, labels, affine)
    (study / "dataset.json").write_text(json.dumps({"labels": names}))

    summary, rows = initialised(study, tmp_path)

    assert summary.structures == ("femur", "tibia")  # as in its dataset.json
    assert read_recipe(tmp_path / "dataset.toml").dataset.name == "Legs"
    splits = [row.split for row in rows if row.role == "image"]
    assert splits == [None, None, "test"]
    values = [(r.structure, r.value) for r in rows if r.role == "labelmap"]
    assert values == [("femur", 1), ("tibia", 2)] * 3


def test_two_patients_in_one_folder_are_two_cases(tmp_path):
    study = tmp_path / "study"
    layout = Layout()
    for number in (1, 2):
        files = layouts.dicom_files(layout, number, layouts.pixels(number))
        save(files, study / "scans", prefix=f"X{number}")
        drawn = layouts.drawings(number)
        for (bone, side), voxels in drawn.items():
            file = study / "masks" / f"ID{number}_{bone}_{side}.nii.gz"
            layouts.write_volume(file, voxels, layout.affine(number))

    summary, rows = initialised(study, tmp_path)

    images = [row for row in rows if row.role == "image"]
    assert {(row.file, row.patient) for row in images} == {
        ("scans", "ID1"),
        ("scans", "ID2"),
    }
    assert len({row.series for row in images} - {""}) == 2
    assert all(
        row.file.startswith(f"masks/{row.patient}_") for row in rows if row.structure
    )
    assert summary.exit_code == 0


@pytest.mark.parametrize("separate", [True, False])
def test_of_several_series_the_one_on_the_grid_of_the_masks_is_taken(
    tmp_path, separate
):
    study, layout = tmp_path / "study", Layout(patients=2, place="patient")
    truth = layout.write(study)
    for number in (1, 2):
        folder = study / layout.patient(number)
        other = base(9, size=24, uids=new_uids())
        for ds in other:
            ds.SeriesNumber, ds.PatientID = 3, f"ID{number}"
        save(other, folder / ("T2" if separate else "dicom"), prefix="T2")

    _, rows = initialised(study, tmp_path)

    assert layouts.wrong_rows(rows, truth) == []
    (first, *_) = (row for row in rows if row.role == "image")
    assert first.series == ("" if separate else "6")
    assert "grid" in first.note
    others = [row.file for row in rows if row.role == "ignore"]
    assert others == (["P01/T2", "P02/T2"] if separate else [])


def test_a_mixed_series_gets_its_water_images_chosen(tmp_path):
    study = tmp_path / "study"
    layout = Layout(patients=1)
    layout.write(study)
    water = layouts.dicom_files(layout, 1, layouts.pixels(1))
    uids = water[0].StudyInstanceUID, water[0].SeriesInstanceUID, new_uids()[0]
    fat = base(5, size=16, px=(2, 2), uids=uids)
    for kind, slices in (("WATER", water), ("FAT", fat)):
        for ds, like in zip(slices, water, strict=True):
            ds.ImageType = ["ORIGINAL", "PRIMARY", "M", kind]
            ds.FrameOfReferenceUID = like.FrameOfReferenceUID
            ds.PatientID, ds.ImagePositionPatient = "ID1", like.ImagePositionPatient
    shutil.rmtree(study / "scans")
    save(water, study / "scans" / "P01", prefix="IM")
    save(fat, study / "scans" / "P01", prefix="FT")

    initialised(study, tmp_path)

    assert read_recipe(tmp_path / "dataset.toml").scans.image_type == "WATER"


def test_visits_and_both_knees_are_cases_of_one_patient(tmp_path):
    study, layout = tmp_path / "study", Layout(one_grid=True)
    truth = layouts.Truth()
    for number, (who, visit) in enumerate(
        [(who, visit) for who in ("sub-01", "sub-02") for visit in ("ses-1", "ses-2")]
    ):
        folder = study / who / visit / "anat"
        image = folder / f"{who}_{visit}_T1w.nii.gz"
        layouts.write_volume(
            image, layouts.pixels(number).astype(np.int16), layout.affine(0)
        )
        truth.images[image.relative_to(study).as_posix()] = number
        name = f"{who}_{visit}_hemi-L_label-femur_dseg.nii.gz"
        mask = study / "derivatives" / "seg" / who / visit / name
        layouts.write_volume(
            mask, layouts.drawings(1)["femur", "left"], layout.affine(0)
        )
        truth.drawn[mask.relative_to(study).as_posix(), None] = number, "femur", "left"

    summary, rows = initialised(study, tmp_path)

    found = [(row.patient, row.visit) for row in rows if row.role == "image"]
    assert found == [(w, v) for w in ("sub-01", "sub-02") for v in ("ses-1", "ses-2")]
    assert [w for w in layouts.wrong_rows(rows, truth) if "patients" not in w] == []
    assert summary.exit_code == 0


def test_the_left_and_the_right_knee_of_a_patient_are_two_cases(tmp_path):
    study, layout = tmp_path / "study", Layout(one_grid=True)
    for who in ("anna", "bert"):
        for n, side in enumerate(("left", "right")):
            files = layouts.dicom_files(layout, n + 1, layouts.pixels(n))
            save(files, study / who / side / "dicom")
            file = study / who / side / "Femur.nii.gz"
            layouts.write_volume(
                file, layouts.drawings(1)["femur", side], layout.affine(0)
            )

    summary, rows = initialised(study, tmp_path)

    found = {(r.patient, r.visit, r.side) for r in rows if r.role == "mask"}
    assert found == {
        (who, side, side) for who in ("anna", "bert") for side in ("left", "right")
    }
    assert (len(summary.cases), summary.exit_code) == (4, 0)


def test_masks_in_a_folder_for_testing_make_test_cases(tmp_path):
    summary, rows = initialised(four_patients(tmp_path / "study"), tmp_path)

    splits = {row.patient: row.split for row in rows if row.role == "image"}
    assert splits == {"1A": None, "2B": None, "3C": "test", "4D": None}
    assert [case["split"] for case in summary.cases] == [
        "train",
        "train",
        "test",
        "test",
    ]
    assert summary.exit_code == 0


def test_K17_a_mask_with_the_number_of_one_scan_and_the_code_of_another_is_not_placed(
    tmp_path,
):
    study = four_patients(tmp_path / "study")
    masks = study / "masks"
    (masks / "2_femur_2B.nii.gz").rename(masks / "2_femur_1A.nii.gz")

    summary, _ = initialised(study, tmp_path)

    ((file, why),) = summary.unused
    assert file == "masks/2_femur_1A.nii.gz"
    assert "equally" in why or "not" in why
    assert summary.exit_code == 4


def test_the_grid_names_the_scan_where_names_do_not(tmp_path):
    study, layout = tmp_path / "study", Layout(ids="hospital", words="en")
    truth = layout.write(study)
    masks = study / "masks"
    for file in sorted(masks.iterdir()):
        who, rest = file.name.split("_", 1)
        other = ["x7", "x3", "x9", "x5"][(int(who) - 47110) // 13 - 1]
        file.rename(masks / f"{other}_{rest}")
        old = f"masks/{file.name}", None
        truth.drawn[f"masks/{other}_{rest}", None] = truth.drawn.pop(old)

    _, rows = initialised(study, tmp_path)

    assert layouts.wrong_rows(rows, truth) == []
    assert all("same grid" in row.note for row in rows if row.role == "mask")


def test_a_second_mask_of_a_structure_is_not_placed(tmp_path):
    study = tmp_path / "study"
    Layout(words="en", patients=2).write(study)
    old = study / "masks" / "P01_femur_left.nii.gz"
    shutil.copy(old, study / "masks" / "P01_femur_left_v2.nii.gz")

    summary, _ = initialised(study, tmp_path)

    ((file, why),) = summary.unused
    assert file == "masks/P01_femur_left_v2.nii.gz"
    assert "femur" in why


def test_an_update_adds_new_patients_and_changes_no_row_that_is_there(tmp_path):
    study, layout = tmp_path / "study", Layout(patients=2)
    layout.write(study)
    initialised(study, tmp_path)
    table = tmp_path / "cases.csv"
    mine = table.read_text().replace("same grid", "seen by Anna").replace(",", ";")
    table.write_text(mine)  # as a spreadsheet of many countries saves it
    recipe = (tmp_path / "dataset.toml").read_bytes()
    truth = replace(layout, patients=4).write(study)

    result = bridge("init", study, "-o", tmp_path / "dataset.toml", "--update")

    assert table.read_bytes().startswith(mine.encode())
    assert (tmp_path / "dataset.toml").read_bytes() == recipe
    rows = read_case_table(table)
    assert layouts.wrong_rows(rows, truth) == []
    assert sorted({row.case for row in rows}) == [f"msk_{n:03d}" for n in range(1, 5)]
    assert "4 cases" in result.stdout
    again = table.read_bytes()
    bridge("init", study, "-o", tmp_path / "dataset.toml", "--update")
    assert table.read_bytes() == again


def test_files_that_are_there_are_kept_unless_force_is_asked_for(tmp_path):
    study, out = tmp_path / "study", tmp_path / "dataset.toml"
    Layout(patients=2).write(study)
    for name in ("dataset.toml", "cases.csv"):
        (tmp_path / name).write_text("mine")
        refused = CliRunner().invoke(main, ["init", str(study), "-o", str(out)])
        assert refused.exit_code == 2
        assert "--force" in refused.stderr
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    out.write_text("mine")

    assert bridge("init", study, "-o", out, "--force").exit_code == 0
    assert read_recipe(out).structures == tuple(layouts.BONES)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Knie-Übung für Größe", "KnieUebungFuerGroesse"),
        ("Étude fémur", "EtudeFemur"),
        ("膝", "Study"),
        ("knee MRI 2", "KneeMRI2"),
    ],
)
def test_a_name_survives_umlauts(tmp_path, folder, name):
    Layout(patients=1).write(tmp_path / folder)

    initialised(tmp_path / folder, tmp_path)

    assert read_recipe(tmp_path / "dataset.toml").dataset.name == name


def test_the_number_of_the_dataset_is_free_in_the_workspace(tmp_path):
    Layout(patients=1).write(tmp_path / "knees")
    for name in ("Dataset001_Other", "Dataset002_Another"):
        (tmp_path / "work" / "nnUNet_raw" / name).mkdir(parents=True)
    words = ("-o", tmp_path / "dataset.toml", "-w", tmp_path / "work", "--force")

    bridge("init", tmp_path / "knees", *words)
    assert read_recipe(tmp_path / "dataset.toml").dataset.id == 3

    (tmp_path / "work" / "nnUNet_raw" / "Dataset007_Knees").mkdir()
    bridge("init", tmp_path / "knees", *words)
    assert read_recipe(tmp_path / "dataset.toml").dataset.id == 7


def test_a_folder_of_studies_says_which_level_to_try(tmp_path):
    for name in ("one", "two"):
        Layout(patients=2).write(tmp_path / "all" / name)

    with pytest.raises(
        InputError, match="the level below looks like a study: try"
    ) as e:
        initialised(tmp_path / "all", tmp_path)

    assert f"`nnunet-bridge init {tmp_path / 'all' / 'one'}`" in str(e.value)
    assert not (tmp_path / "dataset.toml").exists()


def test_a_study_of_two_places_is_taken_with_a_hint(tmp_path):
    for name, numbers in (("Basel", (1, 2)), ("Bern", (3, 4))):
        for number in numbers:
            Layout().write_patient(tmp_path / "all" / name, number)

    summary, _ = initialised(tmp_path / "all", tmp_path)

    assert len(summary.cases) == 4
    assert summary.unused == ()
    assert "the level below looks like a study" in summary.as_text()


def test_a_folder_with_nothing_but_a_study_says_so(tmp_path):
    Layout(patients=2).write(tmp_path / "all" / "one")

    summary, _ = initialised(tmp_path / "all", tmp_path)

    assert summary.exit_code == 4
    assert f"`nnunet-bridge init {tmp_path / 'all' / 'one'}`" in summary.as_text()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: shutil.rmtree(s / "scans"), "holds no image"),
        (lambda s: shutil.rmtree(s / "masks"), "0 mask files"),
        (shutil.rmtree, "does not exist"),
    ],
)
def test_a_folder_that_is_no_study_says_what_is_missing(tmp_path, spoil, message):
    study = tmp_path / "study"
    Layout(patients=2).write(study)
    spoil(study)

    words = ["init", str(study), "-o", str(tmp_path / "r.toml")]
    result = CliRunner().invoke(main, words)

    assert result.exit_code in (2, 3)
    assert message in result.stderr
    assert not (tmp_path / "r.toml").exists()


def test_the_folder_above_the_current_one_is_named(tmp_path, monkeypatch):
    Layout(patients=2).write(tmp_path)
    monkeypatch.chdir(tmp_path / "scans")

    result = CliRunner().invoke(main, ["init", "."])

    assert "`nnunet-bridge init ..`" in result.stderr


def test_no_voxel_is_read_of_masks_with_names(tmp_path):
    study = tmp_path / "study"
    truth = Layout(words="en", mask="nii", patients=2).write(study)
    for file in (study / "masks").iterdir():
        file.write_bytes(file.read_bytes()[:352])

    _, rows = initialised(study, tmp_path)

    assert layouts.wrong_rows(rows, truth) == []


def test_F01_a_link_that_leaves_the_study_is_not_followed(tmp_path):
    study = tmp_path / "study"
    truth = Layout(patients=2).write(study)
    elsewhere = tmp_path / "elsewhere"
    Layout(patients=3).write(elsewhere)
    (study / "scans" / "P03").symlink_to(elsewhere / "scans" / "P03")
    (study / "masks" / "P02_patella_L.nii.gz").symlink_to(
        next((elsewhere / "masks").glob("P03_*"))
    )

    _, rows = initialised(study, tmp_path)

    assert layouts.wrong_rows(rows, truth) == []


def test_a_damaged_mask_is_named(tmp_path):
    study = tmp_path / "study"
    Layout(patients=2).write(study)
    spoilt = study / "masks" / "P01_femur_L.nii.gz"
    spoilt.write_bytes(spoilt.read_bytes()[:20])
    nibabel.save(
        nibabel.Nifti1Image(np.zeros((4, 4, 4, 3), np.uint8), np.eye(4)),
        study / "masks" / "P02_movie.nii.gz",
    )

    summary, _ = initialised(study, tmp_path)

    assert [file for file, _ in summary.unused] == [
        "masks/P01_femur_L.nii.gz",
        "masks/P02_movie.nii.gz",
    ]


@pytest.mark.parametrize("name", ["spine", "hippocampus"])
def test_the_real_studies_have_the_structures_of_their_own_recipe(
    test_data, tmp_path, name
):
    study = test_data / f"study_{name}"
    if not study.is_dir():
        pytest.skip(f"{study} is absent")

    summary, rows = initialised(study, tmp_path)

    assert summary.structures == read_recipe(name).structures
    assert (summary.unknown, summary.unused) == ((), ())
    images = [row.file for row in rows if row.role == "image"]
    folder = study / "Raw DICOM MRI Scans"
    assert sorted(images) == sorted(
        path.relative_to(study).as_posix() for path in folder.iterdir()
    )
