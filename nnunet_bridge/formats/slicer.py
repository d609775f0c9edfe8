"""Read masks of 3D Slicer and other tools.

NIfTI, NRRD, ``.seg.nrrd``, MetaImage and FreeSurfer's MGH are read.

Each file becomes `StructureMask` values: one structure, true where it was drawn, with
its own grid in LPS+. Values that are not clearly yes or no are refused (FAULTS K06-K10,
K19).
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import GeometryError
from nnunet_bridge.core.findings import Finding, Outcome, Refused
from nnunet_bridge.core.grid import FloatArray, Grid
from nnunet_bridge.core.image import BoolArray, VoxelArray
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.formats.mask_values import (
    MaskValues,
    Meaning,
    distinct_labels,
    listed,
)
from nnunet_bridge.formats.memory import ask_for_memory
from nnunet_bridge.formats.nifti import (
    AGAIN,
    LPS_FROM_RAS,
    MAX_VOXELS,
    first_bytes,
    read_array,
    refused,
    whole_content,
)
from nnunet_bridge.formats.voxel_files import voxel_file

SEGMENTATION_ENDING = ".seg.nrrd"
MASK_ENDINGS = (
    *(".nii.gz", ".nii", ".hdr", SEGMENTATION_ENDING, ".nrrd", ".nhdr"),
    *(".mha", ".mhd", ".mgz", ".mgh"),
)
PREDICTED = "audit prediction: "
"""First words of the names of segments that `audit` adds to compare with; they are
never read as masks."""

SPACING_MM = (0.05, 50.0)  # possible voxel sizes; outside, the unit of length is wrong
_SPACE_DIMENSIONS = 3
_MGH_BYTES = 284  # of the header of a FreeSurfer volume
_MGH_VERSION = b"\0\0\0\1"
_MGH_TAGS_BYTES = 1 << 24  # parameters and history may follow the voxels
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
"""NRRD space -> signs that turn its axes into LPS+."""


@dataclass(frozen=True, slots=True, eq=False)
class StructureMask:
    """One structure of a mask file."""

    name: str  # name of the file or the segment
    side: str  # ``left``, ``right``, ``middle``, or empty
    grid: Grid
    voxels: BoolArray  # (I, J, K); true where the structure is
    file: str  # name of the file, without its folder
    findings: tuple[Finding, ...] = ()
    read_as: str = "yes or no"  # reading of its values, see `MaskValues`


@dataclass(frozen=True, slots=True)
class NamedValue:
    """What a value of a labelmap means, or the segment of that number."""

    value: int
    name: str  # empty for what is left out on purpose
    side: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _Nrrd:
    """An NRRD file that was read whole."""

    header: dict[str, Any]
    layers: VoxelArray  # (L, I, J, K); one layer where the file has none
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
    """Read the one structure in a mask file; `name` and `side` are the file name's.

    Raises `Refused` if the file is damaged (K19), has no place (K11), is not 3-D (K08),
    or a value is not clearly yes or no (K06, K07).
    """
    grid, values, findings = read_values(file)
    _refuse_impossible_voxels(grid, file.name)
    reader = MaskValues(file.name, meaning or Meaning(), findings)
    voxels, read_as = reader.read(values)
    return StructureMask(name, side, grid, voxels, file.name, tuple(findings), read_as)


def read_labelmap(file: Path, names: Sequence[NamedValue]) -> Iterator[StructureMask]:
    """Yield the structures of a labelmap, of which `names` name every value.

    Values of one name and side are one structure.

    Raises `Refused` as `read_mask`, or if a value has no name (K06).
    """
    grid, stored, findings = read_values(file)
    _refuse_impossible_voxels(grid, file.name)
    voxels = MaskValues(file.name, Meaning(), findings).read_labels(stored)
    unnamed = np.setdiff1d(distinct_labels(voxels), [0, *(one.value for one in names)])
    if unnamed.size:
        held = f"the value{'s' * (unnamed.size > 1)} {listed(unnamed)}"
        raise refused(
            "K06",
            file.name,
            f"holds {held}, and no row of the case table names it: add a row with the "
            "role labelmap, the value and its structure, or with the role ignore",
        )
    structures: dict[tuple[str, str], list[int]] = {}
    for one in names:
        structures.setdefault((one.name, one.side), []).append(one.value)
    for (name, side), values in structures.items():
        if name:
            one = voxels == values[0]
            drawn = np.asfortranarray(
                one if len(values) == 1 else np.isin(voxels, values)
            )
            how = f"values {', '.join(map(str, values))}"
            yield StructureMask(
                name, side, grid, drawn, file.name, tuple(findings), read_as=how
            )


def read_segments(
    file: Path, names: Sequence[NamedValue] = (), *, own_names: bool = True
) -> Iterator[StructureMask]:
    """Yield the segments of a ``.seg.nrrd`` file, one structure at a time.

    `names` go before the segments' own, by the number of the segment in the file, from
    1; without `own_names` they must name every segment. Those that `audit` predicted
    are left out.

    A voxel belongs to a segment if the segment's layer holds its label value there;
    label values begin again in every layer. The origin places the file:
    `Segment*_Extent` and `ReferenceImageExtentOffset` only help a viewer.

    Raises `Refused` as `read_mask`, or if a segment lacks name, layer or label value
    (K09).
    """
    nrrd, findings = _read_nrrd(file), list[Finding]()
    with _nrrd_boundary(file):
        segments = _segments(nrrd.header, file.name)
    if nrrd.grid is not None and not segments:
        raise refused("K09", file.name, "names no segments: export it again")
    chosen = named_segments(file.name, segments, names, own_names=own_names)
    if nrrd.grid is None:
        grid, nothing = Grid((1, 1, 1), np.eye(4)), np.zeros((1, 1, 1), bool)
        for name, side, _, _ in chosen:
            yield StructureMask(name, side, grid, nothing, file.name)
        return
    _refuse_impossible_voxels(nrrd.grid, file.name)
    if any(name.startswith(PREDICTED) for name, _, _ in segments):
        text = f"{quoted(file.name)} holds predictions of `audit`, which were left out."
        findings.append(Finding("K21", Outcome.ACCEPTED, text))
    values = MaskValues(file.name, Meaning(), findings)
    layers = [values.read_labels(layer) for layer in nrrd.layers]
    findings += _of_no_segment(file.name, layers, segments)
    for name, side, layer, value in chosen:
        if not 0 <= layer < len(layers):
            place = f"puts segment {quoted(name)} into layer {layer}"
            reason = f"{place}, but has {len(layers)} layers"
            raise refused("K09", file.name, reason)
        voxels = np.asfortranarray(layers[layer] == value)
        yield StructureMask(name, side, nrrd.grid, voxels, file.name, tuple(findings))


def _of_no_segment(
    file: str, layers: Sequence[VoxelArray], segments: Sequence[tuple[str, int, int]]
) -> Iterator[Finding]:
    """Warn of drawn voxels whose value no segment of their layer has (K24)."""
    for number, layer in enumerate(layers):
        known = [0, *(value for _, where, value in segments if where == number)]
        strange = np.setdiff1d(distinct_labels(layer), known)
        if strange.size:
            count = int(np.count_nonzero(np.isin(layer, strange)))
            held = f"holds {count} voxels of {listed(strange)}, which no segment names"
            how = "name it in 3D Slicer if it is a structure"
            text = f"{quoted(file)} {held}: they were left out; {how}."
            yield Finding("K24", Outcome.WARNED, text)


def named_segments(
    file: str,
    segments: Sequence[tuple[str, int, int]],
    names: Sequence[NamedValue],
    *,
    own_names: bool,
) -> list[tuple[str, str, int, int]]:
    """Return name, side, layer and value of every segment that is used."""
    by_number = {one.value: one for one in names}
    if strange := sorted(by_number.keys() - range(1, len(segments) + 1)):
        which = ", ".join(map(str, strange))
        has = f"has {len(segments)} segments, but the case table names segment {which}"
        raise refused("K09", file, f"{has}: correct the value of that row")
    chosen = []
    for number, (own, layer, value) in enumerate(segments, start=1):
        named = by_number.get(number)
        if own.startswith(PREDICTED) and named is None:
            continue
        if named is None and not own_names:
            lack = f"has a segment {number}, {quoted(own)}, that no row of the case"
            how = "table names: add a row with its structure, or with the role ignore"
            raise refused("K21", file, f"{lack} {how}")
        name, side = (own, "") if named is None else (named.name, named.side)
        if name:
            chosen.append((name, side, layer, value))
    return chosen


def read_segment_names(file: Path) -> tuple[str, ...]:
    """Read the names of the segments of a ``.seg.nrrd`` from its header alone.

    Without those that `audit` predicted.
    """
    names = read_nrrd_header(file).segments
    return tuple(name for name in names if not name.startswith(PREDICTED))


def read_values(file: Path) -> tuple[Grid, VoxelArray, list[Finding]]:
    """Read grid and (I, J, K) values of an image or mask file, as stored.

    Raises `Refused` if it is damaged (K19), has no place (K11), or is not 3-D (K08).
    """
    name = file.name.lower()
    if name.endswith((".nii", ".nii.gz", ".hdr")):
        return *read_array(file), []
    if name.endswith((".mha", ".mhd")):
        return _read_mha(file)
    if name.endswith((".mgz", ".mgh")):
        return _read_mgh(file)
    nrrd = _read_nrrd(file)
    if len(nrrd.layers) != 1 or nrrd.grid is None:
        raise _not_three_dimensional(file.name, nrrd.header["sizes"])
    flat = len(nrrd.header["sizes"]) > _SPACE_DIMENSIONS
    return nrrd.grid, nrrd.layers[0], _without_an_axis(file.name) if flat else []


def _refuse_impossible_voxels(grid: Grid, name: str) -> None:
    """Refuse voxels of kilometres or microns: the unit of length is wrong (K12)."""
    least, most = SPACING_MM
    if least <= grid.spacing_mm.min() and grid.spacing_mm.max() <= most:
        return
    sizes = " x ".join(f"{size:.4g}" for size in grid.spacing_mm)
    voxels = f"has voxels of {sizes} mm (possible are {least:g} to {most:g} mm)"
    again = "is its unit of length right? Export it again"
    raise refused("K12", name, f"{voxels}: {again}")


def _without_an_axis(name: str) -> list[Finding]:
    """Report that a fourth axis with one entry was dropped (K08)."""
    dropped = f"{quoted(name)} has a fourth axis with one entry, which was dropped."
    return [Finding("K08", Outcome.FIXED, dropped)]


@contextmanager
def _nrrd_boundary(file: Path) -> Iterator[None]:
    """Turn anything that pynrrd raises into a refusal (K19)."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:  # the boundary around one untrusted file
        reason = f"is not a readable NRRD file ({type(error).__name__}): {AGAIN}"
        if isinstance(error, OSError):
            reason = f"cannot be read: {error.strerror}"
        raise _damaged(file.name, reason) from error


