"""Unpack a zip of DICOM or NIfTI files after its listing has been checked.

A zip from outside may hold names that leave the folder, links, or content that unpacks
to far more than images do (FAULTS S04, S06, S08).
"""

from pathlib import Path

from nnunet_bridge.core.errors import EnvironmentFault, InputError, SecurityError
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.units import format_bytes
from nnunet_bridge.formats.archive import Archive, ArchiveLimits, open_archive
from nnunet_bridge.formats.files import clear_os_errors, free_bytes

ZIP_ENDING = ".zip"
_RATIO = 100
"""Most that a zip may shrink its content. Pixels shrink to a third, air to less."""

_ALWAYS_BYTES = 256 << 20
_MOST_BYTES = 20 << 30
_LEFT_BEHIND = "__MACOSX/"  # folder that macOS adds to its zips; it holds no images


def is_zip(path: Path) -> bool:
    """Whether a path is named like a zip."""
    return path.name.lower().endswith(ZIP_ENDING)


def unpack_scans(file: Path, target: Path) -> None:
    """Unpack a zip into `target`, which must not exist yet.

    Raises
    ------
    SecurityError
        If the zip could do harm (S04, S06, S08); nothing is unpacked.
    InputError
        If it is empty.
    EnvironmentFault
        If the disk has too little space (F06).
    """
    total = min(max(_RATIO * file.stat().st_size, _ALWAYS_BYTES), _MOST_BYTES)
    limits = ArchiveLimits(
        entries=200_000,
        total_bytes=total,
        directory_bytes=64 << 20,
        ratio=_RATIO,
        at_start=False,
    )
    with open_archive(file, limits) as archive:
        names = [n for n in archive.names if not n.startswith(_LEFT_BEHIND)]
        if not names:
            raise InputError(f"{file} is empty: it should hold DICOM files.")
        _refuse_files_as_folders(archive)
        needed, free = archive.size_bytes, free_bytes(target)
        if free < needed:
            raise EnvironmentFault(
                f"Unpacking {file} needs {format_bytes(needed)}, but "
                f"{format_bytes(free)} are free in {target.parent}: free some space.",
                code="F06",
            )
        with clear_os_errors(f"unpack {file}"):
            target.mkdir(parents=True)
            for name in names:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
        for name in names:
            archive.unpack(name, target / name)


def _refuse_files_as_folders(archive: Archive) -> None:
    """Refuse an entry that is a file and also the folder of another entry."""
    files = {name.casefold() for name in archive.names}
    for name in archive.names:
        parents = [str(parent).casefold() for parent in Path(name).parents]
        if files.intersection(parents):
            folder = f"the folder of its entry {quoted(name)} is also a file"
            raise SecurityError(f"{archive.called} is refused: {folder}.", code="S04")
