"""From a study folder to a raw dataset: whole, repeatable, anonymous."""

import gzip
import hashlib
import json
import shutil
import stat

import nibabel
import numpy as np
import pytest
from dicom_base import base, each, expected, save
from file_states import file_states
from small_study import (
    AFFINE,
    FEMUR,
    GRID,
    MASKS,
    SCANS,
    TEST,
    TIBIA,
    box,
    draw,
    four_patients,
    patient,
    recipe,
    scan,
)

from nnunet_bridge.core.errors import EnvironmentFault, InputError
from nnunet_bridge.core.findings import Outcome
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import LabelTable
from nnunet_bridge.formats.dicom import read_series
from nnunet_bridge.formats.files import only_writer
from nnunet_bridge.formats.manifest import (
    patients_of,
    read_manifest,
    recorded_region,
)
from nnunet_bridge.formats.nifti import read_labelmap, read_volume, write_labelmap
from nnunet_bridge.formats.recipe import read_recipe
from nnunet_bridge.ops.region import put_back
from nnunet_bridge.pipeline.ingest.convert import check_study, convert_study


@pytest.fixture
def study(tmp_path):
    """Two patients for training, one for testing, one without masks."""
    return four_patients(tmp_path / "study")


@pytest.fixture
def raw_dir(tmp_path):
    return tmp_path / "workspace" / "nnUNet_raw"


def the_case(summary, case_id="msk_001"):
    return next(case for case in summary.cases if case.case_id == case_id)


