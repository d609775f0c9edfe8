"""The pixels of a stack: each slice decoded and scaled by its own tags.

Uncompressed slices are read with one seek, straight from the place that the header
noted; everything else goes through pydicom and its decoders. The slices fill one array
that is allocated once; nothing holds a second copy of the volume, except while numbers
of a wider type are narrowed.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from nnunet_bridge.core.findings import Finding, Outcome, Refused
from nnunet_bridge.core.image import VoxelArray
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.formats.dicom.headers import (
    NATIVE_SYNTAXES,
    Encoding,
    SliceHeader,
)
from nnunet_bridge.formats.dicom.stations import Overlap
from nnunet_bridge.formats.memory import ask_for_memory

_LOSSY = frozenset(
    f"1.2.840.10008.1.2.4.{ending}" for ending in ("50", "51", "81", "91", "93", "203")
)
_DECODERS = {
    f"1.2.840.10008.1.2.4.{ending}": "`pylibjpeg-openjpeg`"
    for ending in ("201", "202", "203")
}
"""What decodes a syntax that python-gdcm does not know."""

_FLOATS = {"FloatPixelData": "f4", "DoubleFloatPixelData": "f8"}
_MOSTLY = 0.5
_STATIONS_AGREE_WITHIN = 0.10
"""Of the median intensity; where two stations differ by more, it is worth a look."""
_OTHER_BYTES_PER_VOXEL = 5
"""What a case needs beside its image, as measured (`benchmarks/growth.py`): all masks
together, one mask as it is stored and as it is read, and what comes and goes (F10)."""

_WIDE, _BYTE = (16, 32), (8,)


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """The values of a stack and how they came about."""

    voxels: VoxelArray
    """(I, J, K), Fortran-ordered."""

    slopes: tuple[float, float]
    """Smallest and largest Rescale Slope."""

    intercepts: tuple[float, float]
    """Smallest and largest Rescale Intercept."""

    findings: tuple[Finding, ...]


def read_pixels(
    headers: Sequence[SliceHeader], overlap: Overlap | None = None
) -> Pixels:
    """Return the values of slices that are in stacking order.

    Parameters
    ----------
    headers : sequence of SliceHeader
        One a slice.
    overlap : Overlap, optional
        Further images at some of their places, and what becomes of them.

    Raises
    ------
    Refused
        If a slice cannot be decoded (P07), is cut off (P09), holds no finite numbers
        or the whole volume only one value (P11).
    """
    overlap = overlap or Overlap()
    everything = (*headers, *overlap.headers)
    findings = [*_encodings(everything)]
    rows, columns = headers[0].plane.rows, headers[0].plane.columns
    kind = np.dtype(_working_type(everything))
    ask_for_memory(
        len(headers) * rows * columns * (kind.itemsize + _OTHER_BYTES_PER_VOXEL),
        f"A scan of {columns} x {rows} x {len(headers)} voxels with its masks",
    )
    buffer = np.empty((len(headers), rows, columns), kind)
    notes = _Notes()
    source = _FrameSource()
    for k, header in enumerate(headers):
        span = _read_straight(buffer[k], header)
        if span is None:
            stored = _stored(header, source)
            values = _significant(stored, header.encoding)
            notes.look_at(k, header, stored, values)
            buffer[k] = _scaled(values, header.encoding, buffer.dtype)
            span = _span(buffer[k])
        notes.ranges.append(span)
    notes.refuse_what_is_no_number()
    findings += notes.padded(buffer)
    findings += _joined(buffer, overlap, notes, source)
    findings += notes.constant()
    slopes = [header.encoding.slope for header in everything]
    intercepts = [header.encoding.intercept for header in everything]
    return Pixels(
        voxels=_narrowed(buffer, notes.lowest, notes.highest).transpose(2, 1, 0),
        slopes=(min(slopes), max(slopes)),
        intercepts=(min(intercepts), max(intercepts)),
        findings=tuple(findings),
    )


def _encodings(headers: Sequence[SliceHeader]) -> list[Finding]:
    """Refuse what cannot be decoded before any pixel is read (P01, P07)."""
    for syntax in sorted(
        {header.encoding.syntax for header in headers} - set(NATIVE_SYNTAXES)
    ):
        _check_decoder(syntax)
    for header in headers:
        scale = (header.encoding.slope, header.encoding.intercept)
        if not all(map(math.isfinite, scale)) or header.encoding.slope == 0:
            raise Refused.because(
                "P01",
                f"{quoted(header.name)} has Rescale Slope {scale[0]:g} and Intercept "
                f"{scale[1]:g}, which make no image: export it again.",
            )
    lossy = sum(h.encoding.lossy or h.encoding.syntax in _LOSSY for h in headers)
    if not lossy:
        return []
    return [
        Finding(
            "P07",
            Outcome.WARNED,
            f"{lossy} of {len(headers)} slices were compressed with loss.",
        )
    ]


def _check_decoder(syntax: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a damaged UID has no decoder, we say so
        uid = UID(syntax)
        try:
            available = get_decoder(uid).is_available
        except NotImplementedError:
            available = False
    if not available and uid != "1.2.840.10008.1.2.1.99":
        raise Refused.because(
            "P07",
            f"No decoder for the transfer syntax {quoted(uid.name)} is installed: "
            f"install {_DECODERS.get(syntax, '`python-gdcm`')}.",
        )


def _working_type(headers: Sequence[SliceHeader]) -> npt.DTypeLike:
    """Return a type that holds every value the headers allow."""
    scales = {(h.encoding.slope, h.encoding.intercept) for h in headers}
    whole = all(float(a).is_integer() and float(b).is_integer() for a, b in scales)
    if not whole or any(h.pixels.keyword in _FLOATS for h in headers):
        return np.float32
    bounds = [bound for h in headers for bound in _bounds(h.encoding)]
    for kind in (np.int16, np.uint16, np.int32):
        limits = np.iinfo(kind)
        if limits.min <= min(bounds) and max(bounds) <= limits.max:
            return kind
    return np.float32


def _bounds(encoding: Encoding) -> tuple[float, float]:
    bits = encoding.bits_stored
    low, high = (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        if encoding.signed
        else (0, 2**bits - 1)
    )
    ends = [end * encoding.slope + encoding.intercept for end in (low, high)]
    return min(ends), max(ends)


def _stored(header: SliceHeader, source: _FrameSource) -> npt.NDArray[Any]:
    """Return the (rows, columns) numbers as they are stored."""
    order = NATIVE_SYNTAXES.get(header.encoding.syntax)
    if header.pixels.keyword in _FLOATS and order:
        return _plain(header, order + _FLOATS[header.pixels.keyword])
    allocated = header.encoding.bits_allocated
    plain = allocated in _WIDE or (allocated in _BYTE and order == "<")
    if order and plain and header.pixels.offset >= 0:
        sign = "i" if header.encoding.signed else "u"
        return _plain(header, f"{order}{sign}{allocated // 8}")
    return source.frame(header)


def _plain(header: SliceHeader, kind: str) -> npt.NDArray[Any]:
    """Return one uncompressed frame; refuse one that is cut off (P09)."""
    stored = np.empty((header.plane.rows, header.plane.columns), kind)
    _check_size(header, stored.nbytes)
    _read_into(stored, header)
    return stored


def _read_straight(
    plane: npt.NDArray[Any], header: SliceHeader
) -> tuple[float, float] | None:
    """Read a frame into its place, if it is stored there as it shall be in the end.

    Returns
    -------
    span : (float, float) or None
        Smallest and largest value. None if the frame needs more than reading; the
        plane may then hold anything.
    """
    encoding = header.encoding
    if not (
        encoding.is_plain
        and encoding.bits_allocated == plane.dtype.itemsize * 8
        and plane.dtype.kind in "iu"
        and header.pixels.keyword == "PixelData"
        and header.pixels.offset >= 0
    ):
        return None
    sign = "i" if encoding.signed else "u"
    stored = plane.view(
        f"{NATIVE_SYNTAXES[encoding.syntax]}{sign}{plane.dtype.itemsize}"
    )
    if not stored.dtype.isnative:
        return None
    _check_size(header, plane.nbytes)
    _read_into(stored, header)
    span = _span(stored)
    low, high = _bounds(encoding)
    rubbish_above_the_high_bit = span[0] < low or high < span[1]
    return None if rubbish_above_the_high_bit else span


def _check_size(header: SliceHeader, frame_bytes: int) -> None:
    """Refuse a file that is cut off (P09)."""
    expected = frame_bytes * header.frames
    found = min(header.pixels.length, header.pixels.available)
    if found < expected:
        raise _cut_off(header, f"{expected} bytes of pixels announced, {found} found")


def _read_into(place: npt.NDArray[Any], header: SliceHeader) -> None:
    """Fill `place` with the stored bytes of a frame."""
    descriptor = os.open(header.file, os.O_RDONLY)
    try:
        start = header.pixels.offset + place.nbytes * header.frame
        read = os.preadv(descriptor, [place.data], start)
    finally:
        os.close(descriptor)
    if read < place.nbytes:
        raise _cut_off(header, f"{place.nbytes} bytes of pixels expected, {read} read")


def _cut_off(header: SliceHeader, what: str) -> Refused:
    return Refused.because(
        "P09",
        f"{quoted(header.name)} is cut off ({what}): copy or export it again.",
    )


@dataclass(slots=True)
class _FrameSource:
    """Decodes through pydicom; holds the dataset of the last file."""

    file: Path | None = None
    dataset: Any = None

    def frame(self, header: SliceHeader) -> npt.NDArray[Any]:
        """Return the decoded (rows, columns) frame of a slice."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what matters, we check
                if self.file != header.file:
                    self.dataset = pydicom.dcmread(header.file, force=True)
                    self.file = header.file
                index = header.frame if header.frames > 1 else 0
                values = pixel_array(self.dataset, index=index, raw=True)
        except Exception as error:  # the boundary around one untrusted file
            raise _cut_off(
                header, f"its pixels cannot be decoded: {type(error).__name__}"
            ) from error
        shape = (header.plane.rows, header.plane.columns)
        if values.shape != shape:
            raise _cut_off(header, f"it decodes to {values.shape}, not {shape}")
        decoded: npt.NDArray[Any] = values
        return decoded


