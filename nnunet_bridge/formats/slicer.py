"""Masks as 3D Slicer and others write them: NIfTI, NRRD, segmentations, MetaImage.

Each file becomes `StructureMask` values: one structure, true where it was drawn, with
its own grid in LPS+. Whatever is no clear yes or no is refused (FAULTS K06-K10, K19).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import GeometryError
from nnunet_bridge.core.findings import Finding, Outcome, Refused
from nnunet_bridge.core.grid import FloatArray, Grid
from nnunet_bridge.core.image import BoolArray, VoxelArray
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.formats.memory import ask_for_memory
from nnunet_bridge.formats.nifti import MAX_VOXELS, read_array

SEGMENTATION_ENDING = ".seg.nrrd"
MASK_ENDINGS = (".nii.gz", ".nii", SEGMENTATION_ENDING, ".nrrd", ".mha")
SPACING_MM = (0.05, 50.0)
"""Outside this, the unit of length is wrong; whether a mask fits its image, its place
says."""

WHOLE_WITHIN = 1e-3
"""A value this near to a whole number is that number."""

_SPACE_DIMENSIONS = 3
_NRRD_TYPES = {
    "signed char": "i1", "int8": "i1", "int8_t": "i1",
    "uchar": "u1", "unsigned char": "u1", "uint8": "u1", "uint8_t": "u1",
    "short": "i2", "short int": "i2", "signed short": "i2", "int16": "i2",
    "signed short int": "i2", "int16_t": "i2",
    "ushort": "u2", "unsigned short": "u2", "unsigned short int": "u2", "uint16": "u2",
    "uint16_t": "u2",
    "int": "i4", "signed int": "i4", "int32": "i4", "int32_t": "i4",
    "uint": "u4", "unsigned int": "u4", "uint32": "u4", "uint32_t": "u4",
    "longlong": "i8", "long long": "i8", "int64": "i8", "int64_t": "i8",
    "ulonglong": "u8", "unsigned long long": "u8", "uint64": "u8", "uint64_t": "u8",
    "float": "f4", "double": "f8",
}  # fmt: skip
_SPACES: dict[str, tuple[float, float, float]] = {
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
}  # fmt: skip
"""Signs that turn the axes of an NRRD space into LPS+."""


@dataclass(frozen=True, slots=True, eq=False)
class StructureMask:
    """One structure as somebody drew it."""

    name: str
    """As the file or the segment calls it."""

    side: str
    """``left``, ``right``, ``middle``, or empty."""

    grid: Grid
    voxels: BoolArray
    """(I, J, K); true where the structure is."""

    file: str
    """Name of the file, without its folder."""

    findings: tuple[Finding, ...] = ()

    read_as: str = "yes or no"
    """How its values were understood: ``yes or no``, ``one value``, ``rounded``,
    ``threshold 0.5`` or ``values 3, 7``."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a person says of masks that are no clear yes or no."""

    values: tuple[int, ...] = ()
    """Which values mean the structure, in a file that holds several (K06)."""

    threshold: float | None = None
    """The least probability that counts as drawn (K07)."""


@dataclass(frozen=True, slots=True, eq=False)
class _Nrrd:
    """An NRRD file that was read whole."""

    header: dict[str, Any]
    layers: VoxelArray
    """(L, I, J, K); one layer where the file has none."""

    grid: Grid | None
    """None for a segmentation of one voxel, which has no geometry (K10)."""


def is_mask_file(name: str) -> bool:
    """Whether a file name ends like a mask's, in capitals or not."""
    return name.lower().endswith(MASK_ENDINGS) and not name.startswith(".")


def is_segmentation(name: str) -> bool:
    """Whether a file name is that of a segmentation, with one segment a structure."""
    return name.lower().endswith(SEGMENTATION_ENDING)


def mask_stem(name: str) -> str:
    """Return a mask's file name without its ending.

    Examples
    --------
    >>> mask_stem("4_R_tibia_5A.nii.gz"), mask_stem("4_5A.SEG.NRRD")
    ('4_R_tibia_5A', '4_5A')
    """
    for ending in MASK_ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def read_mask(
    file: Path, *, name: str, side: str = "", meaning: Meaning | None = None
) -> StructureMask:
    """Return the one structure in a mask file.

    Parameters
    ----------
    file : Path
        ``.nii``, ``.nii.gz``, ``.nrrd`` or ``.mha``.
    name, side : str
        What the file name says about the structure.
    meaning : Meaning, optional
        How to understand values that are no clear yes or no.

    Raises
    ------
    Refused
        If the file is damaged (K19), has no place (K11), is not 3-D (K08), or does not
        say yes or no for every voxel (K06, K07).
    """
    grid, values, findings = _read_plain(file)
    _refuse_impossible_voxels(grid, file.name)
    voxels, read_as = _yes_or_no(values, file.name, meaning or Meaning(), findings)
    return StructureMask(name, side, grid, voxels, file.name, tuple(findings), read_as)


