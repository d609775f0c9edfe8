"""Read the header of a DICOM file: one `SliceHeader` for each slice that it holds.

`walker` reads plain files, pydicom all others; both give the same headers. The pixels
are not read here. `PixelPlace` notes where they begin, so that an uncompressed slice
can later be read with one seek.

A file from outside may be wrong in any way. `HeaderReader` is the boundary: it returns
headers, or raises `NotUsed` or `Damaged`, whatever a parser raises inside.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import pydicom
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import (
    _read_command_set_elements,
    _read_file_meta_info,
    read_partial,
    read_preamble,
)
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import UID

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.formats.dicom.walker import (
    CHARSET_TAG,
    PLAIN_SYNTAX,
    SYNTAX_TAG,
    Raw,
    Unusual,
    Walker,
    convert,
    convert_all,
    walk_elements,
)

EMPTY = "empty file"  # reason of `NotUsed` for a file without a byte
MAX_MATRIX = 4096
MAX_FRAMES = 8192
MAX_ITEMS = 200_000  # items of sequences; 24 for each frame
MAX_INFLATED_BYTES = 256 * 2**20
_INFLATED_AT_ONCE = 2**20

# MR Image, Enhanced MR Image, Legacy Converted Enhanced MR Image; then the same of CT.
_MR_CLASS, _CT_CLASS = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
MR_CLASSES = frozenset({_MR_CLASS, f"{_MR_CLASS}.1", f"{_MR_CLASS}.4"})
CT_CLASSES = frozenset({_CT_CLASS, f"{_CT_CLASS}.1", f"{_CT_CLASS}.2"})
_IMPLICIT, _BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
NATIVE_SYNTAXES = {_IMPLICIT: "<", PLAIN_SYNTAX: "<", _BIG_ENDIAN: ">"}
"""Byte order of the syntaxes that store plain numbers."""

_INDEX_CLASS = "1.2.840.10008.1.3.10"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_FRAMES_TAG, _PIXELS_TAG = 0x52000000, 0x7FE00008
"""Where the groups of frames begin, and the pixels in any of their forms."""

_STANDARD, _SECONDARY_CAPTURE = "1.2.840.10008.", "1.2.840.10008.5.1.4.1.1.7"
_ITEM = b"\xfe\xff\x00\xe0"  # tag of an item
_GZIP = b"\x1f\x8b"
_PREAMBLE_BYTES = 128
_SNIFF_BYTES = 1024
_UNDEFINED = 0xFFFFFFFF

_TAGS: list[Any] = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID",
    "FrameOfReferenceUID", "PatientID", "PatientBirthDate", "Modality", "ImageType",
    "SeriesNumber",
    "SeriesDescription", "InstanceNumber", "AcquisitionNumber", "ImagesInAcquisition",
    "TemporalPositionIdentifier", "TriggerTime", "EchoTime", "EchoNumbers",
    "SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "NumberOfFrames",
    "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept",
    "PixelPaddingValue", "LossyImageCompression", "BurnedInAnnotation",
    "PatientPosition",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_PRIVATE_SCALE = 0x2005100E  # Philips' private *Scale Slope*: recorded, never used

_KEYWORDS: dict[int, str | int] = {
    **{int(tag_for_keyword(name) or 0): name for name in _TAGS},
    0x00020002: "MediaStorageSOPClassUID",
    SYNTAX_TAG: "TransferSyntaxUID",
    CHARSET_TAG: "SpecificCharacterSet",
    _PRIVATE_SCALE: _PRIVATE_SCALE,
}
"""Tag -> keyword of every element that is read; of a private one, its tag."""

_OWN = ("SOPInstanceUID", "InstanceNumber", "ImagePositionPatient")
_OWN_TAGS = {tag: name for tag, name in _KEYWORDS.items() if name in _OWN}
"""The elements that differ from slice to slice in any series."""

_WALKED_TAGS = frozenset(_KEYWORDS)
_COMMON_TAGS = tuple(sorted(_WALKED_TAGS - _OWN_TAGS.keys()))
_ENHANCED = (".4.1", ".4.4", ".2.1", ".2.2")
"""Endings of the SOP classes of multi-frame images."""

_Group: TypeAlias = Mapping[Any, Any]
Header: TypeAlias = Dataset | _Group
"""A parsed header: keyword (of a private element, tag) -> value."""


class NotUsed(InputError):  # noqa: N818 - it is a verdict, not an error
    """The file holds no slice of a volume: other DICOM, or no DICOM at all."""


class Damaged(InputError):  # noqa: N818 - likewise
    """The file starts as DICOM but cannot be parsed."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The identifiers of a slice. They are written as salted hashes only."""

    patient: str = field(repr=False)
    birth_date: str = field(repr=False)
    study: str = field(repr=False)
    series: str = field(repr=False)
    frame_of_reference: str = field(repr=False)
    instance: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Contrast:
    """The attributes that distinguish images at the same place."""

    modality: str
    image_type: tuple[str, ...]
    echo_time_ms: float | None  # rounded to 0.01 ms
    echo: str
    acquisition: str
    temporal_position: str
    trigger_time: str


