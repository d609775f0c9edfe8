"""Which images the words of a command mean."""

import stat
import unicodedata
import zipfile

import numpy as np
import pytest
from dicom_base import base, each, expected, new_uids, save
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    generate_uid,
)
from tiny_model import zipped

from nnunet_bridge.core.errors import EnvironmentFault, InputError, SecurityError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.dicom import SeriesOptions
from nnunet_bridge.formats.dicom import zipped as zipped_scans
from nnunet_bridge.formats.nifti import write_volume
from nnunet_bridge.pipeline.ingest.inputs import (
    case_id_of,
    find_images,
    read_image,
    read_one_image,
)


@pytest.fixture
def volume():
    voxels = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    return Volume(Grid((4, 5, 6), np.diag([1.0, 1.0, 3.0, 1.0])), voxels)


def test_nifti_files_are_named_without_channel_and_ending(tmp_path, volume):
    write_volume(tmp_path / "msk_013_0000.nii.gz", volume)
    write_volume(tmp_path / "msk_014_0000.nii.gz", volume)

    assert [s.case_id for s in find_images([tmp_path])] == ["msk_013", "msk_014"]


def test_a_folder_of_folders_is_a_study(tmp_path):
    for name in ("6_WATER_9B", "7_WATER_3C"):
        (tmp_path / "Raw DICOM MRI Scans" / name).mkdir(parents=True)

    assert [s.case_id for s in find_images([tmp_path])] == ["6_WATER_9B", "7_WATER_3C"]


def test_a_folder_with_files_is_one_series(tmp_path):
    folder = tmp_path / "scan"
    folder.mkdir()
    (folder / "IM-0001").write_bytes(b"")

    assert [s.path for s in find_images([folder])] == [folder]


@pytest.mark.parametrize(
    ("code", "folder", "name", "words"),
    [
        ("F02", "b", "Knee_0000", "would both be case"),
        ("N08", "a", "knee_0001", "two channels"),
    ],
)
def test_F02_N08_images_that_would_be_one_case_are_refused(
    tmp_path, volume, code, folder, name, words
):
    write_volume(tmp_path / "a" / "knee_0000.nii.gz", volume)
    write_volume(tmp_path / folder / f"{name}.nii.gz", volume)

    with pytest.raises(InputError, match=words) as caught:
        find_images([tmp_path / one for one in dict.fromkeys(["a", folder])])

    assert caught.value.code == code


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_path_without_an_image_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()

    with pytest.raises(InputError, match=name):
        find_images([tmp_path / name])


def test_a_file_that_is_no_nifti_is_refused(tmp_path):
    (tmp_path / "scan.png").write_bytes(b"")

    with pytest.raises(InputError, match="neither NIfTI"):
        find_images([tmp_path / "scan.png"])


@pytest.mark.parametrize(
    ("name", "case_id"),
    [
        ("../../etc", "etc"),
        ("knee_0000_0001.nii", "knee"),
        ("-rf", "rf"),
        ("jambe gauche é.nii.gz", "jambe-gauche"),
        ("\u202egpj", "gpj"),
    ],
)
def test_F02_a_hostile_name_becomes_a_harmless_id(tmp_path, name, case_id):
    assert case_id_of(tmp_path / name) == case_id


def test_names_in_other_scripts_have_ids_of_their_own(tmp_path):
    """Else two knees would both be `P1`, and one batch could not hold both."""
    names = ["P1_左膝", "P1_右膝", "张三", "李四", "колено", "колонна", "فخذ", "가슴"]

    ids = [case_id_of(tmp_path / f"{name}.nii.gz") for name in names]

    assert len(set(ids)) == len(names)
    assert ids[0].startswith("P1-")
    decomposed = unicodedata.normalize("NFD", "가슴.nii.gz")
    assert case_id_of(tmp_path / decomposed) == ids[-1]
    assert case_id_of(tmp_path / "Größe é.nii.gz") == "Gr-e"


