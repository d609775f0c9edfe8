"""NIfTI files: read with every doubt cleared, written so that they can be trusted.

NIfTI is RAS+ and this package LPS+; the conversion is here and nowhere else. Voxels
keep their order in the file, so an image that is read and written again has the same
bytes of pixels.

Reading inflates a ``.nii.gz`` to its end and checks CRC and length first: SimpleITK
reads a truncated file as zeros without a word (FAULTS K19). Writing reads the file
back and compares every voxel before the file gets its final name (FAULTS R7).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import GeometryError, InputError
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.core.grid import FloatArray, Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume, VoxelArray
from nnunet_bridge.formats.files import quoted, whole_file

LPS_FROM_RAS: FloatArray = np.diag([-1.0, -1.0, 1.0, 1.0])
"""(4, 4) turns RAS+ millimetres into LPS+ millimetres, and back."""

FORMS_AGREE_WITHIN = 0.01
"""Largest disagreement of qform and sform, as a share of the smallest spacing."""

MAX_VOXELS = 2**31
IMAGE_LEVEL = 2
"""Deflate level for images: isal's level 2 is nearly as small as zlib's 6."""

LABELS_LEVEL = 1
_HEADER_BYTES = 352
_STRUCT_BYTES = 348
_SPARE_BYTES = 4096
_TO_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""Factor to millimetres of each spatial unit code: unknown, metre, mm, micron."""


def read_volume(file: Path) -> Volume:
    """Return the image in a NIfTI file.

    Parameters
    ----------
    file : Path
        ``.nii`` or ``.nii.gz`` with one 3-D image.

    Raises
    ------
    Refused
        If the file is damaged (K19), is not 3-D (K08), or does not say without
        contradiction where its voxels lie (K11).
    """
    grid, voxels = read_array(file)
    return Volume(grid, voxels)


def read_labelmap(file: Path, labels: LabelTable) -> Labelmap:
    """Return the labelmap in a NIfTI file.

    Raises
    ------
    Refused
        As `read_volume`, or if a value is no whole number of the table (K07).
    """
    grid, voxels = read_array(file)
    highest = max(labels.highest_value, 1)
    if voxels.dtype.kind == "f" and not np.array_equal(voxels, np.round(voxels)):
        raise Refused.because(
            "K07", f"{quoted(file.name)} holds fractions, not labels."
        )
    if voxels.size and (voxels.min() < 0 or voxels.max() > highest):
        raise Refused.because(
            "K06",
            f"{quoted(file.name)} holds values from {voxels.min()} to {voxels.max()}, "
            f"but the labels are 0 to {labels.highest_value}.",
        )
    kind = np.uint8 if highest < 256 else np.uint16  # noqa: PLR2004 - one byte
    return Labelmap(grid, voxels.astype(kind), labels)


def write_volume(file: Path, volume: Volume) -> None:
    """Write an image as ``.nii.gz`` or ``.nii``; whole and proven, or not at all."""
    _write(file, volume.grid, volume.voxels, IMAGE_LEVEL)


def write_labelmap(file: Path, labelmap: Labelmap) -> None:
    """Write a labelmap as ``.nii.gz`` or ``.nii``; whole and proven, or not at all."""
    _write(file, labelmap.grid, labelmap.voxels, LABELS_LEVEL)


def read_array(file: Path) -> tuple[Grid, VoxelArray]:
    """Return the grid and the (I, J, K) voxels of a NIfTI file, scaled if it says so.

    Integer files without a scale keep their integer type.
    """
    import nibabel

    content = _whole_content(file)
    try:
        image = nibabel.Nifti1Image.from_bytes(content)
    except Exception as error:  # one boundary around one untrusted file
        raise Refused.because(
            "K19", f"{quoted(file.name)} is not a readable NIfTI file ({error})."
        ) from error
    shape = tuple(int(size) for size in image.shape)
    while len(shape) > 3 and shape[-1] == 1:  # noqa: PLR2004 - space has three axes
        shape = shape[:-1]
    if len(shape) != 3:  # noqa: PLR2004 - likewise
        raise Refused.because(
            "K08",
            f"{quoted(file.name)} has the shape {image.shape}; one 3-D image is "
            "needed.",
        )
    grid = _grid(file, shape, image.header)
    stored: Any = image.dataobj
    raw = np.asarray(stored.get_unscaled()).reshape(shape, order="F")
    if raw.dtype.kind not in "iuf":
        raise Refused.because(
            "K08", f"{quoted(file.name)} holds {raw.dtype}, not numbers."
        )
    voxels = raw.astype(raw.dtype.newbyteorder("="), copy=False)
    slope, intercept = float(stored.slope), float(stored.inter)
    if (slope, intercept) != (1.0, 0.0):
        voxels = (voxels * slope + intercept).astype(np.float32)
    return grid, voxels