@dataclass(frozen=True, slots=True)
class Plane:
    """Position and size of a slice; None for what the header lacks."""

    position_mm: tuple[float, ...] | None  # (3,) centre of the first voxel, LPS+
    orientation: tuple[float, ...] | None
    """(6,) direction cosines of a row, then of a column."""

    pixel_spacing_mm: tuple[float, ...] | None
    """(2,) between rows, then between columns."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Encoding:
    """The attributes that turn stored bits into values."""

    syntax: str  # transfer syntax UID
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    inverted: bool  # MONOCHROME1: the smallest value is white
    slope: float
    intercept: float
    padding: int | None  # stored value of pixels outside the image
    lossy: bool

    @property
    def is_plain(self) -> bool:
        """Whether the stored numbers are the values, as they stand."""
        return (
            self.syntax in NATIVE_SYNTAXES
            and self.high_bit == self.bits_stored - 1
            and (self.slope, self.intercept) == (1.0, 0.0)
            and self.padding is None
            and not self.inverted
        )


@dataclass(frozen=True, slots=True)
class PixelPlace:
    """Place of the pixels in the file; with a negative offset, pydicom decodes them."""

    keyword: str = "PixelData"
    offset: int = -1
    length: int = -1
    available: int = -1  # bytes from the offset to the end of the file
    packed: bool = False
    """Whether the offset counts in the unpacked file, or pydicom has to decode."""

    @property
    def is_direct(self) -> bool:
        """Whether plain pixels can be read from the file as it is."""
        return self.offset >= 0 and not self.packed


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """One slice: a single-frame file, or one frame of a multi-frame file."""

    file: Path
    name: str  # path below the scanned folder
    frame: int  # 0 for a single-frame file
    frames: int
    identity: Identity
    contrast: Contrast
    plane: Plane
    encoding: Encoding
    pixels: PixelPlace
    series_number: str
    description: str = field(repr=False)
    instance_number: int | None
    images_in_acquisition: int | None
    thickness_mm: float | None
    declared_spacing_mm: float | None
    patient_position: str  # such as ``HFS``; empty if not stated
    burned_in: bool
    privately_scaled: bool
    """Whether Philips' private scale stands beside the public one (P02)."""

    mended: tuple[str, ...] = ()
    """What was corrected in the header, or ignored: keys of `stack.MENDED`."""

    reversed_axes: tuple[bool, bool] = (False, False)
    """Whether `plane` describes rows, and columns, against the stored order."""


Parser: TypeAlias = Callable[[Path, str], tuple[SliceHeader, ...]]


_TELLING = [
    "SeriesTime", "AcquisitionTime", "DiffusionBValue", "FlipAngle", "InversionTime",
    "RepetitionTime", "ScanningSequence", "ScanOptions", "SequenceName",
    "ComplexImageComponent", "ContrastBolusAgent",
]  # fmt: skip


