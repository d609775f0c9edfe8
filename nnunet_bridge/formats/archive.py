"""Open zip archives from outside after a check of their listing.

A zip may hold names that climb out of the folder, links, two entries of one name, or a
gigabyte in a thousand bytes. So three gates follow one another, each before the next
larger read: the size of the listing, the listing itself, then content in blocks up to
the declared size (FAULTS S04, S06, S08).
"""

import contextlib
import errno
import hashlib
import re
import shutil
import stat
import struct
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nnunet_bridge.core.errors import BridgeError, SecurityError
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.units import format_bytes
from nnunet_bridge.formats.files import clear_os_errors, open_to_write

_BLOCK_BYTES = 1 << 20
_END, _END_BYTES = b"PK\x05\x06", 22
_LOCATOR, _LOCATOR_BYTES = b"PK\x06\x07", 20
_END_64, _END_64_BYTES = b"PK\x06\x06", 56
_LONGEST_COMMENT = 1 << 16
_ENCRYPTED = 0x1
_DRIVE = re.compile(r"[A-Za-z]:")
_LONGEST_NAME = 120


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """Limits for the size of an archive and of its content."""

    entries: int = 64
    total_bytes: int = 20 << 30  # of all entries together, once unpacked
    directory_bytes: int = 256 << 10  # of the listing itself
    ratio: int = 20
    """Largest ratio of content to packed bytes; weights hardly shrink, images to a
    third."""

    always_bytes: int = 4 << 20
    """Entries below this size may have any ratio, as text does."""

    at_start: bool = True
    """Whether the first entry must begin with the file: what lies before it can be a
    second archive, which another reader would take."""


