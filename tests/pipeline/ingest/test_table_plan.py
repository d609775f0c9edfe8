"""A study by its case table: every form, every row, and nothing left out silently."""

import gzip
import os
import shutil
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from any_lab import (
    IMAGES,
    LABELS,
    MASKS,
    PATELLA,
    RECIPE,
    by_nibabel,
    by_pynrrd,
    dicom_folder,
    loose_dicom,
    nested_dicom,
    nifti_image,
    nifti_labelmap,
    nifti_masks,
    numbered_segments,
    patient_rows,
    segmentation,
    segments,
    write_study,
    zipped_dicom,
)
from dicom_base import base, expected, save
from file_states import file_states
from hypothesis import given, settings
from hypothesis import strategies as st
from small_study import FEMUR, GRID, TIBIA

from nnunet_bridge.core.case_table import Drawing, Role, Split, TableRow
from nnunet_bridge.core.errors import InputError, RecipeError
from nnunet_bridge.core.findings import Outcome
from nnunet_bridge.formats.manifest import read_manifest
from nnunet_bridge.pipeline.ingest.convert import check_study, convert_study
from nnunet_bridge.pipeline.ingest.known_cases import find_known_images


@pytest.fixture
def study(tmp_path):
    return tmp_path / "study"


@pytest.fixture
def raw_dir(tmp_path):
    return tmp_path / "work" / "nnUNet_raw"


def two_patients(study):
    rows = [
        *patient_rows(study, "anna", dicom_folder, nifti_masks),
        *patient_rows(study, "bert", nifti_image, nifti_labelmap),
    ]
    voxels = expected().astype(np.int16)
    voxels[0, 0, 0] += 1  # equal pixels would be one person
    by_nibabel(study / "bert" / "T1.nii.gz", voxels)
    return rows


def written(dataset, case_id):
    """Return image and label of a case as nibabel reads them, and their affines."""
    (image,) = dataset.glob(f"images*/{case_id}_0000.nii.gz")
    (label,) = dataset.glob(f"labels*/{case_id}.nii.gz")
    image, label = nibabel.load(image), nibabel.load(label)
    np.testing.assert_allclose(image.affine, label.affine)
    return np.asarray(image.dataobj), np.asarray(label.dataobj), image.affine


def require_equal(dataset, case_id):
    image, labels, affine = written(dataset, case_id)
    np.testing.assert_array_equal(image, expected())
    np.testing.assert_array_equal(labels, LABELS)
    np.testing.assert_allclose(affine, np.diag([-1, -1, 1, 1]) @ GRID.affine)


def rewritten(summary):
    return [case.case_id for case in summary.cases if case.rewritten]


@pytest.mark.parametrize("image", IMAGES)
def test_every_form_of_an_image_is_converted(image, study, raw_dir):
    recipe = write_study(study, patient_rows(study, "anna", image, nifti_masks))

    summary = convert_study(study, recipe, raw_dir)

    assert summary.exit_code == 0, summary.as_text()
    assert (summary.findings, summary.files["failed"]) == ((), 0)
    assert summary.files["used"] == summary.files["found"]
    require_equal(summary.dataset_dir, "msk_001")


@pytest.mark.parametrize("masks", MASKS)
def test_every_form_of_masks_is_converted(masks, study, raw_dir):
    recipe = write_study(study, patient_rows(study, "anna", dicom_folder, masks))

    summary = convert_study(study, recipe, raw_dir)

    assert summary.exit_code == 0, summary.as_text()
    assert summary.findings == ()
    require_equal(summary.dataset_dir, "msk_001")


FORMS = st.tuples(st.sampled_from(IMAGES), st.sampled_from(MASKS))
NAMES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="/\\\0."), min_size=1,
            max_size=9).filter(lambda n: n == n.strip() and not n.isdecimal()),
    min_size=1, max_size=3, unique_by=lambda name: name.strip().casefold(),
)  # fmt: skip


@settings(max_examples=12)
@given(data=st.data(), names=NAMES)
def test_a_study_of_mixed_forms_in_any_order_is_converted(data, names, tmp_path):
    root = tmp_path / str(hash((data, *names)))
    shutil.rmtree(root, ignore_errors=True)
    rows = []
    for name in names:
        image, masks = data.draw(FORMS)
        rows += patient_rows(root / "study", name, image, masks)
    rows = data.draw(st.permutations(rows))
    recipe = write_study(root / "study", rows)
    order = list(dict.fromkeys(r.patient for r in rows if r.role is not Role.IGNORE))

    summary = convert_study(root / "study", recipe, root / "work" / "nnUNet_raw")

    assert summary.exit_code == 0, summary.as_text()
    assert [c.case_id for c in summary.cases] == [
        f"msk_{number + 1:03d}" for number in range(len(order))
    ]
    for case in summary.cases:
        require_equal(summary.dataset_dir, case.case_id)
    shutil.rmtree(root)


