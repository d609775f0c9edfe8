"""DICOM SEG beside its series: read back by pydicom alone, placed frame by frame."""

from itertools import pairwise

import numpy as np
import pydicom
import pytest
from dicom_base import base, each, enhanced, save

from nnunet_bridge.core.findings import Outcome, Refused
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.formats.dicom import SeriesOptions, read_series
from nnunet_bridge.formats.dicom.segmentation import (
    Algorithm,
    read_dicom_seg,
    write_dicom_seg,
)

TABLE = LabelTable.from_names(["femur_left", "tibia_right", "absent", "widget"])
MODEL = Algorithm("2d, nnunet, full", "ab" * 32)
TILTED = (0.8, 0.6, 0, 0, 0, -1)


def labels_on(grid):
    """Return labels in boxes that no flip and no swap of axes leaves alone."""
    i, j, k = grid.shape
    voxels = np.zeros(grid.shape, np.uint8, order="F")
    voxels[i // 4 : i // 2, j // 4 : j // 2 + 3, : k // 2] = 1
    voxels[i // 2 :, 1 : j // 3, k // 3 :] = 2
    voxels[0, 0, 0] = voxels[-1, -1, -1] = 4
    return Labelmap(grid, voxels, TABLE)


def placed_by_pydicom(file, grid):
    """Return the voxels of a SEG on a grid, from its frames' own positions."""
    seg = pydicom.dcmread(file)
    to_index = np.linalg.inv(grid.affine)
    voxels = np.zeros(grid.shape, np.uint8)
    shared = seg.SharedFunctionalGroupsSequence[0]
    turn = np.array(
        shared.PlaneOrientationSequence[0].ImageOrientationPatient, float
    ).reshape(2, 3)
    between_rows, between_columns = map(
        float, shared.PixelMeasuresSequence[0].PixelSpacing
    )
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    for frame, group in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        first = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(frame)
        mm = (
            first
            + np.outer(columns * between_columns, turn[0])
            + np.outer(rows * between_rows, turn[1])
        )
        index = mm @ to_index[:3, :3].T + to_index[:3, 3]
        np.testing.assert_allclose(index, index.round(), atol=0.01)
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        voxels[tuple(index.round().astype(int).T)] = number
    return voxels


SERIES = {
    "plain": base,
    "tilted": lambda: base(iop=TILTED),
    "shuffled": lambda: sorted(base(), key=lambda ds: (ds.InstanceNumber * 5) % 12),
    "enhanced": lambda: [enhanced(base())],
    "enhanced, frames upside down": lambda: [enhanced(base()[::-1])],
}


@pytest.fixture(params=SERIES)
def series(request, tmp_path):
    save(SERIES[request.param](), tmp_path / "in")
    return read_series(tmp_path / "in")


def test_every_voxel_lies_where_it_was_by_an_independent_reader(series, tmp_path):
    labelmap = labels_on(series.volume.grid)

    write_dicom_seg(tmp_path / "seg.dcm", labelmap, series.slices, MODEL)

    np.testing.assert_array_equal(
        placed_by_pydicom(tmp_path / "seg.dcm", labelmap.grid), labelmap.voxels
    )
    np.testing.assert_array_equal(
        read_dicom_seg(tmp_path / "seg.dcm", labelmap.grid), labelmap.voxels
    )


@pytest.mark.parametrize(
    ("folder", "options"),
    [
        ("headerless_HCropVolume", SeriesOptions()),
        ("ico_ge_sag", SeriesOptions()),
        ("ico_philips_enhanced", SeriesOptions()),
        ("siemens_axial_obl_T1post", SeriesOptions()),
        ("siemens_gre_2echo", SeriesOptions(echo=2)),
    ],
)
def test_a_real_series_gets_its_segmentation(test_data, tmp_path, folder, options):
    series = read_series(test_data / "dicom" / folder, options)
    labelmap = labels_on(series.volume.grid)

    findings = write_dicom_seg(tmp_path / "seg.dcm", labelmap, series.slices, MODEL)

    np.testing.assert_array_equal(
        placed_by_pydicom(tmp_path / "seg.dcm", labelmap.grid), labelmap.voxels
    )
    lacks_a_frame = any("Frame of Reference" in str(finding) for finding in findings)
    assert lacks_a_frame == folder.startswith("ico")


@pytest.fixture
def plain(tmp_path):
    save(base(), tmp_path / "in")
    return read_series(tmp_path / "in")


PLANTED = {
    "PatientComments": "lives at 12 Elm St", "OtherPatientNames": "DOE^JUNE",
    "PatientAddress": "12 Elm St", "StudyDescription": "Knee of J. Doe",
    "SeriesDescription": "WATER Doe", "ProtocolName": "Doe", "StationName": "ROOM-DOE",
    "InstitutionName": "Doe Clinic", "ImageComments": "Doe", "Occupation": "judge",
    "AdditionalPatientHistory": "fell", "OperatorsName": "ROE", "EthnicGroup": "x",
    "PerformingPhysicianName": "ROE", "RequestedProcedureDescription": "Doe's knee",
    "AdmittingDiagnosesDescription": "fracture", "PatientMotherBirthName": "MOE",
}  # fmt: skip


@pytest.mark.parametrize("form", [lambda s: s, lambda s: [enhanced(s)]])
def test_R11_no_free_text_of_the_source_gets_into_the_file(tmp_path, form):
    slices = form(base())
    for ds in slices:
        for keyword, text in PLANTED.items():
            setattr(ds, keyword, text)
        other = pydicom.Dataset()
        other.PatientID = "PLANTED-ID"
        ds.OtherPatientIDsSequence = [other]
        ds.add_new(0x00091001, "LO", "PRIVATE-DOE")
        ds.PatientName, ds.ReferringPhysicianName = "DOE^JANE", "REFERRER"
    save(slices, tmp_path / "in")
    series = read_series(tmp_path / "in")
    labelmap = labels_on(series.volume.grid)

    write_dicom_seg(tmp_path / "seg.dcm", labelmap, series.slices, MODEL)

    seg, content = pydicom.dcmread(tmp_path / "seg.dcm"), (tmp_path / "seg.dcm")
    found = [text for text in PLANTED.values() if text.encode() in content.read_bytes()]
    assert [text for text in found if len(text) > 1] == []
    assert b"PLANTED-ID" not in content.read_bytes()
    assert b"PRIVATE-DOE" not in content.read_bytes()
    assert (seg.PatientName, seg.ReferringPhysicianName) == ("DOE^JANE", "REFERRER")


@pytest.fixture
def seg(plain, tmp_path):
    labelmap = labels_on(plain.volume.grid)
    write_dicom_seg(tmp_path / "seg.dcm", labelmap, plain.slices, MODEL)
    return pydicom.dcmread(tmp_path / "seg.dcm")


def test_the_file_refers_to_every_slice_and_bears_its_patient(plain, seg):
    source = pydicom.dcmread(plain.slices[0].file)

    referred = seg.ReferencedSeriesSequence[0]
    assert referred.SeriesInstanceUID == source.SeriesInstanceUID
    assert {
        r.ReferencedSOPInstanceUID for r in referred.ReferencedInstanceSequence
    } == {pydicom.dcmread(s.file).SOPInstanceUID for s in plain.slices}
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID"):
        assert seg[keyword].value == source[keyword].value
    assert seg.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID


def test_segments_have_names_colours_codes_and_their_algorithm(seg):
    femur, tibia, absent, widget = seg.SegmentSequence

    assert femur.SegmentLabel == "femur_left"
    (kind,) = femur.SegmentedPropertyTypeCodeSequence
    assert (kind.CodeValue, kind.CodeMeaning) == ("71341001", "Femur")
    (side,) = kind.SegmentedPropertyTypeModifierCodeSequence
    assert side.CodeMeaning == "Left"
    assert absent.SegmentNumber == 3
    assert widget.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"
    assert tibia.RecommendedDisplayCIELabValue != femur.RecommendedDisplayCIELabValue
    (algorithm,) = femur.SegmentationAlgorithmIdentificationSequence
    assert algorithm.AlgorithmName == "nnunet-bridge"
    assert "ab" * 32 in str(algorithm.AlgorithmParameters)


def test_an_empty_labelmap_gets_no_file_and_says_so(plain, tmp_path):
    nothing = Labelmap(
        plain.volume.grid, np.zeros(plain.volume.grid.shape, np.uint8), TABLE
    )

    (finding,) = write_dicom_seg(tmp_path / "seg.dcm", nothing, plain.slices, MODEL)

    assert finding.outcome is Outcome.WARNED
    assert not (tmp_path / "seg.dcm").exists()


def test_a_resampled_series_is_refused(tmp_path):
    heights = np.array([0, 4, 8, 12.4, 16, 20, 24, 28])
    save(base(n=8, zs=heights), tmp_path / "in")
    series = read_series(tmp_path / "in", SeriesOptions(resample="uneven"))

    with pytest.raises(Refused, match="do not lie on the slices"):
        write_dicom_seg(
            tmp_path / "seg.dcm", labels_on(series.volume.grid), series.slices, MODEL
        )
    assert not (tmp_path / "seg.dcm").exists()


def test_a_series_without_uids_is_refused_by_name(plain, tmp_path):
    for one in plain.slices:
        source = pydicom.dcmread(one.file)
        del source.StudyInstanceUID
        source.save_as(one.file)

    with pytest.raises(Refused, match="has no StudyInstanceUID"):
        write_dicom_seg(
            tmp_path / "seg.dcm", labels_on(plain.volume.grid), plain.slices, MODEL
        )


def test_a_segmentation_that_lies_elsewhere_is_no_proof(plain, seg, tmp_path):
    for group in seg.PerFrameFunctionalGroupsSequence:
        group.PlanePositionSequence[0].ImagePositionPatient[0] += 0.2
    seg.save_as(tmp_path / "moved.dcm")

    with pytest.raises(Refused, match="do not lie on the slices"):
        read_dicom_seg(tmp_path / "moved.dcm", plain.volume.grid)


def test_the_same_labels_have_the_same_identity_and_others_another(plain, tmp_path):
    labelmap = labels_on(plain.volume.grid)
    other = labelmap.with_voxels(np.asfortranarray(labelmap.voxels[:, ::-1]))
    uids = []
    for one in (labelmap, labelmap, other):
        write_dicom_seg(tmp_path / "seg.dcm", one, plain.slices, MODEL)
        uids.append(pydicom.dcmread(tmp_path / "seg.dcm").SOPInstanceUID)

    assert [a == b for a, b in pairwise(uids)] == [True, False]


def test_a_name_in_another_character_set_survives(tmp_path):
    slices = each(base(), SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg")
    save(slices, tmp_path / "in")
    series = read_series(tmp_path / "in")

    write_dicom_seg(
        tmp_path / "seg.dcm", labels_on(series.volume.grid), series.slices, MODEL
    )

    assert str(pydicom.dcmread(tmp_path / "seg.dcm").PatientName) == "Müller^Jörg"
