"""Decode the pixels of a stack and scale each slice by its own header.

Uncompressed slices are read with one seek, from the place that their header noted;
pydicom decodes all others. The slices fill one array that is allocated once. No second
copy of the volume exists, except while a wider type is narrowed.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from nnunet_bridge.core.findings import Finding, Outcome, Refused, warning
from nnunet_bridge.core.image import VoxelArray
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.units import counted
from nnunet_bridge.formats.dicom.codestreams import WrongSize, require_size
from nnunet_bridge.formats.dicom.headers import (
    NATIVE_SYNTAXES,
    Encoding,
    SliceHeader,
    open_dicom,
)
from nnunet_bridge.formats.dicom.stations import Overlap
from nnunet_bridge.formats.memory import ask_for_memory
from nnunet_bridge.formats.system import BINARY, read_into

_JPEG = "1.2.840.10008.1.2.4"
_LOSSY = frozenset(f"{_JPEG}.{ending}" for ending in (50, 51, 81, 91, 93, 203))
_HTJ2K = frozenset(f"{_JPEG}.{ending}" for ending in (201, 202, 203))
"""Syntaxes that python-gdcm cannot decode, but `pylibjpeg-openjpeg`."""

_FLOATS = {"FloatPixelData": "f4", "DoubleFloatPixelData": "f8"}
_MOSTLY = 0.5
_STATIONS_AGREE_WITHIN = 0.10
"""Share of the median intensity; a larger difference of two stations is a warning."""
_OTHER_BYTES_PER_VOXEL = 5
"""Memory that a case needs beside its image, measured with `benchmarks/growth.py`: all
masks together, one mask as stored and as read, and temporary arrays (F10)."""


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """The values of a stack, and how they were scaled."""

    voxels: VoxelArray  # (I, J, K), Fortran-ordered
    slopes: tuple[float, float]  # smallest and largest Rescale Slope
    intercepts: tuple[float, float]  # smallest and largest Rescale Intercept
    findings: tuple[Finding, ...]


def read_pixels(
    headers: Sequence[SliceHeader], overlap: Overlap | None = None
) -> Pixels:
    """Read the pixels of slices that are in stacking order.

    `overlap` holds the images of further stations at some of their places.

    Raises `Refused` if a slice cannot be decoded (P07) or is cut off (P09), or if the
    values are not finite or all the same (P11).
    """
    overlap = overlap or Overlap()
    everything = (*headers, *overlap.headers)
    findings = [*_check_encodings(everything)]
    rows, columns = headers[0].plane.rows, headers[0].plane.columns
    kind = np.dtype(_working_type(everything))
    needed = len(headers) * rows * columns * (kind.itemsize + _OTHER_BYTES_PER_VOXEL)
    scan = f"A scan of {columns} x {rows} x {len(headers)} voxels with its masks"
    ask_for_memory(needed, scan)
    buffer = np.empty((len(headers), rows, columns), kind)
    notes, source = _Notes(), _FrameSource()
    for k, header in enumerate(headers):
        # Most slices are stored as they shall be: read them straight into the buffer.
        span = _read_straight(buffer[k], header)
        if span is None:
            stored = _stored(header, source)
            values = _significant(stored, header.encoding)
            notes.record_padding(k, header, stored, values)
            buffer[k] = _scaled(values, header.encoding, buffer.dtype)
            span = _span(buffer[k])
        notes.ranges.append(span)
    notes.require_finite()
    findings += notes.fill_padding(buffer)
    findings += _join_stations(buffer, overlap, notes, source)
    findings += notes.constant_slices()
    slopes = [header.encoding.slope for header in everything]
    intercepts = [header.encoding.intercept for header in everything]
    return Pixels(
        voxels=_narrowed(buffer, notes.span).transpose(2, 1, 0),
        slopes=(min(slopes), max(slopes)),
        intercepts=(min(intercepts), max(intercepts)),
        findings=tuple(findings),
    )


def _check_encodings(headers: Sequence[SliceHeader]) -> Iterator[Finding]:
    """Refuse slices that cannot be decoded, before any pixel is read (P01, P07)."""
    syntaxes = {header.encoding.syntax for header in headers}
    for syntax in sorted(syntaxes - set(NATIVE_SYNTAXES)):
        _check_decoder(syntax)
    for header in headers:
        slope, intercept = header.encoding.slope, header.encoding.intercept
        if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
            raise Refused.because(
                "P01",
                f"{quoted(header.name)} has Rescale Slope {slope:g} and Intercept "
                f"{intercept:g}, which give no image: export it again.",
            )
    lossy = sum(h.encoding.lossy or h.encoding.syntax in _LOSSY for h in headers)
    if lossy:
        message = f"{lossy} of {len(headers)} slices were compressed with loss."
        yield warning("P07", message)


def _check_decoder(syntax: str) -> None:
    with warnings.catch_warnings(action="ignore"):  # about a damaged UID
        uid = UID(syntax)
        try:
            available = get_decoder(uid).is_available
        except NotImplementedError:
            available = False
    if not available and uid != "1.2.840.10008.1.2.1.99":
        package = "pylibjpeg-openjpeg" if syntax in _HTJ2K else "python-gdcm"
        lack = f"No decoder for the transfer syntax {quoted(uid.name)} is installed"
        raise Refused.because("P07", f"{lack}: install `{package}`.")


def _working_type(headers: Sequence[SliceHeader]) -> npt.DTypeLike:
    """Return the smallest type that holds every value the headers allow."""
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
    """Return the smallest and the largest value that the header allows."""
    values = 2**encoding.bits_stored
    low = -(values // 2) if encoding.signed else 0
    ends = [x * encoding.slope + encoding.intercept for x in (low, low + values - 1)]
    return min(ends), max(ends)


def _stored(header: SliceHeader, source: _FrameSource) -> npt.NDArray[Any]:
    """Return the (rows, columns) numbers as they are stored."""
    order = NATIVE_SYNTAXES.get(header.encoding.syntax)
    allocated = header.encoding.bits_allocated
    kind = _FLOATS.get(header.pixels.keyword, "")
    whole_bytes = (8, 16, 32) if order == "<" else (16, 32)
    if not kind and allocated in whole_bytes:
        kind = f"{'i' if header.encoding.signed else 'u'}{allocated // 8}"
    if not (order and kind and header.pixels.is_direct):
        return _as_placed(source.frame(header), header)
    stored = np.empty((header.plane.rows, header.plane.columns), order + kind)
    _read_frame(stored, header)
    return _as_placed(stored, header)


def _as_placed(stored: npt.NDArray[Any], header: SliceHeader) -> npt.NDArray[Any]:
    """Return a frame in the order of rows and columns that its header describes."""
    rows, columns = (-1 if turned else 1 for turned in header.reversed_axes)
    return stored[::rows, ::columns]


def _read_straight(
    plane: npt.NDArray[Any], header: SliceHeader
) -> tuple[float, float] | None:
    """Read a frame into its plane if the stored numbers are the values.

    Returns smallest and largest value; None if the frame needs decoding or scaling: the
    content of the plane is then undefined.
    """
    encoding = header.encoding
    if not (
        encoding.is_plain
        and encoding.bits_allocated == plane.dtype.itemsize * 8
        and plane.dtype.kind in "iu"
        and header.pixels.keyword == "PixelData"
        and header.pixels.is_direct
        and not any(header.reversed_axes)
    ):
        return None
    sign = "i" if encoding.signed else "u"
    order, size = NATIVE_SYNTAXES[encoding.syntax], plane.dtype.itemsize
    stored = plane.view(f"{order}{sign}{size}")
    if not stored.dtype.isnative:
        return None
    _read_frame(stored, header)
    span, (low, high) = _span(stored), _bounds(encoding)
    # Outside, bits above the high bit are set.
    return span if low <= span[0] and span[1] <= high else None


def _read_frame(place: npt.NDArray[Any], header: SliceHeader) -> None:
    """Fill the array with an uncompressed frame; refuse one that is cut off (P09)."""
    expected = place.nbytes * header.frames
    found = min(header.pixels.length, header.pixels.available)
    if found < expected:
        raise _cut_off(header, f"{expected} bytes of pixels announced, {found} found")
    descriptor = os.open(header.file, os.O_RDONLY | BINARY)
    try:
        start = header.pixels.offset + place.nbytes * header.frame
        read = read_into(descriptor, place.data, start)
    finally:
        os.close(descriptor)
    if read < place.nbytes:
        raise _cut_off(header, f"{place.nbytes} bytes of pixels expected, {read} read")


def _cut_off(header: SliceHeader, what: str) -> Refused:
    return Refused.because(
        "P09", f"{quoted(header.name)} is cut off ({what}): copy or export it again."
    )


@dataclass(slots=True)
class _FrameSource:
    """Decodes frames with pydicom; keeps the dataset of the last file."""

    file: Path | None = None
    dataset: Any = None

    def frame(self, header: SliceHeader) -> npt.NDArray[Any]:
        """Return the decoded (rows, columns) frame of a slice."""
        try:
            with warnings.catch_warnings(action="ignore"):
                if self.file != header.file:
                    with open_dicom(header.file) as stream:
                        self.dataset = pydicom.dcmread(stream, force=True)
                    self.file = header.file
                index = header.frame if header.frames > 1 else 0
                self._require_size(header, index)
                values = pixel_array(self.dataset, index=index, raw=True)
        except WrongSize as error:
            text = f"{quoted(header.name)} cannot be decoded: {error}. Export it again."
            raise Refused.because("S07", text) from error
        except Exception as error:  # the boundary around one untrusted file
            kind = type(error).__name__
            raise _cut_off(header, f"its pixels cannot be decoded: {kind}") from error
        shape = (header.plane.rows, header.plane.columns)
        if values.shape != shape:
            raise _cut_off(header, f"it decodes to {values.shape}, not {shape}")
        decoded: npt.NDArray[Any] = values
        return decoded

    def _require_size(self, header: SliceHeader, index: int) -> None:
        """Refuse a code stream of another size than the header's, before decoding."""
        if not UID(header.encoding.syntax).is_encapsulated:
            return
        frame = get_frame(self.dataset.PixelData, index, number_of_frames=header.frames)
        plane = header.plane
        require_size(frame, header.encoding.syntax, plane.rows, plane.columns)