@dataclass(frozen=True, slots=True)
class Archive:
    """An open zip whose listing has passed the check."""

    called: str  # its name in messages
    entries: tuple[zipfile.ZipInfo, ...]  # its files; folders are left out
    _zip: zipfile.ZipFile

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every file in it."""
        return tuple(entry.filename for entry in self.entries)

    @property
    def size_bytes(self) -> int:
        """Size of all files together, once unpacked."""
        return sum(entry.file_size for entry in self.entries)

    def read(self, name: str, *, most_bytes: int) -> bytes:
        """Return the content of an entry of at most so many bytes (S07, S08)."""
        entry = self._zip.getinfo(name)
        if entry.file_size > most_bytes:
            size = entry.file_size
            reason = f"{quoted(name)} has {size} bytes, {most_bytes} are allowed"
            raise _refusal(self.called, reason, "S07")
        with _damage_is_refused(self.called):
            content = self._zip.read(entry)
            _require_size(len(content), entry)
        return content

    def unpack(self, name: str, target: Path) -> str:
        """Write the content of an entry to `target`; return its SHA-256 (S08)."""
        digest = hashlib.sha256()
        with (
            clear_os_errors(f"write {target}"),
            open_to_write(target, "xb") as out,
            _damage_is_refused(self.called),
            self._zip.open(name) as stream,
        ):
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
                out.write(block)
            _require_size(out.tell(), self._zip.getinfo(name))
        return digest.hexdigest()


@contextlib.contextmanager
def open_archive(
    file: Path, limits: ArchiveLimits | None = None, *, called: str = ""
) -> Iterator[Archive]:
    """Open a zip from outside if nothing in its listing could do harm.

    Messages name it `called`, by default its path.

    Raises
    ------
    SecurityError
        S04: a name that leaves the folder, a link, an encrypted entry, two entries of
        one name. S06: more entries or bytes than the limits allow, or content that
        shrank more than weights or images do. S08: not a zip, or a damaged one.
    """
    allowed = limits or ArchiveLimits()
    name = called or str(file)
    with contextlib.ExitStack() as stack:
        with clear_os_errors(f"read {file}"), _damage_is_refused(name):
            _check_directory_size(file, name, allowed)
            archive = stack.enter_context(zipfile.ZipFile(file))
            entries = archive.infolist()
            _check_listing(name, entries, allowed)
            _check_sizes(name, entries, allowed, archive_bytes=file.stat().st_size)
            if allowed.at_start and min((e.header_offset for e in entries), default=0):
                raise _refusal(name, "something lies before its first entry", "S04")
        files = tuple(entry for entry in entries if not entry.is_dir())
        yield Archive(name, files, archive)


def write_archive(target: Path, contents: Mapping[str, bytes | Path]) -> None:
    """Write a zip whose bytes depend on its contents only.

    Names are sorted, and no time, user or machine is recorded. Nothing is compressed,
    because weights do not shrink.
    """
    with (
        clear_os_errors(f"write {target}"),
        open_to_write(target) as stream,
        zipfile.ZipFile(stream, "w") as archive,
    ):
        for name in sorted(contents):
            content = contents[name]
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            if isinstance(content, bytes):
                archive.writestr(entry, content)
                continue
            entry.file_size = content.stat().st_size
            with content.open("rb") as source, archive.open(entry, "w") as out:
                shutil.copyfileobj(source, out, _BLOCK_BYTES)


@contextlib.contextmanager
def _damage_is_refused(called: str) -> Iterator[None]:
    """Turn any exception that a damaged zip causes into one refusal."""
    try:
        yield
    except BridgeError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        reason = f"it is damaged or not a zip ({error})"
        raise _refusal(called, reason, "S08") from error


def _require_size(size: int, entry: zipfile.ZipInfo) -> None:
    """Refuse content shorter than declared; the reader itself stops at more."""
    if size != entry.file_size:
        raise zipfile.BadZipFile(f"{size} bytes where {entry.file_size} were declared")


def _check_directory_size(file: Path, called: str, limits: ArchiveLimits) -> None:
    """Refuse a listing that is too long, before `zipfile` reads it into memory (S06).

    The end record (PK 5 6) is the last in the file, before a comment of up to 64 KiB.
    It holds the number of entries and the bytes of the listing. A large zip has a
    second record (PK 6 6) with 64-bit numbers, and a locator (PK 6 7) between the two.
    `zipfile` may use either, so both are checked, and the record at both its places:
    where the locator points, and directly before the locator.
    """
    with file.open("rb") as stream:
        length = stream.seek(0, 2)
        tail_bytes = min(length, _END_BYTES + _LONGEST_COMMENT + _LOCATOR_BYTES)
        stream.seek(length - tail_bytes)
        tail = stream.read(tail_bytes)
        # Look at the end first, then, as `zipfile` does, for the last mark before it.
        at = len(tail) - _END_BYTES
        if tail[at : at + 4] != _END or tail[-2:] != b"\0\0":
            at = tail.rfind(_END)
        if at < 0 or at + _END_BYTES > len(tail):
            raise zipfile.BadZipFile("it has no listing")
        count, size = struct.unpack_from("<HL", tail, at + 10)
        locator = tail[max(at - _LOCATOR_BYTES, 0) : at]
        if locator.startswith(_LOCATOR):
            before = length - tail_bytes + at - _LOCATOR_BYTES - _END_64_BYTES
            if limits.at_start and struct.unpack_from("<Q", locator, 8) != (before,):
                raise zipfile.BadZipFile("it has two end records")
            for place in (before, *struct.unpack_from("<Q", locator, 8)):
                large = _counts_of_64(stream, min(max(place, 0), length))
                count, size = max(count, large[0]), max(size, large[1])
    if count > limits.entries:
        reason = f"it holds {count} entries, and {limits.entries} are allowed"
        raise _refusal(called, reason, "S06")
    if size > limits.directory_bytes:
        allowed = limits.directory_bytes
        reason = f"its listing takes {size} bytes, and {allowed} are allowed"
        raise _refusal(called, reason, "S06")


def _counts_of_64(stream: BinaryIO, place: int) -> tuple[int, int]:
    """Return entries and bytes by the record of a large zip; zeros without one."""
    stream.seek(place)
    record = stream.read(_END_64_BYTES)
    if len(record) < _END_64_BYTES or not record.startswith(_END_64):
        return 0, 0
    count, size = struct.unpack_from("<QQ", record, 32)
    return int(count), int(size)


def _check_listing(
    called: str, entries: Sequence[zipfile.ZipInfo], limits: ArchiveLimits
) -> None:
    """Refuse entries by name and kind; names must differ in more than case (S04)."""
    if len(entries) > limits.entries:
        raise _refusal(called, "it holds too many entries", "S06")
    seen: set[str] = set()
    for entry in entries:
        name = entry.orig_filename
        fault = _fault_of_name(name) or _fault_of_kind(entry)
        alike = unicodedata.normalize("NFC", name).casefold().rstrip("/")
        if not fault and alike in seen:
            fault = "has the name of another entry, or one that differs in case only"
        if fault:
            raise _refusal(called, f"its entry {_short(name)} {fault}", "S04")
        seen.add(alike)


def _check_sizes(
    called: str,
    entries: Sequence[zipfile.ZipInfo],
    limits: ArchiveLimits,
    archive_bytes: int,
) -> None:
    """Refuse entries by the size that they claim to unpack to (S06)."""
    total = sum(entry.file_size for entry in entries)
    if total > limits.total_bytes:
        most = format_bytes(limits.total_bytes)
        reason = f"it would unpack to {format_bytes(total)}, and {most} are allowed"
        raise _refusal(called, reason, "S06")
    if sum(entry.compress_size for entry in entries) > archive_bytes:
        raise _refusal(called, "its entries overlap in the file", "S06")
    for entry in entries:
        packed, size = entry.compress_size, entry.file_size
        if size > max(limits.always_bytes, limits.ratio * packed):
            shrank = f"would unpack from {packed} to {size} bytes"
            reason = f"{_short(entry.filename)} {shrank}, more than real content does"
            raise _refusal(called, reason, "S06")


def _fault_of_name(name: str) -> str:
    """Return the fault in the name of an entry; empty without one."""
    if not name.strip("/") or not name.isprintable():
        return "has no printable name"
    if "\\" in name:
        return "has a backslash in its name"
    if name.startswith("/") or _DRIVE.match(name):
        return "names a place outside the folder it is unpacked to"
    if {".", ".."} & set(name.split("/")) or "//" in name:
        return "climbs out of the folder it is unpacked to"
    return ""


def _fault_of_kind(entry: zipfile.ZipInfo) -> str:
    """Return the fault in the kind of an entry; empty without one."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, not a file"
    if entry.flag_bits & _ENCRYPTED:
        return "is encrypted (unpack it yourself)"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in another way than a zip's own (deflate)"
    if entry.is_dir() and entry.file_size:
        return "is a folder with content"
    return ""


def _short(name: str) -> str:
    """Quote a name for a message, at most `_LONGEST_NAME` characters of it."""
    ending = "..." if len(name) > _LONGEST_NAME else ""
    return quoted(name[:_LONGEST_NAME] + ending)


def _refusal(called: str, reason: str, code: str) -> SecurityError:
    return SecurityError(f"{called} is refused: {reason}.", code=code)