def describe(file: Path, **known: str) -> dict[str, str]:
    """Return, quoted, what may tell an image from others, after what is `known`."""
    tags: list[Any] = [*_TELLING]
    with warnings.catch_warnings(action="ignore"), open_dicom(file) as stream:
        options = {"stop_before_pixels": True, "force": True}
        image = pydicom.dcmread(stream, specific_tags=tags, **options)
    known |= {name: _text(image, name) for name in _TELLING}
    return {name: quoted(text) for name, text in known.items()}


class HeaderReader:
    """Reads the headers of a folder; elements that files share are converted once.

    Files that are not plain go to `parse`, by default to pydicom.
    """

    def __init__(self, parse: Parser | None = None) -> None:
        self._parse = parse or _read_by_pydicom
        self._walker = Walker(_WALKED_TAGS)
        self._templates: dict[tuple[Raw | None, ...], SliceHeader] = {}
        """Stored bytes of the shared elements -> the header made from them."""

    def read(self, file: Path, name: str) -> tuple[SliceHeader, ...]:
        """Return one header for every slice in a file, which messages call `name`.

        Raises `NotUsed` if it is no DICOM image of a plane in the patient (D03, D13,
        D14). Raises `Damaged` if it starts as DICOM but cannot be parsed, or could do
        harm (P10, S06-S08).
        """
        try:
            return (self._walked(file, name),)
        except (NotUsed, Damaged, OSError):
            raise
        except Exception:  # noqa: BLE001 - whatever it is, it is not plain
            return self._parse(file, name)

    def _walked(self, file: Path, name: str) -> SliceHeader:
        """Return the one slice of a plain file; anything else raises `Unusual`."""
        walked = self._walker.walk(file)
        raw = walked.raw
        key = tuple(map(raw.get, _COMMON_TAGS))
        template = self._templates.get(key)
        if template is None:
            shared = {tag: value for tag, value in raw.items() if tag not in _OWN_TAGS}
            template = _plain_template(convert_all(shared, _KEYWORDS))
            self._templates[key] = template
        own = {name: convert(raw[tag]) for tag, name in _OWN_TAGS.items() if tag in raw}
        pixels = PixelPlace("PixelData", walked.offset, walked.length, walked.available)
        return _completed(template, [own], file=file, name=name, pixels=pixels)


def _plain_template(dataset: Header) -> SliceHeader:
    sop_class = _image_class(dataset, dataset)
    if _announced_frames(dataset) != 1 or sop_class.endswith(_ENHANCED):
        raise Unusual
    template = _template([dataset], PLAIN_SYNTAX, 1)
    return replace(template, mended=tuple(_other_class(sop_class)))


def _read_by_pydicom(file: Path, name: str) -> tuple[SliceHeader, ...]:
    with open_dicom(file) as stream:
        start = stream.read(_SNIFF_BYTES)
        if not start:
            raise NotUsed(EMPTY, code="D14")
        announced = start[_PREAMBLE_BYTES : _PREAMBLE_BYTES + 4] == b"DICM"
        # Without 'DICM' a file may be DICOM if it starts with a low group number.
        headless = len(start) > 8 and start[0] in (2, 8) and start[1] == 0  # noqa: PLR2004 - a tag and a length
        if not announced and not headless:
            raise NotUsed("not a DICOM file", code="D14")
        try:
            return _parsed(file, name, stream, announced=announced)
        except (NotUsed, Damaged):
            raise
        except Exception as error:  # the boundary around one untrusted file
            kind = Damaged if announced else NotUsed
            problem = f"its header cannot be read ({type(error).__name__})"
            raise kind(problem, code="P10") from error