def test_file_names_of_any_bytes_and_of_other_spreadsheets_are_found(study, raw_dir):
    odd, umlaut = os.fsdecode(b"M\xfcller\n=1.nii.gz"), "b\u00e4r.nii"
    rows = patient_rows(study, "anna", dicom_folder, nifti_masks)
    for row, name in zip(rows[1:], (odd, umlaut), strict=True):
        (study / row.file).rename(study / "anna" / name)
    rows[1] = replace(rows[1], file=f"anna/{odd}")
    rows[2] = replace(rows[2], file=" anna\\ba\u0308r.nii ")  # another form of the name
    recipe = write_study(study, rows)

    summary = convert_study(study, recipe, raw_dir)

    assert summary.exit_code == 0, summary.as_text()
    require_equal(summary.dataset_dir, "msk_001")


@pytest.mark.parametrize("name", ["\\", "a:", "..\\up", " "])
def test_odd_names_of_folders_are_names(name, study, raw_dir):
    rows = patient_rows(study, name, nifti_image, nifti_masks)
    rows = [replace(row, patient="anna") for row in rows]

    summary = convert_study(study, write_study(study, rows), raw_dir)

    assert summary.exit_code == 0, summary.as_text()
    require_equal(summary.dataset_dir, "msk_001")


@pytest.mark.parametrize("way", ["..\\{}", " ../{}", "..\\study\\..\\{}"])
def test_no_way_of_writing_a_path_leaves_the_study(way, study):
    rows = two_patients(study)
    by_nibabel(study.parent / "outside.nii.gz", TIBIA)
    rows = changed(rows, 1, file=way.format("outside.nii.gz"))

    assert "does not exist" in " ".join(refusals(study, rows).messages)


def test_R12_a_second_run_writes_nothing(study, raw_dir):
    recipe = write_study(study, two_patients(study))
    convert_study(study, recipe, raw_dir)
    before = file_states(raw_dir)

    summary = convert_study(study, recipe, raw_dir)

    assert rewritten(summary) == []
    assert file_states(raw_dir) == before


@pytest.mark.parametrize(
    "change",
    [
        {"structure": "femur"},
        {"side": "left"},
        {"role": Role.LABELMAP, "value": 1},
    ],
)
def test_R12_a_changed_row_converts_its_case_alone(change, study, raw_dir):
    rows = two_patients(study)
    convert_study(study, write_study(study, rows), raw_dir)
    if "structure" in change:  # the two masks of anna change places
        rows[1] = replace(rows[1], structure="femur")
        rows[2] = replace(rows[2], structure="tibia")
    else:
        rows[1] = replace(rows[1], **change)

    summary = convert_study(study, write_study(study, rows), raw_dir)

    assert rewritten(summary) == ["msk_001"]
    assert rewritten(convert_study(study, write_study(study, rows), raw_dir)) == []


def test_R12_another_patient_split_or_state_concerns_one_case(study, raw_dir):
    rows = two_patients(study)
    convert_study(study, write_study(study, rows), raw_dir)

    rows[3:4] = [replace(rows[3], patient="berta")]
    rows = [replace(r, patient="berta") if r.patient == "bert" else r for r in rows]
    summary = convert_study(study, write_study(study, rows), raw_dir)
    assert rewritten(summary) == ["msk_003"]  # a new patient: the old id is not reused

    rows = [replace(r, split=Split.TEST) if r.patient == "anna" else r for r in rows]
    summary = convert_study(study, write_study(study, rows), raw_dir)
    assert rewritten(summary) == ["msk_001"]
    assert (summary.dataset_dir / "labelsTs" / "msk_001.nii.gz").is_file()


