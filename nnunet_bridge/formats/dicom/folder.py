"""Find the slices in a folder; account for every file: used, excluded or failed.

Files are known by content, not by name. An index (DICOMDIR) is never followed, nor is a
link to a folder, nor a link that leaves the folder, but to the content of git-annex
(FAULTS D13, D14, F01).
"""

import hashlib
import os
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.findings import Finding, Outcome, warning
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.units import counted
from nnunet_bridge.formats.dicom.headers import (
    EMPTY,
    Damaged,
    HeaderReader,
    NotUsed,
    SliceHeader,
    open_dicom,
)
from nnunet_bridge.formats.dicom.identifiers import believable
from nnunet_bridge.formats.files import is_regular

_SLICE_SUFFIXES = {"", ".dcm", ".ima"}
_LINK = "link that is not followed"


@dataclass(frozen=True, slots=True)
class FileAccount:
    """The use of every file in a folder; names are relative to it."""

    used: tuple[str, ...] = ()
    excluded: tuple[tuple[str, str], ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    """Of files that are excluded or failed: name and reason."""

    @property
    def found(self) -> int:
        """Number of files in the folder: the sum of the three kinds."""
        return len(self.used) + len(self.excluded) + len(self.failed)


@dataclass(slots=True)
class Scan:
    """The slices of a folder while they are being chosen."""

    headers: list[SliceHeader] = field(default_factory=list)
    excluded: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    left_out: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Code and reason -> names of the files that hold no slice."""

    def note(self, code: str, outcome: Outcome, message: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(code, outcome, message))

    def exclude(self, headers: list[SliceHeader], reason: str) -> None:
        """Remove slices; files without any other slice become excluded."""
        gone = set(map(id, headers))
        self.headers = [header for header in self.headers if id(header) not in gone]
        still_there = {header.name for header in self.headers}
        for header in headers:
            if header.name not in still_there:
                self.excluded[header.name] = reason

    def account(self) -> FileAccount:
        """Return the use of every file, sorted by name."""
        used = {header.name for header in self.headers}
        excluded, failed = sorted(self.excluded.items()), sorted(self.failed.items())
        return FileAccount(tuple(sorted(used)), tuple(excluded), tuple(failed))


def scan_folder(folder: Path, leave_out: Collection[Path] = ()) -> Scan:
    """Return the slices in `folder` and below, sorted by name; or those of one file.

    Files and folders in `leave_out` are not looked at.

    Raises `InputError` if there is no such folder or file.
    """
    if not folder.exists():
        raise InputError(f"{folder} is not a folder.")
    scan = Scan()
    reader = HeaderReader()
    # The checks of the headers replace pydicom's warnings.
    with warnings.catch_warnings(action="ignore"):
        for name, file in sorted(_files(folder, scan.excluded, leave_out)):
            _take(scan, reader, file, name)
    links = [name for name, reason in scan.excluded.items() if reason == _LINK]
    if links:
        scan.left_out["F01", _LINK] = links
    scan.findings += _about_other_files(scan)
    scan.headers = believable(scan.headers)
    _drop_copies(scan)
    return scan


def _files(
    folder: Path, excluded: dict[str, str], leave_out: Collection[Path]
) -> Iterator[tuple[str, Path]]:
    """Yield the regular files; record the links that are not followed."""
    if folder.is_file():
        yield folder.name, folder
    root = folder.resolve()
    # git-annex keeps the content of files in the repository, behind links.
    stores = (parent / ".git" / "annex" / "objects" for parent in (root, *root.parents))
    roots = [root, *(store for store in stores if store.is_dir())]
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if Path(parent, name) not in leave_out]
        for name in [*folders, *names]:
            path = Path(parent, name)
            if path in leave_out:
                continue
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink() and not _stays_inside(path, roots):
                excluded[relative] = _LINK
            elif is_regular(path):
                yield relative, path
            elif name in names:
                excluded[relative] = "not a regular file"


def is_in_annex(link: Path) -> bool:
    """Whether a link leads to the content of a file of git-annex."""
    return "/.git/annex/objects/" in link.resolve().as_posix()


def _stays_inside(link: Path, roots: list[Path]) -> bool:
    """Whether a link leads to a file inside one of `roots`."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        return False
    return target.is_file() and any(map(target.is_relative_to, roots))


def _take(scan: Scan, reader: HeaderReader, file: Path, name: str) -> None:
    try:
        scan.headers += reader.read(file, name)
    except NotUsed as reason:
        scan.excluded[name] = str(reason)
        scan.left_out.setdefault((reason.code, str(reason)), []).append(name)
    except Damaged as reason:
        scan.failed[name] = str(reason)
        damage = f"{quoted(name)} is damaged: {reason}. Copy or export it again."
        scan.note(reason.code, Outcome.REFUSED, damage)
    except OSError as error:
        scan.failed[name] = f"cannot be read ({error.strerror})"
        unread = f"{quoted(name)} cannot be read: {error.strerror}."
        scan.note("P10", Outcome.REFUSED, unread)


def _about_other_files(scan: Scan) -> Iterator[Finding]:
    """Name the files without a slice (D03, D13, D14); warn of empty ones."""
    for (code, reason), names in sorted(scan.left_out.items()):
        empty = [Path(name) for name in names if reason == EMPTY]
        like_slices = (p for p in empty if p.suffix.lower() in _SLICE_SUFFIXES)
        lost = [str(path) for path in like_slices if not path.name.startswith(".")]
        if lost:
            yield warning(
                "D14",
                f"{counted(len(lost), 'file', ('is', 'are'))} empty, the first is "
                f"{quoted(lost[0])}: copy the folder again if they were slices.",
            )
        else:
            first = f"the first is {quoted(names[0])}"
            message = f"{counted(len(names), 'file')} left out ({reason}), {first}."
            yield Finding(code, Outcome.ACCEPTED, message)


def _drop_copies(scan: Scan) -> None:
    """Keep one of several copies of an instance; refuse two that differ (D07)."""
    kept: dict[tuple[str, int], SliceHeader] = {}
    copies: list[SliceHeader] = []
    for header in sorted(scan.headers, key=lambda header: (header.name, header.frame)):
        if not header.identity.instance:
            continue
        first = kept.setdefault((header.identity.instance, header.frame), header)
        if first is header:
            continue
        if _pixel_hash(first) == _pixel_hash(header):
            copies.append(header)
        else:
            scan.note(
                "D07",
                Outcome.REFUSED,
                f"{quoted(first.name)} and {quoted(header.name)} claim to be the "
                "same instance, but their pixels differ: remove the wrong one.",
            )
    if copies:
        scan.exclude(copies, "copy of another file")
        twice = f"{counted(len(copies), 'slice', ('exists', 'exist'))} twice"
        which = f"the first is {quoted(copies[0].name)}"
        scan.note("D07", Outcome.FIXED, f"{twice}, {which}; one copy of each is used.")


def _pixel_hash(header: SliceHeader) -> bytes:
    """Return a hash of the stored pixels, or of the file where pydicom decodes them."""
    with open_dicom(header.file) as stream:
        stream.seek(max(header.pixels.offset, 0))
        stored = stream.read(header.pixels.length)
    return hashlib.sha256(stored).digest()
