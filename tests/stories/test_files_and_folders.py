"""Rows F01 to F14 of the fault matrix, made as a user or a machine makes them."""

import json
import os
import shutil
import subprocess
import sys
from datetime import datetime

import pytest
from dicom_base import base, each, save
from small_study import (
    CONTENT,
    FEMUR,
    MASKS,
    SCANS,
    TIBIA,
    box,
    draw,
    patient,
    recipe,
    scan,
)

from nnunet_bridge.core.errors import EnvironmentFault, InputError
from nnunet_bridge.core.findings import Outcome
from nnunet_bridge.formats import memory
from nnunet_bridge.formats.files import PARTIAL, temporary_name
from nnunet_bridge.formats.manifest import read_manifest
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.pipeline.ingest.convert import check_study, convert_study
from nnunet_bridge.pipeline.training.plan import plan_dataset
from nnunet_bridge.pipeline.training.planned_data import dataset_state

FIRST = "1_AutoBindWATER_650_1A"


@pytest.fixture
def study(tmp_path):
    root = tmp_path / "study"
    patient(root, 1, "1A")
    patient(root, 2, "2B")
    return root


@pytest.fixture
def raw_dir(tmp_path):
    return tmp_path / "work" / "nnUNet_raw"


def record_of(summary, case="msk_001"):
    """Return a case of the manifest, as JSON has it."""
    return read_manifest(summary.dataset_dir).by_case()[case].as_json()


def states(record):
    found = [entry["state"] for entry in record["inputs"]]
    return {state: found.count(state) for state in set(found)}


def mtimes(folder):
    return {file: file.stat().st_mtime_ns for file in sorted(folder.rglob("*"))}


def test_F01_a_loop_and_a_link_out_of_the_scan_are_excluded_and_recorded(
    study, raw_dir, tmp_path
):
    folder = study / SCANS / FIRST
    (folder / "loop").symlink_to(folder.parent)
    save(base(3), tmp_path / "elsewhere")
    (folder / "out.dcm").symlink_to(tmp_path / "elsewhere" / "IM-0000.dcm")

    summary = convert_study(study, recipe(), raw_dir)

    assert summary.exit_code == 0
    record = record_of(summary)
    assert record["outcome"] == "accepted"
    assert states(record) == {"used": 14, "excluded": 2}
    reasons = {entry.get("reason") for entry in record["inputs"]}
    assert reasons == {None, "link that is not followed"}
    assert summary.files == {"found": 30, "used": 28, "excluded": 2, "failed": 0}


def test_F01_a_scan_that_is_a_link_and_a_mask_from_elsewhere_are_left_out(
    study, raw_dir, tmp_path
):
    other = tmp_path / "other"
    patient(other, 3, "3C")
    (study / SCANS / "3_WATER_3C").symlink_to(next((other / SCANS).iterdir()))
    (study / MASKS / "2_fibula_2B.nii.gz").symlink_to(
        other / MASKS / "3_tibia_3C.nii.gz"
    )

    summary = convert_study(study, recipe(), raw_dir)

    assert [case.case_id for case in summary.cases] == ["msk_001", "msk_002"]
    assert [finding.code for finding in summary.findings] == ["F01", "F01"]
    assert "a link to a folder" in summary.findings[0].message
    assert "a link to a file outside the study" in summary.findings[1].message
    unused = read_manifest(summary.dataset_dir).unused
    assert [entry["reason"] for entry in unused] == ["link of no case"] * 2
    assert summary.files["excluded"] == 2


def test_F01_a_patient_s_folder_may_be_a_link_inside_the_study(study, raw_dir):
    folder = study / SCANS / FIRST
    (study / "pool").mkdir()
    folder.rename(study / "pool" / "p1")
    folder.symlink_to("../pool/p1")
    (study / SCANS / "3_WATER_3C").symlink_to(folder)  # the same scan again

    summary = convert_study(study, recipe(), raw_dir)

    assert [case.outcome for case in summary.cases] == [Outcome.ACCEPTED] * 2
    assert [finding.code for finding in summary.findings] == ["F01"]
    assert states(record_of(summary)) == {"used": 14}


def test_F01_scans_in_git_annex_are_converted_again_when_their_content_changes(
    study, raw_dir
):
    folder, store = study / SCANS / FIRST, study / ".git" / "annex" / "objects"
    store.mkdir(parents=True)
    for file in sorted(folder.iterdir()):
        file.rename(store / file.name)
        file.symlink_to(f"../../.git/annex/objects/{file.name}")

    def hashes():
        record = record_of(convert_study(study, recipe(), raw_dir))
        return {entry["sha256"] for entry in record["inputs"]}

    first = hashes()
    (store / file.name).write_bytes((store / file.name).read_bytes()[:-2] + b"\1\0")

    assert len(first) == 14
    assert len(first & hashes()) == 13


