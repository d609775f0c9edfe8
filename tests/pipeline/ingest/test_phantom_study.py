"""A synthetic study on disk, read back by other people's readers."""

import hashlib
import tomllib

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everybody knows it by

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.formats.nifti import read_array
from nnunet_bridge.formats.recipe import read_recipe
from nnunet_bridge.formats.slicer import read_segments
from nnunet_bridge.ops.phantom import STRUCTURES, lower_limb, places
from nnunet_bridge.pipeline.ingest.phantom_study import (
    CROPPED_PATIENT,
    MASKS,
    PARAMETERS,
    SCANS,
    SEGMENTED_PATIENT,
    TEST_MASKS,
    PhantomParameters,
    write_phantom_study,
)

SMALL = {
    "patients": 3,
    "unseen": 1,
    "shape": (48, 24, 32),
    "spacing_mm": (8.0, 8.0, 24.0),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_phantom_study(
        tmp_path_factory.mktemp("study"), PhantomParameters(**SMALL)
    )


def patient_of(index):
    return lower_limb(index, shape=SMALL["shape"], spacing_mm=SMALL["spacing_mm"])


def scan_dir(study, index):
    (folder,) = (study.folder / SCANS).glob(f"{index}_*")
    return folder


def fingerprint(folder):
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def read_by_simpleitk(folder):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def test_patients_are_named_by_the_convention_of_the_source(study):
    assert study.train_ids == ("msk_001", "msk_002", "msk_003")
    assert study.test_ids == ("msk_004",)
    assert sorted(folder.name for folder in (study.folder / SCANS).iterdir()) == [
        "1_AutoBindWATER_650_1B",
        "2_AutoBindWATER_650_2C",
        "3_AutoBindWATER_650_3D",
        "4_AutoBindWATER_650_4E",
    ]
    assert (study.folder / MASKS / "1_R_tibia_1B.nii.gz").is_file()
    assert (study.folder / MASKS / "3_3D.seg.nrrd").is_file()
    assert len(list((study.folder / MASKS).iterdir())) == 2 * len(places()) + 1


def test_masks_of_unseen_patients_are_kept_apart(study):
    names = {file.name for file in (study.folder / TEST_MASKS).iterdir()}

    assert names == {
        f"4_{side}_{structure}_4E.nii.gz" for side in "LR" for structure in STRUCTURES
    }


@pytest.mark.parametrize("index", [1, 2, 3, 4])
def test_simpleitk_reads_the_image_and_its_place_from_the_dicom_files(study, index):
    expected = patient_of(index).volume
    image = read_by_simpleitk(scan_dir(study, index))

    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(image).transpose(), expected.voxels
    )
    for corner in np.ndindex(2, 2, 2):
        voxel = [
            int(c) * (size - 1) for c, size in zip(corner, image.GetSize(), strict=True)
        ]
        np.testing.assert_allclose(
            image.TransformIndexToPhysicalPoint(voxel),
            expected.grid.to_patient(voxel),
            atol=1e-3,
        )


def test_slices_are_complete_explicit_little_endian_mr_images(study):
    for file in scan_dir(study, 1).iterdir():
        slice_ = pydicom.dcmread(file)
        assert slice_.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
        assert slice_.SOPClassUID == pydicom.uid.MRImageStorage
        assert list(slice_.ImageType) == ["ORIGINAL", "PRIMARY", "M", "WATER"]
        assert file.name == f"IM-0001-{slice_.InstanceNumber:04d}.dcm"


def test_slices_carry_the_code_and_no_identity(study):
    slice_ = pydicom.dcmread(next(scan_dir(study, 2).iterdir()))

    assert slice_.PatientID == slice_.PatientName == "2C"
    assert not slice_.PatientBirthDate
    assert slice_.PatientIdentityRemoved == "YES"
    assert slice_.DeidentificationMethod


@pytest.mark.parametrize(
    "keyword",
    [
        "PatientSex",
        "StudyID",
        "AccessionNumber",
        "ReferringPhysicianName",
        "SeriesNumber",
        "PositionReferenceIndicator",
        "ScanningSequence",
        "SequenceVariant",
        "ScanOptions",
        "MRAcquisitionType",
        "RepetitionTime",
        "EchoTime",
        "EchoTrainLength",
        "SliceThickness",
    ],
)
def test_slices_have_what_an_mr_image_must_have_even_if_it_is_empty(study, keyword):
    """Attributes of type 1 and 2, PS3.3 A.4.3."""
    assert keyword in pydicom.dcmread(next(scan_dir(study, 1).iterdir()))


def test_uids_have_one_root_and_slices_share_study_series_and_frame(study):
    slices = [pydicom.dcmread(file) for file in scan_dir(study, 1).iterdir()]
    others = [pydicom.dcmread(file) for file in scan_dir(study, 2).iterdir()]

    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert len({slice_[keyword].value for slice_ in slices}) == 1
        assert slices[0][keyword].value != others[0][keyword].value
    root = str(slices[0].StudyInstanceUID).rpartition(".")[0]
    everything = [slice_.SOPInstanceUID for slice_ in slices + others]
    assert len(set(everything)) == len(everything)
    assert all(uid.startswith(root) and uid.is_valid for uid in everything)