def open_dicom(file: Path) -> BinaryIO:
    """Open a file; of a DICOM file that is packed with gzip, the content.

    Raises `Damaged` if the content is cut off (P10), or larger than images are (S06).
    """
    stream = file.open("rb")
    packed, _ = stream.read(2) == _GZIP, stream.seek(0)
    if not packed:
        return stream
    inflater, start = zlib.decompressobj(zlib.MAX_WBITS | 16), b""
    try:
        with stream:
            start = inflater.decompress(stream.read(_SNIFF_BYTES), _SNIFF_BYTES)
            if start[_PREAMBLE_BYTES : _PREAMBLE_BYTES + 4] != b"DICM":
                return BytesIO(start or _GZIP)
            rest = inflater.unconsumed_tail + stream.read()
            content = start + inflater.decompress(rest, MAX_INFLATED_BYTES)
    except zlib.error as error:
        if not start:
            return BytesIO(_GZIP)
        raise Damaged(f"its gzip content is damaged ({error})", code="P10") from error
    if len(content) >= MAX_INFLATED_BYTES:
        most = f"{MAX_INFLATED_BYTES >> 20} MiB"
        raise Damaged(f"its gzip content is larger than {most}", code="S06")
    if not inflater.eof:
        raise Damaged("its gzip content is cut off", code="P10")
    return BytesIO(content)


def _parsed(
    file: Path, name: str, stream: BinaryIO, *, announced: bool
) -> tuple[SliceHeader, ...]:
    refuse_a_bomb(stream, announced=announced)
    dataset = _read(stream, _FRAMES_TAG, announced=announced)
    named, rows = dataset.original_encoding[0], dataset.get_item("Rows")
    implicit = getattr(rows, "is_implicit_VR", named)  # as pydicom found it
    header, meta = _Elements(dataset), dataset.file_meta
    sop_class = _image_class(header, meta)
    if not announced and None in (_whole(header, "Rows"), _whole(header, "Columns")):
        raise NotUsed("not a DICOM file", code="D14")
    frames = _announced_frames(header)
    syntax = _text(meta, "TransferSyntaxUID") or _guessed_syntax(dataset)
    other_form = implicit != named
    groups: Header = {}
    if frames > 1 or sop_class.endswith(_ENHANCED) or not _at_pixels(stream):
        plain = syntax == PLAIN_SYNTAX and not implicit
        groups = _walked_groups(stream) if plain else {}
        if not groups:
            dataset = _read(stream, _PIXELS_TAG, announced=announced)
            groups = _Elements(dataset)
    pixels = _pixel_place(stream, syntax, implicit=bool(implicit))
    packed = isinstance(stream, BytesIO) or other_form
    pixels = replace(pixels, packed=packed)
    mended = (*["syntax"] * other_form, *_other_class(sop_class))
    of_frames = _functional_groups(groups, sop_class, frames)
    found = {"file": file, "name": name, "pixels": pixels, "mended": mended}
    return tuple(_frames_of(_Elements(dataset), of_frames, syntax, found))


def _frames_of(
    dataset: _Elements,
    groups: tuple[_Group, list[_Group]],
    syntax: str,
    found: Mapping[str, Any],
) -> Iterator[SliceHeader]:
    """Yield the header of each frame; those that differ by place share the rest."""
    shared, per_frame = groups
    of_all, known = _flattened(shared), dict[Any, SliceHeader]()
    for index, own in enumerate(per_frame):
        values = of_all | _flattened(own)
        alike = tuple(item for item in values.items() if item[0] != _PLACE)
        if alike not in known:
            known[alike] = _template((dataset, values), syntax, len(per_frame))
        made = _completed(known[alike], (dataset, values), frame=index, **found)
        commas = ("comma",) * (dataset.had_commas or _COMMA in values)
        yield replace(made, mended=(*made.mended, *commas))


def _announced_frames(dataset: Header) -> int:
    """Return the number of frames; refuse a header that breaks off or is impossible."""
    rows, columns = _whole(dataset, "Rows"), _whole(dataset, "Columns")
    if rows is None or columns is None:
        raise Damaged("its header breaks off before Rows and Columns", code="P10")
    if not (0 < rows <= MAX_MATRIX and 0 < columns <= MAX_MATRIX):
        raise Damaged(f"its matrix of {rows} x {columns} is impossible", code="S07")
    frames = _whole(dataset, "NumberOfFrames") or 1
    if not 0 < frames <= MAX_FRAMES:
        raise Damaged(f"its number of frames, {frames}, is impossible", code="S07")
    return frames