def test_F01_a_mask_that_is_a_link_inside_the_study_is_used(study, raw_dir):
    mask = study / MASKS / "1_tibia_1A.nii.gz"
    mask.rename(study / "kept.nii.gz")
    mask.symlink_to(study / "kept.nii.gz")

    assert convert_study(study, recipe(), raw_dir).exit_code == 0


@pytest.mark.parametrize(
    ("code", "fault"), [("case_0001", "F03"), ("x.y", "F02"), ("a_0000", "F03")]
)
def test_F02_F03_a_case_id_that_nnunet_would_misread_is_refused(
    study, raw_dir, code, fault
):
    shape = {"id": 1, "name": "Tibia", "case": "{code}"}
    pattern = r"(?P<index>\d+)_.*650_(?P<code>.+)"
    scan(study, 7, code)

    summary = convert_study(
        study,
        recipe(dataset=shape, scans={"folder": SCANS, "pattern": pattern}),
        raw_dir,
    )

    assert summary.exit_code == 4
    assert summary.cases[2].codes == (fault,)
    record = record_of(summary, "case-7")
    assert record["findings"][0]["code"] == fault
    assert code not in json.dumps(record)


@pytest.mark.parametrize(
    "stray", ["x.tmp123.nii.gz", "._msk_001_0000.nii.gz", "msk_009_0000.nii.gz"]
)
@pytest.mark.parametrize("folder", ["imagesTr", "labelsTr"])
def test_F04_a_stray_file_is_named_by_convert_check_and_refused_by_plan(
    study, raw_dir, stray, folder
):
    dataset = convert_study(study, recipe(), raw_dir).dataset_dir
    (dataset / folder / stray).write_bytes(b"")

    converted = convert_study(study, recipe(), raw_dir)
    checked = check_study(study, recipe(), raw_dir)

    for summary in (converted, checked):
        assert summary.exit_code == 4
        (finding,) = summary.findings
        assert (finding.code, finding.outcome) == ("F04", Outcome.REFUSED)
        assert f"{folder}/{stray}" in finding.message
    with pytest.raises(InputError) as caught:
        plan_dataset(Dataset(Workspace.at(raw_dir.parent), dataset.name))
    assert caught.value.code == "F04"