def read_segments(file: Path) -> Iterator[StructureMask]:
    """Go through the segments of a ``.seg.nrrd`` file, one structure at a time.

    Notes
    -----
    A voxel belongs to a segment if the segment's layer holds the segment's label value
    there; label values begin again in every layer. `Segment*_Extent` and
    `ReferenceImageExtentOffset` are hints for display: the origin places the file.

    Raises
    ------
    Refused
        As `read_mask`, or if a segment lacks name, layer or label value (K09).
    """
    nrrd = _read_nrrd(file)
    segments = _segments(nrrd.header, file.name)
    if nrrd.grid is None:
        nothing = np.zeros((1, 1, 1), bool)
        for name, _, _ in segments:
            yield StructureMask(
                name, "", Grid((1, 1, 1), np.eye(4)), nothing, file.name
            )
        return
    if not segments:
        raise Refused.because(
            "K09", f"{quoted(file.name)} names no segments: export it again."
        )
    for name, layer, value in segments:
        if layer >= len(nrrd.layers):
            raise Refused.because(
                "K09",
                f"{quoted(file.name)}: segment {quoted(name)} is said to be in layer "
                f"{layer}, but the file has {len(nrrd.layers)}.",
            )
        _refuse_impossible_voxels(nrrd.grid, file.name)
        voxels = np.asfortranarray(nrrd.layers[layer] == value)
        yield StructureMask(name, "", nrrd.grid, voxels, file.name)


def segment_names(file: Path) -> tuple[str, ...]:
    """Return what the segments of a ``.seg.nrrd`` are called; reads its header only.

    Raises
    ------
    Refused
        As `read_segments`, for what the header can show.
    """
    import nrrd

    try:
        with file.open("rb") as stream:
            header = dict(nrrd.read_header(stream))
    except Exception as error:  # the boundary around one untrusted file
        raise Refused.because(
            "K19",
            f"{quoted(file.name)} is not a readable NRRD file "
            f"({type(error).__name__}): copy or export it again.",
        ) from error
    return tuple(name for name, _, _ in _segments(header, file.name))


def _read_plain(file: Path) -> tuple[Grid, VoxelArray, list[Finding]]:
    name = file.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return *read_array(file), []
    if name.endswith(".mha"):
        return _read_mha(file)
    nrrd = _read_nrrd(file)
    if len(nrrd.layers) != 1 or nrrd.grid is None:
        raise Refused.because(
            "K08",
            f"{quoted(file.name)} has the sizes {list(nrrd.header['sizes'])}; one 3-D "
            "mask is needed.",
        )
    flat = len(nrrd.header["sizes"]) > _SPACE_DIMENSIONS
    return nrrd.grid, nrrd.layers[0], _without_an_axis(file.name) if flat else []


def _refuse_impossible_voxels(grid: Grid, name: str) -> None:
    """Refuse voxels of kilometres or microns: the unit of length is wrong (K12)."""
    least, most = SPACING_MM
    if least <= grid.spacing_mm.min() and grid.spacing_mm.max() <= most:
        return
    sizes = " x ".join(f"{size:.4g}" for size in grid.spacing_mm)
    raise Refused.because(
        "K12",
        f"{quoted(name)} has voxels of {sizes} mm (possible are {least:g} to {most:g} "
        "mm): is its unit of length right? Export it again.",
    )


def _without_an_axis(name: str) -> list[Finding]:
    """Say that a fourth axis with one entry was dropped (K08)."""
    return [
        Finding(
            "K08",
            Outcome.FIXED,
            f"{quoted(name)} has a fourth axis with one entry, which was dropped.",
        )
    ]


