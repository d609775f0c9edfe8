"""The base stack of the fault matrix: asymmetric, so that flips and shuffles show.

Slice k has the value ``100 + 10 k + (column % 7)``, and a block of 2000 at rows 2-5,
columns 2-9. `expected` is the array that a reader must give.
"""

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

AXIAL = (1, 0, 0, 0, 1, 0)
FIRST = (-12, -12, -100)


def pixels(k, size=32):
    """Return the (rows, columns) stored values of slice k."""
    values = (np.full((size, size), 100 + 10 * k) + np.arange(size) % 7).astype("<u2")
    values[2:6, 2:10] = 2000
    return values


def expected(n=12, size=32):
    """Return the (i, j, k) values of the stack."""
    return np.stack([pixels(k, size).T for k in range(n)], axis=-1)


def base(n=12, *, size=32, px=(0.75, 0.75), dz=4.0, iop=AXIAL, zs=None, **other):
    """Return the datasets of one stack; stacks that share `uids` are one series."""
    study, series, frame = other.get("uids") or new_uids()
    row, column = np.array(iop[:3], float), np.array(iop[3:], float)
    heights = [k * dz for k in range(n)] if zs is None else zs
    shear = np.array(other.get("shear", (0, 0, 0)), float)
    slices = []
    for k, z in enumerate(heights):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.PatientName, ds.PatientID, ds.Modality = "DOE^JANE", "P1", "MR"
        ds.PatientBirthDate = "19520229"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
        ds.FrameOfReferenceUID = frame
        ds.SeriesNumber, ds.InstanceNumber, ds.SeriesDescription = 6, k + 1, "WATER"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
        ds.EchoTime, ds.EchoNumbers = 2.46, 1
        position = np.array(FIRST) + np.cross(row, column) * z + shear * z / dz
        ds.ImageOrientationPatient = [float(v) for v in iop]
        ds.ImagePositionPatient = [float(f"{v:.8f}") for v in position]
        ds.PixelSpacing, ds.SliceThickness = list(px), dz
        ds.Rows = ds.Columns = size
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
        ds.PixelRepresentation = 0
        ds.PixelData = pixels(k, size).tobytes()
        slices.append(ds)
    return slices


def each(slices, **attributes):
    """Set attributes of every slice; return the slices."""
    for ds in slices:
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
    return slices


def new_uids():
    """Return UIDs of a study, a series and a frame of reference."""
    return generate_uid(), generate_uid(), generate_uid()


def save(slices, folder, *, prefix="IM", names=None):
    """Write every dataset; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, ds in enumerate(slices):
        name = names[number] if names else f"{prefix}-{number:04d}.dcm"
        ds.save_as(folder / name, enforce_file_format=True)
        files.append(folder / name)
    return files


def enhanced(slices):
    """Return one multi-frame Enhanced MR image that holds the slices as its frames."""
    first = slices[0]
    whole = Dataset()
    whole.file_meta = FileMetaDataset()
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    whole.SOPInstanceUID = generate_uid()
    whole.file_meta.MediaStorageSOPInstanceUID = whole.SOPInstanceUID
    whole.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword in (
        *("PatientName", "PatientID", "Modality", "StudyInstanceUID"),
        *("SeriesInstanceUID", "FrameOfReferenceUID", "SeriesNumber", "ImageType"),
        *("InstanceNumber", "SeriesDescription", "Rows", "Columns", "SamplesPerPixel"),
        *("PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit"),
        "PixelRepresentation",
    ):
        setattr(whole, keyword, getattr(first, keyword))
    whole.NumberOfFrames = len(slices)
    whole.SharedFunctionalGroupsSequence = [Dataset()]
    whole.PerFrameFunctionalGroupsSequence = [_frame(ds) for ds in slices]
    whole.PixelData = b"".join(ds.PixelData for ds in slices)
    return whole


def _frame(ds):
    place, turn, sizes, groups = Dataset(), Dataset(), Dataset(), Dataset()
    place.ImagePositionPatient = ds.ImagePositionPatient
    turn.ImageOrientationPatient = ds.ImageOrientationPatient
    sizes.PixelSpacing, sizes.SliceThickness = ds.PixelSpacing, ds.SliceThickness
    groups.PlanePositionSequence = [place]
    groups.PlaneOrientationSequence = [turn]
    groups.PixelMeasuresSequence = [sizes]
    return groups
