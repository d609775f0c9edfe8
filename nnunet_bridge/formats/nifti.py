"""Read NIfTI files with every doubt cleared; write them so that they can be trusted.

NIfTI is RAS+ and this package LPS+; only this module converts. Voxels keep their order
in the file: an image that is read and written again has the same bytes of pixels.

Reading inflates a ``.nii.gz`` to its end and checks CRC and length, because SimpleITK
reads a truncated file as zeros without an error (FAULTS K19). Writing reads the file
back and compares every voxel before the file gets its final name (FAULTS R7).
"""

from __future__ import annotations

import contextlib
import logging
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import GeometryError, InputError
from nnunet_bridge.core.findings import Finding, Refused
from nnunet_bridge.core.grid import FloatArray, Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume, VoxelArray
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.formats.files import open_to_write, sha256_of, whole_file
from nnunet_bridge.formats.mask_values import MaskValues, Meaning
from nnunet_bridge.formats.memory import ask_for_memory
from nnunet_bridge.formats.voxel_files import voxel_file

LPS_FROM_RAS: FloatArray = np.diag([-1.0, -1.0, 1.0, 1.0])
"""(4, 4) matrix from RAS+ to LPS+ millimetres, and back."""

FORMS_AGREE_WITHIN = 0.01
"""Largest disagreement of qform and sform, as a share of the smallest spacing."""

LAST_DIGITS = 4 * float(np.finfo(np.float32).eps)
"""How far b, c and d of a quaternion in float32 may lie from those of the sform."""

_NEARLY_HALF_A_TURN = 1e-7  # NIfTI's own library takes a smaller a * a for 0

_ITK_SHEAR = 9e-5  # ITK's own limit is 1e-4
MAX_VOXELS = 2**31
AGAIN = "copy or export it again"
IMAGE_LEVEL = 3
"""Deflate level for images: isal's level 3 is nearly as small as zlib's 6."""

LABELS_LEVEL = 1
_HEADER_BYTES = 352
_STRUCT_BYTES = 348
_STRUCT_2_BYTES = 540  # bytes of a header of NIfTI-2
_EXTENSION_BYTES = 8  # size and code of a header extension, the least that it can have
_SPARE_BYTES = 4096
_GZIP_MAGIC = b"\x1f\x8b"
_READ_AT_ONCE = 1 << 16
_PACKED_AT_ONCE = 1 << 20
_PROVEN_AT_ONCE = 1 << 19
"""Small enough that inflated bytes are compared while they are in the cache."""

_GZIP_BITS = 31
"""The window bits by which zlib's interface means gzip with the largest window."""

_SIZES_2 = {540, int.from_bytes((540).to_bytes(4, "big"), "little")}
_ROUNDING = 1e-12  # of the sum of a quaternion's squares in float64
_SILENT = logging.getLogger(f"{__name__}.silent")
"""Discards nibabel's messages about a header: they may quote a name from it."""

