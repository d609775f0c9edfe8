"""The files of a predicted case: all there, recorded, and free of identities."""

import csv
import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from dicom_base import base, save
from tiny_model import DATASET, HARMLESS, run_of, write_model

from nnunet_bridge.core.cases import findings_record
from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.findings import Finding, Outcome, Refused
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.formats.dicom.segmentation import Algorithm
from nnunet_bridge.formats.nifti import read_labelmap, write_volume
from nnunet_bridge.formats.slicer import read_segments
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.ops.region import Region
from nnunet_bridge.pipeline.ingest.inputs import read_image
from nnunet_bridge.pipeline.prediction.options import PredictionOptions
from nnunet_bridge.pipeline.prediction.outputs import (
    PredictedImage,
    require_source_slices,
    write_outputs,
)
from nnunet_bridge.pipeline.prediction.predict import predict_images

TABLE = LabelTable.from_names(["tibia_left", "femur_left"])
ALL = PredictionOptions(meshes=True, seg_nrrd=True, dicom_seg=True)


@pytest.fixture
def predicted(tmp_path):
    save(base(), tmp_path / "scan")
    reading = read_image(tmp_path / "scan")
    voxels = np.zeros(reading.volume.grid.shape, np.uint8, order="F")
    voxels[4:12, 8:14, 3:9] = 1
    voxels[20:28, 8:14, 3:9] = 2
    labelmap = Labelmap(reading.volume.grid, voxels, TABLE)
    return PredictedImage(
        *("msk_001", labelmap, reading.volume, None, None, reading.slices),
        Algorithm("2d", "ab"),
    )


def test_R11_the_case_id_is_not_in_the_pixels_of_the_picture(tmp_path, predicted):
    write_outputs(tmp_path / "a", predicted, PredictionOptions())
    write_outputs(
        tmp_path / "b", replace(predicted, case_id="doe_jane"), PredictionOptions()
    )

    one, two = (tmp_path / case / "preview.png" for case in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_every_file_is_recorded_with_its_hash_and_no_other(tmp_path, predicted):
    case = tmp_path / "msk_001"

    written = write_outputs(case, predicted, ALL)

    files = {f.relative_to(case).as_posix(): f for f in case.rglob("*") if f.is_file()}
    assert set(files) == {
        *("labels.nii.gz", "labels.seg.nrrd", "labels.dcm", "preview.png"),
        *("volumes.csv", "meshes/tibia_left.ply", "meshes/femur_left.ply"),
        "meshes/all.ply",
    }
    assert written.outputs == {
        name: hashlib.sha256(file.read_bytes()).hexdigest()
        for name, file in files.items()
    }
    assert written.as_json() == {
        "labels_sha256": written.outputs["labels.nii.gz"],
        "outputs": written.outputs,
    }


def test_the_segmentation_holds_the_labels(tmp_path, predicted):
    write_outputs(tmp_path / "c", predicted, ALL)

    for mask in read_segments(tmp_path / "c" / "labels.seg.nrrd"):
        label = TABLE[mask.name]
        np.testing.assert_array_equal(mask.voxels, predicted.seen.mask(label))
        assert mask.grid.matches(predicted.seen.grid, tolerance_mm=1e-9)


def test_volumes_csv_lists_every_structure_with_its_side(tmp_path, predicted):
    write_outputs(tmp_path / "c", predicted, PredictionOptions())

    with (tmp_path / "c" / "volumes.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["case"], r["structure"], r["side"]) for r in rows] == [
        ("msk_001", "tibia_left", "left"),
        ("msk_001", "femur_left", "left"),
    ]
    expected = 8 * 6 * 6 * 0.75 * 0.75 * 4
    assert [float(row["volume_mm3"]) for row in rows] == pytest.approx([expected] * 2)


def test_files_that_are_no_longer_requested_are_removed(tmp_path, predicted):
    write_outputs(tmp_path / "c", predicted, ALL)

    written = write_outputs(tmp_path / "c", predicted, PredictionOptions())

    assert set(written.outputs) == {"labels.nii.gz", "preview.png", "volumes.csv"}
    assert not (tmp_path / "c" / "labels.dcm").exists()


def test_a_case_of_a_cropped_image_gets_labels_on_the_whole_scan_too(
    tmp_path, predicted
):
    grid = predicted.seen.grid
    affine = grid.affine.copy()
    affine[:3, 3] -= 2 * affine[:3, 2]
    scan = Grid((*grid.shape[:2], grid.shape[2] + 5), affine)
    region = Region(2, 2 + grid.shape[2], scan)

    written = write_outputs(
        tmp_path / "c", replace(predicted, region=region), PredictionOptions()
    )

    file = tmp_path / "c" / "labels_whole_scan.nii.gz"
    whole = read_labelmap(file, TABLE)
    assert whole.grid.matches(scan)
    np.testing.assert_array_equal(whole.voxels[:, :, 2:-3], predicted.seen.voxels)
    assert not whole.voxels[:, :, :2].any()
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert written.as_json()["whole_scan_sha256"] == sha256
    write_outputs(tmp_path / "c", predicted, PredictionOptions())
    assert not file.exists()


def test_only_dicom_seg_contains_the_name_of_the_patient(tmp_path, predicted):
    written = write_outputs(tmp_path / "c", predicted, ALL)

    named = {
        name
        for name in written.outputs
        if b"DOE" in (tmp_path / "c" / name).read_bytes()
    }
    assert named == {"labels.dcm"}


def test_a_record_of_findings_holds_no_name_of_a_file():
    finding = Finding("D14", Outcome.WARNED, "The first is “DOE_JANE.txt”, of “x”.")

    (record,) = findings_record([finding])

    assert record == {
        "code": "D14",
        "outcome": "warned",
        "message": "The first is a file, of a file.",
    }
    json.dumps(record)


def test_a_resampled_series_is_refused_before_anything_is_predicted():
    with pytest.raises(Refused, match="leave out --dicom-seg"):
        require_source_slices(())


def test_a_dicom_seg_of_a_nifti_file_is_a_usage_error(tmp_path):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "runs"):
        (tmp_path / name).mkdir()
    workspace = Workspace.at(tmp_path, {})
    write_model(run_of(workspace), HARMLESS)
    image = tmp_path / "a.nii.gz"
    write_volume(image, Volume(Grid((4, 4, 4), np.eye(4)), np.zeros((4, 4, 4), "i2")))

    with pytest.raises(UsageError, match="--dicom-seg needs a DICOM series"):
        predict_images(
            Dataset(workspace, DATASET),
            [image],
            tmp_path / "out",
            PredictionOptions(dicom_seg=True),
        )
    assert not (tmp_path / "out").exists()