def test_F05_a_read_only_study_is_converted_and_untouched(study, raw_dir):
    for path in (study, *study.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = mtimes(study)

    summary = convert_study(study, recipe(), raw_dir)

    assert summary.exit_code == 0
    assert mtimes(study) == before
    for path in (study, *study.rglob("*")):
        path.chmod(0o755)


@pytest.mark.parametrize("inside", ["nnUNet_raw", "a/b/nnUNet_raw", SCANS, ""])
def test_F05_output_inside_the_input_stops_convert_and_check_warns(study, inside):
    before = mtimes(study)

    with pytest.raises(InputError) as caught:
        convert_study(study, recipe(), study / inside)
    checked = check_study(study, recipe(), study / inside)

    assert (caught.value.code, caught.value.exit_code) == ("F05", 3)
    assert [f.code for f in checked.findings] == ["F05"]
    assert mtimes(study) == before


def test_F05_a_way_around_by_a_link_is_seen(study, tmp_path):
    (tmp_path / "work").symlink_to(study)

    with pytest.raises(InputError) as caught:
        convert_study(study, recipe(), tmp_path / "work" / "nnUNet_raw")

    assert caught.value.code == "F05"


def dead_process():
    """Return how a process that has ended names its temporary files."""
    code = (
        "from nnunet_bridge.formats.files import temporary_name; "
        "print(temporary_name('msk_001.nii.gz'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_F07_only_leavings_of_the_dead_are_removed_at_the_start(study, raw_dir):
    dataset = convert_study(study, recipe(), raw_dir).dataset_dir
    dead, mine = dead_process(), temporary_name("msk_001.nii.gz")
    number = mine.split(".")[-3].partition("-")[0]
    later = mine.replace(f".{number}-", f".{number}-1")  # the number was given again
    elsewhere = dead.replace(".partial", "").replace(".", ".far-", 1)
    names = (dead, later, mine)
    for folder in ("imagesTr", "labelsTr", "."):
        for name in names:
            (dataset / folder / name).write_bytes(b"half")
    (dataset / "labelsTr" / elsewhere).write_bytes(b"of another name")
    (raw_dir.parent / ".nnunet_bridge" / dead).write_bytes(b"half a key")

    summary = convert_study(study, recipe(), raw_dir)

    left = {f.name for f in raw_dir.parent.rglob(f"*{PARTIAL}")}
    assert left == {mine}
    assert summary.exit_code == 4  # the file that is no temporary is a stray, F04
    assert not any(mine in finding.message for finding in summary.findings)


def test_F07_a_dataset_whose_conversion_was_interrupted_is_not_planned(
    study, raw_dir, monkeypatch
):
    writer = "nnunet_bridge.pipeline.ingest.dataset_writer.DatasetWriter.finish"

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writer, interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert_study(study, recipe(), raw_dir)
    dataset = raw_dir / "Dataset001_Tibia"
    shutil.copy(_description(study, raw_dir), dataset)

    with pytest.raises(InputError, match="was interrupted") as caught:
        plan_dataset(Dataset(Workspace.at(raw_dir.parent), dataset.name))

    assert caught.value.code == "F07"


def _description(study, raw_dir):
    other = convert_study(study, recipe(), raw_dir.parent.parent / "o" / "nnUNet_raw")
    return other.dataset_dir / "dataset.json"


def test_F09_a_changed_mask_makes_plans_stale(study, raw_dir):
    """The state that `plan` notes and `train` compares is that of the files."""
    folder = convert_study(study, recipe(), raw_dir).dataset_dir
    dataset = Dataset(Workspace.at(raw_dir.parent, environment={}), folder.name)
    planned = dataset_state(dataset)
    convert_study(study, recipe(), raw_dir)
    assert dataset_state(dataset) == planned
    draw(study, "2_tibia_2B", box(slice(4, 13)))

    summary = convert_study(study, recipe(), raw_dir)

    assert [c.case_id for c in summary.cases if c.rewritten] == ["msk_002"]
    assert dataset_state(dataset) != planned


def test_F09_R12_a_run_that_changes_nothing_leaves_the_manifests_times(study, raw_dir):
    dataset = convert_study(study, recipe(), raw_dir, force=True).dataset_dir
    before = mtimes(raw_dir)
    manifest = read_manifest(dataset)

    convert_study(study, recipe(), raw_dir)

    assert mtimes(raw_dir) == before
    assert read_manifest(dataset).started == manifest.started
    assert manifest.command == {"name": "convert", "force": True}


def test_F10_a_case_that_memory_cannot_hold_is_refused_and_the_others_go_on(
    study, raw_dir, monkeypatch
):
    large = study / SCANS / FIRST
    shutil.rmtree(large)
    save(base(4, size=2048), large)
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: 80_000_000)

    summary = convert_study(study, recipe(), raw_dir)

    assert summary.exit_code == 4
    assert summary.cases[0].codes == ("F10",)
    figures = "2048 x 2048 x 4 voxels with its masks needs 117 MB of memory, but 80 MB"
    assert figures in summary.cases[0].messages[0]
    assert record_of(summary)["outcome"] == "refused"
    assert record_of(summary)["findings"][0]["code"] == "F10"
    assert record_of(summary, "msk_002")["outcome"] == "accepted"


LIMITED = """
import json, resource, sys
from pathlib import Path
import nibabel, nrrd, scipy.ndimage
from isal import igzip_lib
from nnunet_bridge.formats.recipe import recipe_from
from nnunet_bridge.pipeline.ingest.convert import convert_study
status = Path("/proc/self/status").read_text()
sizes = [line.split()[1] for line in status.splitlines() if "VmSize" in line]
limit = (int(sizes[0]) << 10) + (64 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
summary = convert_study(Path(sys.argv[1]), recipe_from(json.loads(sys.argv[3])),
                        Path(sys.argv[2]))
print(json.dumps({"exit": summary.exit_code, **summary.as_json()}))
"""


def test_F10_a_real_limit_of_memory_is_met_before_it_is_hit(study, raw_dir):
    large = study / SCANS / FIRST
    shutil.rmtree(large)
    save(base(4, size=2048), large)

    done = subprocess.run(
        [sys.executable, "-c", LIMITED, study, raw_dir, json.dumps(CONTENT)],
        check=True,
        capture_output=True,
        text=True,
    )

    answer = json.loads(done.stdout)
    assert answer["exit"] == 4
    assert answer["cases"][0]["codes"] == ["F10"]


def test_F13_a_damaged_key_stops_before_names_are_hashed_with_it(study, raw_dir):
    convert_study(study, recipe(), raw_dir)
    (raw_dir.parent / ".nnunet_bridge" / "key").write_bytes(b"")

    with pytest.raises(EnvironmentFault, match="damaged") as caught:
        convert_study(study, recipe(), raw_dir)

    assert (caught.value.code, caught.value.exit_code) == ("F13", 5)


def test_F14_text_burned_into_the_image_refuses_the_case(study, raw_dir):
    slices = each(base(), BurnedInAnnotation="YES")
    shutil.rmtree(study / SCANS / FIRST)
    save(slices, study / SCANS / FIRST)

    summary = convert_study(study, recipe(), raw_dir)

    assert summary.exit_code == 4
    assert summary.cases[0].codes == ("F14",)
    record = record_of(summary)
    assert record["findings"][0]["code"] == "F14"
    assert states(record) == {"excluded": 14}
    assert not list(summary.dataset_dir.rglob("msk_001*"))


def test_R3_every_file_stands_in_the_manifest_as_used_excluded_or_failed(
    study, raw_dir
):
    (study / SCANS / FIRST / "notes.txt").write_text("x")
    (study / MASKS / "readme.txt").write_text("x")
    scan(study, 9, "strange name")
    folder = scan(study, 5, "5E")
    (folder / "IM-0003.dcm").write_bytes((folder / "IM-0003.dcm").read_bytes()[:500])

    summary = convert_study(study, recipe(), raw_dir)

    manifest = read_manifest(summary.dataset_dir)
    listed = [entry for case in manifest.as_json()["cases"] for entry in case["inputs"]]
    there = sum(file.is_file() for file in study.rglob("*"))
    assert len(listed) + len(manifest.unused) == there == summary.files["found"]
    for state in ("used", "excluded", "failed"):
        number = sum(entry["state"] == state for entry in listed)
        number += len(manifest.unused) if state == "excluded" else 0
        assert number == summary.files[state]
    assert all("reason" in entry for entry in listed if entry["state"] != "used")


FIELDS = {
    "schema", "version", "versions", "command", "started", "ended", "complete",
    "dataset", "options", "unused", "cases",
}  # fmt: skip
CASE_FIELDS = {"person", "evidence"} | {
    "case", "split", "outcome", "findings", "patient", "channels",
    "recipe_sha256", "version", "inputs", "files", "group", "rejected_groups",
    "series", "frame_of_reference",
    "geometry", "contrast", "rescale", "interventions", "region", "masks", "overlaps",
    "content", "ignored_share", "outputs", "pair_sha256",
}  # fmt: skip
MASK_FIELDS = {
    "structure", "side", "source", "state", "read_as", "method", "voxels_before",
    "voxels_after", "voxels_outside", "voxels_overlapping", "volume_change",
}  # fmt: skip
GEOMETRY_FIELDS = {
    "shape", "spacing_mm", "direction", "origin_mm", "frame", "max_position_error_mm",
    "declared_thickness_mm", "declared_spacing_mm", "patient_position",
}  # fmt: skip


def test_the_manifest_has_every_field_that_is_promised(study, raw_dir):
    draw(study, "1_femur_1A", (box(slice(11, 28)) | FEMUR) * 255)
    slices = each(base(), RescaleSlope=2, RescaleIntercept=3)
    shutil.rmtree(study / SCANS / FIRST)
    save(slices, study / SCANS / FIRST)

    summary = convert_study(
        study, recipe(merge={"overlap_limit_percent": 20.0}), raw_dir
    )

    manifest = json.loads((summary.dataset_dir / "manifest.json").read_text())
    record = manifest["cases"][0]
    assert set(manifest) == FIELDS
    assert set(record) == CASE_FIELDS
    assert set(record["geometry"]) == GEOMETRY_FIELDS
    assert all(set(mask) == MASK_FIELDS for mask in record["masks"])
    assert {"python", "numpy", "pydicom", "nibabel", "isal"} <= set(
        manifest["versions"]
    )
    assert manifest["options"]["merge"]["overlap_limit_percent"] == 20
    started, ended = (datetime.fromisoformat(manifest[k]) for k in ("started", "ended"))
    assert started <= ended
    assert started.tzinfo is not None
    assert record["rescale"] == {"slopes": [2.0, 2.0], "intercepts": [3.0, 3.0]}
    assert {(f["code"], f["outcome"]) for f in record["findings"]} >= {
        ("K16", "fixed"),
        ("K06", "fixed"),
    }
    shared = int((TIBIA & box(slice(11, 28))).sum())
    overlapping = {m["structure"]: m["voxels_overlapping"] for m in record["masks"]}
    assert overlapping == {"tibia": {"femur": shared}, "femur": {"tibia": shared}}
    assert all(len(entry["sha256"]) == 64 for entry in record["inputs"])
    assert all(len(entry["name"]) == 16 for entry in record["inputs"])
    assert set(record["outputs"][0]) == {"file", "sha256", "voxels_sha256"}
    assert os.sep not in record["masks"][0]["source"]