def _nrrd_header(stream: BinaryIO) -> dict[str, Any]:
    """Read the header of an NRRD file; the stream then stands behind it.

    pynrrd drops every character that is not ASCII, and refuses a field that is repeated
    with the same value; so it gets the lines as text, each once.
    """
    import nrrd

    lines = []
    for packed in stream:
        try:
            line = packed.decode("utf-8").strip()
        except UnicodeDecodeError:
            line = packed.decode("cp1252", "replace").strip()
        if not line:
            break
        lines.append(re.sub(r"\s*(:=?)\s*", r"\1", line, count=1))
    return dict(nrrd.read_header(list(dict.fromkeys(lines))))


def _read_nrrd(file: Path) -> _Nrrd:
    with _nrrd_boundary(file):
        # pynrrd parses the header; the voxels are inflated here, with the size that
        # the header announces as the limit.
        beside = voxel_file(file)
        with file.open("rb") as stream:
            header = _nrrd_header(stream)
            stored = stream.read() if beside is None else beside.read_bytes()
        sizes = tuple(int(size) for size in header["sizes"])
        order = ">" if header.get("endian") == "big" else "<"
        kind = np.dtype(order + _NRRD_TYPES[str(header["type"]).lower()])
        content = _inflated(file.name, header, stored, sizes, kind)
        voxels = np.frombuffer(content, kind).reshape(sizes, order="F")
        return _Nrrd(header, *_layers_and_grid(file.name, header, voxels))


