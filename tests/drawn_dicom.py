"""DICOM SEG and RTSTRUCT as other programs write them: by highdicom and by pydicom."""

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

REQUIRED = ("PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime")


def completed(slices):
    """Add the empty elements that highdicom copies."""
    for one in slices:
        for name in REQUIRED:
            setattr(one, name, None)
    return slices


def write_seg(file, slices, labels, names, kind="BINARY", **more):
    """Write (I, J, K) labels, or (I, J, K) probabilities, on the slices in their order.

    Returns the file.
    """
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.Bone,
            algorithm_type="MANUAL",
        )
        for number, name in enumerate(names, start=1)
    ]
    frames = np.ascontiguousarray(labels.transpose(2, 1, 0))
    file.parent.mkdir(parents=True, exist_ok=True)
    hd.seg.Segmentation(
        source_images=slices,
        pixel_array=frames[..., None] if kind == "FRACTIONAL" else frames,
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=9,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
        **more,
    ).save_as(file)
    return file


def write_structures(file, slices, contours):
    """Write a structure set of contours by name, each (P, 3) in mm; return the file."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.Modality, ds.PatientID = "RTSTRUCT", slices[0].PatientID
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = slices[0].SeriesInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = slices[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    ds.ReferencedFrameOfReferenceSequence = [frame]
    ds.StructureSetROISequence, ds.ROIContourSequence = [], []
    for number, (name, own) in enumerate(contours.items(), start=4):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber = drawn.ReferencedROINumber = number
        roi.ROIName, drawn.ContourSequence = name, []
        for points in own:
            contour = Dataset()
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [f"{x:.4f}" for x in np.ravel(points)]
            drawn.ContourSequence.append(contour)
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(drawn)
    file.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(file, enforce_file_format=True)
    return file
