"""Write a volume as a single-frame MR series, for the demo and for tests."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.files import open_to_write, whole_file

_UNKNOWN = (
    *("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator"),
    *("ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTrainLength"),
)
"""Attributes that an MR image must have but may leave empty (type 2, PS3.3 A.4)."""


def write_series(
    folder: Path,
    volume: Volume,
    *,
    patient_id: str,
    description: str,
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "DIXON", "WATER"),
    series_number: int = 6,
) -> tuple[Path, ...]:
    """Write ``IM-0006-0001.dcm`` and so on, one file for each slice.

    UIDs are derived from the arguments and the voxels: the same volume gives the same
    files, byte for byte. Voxels are (I, J, K) whole numbers that fit int16; slices run
    along k. The patient is made up: this function is not for patient data.

    Raises `InputError` if the voxels are not whole numbers of 16 bits.
    """
    stored = _as_int16(volume)
    digest = hashlib.sha256(stored.tobytes()).hexdigest()
    seeds = [patient_id, description, str(series_number), digest, *image_type]
    common = _common(volume, seeds)
    common.PatientID = common.PatientName = patient_id
    common.SeriesDescription, common.SeriesNumber = description, series_number
    common.ImageType, common.EchoTime = list(image_type), 2.46
    files = []
    for k in range(volume.grid.shape[2]):
        dataset = _slice(common, volume, k, seeds)
        dataset.PixelData = np.ascontiguousarray(stored[:, :, k].T).tobytes()
        file = folder / f"IM-{series_number:04d}-{k + 1:04d}.dcm"
        with whole_file(file) as temporary, open_to_write(temporary) as stream:
            dataset.save_as(stream, enforce_file_format=True)
        files.append(file)
    return tuple(files)


def _as_int16(volume: Volume) -> npt.NDArray[np.int16]:
    limits = np.iinfo(np.int16)
    voxels: npt.NDArray[Any] = volume.voxels
    low, high = voxels.min(), voxels.max()
    whole = np.array_equal(voxels, np.rint(voxels))
    if low < limits.min or high > limits.max or not whole:
        raise InputError("A synthetic series holds whole numbers of 16 bits.")
    return voxels.astype(np.dtype("<i2"), copy=False)


def _common(volume: Volume, seeds: list[str]) -> Dataset:
    """Return the attributes that all slices share."""
    columns, rows, _ = volume.grid.shape
    column_spacing, row_spacing, slice_spacing = map(float, volume.grid.spacing_mm)
    axes = volume.grid.affine[:3, :2] / volume.grid.spacing_mm[:2]
    dataset = Dataset()
    dataset.SOPClassUID, dataset.Modality = MRImageStorage, "MR"
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[*seeds, "study"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[*seeds, "series"])
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=[*seeds, "frame"])
    dataset.Manufacturer, dataset.PatientPosition = "SYNTHETIC", "HFS"
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "Synthetic: there is no patient"
    dataset.ScanningSequence, dataset.SequenceVariant = "RM", "NONE"
    for keyword in _UNKNOWN:
        setattr(dataset, keyword, None)
    dataset.EchoNumbers, dataset.AcquisitionNumber = 1, 1
    dataset.ImageOrientationPatient = [_decimal(x) for x in axes.T.ravel()]
    dataset.PixelSpacing = [_decimal(row_spacing), _decimal(column_spacing)]
    dataset.SliceThickness = _decimal(slice_spacing)
    dataset.SpacingBetweenSlices = _decimal(slice_spacing)
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 1
    return dataset


def _slice(common: Dataset, volume: Volume, k: int, seeds: list[str]) -> Dataset:
    dataset = Dataset()
    dataset.update(common)
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[*seeds, f"slice {k}"])
    dataset.InstanceNumber = k + 1
    position = volume.grid.to_patient([0, 0, k])
    dataset.ImagePositionPatient = [_decimal(x) for x in position]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def _decimal(number: float) -> str:
    """Return a number as a Decimal String, PS3.5 section 6.2.

    Rounding removes the noise of a computed cosine, adding 0.0 the sign of -0.0.
    """
    return format_number_as_ds(round(float(number), 10) + 0.0)