_SILENT.propagate = False
_SILENT.addHandler(logging.NullHandler())
_TO_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""Factor to millimetres of each spatial unit code: unknown, metre, mm, micron."""


def refused(code: str, file: Path | str, reason: str) -> Refused:
    """Return the refusal of a file; the reason follows its name."""
    return Refused.because(code, f"{quoted(Path(file).name)} {reason}.")


def read_volume(file: Path) -> Volume:
    """Read the 3-D image in a ``.nii`` or ``.nii.gz`` file.

    Raises `Refused` if the file is damaged (K19), is not 3-D (K08), or has no place, or
    two contradictory ones (K11).
    """
    grid, voxels = read_array(file)
    return Volume(grid, voxels)


def read_labelmap(
    file: Path, labels: LabelTable, findings: list[Finding] | None = None
) -> Labelmap:
    """Read the labelmap in a NIfTI file; `findings` gets what was rounded (K07).

    Raises `Refused` as `read_volume`, or if a value is not a label of the table (K06,
    K07).
    """
    grid, stored = read_array(file)
    return labelmap_of(file.name, grid, stored, labels, findings)


def labelmap_of(
    name: str,
    grid: Grid,
    stored: VoxelArray,
    labels: LabelTable,
    findings: list[Finding] | None = None,
) -> Labelmap:
    """Return the labelmap of the stored voxels of a file; see `read_labelmap`."""
    highest = max(labels.highest_value, 1)
    noticed = [] if findings is None else findings
    voxels = MaskValues(name, Meaning(), noticed).read_labels(stored)
    if voxels.size and (voxels.min() < 0 or voxels.max() > highest):
        held = f"holds values from {voxels.min()} to {voxels.max()}"
        raise refused(
            "K06", name, f"{held}, but the labels are 0 to {labels.highest_value}"
        )
    kind = np.uint8 if highest < 256 else np.uint16  # noqa: PLR2004 - one byte
    return Labelmap(grid, voxels.astype(kind), labels)


def write_all(stream: BinaryIO, piece: bytes | memoryview) -> None:
    """Write all of a piece: on a full disk a call may write a part of it."""
    left = memoryview(piece)
    while left:
        left = left[stream.write(left) :]


Writer: TypeAlias = Callable[[BinaryIO, bytes | memoryview], None]


def write_volume(file: Path, volume: Volume, *, write: Writer = write_all) -> None:
    """Write an image as ``.nii.gz`` or ``.nii``, compared after writing.

    `write` stores the next bytes of the file.
    """
    _write(file, volume.grid, volume.voxels, IMAGE_LEVEL, write)


def write_labelmap(file: Path, labelmap: Labelmap) -> None:
    """Write a labelmap as ``.nii.gz`` or ``.nii``, compared after writing."""
    _write(file, labelmap.grid, labelmap.voxels, LABELS_LEVEL, write_all)


def read_array(file: Path) -> tuple[Grid, VoxelArray]:
    """Read the grid and the (I, J, K) voxels of a NIfTI file, as `read_volume`.

    Files with a scale give float32; others keep their type.
    """
    beside = voxel_file(file)
    if beside is None:
        content = whole_content(file, lambda start: _parsed(file, start).bytes_needed)
        header = _parsed(file, bytes(content[:_STRUCT_2_BYTES]))
        _require_whole_extensions(file, content, header)
    else:
        header = _read_header(file)
        content = whole_content(beside, lambda _: header.bytes_needed)
    shape = _shape_in_space(file, header)
    if header.dtype.kind not in "iuf":
        raise refused("K08", file, f"holds {header.dtype}, not numbers")
    grid = _grid(file, shape, header.fields)
    count = math.prod(shape)
    flat = np.frombuffer(content, header.dtype, count=count, offset=header.offset)
    raw = flat.reshape(shape, order="F")
    voxels = raw.astype(raw.dtype.newbyteorder("="), copy=False)
    if (header.slope, header.intercept) != (1.0, 0.0):
        voxels = (voxels * header.slope + header.intercept).astype(np.float32)
    return grid, voxels


def is_changed(file: Path, sha256: str) -> bool:
    """Whether a file is whole and holds something else; a damaged one is no change."""
    if not file.is_file() or sha256_of(file) == sha256:
        return False
    try:
        read_array(file)
    except (Refused, InputError):
        return False
    return True


def read_grid(file: Path) -> Grid:
    """Read the grid of a NIfTI file without its voxels."""
    return read_grid_and_type(file)[0]


def read_grid_and_type(file: Path) -> tuple[Grid, np.dtype[Any]]:
    """Read the grid of a NIfTI file and the type of its voxels, but not the voxels."""
    header = _read_header(file)
    return _grid(file, _shape_in_space(file, header), header.fields), header.dtype


def _read_header(file: Path) -> _Header:
    return _parsed(file, first_bytes(file, _STRUCT_2_BYTES))


@dataclass(frozen=True, slots=True)
class _Header:
    """The fields of a header that passed the checks."""

    fields: Any  # nibabel's header; its type is not exported
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float

    @property
    def bytes_needed(self) -> int:
        """Size of the inflated file."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