def test_the_hash_of_an_image_holds_its_voxels_and_its_place(tmp_path, volume):
    moved = Volume(Grid((4, 5, 6), np.diag([1.0, 1.0, 3.5, 1.0])), volume.voxels)
    other = volume.with_voxels(volume.voxels + np.int16(1))
    hashes = set()
    for number, image in enumerate((volume, moved, other, volume)):
        write_volume(tmp_path / f"{number}.nii.gz", image)
        hashes.add(read_image(tmp_path / f"{number}.nii.gz").sha256())

    assert len(hashes) == 3


# --- nested folders -------------------------------------------------------------------


def series(folder, *, patient="P1", number=6, uids=None, n=12):
    save(each(base(n, uids=uids), PatientID=patient, SeriesNumber=number), folder)


def ids_of(path):
    return [source.case_id for source in find_images([path])]


def test_series_folders_of_one_study_are_one_case_and_one_is_named(tmp_path):
    study, one, frame = new_uids()
    _, other, _ = new_uids()
    series(tmp_path / "anna" / "SE1", number=1, uids=(study, one, frame))
    series(tmp_path / "anna" / "SE2", number=2, uids=(study, other, frame), n=8)

    (source,) = find_images([tmp_path / "anna"])

    assert source.case_id == "anna"
    reading = read_image(source.path, SeriesOptions(series="2"))
    assert reading.volume.grid.shape == (32, 32, 8)


def test_a_patient_with_one_study_and_one_series_below_it_is_one_case(tmp_path):
    series(tmp_path / "patients" / "anna" / "1.2.3" / "1.2.3.4")

    assert ids_of(tmp_path / "patients") == ["anna"]
    assert ids_of(tmp_path / "patients" / "anna" / "1.2.3" / "1.2.3.4") == ["1-2-3-4"]


def test_patients_with_studies_below_them_are_one_case_each(tmp_path):
    for name in ("anna", "bert"):
        series(tmp_path / name / "study" / "series", patient=name)
    (tmp_path / "read me.txt").write_text("two patients")

    assert ids_of(tmp_path) == ["anna", "bert"]


def test_an_empty_folder_among_patients_stays_a_case_that_will_be_refused(tmp_path):
    for name in ("anna", "bert"):
        series(tmp_path / name)
    (tmp_path / "carl").mkdir()

    assert ids_of(tmp_path) == ["anna", "bert", "carl"]


def exported_medium(folder, patients):
    """Write what a scanner writes to a disc, with its index and its viewer."""
    for number, patient in enumerate(patients):
        place = folder / "DICOM" / f"PT{number:06d}" / "ST000000" / "SE000000"
        series(place, patient=patient)
    index = Dataset()
    index.file_meta = FileMetaDataset()
    index.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    index.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    index.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    index.FileSetID, index.DirectoryRecordSequence = "DISC", []
    index.save_as(folder / "DICOMDIR", enforce_file_format=True)
    (folder / "VIEWER").mkdir()
    (folder / "VIEWER" / "viewer.exe").write_bytes(b"MZ")
    (folder / "AUTORUN.INF").write_text("[autorun]")


def test_an_exported_medium_of_one_patient_is_one_case(tmp_path):
    exported_medium(tmp_path / "disc", ["P1"])

    (source,) = find_images([tmp_path / "disc"])

    assert source.case_id == "disc"
    np.testing.assert_array_equal(read_image(source.path).volume.voxels, expected())


def test_an_exported_medium_of_two_patients_is_two_cases(tmp_path):
    exported_medium(tmp_path / "disc", ["P1", "P2"])

    sources = find_images([tmp_path / "disc"])

    assert [source.case_id for source in sources] == ["PT000000", "PT000001"]
    assert [read_image(s.path).series.patient_id for s in sources] == ["P1", "P2"]


# --- zips -----------------------------------------------------------------------------


def entries_of(folder):
    return [
        (str(file.relative_to(folder)), file.read_bytes())
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    ]


