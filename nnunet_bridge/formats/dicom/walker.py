"""Read a few elements of a plain DICOM file quickly, without pydicom.

Most files are explicit VR little endian and hold one uncompressed frame. Every element
states its length, so that a reader can step from one to the next and keep the few that
it needs (PS3.5 section 7.1). That takes about 1 ms a file, a twentieth of pydicom's
time. Anything that is not exactly such a file raises `Unusual`: it may be sound, but
pydicom has to read it. A test holds both readers against each other.
"""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from struct import Struct, calcsize, error, unpack
from typing import Any, TypeAlias

from nnunet_bridge.formats.system import BINARY, read_at

Raw: TypeAlias = bytes
"""The two letters of a value representation, then the value as it is stored."""

PLAIN_SYNTAX = "1.2.840.10008.1.2.1"
SYNTAX_TAG, CHARSET_TAG = 0x00020010, 0x00080005

_WINDOW_BYTES = 8192
_LONGEST_VALUE = 1024
_LONGEST_RUN = 8
"""Elements in a remembered run; short, as one that changes spoils its whole run."""

_DEEPEST = 16
_SEQUENCE_BYTES = (1 << 14, 1 << 22)
"""Usual and most bytes of a sequence of undefined length."""
_PREAMBLE_BYTES = 128
_PIXEL_GROUP, _PIXEL_TAG = 0x7FE0, 0x7FE00010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_HEAD, _LENGTH, _ITEM_HEAD = Struct("<HH2sH"), Struct("<I"), Struct("<HHI")
_HEAD_BYTES = 12
"""Longest head of an element: tag, representation, two reserved bytes, length."""