def _yes_or_no(
    values: VoxelArray, name: str, meaning: Meaning, findings: list[Finding]
) -> tuple[BoolArray, str]:
    """Return where the structure is, and how the values say so (K06, K07)."""
    if values.dtype.kind == "f":
        _refuse_no_numbers(values, name)
        if meaning.threshold is not None and _farthest_from_whole(values) > (
            WHOLE_WITHIN
        ):
            return _above(values, name, meaning.threshold, findings)
        values = _whole_numbers(values, name, findings)
    voxels = np.asfortranarray(values != 0)
    in_memory_order = values.ravel(order="K")
    drawn = in_memory_order[in_memory_order != 0]
    rounded = any(finding.code == "K07" for finding in findings)
    if drawn.size == 0:
        return voxels, "yes or no"
    low, high = drawn.min(), drawn.max()
    if meaning.values and not (low == high == 1):
        return _of_values(values, name, meaning.values, findings)
    if low != high:
        raise Refused.because(
            "K06",
            f"{quoted(name)} should hold one structure, but holds the values "
            f"{_listed(np.unique(drawn))}: export each structure alone, or a "
            ".seg.nrrd, or say in `masks.values` which of them are meant.",
        )
    if low == 1:
        return voxels, "rounded" if rounded else "yes or no"
    findings.append(
        Finding(
            "K06",
            Outcome.FIXED,
            f"{quoted(name)} marks its structure with {low:g} instead of 1.",
        )
    )
    return voxels, "one value"


def _listed(values: npt.NDArray[Any]) -> str:
    some = ", ".join(f"{value:g}" for value in values[:6])
    return some + (f" and {len(values) - 6} more" if len(values) > 6 else "")  # noqa: PLR2004 - enough to see


def _of_values(
    values: VoxelArray, name: str, meant: tuple[int, ...], findings: list[Finding]
) -> tuple[BoolArray, str]:
    """Return where one of the values is that a person says to be meant (K06)."""
    voxels = np.asfortranarray(np.isin(values, meant))
    held, counts = np.unique(values[values != 0], return_counts=True)
    others = ~np.isin(held, meant)
    words = ", ".join(map(str, meant))
    if others.all():
        raise Refused.because(
            "K06",
            f"{quoted(name)} holds the values {_listed(held)}, but by `masks.values` "
            f"its structure is {words}: correct one of them.",
        )
    left = int(counts[others].sum())
    findings.append(
        Finding(
            "K06",
            Outcome.WARNED if left else Outcome.FIXED,
            f"{quoted(name)} holds the values {_listed(held)}; by `masks.values` "
            f"{words} was taken ({int(counts[~others].sum())} voxels)"
            + (f", and {left} voxels of other values were left out." if left else "."),
        )
    )
    return voxels, f"values {words}"


def _above(
    values: VoxelArray, name: str, threshold: float, findings: list[Finding]
) -> tuple[BoolArray, str]:
    """Return where probabilities reach the threshold that a person names (K07)."""
    low, high = float(values.min()), float(values.max())
    if low < -WHOLE_WITHIN or high > 1 + WHOLE_WITHIN:
        raise Refused.because(
            "K07",
            f"{quoted(name)} holds fractions from {low:.3g} to {high:.3g}, so they are "
            "no probabilities, and `masks.threshold` says nothing of them: export it "
            "as a binary labelmap.",
        )
    voxels = np.asfortranarray(values >= threshold)
    findings.append(
        Finding(
            "K07",
            Outcome.FIXED,
            f"{quoted(name)} holds probabilities; the {int(np.count_nonzero(voxels))} "
            f"voxels from {threshold:g} on were taken, as `masks.threshold` says.",
        )
    )
    return voxels, f"threshold {threshold:g}"


def _refuse_no_numbers(values: VoxelArray, name: str) -> None:
    if not np.isfinite(values).all():
        raise Refused.because(
            "K07", f"{quoted(name)} holds NaN or infinite values: export it again."
        )


def _farthest_from_whole(values: VoxelArray) -> float:
    return float(np.abs(values - np.rint(values)).max(initial=0.0))


def _whole_numbers(
    values: VoxelArray, name: str, findings: list[Finding]
) -> VoxelArray:
    rounded = np.rint(values)
    away = _farthest_from_whole(values)
    if away > WHOLE_WITHIN:
        raise Refused.because(
            "K07",
            f"{quoted(name)} holds fractions (up to {away:.3g} from a whole number), "
            "not a mask: export it as a binary labelmap, or name the least probability "
            "that counts in `masks.threshold`.",
        )
    if away > 0:
        findings.append(
            Finding(
                "K07",
                Outcome.FIXED,
                f"{quoted(name)} holds values up to {away:.1e} from whole numbers; "
                "they were rounded.",
            )
        )
    return rounded


def _read_nrrd(file: Path) -> _Nrrd:
    try:
        return _parsed_nrrd(file)
    except Refused:
        raise
    except OSError as error:
        raise Refused.because(
            "K19", f"{quoted(file.name)} cannot be read: {error.strerror}."
        ) from error
    except Exception as error:  # the boundary around one untrusted file
        raise Refused.because(
            "K19",
            f"{quoted(file.name)} is not a readable NRRD file "
            f"({type(error).__name__}): copy or export it again.",
        ) from error