@pytest.mark.parametrize("place", places())
def test_a_mask_lies_on_the_image_s_grid(study, place):
    structure, side = place
    expected = patient_of(1)
    file = study.folder / MASKS / f"1_{side[0].upper()}_{structure}_1B.nii.gz"

    grid, voxels = read_array(file)

    assert grid.matches(expected.volume.grid)
    np.testing.assert_array_equal(voxels, expected.masks[place])


def test_one_patient_s_masks_are_cropped_to_the_bone_and_stay_in_place(study):
    expected = patient_of(CROPPED_PATIENT)
    for structure, side in places():
        name = f"{CROPPED_PATIENT}_{side[0].upper()}_{structure}_2C.nii.gz"
        image = nibabel.load(study.folder / MASKS / name)
        bone = np.argwhere(np.asarray(image.dataobj))
        whole = np.argwhere(expected.masks[structure, side])

        assert image.shape == tuple(np.ptp(whole, axis=0) + 1)
        np.testing.assert_allclose(
            nibabel.affines.apply_affine(image.affine, bone) * [-1, -1, 1],
            expected.volume.grid.to_patient(whole),
            atol=1e-3,
        )


def test_one_patient_s_masks_are_segments_of_one_file_that_the_recipe_knows(study):
    expected = patient_of(SEGMENTED_PATIENT)
    recipe = read_recipe(study.recipe_file)

    segments = list(read_segments(study.folder / MASKS / "3_3D.seg.nrrd"))

    drawn = {recipe.structure_of(mask.name): mask for mask in segments}
    assert list(drawn) == places()
    for place, mask in drawn.items():
        assert mask.grid.matches(expected.volume.grid)
        np.testing.assert_array_equal(mask.voxels, expected.masks[place])


def test_an_unseen_patient_has_one_file_a_bone_and_side_whatever_its_number(tmp_path):
    study = write_phantom_study(
        tmp_path, PhantomParameters(**(SMALL | {"patients": 2, "unseen": 1}))
    )

    names = [file.name for file in (study.folder / TEST_MASKS).iterdir()]
    assert len(names) == len(places())
    assert all(name.startswith(f"{SEGMENTED_PATIENT}_") for name in names)


def test_the_recipe_names_what_is_in_the_folder(study):
    recipe = tomllib.loads(study.recipe_file.read_text(encoding="utf-8"))

    assert recipe["dataset"] == {
        "id": 1,
        "name": "LowerLimb",
        "channel": "MRI",
        "case": "msk_{index:03d}",
    }
    assert (study.folder / recipe["scans"]["folder"]).is_dir()
    assert (study.folder / recipe["masks"]["folder"]).is_dir()
    assert (study.folder / recipe["masks"]["test"]).is_dir()
    assert list(recipe["labels"]) == list(STRUCTURES)


def test_a_second_call_writes_nothing(study):
    before = {file: file.stat().st_mtime_ns for file in study.folder.rglob("*")}

    assert write_phantom_study(study.folder, PhantomParameters(**SMALL)) == study

    after = {file: file.stat().st_mtime_ns for file in study.folder.rglob("*")}
    assert before == after


def test_another_folder_gets_the_same_bytes(study, tmp_path):
    write_phantom_study(tmp_path / "again", PhantomParameters(**SMALL))

    assert fingerprint(tmp_path / "again") == fingerprint(study.folder)


def test_an_interrupted_study_is_completed(tmp_path):
    one = SMALL | {"patients": 1, "unseen": 0}
    study = write_phantom_study(tmp_path, PhantomParameters(**one))
    whole = fingerprint(tmp_path)
    next(scan_dir(study, 1).iterdir()).unlink()
    next((tmp_path / MASKS).iterdir()).unlink()

    write_phantom_study(tmp_path, PhantomParameters(**one))

    assert fingerprint(tmp_path) == whole


def test_a_lost_segmentation_is_written_again(tmp_path):
    few = SMALL | {"unseen": 0}
    study = write_phantom_study(tmp_path, PhantomParameters(**few))
    whole = fingerprint(tmp_path)
    (study.folder / MASKS / "3_3D.seg.nrrd").unlink()

    write_phantom_study(tmp_path, PhantomParameters(**few))

    assert fingerprint(tmp_path) == whole


def test_a_folder_with_other_parameters_is_refused(study):
    with pytest.raises(InputError, match="other parameters"):
        write_phantom_study(study.folder, PhantomParameters(**(SMALL | {"seed": 1})))


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_folder_whose_parameters_are_damaged_is_refused(tmp_path, content):
    (tmp_path / PARAMETERS).write_text(content)

    with pytest.raises(InputError, match=r"other parameters \(phantom\.json\)"):
        write_phantom_study(tmp_path, PhantomParameters(**SMALL))


def test_a_folder_with_real_scans_is_refused(tmp_path):
    (tmp_path / SCANS).mkdir()

    with pytest.raises(InputError, match="not synthetic"):
        write_phantom_study(tmp_path, PhantomParameters(**SMALL))


def test_every_patient_is_reported(tmp_path):
    heard = []

    class Listener:
        def stage(self, name, steps):
            heard.append((name, steps))

        def advance(self, done, note=""):
            heard.append((done, note))

    write_phantom_study(
        tmp_path,
        PhantomParameters(**(SMALL | {"patients": 1, "unseen": 1})),
        progress=Listener(),
    )

    assert heard == [("synthetic patients", 2), (1, "msk_001"), (2, "msk_002")]