def _significant(values: npt.NDArray[Any], encoding: Encoding) -> npt.NDArray[Any]:
    """Clear the bits that do not belong to the value: overlays, rubbish (P06)."""
    if values.dtype.kind not in "iu":
        return values
    width = values.dtype.itemsize * 8
    above = width - 1 - encoding.high_bit
    unused = width - encoding.bits_stored
    if unused <= 0 or above < 0:
        return values
    native: npt.NDArray[Any] = values.astype(values.dtype.newbyteorder("="))
    # Left, so that the value's own sign bit is on top; right, so that it spreads.
    np.left_shift(native, above, out=native)
    np.right_shift(native, unused, out=native)
    return native


def _joined(
    buffer: npt.NDArray[Any], overlap: Overlap, notes: _Notes, source: _FrameSource
) -> list[Finding]:
    """Join the images of overlapping stations, and say how much they differ (D09)."""
    if not overlap.others:
        return []
    differences, seen = [], []
    for k, others in overlap.others.items():
        first = buffer[k].astype(np.float64)
        planes = [first]
        for header in others:
            values = _significant(_stored(header, source), header.encoding)
            scaled = _scaled(values, header.encoding, buffer.dtype)
            planes.append(scaled.astype(np.float64))
            differences.append(float(np.abs(planes[-1] - first).mean()))
        seen += planes
        if overlap.how == "mean":
            mean = np.mean(planes, axis=0)
            buffer[k] = np.rint(mean) if buffer.dtype.kind in "iu" else mean
            notes.ranges[k] = _span(buffer[k])
    notes.refuse_what_is_no_number()
    difference = float(np.mean(differences))
    median = float(np.median(seen))
    much = difference > _STATIONS_AGREE_WITHIN * abs(median)
    used = (
        "the first station's is used" if overlap.how == "first" else "they are averaged"
    )
    return [
        Finding(
            "D09",
            Outcome.WARNED if much else Outcome.FIXED,
            f"{len(overlap.others)} places hold an image of more than one of "
            f"{overlap.stations} stations; {used}, as asked for. The images differ by "
            f"{difference:.1f} on average, the median intensity there is {median:.1f}.",
        )
    ]