def _inflated(
    name: str,
    header: dict[str, Any],
    stored: bytes,
    sizes: tuple[int, ...],
    kind: np.dtype[Any],
) -> bytes:
    """Return the bytes of the voxels; none is missing (K19), none too many (S06)."""
    count = int(np.prod(sizes, dtype=np.float64))
    if count > MAX_VOXELS or min(sizes, default=0) < 1:
        raise refused("S07", name, f"announces the sizes {sizes}")
    needed = count * kind.itemsize
    (lines, skipped), begin = _skips(name, header), 0
    for _ in range(lines):
        begin = stored.find(b"\n", begin) + 1 or len(stored)
    stored = stored[begin:]
    ask_for_memory(2 * needed, quoted(name))
    encoding = str(header.get("encoding", "")).lower()
    if encoding in ("gzip", "gz"):
        content = _gunzipped(name, stored, needed + skipped)[skipped:]
    elif encoding == "raw":
        content = stored[-needed if skipped < 0 else skipped :]
    else:
        raise _damaged(name, f"is packed as {quoted(encoding)}: save it as gzip")
    if len(content) != needed:
        counts = f"its header announces {needed} bytes, the file holds {len(content)}"
        raise _damaged(name, f"is damaged: {counts}. {AGAIN.capitalize()}")
    return content


