"""K25: folders whose names and headers disagree about whose scans they hold."""

import gzip

import pytest
from dicom_base import base
from small_study import FEMUR, TEST, TIBIA, draw, of_patient, recipe, scan

from nnunet_bridge.formats.manifest import patients_of
from nnunet_bridge.nnunet.splits import patient_splits
from nnunet_bridge.pipeline.ingest.convert import check_study, convert_study

CODES = {1: "1A", 2: "2B", 3: "3C", 4: "4D", 5: "5E", 6: "6F", 7: "7G"}


def write(study, index, *, who=None, born="19310713", pixels=None, code="", **more):
    """Write one patient; `who` is the Patient ID, `pixels` the scan that it repeats."""
    slices = of_patient(base(), pixels or index)
    for ds in slices:
        ds.PatientID = f"ZQ{index}" if who is None else who
        ds.PatientBirthDate = born
    code = code or CODES[index]
    scan(study, index, code, slices)
    for name, mask in (("tibia", TIBIA), ("femur", FEMUR)):
        draw(study, f"{index}_{name}_{code}", mask, **more)


@pytest.fixture
def converted(tmp_path):
    def convert():
        raw_dir = tmp_path / "work" / "nnUNet_raw"
        summary = convert_study(tmp_path / "study", recipe(), raw_dir)
        cases = [case.case_id for case in summary.cases]
        return summary, patients_of(summary.dataset_dir, cases)

    return convert


def k24(summary):
    return [found.message for found in summary.findings if found.code == "K25"]


def test_K25_one_person_in_four_of_eight_folders_is_one_patient_of_one_fold(
    tmp_path, converted
):
    for index in range(1, 8):
        write(tmp_path / "study", index, who="ZQ1" if index < 4 else None)

    summary, patients = converted()

    (message,) = k24(summary)
    folders = [f"{n}_AutoBindWATER_650_{CODES[n]}" for n in (1, 2, 3)]
    assert all(folder in message for folder in folders)
    assert len(set(patients.values())) == 5
    for fold in patient_splits(patients):
        assert len({"msk_001", "msk_002", "msk_003"} & set(fold["val"])) in (0, 3)


def test_K25_the_same_scan_in_two_folders_is_one_patient(tmp_path, converted):
    for index in range(1, 5):
        pixels = 1 if index == 2 else None
        split = {"folder": TEST} if index == 2 else {}
        write(tmp_path / "study", index, pixels=pixels, **split)

    summary, patients = converted()

    (message,) = k24(summary)
    assert "hold the same image" in message
    both = "msk_001 (training) and msk_002 (test) are scans of one patient"
    assert any(both in str(finding) for finding in summary.findings)
    assert any(
        "msk_001 (training) and msk_002 (test)" in str(f) for f in summary.findings
    )
    assert patients["msk_001"] == patients["msk_002"] != patients["msk_003"]


def test_K25_one_code_of_two_persons_is_two_patients(tmp_path, converted):
    write(tmp_path / "study", 1, code="1A")
    write(tmp_path / "study", 2, code="1A")
    write(tmp_path / "study", 3)

    summary, patients = converted()

    (message,) = k24(summary)
    assert "msk_001" in message
    assert "msk_002" in message
    assert len(set(patients.values())) == 3


@pytest.mark.parametrize("who", ["", "ANONYMOUS", "SHARED7"])
def test_identities_of_nobody_leave_the_codes_as_they_are(tmp_path, converted, who):
    for index in range(1, 4):
        write(tmp_path / "study", index, who=who)

    summary, patients = converted()

    assert not k24(summary)
    assert len(set(patients.values())) == 3


def test_check_warns_as_convert_and_a_second_run_keeps_cases_and_warning(
    tmp_path, converted
):
    for index in range(1, 6):
        write(tmp_path / "study", index, who="ZQ1" if index < 3 else None)
    checked = k24(check_study(tmp_path / "study", recipe()))

    first, patients = converted()
    second, again = converted()

    assert checked == k24(first) == k24(second)
    assert patients == again
    assert not any(case.rewritten for case in second.cases)


def test_F13_neither_identity_nor_a_plain_hash_of_it_is_in_any_output(
    tmp_path, converted
):
    from hashlib import md5, sha1, sha256

    write(tmp_path / "study", 1, who="ZQSECRET")
    for index in range(2, 6):
        write(tmp_path / "study", index)

    converted()

    texts = [b"ZQSECRET", b"19310713", b"ZQSECRET19310713", b"ZQSECRET\n19310713"]
    hashes = [
        kind(text).hexdigest()[:16] for kind in (md5, sha1, sha256) for text in texts
    ]
    for file in (tmp_path / "work").rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        if file.suffix == ".gz":
            content = gzip.decompress(content)
        assert not any(text in content for text in texts[:2]), file
        assert not any(known.encode() in content for known in hashes), file