def _parsed_nrrd(file: Path) -> _Nrrd:
    import nrrd

    with file.open("rb") as stream:
        header = dict(nrrd.read_header(stream))
        stored = stream.read()
    sizes = tuple(int(size) for size in header["sizes"])
    kind = np.dtype(_NRRD_TYPES[str(header["type"]).lower()]).newbyteorder(
        ">" if header.get("endian") == "big" else "<"
    )
    voxels = _inflated(file.name, header, stored, sizes, kind)
    return _Nrrd(header, *_layers_and_grid(file.name, header, voxels))


def _inflated(
    name: str,
    header: dict[str, Any],
    stored: bytes,
    sizes: tuple[int, ...],
    kind: np.dtype[Any],
) -> VoxelArray:
    """Return the voxels after proving that none is missing (K19) or too many (S06)."""
    count = int(np.prod(sizes, dtype=np.float64)) if sizes else 0
    if not 0 < count <= MAX_VOXELS or min(sizes) < 1:
        raise Refused.because("S07", f"{quoted(name)} announces the sizes {sizes}.")
    unusual = {
        "data file",
        "datafile",
        "line skip",
        "lineskip",
        "byte skip",
        "byteskip",
    }
    if unusual & set(header):
        raise Refused.because(
            "K19", f"{quoted(name)} keeps its voxels elsewhere: save it as one file."
        )
    needed = count * kind.itemsize
    ask_for_memory(2 * needed, quoted(name))
    encoding = str(header.get("encoding", "")).lower()
    if encoding in ("gzip", "gz"):
        content = _gunzipped(name, stored, needed)
    elif encoding == "raw":
        content = stored
    else:
        raise Refused.because(
            "K19", f"{quoted(name)} is packed as {quoted(encoding)}: save it as gzip."
        )
    if len(content) != needed:
        raise Refused.because(
            "K19",
            f"{quoted(name)} is damaged: its header announces {needed} bytes, the file "
            f"holds {len(content)}. Copy or export it again.",
        )
    return np.frombuffer(content, kind).reshape(sizes, order="F")


def _gunzipped(name: str, stored: bytes, needed: int) -> bytes:
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        content = inflater.decompress(stored, needed + 1)
        # The check sum at the end may still be waiting; never more than one byte comes.
        content += inflater.decompress(inflater.unconsumed_tail, 1)
    except zlib.error as error:
        raise Refused.because(
            "K19", f"{quoted(name)} is damaged ({error}): copy or export it again."
        ) from error
    if not inflater.eof:
        raise Refused.because(
            "K19", f"{quoted(name)} is cut off, or too long: copy or export it again."
        )
    return content


def _layers_and_grid(
    name: str, header: dict[str, Any], voxels: VoxelArray
) -> tuple[VoxelArray, Grid | None]:
    directions = np.asarray(header.get("space directions", []), dtype=np.float64)
    if voxels.size == 1 and is_segmentation(name):
        return voxels.reshape(1, 1, 1, 1), None
    if voxels.ndim == _SPACE_DIMENSIONS + 1:
        axis = _list_axis(header, directions, voxels.shape)
        if axis is None and voxels.shape[-1] == 1:
            axis = voxels.ndim - 1
            directions = directions[:, :_SPACE_DIMENSIONS]
        if axis is None:
            raise Refused.because(
                "K08", f"{quoted(name)} has the sizes {voxels.shape}; 3-D is needed."
            )
        voxels = np.moveaxis(voxels, axis, 0)
        directions = np.delete(directions, axis, axis=0)
    elif voxels.ndim == _SPACE_DIMENSIONS:
        voxels = voxels[np.newaxis]
    else:
        raise Refused.because(
            "K08", f"{quoted(name)} has the sizes {voxels.shape}; 3-D is needed."
        )
    return voxels, _nrrd_grid(name, header, directions, voxels.shape[1:])


def _list_axis(
    header: dict[str, Any], directions: FloatArray, shape: tuple[int, ...]
) -> int | None:
    """Return the axis of a 4-D file that does not run through space."""
    kinds = [str(kind).lower() for kind in header.get("kinds", [])]
    for axis in range(len(shape)):
        listed = axis < len(kinds) and kinds[axis] in ("list", "vector")
        placeless = axis < len(directions) and bool(np.isnan(directions[axis]).all())
        if listed or placeless:
            return axis
    return None