_MOST_SKIPPED = 1000


def _skips(name: str, header: dict[str, Any]) -> tuple[int, int]:
    """Return lines and bytes to skip before the voxels; -1 byte: they end the file."""
    lines, count = (
        int(header.get(f"{what} skip", header.get(f"{what}skip", 0)))
        for what in ("line", "byte")
    )
    least = -1 if str(header.get("encoding", "")).lower() == "raw" else 0
    if not 0 <= lines <= _MOST_SKIPPED or not least <= count <= MAX_VOXELS:
        raise _damaged(name, f"skips {lines} lines and {count} bytes: {AGAIN}")
    return lines, count


def _damaged(name: str, reason: str) -> Refused:
    return refused("K19", name, reason)


def _gunzipped(name: str, stored: bytes, needed: int) -> bytes:
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        # One byte more than needed shows that there are too many.
        content = inflater.decompress(stored, needed + 1)
        # The check sum at the end may not have been read yet.
        content += inflater.decompress(inflater.unconsumed_tail, 1)
    except zlib.error as error:
        raise _damaged(name, f"is damaged ({error}): {AGAIN}") from error
    if not inflater.eof:
        raise _damaged(name, f"is cut off, or too long: {AGAIN}")
    return content


def _layers_and_grid(
    name: str, header: dict[str, Any], voxels: VoxelArray
) -> tuple[VoxelArray, Grid | None]:
    """Return (L, I, J, K) layers and their grid; one layer where the file has none."""
    directions = np.asarray(header.get("space directions", []), dtype=np.float64)
    # 3D Slicer saves a segmentation without any voxel as one voxel without a place.
    if voxels.size == 1 and is_segmentation(name):
        return voxels.reshape(1, 1, 1, 1), None
    axis = None
    if voxels.ndim == _SPACE_DIMENSIONS + 1:
        axis = _list_axis(header, directions, voxels.shape)
        # A fourth axis of one entry may have a direction of its own: drop both.
        if axis is None and voxels.shape[-1] == 1:
            axis = voxels.ndim - 1
            directions = directions[:, :_SPACE_DIMENSIONS]
    if axis is not None:
        voxels = np.moveaxis(voxels, axis, 0)
        directions = np.delete(directions, axis, axis=0)
    elif voxels.ndim == _SPACE_DIMENSIONS:
        voxels = voxels[np.newaxis]
    else:
        raise _not_three_dimensional(name, voxels.shape)
    return voxels, _nrrd_grid(name, header, directions, voxels.shape[1:])