def _significant(values: npt.NDArray[Any], encoding: Encoding) -> npt.NDArray[Any]:
    """Clear the bits above and below the value, such as overlays (P06)."""
    if values.dtype.kind not in "iu":
        return values
    width = values.dtype.itemsize * 8
    above = width - 1 - encoding.high_bit
    unused = width - encoding.bits_stored
    if unused <= 0 or above < 0:
        return values
    native: npt.NDArray[Any] = values.astype(values.dtype.newbyteorder("="))
    # Shift left until the sign bit of the value is on top, then right: signed types
    # repeat the sign bit on the way down, unsigned types bring in zeros.
    np.left_shift(native, above, out=native)
    np.right_shift(native, unused, out=native)
    return native


def _join_stations(
    buffer: npt.NDArray[Any], overlap: Overlap, notes: _Notes, source: _FrameSource
) -> Iterator[Finding]:
    """Join the images of overlapping stations; report how much they differ (D09)."""
    if not overlap.others:
        return
    differences, all_planes = [], []
    for k, others in overlap.others.items():
        planes = [buffer[k].astype(np.float64)]
        for header in others:
            values = _significant(_stored(header, source), header.encoding)
            scaled = _scaled(values, header.encoding, buffer.dtype)
            planes.append(scaled.astype(np.float64))
            differences.append(float(np.abs(planes[-1] - planes[0]).mean()))
        all_planes += planes
        if overlap.how == "mean":
            mean = np.mean(planes, axis=0)
            buffer[k] = np.rint(mean) if buffer.dtype.kind in "iu" else mean
            notes.ranges[k] = _span(buffer[k])
    notes.require_finite()
    difference, median = float(np.mean(differences)), float(np.median(all_planes))
    much = difference > _STATIONS_AGREE_WITHIN * abs(median)
    how = "the image of the first station is used"
    if overlap.how == "mean":
        how = "they are averaged"
    yield Finding(
        "D09",
        Outcome.WARNED if much else Outcome.FIXED,
        f"{len(overlap.others)} places hold an image of more than one of "
        f"{overlap.stations} stations; {how}, as requested. "
        f"Mean difference of the images: {difference:.1f}; median intensity: "
        f"{median:.1f}.",
    )


