"""Compare the size that a compressed frame states with Rows and Columns (S07).

A decoder allocates what the code stream asks for, and a thousand bytes can ask for
gigabytes. So the stream's own header is read first, for every kind of compression that
can be decoded. `require_size` needs a few microseconds, for RLE a millisecond.
"""

import struct
from itertools import pairwise

_RLE = "1.2.840.10008.1.2.5"
_JPEG_2000 = b"\xff\x4f\xff\x51"  # start of a code stream, and of its SIZ segment
_JPEG = b"\xff\xd8"
_SOS = 0xDA
_NO_SIZE = {0xC4, 0xC8, 0xCC}
"""JPEG's segments among those of sizes (C0 to CF) that hold none."""

_JPEG_LS = 0xF7
_MOST_TILES = 4096


class WrongSize(ValueError):  # noqa: N818 - a verdict on a stream
    """The stream states another size than the header, or one that is absurd."""


def require_size(frame: bytes, syntax: str, rows: int, columns: int) -> None:
    """Refuse a compressed frame that is not of `rows` x `columns` pixels of one sample.

    Raises `WrongSize`.
    """
    if syntax == _RLE:
        _require_segments(frame, rows * columns)
        return
    start = frame.find(_JPEG_2000)
    if start >= 0:
        found, samples = _size_of_jpeg_2000(frame[start + 4 :])
    elif frame.startswith(_JPEG):
        found, samples = _size_of_jpeg(frame)
    else:
        raise WrongSize("its code stream has no header")
    if (*found, samples) != (rows, columns, 1):
        stated = f"its code stream states {found[0]} x {found[1]} x {samples} pixels"
        raise WrongSize(f"{stated}, its header {rows} x {columns}")


def _size_of_jpeg(frame: bytes) -> tuple[tuple[int, int], int]:
    """Return (rows, columns) and samples of a JPEG or JPEG-LS (ITU T.81 B.2.2)."""
    at = 2
    while at + 10 <= len(frame):
        mark, kind, length = struct.unpack_from(">BBH", frame, at)
        if mark != 0xFF or kind == _SOS:  # noqa: PLR2004 - each segment begins with it
            break
        if (kind & 0xF0 == 0xC0 and kind not in _NO_SIZE) or kind == _JPEG_LS:  # noqa: PLR2004 - C0 to CF
            rows, columns, samples = struct.unpack_from(">HHB", frame, at + 5)
            return (rows, columns), samples
        at += 1 if kind == 0xFF else 2 + length  # noqa: PLR2004 - a fill byte
    raise WrongSize("its code stream states no size")


def _size_of_jpeg_2000(stream: bytes) -> tuple[tuple[int, int], int]:
    """Return (rows, columns) and samples of a JPEG 2000 (ITU T.800 A.5.1)."""
    if len(stream) < 38:  # noqa: PLR2004 - the segment SIZ before its samples
        raise WrongSize("its code stream breaks off")
    *numbers, samples = struct.unpack_from(">8IH", stream, 4)
    right, low, left, top, tile_width, tile_height, _, _ = numbers
    rows, columns = low - top, right - left
    if tile_width * tile_height * _MOST_TILES < rows * columns:
        raise WrongSize("its code stream has too many tiles")
    return (rows, columns), samples


def _require_segments(frame: bytes, pixels: int) -> None:
    """Refuse RLE segments that unpack to more than `pixels` bytes (PS3.5 annex G)."""
    if len(frame) < 64:  # noqa: PLR2004 - the header of RLE
        raise WrongSize("its code stream breaks off")
    count, *offsets = struct.unpack_from("<16L", frame)
    ends = [*offsets[: min(count, 15)], len(frame)]
    for begin, end in pairwise(ends):
        at, unpacked = begin, 0
        while at < min(end, len(frame)) and unpacked <= pixels + 1:
            head = frame[at]
            if head < 128:  # noqa: PLR2004 - so many more bytes follow as they are
                at, unpacked = at + head + 2, unpacked + head + 1
            elif head > 128:  # noqa: PLR2004 - one byte, repeated
                at, unpacked = at + 2, unpacked + 257 - head
            else:
                at += 1
        if unpacked > pixels + 1:  # one byte may fill up to an even length
            raise WrongSize(f"an RLE segment unpacks to more than {pixels} bytes")