def _not_three_dimensional(name: str, sizes: Sequence[int]) -> Refused:
    reason = f"has the sizes {tuple(sizes)}; one 3-D mask is needed"
    return refused("K08", name, reason)


def _list_axis(
    header: dict[str, Any], directions: FloatArray, shape: tuple[int, ...]
) -> int | None:
    """Return the axis of a 4-D file that counts layers, if its header names one."""
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
        lack = "no place in the patient (space, space directions, space origin)"
        raise refused("K11", name, f"has {lack}: export it again with its geometry")
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
        try:
            segments.append((keys["Name"], int(keys["Layer"]), int(keys["LabelValue"])))
        except KeyError as missing:
            again = "save the segmentation again with a newer 3D Slicer"
            lack = f"has no {missing.args[0]} for segment {number}: {again}"
            raise refused("K09", name, lack) from missing
        except ValueError as error:
            odd = f"has an unreadable segment {number} ({error})"
            raise refused("K09", name, odd) from error
    return segments


def _read_mha(file: Path) -> tuple[Grid, VoxelArray, list[Finding]]:
    import SimpleITK as sitk  # noqa: N813 - its usual name

    _require_whole_mha(file)
    try:
        image: Any = sitk.ReadImage(str(file))
    except RuntimeError as error:
        raise _damaged(file.name, "is not a readable MetaImage file") from error
    sizes = image.GetSize()
    flat = len(sizes) == _SPACE_DIMENSIONS + 1 and sizes[-1] == 1
    if flat:
        image = image[:, :, :, 0]
    dimensions, components = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    if (dimensions, components) != (_SPACE_DIMENSIONS, 1):
        raise _not_three_dimensional(file.name, sizes)
    voxels: npt.NDArray[Any] = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    grid = grid_of_itk(file.name, image)
    return grid, voxels, _without_an_axis(file.name) if flat else []


def grid_of_itk(name: str, image: Any) -> Grid:  # noqa: ANN401 - its classes have no types
    """Return the grid of SimpleITK's image, or of a reader that read its header."""
    affine = np.eye(4)
    directions = np.array(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = directions * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return _grid(name, affine, image.GetSize())


_MHA_BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4,
    "MET_UINT": 4, "MET_LONG": 4, "MET_ULONG": 4, "MET_LONG_LONG": 8,
    "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8,
}  # fmt: skip


_MHA_AXES, _LARGEST_COSINE = ("TransformMatrix", "Orientation", "Rotation"), 1e6

_MHA_LINE = re.compile(
    rb"\s*([^\s=:]{1,250})[^=:\r\n]{0,250}[=:]([^\r\n]{0,16000})\r?\n"
)


def _mha_header(stored: bytes) -> tuple[dict[str, str], bytes]:
    """Return the fields of a MetaImage and the bytes that follow them.

    The header is text, one "name = value" a line; the voxels follow its last line,
    "ElementDataFile = LOCAL". Any other value names another file. No name may come
    twice, nor a line of another form: SimpleITK would see another header than we do.
    """
    fields: dict[str, str] = {}
    at = 0
    while "ElementDataFile" not in fields:
        line = _MHA_LINE.match(stored, at)
        name = line[1].decode("latin-1") if line else ""
        if line is None or name in fields or name == "HeaderSize":
            return {}, b""
        fields[name] = line[2].decode("latin-1").strip()
        at = line.end()
    return fields, stored[at:]


def _is_plain(named: str, beside: Path) -> bool:
    """Whether a MetaImage names the file beside it, and no list or pattern of files."""
    listed_there = named.upper().startswith(("LIST", "LOCAL")) or "%" in named
    return named == beside.name and not listed_there