def _template(groups: Sequence[Header], syntax: str, frames: int) -> SliceHeader:
    """Return a header without the fields of one slice; later groups overrule earlier.

    `groups` are the dataset itself and, of an enhanced image, its functional groups.
    """
    dataset = groups[0]
    return SliceHeader(
        file=Path(),
        name="",
        frame=0,
        frames=frames,
        identity=Identity(
            patient=_text(dataset, "PatientID"),
            birth_date=_text(dataset, "PatientBirthDate"),
            study=_text(dataset, "StudyInstanceUID"),
            series=_text(dataset, "SeriesInstanceUID"),
            frame_of_reference=_text(dataset, "FrameOfReferenceUID"),
            instance="",
        ),
        contrast=_contrast(groups),
        plane=Plane(
            position_mm=None,
            orientation=_numbers(_first(groups, "ImageOrientationPatient"), 6),
            pixel_spacing_mm=_numbers(_first(groups, "PixelSpacing"), 2),
            rows=_whole(dataset, "Rows") or 0,
            columns=_whole(dataset, "Columns") or 0,
        ),
        encoding=_encoding(syntax, groups),
        pixels=PixelPlace(),
        series_number=_joined(dataset.get("SeriesNumber")).strip(),
        description=_text(dataset, "SeriesDescription"),
        instance_number=None,
        images_in_acquisition=_whole(dataset, "ImagesInAcquisition"),
        thickness_mm=_number(_first(groups, "SliceThickness")),
        declared_spacing_mm=_number(_first(groups, "SpacingBetweenSlices")),
        patient_position=_patient_position(_text(dataset, "PatientPosition")),
        burned_in=_text(dataset, "BurnedInAnnotation").upper() == "YES",
        privately_scaled=_PRIVATE_SCALE in dataset,
    )


def _completed(
    template: SliceHeader,
    groups: Sequence[Header],
    **found: Any,  # noqa: ANN401 - the fields of `SliceHeader`
) -> SliceHeader:
    """Add to a template the fields that a slice does not share with the others."""
    instance = _text(groups[0], "SOPInstanceUID")
    position = _numbers(_first(groups, "ImagePositionPatient"), 3)
    return replace(
        template,
        identity=replace(template.identity, instance=instance),
        plane=replace(template.plane, position_mm=position),
        instance_number=_whole(groups[0], "InstanceNumber"),
        **found,
    )


def _patient_position(word: str) -> str:
    """Return a defined term of PS3.3 C.7.3.1.1.2; empty for any other word."""
    terms = {f"{way}{lies}" for way in ("HF", "FF") for lies in ("S", "P", "DR", "DL")}
    return word if (word := word.strip().upper()) in terms else ""


def _contrast(groups: Sequence[Header]) -> Contrast:
    def text(*keywords: str) -> str:
        return _joined(_first(groups, *keywords))

    echo_time = _number(_first(groups, "EffectiveEchoTime", "EchoTime"))
    kinds = _first(groups, "FrameType") or _first(groups, "ImageType") or ()
    if isinstance(kinds, str):
        kinds = [kinds]
    return Contrast(
        modality=_text(groups[0], "Modality"),
        image_type=tuple(str(kind).strip().upper() for kind in kinds),
        echo_time_ms=None if echo_time is None else round(echo_time, 2),
        echo=text("EchoNumbers"),
        acquisition=text("FrameAcquisitionNumber", "AcquisitionNumber"),
        temporal_position=text("TemporalPositionIndex", "TemporalPositionIdentifier"),
        trigger_time=text("NominalCardiacTriggerDelayTime", "TriggerTime"),
    )