def _parsed(file: Path, packed: bytes) -> _Header:
    """Parse and check a header before memory of its size is allocated."""
    import nibabel

    pair = file.name.lower().endswith(".hdr")
    second = int.from_bytes(packed[:4], "little") in _SIZES_2
    magic_at = 4 if second else _STRUCT_BYTES - 4
    if pair and packed[magic_at : magic_at + 2] != b"ni":
        lack = "is an Analyze file, which has no place in the patient"
        raise refused("K11", file, f"{lack}: save it as .nii.gz with its geometry")
    try:
        kind: Any = nibabel.Nifti2Header if second else nibabel.Nifti1Header
        fields = kind(packed if second else packed[:_STRUCT_BYTES], check=False)
        fields.check_fix(logger=_SILENT)
        if second:  # nibabel's three digits are too few for the sum of squares
            fields.quaternion_threshold = _ROUNDING
        shape = tuple(int(size) for size in fields.get_data_shape())
        slope, intercept = fields.get_slope_inter()
        header = _Header(
            fields,
            shape,
            fields.get_data_dtype(),
            max(int(fields["vox_offset"]), 0 if pair else _HEADER_BYTES),
            1.0 if slope is None else float(slope),
            0.0 if intercept is None else float(intercept),
        )
    except Exception as error:  # one boundary around one untrusted file
        raise refused("K19", file, f"is not a readable NIfTI file ({error})") from error
    if not pair and bytes(fields["magic"])[:2] != b"n+":
        raise refused("K19", file, "keeps its voxels in another file: save it as one")
    voxels = math.prod(shape) if shape else 0
    if not 0 < voxels <= MAX_VOXELS or header.offset > MAX_VOXELS:
        raise refused("S07", file, f"announces the shape {shape}")
    return header


def _shape_in_space(file: Path, header: _Header) -> tuple[int, ...]:
    """Return the three sizes of an image, without further axes of one entry."""
    shape = header.shape
    while len(shape) > 3 and shape[-1] == 1:  # noqa: PLR2004 - space has three axes
        shape = shape[:-1]
    if len(shape) != 3:  # noqa: PLR2004 - likewise
        raise refused(
            "K08", file, f"has the shape {header.shape}; one 3-D image is needed"
        )
    return shape


def first_bytes(file: Path, count: int) -> bytes:
    """Return the first inflated bytes of a file; fewer if it is shorter.

    Raises `Refused` if it is damaged (K19), `InputError` if it cannot be opened.
    """
    content = bytearray()
    with _named_failures(file):
        for block in blocks(file):
            content += block
            if len(content) >= count:
                break
    return bytes(content[:count])


def whole_content(
    file: Path, size_of: Callable[[bytes], int], spare: int = _SPARE_BYTES
) -> bytearray:
    """Return the inflated bytes of a file; none is missing.

    `size_of` returns how many bytes the first ones announce; up to `spare` bytes may
    follow. The header may lie. So the array grows with the bytes that the file really
    has, and reading stops soon after the announced length.
    """
    content, needed = bytearray(), 0
    with _named_failures(file):
        for block in blocks(file):
            content += block
            if not needed and len(content) >= _STRUCT_2_BYTES:
                needed = size_of(bytes(content[:_STRUCT_2_BYTES]))
                ask_for_memory(needed, quoted(file.name))
            if needed and len(content) >= needed + spare:
                break
    needed = needed or size_of(bytes(content))
    if not needed <= len(content) < needed + spare:
        sizes = f"its header announces {needed} bytes, the file holds {len(content)}"
        raise refused("K19", file, f"is damaged: {sizes}. {AGAIN.capitalize()}")
    return content


@contextlib.contextmanager
def _named_failures(file: Path) -> Iterator[None]:
    """Raise what happens while a file is read as a `BridgeError`."""
    try:
        yield
    except OSError as error:
        reason = f"Cannot read {quoted(str(file))}: {error.strerror}."
        raise InputError(reason) from error
    except _NotWhole as error:
        raise refused("K19", file, f"is damaged ({error}): {AGAIN}") from error


