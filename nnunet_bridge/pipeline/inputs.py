"""New images to look at or to predict: DICOM folders, studies of them, NIfTI files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_bridge.core.dataset import checked_case_id
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.findings import Finding
from nnunet_bridge.core.image import Volume

if TYPE_CHECKING:
    from nnunet_bridge.formats.dicom import SourceSlice

SCANS_FOLDER = "Raw DICOM MRI Scans"
"""Where a study keeps one folder of DICOM files a patient."""

NIFTI_ENDINGS = (".nii.gz", ".nii")
_LONGEST_ID = 63


@dataclass(frozen=True, slots=True)
class ImageSource:
    """One image that can be read, and the name its case gets."""

    case_id: str
    path: Path
    """A NIfTI file, or a folder with the DICOM files of one series."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageReading:
    """An image that was read, and what was noticed about it."""

    volume: Volume
    findings: tuple[Finding, ...]

    slices: tuple[SourceSlice, ...] = ()
    """Where slice k of a DICOM series lies on the disk; empty for other images, and
    for a series that was resampled."""

    def sha256(self) -> str:
        """Return a hash of the voxels and of their place."""
        digest = hashlib.sha256(self.volume.grid.affine.tobytes())
        in_file_order: Any = np.asfortranarray(self.volume.voxels).ravel(order="K")
        digest.update(memoryview(in_file_order).cast("B"))
        return digest.hexdigest()


def find_images(paths: Sequence[Path]) -> tuple[ImageSource, ...]:
    """Return the images that the words of a command name.

    Parameters
    ----------
    paths : sequence of Path
        Each a NIfTI file, a folder of NIfTI files, a folder of DICOM files, or a
        folder of such folders (a study).

    Raises
    ------
    InputError
        If a path holds no image, or two images would get the same name.
    """
    sources = [source for path in paths for source in _images_in(path)]
    by_id: dict[str, ImageSource] = {}
    for source in sources:
        twin = by_id.setdefault(source.case_id.casefold(), source)
        if twin is not source:
            raise InputError(
                f"{twin.path} and {source.path} would both be called "
                f"{source.case_id}: predict them into two folders.",
                code="F02",
            )
    return tuple(sources)


def read_image(path: Path, *, image_type: str | None = None) -> ImageReading:
    """Read a NIfTI file, or the DICOM series of a folder with every check.

    Raises
    ------
    Refused
        If the image cannot be trusted; the findings say why.
    """
    if path.is_dir():
        from nnunet_bridge.formats.dicom import SeriesOptions, read_series

        series = read_series(path, SeriesOptions(image_type=image_type))
        return ImageReading(series.volume, series.findings, series.slices)
    from nnunet_bridge.formats.nifti import read_volume

    if not path.exists():
        raise InputError(f"{path} does not exist.")
    return ImageReading(read_volume(path), ())


def _images_in(path: Path) -> list[ImageSource]:
    if path.is_file():
        if not path.name.endswith(NIFTI_ENDINGS):
            raise InputError(
                f"{path} is no NIfTI file (.nii, .nii.gz); for DICOM name its folder."
            )
        return [ImageSource(case_id_of(path), path)]
    if not path.is_dir():
        raise InputError(f"{path} does not exist.")
    nifti = sorted(p for p in path.iterdir() if _is_nifti(p))
    if nifti:
        return [ImageSource(case_id_of(file), file) for file in nifti]
    scans = path / SCANS_FOLDER if (path / SCANS_FOLDER).is_dir() else path
    visible = sorted(p for p in scans.iterdir() if not p.name.startswith("."))
    folders = [p for p in visible if p.is_dir()]
    if folders and not any(p.is_file() for p in visible):
        return [ImageSource(case_id_of(folder), folder) for folder in folders]
    if not visible:
        raise InputError(f"{path} is empty: name a folder with DICOM or NIfTI files.")
    return [ImageSource(case_id_of(path), path)]


def _is_nifti(path: Path) -> bool:
    return (
        path.is_file()
        and path.name.endswith(NIFTI_ENDINGS)
        and not path.name.startswith(".")
    )


def case_id_of(path: Path) -> str:
    """Return a case id made from a file or folder name.

    Examples
    --------
    >>> case_id_of(Path("msk_013_0000.nii.gz")), case_id_of(Path("Anna's left leg"))
    ('msk_013', 'Anna-s-left-leg')
    """
    name = path.absolute().name
    for ending in NIFTI_ENDINGS:
        name = name.removesuffix(ending)
    name = re.sub(r"(_\d{4})+$", "", name) or name
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:_LONGEST_ID]
    return checked_case_id(name or "case")