def _whole_content(file: Path) -> bytes:
    """Return the inflated bytes of a file after checking that none is missing."""
    from isal import igzip

    try:
        stored = file.read_bytes()
    except OSError as error:
        raise InputError(
            f"Cannot read {quoted(str(file))}: {error.strerror}."
        ) from error
    if stored[:2] != b"\x1f\x8b":
        content = stored
    else:
        try:
            with igzip.open(io.BytesIO(stored), "rb") as stream:
                content = stream.read(_HEADER_BYTES)
                content += stream.read(_bytes_declared(file, content) + _SPARE_BYTES)
        except Refused:
            raise
        except Exception as error:  # one boundary around one untrusted file
            raise Refused.because(
                "K19",
                f"{quoted(file.name)} is damaged ({error}): copy or export it again.",
            ) from error
    needed = _bytes_declared(file, content)
    if not needed <= len(content) < needed + _SPARE_BYTES:
        raise Refused.because(
            "K19",
            f"{quoted(file.name)} is damaged: its header announces {needed} bytes, the "
            f"file holds {len(content)}. Copy or export it again.",
        )
    return content


def _bytes_declared(file: Path, content: bytes) -> int:
    """Return how many bytes the header says the file has, before any is allocated."""
    import nibabel

    try:
        header = nibabel.Nifti1Header(content[:_STRUCT_BYTES], check=True)
        shape = [int(size) for size in header.get_data_shape()]
        offset = int(header["vox_offset"])
        item_bytes = int(header.get_data_dtype().itemsize)
    except Exception as error:  # one boundary around one untrusted file
        raise Refused.because(
            "K19", f"{quoted(file.name)} is not a readable NIfTI file ({error})."
        ) from error
    voxels = int(np.prod(shape, dtype=np.float64)) if shape else 0
    if not 0 < voxels <= MAX_VOXELS or not 0 <= offset <= MAX_VOXELS:
        raise Refused.because(
            "S07", f"{quoted(file.name)} announces the shape {shape}."
        )
    return offset + voxels * item_bytes


def _grid(file: Path, shape: tuple[int, ...], header: Any) -> Grid:  # noqa: ANN401 - nibabel's own type is not exported
    """Return the grid of which sform and qform both approve."""
    to_mm = _TO_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    forms = []
    for name, read in (("sform", header.get_sform), ("qform", header.get_qform)):
        try:
            affine, code = read(coded=True)
        except Exception as error:  # a damaged quaternion raises several kinds
            raise Refused.because(
                "K11", f"{quoted(file.name)}: its {name} cannot be read ({error})."
            ) from error
        if code > 0:
            scale = np.diag([to_mm, to_mm, to_mm, 1.0])
            try:
                size_i, size_j, size_k = shape
                forms.append(
                    Grid((size_i, size_j, size_k), LPS_FROM_RAS @ scale @ affine)
                )
            except GeometryError as error:
                raise Refused.because(
                    "K11", f"{quoted(file.name)}: its {name} cannot be used: {error}"
                ) from error
    if not forms:
        raise Refused.because(
            "K11",
            f"{quoted(file.name)} does not say where it lies (sform and qform codes "
            "are 0): export it again with its geometry.",
        )
    drift_mm = forms[0].displacement_mm(forms[-1])
    if drift_mm > FORMS_AGREE_WITHIN * forms[0].spacing_mm.min():
        raise Refused.because(
            "K11",
            f"{quoted(file.name)}: sform and qform place the image {drift_mm:.3f} mm "
            "apart, so two programs would read two places: export it again.",
        )
    return forms[0]


def _write(file: Path, grid: Grid, voxels: VoxelArray, level: int) -> None:
    from isal import igzip

    header = _header(grid, voxels.dtype)
    in_file_order: Any = np.asfortranarray(voxels).ravel(order="K")
    payload = memoryview(in_file_order).cast("B")
    with whole_file(file) as temporary:
        with temporary.open("wb") as stream:
            if file.name.endswith(".gz"):
                with igzip.GzipFile(
                    filename="", mode="wb", compresslevel=level, fileobj=stream, mtime=0
                ) as packed:
                    packed.write(header)
                    packed.write(payload)
            else:
                stream.write(header)
                stream.write(payload)
        _prove(temporary, file, np.frombuffer(payload, np.uint8))


def _header(grid: Grid, dtype: npt.DTypeLike) -> bytes:
    import nibabel

    affine = LPS_FROM_RAS @ grid.affine
    header = nibabel.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(grid.shape)
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1, strip_shears=True)
    header.set_xyzt_units("mm")
    header["vox_offset"] = _HEADER_BYTES
    header["magic"] = b"n+1"
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    packed: bytes = header.binaryblock
    return packed + b"\0\0\0\0"


def _prove(temporary: Path, final: Path, expected: npt.NDArray[np.uint8]) -> None:
    """Read the file back; raise if a single byte of the voxels differs."""
    from isal import igzip

    proven, same = 0, True
    opened = igzip.open if final.name.endswith(".gz") else Path.open
    with opened(temporary, "rb") as stream:
        stream.read(_HEADER_BYTES)
        while same and (block := stream.read(1 << 20)):
            there = expected[proven : proven + len(block)]
            same = np.array_equal(np.frombuffer(block, np.uint8), there)
            proven += len(block)
    if not same or proven != len(expected):
        raise OSError(f"{final} did not read back as it was written")