def _require_whole_extensions(file: Path, content: bytearray, header: _Header) -> None:
    """Refuse header extensions that run into the voxels or past the end (K19).

    Each begins with its size in bytes, a multiple of 16; a size of zero ends them.
    """
    flag, order = int(header.fields["sizeof_hdr"]), header.fields.endianness
    at = flag + 4
    while at < min(header.offset, len(content)) and content[flag]:
        (size,) = struct.unpack_from(f"{order}i", content, at)
        if size == 0:
            return
        if size < _EXTENSION_BYTES or at + size > header.offset:
            wrong = f"an extension of {size} bytes does not fit into its header"
            raise refused("K19", file, f"is damaged: {wrong}. {AGAIN.capitalize()}")
        at += size


class _NotWhole(Exception):  # noqa: N818 - never leaves this module
    """A gzip stream that ends early or fails its check sum."""


def blocks(file: Path) -> Iterator[bytes]:
    """Yield the content of a file, inflated if it is packed with gzip.

    The inflater checks CRC and length at the end of every gzip member; a file may have
    several members, and zeros after the last one.
    """
    from isal import igzip_lib

    with file.open("rb", buffering=0) as stream:
        piece = stream.read(_READ_AT_ONCE)
        if piece[:2] != _GZIP_MAGIC:
            while piece:
                yield piece
                piece = stream.read(_PROVEN_AT_ONCE)
            return
        while piece.strip(b"\0"):
            inflater = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
            while not inflater.eof:
                try:
                    yield inflater.decompress(piece, _PROVEN_AT_ONCE)
                except igzip_lib.error as error:  # type: ignore[misc] # stub: instance
                    raise _NotWhole(str(error)) from error
                piece = b""
                if inflater.needs_input and not inflater.eof:
                    piece = stream.read(_READ_AT_ONCE)
                    if not piece:
                        raise _NotWhole("it is cut off")
            piece = inflater.unused_data or stream.read(_READ_AT_ONCE)


def _grid(file: Path, shape: tuple[int, ...], header: Any) -> Grid:  # noqa: ANN401 - nibabel's own type is not exported
    """Return the grid that sform and qform agree on."""
    to_mm = _TO_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    to_lps_mm = LPS_FROM_RAS @ np.diag([to_mm, to_mm, to_mm, 1.0])
    size_i, size_j, size_k = shape
    forms = []
    for name, read in (("sform", header.get_sform), ("qform", header.get_qform)):
        try:
            affine, code = read(coded=True)
        except Exception as error:  # a damaged quaternion raises several kinds
            unread = f"has a {name} that cannot be read ({error})"
            raise refused("K11", file, unread) from error
        if code > 0:
            try:
                forms.append(Grid((size_i, size_j, size_k), to_lps_mm @ affine))
            except GeometryError as error:
                unusable = f"{quoted(file.name)}: its {name} cannot be used: {error}"
                raise Refused.because("K11", unusable) from error
    if not forms:
        lack = "no place in the patient (sform and qform codes are 0)"
        raise refused("K11", file, f"has {lack}: export it again with its geometry")
    if not _same_place(forms[0], forms[-1], header):
        drift_mm = forms[0].displacement_mm(forms[-1])
        places = f"sform and qform that place the image {drift_mm:.3f} mm apart"
        raise refused(
            "K11", file, f"has {places}, which programs read differently: {AGAIN}"
        )
    return forms[0]


def _same_place(sform: Grid, qform: Grid, header: Any) -> bool:  # noqa: ANN401 - as in `_grid`
    """Whether a qform places the image as the sform does (K11).

    A quaternion is stored without its first component, sqrt(1 - bb - cc - dd). Near
    half a turn the digits that float32 lacks change it by up to 0.001. Such a qform
    agrees if its b, c and d are those of the sform, and its spacing and origin agree.
    """
    axes, tolerance_mm = sform.affine[:3, :3], _tolerance_mm(sform)
    if np.linalg.det(axes) * np.linalg.det(qform.affine[:3, :3]) < 0:
        return False
    if sform.displacement_mm(qform) <= tolerance_mm:
        return True
    from scipy.spatial.transform import Rotation

    in_ras = LPS_FROM_RAS[:3, :3] @ axes / sform.spacing_mm
    in_ras[:, 2] *= np.sign(np.linalg.det(in_ras))
    *meant, first = Rotation.from_matrix(in_ras).as_quat(canonical=True)
    stored = np.array([float(header[f"quatern_{name}"]) for name in "bcd"])
    away = [np.abs(stored - meant).max()]
    if first <= LAST_DIGITS:  # half a turn: the opposite axis is the same rotation
        away.append(np.abs(stored + meant).max())
    turned = np.array(qform.affine)
    turned[:3, :3] = axes / sform.spacing_mm * qform.spacing_mm
    within = sform.displacement_mm(Grid(sform.shape, turned)) <= tolerance_mm
    return bool(within and min(away) <= LAST_DIGITS)