def test_R12_a_state_that_changes_converts_its_case_alone(study, raw_dir):
    rows = two_patients(study)
    rows[2] = TableRow("", Role.MASK, patient="anna", structure="femur",
                       state=Drawing.ABSENT)  # fmt: skip
    (study / "anna" / "Oberschenkel.nii").unlink()
    first = convert_study(study, write_study(study, rows), raw_dir)
    rows[2] = replace(rows[2], state=Drawing.UNLABELLED)

    second = convert_study(study, write_study(study, rows), raw_dir)

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert rewritten(second) == ["msk_001"]
    labels = written(second.dataset_dir, "msk_001")[1]
    np.testing.assert_array_equal(labels, np.where(TIBIA, 1, 3))  # 3 is ignored


def test_patients_keep_their_ids_wherever_others_are_added(study, raw_dir):
    rows = two_patients(study)
    convert_study(study, write_study(study, rows), raw_dir)
    before = file_states(raw_dir)
    more = patient_rows(study, "aaron", zipped_dicom, segmentation)

    summary = convert_study(study, write_study(study, [*more, *rows[::-1]]), raw_dir)

    assert rewritten(summary) == ["msk_003"]
    after = file_states(raw_dir)
    images = [name for name in before if "imagesTr" in name or "labelsTr" in name]
    assert [after[name] for name in images] == [before[name] for name in images]


def test_ids_of_the_table_and_visits_name_the_cases(study, raw_dir):
    first = patient_rows(study, "anna", dicom_folder, nifti_masks)
    later = patient_rows(study, "anna2", nested_dicom, nifti_masks)
    later = [replace(r, patient="anna", visit="a year later") for r in later]
    bert = patient_rows(study, "bert", nifti_image, nifti_labelmap)
    bert = [replace(bert[0], case="knee-7"), *bert[1:]]
    recipe = write_study(study, [*first, *later, *bert])

    summary = convert_study(study, recipe, raw_dir)

    assert [c.case_id for c in summary.cases] == ["msk_001", "msk_002", "knee-7"]
    records = read_manifest(summary.dataset_dir).by_case()
    assert records["msk_001"].patient == records["msk_002"].patient
    assert records["msk_001"].patient != records["knee-7"].patient
    assert records["msk_002"].visit != "a year later"


def test_splits_follow_masks_and_words(study, raw_dir):
    rows = two_patients(study)
    rows = [replace(r, split=Split.TEST) if r.patient == "bert" else r for r in rows]
    carl = patient_rows(study, "carl", loose_dicom, nifti_masks)[:1]
    for name in ("Tibia.nii.gz", "Oberschenkel.nii"):
        (study / "carl" / name).unlink()
    summary = convert_study(study, write_study(study, [*rows, *carl]), raw_dir)

    assert [c.split for c in summary.cases] == ["train", "test", "test"]
    counts = summary.as_json()
    assert (counts["train"], counts["test"]) == (1, 2)
    assert "3 cases: 3 accepted. 1 for training, 2 for testing." in summary.as_text()
    assert "has no mask: it goes to imagesTs" in summary.cases[2].messages[0]
    files = sorted(f.name for f in summary.dataset_dir.glob("*Ts/*"))
    assert files == ["msk_002.nii.gz", "msk_002_0000.nii.gz", "msk_003_0000.nii.gz"]


def test_loose_files_of_two_patients_in_one_folder_are_separated(study, raw_dir):
    anna, bert = base(), base(zs=[100 + 4.0 * k for k in range(12)])
    for ds in bert:
        ds.PatientID, ds.SeriesNumber = "P2", 8
    save([*anna, *bert], study / "all", names=[f"{n:03d}" for n in range(24)])
    by_nibabel(study / "t.nii.gz", TIBIA)
    by_nibabel(study / "f.nii.gz", FEMUR)
    rows = [
        TableRow("all", Role.IMAGE, patient="anna"),
        TableRow("t.nii.gz", Role.MASK, patient="anna", structure="tibia"),
        TableRow("f.nii.gz", Role.MASK, patient="anna", structure="femur"),
    ]

    (case,) = check_study(study, write_study(study, rows)).cases

    assert case.codes == ("D11",)
    assert "holds images of 2 patients" in case.messages[0]
    assert "“012”" in case.messages[0]
    rows[0] = replace(rows[0], series="6")
    summary = convert_study(study, write_study(study, rows), raw_dir)
    assert summary.exit_code == 0, summary.as_text()
    require_equal(summary.dataset_dir, "msk_001")


# --- never silent -------------------------------------------------------------------