def _encoding(syntax: str, groups: Sequence[Header]) -> Encoding:
    dataset = groups[0]
    allocated = _whole(dataset, "BitsAllocated") or 16
    stored = _whole(dataset, "BitsStored") or allocated
    high = _whole(dataset, "HighBit")
    slope = _number(_first(groups, "RescaleSlope"))
    intercept = _number(_first(groups, "RescaleIntercept"))
    return Encoding(
        syntax=syntax,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=stored - 1 if high is None else high,
        signed=_whole(dataset, "PixelRepresentation") == 1,
        inverted=_text(dataset, "PhotometricInterpretation").upper() == "MONOCHROME1",
        slope=1.0 if slope is None else slope,
        intercept=0.0 if intercept is None else intercept,
        padding=_whole(dataset, "PixelPaddingValue"),
        lossy=_text(dataset, "LossyImageCompression") == "01",
    )


def _read(stream: BinaryIO, end: int, *, announced: bool) -> Dataset:
    """Parse a header up to a tag; the stream stands at the first element behind."""
    stream.seek(0)
    return read_partial(
        stream,
        lambda tag, _kind, _length: int(tag) >= end,
        force=not announced,
        specific_tags=list(map(BaseTag, _WALKED_TAGS)),
    )


def _walked_groups(stream: BinaryIO) -> Header:
    """Return the functional groups and go to the pixels; empty if pydicom has to."""
    begin = stream.tell()
    try:
        groups, end = walk_elements(
            stream.read(_GROUPS_BYTES), _GROUP_TAGS, _PIXELS_TAG
        )
    except (Unusual, struct.error):
        return {}
    stream.seek(begin + end)
    return groups


def _at_pixels(stream: BinaryIO) -> bool:
    head = stream.read(3)
    stream.seek(-len(head), 1)
    return head[:2] == b"\xe0\x7f" and head[2:] >= b"\x08"


def refuse_a_bomb(stream: BinaryIO, *, announced: bool) -> None:
    """Refuse a file that inflates beyond measure (S06), or has too many items (S07).

    Pydicom takes 25 us and half a kilobyte for an empty item. Where deflated content
    begins is found as pydicom finds it: the length that the file states for its first
    group may be false.
    """
    stream.seek(0)
    _refuse_many_items(stream.read(2 * _GROUPS_BYTES))
    stream.seek(0)
    read_preamble(stream, force=not announced)
    if _read_file_meta_info(stream).get("TransferSyntaxUID") != _DEFLATED:
        return
    _read_command_set_elements(stream)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    body = stream.read()
    inflated = items = 0
    while body and not inflater.eof:
        content = inflater.decompress(body, _INFLATED_AT_ONCE)
        body, inflated = inflater.unconsumed_tail, inflated + len(content)
        items = _refuse_many_items(content, items)
        if inflated > MAX_INFLATED_BYTES:
            most = f"{MAX_INFLATED_BYTES >> 20} MiB"
            raise Damaged(f"it inflates to more than {most}", code="S06")


def _refuse_many_items(content: bytes, items: int = 0) -> int:
    """Return the number of items so far; those of pixels count, too."""
    if b"\xfe" in content:  # it is quicker
        items += max(content.count(_ITEM), content.count(_ITEM[1::-1] + _ITEM[:1:-1]))
    if items > MAX_ITEMS:
        raise Damaged(f"its sequences have more than {MAX_ITEMS} items", code="S07")
    return items


def holds_segments(reason: str) -> bool:
    """Whether a file was not used because it is a segmentation, or a structure set."""
    return any(kind in reason for kind in ("Segmentation", "Structure Set"))


def _image_class(dataset: Header, meta: Header) -> str:
    """Return the SOP class of an MR or CT image; refuse any other file (D03, D13)."""
    sop_class = _text(dataset, "SOPClassUID") or _text(meta, "MediaStorageSOPClassUID")
    if sop_class == _INDEX_CLASS:
        raise NotUsed("index of a file set (DICOMDIR)", code="D13")
    by_modality = not sop_class and _text(dataset, "Modality") in ("MR", "CT")
    usual = sop_class in MR_CLASSES | CT_CLASSES or by_modality
    placed = "ImageOrientationPatient" in dataset and "PixelSpacing" in dataset
    single = (_whole(dataset, "NumberOfFrames") or 1) == 1
    mr = _text(dataset, "Modality") in ("MR", "CT") and bool(_other_class(sop_class))
    if not (usual or (placed and single and mr)):
        raise NotUsed(f"not an MR image but {_kind_named(sop_class)}", code="D03")
    if (_whole(dataset, "SamplesPerPixel") or 1) > 1:
        raise NotUsed("colour image", code="D03")
    return sop_class