def _scaled(
    stored: npt.NDArray[Any], encoding: Encoding, kind: np.dtype[Any]
) -> npt.NDArray[Any]:
    """Return the values that the stored numbers mean; white is the largest.

    A fractional scale is applied in the precision of the result (P01); whole numbers
    that fit no float32 keep every digit.
    """
    if encoding.inverted:
        stored = _turned_over(stored, encoding)
    if encoding.slope == 1.0 and encoding.intercept == 0.0:
        return stored
    precision = np.dtype(np.float32 if kind == np.float32 else np.float64)
    scaled: npt.NDArray[Any] = stored.astype(precision)
    scaled *= precision.type(encoding.slope)
    scaled += precision.type(encoding.intercept)
    return scaled


def _turned_over(values: npt.NDArray[Any], encoding: Encoding) -> npt.NDArray[Any]:
    """Return MONOCHROME1 values with the smallest as black (P03)."""
    if values.dtype.kind not in "iu":
        raise Refused.because(
            "P03", "MONOCHROME1 with floating numbers cannot be turned over."
        )
    bits = encoding.bits_stored
    ends = -1 if encoding.signed else 2**bits - 1  # the smallest and the largest
    turned: npt.NDArray[Any] = values.dtype.type(ends) - values
    return turned


@dataclass(slots=True)
class _Notes:
    """What is noticed while slice after slice goes by."""

    padding: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)
    """Packed bits: which pixels of slice k are padding."""

    ranges: list[tuple[float, float]] = field(default_factory=list)
    """Smallest and largest value of every slice."""

    @property
    def lowest(self) -> float:
        """The smallest value of the volume."""
        return min(low for low, _ in self.ranges)

    @property
    def highest(self) -> float:
        """The largest value of the volume."""
        return max(high for _, high in self.ranges)

    def refuse_what_is_no_number(self) -> None:
        """Refuse NaN and infinite values (P11)."""
        if not np.isfinite(self.ranges).all():
            raise Refused.because(
                "P11", "The image holds NaN or infinite values: export it again."
            )

    def look_at(
        self,
        k: int,
        header: SliceHeader,
        stored: npt.NDArray[Any],
        values: npt.NDArray[Any],
    ) -> None:
        """Remember which pixels of slice `k` are padding.

        Padding may use bits that values may not, so both readings are asked.
        """
        if header.encoding.padding is None:
            return
        padding = _as_stored(header.encoding.padding, stored.dtype)
        is_padding = (stored == padding) | (values == padding)
        if is_padding.any():
            self.padding[k] = np.packbits(is_padding)

    def padded(self, buffer: npt.NDArray[Any]) -> list[Finding]:
        """Set padding to the smallest real value (P05)."""
        if not self.padding:
            return []
        shape = buffer.shape[1:]
        smallest: Any = None
        count = 0
        for k, plane in enumerate(buffer):
            is_padding = self._mask(k, shape)
            count += int(is_padding.sum())
            real = plane[~is_padding]
            if real.size:
                lowest = real.min()
                smallest = lowest if smallest is None else min(smallest, lowest)
        if smallest is None:
            raise Refused.because("P11", "The whole image is padding: export it again.")
        for k in self.padding:
            buffer[k][self._mask(k, shape)] = smallest
            self.ranges[k] = _span(buffer[k])
        share = count / buffer.size
        return [
            Finding(
                "P05",
                Outcome.WARNED if share > _MOSTLY else Outcome.FIXED,
                f"{count} voxels ({share:.1%}) are padding and were set to the "
                f"smallest real value, {smallest:g}.",
            )
        ]

    def _mask(self, k: int, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        size = int(np.prod(shape))
        if k not in self.padding:
            return np.zeros(shape, bool)
        return np.unpackbits(self.padding[k], count=size).astype(bool).reshape(shape)

    def constant(self) -> list[Finding]:
        """Refuse a volume of one value; name inner slices of one value (P11)."""
        if self.lowest == self.highest:
            raise Refused.because(
                "P11", f"Every voxel of the image is {self.lowest:g}: export it again."
            )
        lively = np.flatnonzero([low != high for low, high in self.ranges])
        inside = np.arange(lively[0], lively[-1] + 1)
        flat = np.setdiff1d(inside, lively)
        if not len(flat):
            return []
        named = ", ".join(map(str, flat[:5]))
        return [
            Finding(
                "P11",
                Outcome.WARNED,
                f"{len(flat)} slice(s) inside the stack hold one value only: {named}.",
            )
        ]


def _as_stored(padding: int, kind: np.dtype[Any]) -> int:
    """Return the padding value as a slice of that type would store it."""
    if kind.kind == "f":
        return padding
    bits = kind.itemsize * 8
    wrapped = padding % (1 << bits)
    negative = kind.kind == "i" and wrapped >= 1 << (bits - 1)
    return wrapped - (1 << bits) if negative else wrapped


def _span(plane: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the smallest and the largest value."""
    return float(plane.min()), float(plane.max())


def _narrowed(
    buffer: npt.NDArray[Any], lowest: float, highest: float
) -> npt.NDArray[Any]:
    """Return the values as int16 if they fit, as they are otherwise."""
    limits = np.iinfo(np.int16)
    if buffer.dtype == np.int16 or lowest < limits.min or limits.max < highest:
        return buffer
    if buffer.dtype == np.uint16:
        return buffer.view(np.int16)
    if buffer.dtype.kind == "f" and not all(
        np.array_equal(plane, np.rint(plane)) for plane in buffer
    ):
        return buffer
    return buffer.astype(np.int16)