def test_a_study_becomes_the_dataset_that_nnunet_wants(study, raw_dir):
    summary = convert_study(study, recipe(), raw_dir)

    dataset = raw_dir / "Dataset001_Tibia"
    assert summary.exit_code == 0
    assert summary.dataset_dir == dataset
    assert sorted(str(f.relative_to(dataset)) for f in dataset.rglob("*.*")) == [
        "dataset.json",
        "imagesTr/msk_001_0000.nii.gz",
        "imagesTr/msk_002_0000.nii.gz",
        "imagesTs/msk_003_0000.nii.gz",
        "imagesTs/msk_004_0000.nii.gz",
        "labelsTr/msk_001.nii.gz",
        "labelsTr/msk_002.nii.gz",
        "labelsTs/msk_003.nii.gz",
        "manifest.json",
    ]
    description = json.loads((dataset / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "MRI"}
    assert list(description["labels"].items()) == [
        ("background", 0),
        ("tibia", 1),
        ("femur", 2),
    ]
    assert description["numTraining"] == 2
    assert description["file_ending"] == ".nii.gz"
    assert "overwrite_image_reader_writer" not in description


def test_images_and_labels_hold_what_was_scanned_and_drawn(study, raw_dir):
    folder = convert_study(study, recipe(), raw_dir).dataset_dir

    image = read_volume(folder / "imagesTr" / "msk_001_0000.nii.gz")
    labels = read_labelmap(
        folder / "labelsTr" / "msk_001.nii.gz", recipe().spec().labels
    )

    np.testing.assert_array_equal(image.voxels, expected())
    np.testing.assert_array_equal(labels.voxels, TIBIA + 2 * FEMUR)
    assert image.grid.matches(GRID)
    assert labels.grid.matches(image.grid)
    assert (image.voxels.dtype, labels.voxels.dtype) == (np.int16, np.uint8)


def test_check_says_the_same_and_writes_nothing(study, raw_dir):
    before = file_states(study)

    checked = check_study(study, recipe()).as_json()

    assert not raw_dir.parent.exists()
    assert file_states(study) == before
    converted = convert_study(study, recipe(), raw_dir).as_json()
    for case in (*checked["cases"], *converted["cases"]):
        del case["rewritten"]
    assert checked == converted
    assert file_states(study) == before


def test_R12_a_second_run_rewrites_nothing(study, raw_dir):
    first = convert_study(study, recipe(), raw_dir)
    before = file_states(raw_dir)

    second = convert_study(study, recipe(), raw_dir)

    assert file_states(raw_dir) == before
    assert [case.rewritten for case in second.cases] == [False] * 4
    assert second.files == first.files
    assert [case.outcome for case in second.cases] == [
        case.outcome for case in first.cases
    ]


def test_F09_a_changed_input_redoes_its_case_alone(study, raw_dir):
    convert_study(study, recipe(), raw_dir)
    before = file_states(raw_dir)
    draw(study, "2_tibia_2B", box(slice(4, 13)))

    summary = convert_study(study, recipe(), raw_dir)

    assert [c.case_id for c in summary.cases if c.rewritten] == ["msk_002"]
    after = file_states(raw_dir)
    changed = {name for name in after if after[name] != before.get(name)}
    assert {name.rpartition("/")[2] for name in changed} == {
        "msk_002_0000.nii.gz",
        "msk_002.nii.gz",
        "manifest.json",
    }
    image = "Dataset001_Tibia/imagesTr/msk_002_0000.nii.gz"
    assert after[image][0] == before[image][0]


def test_F09_a_damaged_output_is_written_again(study, raw_dir):
    convert_study(study, recipe(), raw_dir)
    before = file_states(raw_dir)
    damaged = raw_dir / "Dataset001_Tibia" / "labelsTr" / "msk_001.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-4])

    summary = convert_study(study, recipe(), raw_dir)

    assert [c.case_id for c in summary.cases if c.rewritten] == ["msk_001"]
    images = [name for name in before if name.endswith(".gz")]
    after = file_states(raw_dir)
    assert [after[name][0] for name in images] == [before[name][0] for name in images]


def test_force_and_another_recipe_redo_all_cases(study, raw_dir):
    convert_study(study, recipe(), raw_dir)

    forced = convert_study(study, recipe(), raw_dir, force=True)
    other = convert_study(study, recipe(merge={"overlap_limit_percent": 1.0}), raw_dir)

    assert all(case.rewritten for case in (*forced.cases, *other.cases))


def test_a_case_that_left_the_study_leaves_the_dataset(study, raw_dir):
    convert_study(study, recipe(), raw_dir)
    shutil.rmtree(study / SCANS / "2_AutoBindWATER_650_2B")

    summary = convert_study(study, recipe(), raw_dir)

    dataset = summary.dataset_dir
    assert not (dataset / "imagesTr" / "msk_002_0000.nii.gz").exists()
    assert json.loads((dataset / "dataset.json").read_text())["numTraining"] == 1
    assert "msk_002" not in read_manifest(dataset).by_case()


def test_a_case_that_is_refused_later_loses_its_old_files(study, raw_dir):
    convert_study(study, recipe(), raw_dir)
    (study / SCANS / "1_AutoBindWATER_650_1A" / "IM-0005.dcm").unlink()

    summary = convert_study(study, recipe(), raw_dir)

    assert not list(summary.dataset_dir.rglob("msk_001*"))


def test_F06_a_full_disk_leaves_no_half_case(study, raw_dir, monkeypatch):
    writer = "nnunet_bridge.pipeline.ingest.dataset_writer"

    def full(file, _):
        raise EnvironmentFault(f"Cannot write {file}: the disk is full.", code="F06")

    monkeypatch.setattr(f"{writer}.write_labelmap", full)

    with pytest.raises(EnvironmentFault) as caught:
        convert_study(study, recipe(), raw_dir)

    assert caught.value.exit_code == 5
    assert not raw_dir.exists()


def test_F06_too_little_space_is_known_before_writing(study, raw_dir, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))

    with pytest.raises(EnvironmentFault, match="free some space"):
        convert_study(study, recipe(), raw_dir)

    assert not raw_dir.exists()


