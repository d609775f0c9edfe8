"""Read grid, type and segments of an image or mask file, but not its voxels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_bridge.core.errors import BridgeError, InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.formats.nifti import read_grid_and_type
from nnunet_bridge.formats.slicer import (
    grid_of_itk,
    read_nrrd_header,
    read_values,
)


@dataclass(frozen=True, slots=True, eq=False)
class VolumeHeader:
    """The header of an image or mask file."""

    grid: Grid | None  # None if the file does not say where it lies
    kind: np.dtype[Any]  # of the voxels as stored
    segments: tuple[str, ...] = ()
    """Names of the segments of a segmentation, in the order of the file."""


def read_volume_header(file: Path) -> VolumeHeader:
    """Return the header of a file.

    Raises `InputError` if the file cannot be read or is not one image in space.
    """
    try:
        name = file.name.lower()
        if name.endswith((".nii", ".nii.gz", ".hdr")):
            return VolumeHeader(*read_grid_and_type(file))
        if name.endswith((".mgz", ".mgh")):
            grid, voxels, _ = read_values(file)
            return VolumeHeader(grid, voxels.dtype)
        if name.endswith((".nrrd", ".nhdr")):
            found = read_nrrd_header(file)
            return VolumeHeader(found.grid, found.kind, found.segments)
        return _of_meta_image(file)
    except OSError as error:
        raise InputError(f"{file.name} cannot be read: {error.strerror}.") from error
    except BridgeError as error:
        if error.code != "K11":
            raise
        return VolumeHeader(
            None, np.dtype(np.uint8)
        )  # it may be a mask without a place


def _of_meta_image(file: Path) -> VolumeHeader:
    import SimpleITK

    sitk: Any = SimpleITK  # its functions have no types
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{file.name} is not a readable MetaImage file.") from error
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:  # noqa: PLR2004 - space has three axes
        raise InputError(f"{file.name} is not one 3-D image.")
    words = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    kind = "f4" if "float" in words else "u1" if "8-bit" in words else "i4"
    return VolumeHeader(grid_of_itk(file.name, reader), np.dtype(kind))
