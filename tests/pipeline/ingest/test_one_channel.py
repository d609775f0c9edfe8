"""A dataset with one channel is what it was before datasets could have several."""

import gzip
import hashlib
import json
from pathlib import Path

from dicom_base import base
from small_study import FEMUR, TIBIA, draw, recipe, scan

from nnunet_bridge.formats.manifest import KEY_FOLDER
from nnunet_bridge.pipeline.ingest.convert import convert_study

GOLDEN = Path(__file__).parents[2] / "golden" / "one_channel.json"
OF_THE_RUN = ("version", "versions", "started", "ended")


def fixed(index):
    """Return slices whose identifiers are the same in every run."""
    slices = base(uids=[f"1.2.{index}.{n}" for n in (1, 2, 3)])
    for k, ds in enumerate(slices):
        ds.SOPInstanceUID = f"1.2.{index}.4.{k}"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.PatientID = f"P{index}"
        ds.PixelData = bytes([99 + index, 0]) + ds.PixelData[2:]
    return slices


def described(dataset_dir):
    """Return files and manifest, without what differs from run to run."""
    files = {}
    for file in sorted(dataset_dir.rglob("*.nii.gz")):
        content = gzip.decompress(file.read_bytes())
        digest = hashlib.sha256(content).hexdigest()
        files[file.relative_to(dataset_dir).as_posix()] = digest
    described = json.loads((dataset_dir / "dataset.json").read_text())
    manifest = json.loads((dataset_dir / "manifest.json").read_text())
    del described["converted_by"]
    for record in (manifest, *manifest["cases"]):
        for key in OF_THE_RUN:
            record.pop(key, None)
    for case in manifest["cases"]:
        del case["pair_sha256"]
        case["inputs"] = [f"{one['name']} {one['state']}" for one in case["inputs"]]
        for output in case["outputs"]:
            del output["sha256"]  # of the compressed file
    return {"files": files, "dataset": described, "manifest": manifest}


def test_files_description_and_manifest_are_those_of_the_version_before(tmp_path):
    study, work = tmp_path / "study", tmp_path / "work"
    key = work / KEY_FOLDER / "key"
    key.parent.mkdir(parents=True)
    key.write_bytes(bytes(32))
    for index in (1, 2):
        scan(study, index, f"{index}A", fixed(index))
        draw(study, f"{index}_tibia_{index}A", TIBIA)
        draw(study, f"{index}_femur_{index}A", FEMUR)

    convert_study(study, recipe(), work / "nnUNet_raw")

    found = described(work / "nnUNet_raw" / "Dataset001_Tibia")
    assert found == json.loads(GOLDEN.read_text())