def zip_of(tmp_path, entries, name="new patient.zip"):
    file = tmp_path / name
    file.write_bytes(zipped(entries))
    return file


@pytest.mark.parametrize("inner", ["", "scan", "PAT/STUDY/SERIES"])
def test_a_zip_of_one_scan_is_read_as_its_folder_is(tmp_path, inner):
    series(tmp_path / "made" / inner)
    mac = [("__MACOSX/._scan", b"resource"), (".DS_Store", b"")]
    file = zip_of(tmp_path, [*entries_of(tmp_path / "made"), *mac])

    (source,) = find_images([file], unpack_dir=tmp_path / "work")

    assert source.case_id == "new-patient"
    reading, of_folder = read_image(source.path), read_image(tmp_path / "made")
    assert reading.sha256() == of_folder.sha256()
    assert read_one_image(file).sha256() == of_folder.sha256()
    assert not list((tmp_path / "work").rglob("__MACOSX"))


def test_a_zip_of_patients_is_one_case_each_and_no_single_image(tmp_path):
    for name in ("anna", "bert"):
        series(tmp_path / "made" / name, patient=name)
    file = zip_of(tmp_path, entries_of(tmp_path / "made"))

    sources = find_images([file], unpack_dir=tmp_path / "work")

    assert [source.case_id for source in sources] == ["anna", "bert"]
    with pytest.raises(InputError, match=r"2 images \(anna, bert\)"):
        read_one_image(file)


def test_a_folder_of_zips_is_one_case_each(tmp_path):
    series(tmp_path / "made")
    (tmp_path / "zips").mkdir()
    for name in ("anna.zip", "bert.ZIP"):
        zip_of(tmp_path / "zips", entries_of(tmp_path / "made"), name)

    sources = find_images([tmp_path / "zips"], unpack_dir=tmp_path / "work")

    assert [source.case_id for source in sources] == ["anna", "bert"]


def link():
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([("../out.dcm", b"x")], "S04"),
        ([("/etc/out.dcm", b"x")], "S04"),
        ([(link(), b"/etc/passwd")], "S04"),
        ([("a.dcm", b"x"), ("A.dcm", b"y")], "S04"),
        ([("a", b"x"), ("a/b.dcm", b"y")], "S04"),
        ([("zeros.dcm", bytes(300 << 20))], "S06"),
        ([("zeros.dcm", bytes(5 << 20))], "S06"),
    ],
    ids=["climbs", "absolute", "link", "case", "file and folder", "bomb", "ratio"],
)
def test_S04_S06_a_harmful_zip_is_refused_before_anything_is_written(
    tmp_path, entries, code
):
    file = zip_of(tmp_path, entries)

    with pytest.raises(SecurityError) as caught:
        find_images([file], unpack_dir=tmp_path / "work")

    assert caught.value.code == code
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_S08_a_damaged_zip_is_refused(tmp_path):
    series(tmp_path / "made")
    file = zip_of(tmp_path, entries_of(tmp_path / "made"))
    content = bytearray(file.read_bytes())
    content[200] ^= 0xFF
    file.write_bytes(content)

    with pytest.raises(SecurityError, match="damaged"):
        find_images([file], unpack_dir=tmp_path / "work")

    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(SecurityError, match="damaged or not a zip"):
        find_images([file], unpack_dir=tmp_path / "work")


def test_an_empty_zip_is_named(tmp_path):
    with pytest.raises(InputError, match=r"new patient\.zip is empty"):
        find_images([zip_of(tmp_path, [])], unpack_dir=tmp_path / "work")


def test_F06_a_zip_that_does_not_fit_on_the_disk_is_refused_with_figures(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(zipped_scans, "free_bytes", lambda _: 1000)
    series(tmp_path / "made")

    with pytest.raises(EnvironmentFault, match=r"0\.1 MB are free"):
        find_images(
            [zip_of(tmp_path, entries_of(tmp_path / "made"))],
            unpack_dir=tmp_path / "work",
        )