def _scaled(
    stored: npt.NDArray[Any], encoding: Encoding, kind: np.dtype[Any]
) -> npt.NDArray[Any]:
    """Apply MONOCHROME1 and the rescale slope and intercept.

    A fractional scale is applied in the precision of the result (P01). Whole numbers
    are scaled in double precision, so that those above float32 keep every digit.
    """
    if encoding.inverted:
        stored = _inverted(stored, encoding)
    if encoding.slope == 1.0 and encoding.intercept == 0.0:
        return stored
    precision = np.dtype(np.float32 if kind == np.float32 else np.float64)
    scaled: npt.NDArray[Any] = stored.astype(precision)
    scaled *= precision.type(encoding.slope)
    scaled += precision.type(encoding.intercept)
    return scaled


def _inverted(values: npt.NDArray[Any], encoding: Encoding) -> npt.NDArray[Any]:
    """Return MONOCHROME1 values with black as the smallest (P03)."""
    if values.dtype.kind not in "iu":
        unclear = "MONOCHROME1 with floating-point numbers cannot be inverted."
        raise Refused.because("P03", unclear)
    # The sum of the smallest and the largest value: -2**(n-1) + 2**(n-1) - 1 = -1.
    ends = -1 if encoding.signed else 2**encoding.bits_stored - 1
    inverted: npt.NDArray[Any] = values.dtype.type(ends) - values
    return inverted


