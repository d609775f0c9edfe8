"""Nothing that tells whose images these are leaves the study (R11, F12, F13, M09).

Thirty different strings are planted where scanners, hospitals and 3D Slicer put
identities, and then looked for in every byte that the commands write: file names,
files (inflated first), and what stands on the terminal, in UTF-8 and UTF-16, in either
byte order, in capitals or not.

What the user typed, and the names of the user's own folders and files, may stand on the
user's terminal, where a message must name the file that it means; nowhere else.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from dicom_base import base, save
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from small_study import AFFINE, FEMUR, MASKS, RECIPE, SCANS, TEST, TIBIA, box

IN_HEADERS = {
    "PatientName": "ZQNAME^ALPHA",
    "PatientID": "ZQPATIENTID",
    "PatientBirthDate": "19310713",
    "PatientAddress": "ZQADDRESS 12",
    "PatientComments": "ZQPATIENTCOMMENT",
    "OtherPatientIDs": "ZQOTHERID",
    "EthnicGroup": "ZQGROUP",
    "InstitutionName": "ZQHOSPITAL",
    "InstitutionAddress": "ZQSTREET",
    "ReferringPhysicianName": "ZQREFERRER",
    "OperatorsName": "ZQOPERATOR",
    "AccessionNumber": "ZQACCESSION",
    "StudyID": "ZQSTUDYID",
    "StudyDescription": "ZQSTUDYTEXT",
    "SeriesDescription": "ZQSERIESTEXT",
    "ProtocolName": "ZQPROTOCOL",
    "StationName": "ZQSTATION",
    "DeviceSerialNumber": "ZQSERIAL",
    "ImageComments": "ZQIMAGECOMMENT",
    "StudyDate": "19870203",
}
ELSEWHERE = {
    "private tag": "ZQPRIVATE",
    "text in a sequence": "ZQINSEQUENCE",
    "study UID": "1.2.826.0.1.3680043.9.7777.1",
    "series UID": "1.2.826.0.1.3680043.9.7777.2",
    "frame of reference UID": "1.2.826.0.1.3680043.9.7777.3",
    "NIfTI description": "ZQNIFTIDESCRIP",
    "NIfTI aux_file": "ZQNIFTIAUX",
    "NIfTI extension": "ZQNIFTIEXTENSION",
    "NRRD key": "ZQNRRDKEY",
    "NRRD comment": "ZQNRRDCOMMENT",
    "MetaImage field": "ZQMETAFIELD",
    "segment's extra field": "ZQSEGMENTFIELD",
    "unknown SOP class": "1.2.826.0.1.3680043.9.7777.4",
}
IN_NAMES = {
    "scan folder": "ZQFOLDER",
    "DICOM file": "ZQDICOMFILE",
    "mask file": "ZQ9B",
    "stray mask": "ZQSTRAYMASK",
    "note in the folder": "ZQNOTE",
    "target of a link": "ZQTARGET",
    "unknown segment": "ZQUNKNOWNSEGMENT",
    "study folder": "ZQSTUDYFOLDER",
}


def dressed(slices):
    """Plant every identity that a header can hold."""
    for ds in slices:
        for keyword, value in IN_HEADERS.items():
            setattr(ds, keyword, value)
        ds.StudyInstanceUID = ELSEWHERE["study UID"]
        ds.SeriesInstanceUID = ELSEWHERE["series UID"]
        ds.FrameOfReferenceUID = ELSEWHERE["frame of reference UID"]
        block = ds.private_block(0x0051, "ZQCREATOR", create=True)
        block.add_new(0x01, "LO", ELSEWHERE["private tag"])
        item = Dataset()
        item.RequestedProcedureDescription = ELSEWHERE["text in a sequence"]
        ds.RequestAttributesSequence = Sequence([item])
    return slices


def nifti_mask(file, mask):
    image = nibabel.Nifti1Image(mask, np.diag([-1.0, -1, 1, 1]) @ AFFINE)
    image.header["descrip"] = ELSEWHERE["NIfTI description"].encode()
    image.header["aux_file"] = ELSEWHERE["NIfTI aux_file"].encode()
    words = ELSEWHERE["NIfTI extension"].encode()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, words))
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, file)


def nrrd_mask(file, mask, **fields):
    header = {
        "space": "left-posterior-superior",
        "space directions": AFFINE[:3, :3].T,
        "space origin": AFFINE[:3, 3],
        "owner": ELSEWHERE["NRRD key"],
        **fields,
    }
    nrrd.write(str(file), mask, header)
    content = file.read_bytes().replace(
        b"NRRD0005\n", f"NRRD0005\n# {ELSEWHERE['NRRD comment']}\n".encode(), 1
    )
    file.write_bytes(content)


def meta_mask(file, mask):
    image = sitk.GetImageFromArray(mask.T)
    image.SetOrigin(AFFINE[:3, 3])
    image.SetSpacing([0.75, 0.75, 4.0])
    image.SetMetaData("Comment", ELSEWHERE["MetaImage field"])
    sitk.WriteImage(image, str(file))


def segments(*names):
    fields, field = {}, ELSEWHERE["segment's extra field"]
    for number, name in enumerate(names):
        fields |= {
            f"Segment{number}_Name": name,
            f"Segment{number}_ID": f"Segment_{field}",
            f"Segment{number}_Layer": "0",
            f"Segment{number}_LabelValue": str(number + 1),
            f"Segment{number}_Tags": field,
        }
    return fields


def plant_scans(root):
    code = IN_NAMES["mask file"]
    for index in range(1, 7):
        folder = root / SCANS / f"{index}_{IN_NAMES['scan folder']}_{index}{code}"
        slices = dressed(base())
        if index == 4:
            del slices[5]  # a missing slice, G03
        files = save(slices, folder, prefix=IN_NAMES["DICOM file"])
        (folder / f"{IN_NAMES['note in the folder']}.txt").write_text("ZQIMAGECOMMENT")
        if index == 5:
            files[3].write_bytes(files[3].read_bytes()[:900])  # cut off, P10
    folder = root / SCANS / f"1_{IN_NAMES['scan folder']}_1{code}"
    odd, unknown = dressed(base(3))[0], ELSEWHERE["unknown SOP class"]
    odd.SOPClassUID = odd.file_meta.MediaStorageSOPClassUID = unknown
    odd.save_as(folder / "odd.dcm", enforce_file_format=True)
    target = root.parent / "outside" / IN_NAMES["target of a link"]
    target.parent.mkdir()
    target.write_text("x")
    (folder / "link.dcm").symlink_to(target)


def plant_masks(masks):
    code, both = IN_NAMES["mask file"], TIBIA + 2 * FEMUR
    nifti_mask(masks / f"1_tibia_1{code}.nii.gz", TIBIA * 255)
    nifti_mask(masks / f"1_femur_1{code}.nii", FEMUR)
    nrrd_mask(masks / f"2_tibia_2{code}.nrrd", TIBIA)
    meta_mask(masks / f"2_femur_2{code}.mha", FEMUR)
    nrrd_mask(masks / f"3_3{code}.seg.nrrd", both, **segments("tibia", "femur"))
    for index in (4, 5):
        nifti_mask(masks / f"{index}_tibia_{index}{code}.nii.gz", TIBIA)
        nifti_mask(masks / f"{index}_femur_{index}{code}.nii.gz", FEMUR)
    unknown = IN_NAMES["unknown segment"]
    nrrd_mask(masks / f"6_6{code}.seg.nrrd", both, **segments("tibia", unknown))
    nifti_mask(masks / f"{IN_NAMES['stray mask']}.nii.gz", box(slice(1, 4)))


@pytest.fixture
def study(tmp_path):
    """Six patients: three sound ones, and three that are refused in different ways."""
    root = tmp_path / IN_NAMES["study folder"]
    plant_scans(root)
    plant_masks(root / MASKS)
    (tmp_path / "dataset.toml").write_text(RECIPE % f'test = "{TEST}"')
    (tmp_path / "work").mkdir()
    return root


def command(tmp_path, *words, exit_code=0):
    done = subprocess.run(
        [sys.executable, "-m", "nnunet_bridge", *map(str, words)],
        check=False,
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "400"},
    )
    assert done.returncode == exit_code, done.stderr
    return done.stdout + done.stderr


def spellings(text):
    """Return a text in the encodings in which it could be found."""
    small = text.lower()
    yield small.encode()
    yield small.encode("utf-16-le")
    yield small.encode("utf-16-be")


def assert_no_trace(planted, content, where):
    small = content.lower()
    for what, text in planted.items():
        for spelling in spellings(text):
            assert spelling not in small, f"the {what} stands in {where}"


def inflated(file):
    content = file.read_bytes()
    return gzip.decompress(content) if file.name.endswith(".gz") else content


def assert_no_trace_below(planted, folder):
    files = 0
    for file in folder.rglob("*"):
        name = file.relative_to(folder).as_posix()
        assert_no_trace(planted, name.encode(), f"the name {name}")
        if file.is_file():
            files += 1
            assert_no_trace(planted, inflated(file), name)
    assert files


def everything(tmp_path):
    return {
        **IN_HEADERS,
        **ELSEWHERE,
        **IN_NAMES,
        "private creator": "ZQCREATOR",
        "folder of the user": str(tmp_path),
        "any planted word": "ZQ",
    }


def test_R11_what_is_planted_is_really_there(study):
    """Else the other tests could not fail."""
    content = b"".join(inflated(f) for f in study.rglob("*") if f.is_file())
    names = " ".join(f.as_posix() for f in study.rglob("*"))
    compressed = {"OtherPatientIDs"}

    assert len(IN_HEADERS) + len(ELSEWHERE) + len(IN_NAMES) >= 40
    for what, text in (IN_HEADERS | ELSEWHERE).items():
        assert what in compressed or text.encode() in content, what
    for what, text in IN_NAMES.items():
        links = ("target of a link", "unknown segment")
        assert what in links or text in names, what


def test_R11_F12_F13_convert_and_check_let_no_identity_out(study, tmp_path):
    work, recipe = tmp_path / "work", tmp_path / "dataset.toml"
    planted = everything(tmp_path)
    before = {f: f.stat().st_mtime_ns for f in study.rglob("*")}

    words = (study, "-r", recipe, "-w", work)
    message = command(tmp_path, "check", *words, exit_code=4)
    assert not list(work.iterdir())
    message += command(tmp_path, "convert", *words, exit_code=4)
    message += command(tmp_path, "convert", *words, exit_code=4)

    assert {f: f.stat().st_mtime_ns for f in study.rglob("*")} == before
    folder = work / "nnUNet_raw" / "Dataset001_Tibia"
    manifest = json.loads((folder / "manifest.json").read_text())
    outcomes = [record["outcome"] for record in manifest["cases"]]
    assert outcomes.count("refused") == 3
    assert len(list(folder.rglob("*.nii.gz"))) == 6
    assert_no_trace_below(planted, work)
    assert_no_trace(IN_HEADERS | ELSEWHERE, message, "what the terminal shows")


def test_R11_an_internal_failure_leaves_no_identity_behind(study, tmp_path):
    """A workspace that cannot be written: the message names it, and no header."""
    work, recipe = tmp_path / "work", tmp_path / "dataset.toml"
    (work / "nnUNet_raw").write_text("a file in the way")

    message = command(tmp_path, "convert", study, "-r", recipe, "-w", work, exit_code=5)

    assert b"part of the path is a file" in message
    assert_no_trace(IN_HEADERS | ELSEWHERE | IN_NAMES, message, "the message")


def test_R11_M09_meshes_and_scores_tell_only_case_and_structure(study, tmp_path):
    work, recipe = tmp_path / "work", tmp_path / "dataset.toml"
    command(tmp_path, "convert", study, "-r", recipe, "-w", work, exit_code=4)
    folder = work / "nnUNet_raw" / "Dataset001_Tibia"
    labels = tmp_path / "labels"
    labels.mkdir()
    shutil.copy(folder / "dataset.json", labels)
    for case in ("msk_001", "msk_002"):
        image = nibabel.load(folder / "labelsTr" / f"{case}.nii.gz")
        image.header["descrip"] = ELSEWHERE["NIfTI description"].encode()
        image.header["aux_file"] = ELSEWHERE["NIfTI aux_file"].encode()
        nibabel.save(image, labels / f"{case}.nii.gz")

    words = ("score", labels, folder / "labelsTr", "-o", tmp_path / "scores")
    command(tmp_path, *words, exit_code=4)  # msk_003 has no prediction
    command(tmp_path, "mesh", labels, "-o", tmp_path / "meshes")

    planted = {
        k: v for k, v in everything(tmp_path).items() if k != "folder of the user"
    }
    for name in ("scores", "meshes"):
        assert_no_trace_below(planted, tmp_path / name)