def _nrrd_grid(
    name: str, header: dict[str, Any], directions: FloatArray, shape: tuple[int, ...]
) -> Grid:
    signs = _SPACES.get(str(header.get("space", "")).lower())
    origin = np.asarray(header.get("space origin", []), dtype=np.float64)
    if signs is None or directions.shape != (3, 3) or origin.shape != (3,):
        raise Refused.because(
            "K11",
            f"{quoted(name)} does not say where it lies (space, space directions, "
            "space origin): export it again with its geometry.",
        )
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions.T, origin
    return _grid(name, np.diag([*signs, 1.0]) @ affine, shape)


def _grid(name: str, affine: FloatArray, shape: tuple[int, ...]) -> Grid:
    size_i, size_j, size_k = shape
    try:
        return Grid((size_i, size_j, size_k), affine)
    except GeometryError as error:
        raise Refused.because("K11", f"{quoted(name)}: {error}") from error


_SEGMENT_KEY = re.compile(r"Segment(\d+)_(Name|Layer|LabelValue|ID)")


def _segments(header: dict[str, Any], name: str) -> list[tuple[str, int, int]]:
    """Return name, layer and label value of every segment, in the order of the file."""
    found: dict[int, dict[str, str]] = {}
    for key, value in header.items():
        if match := _SEGMENT_KEY.fullmatch(str(key)):
            found.setdefault(int(match[1]), {})[match[2]] = str(value)
    segments = []
    for number, keys in sorted(found.items()):
        missing = {"Name", "Layer", "LabelValue"} - set(keys)
        if missing:
            keys_named = " and no ".join(sorted(missing))
            raise Refused.because(
                "K09",
                f"{quoted(name)}: segment {number} has no {keys_named}: save the "
                "segmentation again with a newer 3D Slicer.",
            )
        try:
            segments.append((keys["Name"], int(keys["Layer"]), int(keys["LabelValue"])))
        except ValueError as error:
            raise Refused.because(
                "K09", f"{quoted(name)}: segment {number} is unreadable ({error})."
            ) from error
    return segments


def _read_mha(file: Path) -> tuple[Grid, VoxelArray, list[Finding]]:
    import SimpleITK as sitk  # noqa: N813 - its usual name

    _prove_whole_mha(file)
    try:
        image: Any = sitk.ReadImage(str(file))
    except RuntimeError as error:
        raise Refused.because(
            "K19", f"{quoted(file.name)} is not a readable MetaImage file."
        ) from error
    flat = image.GetDimension() == _SPACE_DIMENSIONS + 1 and image.GetSize()[-1] == 1
    if flat:
        image = image[:, :, :, 0]
    if (
        image.GetDimension() != _SPACE_DIMENSIONS
        or image.GetNumberOfComponentsPerPixel() > 1
    ):
        raise Refused.because(
            "K08",
            f"{quoted(file.name)} has the sizes {image.GetSize()}; 3-D is needed.",
        )
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = direction * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    voxels: npt.NDArray[Any] = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    grid = _grid(file.name, affine, voxels.shape)
    return grid, voxels, _without_an_axis(file.name) if flat else []


_MHA_BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4,
    "MET_UINT": 4, "MET_LONG": 4, "MET_ULONG": 4, "MET_LONG_LONG": 8,
    "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8,
}  # fmt: skip


def _prove_whole_mha(file: Path) -> None:
    """Refuse a MetaImage that lacks voxels; SimpleITK may read one (K19)."""
    try:
        stored = file.read_bytes()
    except OSError as error:
        raise Refused.because(
            "K19", f"{quoted(file.name)} cannot be read: {error.strerror}."
        ) from error
    head, mark, body = stored.partition(b"ElementDataFile")
    where, _, body = body.partition(b"\n")
    lines = [line.partition("=") for line in head.decode("latin-1").splitlines()]
    fields = {name.strip(): value.strip() for name, _, value in lines}
    try:
        sizes = [int(size) for size in fields["DimSize"].split()]
        needed = (
            int(np.prod(sizes, dtype=np.float64)) * _MHA_BYTES[fields["ElementType"]]
        )
    except (KeyError, ValueError) as error:
        raise Refused.because(
            "K19", f"{quoted(file.name)} is not a readable MetaImage file."
        ) from error
    if not mark or where.strip(b" =\r") != b"LOCAL" or not 0 < needed <= 8 * MAX_VOXELS:
        raise Refused.because(
            "K19",
            f"{quoted(file.name)} keeps its voxels elsewhere: save it as one file.",
        )
    found = len(body)
    if fields.get("CompressedData", "").lower() == "true":
        try:
            found = len(zlib.decompressobj().decompress(body, needed + 1))
        except zlib.error:
            found = -1
    if found != needed:
        raise Refused.because(
            "K19", f"{quoted(file.name)} is damaged: copy or export it again."
        )