def test_F07_a_run_that_was_killed_is_taken_up_where_it_ended(
    study, raw_dir, monkeypatch
):
    whole = convert_study(study, recipe(), raw_dir.with_name("other")).dataset_dir
    convert = "nnunet_bridge.pipeline.ingest.convert.assemble_case"
    from nnunet_bridge.pipeline.ingest.cases import assemble_case

    def killed(plan, recipe):
        if plan.case_id == "msk_003":
            raise KeyboardInterrupt
        return assemble_case(plan, recipe)

    with monkeypatch.context() as patch:
        patch.setattr(convert, killed)
        with pytest.raises(KeyboardInterrupt):
            convert_study(study, recipe(), raw_dir)
    dataset = raw_dir / "Dataset001_Tibia"
    assert read_manifest(dataset).complete is False

    summary = convert_study(study, recipe(), raw_dir)

    assert [c.case_id for c in summary.cases if c.rewritten] == ["msk_003", "msk_004"]
    for file in whole.rglob("*.nii.gz"):
        again = dataset / file.relative_to(whole)
        assert again.read_bytes() == file.read_bytes()


def test_F08_a_second_run_at_once_names_the_holder(study, raw_dir):
    lock = raw_dir.parent / ".nnunet_bridge" / "locks" / "Dataset001_Tibia.lock"

    with only_writer(lock, "it"), pytest.raises(EnvironmentFault) as caught:
        convert_study(study, recipe(), raw_dir)

    assert caught.value.code == "F08"
    assert "process" in str(caught.value)


def test_F02_two_scans_of_one_name_are_both_refused(study, raw_dir):
    scan(study, "01", "7G", base())

    summary = convert_study(study, recipe(), raw_dir)

    refused = [c for c in summary.cases if c.outcome is Outcome.REFUSED]
    assert [(c.case_id, c.codes) for c in refused] == [("msk_001", ("F02",))] * 2


@pytest.mark.parametrize("name", ["../../x", "a b", "x\n", "con:1"])
def test_F02_a_code_that_could_leave_the_folder_is_refused(tmp_path, raw_dir, name):
    shape = {"id": 1, "name": "Tibia", "case": "{code}-{index:03d}"}
    study = tmp_path / "study"
    safe = name.replace("/", "")
    scan(study, 1, safe)

    summary = convert_study(study, recipe(dataset=shape), raw_dir)

    assert summary.cases[0].codes == ("F02",)
    assert not raw_dir.exists()


