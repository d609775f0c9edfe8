"""Read a DICOM series: 120 files of 512 x 512, about 110 elements a file."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from limb import Limb
from race import Contender, Facts, Stage, equal, sha256

from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.dicom import read_series, write_series

FILES, MATRIX = 120, 512
_OF_THE_VENDOR = 62
"""Private elements that are added to each file, so that it has about 110."""

_OWN = 10
"""Every so many of them differ from file to file, as counters and times do."""


@dataclass(frozen=True, slots=True)
class _Source:
    """What the source's way keeps: the pixels, each slice by its maximum."""

    normalised: npt.NDArray[np.float64]
    """(slices, rows, columns)"""


def _prepare(limb: Limb, folder: Path) -> Path:
    small = max(limb.shape) < FILES
    volume = limb.image if small else Limb((MATRIX, MATRIX, FILES)).image
    files = write_series(folder, volume, patient_id="NOBODY", description="water")
    for number, file in enumerate(files):
        _add_elements_of_a_vendor(file, number)
    return folder


def _add_elements_of_a_vendor(file: Path, number: int) -> None:
    import pydicom

    dataset = pydicom.dcmread(file)
    block = dataset.private_block(0x0019, "BENCHMARK", create=True)
    values = ("LO", "no patient"), ("DS", ["0.5", "1.25"]), ("IS", "7"), ("UL", 7)
    for place in range(_OF_THE_VENDOR):
        own = ("UL", 1000 * number + place)
        block.add_new(place, *(values[place % len(values)] if place % _OWN else own))
    dataset.save_as(file)


def _in_name_order(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.dcm"))


def _source(folder: Path, _: Path) -> _Source:
    import pydicom

    positions, orientations, spacings, planes = [], [], [], []
    for file in _in_name_order(folder):
        dataset = pydicom.dcmread(file)
        planes.append(dataset.pixel_array / np.max(dataset.pixel_array))
        positions.append(dataset.ImagePositionPatient)
        orientations.append(dataset.ImageOrientationPatient)
        spacings.append(dataset.PixelSpacing)
    return _Source(np.array(planes))


def _pydicom(folder: Path, _: Path) -> npt.NDArray[Any]:
    import pydicom

    planes = [pydicom.dcmread(file).pixel_array for file in _in_name_order(folder)]
    return np.stack(planes).transpose(2, 1, 0)


def _in_place(folder: Path, _: Path) -> npt.NDArray[Any]:
    """Read what a volume needs: the values in the order of their places, and these."""
    import pydicom

    slices = []
    for file in _in_name_order(folder):
        dataset = pydicom.dcmread(file)
        position = np.array(dataset.ImagePositionPatient, dtype=float)
        axes = np.array(dataset.ImageOrientationPatient, dtype=float).reshape(2, 3)
        spacing_mm = np.array(dataset.PixelSpacing, dtype=float)
        slope = float(getattr(dataset, "RescaleSlope", 1.0))
        intercept = float(getattr(dataset, "RescaleIntercept", 0.0))
        pixels = dataset.pixel_array
        if (slope, intercept) != (1.0, 0.0):
            pixels = pixels * slope + intercept
        slices.append((position @ np.cross(*axes), pixels, spacing_mm))
    slices.sort(key=lambda one: one[0])
    return np.stack([pixels for _, pixels, _ in slices]).transpose(2, 1, 0)


def _ours(folder: Path, _: Path) -> Volume:
    return read_series(folder).volume


def _gdcm(folder: Path, _: Path) -> npt.NDArray[Any]:
    import gdcm

    planes = []
    for file in _in_name_order(folder):
        reader = gdcm.ImageReader()
        reader.SetFileName(str(file))
        if not reader.Read():
            raise OSError(file)
        image = reader.GetImage()
        columns, rows = image.GetDimension(0), image.GetDimension(1)
        pixels = image.GetBuffer().encode("utf-8", "surrogateescape")
        planes.append(np.frombuffer(pixels, np.int16).reshape(rows, columns))
    return np.stack(planes).transpose(2, 1, 0)


def _simpleitk(folder: Path, _: Path) -> npt.NDArray[Any]:
    import SimpleITK as sitk  # noqa: N813 - its common name

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    voxels: npt.NDArray[Any] = sitk.GetArrayFromImage(reader.Execute())
    return voxels.transpose(2, 1, 0)


def _dcm2niix(folder: Path, out: Path) -> Path:
    import dcm2niix

    options = ["-z", "n", "-b", "n", "-f", "series", "-o", str(out)]
    subprocess.run([dcm2niix.bin, *options, folder], check=True, capture_output=True)
    return out / "series.nii"


def _facts(result: _Source | Volume | Path | npt.NDArray[Any]) -> Facts:
    """Return a hash of the voxels, each slice by its maximum as the source has it."""
    if isinstance(result, _Source):
        return {"voxels": sha256(result.normalised)}
    voxels = result
    if isinstance(result, Volume):
        voxels = result.voxels
    elif isinstance(result, Path):
        voxels = _towards_left_and_back(result)
    return {"voxels": sha256(np.array([plane / plane.max() for plane in voxels.T]))}


def _towards_left_and_back(file: Path) -> npt.NDArray[Any]:
    """Return the voxels of a NIfTI file with the axes that DICOM files have."""
    import nibabel

    image = nibabel.as_closest_canonical(nibabel.load(file))
    return np.asarray(image.dataobj)[::-1, ::-1]


DICOM = Stage(
    name="read DICOM (120 files)",
    prepare=_prepare,
    baseline=Contender("source: pydicom, file by file, by the maximum", _source),
    ours=Contender("nnunet-bridge", _ours),
    others=(
        Contender("pydicom loop: scaled values in order of place", _in_place),
        Contender("pydicom loop: stored values in order of name", _pydicom),
        Contender("GDCM", _gdcm, needs=("gdcm",)),
        Contender("SimpleITK", _simpleitk, needs=("SimpleITK",)),
        Contender("dcm2niix", _dcm2niix, needs=("dcm2niix",)),
    ),
    target=0.2,
    facts=_facts,
    agree=equal,
)