def _tolerance_mm(grid: Grid) -> float:
    return FORMS_AGREE_WITHIN * float(grid.spacing_mm.min())


def _write(
    file: Path, grid: Grid, voxels: VoxelArray, level: int, write: Writer
) -> None:
    in_file_order: Any = np.asfortranarray(voxels).ravel(order="K")
    payload = memoryview(in_file_order).cast("B")
    header = _header(grid, voxels.dtype)
    packed = file.name.endswith(".gz")
    pieces = _packed(header, payload, level) if packed else (header, payload)
    with whole_file(file, needed_bytes=payload.nbytes) as temporary:
        with open_to_write(temporary, buffering=0) as stream:
            for piece in pieces:
                write(stream, piece)
        _prove(temporary, file, header, payload)


def _header(grid: Grid, dtype: npt.DTypeLike) -> bytes:
    import nibabel

    affine = LPS_FROM_RAS @ grid.affine
    header = nibabel.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(grid.shape)
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1, strip_shears=True)
    if not _needs_qform(grid) and not _qform_agrees(header, grid):
        header["qform_code"] = 0  # every program then reads the sform
    header.set_xyzt_units("mm")
    header["vox_offset"] = _HEADER_BYTES
    header["magic"] = b"n+1"
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    packed: bytes = header.binaryblock
    return packed + b"\0\0\0\0"


def _qform_agrees(header: Any, grid: Grid) -> bool:  # noqa: ANN401 - as in `_grid`
    """Whether every program that reads the qform finds the image where it lies."""
    square = 1.0 - sum(float(header[f"quatern_{name}"]) ** 2 for name in "bcd")
    read_back = Grid(grid.shape, LPS_FROM_RAS @ header.get_qform())
    apart_mm = read_back.displacement_mm(grid)
    return not 0 < square < _NEARLY_HALF_A_TURN and apart_mm <= _tolerance_mm(grid)


def _needs_qform(grid: Grid) -> bool:
    """Whether ITK finds the grid too sheared for a file that has a sform alone."""
    axes = grid.affine[:3, :3] / grid.spacing_mm
    return bool(np.abs(axes @ axes.T - np.eye(3)).max() > _ITK_SHEAR)


def _packed(header: bytes, payload: memoryview, level: int) -> Iterator[bytes]:
    """Yield the bytes of one gzip member, without a file name or a time."""
    from isal import isal_zlib

    packer = isal_zlib.compressobj(level, isal_zlib.DEFLATED, _GZIP_BITS)
    yield packer.compress(header)
    for begin in range(0, len(payload), _PACKED_AT_ONCE):
        yield packer.compress(payload[begin : begin + _PACKED_AT_ONCE])
    yield packer.flush()


def _prove(temporary: Path, final: Path, header: bytes, payload: memoryview) -> None:
    """Read the file back; raise if it differs in a single byte (R7)."""
    with contextlib.suppress(_NotWhole):
        if _reads_back(temporary, header, payload):
            return
    raise OSError(f"{final} did not read back as it was written")


def _reads_back(file: Path, header: bytes, payload: memoryview) -> bool:
    size, proven = len(header), 0
    for block in blocks(file):
        begin, proven = proven, proven + len(block)
        rest = payload[max(0, begin - size) : max(0, proven - size)]
        if block != header[begin:proven] + bytes(rest):
            return False
    return proven == size + len(payload)