def test_R3_every_file_of_the_study_is_accounted_for(study):
    rows = two_patients(study)
    (study / "notes.txt").write_text("x")
    (study / "anna" / "dicom" / "readme").write_text("x")
    by_nibabel(study / "old" / "Femur.nii.gz", FEMUR)
    rows.append(TableRow("old", Role.IGNORE))

    summary = check_study(study, write_study(study, rows))

    # 12 slices + readme + 2 masks of anna; image and labelmap of bert; notes and old.
    assert summary.files == {"found": 19, "used": 16, "excluded": 3, "failed": 0}
    assert summary.as_json()["outcome"] == "accepted"


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("extra_mask.nii.gz", lambda file: by_nibabel(file, TIBIA)),
        ("Oberschenkel 2.nii.gz", lambda file: by_nibabel(file, FEMUR)),
        ("final.nii.gz", lambda file: by_nibabel(file, 5.0 * PATELLA)),
        ("x.seg.nrrd", lambda file: by_pynrrd(file, FEMUR, **segments("Femur"))),
        ("femur.stl", lambda file: file.write_bytes(b"solid")),
    ],
)
@pytest.mark.parametrize("place", ["", "anna/dicom", "bert/old"])
def test_K21_a_file_that_looks_like_a_mask_is_named(name, write, place, study):
    rows = two_patients(study)
    (study / place).mkdir(parents=True, exist_ok=True)
    write(study / place / name)

    summary = check_study(study, write_study(study, rows))

    assert (summary.exit_code, summary.outcome) == (0, Outcome.WARNED)
    (message,) = summary.as_json()["messages"]
    assert message.startswith("[K21] 1 file looks like a mask")
    assert f"{place}/{name}".lstrip("/") in message
    ignored = TableRow(f"{place}/{name}".lstrip("/"), Role.IGNORE)
    assert check_study(study, write_study(study, [*rows, ignored])).findings == ()


def dicom_segmentation(folder):
    """A labelmap of the scan as DICOM SEG; only its SOP class matters here."""
    segmentation = base(n=1)[0]
    kind = "1.2.840.10008.5.1.4.1.1.66.4"
    segmentation.SOPClassUID = kind
    segmentation.file_meta.MediaStorageSOPClassUID = kind
    save([segmentation], folder, names=["SEG.dcm"])


def test_K21_dicom_segmentations_are_named_beside_slices_and_elsewhere(study):
    rows = two_patients(study)
    dicom_segmentation(study / "anna" / "dicom")
    dicom_segmentation(study / "bert" / "SEG")

    summary = check_study(study, write_study(study, rows))

    beside, elsewhere = summary.cases[0].messages[0], summary.as_json()["messages"][0]
    assert beside.startswith(
        "[K21] “SEG.dcm” is Segmentation Storage and is not used: give it a row"
    )
    assert "“bert/SEG/SEG.dcm”" in elsewhere
    assert (summary.cases[0].outcome, summary.outcome) == (Outcome.WARNED,) * 2


def test_an_image_that_is_not_used_is_no_mask(study):
    rows = two_patients(study)
    by_nibabel(study / "anna" / "T2.nii.gz", expected().astype(np.int16) * 3)

    assert check_study(study, write_study(study, rows)).findings == ()


def test_K21_a_study_whose_masks_are_all_dropped_is_refused(study, raw_dir):
    rows = [r for r in two_patients(study) if r.role is Role.IMAGE]

    for work in (
        lambda: check_study(study, write_study(study, rows)),
        lambda: convert_study(study, write_study(study, rows), raw_dir),
    ):
        with pytest.raises(InputError) as caught:
            work()
        assert (caught.value.code, caught.value.exit_code) == ("K21", 3)
        assert "the study holds 3 files that may be masks" in str(caught.value)
        assert "“anna/Tibia.nii.gz”" in str(caught.value)
    assert not raw_dir.exists()


def refusals(study, rows, recipe=RECIPE):
    summary = check_study(study, write_study(study, rows, recipe))
    case = summary.cases[0]
    assert case.refused, summary.as_text()
    assert not any(other.refused for other in summary.cases[1:]), summary.as_text()
    return case


def changed(rows, number, **change):
    return [replace(r, **change) if n == number else r for n, r in enumerate(rows)]