def _require_whole_mha(file: Path) -> None:
    """Refuse a MetaImage that lacks voxels: SimpleITK may read it anyway (K19)."""
    try:
        stored, beside = file.read_bytes(), voxel_file(file)
        apart = None if beside is None else beside.read_bytes()
    except OSError as error:
        raise _damaged(file.name, f"cannot be read: {error.strerror}") from error
    fields, body = _mha_header(stored)
    where = fields.get("ElementDataFile", "").encode("latin-1")
    named = where.decode("utf-8", "surrogateescape").removeprefix("./")
    local = named == "LOCAL" if beside is None else _is_plain(named, beside)
    body = body if apart is None else apart
    try:
        sizes = [int(size) for size in fields["DimSize"].split()]
        count = int(np.prod(sizes, dtype=np.float64))
        needed = count * _MHA_BYTES[fields["ElementType"]]
        cosines = [float(n) for key in _MHA_AXES for n in fields.get(key, "").split()]
    except (KeyError, ValueError) as error:
        raise _damaged(file.name, "is not a readable MetaImage file") from error
    # ITK's decomposition of a matrix with a number near the largest never ends.
    endless = any(abs(cosine) > _LARGEST_COSINE for cosine in cosines)
    if endless or not local or not 0 < needed <= 8 * MAX_VOXELS:
        raise _damaged(file.name, "is not a readable MetaImage file")
    ask_for_memory(2 * needed, quoted(file.name))
    found = len(body)
    if fields.get("CompressedData", "").lower() == "true":
        try:
            found = len(zlib.decompressobj().decompress(body, needed + 1))
        except zlib.error:
            found = -1
    if found != needed:
        raise _damaged(file.name, f"is damaged: {AGAIN}")


def _read_mgh(file: Path) -> tuple[Grid, VoxelArray, list[Finding]]:
    """Read a FreeSurfer volume; nibabel parses its header."""
    from nibabel.freesurfer.mghformat import MGHHeader

    start = first_bytes(file, _MGH_BYTES)
    if start[:4] != _MGH_VERSION:
        raise _damaged(file.name, "is not a FreeSurfer file of version 1")
    try:
        header: Any = MGHHeader(start, check=False)  # it would log what it finds
        shape, affine = header.get_data_shape(), LPS_FROM_RAS @ header.get_affine()
        kind, offset = header.get_data_dtype(), header.get_data_offset()
    except Exception as error:  # the boundary around one untrusted file
        raise _damaged(file.name, "is not a readable FreeSurfer file") from error
    if len(shape) != _SPACE_DIMENSIONS:
        raise _not_three_dimensional(file.name, shape)
    count = int(np.prod(shape, dtype=np.float64))
    if not 0 < count <= MAX_VOXELS:
        raise refused("S07", file, f"announces the sizes {shape}")
    if start[28:30] != b"\0\1":  # nibabel would put it somewhere
        lack = "has no place in the patient (goodRASFlag is 0)"
        raise refused("K11", file, f"{lack}: export it again with its geometry")
    needed = offset + count * kind.itemsize
    content = whole_content(file, lambda _: needed, spare=_MGH_TAGS_BYTES)
    voxels = np.frombuffer(content, kind, count, offset).reshape(shape, order="F")
    grid = _grid(file.name, affine, shape)
    return grid, voxels.astype(kind.newbyteorder("=")), []


@dataclass(frozen=True, slots=True, eq=False)
class NrrdHeader:
    """What the header of an NRRD file says."""

    grid: Grid | None  # None if it does not say where the voxels lie
    kind: np.dtype[Any]
    segments: tuple[str, ...]  # in the order of the file


def read_nrrd_header(file: Path) -> NrrdHeader:
    """Read an NRRD file's header alone.

    Raises `Refused` if it cannot be read (K19) or is not 3-D (K08).
    """
    with _nrrd_boundary(file):
        with file.open("rb") as stream:
            header = _nrrd_header(stream)
        sizes = tuple(int(size) for size in header["sizes"])
        kind = np.dtype(_NRRD_TYPES[str(header["type"]).lower()])
        # No voxel is read; an array without memory stands for them.
        voxels = np.broadcast_to(np.zeros((), kind), sizes)
        named = any(_SEGMENT_KEY.fullmatch(str(key)) for key in header)
        segments = _segments(header, file.name) if named else []
        names = tuple(name for name, _, _ in segments)
        try:
            _, grid = _layers_and_grid(file.name, header, voxels)
        except Refused as refusal:
            if refusal.code != "K11":
                raise
            grid = None
        return NrrdHeader(grid, kind, names)
