"""A zip of DICOM or NIfTI files, unpacked only after its listing has passed.

What holds for a model from elsewhere holds for images from elsewhere: no name that
leaves the folder, no link, no bomb (FAULTS S04, S06, S08).
"""

from __future__ import annotations

from pathlib import Path

from nnunet_bridge.core.errors import EnvironmentFault, InputError, SecurityError
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.units import format_bytes
from nnunet_bridge.formats.archive import Archive, ArchiveLimits, open_archive
from nnunet_bridge.formats.files import clear_os_errors, free_bytes

ZIP_ENDING = ".zip"
_RATIO = 100
"""Pixels shrink to a third; a slice of air shrinks more, a whole scan never so far."""

_ALWAYS_BYTES = 256 << 20
_MOST_BYTES = 20 << 30
_LEFT_BEHIND = "__MACOSX/"
"""What macOS adds to its zips: no images."""


def is_zip(path: Path) -> bool:
    """Whether a path is named like a zip."""
    return path.name.lower().endswith(ZIP_ENDING)


def unpack_scans(file: Path, target: Path) -> None:
    """Write the files of a zip below `target`, which must not be there yet.

    Raises
    ------
    SecurityError
        S04, S06, S08: if the zip could do harm; nothing of it is read then.
    InputError
        If it holds no file.
    EnvironmentFault
        If there is too little room (F06).
    """
    total = min(max(_RATIO * file.stat().st_size, _ALWAYS_BYTES), _MOST_BYTES)
    limits = ArchiveLimits(
        entries=200_000, total_bytes=total, directory_bytes=64 << 20, ratio=_RATIO
    )
    with open_archive(file, limits) as archive:
        names = [n for n in archive.names if not n.startswith(_LEFT_BEHIND)]
        if not names:
            raise InputError(f"{file} is empty: it should hold DICOM files.")
        _refuse_files_as_folders(archive)
        _require_space(archive, file, target)
        with clear_os_errors(f"unpack {file}"):
            target.mkdir(parents=True)
            for name in names:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
        for name in names:
            archive.unpack(name, target / name)


def _refuse_files_as_folders(archive: Archive) -> None:
    """Refuse an entry that is a file and the folder of another one."""
    files = {name.casefold() for name in archive.names}
    for name in archive.names:
        parents = [str(parent).casefold() for parent in Path(name).parents]
        if files.intersection(parents):
            raise SecurityError(
                f"{archive.called} is refused: a folder of its entry {quoted(name)} is "
                "a file at the same time.",
                code="S04",
            )


def _require_space(archive: Archive, file: Path, target: Path) -> None:
    free = free_bytes(target)
    if free < archive.size_bytes:
        raise EnvironmentFault(
            f"Unpacking {file} needs {format_bytes(archive.size_bytes)}, but "
            f"{format_bytes(free)} are free in {target.parent}: free some space.",
            code="F06",
        )