@pytest.mark.parametrize(
    ("number", "change", "code", "words"),
    [
        (0, {"file": "anna/gone"}, "", "“anna/gone” (line 2 of the case table) does"),
        (0, {"role": Role.IGNORE}, "K21", "no row with the role image"),
        (1, {"file": "anna/gone.nii.gz"}, "K15", "does not exist"),
        (1, {"file": "anna/dicom"}, "K08", "is a folder"),
        (1, {"role": Role.SURFACE}, "K08", "is no surface"),
        (1, {"structure": "tibja"}, "K21", "Did you mean tibia?"),
        (1, {"structure": "femur"}, "K21", "femur is drawn twice"),
        (1, {"role": Role.IGNORE}, "K15", "The mask of tibia is missing"),
        (1, {"value": 4}, "K06", "holds the value 1, and no row"),
        (1, {"split": Split.TEST}, "", ""),
    ],
)
def test_a_wrong_row_refuses_its_case_alone(number, change, code, words, study):
    rows = changed(two_patients(study), number, **change)
    if not words:  # one row of the case says train, another test
        rows = changed(rows, 0, split=Split.TRAIN)
        code, words = "K21", "say train and others test"

    case = refusals(study, rows)

    assert code in ("", *case.codes)
    assert any(words in message for message in case.messages), case.messages


def test_a_train_case_without_masks_and_two_images_are_refused(study):
    rows = two_patients(study)[::-1]
    rows = [r for r in rows if r.patient == "anna" or r.role is Role.IMAGE]
    rows = [replace(r, split=Split.TRAIN) if r.patient == "bert" else r for r in rows]
    assert "the case has no mask" in refusals(study, rows).messages[0]

    rows = two_patients(study)
    by_nibabel(study / "anna" / "T2.nii.gz", expected().astype(np.int16))
    rows.append(TableRow("anna/T2.nii.gz", Role.IMAGE, patient="anna"))
    case = refusals(study, rows)
    assert case.codes == ("N08",)
    assert "2 images (“anna/dicom”, “anna/T2.nii.gz”)" in case.messages[0]


def test_K06_a_value_without_a_name_is_named(study):
    rows = two_patients(study)[::-1]
    kept = [r for r in rows if r.value != 9]

    case = refusals(study, kept)

    assert case.codes == ("K06",)
    assert (
        "holds the value 9, and no row of the case table names it" in case.messages[0]
    )


@pytest.mark.parametrize(
    ("value", "words"), [(2, "has a segment 2, “Segment_2”"), (4, "names segment 4")]
)
def test_segments_without_a_row_and_rows_without_a_segment_are_named(
    value, words, study
):
    rows = patient_rows(study, "anna", dicom_folder, numbered_segments)
    if value == 2:
        rows = [r for r in rows if r.value != value]
    else:
        rows.append(replace(rows[-1], value=value, structure="tibia"))

    assert any(words in message for message in refusals(study, rows).messages)


def test_F01_links_out_of_the_study_are_refused(study, tmp_path):
    rows = two_patients(study)
    (study / rows[1].file).rename(tmp_path / "outside.nii.gz")
    (study / rows[1].file).symlink_to(tmp_path / "outside.nii.gz")

    assert refusals(study, rows).codes == ("F01",)


def test_every_mistake_of_the_table_is_reported_at_once(study):
    rows = [
        TableRow("/etc/passwd", Role.IMAGE, patient="a"),
        TableRow("a/../../b", Role.IMAGE, patient="a"),
        TableRow("c", Role.IMAGE),
        TableRow("", Role.IMAGE, patient="a"),
        TableRow("m.nii.gz", Role.MASK, patient="a"),
        TableRow("m.nii.gz", Role.LABELMAP, patient="a", structure="tibia"),
        TableRow("", Role.MASK, patient="a", structure="tibja", state=Drawing.ABSENT),
        TableRow("c", Role.IMAGE, patient="c", channel="T2"),
        TableRow("d", Role.IMAGE, case="../d"),
        TableRow("e", Role.IMAGE, case="e", patient="e"),
        TableRow("f", Role.IMAGE, case="e", patient="f"),
    ]

    with pytest.raises(RecipeError) as caught:
        check_study(study, write_study(study, rows))

    text = str(caught.value)
    for words in (
        "line 2: “/etc/passwd” lies outside the study",
        "line 3: “a/../../b” lies outside the study",
        "line 4: it needs a case or a patient",
        "line 5: file is empty",
        "line 6: structure is empty",
        "line 7: value is empty",
        "line 8: [K21] Unknown structure “tibja”",
        "line 9: channel “T2” is unknown; the recipe has “MRI”",
        "line 10: “../d” cannot name a case",
        "line 12: case e has another patient",
    ):
        assert words in text
    assert "cases.csv has 10 mistakes:" in text