_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""Value representations whose length has four bytes, after two that are reserved."""

_SHORT = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
)
"""Value representations whose length has two bytes."""

_ALL = _LONG | _SHORT

_ASCII_CHARSETS = frozenset({b"ISO_IR 6", b"ISO_IR 100", b"ISO_IR 192", b""})
"""Character sets in which plain ASCII means itself."""

_TEXT = re.compile(rb"[\x20-\x7e]*")
_WHOLE = re.compile(r" *[+-]?\d{1,9} *")
_DECIMAL = re.compile(r" *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})? *")


class Unusual(Exception):  # noqa: N818 - it is a verdict, not an error
    """The file, or one of its values, needs pydicom."""


@dataclass(frozen=True, slots=True)
class Walked:
    """The wanted elements of one file, and the place of its pixels."""

    raw: Mapping[int, Raw]  # tag -> stored value of every wanted element in the file
    offset: int  # first byte of the pixels in the file
    length: int  # length of the pixels in bytes, as their element states it
    available: int  # bytes from the offset to the end of the file


@dataclass(slots=True)
class Walker:
    """Reads the files of one folder.

    The files of a series are alike, and most of their elements are not wanted. The
    walker remembers runs of unwanted elements, byte for byte. Where the next file holds
    the same bytes, it steps over the whole run at once.
    """

    wanted: frozenset[int]  # the tags to read
    _runs: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    """First tag of a run -> its bytes and its last tag."""

    def walk(self, file: Path) -> Walked:
        """Return the wanted values of a file.

        Raises `Unusual` if anything is not as it is in a plain file. Raises `OSError`
        if the file cannot be opened or read.
        """
        descriptor = os.open(file, os.O_RDONLY | BINARY)
        try:
            return self._walk(descriptor)
        finally:
            os.close(descriptor)

    # How `_walk` works. The file is read in windows: `base` is the place of the window
    # in the file, `at` the place of the present element in the window. The elements
    # follow the preamble and the letters DICM, in ascending order. For each of them:
    #
    # 1. Move the window if the head may not lie in it completely. A run cannot be
    #    recorded across two windows, so drop it.
    # 2. Read the head. Tags ascend in a sound file; in another order one element could
    #    hide behind another.
    # 3. Close the open run before a wanted element or the pixels, or when it is long
    #    enough. Its bytes end where this element begins.
    # 4. At the first of several unwanted elements, step over the run that an earlier
    #    file began with the same tag, if all its bytes are the same here. Otherwise
    #    open a new run.
    # 5. Find the value. The length has two bytes for some representations and four for
    #    the others; an unknown representation means implicit VR.
    # 6. Keep a wanted value; stop at the pixels.
    # 7. Go to the next element. Only a sequence may leave its length undefined; then
    #    its items lead to its end.
    #
    # The pixels must be one element of known length, not encapsulated, not of floats.
    def _walk(  # noqa: C901, PLR0912, PLR0915 - one loop, run for every element
        self, file: int
    ) -> Walked:
        window, base, at = read_at(file, _WINDOW_BYTES, 0), 0, _PREAMBLE_BYTES + 4
        if window[_PREAMBLE_BYTES:at] != b"DICM":
            raise Unusual
        raw: dict[int, Raw] = {}
        wanted, runs, last = self.wanted, self._runs, 0
        # The open run: first tag, place in the window (-1: none), number of elements.
        run_tag, run_at, run_length = 0, -1, 0
        while True:
            if len(window) < at + _HEAD_BYTES:  # 1
                base, at, run_at = base + at, 0, -1
                window = read_at(file, _WINDOW_BYTES, base)
                if len(window) < _HEAD_BYTES:
                    raise Unusual
            group, element, kind, length = _HEAD.unpack_from(window, at)  # 2
            tag = group << 16 | element
            if tag <= last:
                raise Unusual
            unwanted = tag not in wanted and group != _PIXEL_GROUP  # 3
            if run_at >= 0 and not (unwanted and run_length < _LONGEST_RUN):
                runs[run_tag] = (window[run_at:at], last)
                run_at = -1
            if unwanted and run_at < 0:  # 4
                known = runs.get(tag)
                if known is not None and window.startswith(known[0], at):
                    at, last = at + len(known[0]), known[1]
                    continue
                run_tag, run_at, run_length = tag, at, 0
            run_length += 1
            last = tag
            if kind in _SHORT:  # 5
                begin = at + 8
            elif kind in _LONG:
                begin = at + _HEAD_BYTES
                length = _LENGTH.unpack_from(window, at + 8)[0]
            else:
                raise Unusual
            if tag in wanted:  # 6
                raw[tag] = kind + _value(file, window, base, begin, length)
            elif group == _PIXEL_GROUP:
                break
            if length == _UNDEFINED:  # 7
                if kind != b"SQ":
                    raise Unusual
                begin, length = at, _size_of_sequence(file, base + at, tag)
            at = begin + length
        if tag != _PIXEL_TAG or kind not in (b"OW", b"OB") or length == _UNDEFINED:
            raise Unusual
        _check_text(raw)
        available = os.fstat(file).st_size - base - begin
        return Walked(raw, base + begin, length, max(0, available))


def walk_elements(  # noqa: C901 - two loops, run for every element
    content: bytes, names: Mapping[int, str], stop: int
) -> tuple[dict[str, Any], int]:
    """Return the elements that `names` names, and where the first tag from `stop` is.

    The value of a sequence is a list of items of the same form.

    Raises `Unusual`, or `struct.error` where the content ends.
    """

    def item(at: int, end: int, depth: int) -> tuple[dict[str, Any], int]:
        found, last = dict[str, Any](), 0
        while at != end:
            group, element, kind, length = _HEAD.unpack_from(content, at)
            tag = group << 16 | element
            if tag == _ITEM_END or (not depth and tag >= stop):
                return found, at + 8 * bool(depth)
            begin = at + 8
            if kind in _LONG:
                begin, length = at + 12, _LENGTH.unpack_from(content, begin)[0]
            if kind not in _ALL or tag <= last or 0 <= end < at:
                raise Unusual
            last, value, at = tag, None, begin + length
            if kind == b"SQ":
                value, at = sequence(begin, length, depth + 1)
            elif tag in names:
                value = _converted(kind + content[begin:at])
            if tag in names:
                found[names[tag]] = value
        return found, at

    def sequence(at: int, length: int, depth: int) -> tuple[list[Any], int]:
        items, end = [], _end(at, length)
        while at != end:
            group, element, size = _ITEM_HEAD.unpack_from(content, at)
            tag, at = group << 16 | element, at + 8
            if tag == _SEQUENCE_END and end < 0:
                break
            if tag != _ITEM or depth > _DEEPEST or 0 <= end < at:
                raise Unusual
            one, at = item(at, _end(at, size), depth)
            items.append(one)
        return items, at

    return item(0, -1, 0)


def _size_of_sequence(file: int, at: int, tag: int) -> int:
    for most in _SEQUENCE_BYTES:
        with suppress(error):
            return walk_elements(read_at(file, most, at), {}, tag + 1)[1]
    raise Unusual


def _end(at: int, length: int) -> int:
    return -1 if length == _UNDEFINED else at + length


def convert_all(raw: Mapping[int, Raw], names: Mapping[int, Any]) -> dict[Any, Any]:
    """Return the values by name, as pydicom would; raise `Unusual` where it must."""
    return {names[tag]: convert(stored) for tag, stored in raw.items()}


def convert(raw: Raw) -> Any:  # noqa: ANN401 - what it is depends on its representation
    r"""Convert a stored value to text, a number, a list of them, or None.

    Examples
    --------
    >>> convert(b"DS0.75\\1.5 "), convert(b"US\x00\x02"), convert(b"LOWATER ")
    ([0.75, 1.5], 512, 'WATER')

    Raises `Unusual` if the value has an uncommon form that pydicom may understand.
    """
    read = _READERS.get(raw[:2])
    if read is None:
        raise Unusual
    return read(raw[2:])


def _text(stored: bytes) -> str | None:
    stripped = stored.rstrip(b" \0")
    if b"\\" in stripped or not _TEXT.fullmatch(stripped):
        raise Unusual
    return stripped.decode("ascii") or None


def _words(stored: bytes) -> str | list[str] | None:
    stripped = stored.rstrip(b" \0")
    if not _TEXT.fullmatch(stripped):
        raise Unusual
    return _one_or_all(stripped.decode("ascii").split("\\")) if stripped else None


def _numbers(form: re.Pattern[str], number: Callable[[str], Any], stored: bytes) -> Any:  # noqa: ANN401 - one number or several
    stripped = stored.rstrip(b" \0")
    if not stripped:
        return None
    parts = stripped.decode("latin-1").split("\\")
    if not all(map(form.fullmatch, parts)):
        raise Unusual
    return _one_or_all([number(part) for part in parts])


def _one_or_all(parts: list[Any]) -> Any:  # noqa: ANN401 - likewise
    return parts[0] if len(parts) == 1 else parts


def _binary(form: str, stored: bytes) -> Any:  # noqa: ANN401 - whole or not
    if not stored:
        return None
    if len(stored) != calcsize(form):
        raise Unusual
    return unpack(form, stored)[0]


_FORMS = {b"US": "<H", b"SS": "<h", b"UL": "<L", b"FL": "<f", b"FD": "<d"}
_converted = lru_cache(4096)(convert)
_READERS: dict[bytes, Callable[[bytes], Any]] = {
    **dict.fromkeys((b"UI", b"LO", b"DA"), _text),
    b"CS": _words,
    b"IS": partial(_numbers, _WHOLE, int),
    b"DS": partial(_numbers, _DECIMAL, float),
    **{kind: partial(_binary, form) for kind, form in _FORMS.items()},
}


def _value(file: int, window: bytes, base: int, begin: int, length: int) -> bytes:
    """Return `length` bytes of the file, from the window if they are in it."""
    if length > _LONGEST_VALUE:
        raise Unusual
    value = window[begin : begin + length]
    return value if len(value) == length else _exactly(file, length, base + begin)


def _check_text(raw: Mapping[int, Raw]) -> None:
    """Require the plain syntax, and a character set that contains ASCII unchanged."""
    if raw.get(SYNTAX_TAG, b"").rstrip(b" \0") != b"UI" + PLAIN_SYNTAX.encode():
        raise Unusual
    if raw.get(CHARSET_TAG, b"CS")[2:].strip(b" \0") not in _ASCII_CHARSETS:
        raise Unusual


def _exactly(file: int, count: int, at: int) -> bytes:
    """Return `count` bytes of the file; fewer are left only in an unusual file."""
    found = read_at(file, count, at)
    if len(found) < count:
        raise Unusual
    return found