def _other_class(sop_class: str) -> list[str]:
    """Return the key of a correction for a secondary capture or a private class."""
    captured = sop_class.startswith(_SECONDARY_CAPTURE)
    private = bool(sop_class) and not sop_class.startswith(_STANDARD)
    return ["class"] * (captured or private)


def _kind_named(sop_class: str) -> str:
    """Return the standard's name of a class, never a text from the file itself."""
    if not sop_class:
        return "a file without an SOP class"
    name = UID(sop_class).name
    return "a file of an unknown class" if name == sop_class else str(name)


def _functional_groups(
    groups: Header, sop_class: str, frames: int
) -> tuple[_Group, list[_Group]]:
    """Return the shared group and one own group a frame (PS3.3 C.7.6.16)."""
    if not sop_class.endswith(_ENHANCED) and frames == 1:
        return {}, [{}]
    per_frame = list(map(_named, groups.get("PerFrameFunctionalGroupsSequence") or []))
    if len(per_frame) != frames:
        known = f"it holds {frames} frames, but says where {len(per_frame)} of them lie"
        raise Damaged(known, code="D12")
    shared = groups.get("SharedFunctionalGroupsSequence") or [{}]
    return _named(shared[0]), per_frame


def _named(group: Header) -> _Group:
    return _Elements(group) if isinstance(group, Dataset) else group


_GROUPS = (
    "PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence",
    "PixelValueTransformationSequence", "MREchoSequence", "MRImageFrameTypeSequence",
    "CTImageFrameTypeSequence", "FrameContentSequence",
    "CardiacSynchronizationSequence", "UnassignedSharedConvertedAttributesSequence",
    "UnassignedPerFrameConvertedAttributesSequence",
)  # fmt: skip
"""The functional groups with the place, the scale or the contrast of a frame."""

_PLACE, _COMMA = "ImagePositionPatient", "decimal comma"
_OF_GROUPS = (
    _PLACE, "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "EffectiveEchoTime", "EchoTime", "FrameType", "ImageType",
    "EchoNumbers", "FrameAcquisitionNumber", "AcquisitionNumber",
    "TemporalPositionIndex", "TemporalPositionIdentifier",
    "NominalCardiacTriggerDelayTime", "TriggerTime", "RescaleSlope", "RescaleIntercept",
)  # fmt: skip
"""What is read of a functional group."""

_GROUP_TAGS: dict[int, Any] = {
    int(tag_for_keyword(name) or 0): name
    for name in (*_TAGS[-2:], *_GROUPS, *_OF_GROUPS)
}
_GROUPS_BYTES = 32 << 20
"""Most bytes of functional groups that are not left to pydicom: 4 KiB a frame."""


class _Elements(Mapping[Any, Any]):
    """Elements of a dataset by keyword, each converted once; pydicom is slower."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset, self._known = dataset, dict[Any, Any]()
        self.had_commas = False

    def __getitem__(self, keyword: Any) -> Any:  # noqa: ANN401 - any value representation
        """Return a value; of a private element, by its tag."""
        if keyword not in self._known:
            self._write_points(_tag_of(keyword))
            self._known[keyword] = self._dataset[_tag_of(keyword)].value
        return self._known[keyword]

    def _write_points(self, tag: int) -> None:
        """Write the decimal commas of a number as points."""
        raw: Any = self._dataset.get_item(tag)
        stored: Any = raw.value if isinstance(raw, RawDataElement) else None
        if b"," in (stored or b"") and (raw.VR or dictionary_VR(tag)) == "DS":
            parts = stored.split(b"\\")
            points = (p if b"." in p else p.replace(b",", b".") for p in parts)
            self._dataset[tag] = raw._replace(value=b"\\".join(points))
            self.had_commas = True

    def __contains__(self, keyword: Any) -> bool:  # noqa: ANN401 - likewise
        """Whether the dataset has the element."""
        return _tag_of(keyword) in self._dataset.keys()  # noqa: SIM118 - it is quicker

    def get(self, keyword: Any, default: Any = None) -> Any:  # noqa: ANN401 - likewise
        """Return a value, or None."""
        return self[keyword] if _tag_of(keyword) in self._dataset.keys() else default  # noqa: SIM118 - likewise

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the tags."""
        return iter(self._dataset.keys())

    def __len__(self) -> int:
        """Return the number of elements."""
        return len(self._dataset)


