"""DICOM SEG and RTSTRUCT among and beside scans: found, paired, converted."""

import highdicom as hd
import nibabel
import numpy as np
import pytest
from command import bridge
from dicom_base import base, new_uids, save
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from small_study import AFFINE, FEMUR, TIBIA

from nnunet_bridge.formats.case_table import read_case_table

NAMES = ("Femur L", "Schienbein rechts")
DRAWN = (FEMUR, TIBIA)


def series(folder, patient, *, number=6, count=12, names=None, uids=None):
    slices = base(n=count, uids=uids or new_uids())
    for one in slices:
        one.PatientID, one.SeriesNumber = patient, number
        one.PatientSex = one.AccessionNumber = one.StudyID = None
        one.StudyDate = one.StudyTime = None
        one.PixelData = bytes([number, len(patient)]) + one.PixelData[2:]
    save(slices, folder, names=names)
    return slices


def segmentation(slices, file):
    """Write a SEG of the two bones."""
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.Bone,
            algorithm_type="MANUAL",
        )
        for number, name in enumerate(NAMES, start=1)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    hd.seg.Segmentation(
        source_images=slices,
        pixel_array=np.ascontiguousarray((FEMUR + 2 * TIBIA).transpose(2, 1, 0)),
        segmentation_type="BINARY",
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=9,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
    ).save_as(file)


def structures(slices, file):
    """Write a structure set of the two bones, whose masks are boxes."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.PatientID, ds.Modality = slices[0].PatientID, "RTSTRUCT"
    of, study, frame = Dataset(), Dataset(), Dataset()
    of.SeriesInstanceUID = slices[0].SeriesInstanceUID
    study.RTReferencedSeriesSequence = [of]
    frame.FrameOfReferenceUID = slices[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    ds.ReferencedFrameOfReferenceSequence = [frame]
    ds.StructureSetROISequence, ds.ROIContourSequence = [], []
    for number, (name, mask) in enumerate(zip(NAMES, DRAWN, strict=True), start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber = drawn.ReferencedROINumber = number
        roi.ROIName, drawn.ContourSequence = name, []
        low, high = np.argwhere(mask).min(0) - 0.4, np.argwhere(mask).max(0) + 0.4
        for k in np.unique(np.nonzero(mask)[2]):
            ends = ((low[0], low[1]), (high[0], low[1]), (high[0], high[1]))
            corners = np.array([(*end, k) for end in (*ends, (low[0], high[1]))])
            contour = Dataset()
            contour.ContourGeometricType = "CLOSED_PLANAR"
            mm = corners @ AFFINE[:3, :3].T + AFFINE[:3, 3]
            contour.ContourData = [f"{x:.3f}" for x in mm.ravel()]
            contour.NumberOfContourPoints = 4
            drawn.ContourSequence.append(contour)
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(drawn)
    file.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(file, enforce_file_format=True)


@pytest.mark.parametrize("write", [segmentation, structures])
def test_init_pairs_dicom_drawings_by_their_series_and_convert_reads_them(
    write, tmp_path
):
    study = tmp_path / "study"
    anna, bert, carl = study / "anna", study / "bert" / "mr", study / "carl"
    # Among the slices, named like one; fewer files are sampled than there are.
    own = series(anna, "P1", names=[f"IM{k:03d}" for k in range(12)])
    write(own, anna / "IM0051")
    # Of another folder than all others: only its reference tells whose it is.
    other = series(bert, "PP2")
    write(other, study / "drawn" / "x17.dcm")
    # Of the shorter of two series: it is chosen, because the drawing refers to it.
    series(carl / "long", "PPP3", number=3, count=15)
    short = series(carl / "short", "PPP3", number=4)
    write(short, carl / "y.dcm")

    message = bridge("init", study, "-o", tmp_path / "dataset.toml", "--json")
    words = ("-r", tmp_path / "dataset.toml", "-w", tmp_path / "work", "--json")
    result = bridge("convert", study, *words, check=False)

    assert result.exit_code == 0, result.output
    rows = read_case_table(tmp_path / "cases.csv")
    assert '"unused": []' in message.stdout, message.stdout
    found = {(r.case, r.file, r.value) for r in rows if r.role == "segmentation"}
    files = ("anna/IM0051", "drawn/x17.dcm", "carl/y.dcm")
    by_file = {row.file: row.case for row in rows}
    cases = [by_file[file] for file in files]
    assert found == {
        (case, file, n) for case, file in zip(cases, files, strict=True) for n in (1, 2)
    }
    images = {r.case: r.file for r in rows if r.role == "image"}
    assert [images[case] for case in cases] == ["anna", "bert/mr", "carl/short"]
    (dataset,) = (tmp_path / "work" / "nnUNet_raw").iterdir()
    for case in cases:
        labels = nibabel.load(dataset / "labelsTr" / f"{case}.nii.gz")
        turned = np.asarray(labels.dataobj)
        np.testing.assert_array_equal(turned, TIBIA + 2 * FEMUR)