def test_an_empty_table_is_refused(study):
    with pytest.raises(RecipeError, match="names no image"):
        check_study(study, write_study(study, []))


# --- sides, numbers, identities -----------------------------------------------------


SEPARATE = RECIPE + '[merge]\nsides = "separate"\nmissing = "absent"\n'


@pytest.mark.parametrize("side", ["middle", ""])
def test_separate_sides_have_a_middle(side, study, raw_dir):
    rows = [
        replace(r, side=side if r.structure == "tibia" else "left")
        for r in patient_rows(study, "anna", dicom_folder, nifti_masks)
    ]
    recipe = write_study(study, rows, SEPARATE)

    if not side:  # a bone whose side was forgotten is not in the middle
        assert refusals(study, rows, SEPARATE).codes == ("K21",)
        return
    summary = convert_study(study, recipe, raw_dir)
    text = (summary.dataset_dir / "dataset.json").read_text()
    assert '"tibia_middle": 1' in text
    assert '"femur_left": 2' in text


def test_F12_no_name_of_the_table_leaves_the_study(study, raw_dir):
    names = ["ZQANNA", "ZQPATIENT", "ZQVISIT", "ZQNOTE", "ZQMASK", "ZQSTRAY", "ZQOLD"]
    rows = patient_rows(study, names[0], dicom_folder, nifti_masks)
    mask = study / names[0] / f"{names[4]}.nii.gz"
    (study / rows[1].file).rename(mask)
    rows[1] = replace(rows[1], file=f"{names[0]}/{names[4]}.nii.gz")
    rows = [replace(r, patient=names[1], visit=names[2], note=names[3]) for r in rows]
    by_nibabel(study / f"{names[5]}_mask.nii.gz", FEMUR)
    by_nibabel(study / f"{names[6]}.nii.gz", FEMUR)
    rows.append(TableRow(f"{names[6]}.nii.gz", Role.IGNORE))
    bad = patient_rows(study, "ZQBERT", nifti_image, nifti_masks)
    rows += changed(bad, 1, file="ZQBERT/ZQGONE.nii.gz")
    recipe = write_study(study, rows)

    summary = convert_study(study, recipe, raw_dir)

    assert [str(c.outcome) for c in summary.cases] == ["accepted", "refused"]
    for file in raw_dir.parent.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        content = gzip.decompress(content) if file.name.endswith(".gz") else content
        assert b"ZQ" not in content.upper(), file
        assert "ZQ" not in str(file.relative_to(raw_dir.parent)).upper()


def test_N07_a_number_in_use_is_refused_before_anything_is_written(study, raw_dir):
    recipe = write_study(study, two_patients(study))
    elsewhere = raw_dir.parent / "nnUNet_results"
    (elsewhere / "Dataset003_Other").mkdir(parents=True)
    (elsewhere / "Dataset001_More").mkdir(parents=True)

    for work in (check_study, convert_study):
        with pytest.raises(InputError) as caught:
            work(study, recipe, raw_dir, other_places=[elsewhere])
        assert caught.value.code == "N07"
        assert "belongs to Dataset003_Other" in str(caught.value)
        assert "such as 2." in str(caught.value)
    assert not raw_dir.exists()


def ids(paths, dataset_dir, work=None):
    return [s.case_id for s in find_known_images(paths, dataset_dir, unpack_dir=work)]


def test_converted_images_keep_their_ids_at_prediction(study, raw_dir, tmp_path):
    rows = [
        *two_patients(study),
        *patient_rows(study, "carl", zipped_dicom, segmentation),
    ]
    recipe = write_study(study, rows)
    dataset_dir = convert_study(study, recipe, raw_dir).dataset_dir

    paths = [study / "carl" / "scan.zip", study / "anna" / "dicom"]
    paths.append(study / "bert" / "T1.nii.gz")
    assert ids(paths, dataset_dir, tmp_path / "u") == ["msk_003", "msk_001", "msk_002"]
    copy = shutil.copytree(study / "anna" / "dicom", tmp_path / "elsewhere")
    assert ids([copy], dataset_dir) == ["msk_001"]
    save(base(), tmp_path / "new one")
    assert ids([tmp_path / "new one"], dataset_dir) == ["new-one"]
    assert ids([copy], tmp_path / "no dataset") == ["elsewhere"]
    # The study itself has the images of its table.
    found = ids([study], dataset_dir, tmp_path / "v")
    assert sorted(found) == ["msk_001", "msk_002", "msk_003"]