@dataclass(slots=True)
class _Notes:
    """Padding and value ranges of the slices that were read."""

    padding: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)
    """Slice -> packed bits of its pixels that are padding."""

    ranges: list[tuple[float, float]] = field(default_factory=list)
    """Smallest and largest value of every slice."""

    @property
    def span(self) -> tuple[float, float]:
        """Smallest and largest value of the volume."""
        lows, highs = zip(*self.ranges, strict=True)
        return min(lows), max(highs)

    def require_finite(self) -> None:
        """Refuse NaN and infinite values (P11)."""
        if not np.isfinite(self.ranges).all():
            raise Refused.because(
                "P11", "The image holds NaN or infinite values: export it again."
            )

    def record_padding(
        self, k: int, header: SliceHeader, *frames: npt.NDArray[Any]
    ) -> None:
        """Record the pixels of slice `k` that are padding.

        The padding value may use bits above the high bit, so the numbers are compared
        before and after those bits are cleared: `frames` are stored, then cleared.
        """
        if header.encoding.padding is None:
            return
        stored, values = frames
        padding: Any = header.encoding.padding
        if stored.dtype.kind != "f":  # as the type stores it: two's complement wraps
            padding = np.array(padding % 2**64, np.uint64).astype(stored.dtype)
        is_padding = (stored == padding) | (values == padding)
        if is_padding.any():
            self.padding[k] = np.packbits(is_padding)

    def fill_padding(self, buffer: npt.NDArray[Any]) -> Iterator[Finding]:
        """Set padding to the smallest real value (P05)."""
        if not self.padding:
            return
        shape = buffer.shape[1:]
        lowest, count = [], 0
        for k, plane in enumerate(buffer):
            is_padding = self._mask(k, shape)
            count += int(is_padding.sum())
            if not is_padding.all():
                lowest.append(plane[~is_padding].min())
        if not lowest:
            raise Refused.because("P11", "The whole image is padding: export it again.")
        smallest = min(lowest)
        for k in self.padding:
            buffer[k][self._mask(k, shape)] = smallest
            self.ranges[k] = _span(buffer[k])
        share = count / buffer.size
        outcome = Outcome.WARNED if share > _MOSTLY else Outcome.FIXED
        padding = f"{count} voxels ({share:.1%}) are padding"
        message = f"{padding} and were set to the smallest real value, {smallest:g}."
        yield Finding("P05", outcome, message)

    def _mask(self, k: int, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        if k not in self.padding:
            return np.zeros(shape, bool)
        size = math.prod(shape)
        return np.unpackbits(self.padding[k], count=size).astype(bool).reshape(shape)

    def constant_slices(self) -> Iterator[Finding]:
        """Refuse a volume of one value; name inner slices of one value (P11)."""
        low, high = self.span
        if low == high:
            raise Refused.because(
                "P11", f"Every voxel of the image is {low:g}: export it again."
            )
        varied = np.flatnonzero([low != high for low, high in self.ranges])
        inside = np.arange(varied[0], varied[-1] + 1)
        constant = np.setdiff1d(inside, varied)
        if len(constant):
            named = ", ".join(map(str, constant[:5]))
            flat = counted(len(constant), "slice", ("holds", "hold"))
            yield warning("P11", f"{flat} one value only, inside the stack: {named}.")


def _span(plane: npt.NDArray[Any]) -> tuple[float, float]:
    return float(plane.min()), float(plane.max())


def _narrowed(buffer: npt.NDArray[Any], span: tuple[float, float]) -> npt.NDArray[Any]:
    """Return the values as int16 if they all fit, otherwise unchanged."""
    limits = np.iinfo(np.int16)
    if buffer.dtype == np.int16 or span[0] < limits.min or limits.max < span[1]:
        return buffer
    if buffer.dtype == np.uint16:
        return buffer.view(np.int16)
    if buffer.dtype.kind == "f" and any((p != np.rint(p)).any() for p in buffer):
        return buffer
    return buffer.astype(np.int16)