def test_the_manifest_accounts_for_everything(study, raw_dir):
    folder = convert_study(study, recipe(), raw_dir).dataset_dir

    manifest = read_manifest(folder).as_json()
    record = manifest["cases"][0]

    assert manifest["complete"] is True
    assert manifest["options"]["merge"]["overlap"] == "background"
    assert record["case"] == "msk_001"
    assert record["split"] == "train"
    assert len(record["inputs"]) == 14
    assert record["geometry"]["spacing_mm"] == [0.75, 0.75, 4.0]
    assert record["geometry"]["max_position_error_mm"] == 0
    assert record["rescale"] == {"slopes": [1.0, 1.0], "intercepts": [0.0, 0.0]}
    assert {mask["structure"]: mask["voxels_after"] for mask in record["masks"]} == {
        "tibia": int(TIBIA.sum()),
        "femur": int(FEMUR.sum()),
    }
    for output in record["outputs"]:
        content = (folder / output["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == output["sha256"]
        voxels = gzip.decompress(content)[352:]
        assert hashlib.sha256(voxels).hexdigest() == output["voxels_sha256"]
    mode = (raw_dir.parent / ".nnunet_bridge" / "key").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_scans_of_one_patient_share_a_group_and_both_splits_are_warned_of(
    tmp_path, raw_dir
):
    study = tmp_path / "study"
    patient(study, 1, "1B")
    patient(study, 8, "1B")
    patient(study, 9, "1b", TEST)
    patient(study, 2, "4Q")

    summary = convert_study(study, recipe(), raw_dir)

    groups = patients_of(summary.dataset_dir, [case.case_id for case in summary.cases])
    assert groups["msk_001"] == groups["msk_008"] == groups["msk_009"]
    assert groups["msk_001"] != groups["msk_002"]
    (finding,) = summary.findings
    assert "msk_001, msk_008 (training) and msk_009 (test)" in finding.message


def outcome(study, **parts):
    case = the_case(check_study(study, recipe(**parts)))
    return str(case.outcome), list(case.codes)


def test_K15_a_missing_mask_needs_a_declared_state(study):
    (study / MASKS / "1_femur_1A.nii.gz").unlink()

    assert outcome(study) == ("refused", ["K15"])
    assert outcome(study, merge={"missing": "absent"}) == ("accepted", [])
    assert outcome(study, cases={"msk_001": {"femur": "absent"}}) == ("accepted", [])


def test_K15_a_side_of_a_structure_that_is_declared_absent_is_refused(tmp_path):
    scan(tmp_path, 1, "1A")
    draw(tmp_path, "1_L_tibia_1A", FEMUR)
    declared = {"msk_001": {"tibia": "absent", "femur": "absent"}}

    found = outcome(tmp_path, cases=declared, merge={"sides": "separate"})

    assert found == ("refused", ["K15"])


def test_K15_a_structure_that_is_declared_absent_but_drawn_is_refused(study):
    assert outcome(study, cases={"msk_001": {"femur": "absent"}}) == (
        "refused",
        ["K15"],
    )


def test_K15_what_was_not_drawn_can_be_ignored(study, raw_dir):
    (study / MASKS / "1_femur_1A.nii.gz").unlink()

    folder = convert_study(
        study, recipe(merge={"missing": "ignore"}), raw_dir
    ).dataset_dir

    labels = json.loads((folder / "dataset.json").read_text())["labels"]
    assert labels["ignore"] == 3
    voxels = nibabel.load(folder / "labelsTr" / "msk_001.nii.gz").get_fdata()
    assert np.unique(voxels).tolist() == [1, 3]
    record = read_manifest(folder).cases[0]
    assert record.ignored_share == pytest.approx(1 - TIBIA.mean(), abs=1e-5)


def test_K21_a_mask_that_belongs_to_no_scan_is_never_passed_over(study):
    draw(study, "9_tibia_9Z", TIBIA)
    draw(study, "what is this", TIBIA)

    summary = check_study(study, recipe())

    assert [finding.code for finding in summary.findings] == ["K21", "K21"]
    assert "9_tibia_9Z.nii.gz" in summary.as_text()


def test_masks_for_training_and_testing_of_one_scan_are_refused(study):
    draw(study, "1_femur_1A", FEMUR, TEST)

    assert outcome(study)[0] == "refused"


def test_the_region_of_the_labels_is_cut_out_and_recorded(study, raw_dir):
    folder = convert_study(
        study, recipe(region={"crop": "labels"}), raw_dir
    ).dataset_dir

    image = read_volume(folder / "imagesTr" / "msk_001_0000.nii.gz")
    np.testing.assert_array_equal(image.voxels, expected()[:, :, 3:9])
    np.testing.assert_allclose(image.grid.to_patient([0, 0, 0]), [-12, -12, -88])
    assert read_manifest(folder).cases[0].region.as_json() == {
        "crop": "labels",
        "first_slice": 3,
        "end_slice": 9,
        "slices_before": 12,
        "shape_before": [32, 32, 12],
        "affine_before": AFFINE.tolist(),
    }


def test_a_prediction_of_a_cropped_case_goes_back_to_its_place_in_the_scan(
    study, raw_dir
):
    region = {"crop": "slices", "slices": [2, 10]}
    folder = convert_study(study, recipe(region=region), raw_dir).dataset_dir
    image = folder / "imagesTs" / "msk_003_0000.nii.gz"
    table = recipe().spec().labels
    predicted = read_labelmap(folder / "labelsTs" / "msk_003.nii.gz", table)

    whole = put_back(predicted, recorded_region(image))

    assert whole.grid.matches(GRID)
    np.testing.assert_array_equal(whole.voxels, TIBIA + 2 * FEMUR)


def test_a_case_that_was_not_cropped_or_was_changed_has_no_region(study, raw_dir):
    whole = convert_study(study, recipe(), raw_dir).dataset_dir
    image = whole / "imagesTs" / "msk_003_0000.nii.gz"
    assert recorded_region(image) is None
    region = {"crop": "slices", "slices": [2, 10]}
    convert_study(study, recipe(region=region), raw_dir)
    assert recorded_region(image).end == 10

    copy = image.with_name("msk_009_0000.nii.gz")
    shutil.copy(image, copy)
    image.write_bytes(image.read_bytes() + b" ")

    assert recorded_region(image) is None
    assert recorded_region(copy) is None


def test_a_region_of_slices_is_cut_out_and_one_outside_is_refused(study, raw_dir):
    folder = convert_study(
        study, recipe(region={"crop": "slices", "slices": [2, 10]}), raw_dir
    ).dataset_dir

    image = read_volume(folder / "imagesTr" / "msk_001_0000.nii.gz")
    assert image.grid.shape == (32, 32, 8)
    region = {"crop": "slices", "slices": [50, 60]}
    assert outcome(study, region=region) == ("refused", ["K20"])


def test_a_study_without_scans_says_what_is_there(tmp_path):
    (tmp_path / "Something else").mkdir()

    with pytest.raises(InputError, match="Something else"):
        check_study(tmp_path, recipe())


def test_the_text_names_each_case_and_the_counts(study):
    (study / SCANS / "1_AutoBindWATER_650_1A" / "IM-0005.dcm").unlink()

    text = check_study(study, recipe()).as_text()

    assert "msk_001  REFUSED" in text
    assert "[G03] Slices 4 and 5 are 8.00 mm apart" in text
    assert "4 cases: 3 accepted, 1 refused." in text


@pytest.mark.parametrize("name", ["hippocampus", "spine"])
def test_the_real_studies_equal_their_oracle(test_data, tmp_path, name):
    """The oracle is the image that each study was made from, in its own voxel order."""
    source = test_data / f"study_{name}"
    if not source.is_dir():
        pytest.skip(f"{source} is absent")
    cases = json.loads((source / "oracle" / "cases.json").read_text())

    summary = convert_study(source, read_recipe(name), tmp_path / "nnUNet_raw")

    assert summary.exit_code == 0
    prefix = {"hippocampus": "hip", "spine": "spine"}[name]
    for key, facts in cases.items():
        case = f"{prefix}_{int(key.split('_')[0]):03d}"
        part = "Tr" if facts["role"] == "train" else "Ts"
        folder = summary.dataset_dir
        for ours, theirs in (
            (folder / f"images{part}" / f"{case}_0000.nii.gz", "image.nii.gz"),
            (folder / f"labels{part}" / f"{case}.nii.gz", "label.nii.gz"),
        ):
            assert_same_image(ours, source / "oracle" / key / theirs)


def assert_same_image(ours, theirs):
    one = nibabel.as_closest_canonical(nibabel.load(ours))
    other = nibabel.as_closest_canonical(nibabel.load(theirs))
    assert one.shape == other.shape
    np.testing.assert_array_equal(
        np.asarray(one.dataobj), np.rint(np.asarray(other.dataobj))
    )
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    displacement = Grid(one.shape, lps @ one.affine).displacement_mm(
        Grid(other.shape, lps @ other.affine)
    )
    assert displacement <= 1e-3


def corrected(file):
    """Correct a label by hand, as one would in a viewer."""
    table = LabelTable.from_names(["tibia", "femur"])
    label = read_labelmap(file, table)
    write_labelmap(file, label.with_voxels(label.voxels[::-1].copy()))
    return file.read_bytes()


@pytest.mark.parametrize("change", ["nothing", "recipe", "study", "case"])
def test_F04_a_label_that_was_corrected_by_hand_is_not_written_over(
    study, raw_dir, change
):
    label = convert_study(study, recipe(), raw_dir).dataset_dir / "labelsTr"
    label /= "msk_001.nii.gz"
    by_hand, before = corrected(label), file_states(raw_dir)
    other = {"merge": {"overlap_limit_percent": 1.0}} if change == "recipe" else {}
    if change == "study":
        draw(study, "1_tibia_1A", box(slice(4, 13)))
    if change == "case":
        shutil.rmtree(study / SCANS / "1_AutoBindWATER_650_1A")

    with pytest.raises(InputError, match=r"labelsTr/msk_001.nii.gz.*--force") as it:
        convert_study(study, recipe(**other), raw_dir)

    assert it.value.code == "F04"
    assert file_states(raw_dir) == before
    assert label.read_bytes() == by_hand
    convert_study(study, recipe(**other), raw_dir, force=True)
    assert not label.exists() or label.read_bytes() != by_hand


@pytest.mark.parametrize("force", [False, True])
def test_F04_a_dataset_of_another_origin_is_not_overwritten(study, raw_dir, force):
    dataset = raw_dir / "Dataset001_Tibia"
    for name in ("imagesTr/msk_001_0000.nii.gz", "labelsTr/msk_001.nii.gz"):
        (dataset / name).parent.mkdir(parents=True)
        (dataset / name).write_bytes(b"theirs")
    (dataset / "dataset.json").write_text('{"labels": {"background": 0, "liver": 1}}')
    before = file_states(raw_dir)

    with pytest.raises(InputError, match="`convert` did not write") as caught:
        convert_study(study, recipe(), raw_dir, force=force)

    assert caught.value.code == "F04"
    assert file_states(raw_dir) == before
    (finding,) = check_study(study, recipe(), raw_dir).findings
    assert finding.code == "F04"


def test_a_dataset_of_ours_without_its_manifest_is_converted_again(study, raw_dir):
    dataset = convert_study(study, recipe(), raw_dir).dataset_dir
    (dataset / "manifest.json").unlink()

    assert convert_study(study, recipe(), raw_dir).exit_code == 0


# --- one dataset, one kind of image ---------------------------------------------------

CORONAL = (1, 0, 0, 0, 0, -1)
FEET_FIRST = (-1, 0, 0, 0, 1, 0)


def rescan(study, index, code, *, position="", **words):
    """Replace the scan of a patient, and its masks by ones on its grid."""
    folder = study / SCANS / f"{index}_AutoBindWATER_650_{code}"
    shutil.rmtree(folder)
    save(each(base(**words), PatientPosition=position), folder)
    grid = read_series(folder).volume.grid
    for name, mask in (("tibia", TIBIA), ("femur", FEMUR)):
        draw(study, f"{index}_{name}_{code}", mask, grid=grid)


def mixture_of(study, raw_dir):
    """Return the warnings about mixtures: of check, convert, and a second convert."""
    summaries = [check_study(study, recipe())]
    summaries += [convert_study(study, recipe(), raw_dir) for _ in range(2)]
    answer = [[str(f) for f in s.findings if f.code == "G19"] for s in summaries]
    assert answer[0] == answer[1] == answer[2]
    assert {summary.exit_code for summary in summaries} == {0}
    return answer[0]


def test_G19_a_dataset_of_one_kind_is_not_warned_of(study, raw_dir):
    assert mixture_of(study, raw_dir) == []


@pytest.mark.parametrize(
    ("iop", "words"),
    [
        (CORONAL, "slices are axial in 3 cases, coronal in msk_002"),
        (FEET_FIRST, "axes of axial images run LPS in 3 cases, RPI in msk_002"),
    ],
)
def test_G19_another_plane_or_direction_is_named_with_its_cases(
    study, raw_dir, iop, words
):
    rescan(study, 2, "2B", iop=iop)

    (message,) = mixture_of(study, raw_dir)

    assert words in message


@pytest.mark.parametrize("position", ["FFS", "HFDR", "HFP"])
def test_G19_another_position_of_the_patient_is_named(study, raw_dir, position):
    rescan(study, 1, "1A", position="HFS")
    rescan(study, 2, "2B", position=position)

    (message,) = mixture_of(study, raw_dir)

    usual, other = sorted([("HFS", "msk_001"), (position, "msk_002")])
    assert f"Position is {usual[0]} in 1 cases, {other[0]} in {other[1]}" in message


def test_G19_a_position_that_is_no_defined_term_is_not_repeated(study, raw_dir):
    rescan(study, 1, "1A", position="JANE DOE")
    rescan(study, 2, "2B", position="HFS")

    assert mixture_of(study, raw_dir) == []
    assert "JANE" not in (raw_dir / "Dataset001_Tibia" / "manifest.json").read_text()