@cache
def _tag_of(keyword: str | int) -> int:
    tag = keyword if isinstance(keyword, int) else tag_for_keyword(keyword)
    return BaseTag(tag or 0)


def _flattened(own: _Group) -> dict[str, Any]:
    """Return the values of the functional groups; later groups overrule earlier."""
    found: dict[str, Any] = {}
    for sequence in (own[keyword] for keyword in _GROUPS if keyword in own):
        group = _named(sequence[0]) if sequence else {}
        for name in (name for name in _OF_GROUPS if name in group):
            if (value := group[name]) is not None and value != "":
                several = isinstance(value, MultiValue | list)
                found[name] = tuple(value) if several else value
        found |= {_COMMA: True} if getattr(group, "had_commas", False) else {}
    return found


def _pixel_place(stream: BinaryIO, syntax: str, *, implicit: bool) -> PixelPlace:
    """Return the place of the pixels; pydicom has stopped at the tag before them."""
    if syntax == _DEFLATED:
        return PixelPlace()
    offset = stream.tell()
    head = stream.read(12)
    end = stream.seek(0, 2)
    order = NATIVE_SYNTAXES.get(syntax, "<")
    if len(head) < 8 or struct.unpack_from(order + "H", head)[0] != 0x7FE0:  # noqa: PLR2004 - a tag and a length; the group of the pixels
        return PixelPlace(offset=offset, length=0, available=0)
    (element,) = struct.unpack_from(order + "H", head, 2)
    keyword = {8: "FloatPixelData", 9: "DoubleFloatPixelData"}.get(element, "PixelData")
    at = 4 if implicit else 8
    (length,) = struct.unpack_from(order + "I", head, at)
    begin = offset + at + 4
    available = max(0, end - begin)
    length = available if length == _UNDEFINED else length
    return PixelPlace(keyword, begin, length, available)


def _guessed_syntax(dataset: Dataset) -> str:
    """Return the syntax that pydicom guessed for a file that does not name it."""
    implicit, little = dataset.original_encoding
    if implicit:
        return _IMPLICIT
    return PLAIN_SYNTAX if little else _BIG_ENDIAN


def _first(groups: Sequence[Header], *keywords: str) -> Any:  # noqa: ANN401 - any value representation
    """Return the value of the first keyword that has one, of the last group first."""
    for keyword in keywords:
        for group in reversed(groups):
            value = group.get(keyword)
            if value is not None and value != "":
                return value
    return None


def _text(dataset: Header, keyword: str) -> str:
    """Return a text, empty if it cannot be decoded (P12)."""
    try:
        value = dataset.get(keyword)
    except Exception:  # noqa: BLE001 - a text never decides whether pixels are read
        return ""
    return "" if value is None else str(value).strip()


def _whole(dataset: Header, keyword: str) -> int | None:
    value = dataset.get(keyword)
    return None if value is None or value == "" else int(value)


def _number(value: Any) -> float | None:  # noqa: ANN401 - likewise
    return None if value is None or value == "" else float(value)


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:  # noqa: ANN401 - likewise
    if value is None or isinstance(value, (str, float, int)) or len(value) != count:
        return None
    return tuple(float(number) for number in value)


def _joined(value: Any) -> str:  # noqa: ANN401 - likewise
    """Return a value as text; whole numbers without a decimal point."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        number = float(value)
        return str(int(number)) if number.is_integer() else repr(number)
    return "/".join(map(_joined, value))
